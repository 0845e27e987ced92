"""The arithmetic of directions: how much subspaces share, and what chance would have given. Knows arrays.

`inputs`, `study` and `atlas` alone ask `weights` for matrices.
"""

from helpers.subspaces.directions import (
    Directions,
    decompose,
    low_rank_directions,
    top_directions,
)
from helpers.subspaces.inputs import random_adapter
from helpers.subspaces.similarity import (
    Amplification,
    amplification,
    choose_pairs,
    choose_window,
    cumulative_phi,
    phi,
    similarity_grid,
)
from helpers.subspaces.study import Similarity, adapter_names

__all__ = [
    "Amplification",
    "Directions",
    "Similarity",
    "adapter_names",
    "amplification",
    "choose_pairs",
    "choose_window",
    "cumulative_phi",
    "decompose",
    "low_rank_directions",
    "phi",
    "random_adapter",
    "similarity_grid",
    "top_directions",
]
