"""Whether the network cares: deletion and insertion of pixels; tests and intervals with writers as the units.

Images of one writer are not independent, so that a statistic over images is too sure. Where writers are known they are
the units; else every image is one. units [n]: the number of every image's unit.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.random import Generator
from scipy import stats

from helpers.digits import grids, networks

Maps = Float[np.ndarray, "n h w"]
Ends = Float[np.ndarray, "... h w"]  # one for every image, or one for all
Numbers, Values = Int[np.ndarray, " n"], Float[np.ndarray, " n"]
POINTS = 64  # steps of a deletion curve; an image with fewer pixels loses one pixel a step


def replacement_curve(
    model, start: Ends, end: Ends, targets: Numbers, maps: Maps, rng: Generator, points: int = POINTS
) -> Float[np.ndarray, "n steps"]:
    """Probability of the target while the pixels of `start` are replaced by those of `end`: [n, steps + 1].

    start, end: [n, h, w] or [h, w]. The order is that of falling `maps`; ties fall at random, so maps that are all zero
    give a random order. Deletion: from image to what replaces it (Petsiuk et al. 2018, Samek et al. 2017); insertion:
    the other way. A step that changes no pixel is not computed again.
    """
    count, pixels = len(maps), maps[0].size
    start, end = (torch.from_numpy(np.array(np.broadcast_to(side, maps.shape), np.float32)) for side in (start, end))
    order = np.lexsort((rng.random((count, pixels)), -maps.reshape(count, -1)), axis=1)
    rank = torch.from_numpy(order.argsort(1).reshape(maps.shape))
    replaced = torch.linspace(0, pixels, min(points, pixels) + 1).round()[:, None, None]
    mixed = torch.where(rank[:, None] < replaced, end[:, None], start[:, None]).flatten(2)
    new = torch.ones(mixed.shape[:2], dtype=bool)
    new[:, 1:] = (mixed[:, 1:] != mixed[:, :-1]).any(2)
    scores = networks.probabilities(model, mixed[new].unflatten(1, maps.shape[1:]))
    latest = new.flatten().cumsum(0).view(new.shape) - 1
    return scores[latest, torch.as_tensor(targets)[:, None]].numpy()


def area(curve: Float[np.ndarray, "n steps"]) -> Values:
    """Area under curves [n, steps + 1] over a width of 1."""
    return np.trapezoid(curve, dx=1 / (curve.shape[1] - 1), axis=1)


def donors(
    labels: Numbers, pool: Float[np.ndarray, "m h w"], pool_labels: Int[np.ndarray, " m"], rng: Generator
) -> Maps:
    """For every label an image of another class, drawn from the pool, whose pixels can replace an image's.

    A curve between the two begins and ends with a real image, and no pixel of it was not in one. labels: what a donor
    must not be, the explained target. Raises ValueError if the pool has no image of another class.
    """
    others = {label: np.flatnonzero(pool_labels != label) for label in np.unique(labels)}
    if not all(map(len, others.values())):
        raise ValueError("every image of the pool has the class that is to be replaced: expected some of another")
    return pool[[rng.choice(others[label]) for label in labels]]


def areas(
    model,
    images: Maps,
    targets: Numbers,
    orders: dict[str, Maps],
    ends: dict[str, Ends],
    rng: Generator,
    points: int = 32,
) -> dict[tuple[str, str, str], Values]:
    """Areas of all curves, {("deletion" or "insertion", end, order): [n]}: what `pd.DataFrame` takes as it is.

    orders: maps whose order pixels go in, such as methods', the ink, noise. ends: what pixels are replaced by, such as
    absence [h, w] and `donors` [n, h, w]; the same for every order, so that orders are compared image by image. points:
    steps of a curve. With 32 at 8 × 8 and 16 at 28 × 28 the bundled networks' differences from the ink's order moved by
    a tenth of their standard error from those with 64 and 28, in half the time.
    """
    found = {}
    for by, end in ends.items():
        for curve, sides in {"deletion": (images, end), "insertion": (end, images)}.items():
            for order, maps in orders.items():
                found[curve, by, order] = area(replacement_curve(model, *sides, targets, maps, rng, points))
    return found


def by_unit(values: Float[np.ndarray, "n *rest"], units: Numbers) -> Float[np.ndarray, "u *rest"]:
    """Mean of the values of every unit, in the order of its number; NaN where one is NaN."""
    return np.stack([values[units == unit].mean(0) for unit in np.unique(units)])


def beats(gaps: Float[np.ndarray, "n *rest"], units: Numbers, better: Literal["less", "greater"]) -> tuple:
    """Mean difference over units, its standard error, and p: is it below 0 ("less") or above ("greater")? [...] each.

    gaps: an area less that of the ink's order, image by image; of several networks (seeds) their mean. A one-sided t
    test over the units' means. p is NaN if a gap is, or if there is one unit; 1/2 if all gaps are 0.
    """
    own = by_unit(gaps, units)
    mean, sign = own.mean(0), {"less": -1, "greater": 1}[better]
    error = _standard_error(own, mean)
    return mean, error, stats.t.sf(sign * _ratio(mean, error), len(own) - 1)


class Ratio(NamedTuple):
    """A ratio of means, its interval, and p of the one-sided test that it is below 1."""

    ratio: float
    low: float
    high: float
    p_below: float


def ratio_interval(top: Values, bottom: Values, units: Numbers, level: float = 0.95) -> Ratio:
    """Mean of `top` over mean of `bottom`, both non-negative, by Fieller (1954) with the t of the units' number.

    Such as the bright and the dark region of every map. The interval holds what a t test over units of top − ρ bottom
    does not reject, within 0 … ∞; it ends at ∞ where the mean of `bottom` is not shown to be above 0. NaN with one
    unit, or where both means are 0.
    """
    own = _parts(np.stack([top, bottom], 1), units)
    mean, freedom = own.mean(0), len(own) - 1
    if not freedom or not mean.max() > 0:
        return Ratio(*[np.nan] * 4)
    (c, b), (_, a) = np.outer(mean, mean) - stats.t.isf((1 - level) / 2, freedom) ** 2 * np.cov(own.T) / len(own)
    far = b + np.sqrt(max(b * b - a * c, 0))
    gaps = own[:, 0] - own[:, 1]
    t = _ratio(gaps.mean(), _standard_error(gaps, gaps.mean()))
    with np.errstate(divide="ignore"):
        ratio, low, high = mean[0] / mean[1], c / far if c > 0 else 0, far / a if a > 0 else np.inf
    return Ratio(*map(float, (ratio, low, high, stats.t.cdf(t, freedom))))


def paired_intervals(
    one: Maps, other: Maps, labels: Numbers, units: Numbers, draws: int, rng: Generator, level: float = 0.95
) -> tuple[Float[np.ndarray, "10 rows columns"], Float[np.ndarray, "10 rows columns"]]:
    """Difference of two sets of class means, and half-widths of intervals that hold for all of its cells at once.

    one, other: non-negative maps of the same images; each set counts in shares of its class means' sum, taken as fixed.
    All half-widths are the same multiple of their cell's standard error over units: the quantile of the largest |t| of
    all cells when the two maps of all images of a unit are swapped at random. If swapping changes nothing, some
    interval excludes 0 in 1 − level of cases (max-t test of Westfall & Young 1993). Every digit needs two units.
    """
    shares = [side / grids.class_means(side, labels).sum() for side in (one, other)]
    gaps = (shares[0] - shares[1]).reshape(len(labels), -1)
    names = np.unique(units)
    flips = rng.choice([-1.0, 1.0], (draws, len(names)))
    flips[0] = 1  # as they are: one of the draws, so that the level is kept however few those are
    means, errors, largest = [], [], np.zeros(draws)
    for digit in range(10):
        here = labels == digit
        own = _parts(gaps[here], units[here])
        means.append(own.mean(0))
        errors.append(_standard_error(own, means[-1]))
        swapped = flips[:, np.isin(names, units[here])] @ own / len(own)
        largest = np.maximum(largest, _ratio(np.abs(swapped), _standard_error(own, swapped)).max(1))
    widths = np.quantile(largest, level) * np.array(errors)
    return tuple(np.reshape(part, (10, *one.shape[1:])) for part in (means, widths))


def _parts(values, units):
    """What every unit adds to the mean over images, times the number of units: [n, cells] → [units, cells]."""
    names = np.unique(units)
    return (units == names[:, None]).astype(float) @ values * (len(names) / len(values))


def _standard_error(values, mean):
    """Standard error of means [..., cells] of values [n, cells], whose squares do not depend on their signs."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.clip((values**2).mean(0) - mean**2, 0, None) / np.float64(len(values) - 1))


def _ratio(top, bottom):
    """top / bottom, 0 where top vanishes to within rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(top) <= 1e-12, 0, top / bottom)[()]
