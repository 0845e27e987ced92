"""Intruders: leading left singular vectors of W + ΔW that resemble no singular vector of W; their null, and tests.

Shuttleworth et al. 2024 (arXiv:2410.21228) count them. Random directions with the singular values of ΔW make intruders
as well, so that a count says little by itself. All is computed in the bases of W, where W + ΔW is a diagonal matrix
plus one of the rank of ΔW, and a leading vector's cosines with those of W are its coordinates.
"""

from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np
from jaxtyping import Float, Float64
from numpy.random import Generator
from scipy import linalg
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from helpers.subspaces import haar, nulls
from helpers.subspaces.arrays import EPS, checked_matrix
from helpers.subspaces.directions import Decomposition, Update, decompose, decompose_update, rounding

LEADING = 10  # directions of W + ΔW that are asked, and
EPSILON = 0.5  # the cosine below which one is an intruder: as in PEFT
DRAWS = 399  # for a test; p cannot fall below 1 / (DRAWS + 1)
EXPECTED_DRAWS = 8  # of which `expected_intruders` is the mean
SMALL = 64  # side up to which a whole SVD costs no more than a few vectors
NEGLIGIBLE = 1e-6  # of the largest eigenvalue of the Gram matrix, whose eigenvectors below that are coarse
NEAR = 1e-3  # relative error of the value that tells whether a copy was missed
NOTHING = "W is zero: it has no directions to hold those of W + ΔW against"
ROUNDED = 4  # times the rounding of one decomposition: that of two, and of their products
DRAWN, ROUGH = 1e-9, 1e-2  # relative errors of squared singular values of draws, and for a mean count
DECIMALS = 12  # of 1 − cos² that are not rounding


class Intruders(NamedTuple):
    """The k leading left singular vectors of W + ΔW, held against those of W.

    cosines: of each the largest |cosine| with a singular vector of W. values: singular values of W + ΔW. count: how
    many cosines are below ε. expected: how many the singular values of W and ΔW predict, see `expected_intruders`.
    """

    cosines: Float64[np.ndarray, "k"]
    values: Float64[np.ndarray, "k"]
    count: int
    expected: float


class IntruderTest(NamedTuple):
    """Do the leading vectors leave those of W more than random directions of ΔW would make them?

    statistic: T = Σ (1 − cos²) over the k vectors. statistic_mean, counts_mean: means of T and of the number of
    intruders over the draws. p: share of T, the observed one among the draws, that are as large. each_p: the same of
    every vector; each_p_holm: corrected for k.
    """

    statistic: float
    p: float
    each_p: Float64[np.ndarray, "k"]
    each_p_holm: Float64[np.ndarray, "k"]
    statistic_mean: float
    counts_mean: float


def intruders(weight: Float[np.ndarray, "out in"] | Decomposition, update: Update, k: Index = LEADING) -> Intruders:
    """The `Intruders` among the k leading left singular vectors of W + ΔW: those with all |cosines| below ε.

    weight: W, or its Decomposition with all its directions, which serves many updates. update: as in
    `directions.decompose_update`. The count is that of `peft.tuners.lora.intruders`, but in float64, and for two cases
    in which PEFT's depends on the choice of a basis: directions in which W is zero to within rounding are no directions
    of W here; and where singular values of W agree to within rounding, the cosine is that with all their subspace.

    Raises ValueError for W zero, for values that are not finite, for shapes that differ, for a Decomposition that
    lacks directions, and for k outside 1 … rank of W + ΔW.
    """
    weight, update = _of_weight(weight), decompose_update(update)
    cosines, values = leading_cosines(weight, update, k)
    values_of = (found.values[: found.rank()] for found in (weight, update))
    expected = expected_intruders(*values_of, (len(weight.left), len(weight.right)), k)
    return Intruders(cosines, values, int((cosines < EPSILON).sum()), expected)


