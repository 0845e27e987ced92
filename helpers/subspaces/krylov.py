"""Leading singular directions of a large matrix by block Lanczos, in float32, with a bound on what they may be off.

The space is spanned by a random block and what AᵀA makes of it, again and again (Golub & Kahan 1965; block Lanczos with
full re-orthogonalisation). A small block reaches further than a large one within a space of the same size: the
directions already found leave it free for the rest. Arithmetic is float32, sums from which values are read float64.

The bound. With x = (u; v)/√2 the triplets (u, σ, v) of A are eigenvectors of the symmetric H = [0 A; Aᵀ 0]. Its
exact leading i eigenvectors X, σ_s ≥ θ_i, have a part X₂ outside of the c approximate triplets that are kept (of
values θ_l and residuals t_l) and a part X₁ inside, of which rows l > i are an error. With ν = ‖H outside of these c‖,
β of the residuals beyond the i-th, E what rounding left off the diagonal inside, and separated spectra as for sin Θ
(Davis & Kahan 1970, Nakatsukasa 2020):

    ‖X₂‖ ≤ (‖t_≤i‖ + ‖t_>i‖ ‖X₁,>i‖) / (θ_i − ν),    ‖X₁,>i‖² ≤ Σ_{l > i} ((t_l ‖X₂‖ + e_l) / (θ_i − θ_l))²

so that what lies close to the cut-off costs its square only. φ moves by no more than the sine of the largest angle:
‖UᵢᵀV‖²_F differs by tr((P − P̃)Q), which over the least dimension is at most ‖P − P̃‖₂.

Nothing is assumed of what the random block may have missed: ν is measured on random vectors of their own, and with the
law of Kuczyński & Woźniakowski (1992, theorem 4.2) exceeds what is stated with a probability below 10⁻⁶. So are t and e
(sums of squares of normals), in float64 against the matrix as it is given: all roundings of float32 count.
"""

from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy import stats

from helpers.subspaces.arrays import ROWS, norm, parts

BLOCK = 32
AIM = 4e-4  # sine at every cut-off that is iterated for, where float32 allows: with all roundings it stays below 10⁻³
FLOOR = 2.0**-24  # of the Frobenius norm: what is not above may be rounding
ROUNDING = 2.0**-26  # of the Frobenius norm: what float32 usually leaves inside of the space, with room to spare
PROBES, FRESH, STEPS = 48, 16, 24  # random vectors for residuals, for ν, and steps taken with the latter
RISK = 1e-6
# numpy's routines throughout: scipy's have threads of their own, and both kinds wait for each other by spinning
SEED = 20210617


class Leading(NamedTuple):
    """Left and right vectors [·, k], values [k or more], sines [k] of the first 1, 2, … k, and `off` [k or more].

    Fewer than k where the rest is rounding. off: how far a value may lie below the true one. sines: bounds, 1 where
    nothing is known; the same for both sides.
    """

    left: Float64[np.ndarray, "m k"]
    values: Float64[np.ndarray, "more"]
    right: Float64[np.ndarray, "n k"]
    sines: Float64[np.ndarray, "k"]
    off: Float64[np.ndarray, "more"]


def leading(matrix: Float[np.ndarray, "m n"], k: Index, block: Index = BLOCK) -> Leading:
    """The k leading triplets of a finite matrix that is not zero, always the same.

    Takes about 4 m n M operations in float32 with M near 3 k, and 4 (m + n) M bytes beside the matrix. Stops when the
    sines are below 10⁻³, or what float32 allows, or M is n, or 5 k and some: see them.
    """
    single, scale = scaled(matrix)
    tall = single.shape[0] >= single.shape[1]
    space = _Space(single if tall else single.T, k, block)
    found = space.found()
    while not found.enough and space.size < space.most:
        for _ in range(found.steps):
            space.extend()
        found = space.found()
    left, right = space.vectors(found)
    t, e, skew = _measured(matrix if tall else matrix.T, scale, space, found, left, right)
    k, asked = min(k, len(found.values)), k
    sines, nu = np.ones(k), 0.0
    for nu, least in _beyond(space, left, right):
        sines = _sines(found.values, t, e, nu, k)
        if (sines <= found.aims).all() or (sines <= 1.25 * _sines(found.values, t, e, least, k)).all():
            break
    missed = nu > 1.2 * found.values[-1] and (sines > found.aims).any()  # more equal values than a block has columns
    if missed and block < 4 * BLOCK and space.size < min(matrix.shape):
        return leading(matrix, asked, 2 * block)
    one, other = (_orthogonal(part[:, :k].astype(np.float64)) for part in ((left, right) if tall else (right, left)))
    off = scale * (t + np.linalg.norm(e))
    return Leading(one, scale * found.values, other, np.minimum(1.0, sines + skew), off)


