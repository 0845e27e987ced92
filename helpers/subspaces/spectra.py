"""How an update uses its rank, and how much of it lies in given directions; each with what chance would give.

ΔW is [out, in], with singular values σ; the weights w = σ² / Σσ² are the shares of ‖ΔW‖²_F that its directions carry.
"""

from numbers import Real
from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np
from jaxtyping import Float, Float64
from numpy.random import Generator
from scipy import linalg, special, stats

from helpers.subspaces.arrays import check_choice, checked_matrix
from helpers.subspaces.directions import Update, decompose_update
from helpers.subspaces.haar import Numbers, bartlett, checked_dimensions, chunks, random_overlaps
from helpers.values import passing

ROUNDING = 1e-9  # of a share of ‖ΔW‖²_F
ORTHONORMAL = 1e-4  # so far topᵀ top may lie from the identity
DRAWN_BELOW = 20  # d, below which the tail of energy is read off draws
DRAWN_REST = 64  # directions left, below which it is where the k are half of d or more
DRAWS = 20_000  # of which such a tail is made
DRAWN_NUMBERS = 1e7  # that may be drawn for it
COUNTED_UP_TO = 48  # least of out, in and r up to which random updates are counted; of larger ones few are drawn
FEWEST, FEW, LEAST = 20, 99, 999  # random updates of one shape
LARGE = 1024  # least of out, in and r from which on a draw takes a tenth of a second and more
LEAST_P = 1e-6  # that is claimed of a law fitted to few
LONGEST = 1e4  # of a Beta law, in units of the distance from its mean to its end: then it is a Gamma law


class RankUse(NamedTuple):
    """How many directions an update has, and how evenly it spreads over them.

    rank: singular values above the rounding of computing. norm: ‖ΔW‖_F. spectral: ‖ΔW‖₂. effective_rank: exp of the
    entropy of w (Roy & Vetterli 2007). stable_rank: ‖ΔW‖²_F / ‖ΔW‖²₂. k90: the fewest directions that hold 90 % of
    ‖ΔW‖²_F.
    """

    rank: int
    norm: float
    spectral: float
    effective_rank: float
    stable_rank: float
    k90: int


@passing
def rank_use(update: Update) -> RankUse:
    """The RankUse of ΔW. update: as in `directions.decompose_update`.

    Raises ValueError as that does, where ΔW is zero, and of a Decomposition that holds a part of it only.
    """
    values = _spectrum(update)
    relative = values / values[0]
    effective, stable, k90 = (each.item() for each in _spread(relative))
    return RankUse(len(values), float(values[0] * np.linalg.norm(relative)), float(values[0]), effective, stable, k90)


def random_values(
    shape: tuple[Index, Index], r: Index | None, draws: Index, rng: Generator
) -> Float64[np.ndarray, "{draws} n"]:
    """Singular values of random updates, falling.

    shape: (out, in). r: of products B A of independent standard normal [out, r] and [r, in]; None: of whole standard
    normal matrices. Their entries are not drawn but what remains of them after orthogonal steps: two triangular factors
    (Bartlett 1933), of whole matrices a bidiagonal one (Silverstein 1985).
    """
    return _values_of_whole(shape, draws, rng) if r is None else _values_of_product([*shape, r], draws, rng)


def drawn_rank_use(
    shape: tuple[Index, Index], r: Index | None, seed: Index, draws: Index = LEAST
) -> tuple[Float64[np.ndarray, "draws"], float]:
    """(effective ranks, mean k90) of random updates as in `random_values`, for `rank_p`.

    draws: where the least of out, in and r is at most 48; beyond, 99, and 20 where it is above 1,024.
    """
    least = min(*shape, r or max(shape))
    draws = draws if least <= COUNTED_UP_TO else FEW if least <= LARGE else FEWEST
    rng = np.random.default_rng([seed, *shape, r or 0])
    parts = [_spread(random_values(shape, r, n, rng)) for n in chunks(draws, least**2)]
    effective, _, k90 = (np.concatenate(part) for part in zip(*parts, strict=True))
    return effective, float(k90.mean())


def rank_p(own: Real, drawn: Float[np.ndarray, "draws"]) -> float:
    """The share of random updates whose effective rank is as low: of more than 99 counted, the own among them.

    Of fewer it is that of Student's t, of one more draw, and at least 10⁻⁶: where the least of out, in and r is above
    48 the effective rank is normal enough (skewness −0.05 ± 0.05, a true 0.012 where 0.01 is stated).
    """
    if len(drawn) > FEW:
        return float((1 + (drawn <= own).sum()) / (1 + len(drawn)))
    spread = drawn.std(ddof=1) * np.sqrt(1 + 1 / len(drawn))
    return max(LEAST_P, float(stats.t.cdf((own - drawn.mean()) / spread, len(drawn) - 1)))


