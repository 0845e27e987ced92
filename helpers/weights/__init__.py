"""Files on disk → the weights W of a model and the updates ΔW of an adapter. Knows files; no statistics."""

from helpers.weights.checkpoints import (
    Adapter,
    Base,
    CheckpointError,
    check_fit,
    input_files,
    open_adapter,
    open_base,
)
from helpers.weights.modules import NoSuchModule

__all__ = [
    "Adapter",
    "Base",
    "CheckpointError",
    "NoSuchModule",
    "check_fit",
    "input_files",
    "open_adapter",
    "open_base",
]
