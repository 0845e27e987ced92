"""What φ is when the two subspaces have nothing to do with each other.

U and V are independent and uniform (Haar) among the subspaces of dimension i and j of R^d. Their squared cosines follow
the Jacobi ensemble, and min(i, j) φ is its trace, the Pillai-Bartlett statistic (Muirhead 1982, *Aspects of
Multivariate Statistical Theory*, chapters 3 and 10). Formulas first, then pairs that are not chance. What
is not positive integers with i, j ≤ d is refused with a ValueError; where they may be arrays, they broadcast.
"""

from functools import lru_cache
from itertools import pairwise
from numbers import Real
from typing import SupportsIndex as Index

import numpy as np
from jaxtyping import Float, Float64
from numpy.random import Generator
from scipy import optimize, special

from helpers.subspaces import similarity
from helpers.subspaces.haar import (
    Numbers,
    check_draws,
    checked_dimensions,
    chunks,
    random_cosines,
    random_directions,
    random_overlaps,
)

UNDERFLOW = 1e-280  # below this the incomplete beta function nears the end of double precision
FRACTION_TERMS = 64  # of the continued fraction; where it is used, some 20 are enough
SAMPLED_BELOW = 20  # d, below which tails are read off draws: no Beta law is close enough there
SAMPLES = 60_000  # of which such a tail is made, some planted so strongly that they reach far
STRENGTHS = 2.0 ** np.arange(12)  # of planting, see `planted_cosines`
KNOT = 128  # samples from one point of a sampled tail to the next


def mean(i: Numbers, j: Numbers, d: Numbers) -> Numbers:
    """E φ = max(i, j) / d."""
    i, j, d = checked_dimensions(i, j, d)
    return np.maximum(i, j) / d


def variance(i: Numbers, j: Numbers, d: Numbers) -> Numbers:
    """Var φ = 2 i j (d-i)(d-j) / [d² (d-1)(d+2) min(i, j)²], exact for every i, j ≤ d; d = 1 gives 0.

    From the second moments of a uniform projector; the law is the Pillai-Bartlett trace of the Jacobi ensemble.
    """
    return _variance(*checked_dimensions(i, j, d))


def mean_grid(rows: Index, columns: Index, d: Index) -> Float64[np.ndarray, "{rows} {columns}"]:
    """E φ for every i ≤ rows and j ≤ columns, as `similarity.similarity_grid` lays φ out."""
    return mean(*np.ogrid[1 : rows + 1, 1 : columns + 1], d)


def z_score(phi: Numbers, i: Numbers, j: Numbers, d: Numbers) -> Numbers:
    """Standard deviations by which φ lies above chance. NaN where chance has no spread (i or j = d)."""
    spread = np.sqrt(variance(i, j, d))
    return (phi - mean(i, j, d)) / np.where(spread > 0, spread, np.nan)


def difference_z(phi: Numbers, other: Numbers, i: Numbers, j: Numbers, d: Numbers) -> Numbers:
    """Standard deviations of the difference of two random pairs by which one φ lies above the other; as `z_score`."""
    return (z_score(phi, i, j, d) - z_score(other, i, j, d)) / np.sqrt(2)


def tail_probability(phi: Numbers, i: Numbers, j: Numbers, d: Numbers) -> Numbers:
    """P(φ of random subspaces ≥ phi): the p-value of φ against chance, see `log_tail_probability`."""
    return np.exp(log_tail_probability(phi, i, j, d))


def log_tail_probability(phi: Numbers, i: Numbers, j: Numbers, d: Numbers) -> Numbers:
    """Natural logarithm of P(φ of random subspaces ≥ phi), also where the probability itself underflows.

    phi: numbers in [0, 1], ValueError for others; NaN for unknown. The law is taken to be a Beta law with the exact
    mean and variance, on [(i + j − d)₊ / min(i, j), 1], below which φ cannot fall. That is exact where i, j, d − i or
    d − j is 1. Elsewhere it was held against importance sampling (`sampled_log_tail`) at 260 shapes: log₁₀ P is off by
    at most 0.07 where P ≥ 0.01 and 0.12 where P ≥ 0.001, and by 8 % of itself where P ≥ 10⁻⁹, for d ≥ 60; by 3 % of
    itself there for d ≥ 384. At d = 20 P may be wrong by a factor of 2 at 0.001. As a rule P comes out too
    large where i + j is well below d, too small where it is near d. Where φ is a constant (i or j = d) P is 1.

    Below d = SAMPLED_BELOW, where a Beta law may be wrong by a factor of 6 at 0.001, P is read off 60,000 draws of φ,
    always the same, some of them planted and weighted (Veach & Guibas 1995); their error is some 3 % of P at 0.001 and
    10 % at 10⁻⁹. The first φ asked of a shape takes up to a second.
    """
    phi = _checked_phi(phi)
    floor, a, b = _beta(i, j, d)
    x, a, b = np.broadcast_arrays(_above_floor(phi, floor), a, b)
    tail = special.betaincc(a, b, x)
    far = (tail < UNDERFLOW) & (x < 1)
    with np.errstate(divide="ignore"):
        logarithm = np.array(np.log(tail))
    logarithm[far] = _log_far_tail(a[far], b[far], x[far])
    with np.errstate(divide="ignore"):
        below = np.log1p(-x)
    for here, (knots, tail, slope) in _sampled_shapes(i, j, d, x.shape):
        logarithm[here] = _line(below[here], knots, tail, slope)
    return logarithm[()]