def leading_cosines(
    weight: Float[np.ndarray, "out in"] | Decomposition, update: Update, k: Index = LEADING
) -> tuple[Float64[np.ndarray, "{k}"], Float64[np.ndarray, "{k}"]]:
    """(cosines, values) of `intruders`, without what is expected, at a fraction of the cost."""
    weight, update = _of_weight(weight), decompose_update(update)
    shape, other = ((len(found.left), len(found.right)) for found in (weight, update))
    if shape != other:
        raise ValueError(f"W is {shape} and ΔW is {other}: they must have the same shape")
    _check_k(k, min(shape))
    rank, strong = _rank("W", weight), _rank("ΔW", update)
    if not rank:
        raise ValueError(NOTHING)
    sides = []
    for basis, vectors in ((weight.left[:, :rank], update.left), (weight.right[:, :rank], update.right)):
        inside = basis.T @ vectors[:, :strong]
        outside = vectors[:, :strong] - basis @ inside if len(basis) > rank else inside[:0]
        sides.append(_coordinates(inside, outside))
    changed = _Changed(weight.values[:rank], update.values[:strong], *sides, weight.computed)
    values, vectors = changed.leading(k)
    return changed.cosines(vectors), values


def expected_intruders(
    weight_values: Float[np.ndarray, "n"],
    update_values: Float[np.ndarray, "m"],
    shape: tuple[Index, Index],
    k: Index = LEADING,
) -> float:
    """How many of the k leading vectors are intruders, in the mean, where ΔW has random directions.

    weight_values, update_values, shape: as in `draw_cosines`, which raises the same. It is the mean of EXPECTED_DRAWS
    draws, always the same ones, and costs some 20 ms at d = 576; for a whole ΔW as much as some decompositions. On the
    adapters of MiniLM in `data/`, and on products of random factors of rank 4 … 64 whose norm is 0.1 … 3 times that of
    W, it is off the mean of 100 draws by 0.10 and 0.06 on average, and by at most 0.6. (The equation of outliers of
    Benaych-Georges & Nadakuditi 2012, asked in every gap of W's values with equal shares of its directions, was off by
    0.2 and 0.45 there, and by up to 6: it takes the directions of ΔW one by one, and where several are about as strong
    as W's leading ones, they mix.)
    """
    drawn = _drawn(weight_values, update_values, shape, k, EXPECTED_DRAWS, np.random.default_rng(0), ROUGH)
    return float((drawn < EPSILON).sum(1).mean())


def draw_cosines(
    weight_values: Float[np.ndarray, "n"],
    update_values: Float[np.ndarray, "m"],
    shape: tuple[Index, Index],
    k: Index,
    draws: Index,
    rng: Generator,
) -> Float64[np.ndarray, "{draws} {k}"]:
    """`Intruders.cosines` where ΔW keeps its singular values but has uniform random directions on both sides.

    weight_values, update_values: singular values of W and ΔW, falling; shape: theirs, (out, in). Each draw finds the
    leading vectors of diag(S) + P diag(σ) Qᵀ, with Haar frames P in R^out and Q in R^in. Raises ValueError for values
    that are negative, not finite or more than the smaller side, for W zero, k above the rank of such a matrix, and
    fewer than 2 draws.
    """
    haar.check_draws(draws)
    return _drawn(weight_values, update_values, shape, k, draws, rng, DRAWN)


def intruder_test(cosines: Float[np.ndarray, "k"], drawn: Float[np.ndarray, "draws k"]) -> IntruderTest:
    """The `IntruderTest` of `Intruders.cosines` against `draw_cosines` of the same singular values.

    Where W and ΔW have no relation, a p-value is at most α with a probability of at most α; none can fall below
    1 / (draws + 1). ValueError where k differs.
    """
    departures = _departures(cosines, drawn)
    totals = departures.sum(1)
    p, each_p = (nulls.monte_carlo_p(found[0], found[1:]) for found in (totals, departures))
    counts = (np.asarray(drawn) < EPSILON).sum(1)
    return IntruderTest(
        float(totals[0]), float(p), each_p, nulls.holm(each_p), float(totals[1:].mean()), float(counts.mean())
    )