def scaled(matrix: Float[np.ndarray, "m n"]) -> tuple[Float32[np.ndarray, "m n"], float]:
    """(matrix / scale in float32, scale), a power of two, so that squares have room; not copied where they have."""
    largest = max(float(np.abs(rows).max()) for rows in parts(matrix))
    if matrix.dtype == np.float32 and 2.0**-30 < largest < 2.0**30:
        return matrix, 1.0
    scale = 2.0 ** np.floor(np.log2(largest))
    single = np.empty(matrix.shape, np.float32)
    for rows, whole in zip(parts(single), parts(matrix), strict=True):
        rows[:] = whole.astype(np.float64) / scale
    return single, scale


class _Found(NamedTuple):
    """Ritz values of the triplets to be kept, their coordinates z and residuals t; whether that is enough, or steps."""

    values: np.ndarray
    z: np.ndarray
    t: np.ndarray
    aims: np.ndarray
    enough: bool
    steps: int


class _Space:
    """Orthonormal V [n, M], Y = A V, T = YᵀY; and `rest`, with Aᵀ Y = V T + V_next rest in the last columns of Y."""

    def __init__(self, single, k, block):
        self.single, self.k, self.block = single, k, block
        m, n = single.shape
        self.size, self.known, self.most = 0, 0, min(n, 5 * k + 16 * block)
        self.v = np.empty((n, min(n, self.most + block)), np.float32, order="F")
        self.y = np.empty((m, self.most), np.float32, order="F")
        self.t = np.zeros((self.most, self.most))
        self.rng = np.random.default_rng(SEED)
        self.norm = norm(single)
        start = single.T @ self.rng.standard_normal((m, min(block, n)), dtype=np.float32)
        self.rest = self._next(start)
        while self.size < min(self.most, 2 * k + 4 * block):
            self.extend()

    def extend(self):
        """One block more."""
        if self.size >= self.most:
            return
        a, e = self.size, min(self.size + self.width, self.most)
        self.y[:, a:e] = self.single @ self.v[:, a:e]
        self.size, self.last = e, e - a
        self.rest = self._next(self.single.T @ self.y[:, a:e])

    def _next(self, block):
        """Append what `block` adds to V, of full rank whatever it is, and give its coordinates there."""
        n, known = len(self.v), self.v[:, : self.size]
        self.width = min(block.shape[1], n - self.size)
        if not self.width:
            return np.zeros((0, block.shape[1]))
        noise = self.rng.standard_normal(block.shape, dtype=np.float32)
        added = block + noise * np.float32(2.0**-24 * np.linalg.norm(block) / np.sqrt(block.size) + 2.0**-100)
        for again in range(4):
            added = added - known @ (known.T @ added)
            sure = again and np.abs(np.linalg.norm(added, axis=0) - 1).max() < 0.1
            added = _orthonormal(added, self.width)
            if sure:
                break
        self.v[:, self.size : self.size + self.width] = added
        return (added.T @ block).astype(np.float64)

    def found(self):
        """The Ritz triplets, and whether they are good enough."""
        size, k, block, known = self.size, self.k, self.block, self.known
        for rows in parts(self.y[:, :size], 4 * ROWS):
            rows = rows.astype(np.float64)
            self.t[:size, known:size] += rows.T @ rows[:, known:]
        self.t[known:size, :known] = self.t[:known, known:size].T
        self.known = size
        most = min(size, 3 * k // 2 + 3 * block)
        squares, z = np.linalg.eigh(self.t[:size, :size])  # faster than a part of it by bisection
        values, z = np.sqrt(np.maximum(squares[::-1][:most], 0.0)), z[:, ::-1][:, :most]
        count = int((values > FLOOR * self.norm).sum())  # the others are of rounding
        t = np.linalg.norm(self.rest @ z[-self.last :], axis=0) / np.maximum(values, ROUNDING * values[0])
        gaps = -np.diff(np.append(values, 0.0))[:k] / (ROUNDING * self.norm) - 1
        aims = np.maximum(AIM, np.minimum(1.0, 1 / np.maximum(gaps, 1.0)))
        here = min(k, count)
        choices = {min(count, k + more) for more in (block // 2, block, 2 * block, k // 4, k // 2, k)}
        worst = {}
        for c in choices:
            nu = 1.05 * values[c] if c < most else values[-1] * (size < len(self.v))
            worst[c] = (_sines(values[:c], t[:c], np.zeros((2, c)), nu, here) / aims[:here]).max(), -c
        c = min(worst, key=worst.get)
        enough = worst[c][0] <= 1
        reach = max(values[k - 1] - values[min(k + k // 4 + block, most - 1)], ROUNDING * values[0])
        ratio = max(np.linalg.norm(t[:k]) / reach / aims.min(), np.e)
        growth = np.arccosh(
            2 * (values[k - 1] / max(values[min(k + 3 * block, most) - 1], ROUNDING * values[0])) ** 2 - 1
        )
        steps = int(
            np.clip(1.5 * np.log(ratio) / max(growth, 1e-3), 1 + size // block // 16, max(1, size // block // 2))
        )
        return _Found(values[:c], z[:, :c], t[:c], aims[:here], enough, steps)

    def vectors(self, found):
        """(left, right) of what was found, in float32; the space is gone then."""
        z, kept = found.z.astype(np.float32), slice(self.size)
        left = self.y[:, kept] @ (found.z / np.maximum(found.values, ROUNDING * found.values[0])).astype(np.float32)
        right = self.v[:, kept] @ z
        self.unseen = self.v[:, self.size : self.size + self.width].copy()
        del self.y, self.v, self.t  # the largest of what there is beside the matrix
        return left, right


def _orthonormal(block, count):
    """Orthonormal basis of the `count` strongest directions of the columns (Stathopoulos & Wu 2002), nearly."""
    gram = np.zeros((block.shape[1],) * 2)
    for rows in parts(block, 8 * ROWS):
        rows = rows.astype(np.float64)
        gram += rows.T @ rows
    sizes = np.sqrt(np.maximum(np.diag(gram), 1e-60))
    squares, turn = np.linalg.eigh(gram / np.outer(sizes, sizes))
    squares, turn = np.maximum(squares, max(1e-14 * squares[-1], 1e-14))[-count:], turn[:, -count:]
    return block @ (turn / sizes[:, None] / np.sqrt(squares)).astype(np.float32)


def _orthogonal(vectors):
    """The nearest orthonormal columns to nearly orthonormal ones: a step of Newton's."""
    return vectors @ (1.5 * np.eye(vectors.shape[1]) - vectors.T @ vectors / 2)


def _sines(values, t, e, nu, k):
    """Bounds at cut-offs 1 … k, at most 1: the two inequalities above, put into each other.

    e: of E beside (u; v) and beside (u; −v), which has value −σ, so that little of X₁ lies there.
    """
    inner, half = float(np.linalg.norm(e)), np.square(t) / 2
    low = values[:k] - inner
    reach, gaps = low - nu, low[:, None] - values
    beyond = np.arange(len(values)) > np.arange(k)[:, None]
    sure = (reach > 0) & ~(beyond & (gaps <= 0)).any(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = np.where(beyond, 1 / gaps**2, 0.0), 1 / (low[:, None] + values) ** 2
        eta, eta_far = np.sqrt(near @ half), np.sqrt(far @ half)
        epsilon_far = np.sqrt(far @ np.square(e.sum(0)))
        epsilon = np.sqrt(near @ np.square(e[0])) + (eta_far + epsilon_far) * np.sqrt(near @ np.square(e[1]))
        alpha = np.sqrt(np.cumsum(half)[:k]) / reach
        beta = np.sqrt(2 * half.sum() - np.cumsum(half)[:k]) / reach
        coupling = beta * (eta + eta_far)
        outside = (alpha + beta * (epsilon + epsilon_far)) / (1 - coupling)
        inside = (eta + eta_far) * outside + epsilon + epsilon_far
        sines = np.hypot(np.sqrt(2) * outside, inside)
    return np.where(sure & (coupling < 1), np.minimum(sines, 1.0), 1.0)


def _measured(given, scale, space, found, left, right):
    """(t, e, by how much the vectors are not orthonormal), as they are, with a risk of RISK to be more."""
    rng, values = space.rng, found.values
    (m, c), n = left.shape, len(right)
    inside, outside = rng.standard_normal((c, PROBES)), [rng.standard_normal((size, PROBES)) for size in (m, n)]
    of_left, of_right = _times(left, inside), _times(right, inside)
    ahead, back = _both(given, np.hstack([of_right, outside[1]]) / scale, np.hstack([of_left, outside[0]]) / scale)

    def skew(vectors, x):
        return _times(vectors.T, _times(vectors, x)) - x

    scales = values[:, None]
    skews = [skew(vectors, inside) for vectors in (left, right)]
    rows = _times(left.T, ahead[:, :PROBES]) - scales * (inside + skews[1] / 2) - skew(left, scales * inside) / 2
    columns = _times(right.T, back[:, :PROBES]) - scales * (inside + skews[0] / 2) - skew(right, scales * inside) / 2
    coordinates = space.rest @ found.z[-space.last :] / np.maximum(values, ROUNDING * values[0])
    of_u = _times(right.T, back[:, PROBES:]) - scales * _times(left.T, outside[0])
    of_v = _times(left.T, ahead[:, PROBES:]) - scales * _times(right.T, outside[1])
    of_v -= coordinates.T @ _times(space.unseen.T, outside[1])
    share = PROBES / stats.chi2.ppf(RISK, PROBES)
    e = np.sqrt(share * np.array([np.square(one).mean(1) for one in (rows + columns, rows - columns)])) / 2
    t = found.t + np.sqrt(share * (np.square(of_u).mean(1) + np.square(of_v).mean(1)))
    off = np.sqrt(share * max(np.square(each).sum() for each in skews) / PROBES)
    return t, e, off


def _beyond(space, left, right):
    """(a bound on, an estimate of) the largest singular value beyond these vectors, ever closer: block Lanczos."""
    single, (m, n), width = space.single, space.single.shape, min(FRESH, len(right))
    most = min(width * STEPS, n)
    s, y = np.empty((n, most), np.float32, order="F"), np.empty((m, most), np.float32, order="F")
    block = space.rng.standard_normal((n, width), dtype=np.float32)
    for a in range(0, most, width):
        e = min(a + width, most)
        for _ in range(2):
            block -= right @ (right.T @ block)
            block = _orthonormal(block - s[:, :a] @ (s[:, :a].T @ block), e - a)
        over = single @ block
        over -= left @ (left.T @ over)
        s[:, a:e], y[:, a:e] = block, over
        share = 0.0 if e == n else (np.log(1.648 * np.sqrt(n) / RISK ** (1 / width)) / (2 * a / width + 1)) ** 2
        if share < 0.5:
            largest = np.sqrt(np.linalg.eigvalsh(y[:, :e].T @ y[:, :e])[-1])
            yield largest / np.sqrt(1 - share) + FLOOR * space.norm, largest
        block = single.T @ over


def _both(matrix, x, y):
    """(matrix @ x, matrix.T @ y) in float64, some rows, or columns where these lie together, at a time."""
    if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
        return _both(matrix.T, y, x)[::-1]
    ahead, back = np.empty((len(matrix), x.shape[1])), np.zeros((matrix.shape[1], y.shape[1]))
    for to, rows, of_y in zip(parts(ahead), parts(matrix), parts(y), strict=True):
        rows = rows.astype(np.float64)
        to[:] = rows @ x
        back += rows.T @ of_y
    return ahead, back


def _times(matrix, x):
    """matrix @ x in float64, a few rows of the matrix at a time."""
    found = np.empty((len(matrix), x.shape[1]))
    for to, rows in zip(parts(found), parts(matrix), strict=True):
        to[:] = rows.astype(np.float64) @ x
    return found