@passing
def energy(top: Float[np.ndarray, "d k"], update: Update, side: str) -> float:
    """The share of ‖ΔW‖²_F in the span of `top`: ‖ΔW top‖² (side "right", inputs) or ‖topᵀ ΔW‖² ("left", outputs).

    top: k orthonormal columns. update: as in `directions.decompose_update`. Raises ValueError for another side or
    dimension, for columns that are not orthonormal, and as `rank_use`.
    """
    check_choice("side", side, ("right", "left"))
    top, found = checked_matrix(top, "top"), decompose_update(update)
    weights = shares(_spectrum(found))
    own = (found.right if side == "right" else found.left)[:, : len(weights)]
    if len(top) != len(own):
        raise ValueError(f"top has directions of R^{len(top)}, but on the {side} those of ΔW lie in R^{len(own)}")
    off = np.abs(top.T @ top - np.eye(top.shape[1])).max()
    if off > ORTHONORMAL:
        raise ValueError(f"the columns of top are not orthonormal: topᵀ top differs from the identity by {off:.3g}")
    return float(min(np.square(top.T @ own).sum(axis=0) @ weights, 1.0))


def energy_chance(k: Numbers, values: Float[np.ndarray, "n"], d: Index) -> tuple[Numbers, Numbers]:
    """Mean and variance of the energy of ΔW in k uniform random directions of R^d, exact.

    values: the n ≤ d singular values of ΔW. The mean is k/d, the variance α (Σw² − 1/d) with α = 2k(d−k) /
    (d(d−1)(d+2)), by the second moments of a uniform projector; 0 where the energy is a constant (k = d, or d equal
    values). Raises ValueError unless 1 ≤ k ≤ d are integers and the values finite, none negative and not all 0.
    """
    k, _, size = checked_dimensions(k, k, d)
    weights, d = _padded(values, d), size
    return k / d, 2 * k * (d - k) / (d * max(d - 1, 1) * (d + 2)) * np.sum((weights - 1 / d) ** 2)


def energy_tail(energy: Numbers, k: Index, values: Float[np.ndarray, "n"], d: Index) -> Numbers:
    """P(energy of ΔW in k uniform random directions of R^d ≥ energy): its p-value against chance.

    energy: numbers from what the k weakest of d directions hold to what the k strongest hold, ValueError for others;
    NaN for unknown. values: as in `energy_chance`, which says what else is refused. Where the energy is a constant P
    is 1. The law is taken to be a Beta law with the exact mean, variance and third moment, whose end is the most that k
    directions hold. That is exact of one value. Elsewhere it was held against importance sampling at 94 spectra and
    shapes, even, falling and with 20 to 90 % in one direction, d = 20 … 576 and k below d/2: P is off by at most 10 %
    at 0.01. For k ≥ 5 it is off by some 20 % at 0.001 (for d < 40 up to 1.6 times too large) and at 10⁻⁶ up to 2.4
    times too small (1.2 times for k ≥ 10 and d > 40); for k < 5 the true P may be 1.5 times the stated one at 0.001,
    2 times at 10⁻⁴ and 5 times at 10⁻⁶. Without the third moment it would be 1.7 times at 0.01.

    Where d < 20, and where k ≥ d/2 with fewer than 64 directions left, no Beta law is that close: there P is read off
    20,000 draws, always the same (fewer where k and the values are many, at least 2,000). Their error is 7 % of P at
    0.01, and P cannot fall below one in as many. Further k ≥ d/2 are within 15 % at 0.01.
    """
    checked_dimensions(k, k, d)
    k, d = int(k), int(d)
    weights, energy = _padded(values, d), np.asarray(energy, dtype=np.float64)
    least, most = weights[d - k :].sum(), weights[:k].sum()
    if (outside := energy[(energy < least - ORTHONORMAL) | (energy > most + ORTHONORMAL)]).size:
        raise ValueError(
            f"energy is {outside.flat[0]:.6g}: {k} of {d} directions hold {least:.6g} to {most:.6g} of this update"
        )
    mean, variance = energy_chance(k, values, d)
    if variance == 0:
        return np.where(np.isnan(energy), energy, 1.0)[()]
    if weights[0] < 1 and (d < DRAWN_BELOW or d - DRAWN_REST < k >= d / 2):
        drawn = np.sort(_drawn_energies(k, weights[weights > 0], d))
        reached = len(drawn) - np.searchsorted(drawn, energy - ROUNDING)
        return np.where(np.isnan(energy), energy, (1 + reached) / (1 + len(drawn)))[()]
    # from the end: how far the mean lies from it, and how long the law is for its skewness to be right
    room, spread = most - mean, np.sqrt(variance)
    skewness = _third_moment(k, weights, d) / variance / spread
    bend = 2 * spread + skewness * room
    length = LONGEST * room
    if bend > 0:
        length = min(length, (4 * room * spread + skewness * (room**2 - variance)) / bend)
    share = room / length
    size = share * (1 - share) * length**2 / variance - 1
    return special.betainc(share * size, (1 - share) * size, np.clip((most - energy) / length, 0.0, 1.0))


