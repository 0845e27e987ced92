"""Whether two updates of one weight agree: their cosine, their angles, and what each writes into the other's place.

ΔW is [out, in]. Chance are two updates that keep their singular values and have independent, uniform (Haar) singular
directions on both sides.
"""

from numbers import Real
from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np
from jaxtyping import Float
from scipy import special

from helpers.subspaces.arrays import checked_matrix
from helpers.subspaces.directions import Decomposition, Dense, LowRank, Update, decompose_update
from helpers.subspaces.haar import random_overlaps
from helpers.subspaces.spectra import energy_tail, falling, shares
from helpers.values import passing

VERDICTS = ("apart", "agree", "against", "share a place")
LEVEL = 0.05  # of p, below which something lies beyond chance
ROUNDING = 1e-9  # of a share of ‖ΔW‖²_F, of a cosine, and of a variance that is none
BEYOND = 1e-4  # so far a cosine may lie above what singular values allow
LEAST = np.finfo(float).tiny  # P that double precision holds
DRAWN_BELOW = 6  # the smaller of out and in, below which the tail of the cosine is read off draws
DRAWS = 20_000  # of which such a tail is made
POINTS = 193  # of the sum that stands for an integral
FORGOTTEN = 30.0  # natural logarithms below its greatest number from which on the integrand is left out
STEEP = 750.0  # natural logarithms between the greatest and the least number of double precision
LOWEST = -600.0  # log odds, whose exponential double precision holds
ZERO = "ΔW is zero, as of an untrained adapter: it has no direction to compare"

# an Update of the same weight and another rank
Factors = tuple[Float[np.ndarray, "out other_r"], Float[np.ndarray, "other_r in"]]
Other = Float[np.ndarray, "out in"] | Factors | Decomposition | LowRank | Dense


class Interference(NamedTuple):
    """How much of one update lands in the leading directions of another.

    k: those directions of the other, as many on either side. output, input, both: the shares of ‖ΔW‖²_F of the one in
    the other's k output directions, in its k input directions, and in both at once. output_chance, input_chance,
    both_chance: their means under chance, k/out, k/in and k²/(out · in). output_p, input_p: how often chance gives such
    a share or more, see `spectra.energy_tail`.
    """

    k: int
    output: float
    input: float
    both: float
    output_chance: float
    input_chance: float
    both_chance: float
    output_p: float
    input_p: float


@passing
def cosine(one: Float[np.ndarray, "out in"], other: Float[np.ndarray, "out in"]) -> float:
    """<ΔW₁, ΔW₂> / (‖ΔW₁‖_F ‖ΔW₂‖_F): 1 where they do the same, −1 where they undo each other.

    one, other: ΔW, [out, in] both. Raises ValueError for shapes that differ, for values that are not finite, and where
    one of them is zero.
    """
    one, other = (checked_matrix(each, "the update") for each in (one, other))
    _refuse_misfit(one.shape, other.shape)
    if not (one.any() and other.any()):
        raise ValueError(ZERO)
    sizes = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.clip(float(np.vdot(one, other)) / sizes, -1.0, 1.0))


def cosine_sd(shape: tuple[Index, Index]) -> float:
    """Standard deviation of the cosine under chance, 1/√(out · in), exact whatever the singular values; its mean is 0.

    E Σ_ab σ_a² τ_b² X_ab² Y_ab², where X and Y are the overlaps of the left and of the right directions.
    """
    return float(1 / np.sqrt(np.prod(_checked_shape(shape))))


