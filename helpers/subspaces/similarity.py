"""The φ grid between directions, one cell of it, and amplification; which part of the grid to show.

Symbols as in Hu et al. 2021 (arXiv:2106.09685v2), section 7.
"""

from collections.abc import Sequence
from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np
from jaxtyping import Float, Float64

from helpers.parameters import BadParameter
from helpers.subspaces.arrays import checked_matrix
from helpers.subspaces.directions import Update, decompose_update, top_directions


def similarity_grid(u: Float[np.ndarray, "d I"], v: Float[np.ndarray, "d J"]) -> Float64[np.ndarray, "I J"]:
    """φ(i, j) for every i ≤ I and j ≤ J at once: one matrix product and a cumulative sum of its squares.

    φ[i-1, j-1] = ‖u[:, :i]ᵀ v[:, :j]‖²_F / min(i, j), the mean cos² of the principal angles, in [0, 1] (Hu et al. 2021,
    section 7.2 and appendix G; Ham & Lee 2008). Raises ValueError when the rows differ, and when φ leaves [0, 1]
    because columns are not orthonormal.
    """
    u, v = np.asarray(u), np.asarray(v)
    if u.ndim != 2 or v.ndim != 2 or u.shape[0] != v.shape[0]:
        raise ValueError(f"u is {u.shape} and v is {v.shape}: both must be [d, directions] with the same d")
    return cumulative_phi(u.T @ v)


def cumulative_phi(overlap: Float[np.ndarray, "*pairs I J"]) -> Float64[np.ndarray, "*pairs I J"]:
    """`similarity_grid` from its product `overlap` = Uᵀ V, of one pair or many."""
    rows, columns = overlap.shape[-2:]
    phi = np.square(overlap, dtype=np.float64).cumsum(-2).cumsum(-1)
    phi /= np.minimum.outer(np.arange(1, rows + 1), np.arange(1, columns + 1))
    if not phi.max() <= 1 + 1e-4:
        raise ValueError(f"φ reaches {phi.max():.3g}, above 1: the columns of u and v must be finite and orthonormal")
    return np.minimum(phi, 1.0)


def phi(u: Float[np.ndarray, "d I"], v: Float[np.ndarray, "d J"], i: Index, j: Index) -> float:
    """φ(i, j) between the first i columns of u and the first j of v: one cell of `similarity_grid`."""
    if not (1 <= i <= u.shape[1] and 1 <= j <= v.shape[1]):
        raise ValueError(f"φ({i}, {j}) asked of {u.shape[1]} and {v.shape[1]} directions: there are not so many")
    return float(similarity_grid(u[:, :i], v[:, :j])[-1, -1])


class Amplification(NamedTuple):
    """One row of Table 7 (Hu et al. 2021, section 7.3), for one weight and one ΔW.

    rank: r, directions taken on each side.
    weight_norm: ‖W‖_F. delta_norm: ‖ΔW‖_F.
    by_delta: ‖Uᵀ W V‖_F with U, V the r leading singular directions of ΔW.
    by_weight: the same with those of W itself, its largest possible value.
    by_chance: the root mean square for random U, V: r ‖W‖_F / √(out · in).
    factor: delta_norm / by_delta, the amplification factor.
    factor_by_chance: delta_norm / by_chance, what it would be if ΔW had random directions.
    """

    rank: int
    weight_norm: float
    delta_norm: float
    by_delta: float
    by_weight: float
    by_chance: float
    factor: float
    factor_by_chance: float


def amplification(
    weight: Float[np.ndarray, "out in"],
    update: Update,
    rank: Index,
    strongest: Float[np.ndarray, "k_or_more"] | None = None,
) -> Amplification:
    """The row of Table 7 for W and ΔW at `rank` r (1 … rank of ΔW).

    update: as in `directions.decompose_update`. strongest: the r leading singular values of W, where they are known
    already. Raises ValueError for other shapes.
    """
    weight = checked_matrix(weight, "weight")
    if rank < 1:
        raise ValueError(f"rank is {rank}: expected 1 … rank of ΔW")
    of_update = decompose_update(update)
    shape = len(of_update.left), len(of_update.right)
    if weight.shape != shape:
        raise ValueError(f"W is {weight.shape} and ΔW is {shape}: they must have the same shape")
    u, v = (of_update.directions(rank, side).vectors for side in ("left", "right"))
    strongest = top_directions(weight, rank).singular_values if strongest is None else strongest[:rank]
    weight_norm, delta_norm = float(np.linalg.norm(weight)), float(of_update.size)
    by_delta, by_weight = float(np.linalg.norm(u.T @ weight @ v)), float(np.linalg.norm(strongest))
    by_chance = float(rank * weight_norm / np.sqrt(weight.size))
    factors = (delta_norm / by if by else np.inf for by in (by_delta, by_chance))
    return Amplification(rank, weight_norm, delta_norm, by_delta, by_weight, by_chance, *factors)


def choose_window(
    d: Index, available: Index, ranks: Sequence[Index], first_i: Index = 0, last_i: Index = 0, last_j: Index = 0
) -> tuple[Index, Index, Index]:
    """The rows i and columns j to show, in data units; 0 means: choose.

    d: dimension of the space. available: directions that W has (its rank, at most d). ranks: directions of each
    adapter. Chosen rows begin at the share of d where the paper's figure 8 does, i = 451 at d = 12288 or 3.7 %, and
    end at a tenth of d (the figure's last tick, 1176, is at 9.6 %). Chosen columns go up to the first row, as there,
    where chance is i/d.

    Returns (first_i, last_i, last_j). Raises BadParameter when a bound leaves 1 … available, or the rows are empty,
    or last_j exceeds the greatest rank.
    """
    first = first_i or max(1, min(round(451 / 12288 * d), last_i or available))
    last = last_i or max(first, min(round(0.1 * d), available))
    if not 1 <= first <= last <= available:
        raise BadParameter(
            f"rows i = {first} … {last} asked for (first_i … last_i): they must lie within 1 … {available}, "
            "the first not above the last"
        )
    most = max(ranks)
    if not 0 <= last_j <= most:
        raise BadParameter(
            f"last_j = {last_j} columns asked for, but the adapters have at most {most} directions: "
            f"last_j must be 1 … {most}, or 0 to choose"
        )
    return first, last, last_j or min(first, most)


def choose_pairs(ranks: Sequence[Index]) -> tuple[tuple[int, int] | None, tuple[int, ...] | None]:
    """Which adapters to hold against each other, as positions in `ranks`.

    Returns (small, large), the first of the second greatest rank and the first of the greatest (None if all ranks are
    equal), and (one, other), the first two of the greatest rank that occurs twice (None if none does).
    """
    different = sorted(set(ranks))[-2:]
    repeated = [rank for rank in sorted(set(ranks)) if ranks.count(rank) > 1]
    positions = [n for n, rank in enumerate(ranks) if repeated and rank == repeated[-1]]
    return (
        tuple(ranks.index(rank) for rank in different) if len(different) == 2 else None,
        tuple(positions[:2]) or None,
    )
