"""Leading singular directions of matrices and of products B A, with a bound on what rounding may do to φ.

Symbols as in Hu et al. 2021 (arXiv:2106.09685v2), section 7: W is [out, in], A is [r, in], B is [out, r], and
ΔW = scale · B A. The right singular directions live in the input space, the left ones in the output space.
"""

from numbers import Real
from typing import Any, NamedTuple, Protocol, runtime_checkable
from typing import SupportsIndex as Index

import numpy as np
from jaxtyping import Float, Float64
from scipy import linalg

from helpers.subspaces import krylov
from helpers.subspaces.arrays import EPS, as_array, check_choice, checked_matrix, finite, norm, round_off
from helpers.values import passing

FULL_SVD_SIZE = 1024  # up to this smaller side a full SVD takes under a second
GRAM_SIZE = 2048  # up to this one the Gram matrix takes a second or two; both grow with its cube
WAITED_FOR = 4096  # up to this one "auto" decomposes the whole matrix where Krylov spaces do not tell directions apart
GRAM_PHI_ERROR = 1e-6  # the Gram matrix squares the condition number: beyond this error "auto" turns to the SVD
UNSETTLED = 0.1  # bound on φ from which on directions are not told apart


class Directions(NamedTuple):
    """Leading singular directions of a matrix.

    vectors: orthonormal columns, the strongest first. singular_values: falling. errors: bounds on what rounding, as
    stored and as computed, and an iteration that ended may do to φ of the first 1, 2, … k directions with whatever
    others. phi_error: the largest of them; near 1 where two singular values agree to within rounding: what lies
    between them is then not determined by the matrix. note: a sentence where that is so after the k-th, or empty.
    """

    vectors: Float64[np.ndarray, "d k"]
    singular_values: Float64[np.ndarray, "k"]
    phi_error: float
    errors: Float64[np.ndarray, "k"]
    note: str = ""


class Rounding(NamedTuple):
    """What storing numbers with a unit round-off may have changed in a matrix, in the spectral norm.

    bound: the most, reached where all numbers were rounded one way. usual: what independent roundings come to, with a
    factor of about 2 to spare; what does not rise above it is no direction.
    """

    bound: float
    usual: float


EXACT = Rounding(0.0, 0.0)


class Decomposition(NamedTuple):
    """Both sides of a singular value decomposition, or its leading part: k directions, and k values or more.

    size: Frobenius norm of the matrix. computed: a bound on what the computation's own rounding may have changed in the
    matrix, in the spectral norm. floor: below this a value is not told from zero by the computation. Of an iteration,
    which counts its rounding there: sines [k], bounds on the sines of the angles that the first 1, 2, … directions make
    with the true ones; off [k or more]: how much larger the true values may be.
    """

    left: Float64[np.ndarray, "m k"]
    values: Float64[np.ndarray, "k_or_more"]
    right: Float64[np.ndarray, "n k"]
    size: float
    computed: float
    floor: float
    sines: Float64[np.ndarray, "k"] | None = None
    off: Float64[np.ndarray, "k_or_more"] | None = None

    def rank(self, usual: Real = 0.0) -> int:
        """How many values rise above the rounding of the computation, and of storing: see `Rounding`."""
        return int((self.values > max(usual + self.computed, self.floor)).sum())

    def directions(self, k: Index, side: str = "right", stored: Rounding = EXACT) -> Directions:
        """The first k Directions of one side; stored: a Rounding. Raises ValueError when k exceeds the rank."""
        check_choice("side", side, ("right", "left"))
        if k > (rank := self.rank(stored.usual)):
            raise ValueError(f"{k} directions asked of a matrix of rank {rank}: it has no more than {rank}")
        vectors = self.right if side == "right" else self.left
        if k > vectors.shape[1]:
            raise ValueError(f"{k} directions asked of a decomposition that holds the first {vectors.shape[1]}")
        errors = self.errors(k, stored.bound)
        return Directions(vectors[:, :k], self.values[:k], errors.max(), errors, self._note(k, stored, errors[-1]))

    def errors(self, k: Index, stored: Real = 0.0) -> Float64[np.ndarray, "{k}"]:
        """Bounds on what φ of the first 1, 2, … k may be off. stored: a bound on the rounding of storing."""
        errors = phi_errors(self.values, k, stored + self.computed, 0.0 if self.off is None else self.off)
        return errors if self.sines is None else np.minimum(1.0, errors + self.sines[:k])

    def _note(self, k, stored, error):
        after = np.append(self.values, 0.0)[k]
        if self.values[k - 1] - after <= 2 * max(stored.usual, self.computed) and after > 0:
            return (
                f"singular values {k} and {k + 1} agree to within the rounding of storing: their directions are any "
                "of many"
            )
        if self.sines is not None and self.sines[k - 1] > UNSETTLED:
            return f"iteration has not told the first {k} directions from the next: φ of them may be off by {error:.2g}"
        return ""

    def scaled(self, factor: Real) -> "Decomposition":
        """The Decomposition of the matrix times a factor, which if negative turns the left directions round."""
        names = ["values", "size", "computed", "floor"] + ([] if self.off is None else ["off"])
        sizes = {name: abs(factor) * getattr(self, name) for name in names}
        return self._replace(left=-self.left if factor < 0 else self.left, **sizes)