def cosine_p(
    cosine: Real,
    values: Float[np.ndarray, "n"],
    other_values: Float[np.ndarray, "other_n"],
    shape: tuple[Index, Index],
) -> float:
    """P(|cosine of ΔW₁ and ΔW₂| under chance ≥ |cosine|); the law is symmetric about 0.

    values, other_values: their singular values. shape: (out, in). NaN for an unknown cosine. Raises ValueError for
    values that are none or too many, and for a cosine beyond what these values allow (von Neumann's Σσ_k τ_k).

    The cosine is √q y / √(out · in): given the directions on the smaller side, d, the spread q is known, and y is
    nearly a coordinate of a uniform vector of length √ν in R^ν. The law of q is taken to be a Beta law with the exact
    mean, variance, third moment and end; ν is such that the fourth moment of the cosine is exact. That is exact of one
    value each, and of one value and equal ones. Elsewhere it was held against draws at 120 pairs of spectra, even,
    falling and with 50 to 90 % in one direction, and for large d against the law of independent normal overlaps, by
    numerical inversion. For d ≥ 12 P is off by at most 5 % from 0.05 to 0.001; for large d by 3 % at 10⁻⁴ and 20 % at
    10⁻⁶, and the true P may be 2 times the stated one at 10⁻⁹ and 3.5 times at 10⁻¹². For d of 6 … 11 P is off by some
    3 % at 0.01 and 25 % at 0.001. Below that, with more than one value each, P is read off 20,000 draws, always the
    same, and cannot fall below one in 20,000; elsewhere it ends at the least number of double precision.
    """
    out, into = sorted(_checked_shape(shape))
    weights, other = (_weights(each, out) for each in (values, other_values))
    most = float(np.sqrt(weights * other).sum())
    size = abs(cosine)
    if size > most + BEYOND:
        raise ValueError(f"cosine is {cosine:.6g}: two ΔW of these singular values reach at most {most:.6g}")
    if np.isnan(cosine):
        return float("nan")
    if into == 1:
        return 1.0
    if out < DRAWN_BELOW and max(weights[0], other[0]) < 1:
        reached = (np.abs(_drawn(weights, other, shape)) >= size - ROUNDING).sum()
        return float((1 + reached) / (1 + DRAWS))
    square, freedom = min(size, most) ** 2 * out * into, _freedom(weights, other, into)
    if (variance := _variance_of_spread(weights, other)) < ROUNDING:
        tail = _tail(square, freedom)
    else:
        tail = _mean_tail(square, freedom, *_law_of_spread(weights, other, variance))
    return float(np.minimum(1.0, 2 * max(tail, LEAST)))


