"""The arithmetic of directions: how much subspaces share, and what chance would have given. Knows arrays.

`study` alone asks `weights` for matrices.
"""

from helpers.subspaces.directions import (
    FULL_SVD_SIZE,
    Directions,
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

__all__ = [
    "FULL_SVD_SIZE",
    "Amplification",
    "Directions",
    "amplification",
    "choose_pairs",
    "choose_window",
    "cumulative_phi",
    "factor_directions",
    "low_rank_directions",
    "phi",
    "similarity_grid",
    "top_directions",
]
