"""Images of digits and networks that read them → maps of what those look at, and controls that could refute them."""

from helpers.digits import controls
from helpers.digits.classifiers import open_classifier
from helpers.digits.grids import joint_normalise, regrid
from helpers.digits.images import SIZES, examples, folds, hold_out, load
from helpers.digits.networks import ARCHITECTURES, Transformer, accuracy, convolutional, logits, untrained
from helpers.digits.saliency import attribute
from helpers.digits.study import Study

__all__ = [
    "ARCHITECTURES",
    "SIZES",
    "Study",
    "Transformer",
    "accuracy",
    "attribute",
    "controls",
    "convolutional",
    "examples",
    "folds",
    "hold_out",
    "joint_normalise",
    "load",
    "logits",
    "open_classifier",
    "regrid",
    "untrained",
]
