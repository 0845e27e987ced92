"""Files on disk → the weights W of a model and the updates ΔW of an adapter. Knows files; no statistics."""

from helpers.weights.base import Base, open_base
from helpers.weights.formats.recognise import open_update
from helpers.weights.modules import match
from helpers.weights.tensors import IsModel, NoSuchModule, WeightsError
from helpers.weights.updates import Dense, LowRank, Updates

__all__ = [
    "Base",
    "Dense",
    "IsModel",
    "LowRank",
    "NoSuchModule",
    "Updates",
    "WeightsError",
    "match",
    "open_base",
    "open_update",
]
