"""Images of digits and networks that read them → maps of what those look at, and controls that could refute them."""

from helpers.digits import controls
from helpers.digits.images import SIZES, Digits, examples, folds, hold_out, inferred_writers, load
from helpers.digits.networks import (
    ARCHITECTURES,
    Block,
    Transformer,
    accuracy,
    convolutional,
    fit,
    logits,
    train,
    untrained,
)
from helpers.digits.saliency import attribute, joint_normalise, regrid

__all__ = [
    "ARCHITECTURES",
    "SIZES",
    "Block",
    "Digits",
    "Transformer",
    "accuracy",
    "attribute",
    "controls",
    "convolutional",
    "examples",
    "fit",
    "folds",
    "hold_out",
    "inferred_writers",
    "joint_normalise",
    "load",
    "logits",
    "regrid",
    "train",
    "untrained",
]