@passing
def interference(one: Update, other: Other, share: Real = 0.9) -> Interference:
    """The Interference of `one` with `other`: what the one writes into the place of the other.

    share: of ‖ΔW‖²_F of the other, in (0, 1], that its k leading directions hold at least. one, other: as in
    `directions.decompose_update`. Raises ValueError as that does, for shapes that differ, for another share, where
    either is zero, and for a Decomposition that holds a part of its update only.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}: expected a number above 0 and at most 1")
    one, other = _whole(one), _whole(other)
    shape, other_shape = ((len(each.left), len(each.right)) for each in (one, other))
    _refuse_misfit(shape, other_shape)
    if not (one.rank() and other.rank()):
        raise ValueError(ZERO)
    values, held = one.values / float(one.size), np.cumsum(np.square(other.values / float(other.size)))
    k = int(min(1 + (held < share - ROUNDING).sum(), other.rank()))
    x, y = other.left[:, :k].T @ one.left, other.right[:, :k].T @ one.right
    output, into = (float(min(np.square(part * values).sum(), 1.0)) for part in (x, y))
    both = float(np.square(x * values @ y.T).sum())
    p = [float(energy_tail(found, k, one.values, d)) for found, d in zip((output, into), shape, strict=True)]
    chances = k / shape[0], k / shape[1]
    return Interference(k, output, into, min(both, output, into), *chances, chances[0] * chances[1], *p)


def verdict(
    cosine: Real,
    cosine_p: Real,
    one_in_other: tuple[Real, Real],
    other_in_one: tuple[Real, Real],
) -> str:
    """One of VERDICTS on two updates, or "" where what is not known (NaN) would decide.

    cosine_p: two-sided. one_in_other, other_in_one: (output_p, input_p) of the two `interference`. All corrected for
    how many are asked at once. "agree" and "against": the cosine lies beyond chance, above it or below. "share a
    place": it does not, but one of them lies in the other's directions beyond chance on both sides, output and input.
    "apart": neither.
    """
    if np.isnan(cosine) or np.isnan(cosine_p):
        return ""
    if cosine_p < LEVEL:
        return "agree" if cosine > 0 else "against"
    pairs = one_in_other, other_in_one
    if any(all(p < LEVEL for p in pair) for pair in pairs):
        return "share a place"
    might_share = any(all(not p >= LEVEL for p in pair) for pair in pairs)
    return "" if might_share else "apart"


def _whole(update):
    """The Decomposition of ΔW; ValueError where it holds a part only."""
    found = decompose_update(update)
    if found.size > (1 + ROUNDING) * np.linalg.norm(found.values[: found.left.shape[1]]):
        raise ValueError(
            f"the decomposition holds {found.left.shape[1]} directions of ΔW, not all: decompose all of it"
        )
    return found


def _refuse_misfit(one, other):
    if one != other:
        raise ValueError(f"one ΔW is {one} and the other {other}: they must be of one weight")


def _checked_shape(shape):
    if len(shape) != 2 or not all(isinstance(size, int | np.integer) and size > 0 for size in shape):
        raise ValueError(f"shape is {shape}: expected two positive integers, (out, in)")
    return tuple(int(size) for size in shape)


def _weights(values, d):
    """Shares σ² / Σσ² of d directions, falling."""
    values = falling(values, d)
    return shares(np.pad(values, (0, d - len(values))))


def _drawn(weights, other, shape):
    """Cosines of updates with these shares and random directions, [DRAWS]."""
    rng = np.random.default_rng([*shape, DRAWS])
    sizes = [np.count_nonzero(each) for each in (weights, other)]
    left, right = (random_overlaps(*sizes, d, DRAWS, rng) for d in shape)
    both = np.sqrt(np.outer(weights[: sizes[0]], other[: sizes[1]]))
    return (left * right * both).sum(axis=(1, 2))


def _variance_of_spread(weights, other):
    m = len(weights)
    if m == 1:
        return 0.0
    return 2 * m**2 * _centred(weights, 2) * _centred(other, 2) / ((m - 1) * (m + 2))


def _third_of_spread(weights, other):
    m = len(weights)
    if m == 2:
        return 0.0
    return 8 * m**4 * _centred(weights, 3) * _centred(other, 3) / ((m - 1) * (m - 2) * (m + 2) * (m + 4))


def _centred(weights, power):
    return ((weights - 1 / len(weights)) ** power).sum()


def _freedom(weights, other, n):
    """Dimension ν of the sphere whose coordinates have the kurtosis of the cosine given the directions on one side."""
    m = len(weights)
    p, q = np.square(weights).sum(), np.square(other).sum()
    first = (1 + 2 * p) * (1 + 2 * q) / (1 + 2 / m)
    second = 2 * (1 - p) * (1 - q) / (1 - 1 / m) if m > 1 else 0.0
    fourth = first / (1 + 2 / n) + second / (1 - 1 / n)
    missing = first * 2 / (n + 2) - second / (n - 1)
    return 2 * fourth / max(missing, ROUNDING)


def _law_of_spread(weights, other, variance):
    """(start, length, a, b) of the Beta law of the spread: right mean 1, variance, third moment and end."""
    m = len(weights)
    most, least = m * (weights @ other), m * (weights @ other[::-1])
    room, sd = most - 1, np.sqrt(variance)
    skewness = _third_of_spread(weights, other) / variance / sd
    bend = 2 * sd + skewness * room
    length = (4 * room * sd + skewness * (room**2 - variance)) / bend if bend > 0 else np.inf
    length = np.clip(length, room + (1 + 1e-6) * variance / room, most - least)
    share = room / length
    size = share * (1 - share) * length**2 / variance - 1
    return most - length, length, (1 - share) * size, share * size


def _tail(square, freedom):
    """P(coordinate of a uniform unit vector of R^freedom ≥ √(square / freedom))."""
    return special.betaincc(0.5, (freedom - 1) / 2, np.minimum(square / freedom, 1.0)) / 2


def _mean_tail(square, freedom, start, length, a, b):
    """The mean of `_tail` over a spread of this Beta law, by a sum over the log odds of the spread.

    The integrand has one peak and falls off on either side as an exponential does: the sum is as good as exact.
    """
    low = max(np.log(a / b) - FORGOTTEN / a - FORGOTTEN, LOWEST)
    high = np.log(a / b) + (FORGOTTEN + STEEP) / b + FORGOTTEN
    while True:
        odds = np.linspace(low, high, POINTS)
        with np.errstate(divide="ignore"):
            tail = np.log(_tail(square / (start + length * special.expit(odds)), freedom))
        logs = tail + a * special.log_expit(odds) + b * special.log_expit(-odds) - special.betaln(a, b)
        if (greatest := logs.max()) == -np.inf:
            return 0.0
        above = np.flatnonzero(logs > greatest - FORGOTTEN)
        if len(above) > POINTS / 2:
            return np.exp(special.logsumexp(logs)) * (odds[1] - odds[0])
        low, high = odds[max(above[0] - 1, 0)], odds[min(above[-1] + 1, POINTS - 1)]
