"""Schemas of the notebooks in training/: those that made what data/ holds, and the one that measures speed."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from helpers.parameters.digits import ARCHITECTURES, PLANTED_TASKS, SEEDS, SIZES
from helpers.parameters.schema import NonEmpty, Parameters, ResultFile
from helpers.parameters.subspaces import BASE, OF_TASKS

INCIDENTAL = ("output", "jobs", "threads", "results")  # fields of a training that do not decide what it results in
Threads = Annotated[PositiveInt, Field(description="threads of PyTorch; another number changes the last digits")]
Alpha = Annotated[PositiveInt, Field(description="the α of LoRA, which scales what an adapter adds by α/r")]


class LoraAdapters(Parameters):
    """Parameters of the training notebook for adapters."""

    output: NonEmpty = "data"
    """directory that receives all-MiniLM-L6-v2/ and adapters/"""
    ranks: list[NonNegativeInt] = Field([4, 8, 64, 64, 8, 0], min_length=1)
    """rank r of each adapter (0: no adapter, every weight of the encoder is trained)"""
    seeds: list[NonNegativeInt] = Field([0, 0, 0, 1, 0, 0], min_length=1)
    """seed of each: its initialisation and the order of its sentences"""
    learning_rates: list[PositiveFloat] = Field([0.002, 0.002, 0.002, 0.002, 0.0003, 0.00005], min_length=1)
    """AdamW's learning rate of each, falling linearly to zero"""
    steps: PositiveInt = 1500
    """optimiser steps of each"""
    evaluate_every: PositiveInt = 125
    """steps between two measurements of the held-out accuracy"""
    batch_size: PositiveInt = 16
    """sentences in a step"""
    alpha: Alpha = 16
    train_sentences: NonNegativeInt = 0
    """sentences to train on (0: all that are not held out)"""
    held_out_sentences: Annotated[int, Field(ge=2, le=8000)] = 1000
    """sentences kept for measuring"""
    threads: Threads = 2
    results: ResultFile = ""

    @model_validator(mode="after")
    def _combinations(self):
        runs = list(zip(self.ranks, self.seeds, self.learning_rates, strict=False))
        if len({len(self.ranks), len(self.seeds), len(self.learning_rates)}) > 1 or len(set(runs)) < len(runs):
            raise ValueError(
                f"ranks are {self.ranks}, seeds are {self.seeds} and learning_rates are {self.learning_rates}: "
                "expected as many of each, and no adapter twice"
            )
        return _apart_from_what_is_read(self, self.recipe(), self.runs())

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

    output: NonEmpty = "data"
    """directory that receives SmolLM2-135M-Instruct/ and language_model_adapters/"""
    ranks: list[PositiveInt] = Field([4, 8, 64, 64, 8], min_length=1)
    """rank r of each adapter"""
    seeds: list[NonNegativeInt] = Field([0, 0, 0, 1, 0], min_length=1)
    """seed of each adapter: its initialisation (with its rank) and the order of its texts"""
    tasks: list[Literal["sentiment", "author"]] = Field(
        ["sentiment", "sentiment", "sentiment", "sentiment", "author"], min_length=1
    )
    """task of each adapter: sentiment of a critic's sentence, or author: critic or viewer"""
    checkpoints: list[PositiveInt] = Field([24, 80])
    """steps after which the second adapter is saved besides its last (empty: none)"""
    steps: Annotated[int, Field(ge=1, le=500)] = 240
    """optimiser steps for each adapter"""
    warm_up: NonNegativeInt = 24
    """of these, steps in which the learning rate rises"""
    evaluate_every: PositiveInt = 80
    """steps between two measurements on the held-out texts"""
    batch_size: PositiveInt = 16
    """texts in a step"""
    learning_rate: PositiveFloat = 0.0005
    """AdamW's at its greatest, after the warm-up; then it falls linearly to zero"""
    alpha: Alpha = 16
    train_texts: NonNegativeInt = 0
    """texts to train on (0: all that are not held out)"""
    held_out_texts: Annotated[int, Field(ge=2, le=8000)] = 1000
    """texts kept for measuring"""
    threads: Threads = 1
    results: ResultFile = ""

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
        return _apart_from_what_is_read(self, self.recipe(), self.runs())

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

    output: NonEmpty = "data/merged_adapters"
    """directory that receives merges.csv"""
    base: NonEmpty = BASE
    """weights of SmolLM2, as the adapters' training saved them"""
    adapters: list[str] = Field(OF_TASKS, min_length=2)
    """adapters of it, of which every pair is merged"""
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """share of the numbers of each that TIES keeps"""
    texts: Annotated[int, Field(ge=2, le=8000)] = 1000
    """held-out texts of each task"""
    threads: Threads = 1
    results: ResultFile = ""


