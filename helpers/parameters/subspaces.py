"""Schemas of the notebooks about subspaces: of one module, of chance, of a whole model, of adapters together."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from helpers.parameters.schema import NonEmpty, Parameters, ResultFile

BASE = "data/SmolLM2-135M-Instruct"
OF_RANKS = [
    "data/language_model_adapters/r4",
    "data/language_model_adapters/r8",
    "data/language_model_adapters/r64",
    "data/language_model_adapters/r64-seed1",
]
OF_TASKS = [
    "data/language_model_adapters/r8",
    "data/language_model_adapters/r64",
    "data/language_model_adapters/r64-seed1",
    "data/language_model_adapters/r8-author",
]
BESIDE_BASE = "data/all-MiniLM-L6-v2"
BESIDE_ADAPTERS = ["data/adapters/r8-lr0.0003", "data/adapters/r8", "data/adapters/r64", "data/adapters/full"]

# Fields that two of the schemas have.
Adapters = Annotated[
    list[str],
    Field(min_length=1, description="adapters, or models fine-tuned from the base: directories or files"),
]
Modules = Annotated[
    str,
    Field(description="pattern on the end of names (empty: all): q_proj, layers.1?.*, q_proj[head *], c_attn[*]"),
]
Scheduler = Annotated[
    str, Field(description="address of a Dask scheduler whose workers see these files (empty: this process)")
]
BesideBase = Annotated[
    str, Field(description="a second model to set beside, LoRA beside a whole fine-tune (empty: none)")
]
BesideAdapters = Annotated[list[str], Field(description="its adapters, or models fine-tuned from it")]


class SubspaceSimilarity(Parameters):
    """Parameters of notebook 01."""

    inputs: ClassVar = ("base", "adapters")
    gone: ClassVar = {"preset": "the published figure has a report of its own: run 04_published_pictures"}

    base: str = BASE
    """directory or file of the model's weights (empty: adapters only)"""
    adapters: Adapters = OF_RANKS
    module: NonEmpty = "model.layers.14.self_attn.q_proj"
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
    results: ResultFile = ""

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
        _refuse_twice(self, "adapters")
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
    results: ResultFile = ""

    @model_validator(mode="after")
    def _combinations(self):
        for name in ("rank_i", "rank_j"):
            if getattr(self, name) >= self.dimension:
                raise ValueError(
                    f"{name} is {getattr(self, name)} and dimension is {self.dimension}: a subspace of all dimensions "
                    f"agrees with every other in full; {name} must be 1 … {self.dimension - 1}"
                )
        return self


class PublishedPictures(Parameters):
    """Parameters of notebook 04."""

    figure: Literal["all", "phi", "digits"] = "all"
    """pictures to draw: all, phi (figure 8 of the LoRA paper) or digits; every statement is tested"""
    seed: NonNegativeInt = 0
    """seed of the stand-in, of the examples, of the shuffled copy and of draws"""
    results: ResultFile = ""


class ModelAtlas(Parameters):
    """Parameters of notebook 05."""

    inputs: ClassVar = ("base", "adapters", "beside_base", "beside_adapters")

    base: NonEmpty = BASE
    """directory or file of the model's weights"""
    adapters: Adapters = OF_RANKS
    modules: Modules = ""
    tested: list[str] = Field([])
    """modules or patterns whose intruders are tested by draws, 20 at most (empty: what changed most)"""
    i: NonNegativeInt = 0
    """directions of W, for φ and energy (0: choose from the size)"""
    j: NonNegativeInt = 0
    """directions of the adapter, for φ (0: 4, or as many as all have)"""
    factor: Literal["A", "BA"] = "BA"
    """whose φ the pictures show: that of A, or BA for the whole ΔW"""
    side: Literal["right", "left"] = "left"
    """right: φ of directions of the input space; left: of the output space (with BA)"""
    scheduler: Scheduler = ""
    store: str = ""
    """directory that keeps what is measured, so that another run goes on (empty: nowhere)"""
    beside_base: BesideBase = BESIDE_BASE
    beside_adapters: BesideAdapters = BESIDE_ADAPTERS
    seed: NonNegativeInt = 0
    """seed of all draws"""
    results: ResultFile = ""

    @model_validator(mode="after")
    def _combinations(self):
        _refuse_left_of_a(self)
        _refuse_twice(self, "adapters", "beside_adapters", "tested")
        _refuse_half_of_beside(self)
        return self


class AdaptersTogether(Parameters):
    """Parameters of notebook 06. What is by default of other adapters than those given counts as not given."""

    inputs: ClassVar = ("base", "adapters", "checkpoints", "measured", "beside_base", "beside_adapters")

    base: str = BASE
    """directory or file of the model's weights (empty: low-rank adapters only)"""
    adapters: list[str] = OF_TASKS
    """two or more adapters, or models fine-tuned from the base: directories or files"""
    modules: Modules = ""
    checkpoints: list[str] = Field(
        [
            "data/language_model_adapters/r8-step24",
            "data/language_model_adapters/r8-step80",
            "data/language_model_adapters/r8",
        ]
    )
    """states of one run in their order, its end last (empty: none)"""
    two_seeds: list[str] = Field(["data/language_model_adapters/r64", "data/language_model_adapters/r64-seed1"])
    """two of the adapters, of one task with other seeds: what same looks like (empty: none)"""
    two_tasks: list[str] = Field(["data/language_model_adapters/r8", "data/language_model_adapters/r8-author"])
    """two of the adapters, of two tasks: what different looks like (empty: none)"""
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """share of its numbers, the greatest, that a merge by TIES keeps of each adapter"""
    measured: str = "data/merged_adapters/merges.csv"
    """accuracy of merges, measured elsewhere, a CSV (empty: not known)"""
    scheduler: Scheduler = ""
    beside_base: BesideBase = BESIDE_BASE
    beside_adapters: BesideAdapters = BESIDE_ADAPTERS
    seed: NonNegativeInt = 0
    """seed of all draws, of which there are none yet"""
    results: ResultFile = ""

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
        _refuse_twice(self, *lists)
        for name, given in lists.items():
            if len(given) == 1 or (name.startswith("two_") and len(given) > 2):
                wanted = "two, or none" if name.startswith("two_") else "two or more to compare"
                raise ValueError(f"{name} is {given}: give {wanted}")
        _refuse_half_of_beside(self)
        return self


def _refuse_twice(p, *names):
    """Refuse a list in which an entry stands twice."""
    for name in names:
        given = getattr(p, name)
        if len(set(given)) < len(given):
            raise ValueError(f"{name} names one twice: {given}; name each once")


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
