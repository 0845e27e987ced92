"""Leading singular directions of matrices and adapters, the φ grid between them, and amplification.

Symbols as in Hu et al. 2021 (arXiv:2106.09685v2), section 7: W is [out, in], A is [r, in], B is [out, r], and
ΔW = scale · B A. The right singular directions live in the input space, the left ones in the output space.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg

EPS = np.finfo(float).eps
FULL_SVD_SIZE = 1024  # up to this smaller side a full SVD takes under a second
GRAM_PHI_ERROR = 1e-6  # the Gram matrix squares the condition number: beyond this error "auto" turns to the SVD


class Directions(NamedTuple):
    """Leading singular directions of a matrix.

    vectors: [d, k] float64, orthonormal columns, the strongest first.
    singular_values: [k] float64, falling.
    phi_error: a bound, to first order, on the rounding error of φ at any i ≤ k: the unit round-off of the
        computation over the smallest relative gap below one of the k singular values, at most 1. It is near 1
        where two singular values agree, because the direction is then not determined by the matrix.
    """

    vectors: np.ndarray
    singular_values: np.ndarray
    phi_error: float


def top_directions(matrix, k, side="right", method="auto"):
    """The k leading singular directions of `matrix`.

    matrix: [m, n], real. k: 1 … rank of the matrix. side: "right" (directions in R^n) or "left" (in R^m).
    method: "svd" decomposes the whole matrix; "gram" finds the leading eigenvectors of MᵀM (or MMᵀ) only, and
    costs less when k is small; "auto" tries "gram" when both sides exceed 1,024 and k is at most a quarter of
    the smaller, and turns to "svd" when its error would exceed 1e-6. Both are exact but for the rounding that
    `phi_error` reports.

    Returns Directions. Raises ValueError for an unknown side or method, a matrix that is not 2-D, empty or not
    finite, and for k outside 1 … rank, where singular values count that rise above the round-off of the matrix's dtype.
    """
    given, matrix = matrix, _checked_matrix(matrix, "matrix")
    _check_choice("side", side, ("right", "left"))
    _check_choice("method", method, ("auto", "svd", "gram"))
    smaller = min(matrix.shape)
    if not 1 <= k <= smaller:
        raise ValueError(
            f"k = {k} directions asked of a {matrix.shape[0]} × {matrix.shape[1]} matrix: k must be 1 … {smaller}"
        )
    if side == "left":
        matrix = matrix.T
    precision = _precision(given)
    methods = (method,)
    if method == "auto":
        methods = ("gram", "svd") if smaller > FULL_SVD_SIZE and 4 * k <= smaller else ("svd",)
    for name in methods:
        values, vectors, error, floor = (_by_gram if name == "gram" else _by_svd)(matrix, k, precision)
        if values[-1] > floor and error < GRAM_PHI_ERROR:
            break
    if values[-1] <= floor:
        rank = int((values > floor).sum())
        raise ValueError(
            f"{k} directions asked of a matrix of rank {rank}: it has no more than {rank} (so last_i at most that)"
        )
    return Directions(vectors, values, error)


def low_rank_directions(b, a, side="right"):
    """All singular directions of b @ a, without forming or decomposing the product.

    b: [m, r], a: [r, n]. Two thin QRs and one r × r SVD. The result has as many directions as b @ a has rank,
    at most r. Raises ValueError when the shapes do not fit, when a value is not finite, and when b @ a is zero
    (an untrained adapter): a zero matrix has no directions.
    """
    precision = max(_precision(b), _precision(a))
    b, a = _checked_matrix(b, "b"), _checked_matrix(a, "a")
    _check_choice("side", side, ("right", "left"))
    if b.shape[1] != a.shape[0]:
        raise ValueError(f"b is {b.shape} and a is {a.shape}: the columns of b must be as many as the rows of a")
    q_left, r_left = np.linalg.qr(b)
    q_right, r_right = np.linalg.qr(a.T)
    left, values, right = np.linalg.svd(r_left @ r_right.T)
    scale = max(b.shape[0], a.shape[1]) * np.linalg.norm(r_left) * np.linalg.norm(r_right)
    rank = int((values > scale * precision).sum())
    if rank == 0:
        raise ValueError("b @ a is zero, so it has no directions; of an untrained adapter compare factor A")
    vectors = q_right @ right.T if side == "right" else q_left @ left
    return Directions(vectors[:, :rank], values[:rank], _phi_error(values, rank, scale * EPS))


def factor_directions(a, b=None, factor="A", side="right"):
    """Singular directions of an adapter: of its factor "A", or of the product "BA" that is added to the weight.

    a: [r, in]. b: [out, r], needed for factor "BA" only. The left directions of A alone lie in R^r and meet none of
    W, so side "left" needs factor "BA". Returns Directions; raises ValueError as `low_rank_directions` does.
    """
    _check_choice("factor", factor, ("A", "BA"))
    if factor == "BA":
        return low_rank_directions(b, a, side)
    if side == "left":
        raise ValueError(
            'side "left" with factor "A", whose left directions lie in R^r: use factor "BA", or side "right"'
        )
    return low_rank_directions(np.eye(len(a), dtype=np.asarray(a).dtype), a, side)


def similarity_grid(u, v):
    """φ(i, j) for every i ≤ I and j ≤ J at once: one matrix product and a cumulative sum of its squares.

    u: [d, I], v: [d, J], orthonormal columns. Returns φ [I, J] float64 with
    φ[i-1, j-1] = ‖u[:, :i]ᵀ v[:, :j]‖²_F / min(i, j), the mean cos² of the principal angles, in [0, 1]
    (Hu et al. 2021, section 7.2 and appendix G; Ham & Lee 2008).
    Raises ValueError when the rows differ, and when φ leaves [0, 1] because columns are not orthonormal.
    """
    u, v = np.asarray(u), np.asarray(v)
    if u.ndim != 2 or v.ndim != 2 or u.shape[0] != v.shape[0]:
        raise ValueError(f"u is {u.shape} and v is {v.shape}: both must be [d, directions] with the same d")
    return cumulative_phi(u.T @ v)


def cumulative_phi(overlap):
    """`similarity_grid` from its product `overlap` = Uᵀ V, [..., I, J], of one pair or many: φ of the same shape."""
    rows, columns = overlap.shape[-2:]
    phi = np.square(overlap, dtype=np.float64).cumsum(-2).cumsum(-1)
    phi /= np.minimum.outer(np.arange(1, rows + 1), np.arange(1, columns + 1))
    if not phi.max() <= 1 + 1e-4:
        raise ValueError(f"φ reaches {phi.max():.3g}, above 1: the columns of u and v must be finite and orthonormal")
    return np.minimum(phi, 1.0)


def phi(u, v, i, j):
    """φ(i, j) between the first i columns of u [d, I] and the first j of v [d, J]: one cell of `similarity_grid`."""
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


def amplification(weight, delta, rank):
    """The row of Table 7 for `weight` W and `delta` ΔW, both [out, in], at `rank` r (1 … rank of ΔW)."""
    weight, delta = _checked_matrix(weight, "weight"), _checked_matrix(delta, "delta")
    if weight.shape != delta.shape:
        raise ValueError(f"W is {weight.shape} and ΔW is {delta.shape}: they must have the same shape")
    v, strengths, _ = top_directions(delta, rank)
    u = delta @ v / strengths
    weight_norm, delta_norm, by_delta = (float(np.linalg.norm(m)) for m in (weight, delta, u.T @ weight @ v))
    by_weight = float(np.linalg.norm(top_directions(weight, rank).singular_values))
    by_chance = float(rank * weight_norm / np.sqrt(weight.size))
    factors = (delta_norm / by if by else np.inf for by in (by_delta, by_chance))
    return Amplification(rank, weight_norm, delta_norm, by_delta, by_weight, by_chance, *factors)


def choose_window(d, available, ranks, first_i=0, last_i=0, last_j=0):
    """The rows i and columns j to show, in data units; 0 means: choose.

    d: dimension of the space. available: directions that W has (its rank, at most d). ranks: directions of each
    adapter. Chosen rows begin at the share of d where the paper's figure 8 does, i = 451 at d = 12288 or 3.7 %, and
    end at a tenth of d (the figure's last tick, 1176, is at 9.6 %). Chosen columns go up to the first row, as there,
    where chance is i/d.

    Returns (first_i, last_i, last_j). Raises ValueError when a bound leaves 1 … available, or the rows are empty,
    or last_j exceeds the greatest rank.
    """
    first = first_i or max(1, min(round(451 / 12288 * d), last_i or available))
    last = last_i or max(first, min(round(0.1 * d), available))
    if not 1 <= first <= last <= available:
        raise ValueError(
            f"rows i = {first} … {last} asked for (first_i … last_i): they must lie within 1 … {available}, "
            "the first not above the last"
        )
    most = max(ranks)
    if not 0 <= last_j <= most:
        raise ValueError(
            f"last_j = {last_j} columns asked for, but the adapters have at most {most} directions: "
            f"last_j must be 1 … {most}, or 0 to choose"
        )
    return first, last, last_j or min(first, most)


def choose_pairs(ranks):
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


def _by_svd(matrix, k, precision):
    _, values, rows = linalg.svd(matrix, full_matrices=False, check_finite=False)
    size = max(matrix.shape)
    return values[:k], rows[:k].T, _phi_error(values, k, size * EPS * values[0]), size * precision * values[0]


def _by_gram(matrix, k, precision):
    """Eigenvectors of the smaller of MᵀM and MMᵀ; those of MMᵀ are carried over by Mᵀ."""
    wide = matrix.shape[0] < matrix.shape[1]
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    n, size = len(gram), max(matrix.shape)
    squares, vectors = linalg.eigh(gram, subset_by_index=(max(0, n - k - 1), n - 1), check_finite=False)
    squares, vectors = np.maximum(squares[::-1], 0.0), vectors[:, ::-1][:, :k]
    values = np.sqrt(squares)
    floor = max(np.sqrt(size * EPS), size * precision) * values[0]
    if wide:
        vectors = matrix.T @ (vectors / np.maximum(values[:k], floor))
    return values[:k], vectors, _phi_error(squares, k, size * EPS * squares[0]), floor


def _phi_error(values, k, perturbation):
    """Davis & Kahan (1970): sin of the angle between true and computed subspace ≤ perturbation / gap."""
    gaps = -np.diff(np.append(values, 0.0))[:k]
    return float(min(1.0, perturbation / max(gaps.min(), np.finfo(float).tiny)))


def _precision(matrix):
    """Unit round-off of the numbers as they were given: what is smaller, relative to the largest, is noise."""
    kind = np.asarray(matrix).dtype
    return float(np.finfo(kind).eps) if kind.kind == "f" else EPS


def _checked_matrix(matrix, name):
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} has shape {matrix.shape}: expected two dimensions, neither of them zero")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} holds NaN or Inf: singular directions need finite values")
    return matrix


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: expected one of {', '.join(choices)}")