class DigitModels(Parameters):
    """Parameters of the training notebook for digit classifiers."""

    output: NonEmpty = "data/digit_models"
    """directory that receives a directory for each data set and architecture"""
    datasets: list[Literal[tuple(SIZES)]] = Field([*SIZES], min_length=1)
    """data sets to train on"""
    architectures: list[Literal[ARCHITECTURES]] = Field([*ARCHITECTURES], min_length=1)
    """networks to train"""
    seeds: list[NonNegativeInt] = Field([*SEEDS], min_length=1)
    """seed of each saved network: its start, its order of images, its validation images"""
    fold_seeds: list[NonNegativeInt] = Field([0, 1, 2], min_length=1)
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
    learning_rate: PositiveFloat = 0.003
    """AdamW's"""
    jobs: PositiveInt = 2
    """networks trained at once, one thread each"""
    results: ResultFile = ""

    @model_validator(mode="after")
    def _combinations(self):
        return _apart_from_what_is_read(self, type(self).model_fields)

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

    output: NonEmpty = "data/planted_models"
    """directory that receives a directory for each task"""
    tasks: list[Literal[PLANTED_TASKS]] = Field([*PLANTED_TASKS], min_length=1)
    """what the networks learn"""
    seeds: list[NonNegativeInt] = Field([*SEEDS], min_length=1)
    """seed of each network: its start and its images"""
    steps: Annotated[int, Field(ge=10)] = 2000
    """optimiser steps of each"""
    batch_size: PositiveInt = 128
    """images in a step, drawn anew"""
    learning_rate: PositiveFloat = 0.005
    """AdamW's at its greatest; it rises to this, then falls"""
    weight_decay: NonNegativeFloat = 0.1
    """AdamW's"""
    measured: Annotated[int, Field(ge=100)] = 4000
    """new images that the accuracy is measured on"""
    jobs: PositiveInt = 2
    """networks trained at once, one thread each"""
    results: ResultFile = ""

    @model_validator(mode="after")
    def _combinations(self):
        return _apart_from_what_is_read(self, self.recipe())

    def schedule(self):
        """What `planted_models.fit` takes of these."""
        return self.model_dump(include={"steps", "batch_size", "learning_rate", "weight_decay"})

    def recipe(self):
        """What decides the networks."""
        return self.model_dump(include={"tasks", "seeds"}) | self.schedule()


class SpeedOfDirections(Parameters):
    """Parameters of the notebook that measures how long leading directions take."""

    dimensions: list[Annotated[int, Field(ge=40)]] = Field(
        [
            512,
            1024,
            2048,
            4096,
            8192,
            12288,
        ],
        min_length=1,
    )
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
    results: ResultFile = ""

    @model_validator(mode="after")
    def _combinations(self):
        if self.compared_at not in self.dimensions:
            raise ValueError(f"compared_at is {self.compared_at}, which is none of dimensions: {self.dimensions}")
        return self


def _apart_from_what_is_read(p, decisive, runs=()):
    """The parameters of a training, refused where they would write other results to where the other notebooks read.

    decisive: names of the fields that decide the results. runs: those of `p`, of which some of the usual ones will do.
    """
    fields, usual = type(p).model_fields, list(type(p).model_construct().runs()) if runs else []
    other = [name for name in decisive if name not in INCIDENTAL and getattr(p, name) != fields[name].default]
    other += [run[0] for run in runs if run not in usual]
    if other and p.output == fields["output"].default:
        raise ValueError(
            f"output is {p.output!r}, which other notebooks read, and {other[0]} is another: give another output"
        )
    return p