def tested(
    weight: Float[np.ndarray, "out in"] | Decomposition, update: Update, rng: Generator, draws: Index = DRAWS
) -> tuple[Intruders, Float64[np.ndarray, "{draws} k"], IntruderTest]:
    """(`intruders` among ten leading vectors, or as many as there are, their `draw_cosines`, their `intruder_test`)."""
    weight, update = _of_weight(weight), decompose_update(update)
    shape = len(weight.left), len(weight.right)
    found = intruders(weight, update, min(LEADING, *shape))
    values = (each.values[: each.rank()] for each in (weight, update))
    drawn = draw_cosines(*values, shape, len(found.cosines), draws, rng)
    return found, drawn, intruder_test(found.cosines, drawn)


def family_p(cosines: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> float:
    """p-value for: in none of several modules do the leading vectors leave those of W more than by chance.

    cosines: {module: [k]}; drawn: {module: [draws, k]}. T of each module, the observed one among its draws, is
    standardised, and the greatest of the modules held against the greatest of each draw (the max-statistic of Westfall
    & Young 1993): unlike Holm over modules it can fall to 1 / (draws + 1). Where modules are alike p is too large, as
    their draws are independent. ValueError where modules or draws differ.
    """
    if not cosines or cosines.keys() != drawn.keys():
        raise ValueError(
            f"cosines of {sorted(cosines)} and draws of {sorted(drawn)}: expected the same modules, and one at least"
        )
    if len({len(found) for found in drawn.values()}) > 1:
        raise ValueError(f"{[len(found) for found in drawn.values()]} draws of the modules: expected as many of each")
    totals = np.stack([_departures(cosines[name], drawn[name]).sum(1) for name in cosines], axis=1)
    spread = totals.std(0)
    greatest = ((totals - totals.mean(0)) / np.where(spread > 0, spread, 1.0)).max(1)
    return float(nulls.monte_carlo_p(greatest[0], greatest[1:]))


def _drawn(weight_values, update_values, shape, k, draws, rng, tolerance):
    """`draw_cosines`, to a relative error of the singular values."""
    values, strengths = (_checked_values(*named, shape) for named in (("W", weight_values), ("ΔW", update_values)))
    if not len(values):
        raise ValueError(NOTHING)
    _check_k(k, min(*shape, len(values) + len(strengths)))
    if not len(strengths):
        return np.ones((draws, k))
    computed, drawn = max(shape) * EPS * max(values[0], strengths[0]), []
    for _ in range(draws):
        frames = [haar.random_directions(side, len(strengths), rng) for side in shape]
        sides = (_coordinates(frame[: len(values)], frame[len(values) :]) for frame in frames)
        changed = _Changed(values, strengths, *sides, computed)
        drawn.append(changed.cosines(changed.leading(k, tolerance)[1]))
    return np.array(drawn)


class _Changed(NamedTuple):
    """W + ΔW in the bases of W: diag(values), padded with zeros, + left diag(strengths) rightᵀ.

    computed: by how much singular values of W must differ to be told apart.
    """

    values: np.ndarray
    strengths: np.ndarray
    left: np.ndarray
    right: np.ndarray
    computed: float

    def cosines(self, vectors):
        """Largest |cosine| of left singular vectors with one of W, or with all that share its singular value."""
        starts = np.flatnonzero(np.append(True, -np.diff(self.values) > self.computed))
        shares = np.add.reduceat(np.square(vectors[: len(self.values)]), starts)
        return np.minimum(np.sqrt(shares.max(0)), 1.0)

    def leading(self, k, tolerance=0.0):
        """The k largest singular values and their left vectors. ValueError where there are not so many.

        tolerance: relative error of the values; 0 is rounding, and then no copy of equal values is missed.
        """
        apart = (-np.diff(self.values) > self.computed).all()
        if apart and min(len(self.left), len(self.right)) > max(SMALL, 4 * k):
            found = self._by_lanczos(k, tolerance)
            if found is not None:
                return found
        whole = self.left * self.strengths @ self.right.T
        whole[np.diag_indices(len(self.values))] += self.values
        vectors, values, _ = linalg.svd(whole, full_matrices=False, check_finite=False)
        rounded = ROUNDED * max(whole.shape) * EPS * max(self.values[0], self.strengths.max(initial=0.0))
        rank = int((values > rounded).sum())
        if k > rank:
            raise ValueError(f"{k} directions asked of W + ΔW, which has rank {rank}: it has no more than {rank}")
        return values[:k], vectors[:, :k]

    def _by_lanczos(self, k, tolerance):
        """`leading` without forming the matrix, or None where that fails or may have missed one of equal values."""
        rows, columns = np.ascontiguousarray((self.left * self.strengths).T), np.ascontiguousarray(self.right.T)
        n = len(self.values)

        def gram(vector):
            once = (rows @ vector) @ columns
            once[:n] += self.values * vector[:n]
            twice = (columns @ once) @ rows
            twice[:n] += self.values * once[:n]
            return twice

        def rest(vector):
            return gram(vector - vectors @ (vectors.T @ vector))

        starts = np.random.default_rng(0).standard_normal((2, len(self.left)))
        try:
            squares, vectors = _largest(gram, k, starts[0], tolerance)
            if not tolerance:
                missed, _ = _largest(rest, 1, starts[1] - vectors @ (vectors.T @ starts[1]), NEAR)
        except ArpackError:
            return None
        least = NEGLIGIBLE * squares[0] if tolerance else max(NEGLIGIBLE * squares[0], missed[0] / (1 + NEGLIGIBLE))
        return (np.sqrt(squares), vectors) if squares[-1] > least else None


def _coordinates(inside, outside):
    """Coordinates of vectors whose part inside a subspace has these, and of the part outside in a basis of its own."""
    return np.vstack([inside, np.linalg.qr(outside, mode="r")]) if len(outside) else inside


def _largest(operator, k, start, tolerance):
    """The k largest eigenvalues, falling, and eigenvectors of a symmetric operator."""
    operator = LinearOperator((len(start), len(start)), operator, dtype=float)
    values, vectors = eigsh(operator, k, which="LA", v0=start, tol=tolerance)
    return values[::-1], vectors[:, ::-1]


def _of_weight(weight):
    """The Decomposition of W; of a matrix what its storing may have made counts as zero."""
    if isinstance(weight, Decomposition):
        return weight
    matrix = checked_matrix(weight, "weight")
    found = decompose(matrix, min(matrix.shape), "svd")
    return found._replace(floor=max(found.floor, rounding(weight).usual))


def _rank(name, found):
    """Rank of a Decomposition; ValueError unless it holds as many directions."""
    rank, held = found.rank(), found.left.shape[1]
    if held < rank:
        raise ValueError(f"the Decomposition of {name} holds {held} of {rank} directions: intruders need all of them")
    return rank


def _departures(cosines, drawn):
    """1 − cos² of the observed vectors, first, and those drawn: [1 + draws, k], the same wherever rounding differs."""
    found = np.vstack([cosines, drawn])
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError("cosines leave [0, 1] or are NaN: expected those of `intruders` and of `draw_cosines`")
    return np.round(1 - np.square(found), DECIMALS)


def _check_k(k, most):
    if not 1 <= k <= most:
        raise ValueError(f"k = {k} directions asked of W + ΔW, which has at most {most}: k must be 1 … {most}")


def _checked_values(name, values, shape):
    """Singular values that rise above rounding, falling."""
    values = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    if values.ndim != 1 or len(values) > min(shape) or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"the singular values of {name}: expected at most {min(shape)}, finite and not negative")
    return values[values > max(shape) * EPS * values[:1].sum()]
