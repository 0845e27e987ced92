"""One schema per notebook: names, types, ranges and combinations of its parameters."""

import ast
import difflib
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator


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


SCHEMAS = {
    "01_subspace_similarity": SubspaceSimilarity,
    "02_random_baselines": RandomBaselines,
    "lora_adapters": LoraAdapters,
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