@runtime_checkable
class LowRank(Protocol):
    """Anything with ΔW = scale · b @ a."""

    a: Float[np.ndarray, "r in"]
    b: Float[np.ndarray, "out r"]
    scale: Real


@runtime_checkable
class Dense(Protocol):
    """Anything with ΔW as a whole, `difference`."""

    difference: Float[np.ndarray, "out in"]


Factors = tuple[Float[np.ndarray, "out r"], Float[np.ndarray, "r in"]]
Update = Float[np.ndarray, "out in"] | Factors | Decomposition | LowRank | Dense


@passing
def top_directions(
    matrix: Float[Any, "m n"],
    k: Index | None,
    side: str = "right",
    method: str = "auto",
    precision: Real | None = None,
) -> Directions:
    """The k leading singular directions of `matrix`, an array or a torch tensor; None: all, as many as its rank.

    side: "right" (directions in R^n) or "left" (in R^m). method: as in `decompose`. precision: unit round-off of the
    numbers as they were stored, relative to the matrix in the Frobenius norm (None: half the eps of the dtype).
    Raises ValueError for an unknown side or method, a matrix that is not 2-D, empty or not finite, and for k outside
    1 … rank, where singular values count that rise above the rounding of storing and computing.
    """
    check_choice("side", side, ("right", "left"))
    precision = round_off(matrix) if precision is None else precision
    matrix = as_array(matrix)
    found = decompose(matrix, min(np.shape(matrix), default=0) if k is None else k, method)
    stored = rounding(matrix, precision)
    return found.directions(max(found.rank(stored.usual), 1) if k is None else k, side, stored)


def decompose(
    matrix: Float[Any, "m n"], k: Index, method: str = "auto", needed: Index | None = None, usual: Real = 0.0
) -> Decomposition:
    """The Decomposition of `matrix` with at least its k leading directions, on both sides.

    method: "svd" decomposes the whole matrix; "gram" finds the leading eigenvectors of MᵀM (or MMᵀ) only, and costs
    less when k is small; both are exact but for the rounding of float64. "krylov" is block Lanczos in float32, whose
    vectors are as exact as `sines` say; what it takes in time grows with the square of the sides, not the cube, and
    beside the matrix little memory. "auto" decomposes the whole matrix when a side is at most 1,024 or k more than a
    quarter of the smaller. Otherwise it takes "gram" up to 2,048, and turns to "svd" when its error would exceed 1e-6;
    above, "krylov", and up to 4,096 turns to "svd" where iteration leaves open (by more than 0.1 of φ) what the numbers
    as stored determine. needed: how many of the k directions must be so exact (None: all), as far as they rise above
    `usual`, that of a Rounding.
    """
    matrix = finite(as_array(matrix), "matrix")
    check_choice("method", method, ("auto", "svd", "gram", "krylov"))
    smaller = min(matrix.shape)
    if not 1 <= k <= smaller:
        raise ValueError(
            f"k = {k} directions asked of a {matrix.shape[0]} × {matrix.shape[1]} matrix: k must be 1 … {smaller}"
        )
    if method != "auto":
        return _by(method, matrix, k)
    if smaller > FULL_SVD_SIZE and 4 * k <= smaller:
        found = _by("gram" if smaller <= GRAM_SIZE else "krylov", matrix, k)
        if _settled(found, k if needed is None else needed, usual, matrix):
            return found
    return _by("svd", matrix, k)


