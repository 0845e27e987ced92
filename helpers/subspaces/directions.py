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
    given, matrix = matrix, checked_matrix(matrix, "matrix")
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
    b, a = checked_matrix(b, "b"), checked_matrix(a, "a")
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


def checked_matrix(matrix, name):
    """`matrix` as float64; ValueError, which calls it by `name`, unless it is 2-D, not empty and finite."""
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} has shape {matrix.shape}: expected two dimensions, neither of them zero")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} holds NaN or Inf: singular directions need finite values")
    return matrix


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: expected one of {', '.join(choices)}")
