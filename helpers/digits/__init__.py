"""Images of digits and networks that read them → maps of what those look at, and controls that could refute them."""

from helpers.digits import controls
from helpers.digits.classifiers import open_classifier
from helpers.digits.grids import joint_normalise, regrid
from helpers.digits.images import SIZES, Digits, examples, folds, hold_out, inferred_writers, load
from helpers.digits.networks import ARCHITECTURES, Block, Transformer, accuracy, convolutional, logits, untrained
from helpers.digits.saliency import attribute
from helpers.digits.study import Study

__all__ = [
    "ARCHITECTURES",
    "SIZES",
    "Block",
    "Digits",
    "Study",
    "Transformer",
    "accuracy",
    "attribute",
    "controls",
    "convolutional",
    "examples",
    "folds",
    "hold_out",
    "inferred_writers",
    "joint_normalise",
    "load",
    "logits",
    "open_classifier",
    "regrid",
    "untrained",
]