def decompose_product(b: Float[np.ndarray, "m r"], a: Float[np.ndarray, "r n"]) -> Decomposition:
    """The Decomposition of b @ a, without forming or decomposing the product: two thin QRs and one r × r SVD.

    Raises ValueError when the shapes do not fit, and when a value is not finite.
    """
    b, a = checked_matrix(b, "b"), checked_matrix(a, "a")
    if b.shape[1] != a.shape[0]:
        raise ValueError(f"b is {b.shape} and a is {a.shape}: the columns of b must be as many as the rows of a")
    q_left, r_left = np.linalg.qr(b)
    q_right, r_right = np.linalg.qr(a.T)
    left, values, right = np.linalg.svd(r_left @ r_right.T)
    computed = max(b.shape[0], a.shape[1]) * EPS * np.linalg.norm(r_left) * np.linalg.norm(r_right)
    k, size = len(values), np.linalg.norm(values)
    return Decomposition(q_left @ left[:, :k], values, q_right @ right[:k].T, size, computed, computed)


def decompose_update(update: Update) -> Decomposition:
    """The Decomposition of ΔW, all of its directions, from whatever holds it.

    update: ΔW; its factors (b, a), or what has them as .b, .a and .scale, which are not multiplied out; what has it as
    .difference; or a Decomposition, given back as it is. A negative scale turns the left directions round. Raises
    ValueError for anything else, as `decompose` and `decompose_product`, and for a scale that is not finite.
    """
    if isinstance(update, Decomposition):
        return update
    if isinstance(update, LowRank):
        if not np.isfinite(update.scale):
            raise ValueError(f"the scale of the update is {update.scale}: expected a finite number")
        return decompose_product(update.b, update.a).scaled(update.scale)
    if isinstance(update, tuple):
        if len(update) != 2:
            raise ValueError(f"the update is a tuple of {len(update)}: expected the two factors (b, a)")
        return decompose_product(*update)
    matrix = checked_matrix(update.difference if isinstance(update, Dense) else update, "the update")
    return decompose(matrix, min(matrix.shape))


def rounding(matrix: Float[Any, "m n"], precision: Real | None = None) -> Rounding:
    """The Rounding of a matrix whose numbers were stored with this precision: as in `top_directions`.

    The bound is u‖M‖_F; independent roundings have singular values up to about that times (1/√m + 1/√n) / √3.
    """
    precision = round_off(matrix) if precision is None else precision
    size = precision * norm(finite(as_array(matrix), "matrix"))
    return Rounding(size, size * _share(np.shape(matrix)))


def rounding_of_product(b: Float[np.ndarray, "m r"], a: Float[np.ndarray, "r n"], precision: Real) -> Rounding:
    """The Rounding of b @ a whose factors were stored with this unit round-off u.

    The bound is u (‖A‖_F ‖B‖₂ + ‖A‖₂ ‖B‖_F + u ‖A‖_F ‖B‖_F): every number moves by u of itself at most.
    """
    a, b = checked_matrix(a, "a"), checked_matrix(b, "b")
    (a2, af), (b2, bf) = ((np.linalg.norm(m, 2), np.linalg.norm(m)) for m in (a, b))
    usual = precision * (af * _share(a.shape) * b2 + a2 * bf * _share(b.shape))
    return Rounding(float(precision * (af * b2 + a2 * bf + precision * af * bf)), float(usual))