def critical_phi(probability: Numbers, i: Numbers, j: Numbers, d: Numbers) -> Numbers:
    """The φ that random subspaces reach with this probability, in (0, 1), under the law of `log_tail_probability`."""
    if not ((np.asarray(probability) > 0) & (np.asarray(probability) < 1)).all():
        raise ValueError(f"probability is {probability}: expected numbers between 0 and 1")
    floor, a, b = _beta(i, j, d)
    x = np.array(special.betainccinv(a, b, probability))
    logarithm = np.broadcast_to(np.log(probability), x.shape)
    for here, (knots, tail, slope) in _sampled_shapes(i, j, d, x.shape):
        x[here] = -np.expm1(_line(logarithm[here], tail, knots, 1 / slope))
    return floor + (1 - floor) * x


def rise_as_phi(rise: Numbers, first: Index, last: Index, j: Index) -> Numbers:
    """The φ of one block of directions that a rise of φ amounts to, for j ≤ first < last ≤ d.

    φ(last, j) − φ(first, j) is the share of V's j directions in the block of last − first directions of U between
    them, (1/j) ‖·‖², which is φ(last − first, j) of that block but for its divisor. Of two random subspaces the rise
    therefore has the law of φ at i = last − first; the nesting of the two φ needs no other account.
    rise: numbers from 0 to what the block allows; ValueError for others, but for rounding, and unless j ≤ first < last.
    """
    if not j <= first < last:
        raise ValueError(f"rise from i = {first} to {last} at j = {j}: expected j ≤ first < last")
    phi = np.asarray(rise) * j / np.minimum(last - first, j)
    rounded = np.clip(phi, 0.0, 1.0)
    return _checked_phi(np.where(np.abs(phi - rounded) < 1e-9, rounded, phi))


def cosine_density(cosines: Float[np.ndarray, "n"], i: Index, j: Index, d: Index) -> Float64[np.ndarray, "n"]:
    """Wachter's limit of the density of the min(i, j) squared cosines in (0, 1), for large d at fixed i/d and j/d.

    Where i + j > d a share (i + j − d) / min(i, j) of them is exactly 1 and
    not in the density. Source: Wachter 1980, Annals of Statistics 8.
    """
    x, (low, high) = np.asarray(cosines, dtype=np.float64), cosine_limits(i, j, d)
    inside = np.sqrt(np.clip((high - x) * (x - low), 0.0, None))
    return inside * d / (2 * np.pi * min(i, j) * x * (1 - x))


def cosine_limits(i: Index, j: Index, d: Index) -> tuple[float, float]:
    """(least, greatest) squared cosine in Wachter's limit, apart from those that are exactly 0 or 1."""
    checked_dimensions(i, j, d)
    a, b = i / d, j / d
    low, high = ((np.sqrt(a * (1 - b)) + sign * np.sqrt(b * (1 - a))) ** 2 for sign in (-1, 1))
    return float(low), float(min(high, 1.0))


def least_log_tails(i: Index, j: Index, d: Index, draws: Index, rng: Generator) -> Float64[np.ndarray, "{draws}"]:
    """The smallest log tail probability anywhere in the grid of one random pair.

    Its quantiles say how surprising the most surprising cell of an i × j grid has to be, with the dependence of
    neighbouring cells accounted for (the max-statistic of Westfall & Young 1993).
    """
    checked_dimensions(i, j, d)
    check_draws(draws)
    rows, columns = np.ogrid[1 : i + 1, 1 : j + 1]
    least = []
    for n in chunks(draws, i * j):
        grids = similarity.cumulative_phi(random_overlaps(i, j, d, n, rng))
        least.append(log_tail_probability(grids, rows, columns, d).min(axis=(1, 2)))
    return np.concatenate(least)


