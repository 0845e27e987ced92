"""One schema per notebook: names, types, ranges and combinations of its parameters."""

import ast
import difflib
from typing import Annotated, Literal, Self

from matplotlib import colormaps
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

METHODS = (
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smooth_grad",
    "occlusion",
    "deep_lift",
    "attention_rollout",
)
CONDITIONS = (
    "trained",
    "randomised",
    "untrained",
    "permuted_labels",
    *(f"seed_{seed}" for seed in range(1, 5)),
    "cnn",
    "transformer",
    *METHODS,
)
LEAST_NULL_NETWORKS = 99


class Parameters(BaseModel):
    """Base of the schemas: strict types, no unknown names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def check(cls, values) -> Self:
        """The parameters among a notebook's globals, checked. Raises ValueError: one sentence, the first fault.

        Other globals are passed over, but for names that papermill put there as parameters: it only warns of
        one that the notebook does not have.
        """
        known = {name: values[name] for name in values if name in cls.model_fields}
        return cls.parse(known | dict.fromkeys(_injected_names(values.get("In", ())) - known.keys()))

    @classmethod
    def parse(cls, values) -> Self:
        """Like `check`, for {name: value} in which every name must be a parameter."""
        if unknown := [name for name in values if name not in cls.model_fields]:
            near = difflib.get_close_matches(unknown[0], cls.model_fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(cls.model_fields)}"
            raise ValueError(f"there is no parameter {unknown[0]!r}; {hint}")
        try:
            return cls(**values)
        except ValidationError as error:
            raise ValueError(_sentence(error.errors()[0])) from None


class SubspaceSimilarity(Parameters):
    """Parameters of notebook 01."""

    base: str = "data/all-MiniLM-L6-v2"
    adapters: Annotated[list[str], Field(min_length=1)] = [
        "data/adapters/r4",
        "data/adapters/r8",
        "data/adapters/r64",
        "data/adapters/r64-seed1",
    ]
    module: Annotated[str, Field(min_length=1)] = "encoder.layer.5.attention.self.query"
    factor: Literal["A", "BA"] = "A"
    side: Literal["right", "left"] = "right"
    first_i: NonNegativeInt = 0
    last_i: NonNegativeInt = 0
    last_j: NonNegativeInt = 0
    colour_low: Annotated[float, Field(ge=0, le=1)] = 0.0
    colour_high: Annotated[float, Field(ge=0, le=1)] = 0.0
    preset: Literal["", "paper"] = ""
    seed: NonNegativeInt = 0
    results: str = ""

    @model_validator(mode="after")
    def _combinations(self):
        if self.factor == "A" and self.side == "left":
            raise ValueError(
                'side is "left" with factor "A", whose left directions lie in R^r and meet none of W: '
                'use factor "BA", or side "right"'
            )
        if self.preset and self.factor != "A":
            raise ValueError('preset is "paper" and factor is "BA": the stand-in has an A only, use factor "A"')
        if self.last_i and self.first_i > self.last_i:
            raise ValueError(
                f"first_i is {self.first_i}, above last_i, {self.last_i}: rows run from first_i down to last_i"
            )
        if (self.colour_low or self.colour_high) and not self.colour_low < self.colour_high:
            raise ValueError(
                f"colour_low is {self.colour_low} and colour_high is {self.colour_high}: "
                "give both, the first below the second, or leave both 0 to choose"
            )
        if not self.preset and not self.base and len(self.adapters) < 2:
            raise ValueError(
                "base is empty and there is one adapter: give a base to compare it with, or a second adapter"
            )
        if not self.preset and len(set(self.adapters)) < len(self.adapters):
            raise ValueError(f"adapters names a directory twice: {self.adapters}; name each once")
        return self


class RandomBaselines(Parameters):
    """Parameters of notebook 02."""

    dimension: Annotated[int, Field(ge=3)] = 384
    rank_i: PositiveInt = 38
    rank_j: PositiveInt = 8
    draws: Annotated[int, Field(ge=2)] = 4000
    seed: NonNegativeInt = 0
    results: str = ""

    @model_validator(mode="after")
    def _combinations(self):
        for name in ("rank_i", "rank_j"):
            if getattr(self, name) >= self.dimension:
                raise ValueError(
                    f"{name} is {getattr(self, name)} and dimension is {self.dimension}: a subspace of all dimensions "
                    f"agrees with every other in full; {name} must be 1 … {self.dimension - 1}"
                )
        return self


class DigitSaliency(Parameters):
    """Parameters of notebook 03."""

    dataset: Literal["digits", "mnist5k"] = "digits"
    model: str = ""
    input_rows: NonNegativeInt = 0
    input_columns: NonNegativeInt = 0
    input_mean: float = 0.0
    input_std: Annotated[float, Field(gt=0)] = 1.0
    rows: PositiveInt = 7
    columns: PositiveInt = 6
    method: Literal[METHODS] = "integrated_gradients"
    baseline: Literal["black", "mean"] = "black"
    condition_a: Literal[CONDITIONS] = "trained"
    condition_b: Literal[CONDITIONS] = "randomised"
    null_networks: NonNegativeInt = 219
    examples_per_digit: Annotated[int, Field(ge=5)] = 15
    normalisation: Literal["joint", "panel"] = "joint"
    colour_map: str = "inferno"
    colour_high: Annotated[float, Field(ge=0)] = 0.0
    seed: NonNegativeInt = 0
    results: str = ""

    @field_validator("colour_map")
    @classmethod
    def _known_colours(cls, name):
        if name not in colormaps:
            near = difflib.get_close_matches(name, colormaps, 1)
            hint = f"did you mean {near[0]!r}?" if near else "such as inferno, hot or viridis"
            raise ValueError(f"colour_map is {name!r}: expected a colour map of matplotlib; {hint}")
        return name

    @model_validator(mode="after")
    def _combinations(self):
        side = {"digits": 8, "mnist5k": 28}[self.dataset]
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
        if self.condition_a == self.condition_b:
            raise ValueError(f"condition_a and condition_b are both {self.condition_a!r}: give two to compare")
        if self.model in ("", "cnn", "transformer"):
            given = [self.input_rows, self.input_columns, self.input_mean, self.input_std]
            if given != [0, 0, 0.0, 1.0]:
                raise ValueError(
                    "input_rows, input_columns, input_mean and input_std describe your own model, and model is "
                    f"{self.model!r}, a bundled one: leave them out, or give model"
                )
        return self


class LoraAdapters(Parameters):
    """Parameters of the training notebook for adapters."""

    output: Annotated[str, Field(min_length=1)] = "data"
    ranks: Annotated[list[PositiveInt], Field(min_length=1)] = [4, 8, 64, 64]
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 0, 0, 1]
    steps: PositiveInt = 1500
    evaluate_every: PositiveInt = 125
    batch_size: PositiveInt = 16
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    alpha: PositiveInt = 16
    train_sentences: NonNegativeInt = 0
    held_out_sentences: Annotated[int, Field(ge=2, le=8000)] = 1000
    threads: PositiveInt = 2
    results: str = ""

    @model_validator(mode="after")
    def _combinations(self):
        pairs = list(zip(self.ranks, self.seeds, strict=False))
        if len(self.ranks) != len(self.seeds) or len(set(pairs)) < len(pairs):
            raise ValueError(
                f"ranks are {self.ranks} and seeds are {self.seeds}: expected as many of each, and no pair twice"
            )
        return self

    def schedule(self):
        """What `finetuning.fine_tune` takes of these."""
        return self.model_dump(include={"steps", "batch_size", "learning_rate", "evaluate_every"})


class DigitModels(Parameters):
    """Parameters of the training notebook for digit classifiers."""

    output: Annotated[str, Field(min_length=1)] = "data/digit_models"
    datasets: Annotated[list[Literal["digits", "mnist5k"]], Field(min_length=1)] = ["digits", "mnist5k"]
    architectures: Annotated[list[Literal["cnn", "transformer"]], Field(min_length=1)] = ["cnn", "transformer"]
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 1, 2, 3, 4]
    fold_seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 1, 2]
    epochs: PositiveInt = 150
    patience: PositiveInt = 25
    permuted_epochs: PositiveInt = 200
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.15
    batch_size: PositiveInt = 64
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    jobs: PositiveInt = 2
    results: str = ""

    @model_validator(mode="after")
    def _combinations(self):
        whole = self.model_dump(include={"datasets", "architectures", "seeds"})
        default = {name: type(self).model_fields[name].default for name in whole}
        if self.output == type(self).model_fields["output"].default and whole != default:
            raise ValueError(
                f"output is {self.output}, which notebook 03 reads, and datasets, architectures and seeds are not the "
                "default ones that it expects: give another output"
            )
        return self

    def schedule(self):
        """What `digits.train` takes of these."""
        return self.model_dump(include={"epochs", "patience", "jitter", "batch_size", "learning_rate"})

    def permuted_schedule(self):
        """The same for permuted labels, which nothing but memory can learn: no jitter, no dropout, no early stop."""
        shared = self.model_dump(include={"batch_size", "learning_rate"})
        return {"epochs": self.permuted_epochs, "dropout": 0.0, **shared}


SCHEMAS = {
    "01_subspace_similarity": SubspaceSimilarity,
    "02_random_baselines": RandomBaselines,
    "03_digit_saliency": DigitSaliency,
    "lora_adapters": LoraAdapters,
    "digit_models": DigitModels,
}


def _injected_names(cells):
    """Names that papermill's own cell assigns to, among the sources of the cells run so far."""
    injected = [ast.parse(source) for source in cells if source.startswith("# Parameters\n")]
    return {target.id for tree in injected for node in tree.body for target in getattr(node, "targets", ())}


def _sentence(error):
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "list_type":
        return f'parameter {name} is {error["input"]!r}: expected a list, such as "[DIR, DIR]" (papermill: with -y)'
    if error["type"] == "too_short":
        return f"parameter {name} is empty: expected at least one entry"
    return f"parameter {name} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