def low_rank_directions(
    b: Float[np.ndarray, "m r"], a: Float[np.ndarray, "r n"], side: str = "right", precision: Real | None = None
) -> Directions:
    """All singular directions of b @ a, as many as its rank, without forming or decomposing the product.

    precision: unit round-off of their numbers as stored (None: that of the arrays' dtypes). Raises ValueError as
    `decompose_product`, and when b @ a is zero (an untrained adapter): a zero matrix has no directions.
    """
    precision = max(round_off(b), round_off(a)) if precision is None else precision
    found, stored = decompose_product(b, a), rounding_of_product(b, a, precision)
    if not (rank := found.rank(stored.usual)):
        raise ValueError("b @ a is zero, so it has no directions; of an untrained adapter compare factor A")
    return found.directions(rank, side, stored)


def phi_errors(
    values: Float[np.ndarray, "k_or_more"],
    k: Index,
    perturbation: Real,
    off: Float64[np.ndarray, "k_or_more"] | Real = 0.0,
) -> Float64[np.ndarray, "{k}"]:
    """How far φ of the first 1, 2, … k directions may move when the matrix moves by `perturbation`, at most 1.

    values: singular values, the next after k among them if there is one; perturbation: in the spectral norm; off: how
    much larger the true values may be. φ moves by no more than the sine of the largest angle between the subspaces, and
    that is at most E / (gap − E) (Wedin 1972).
    """
    gaps = (values - np.append((values + off)[1:], 0.0))[:k]
    return np.minimum(1.0, perturbation / np.maximum(gaps - perturbation, np.finfo(float).tiny))


def _by(method, matrix, k):
    return {"svd": _by_svd, "gram": _by_gram, "krylov": _by_krylov}[method](matrix, k)


def _settled(found, needed, usual, matrix):
    """Whether what a quick method found is good enough for "auto"."""
    rank = found.rank(usual)
    if found.sines is None:
        above = rank >= needed or found.floor <= usual
        return above and phi_errors(found.values, needed, found.computed)[:rank].max() < GRAM_PHI_ERROR
    if not (count := min(needed, rank)) or min(matrix.shape) > WAITED_FOR:
        return True
    determined = phi_errors(found.values, count, rounding(matrix).bound) <= UNSETTLED
    return not (determined & (found.errors(count) > UNSETTLED)).any()


def _by_svd(matrix, _):
    left, values, rows = linalg.svd(matrix.astype(np.float64, copy=False), full_matrices=False, check_finite=False)
    computed = max(matrix.shape) * EPS * values[0]
    return Decomposition(left, values, rows.T, np.linalg.norm(values), computed, computed)


def _by_krylov(matrix, k):
    size = norm(matrix)
    if not size:
        return Decomposition(np.eye(len(matrix), k), np.zeros(k), np.eye(matrix.shape[1], k), 0.0, 0.0, 0.0)
    left, values, right, sines, off = krylov.leading(matrix, k)
    return Decomposition(left, values, right, size, 0.0, krylov.FLOOR * size, sines, off)


def _by_gram(matrix, k):
    """Eigenvectors of the smaller of MᵀM and MMᵀ; those of the other side are carried over by M."""
    matrix = matrix.astype(np.float64, copy=False)
    wide = matrix.shape[0] < matrix.shape[1]
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    n, size = len(gram), max(matrix.shape)
    squares, vectors = linalg.eigh(gram, subset_by_index=(max(0, n - k - 1), n - 1), check_finite=False)
    values, vectors = np.sqrt(np.maximum(squares[::-1], 0.0)), vectors[:, ::-1][:, :k]
    floor = np.sqrt(size * EPS) * values[0]
    other = (matrix.T if wide else matrix) @ (vectors / np.maximum(values[:k], floor))
    left, right = (vectors, other) if wide else (other, vectors)
    # σ² moves by size · EPS · σ₁², and σ by that over twice itself
    computed = size * EPS * values[0] ** 2 / max(values[k - 1], floor)
    return Decomposition(left, values, right, np.linalg.norm(matrix), computed, floor)


def _share(shape):
    """Spectral over Frobenius norm of independent numbers of one size, at most 1."""
    return min(1.0, sum(size**-0.5 for size in shape))
