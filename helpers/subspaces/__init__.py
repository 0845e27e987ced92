"""The arithmetic of directions: how much subspaces share, and what chance would have given. Knows arrays.

`study` and `atlas` alone ask `weights` for matrices.
"""

from helpers.subspaces.atlas import collect, own_layers, pairings
from helpers.subspaces.directions import (
    FULL_SVD_SIZE,
    Directions,
    decompose,
    factor_directions,
    low_rank_directions,
    top_directions,
)
from helpers.subspaces.similarity import (
    Amplification,
    amplification,
    choose_pairs,
    choose_window,
    cumulative_phi,
    phi,
    similarity_grid,
)
from helpers.subspaces.study import Similarity, random_adapter

__all__ = [
    "FULL_SVD_SIZE",
    "Amplification",
    "Directions",
    "Similarity",
    "amplification",
    "choose_pairs",
    "choose_window",
    "collect",
    "cumulative_phi",
    "decompose",
    "factor_directions",
    "low_rank_directions",
    "own_layers",
    "pairings",
    "phi",
    "random_adapter",
    "similarity_grid",
    "top_directions",
]