def planted_directions(d: Index, shares: dict, k: Index, rng: Generator) -> Float64[np.ndarray, "{d} {k}"]:
    """k orthonormal directions whose φ with the first coordinate directions is known exactly.

    shares: {i: φ}; φ(U, V, i, j) is that number at each of these i and every j ≤ min(i, k), where U are the coordinate
    directions in order. In between it rises evenly but for chance. Rotate both for a pair in general position.
    Raises ValueError unless the shares lie in [0, 1] and do not fall with i, and at least k dimensions lie between one
    i and the next and beyond the last, wherever their shares differ.
    """
    ends = [0, *sorted(shares), d]
    levels = [0.0, *(float(shares[i]) for i in ends[1:-1]), 1.0]
    planted, energies = np.zeros((d, k)), np.diff(levels)
    if not (energies >= 0).all():
        raise ValueError(f"shares are {shares}: expected numbers in [0, 1] that do not fall as i grows")
    for (start, stop), energy in zip(pairwise(ends), energies, strict=True):
        if energy and stop - start < k:
            raise ValueError(
                f"{k} directions cannot all have a share of {energy:.3g} between i = {start} and {stop}: "
                f"at least {k} dimensions are needed there"
            )
        if energy:
            planted[start:stop] = np.sqrt(energy) * random_directions(stop - start, k, rng)
    return planted


def planted_cosines(cosines: Float[np.ndarray, "*n"], strength: Numbers) -> Float[np.ndarray, "*n"]:
    """Squared cosines after the variance of V's directions inside U was raised by a factor: tan² falls by that factor.

    cosines: squared cosines of random pairs. strength: the factor λ ≥ 0; 1 is chance. If A has Gaussian rows whose
    variance is λ along each of U's directions and 1 across them, its row space has these angles with U.
    """
    raised = strength * cosines
    return raised / (1 - cosines + raised)


def detectable_phi(i: Index, j: Index, d: Index, level: Real, power: Real, draws: Index, rng: Generator) -> float:
    """The mean φ of the weakest `planted_cosines` that are noticed with a given probability.

    Noticed means tail probability ≤ level. level, power: probabilities, the second the greater and below 1.
    Raises ValueError otherwise, and where φ is a constant (i or j = d).
    """
    if not 0 < level < power < 1:
        raise ValueError(f"level is {level} and power is {power}: expected 0 < level < power < 1")
    _check_varies(i, j, d)
    cosines, critical = random_cosines(i, j, d, draws, rng), critical_phi(level, i, j, d)

    def missing(log_strength):
        return np.quantile(planted_cosines(cosines, np.exp(log_strength)).mean(axis=1), 1 - power) - critical

    strength = np.exp(optimize.brentq(missing, -2.0, 40.0, xtol=1e-6))
    return float(planted_cosines(cosines, strength).mean())


def sampled_log_tail(phi: Real, i: Index, j: Index, d: Index, draws: Index, rng: Generator) -> tuple[float, float]:
    """(log P(φ of random subspaces ≥ phi), its standard error), from draws, however small P is.

    Importance sampling: pairs planted so strongly that they reach phi half of the time, weighted by how much less
    likely chance makes them. An independent check of `log_tail_probability`. phi: a number above chance, below 1;
    ValueError for others, and where φ is a constant (i or j = d).
    """
    _check_varies(i, j, d)
    if not mean(i, j, d) < phi < 1:
        raise ValueError(f"φ is {phi}: expected a number above chance, {mean(i, j, d):.6g}, and below 1")
    if i + j > d:
        phi = float(_above_floor(phi, _beta(i, j, d)[0]))
        i, j = d - i, d - j
    cosines = random_cosines(i, j, d, draws, rng)

    def missing(log_strength):
        return np.median(planted_cosines(cosines, np.exp(log_strength)).mean(axis=1)) - phi

    strength = np.exp(optimize.brentq(missing, -2.0, 40.0, xtol=1e-6))
    cosines = planted_cosines(cosines, strength)
    logs = np.where(cosines.mean(axis=1) >= phi, _log_odds(cosines, strength, max(i, j), d), -np.inf)
    weights = np.exp(logs - logs.max())
    error = weights.std() / weights.mean() / np.sqrt(draws)
    return float(logs.max() + np.log(weights.mean())), float(error)