def falling(values: Float[np.ndarray, "n"], d: Index) -> Float64[np.ndarray, "most_d"]:
    """Singular values, falling, of d directions at most; ValueError for more, and for what are none, or all 0."""
    values = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    if values.ndim != 1 or not (np.isfinite(values) & (values >= 0)).all() or not values.any():
        raise ValueError(f"values are {values}: expected singular values, finite, none below 0 and not all 0")
    if values[d:].any():
        raise ValueError(f"there are {np.count_nonzero(values)} singular values: expected at most {d}")
    return values[:d]


def shares(values: Float[np.ndarray, "*draws n"]) -> Float64[np.ndarray, "*draws n"]:
    """The weights w = σ² / Σσ² of falling singular values, of any size."""
    squares = np.square(values / values[..., :1])
    return squares / squares.sum(axis=-1, keepdims=True)


def _spectrum(update):
    """Singular values of ΔW above rounding, falling; ValueError where there are none, or not all are known."""
    found = decompose_update(update)
    values = found.values[: found.rank()]
    if not len(values):
        raise ValueError("ΔW is zero, as of an untrained adapter: it has no directions to measure")
    if found.size > (1 + ROUNDING) * np.linalg.norm(values):
        raise ValueError(f"the decomposition holds {len(values)} directions of ΔW, not all: decompose all of it")
    return values


def _spread(values):
    """(effective rank, stable rank, k90) of falling singular values [..., n]."""
    weights = shares(values)
    effective = np.exp(special.entr(weights).sum(axis=-1))
    return effective, 1 / weights[..., 0], 1 + (weights.cumsum(axis=-1) < 0.9 - ROUNDING).sum(axis=-1)


def _values_of_product(sizes, draws, rng):
    """Singular values of products of two normal matrices, [draws, smallest size].

    They depend on the three sizes only, not on their order: the smallest is that of both triangular factors.
    """
    smallest, *larger = sorted(sizes)
    product = np.eye(smallest)
    for freedom in larger:
        product = product @ bartlett(freedom, smallest, draws, rng)
    return np.linalg.svd(product, compute_uv=False)


def _values_of_whole(shape, draws, rng):
    """Singular values of normal matrices, [draws, smaller side]: of their bidiagonal form, whose squares are χ²."""
    smaller, larger = sorted(shape)
    diagonal = rng.chisquare(larger - np.arange(smaller), (draws, smaller))
    beside = rng.chisquare(np.arange(smaller - 1, 0, -1), (draws, smaller - 1))
    rows, between = diagonal + np.pad(beside, ((0, 0), (1, 0))), np.sqrt(diagonal[:, :-1] * beside)
    squares = [linalg.eigvalsh_tridiagonal(*each, lapack_driver="sterf") for each in zip(rows, between, strict=True)]
    return np.sqrt(np.maximum(squares, 0.0))[:, ::-1]


def _padded(values, d):
    """The weights of all d directions, falling; all equal where they are so but for rounding."""
    values = falling(values, d)
    weights = np.pad(shares(values), (0, d - len(values)))
    return np.full(d, 1 / d) if weights[0] - weights[-1] <= ROUNDING * weights[0] else weights


def _third_moment(k, weights, d):
    """E (energy − k/d)³: by invariance a multiple of Σ(w − 1/d)³, the multiple that a Beta law (one value) has."""
    if k == d - k:
        return 0.0
    multiple = 8 * k * (d - k) * (d - 2 * k) / (d * (d - 1) * (d - 2) * (d + 2) * (d + 4))
    return multiple * np.sum((weights - 1 / d) ** 3)


def _drawn_energies(k, weights, d):
    """Energies of the update in k uniform random directions, of which those left are drawn where they are fewer."""
    fewer, rng = min(k, d - k), np.random.default_rng([k, len(weights), d])
    draws = int(np.clip(DRAWN_NUMBERS // (fewer * len(weights)), 2000, DRAWS))
    parts = [random_overlaps(len(weights), fewer, d, n, rng) for n in chunks(draws, fewer * len(weights))]
    held = np.concatenate([np.square(part).sum(axis=2) @ weights for part in parts])
    return held if fewer == k else 1 - held
