"""The arithmetic of directions: how much subspaces share, and what chance would have given. Knows arrays.

`inputs`, `study`, `between`, `layers`, the atlas (`measured`, `atlas`, `model_atlas`) and adapters together (`paired`,
`gathered`, `together`) alone ask `weights` for matrices.
"""

from helpers.subspaces.agreement import Interference, cosine, interference
from helpers.subspaces.atlas import atlas
from helpers.subspaces.directions import (
    Directions,
    decompose,
    low_rank_directions,
    top_directions,
)
from helpers.subspaces.intruders import Intruders, intruders
from helpers.subspaces.model_atlas import ModelAtlas
from helpers.subspaces.similarity import (
    Amplification,
    amplification,
    choose_pairs,
    choose_window,
    cumulative_phi,
    phi,
    similarity_grid,
)
from helpers.subspaces.spectra import RankUse, energy, rank_use
from helpers.subspaces.study import Similarity, adapter_names
from helpers.subspaces.together import AdaptersTogether

__all__ = [
    "AdaptersTogether",
    "Amplification",
    "Directions",
    "Interference",
    "Intruders",
    "ModelAtlas",
    "RankUse",
    "Similarity",
    "adapter_names",
    "amplification",
    "atlas",
    "choose_pairs",
    "choose_window",
    "cosine",
    "cumulative_phi",
    "decompose",
    "energy",
    "interference",
    "intruders",
    "low_rank_directions",
    "phi",
    "rank_use",
    "similarity_grid",
    "top_directions",
]