def _variance(i, j, d):
    spread = 2.0 * i * j * (d - i) * (d - j)
    return spread / (d**2 * np.maximum(d - 1.0, 1.0) * (d + 2.0) * np.minimum(i, j) ** 2)


def _beta(i, j, d):
    """Least φ, and the two parameters of the Beta law above it. Where φ is constant they are 1 and of no meaning."""
    i, j, d = checked_dimensions(i, j, d)
    smaller = np.minimum(i, j)
    floor = np.maximum(i + j - d, 0.0) / smaller
    room = np.where(floor < 1, 1 - floor, 1.0)
    centre = np.where(floor < 1, (np.maximum(i, j) / d - floor) / room, 0.5)
    spread = np.where(floor < 1, _variance(i, j, d) / room**2, 1 / 12)
    size = centre * (1 - centre) / spread - 1
    return floor, centre * size, (1 - centre) * size


def _log_odds(cosines, strength, larger, d):
    """log of how much likelier than planted at this strength chance makes squared cosines [draws, n]: [draws]."""
    odds = d / 2 * np.log(strength - (strength - 1) * cosines) - (d - larger) / 2 * np.log(strength)
    return odds.sum(axis=1)


@lru_cache(256)
def _sampled_tail(smaller, larger, d):
    """(log(1 − φ), log P, slope) of points on the tail, P falling to the front; the slope is that of P further there.

    Draws at all strengths count by the density of their mixture. For φ near 1 P is a power of 1 − φ.
    """
    rng, strengths = np.random.default_rng([smaller, larger, d]), np.resize(STRENGTHS, (SAMPLES, 1))
    cosines = planted_cosines(random_cosines(larger, smaller, d, SAMPLES, rng), strengths)
    logs = -special.logsumexp([-_log_odds(cosines, strength, larger, d) for strength in STRENGTHS], axis=0)
    phi = cosines.mean(axis=1)
    order = phi.argsort()[::-1]
    tail = np.logaddexp.accumulate(logs[order])
    knots, tail = np.log1p(-phi[order])[KNOT - 1 :: KNOT], (tail - tail[-1])[KNOT - 1 :: KNOT]
    return np.append(knots, 0.0), np.append(tail, 0.0), smaller * (d - larger) / 2


def _sampled_shapes(i, j, d, shape):
    """Where, in arrays of a shape that i, j, d broadcast to, the tail is sampled: pairs (mask, `_sampled_tail`)."""
    if np.min(d) >= SAMPLED_BELOW:
        return
    i, j, d = (np.broadcast_to(value, shape).astype(int) for value in (i, j, d))
    wide = i + j > d
    i, j = np.where(wide, d - i, i), np.where(wide, d - j, j)
    shapes = np.stack([np.minimum(i, j), np.maximum(i, j), d])
    sampled = (d < SAMPLED_BELOW) & (shapes[0] > 1)
    for each in np.unique(shapes[:, sampled], axis=1).T:
        yield (each == shapes.T).all(-1).T, _sampled_tail(*each.tolist())


def _line(at, x, y, slope):
    """y at points of the line through (x, y), x rising, that goes on below with a slope."""
    return np.where(at < x[0], y[0] + slope * (at - x[0]), np.interp(at, x, y))


def _above_floor(phi, floor):
    """Where φ lies between its least value and 1, in [0, 1]; 0 where the two are one."""
    return np.clip((phi - floor) / np.where(floor < 1, 1 - floor, np.inf), 0.0, 1.0)


def _log_far_tail(a, b, x):
    """log of the upper tail of the Beta law by its continued fraction (DLMF 8.17.22), for x well above the mean."""
    y, fraction = 1 - x, np.zeros_like(x)
    for n in range(FRACTION_TERMS, 0, -1):
        m = n // 2
        top = -(b + m) * (a + b + m) if n % 2 else m * (a - m)
        fraction = top * y / ((b + n - 1) * (b + n)) / (1 + fraction)
    return b * np.log(y) + a * np.log(x) - np.log(b) - special.betaln(a, b) - np.log1p(fraction)


def _checked_phi(phi):
    phi = np.asarray(phi, dtype=np.float64)
    if (outside := phi[(phi < 0) | (phi > 1)]).size:
        raise ValueError(f"φ is {outside.flat[0]:.6g}: expected numbers in [0, 1]")
    return phi


def _check_varies(i, j, d):
    if variance(i, j, d) == 0:
        raise ValueError(f"φ is always 1 for i = {i}, j = {j}, d = {d}: nothing can lie beyond chance")
