"""What a merge of several updates of one weight is, and what it keeps of each. Knows arrays."""

from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from helpers.subspaces.arrays import check_choice, checked_matrix

METHODS = ("sum", "average", "ties")


class Kept(NamedTuple):
    """What a merge M keeps of one ΔW.

    along: <M, ΔW> / ‖ΔW‖²_F, 1 where all of ΔW is there along itself. cosine: of M and ΔW, NaN where M is zero. off:
    ‖M − along · ΔW‖_F / ‖ΔW‖_F, what the merge does besides, in units of ΔW.
    """

    along: float
    cosine: float
    off: float


def merge(
    deltas: Sequence[Float[np.ndarray, "out in"]], method: str, density: Real = 0.2
) -> Float64[np.ndarray, "out in"]:
    """One update out of several: their "sum", their "average", or "ties" (Yadav et al. 2023, arXiv:2306.01708).

    "ties" keeps of each ΔW its ⌊density · size⌋ entries of greatest magnitude (of equal ones those that come first, row
    by row), elects for each entry the sign of the sum of what was kept, and takes the mean of those that have it: the
    paper's λ is 1, and PEFT's `merge_utils.ties` does the same with weights of 1, but where that sum is exactly zero it
    elects +, and here none is elected and the entry is 0. Density 1 keeps all.

    Raises ValueError for another method, no ΔW, shapes that differ, values that are not finite, and a density outside
    (0, 1] or so low that nothing is kept.
    """
    check_choice("method", method, METHODS)
    deltas = _checked(deltas)
    if method == "ties":
        return _ties(deltas, density)
    total = sum(deltas[1:], start=deltas[0].copy())
    return total / len(deltas) if method == "average" else total


def keeps(inside: Real, square: Real, size: Real) -> Kept:
    """What a merge M has Kept of ΔW. inside: <M, ΔW>. square: ‖M‖²_F. size: ‖ΔW‖_F, above 0."""
    along, whole = inside / size**2, np.sqrt(max(square, 0.0))
    cosine = np.clip(inside / size / whole, -1.0, 1.0) if whole else np.nan
    return Kept(float(along), float(cosine), float(np.sqrt(max((whole / size) ** 2 - along**2, 0.0))))


def _checked(deltas):
    """The ΔW as float64; ValueError unless there are some, all of one shape and finite."""
    if not len(deltas):
        raise ValueError("no ΔW is given: there is nothing to merge")
    checked = [checked_matrix(delta, f"ΔW number {n + 1}") for n, delta in enumerate(deltas)]
    for n, delta in enumerate(checked):
        if delta.shape != checked[0].shape:
            raise ValueError(f"ΔW number {n + 1} is {delta.shape} and the first {checked[0].shape}: of one weight?")
    return checked


def _ties(deltas, density):
    if not 0 < density <= 1:
        raise ValueError(f"density is {density}: expected a number above 0 and at most 1")
    size = deltas[0].size
    if not (count := int(density * size)):
        raise ValueError(f"density is {density}: of {size} entries it keeps none")
    kept = [_greatest(delta, count) for delta in deltas]
    if len(kept) == 1:
        return kept[0]
    elected = np.sign(sum(kept))
    merged, agreeing = np.zeros_like(elected), np.zeros_like(elected)
    for each in kept:
        agrees = each * elected > 0
        merged += agrees * each
        agreeing += agrees
    return merged / np.maximum(agreeing, 1)


def _greatest(delta, count):
    """ΔW with all but `count` entries of greatest magnitude set to zero; of equal ones the first, row by row, stay."""
    if count == delta.size:
        return delta
    sizes = np.abs(delta).ravel()
    least = np.partition(sizes, len(sizes) - count)[len(sizes) - count]
    stay = sizes > least
    equal = np.flatnonzero(sizes == least)
    stay[equal[: count - np.count_nonzero(stay)]] = True
    return np.where(stay.reshape(delta.shape), delta, 0.0)
