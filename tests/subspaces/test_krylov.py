"""Leading directions by iteration: never further from the true ones than they say, and near enough to be of use."""

import itertools

import numpy as np
import pytest
import torch

from helpers import subspaces
from helpers.subspaces import directions, krylov

SPECTRA = {
    "flat": lambda n: np.linspace(1.01, 1.0, n),
    "geometric": lambda n: 0.95 ** np.arange(n),
    "calibrated": lambda n: (np.arange(1, n + 1) + 0.856) ** -0.4755,
    "clustered": lambda n: np.repeat(0.8 ** np.arange(-(-n // 20)), 20)[:n] * (1 - 1e-6 * np.arange(n)),
    "equal": lambda n: np.repeat([1.0, 0.5, 0.1], [70, 40, n - 110]),
    "deficient": lambda n: np.where(np.arange(n) < 30, 0.9 ** np.arange(n), 0.0),
}
SHAPES = [(180, 150), (150, 180), (160, 160), (400, 120)]
UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}


def known(rng, spectrum, shape):
    """A matrix with this spectrum, and its vectors (left, right)."""
    count = min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((size, count)))[0] for size in shape)
    return left * SPECTRA[spectrum](count) @ right.T, left, right


def stored(matrix, name):
    """As it is read from a file of this kind: rounded, and in the array's own kind."""
    return torch.from_numpy(matrix).to(getattr(torch, name))


def sine(found, true):
    """Of the largest angle between two spaces: the most by which φ with one direction, or any number of them, differs.

    Where it differs the most, V are directions that one of both misses.
    """
    return np.linalg.norm(found - true @ (true.T @ found), 2)


def pairs():
    """200 of spectrum, shape, kind, k and side."""
    every = list(itertools.product(SPECTRA, SHAPES, UNITS, (7, 25), ("right", "left")))
    return [every[n] for n in np.linspace(0, len(every) - 1, 200).astype(int)]


def test_no_phi_is_off_by_more_than_the_bound_in_200_matrices_whose_directions_are_known(rng):
    told, useful = [], 0
    for number, (spectrum, shape, kind, k, side) in enumerate(pairs()):
        matrix, left, right = known(rng, spectrum, shape)
        true = right if side == "right" else left
        found = subspaces.top_directions(stored(matrix, kind), k, side, "krylov")
        random = np.linalg.qr(rng.standard_normal((len(true), 4)))[0]
        missing = np.linalg.svd(true[:, :k] - found.vectors @ (found.vectors.T @ true[:, :k]))[0][:, :1]
        for v in (random, true[:, k : k + 3], missing):
            off = np.abs(subspaces.similarity_grid(found.vectors, v) - subspaces.similarity_grid(true[:, :k], v))
            told += [(number, (off.max(1) / (found.errors + 1e-12)).max())]
        for i in (1, k // 2, k):
            told += [(number, sine(found.vectors[:, :i], true[:, :i]) / (found.errors[i - 1] + 1e-12))]
        useful += found.errors[-1] < 1e-2
    assert max(told, key=lambda each: each[1])[1] <= 1
    assert useful > 60  # of flat and equal values, and where bfloat16 has drowned the gaps, nothing can be known


@pytest.fixture(scope="module")
def calibrated():
    """float32, 600 × 500, and its vectors."""
    matrix, left, right = known(np.random.default_rng(3), "calibrated", (600, 500))
    return matrix.astype(np.float32), left, right


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_bound_is_of_use_and_the_directions_are_nearer_still(calibrated, side):
    matrix, left, right = calibrated
    found = subspaces.top_directions(matrix, 50, side, "krylov", precision=0.0)
    true = (right if side == "right" else left)[:, :50]
    assert found.phi_error < 1e-3
    assert sine(found.vectors, true) < found.errors[-1]
    assert found.note == ""
    np.testing.assert_allclose(found.singular_values, SPECTRA["calibrated"](500)[:50], rtol=1e-6)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(50), atol=1e-10)


def test_the_same_numbers_every_time(calibrated):
    one, other = (subspaces.decompose(calibrated[0], 20, "krylov") for _ in range(2))
    for name in ("left", "values", "right", "sines", "off"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_it_is_the_decomposition_that_the_others_find(calibrated):
    matrix = calibrated[0]
    found, whole = (subspaces.decompose(matrix, 30, method) for method in ("krylov", "svd"))
    assert found.size == pytest.approx(whole.size)
    short = whole.values[: len(found.values)] - found.values
    assert (short > -1e-6).all()
    assert (short <= found.off + 1e-7).all()
    for one, other in ((found.left, whole.left), (found.right, whole.right)):
        assert subspaces.phi(one, other, 30, 30) == pytest.approx(1, abs=1e-6)
    rebuilt = found.left * found.values[:30] @ found.right.T
    assert np.linalg.norm(matrix - rebuilt, 2) == pytest.approx(whole.values[30], rel=1e-4)


def test_scaled_keeps_the_bound(calibrated):
    found = subspaces.decompose(calibrated[0], 10, "krylov")
    large = found.scaled(-1e6)
    np.testing.assert_allclose(large.off, 1e6 * found.off)
    np.testing.assert_allclose(large.errors(10, 1e6 * 1e-5), found.errors(10, 1e-5))


def test_more_equal_values_than_a_block_has_columns_are_all_found(rng):
    """70 equal values: a block of 32 meets 32 of them, and what it misses is seen beyond what it found."""
    matrix, _, right = known(rng, "equal", (400, 300))
    found = subspaces.top_directions(matrix, 70, "right", "krylov")
    assert found.errors[-1] < 1e-3
    assert sine(found.vectors, right[:, :70]) < found.errors[-1]
    assert (found.errors[:69] > 0.9).all()


@pytest.mark.parametrize("method", ["svd", "krylov"])
def test_near_ties_at_the_cut_off_are_named(rng, method):
    left, right = (np.linalg.qr(rng.standard_normal((90, 90)))[0] for _ in range(2))
    values = np.append(np.linspace(2, 1.5, 10), np.linspace(1.5 - 1e-8, 0.5, 80))
    matrix = (left * values @ right.T).astype(np.float32)
    tied, apart = (subspaces.top_directions(matrix, k, method=method) for k in (10, 9))
    assert tied.note.startswith("singular values 10 and 11 agree to within the rounding of storing")
    assert tied.errors[-1] == 1
    assert apart.note == ""
    assert apart.errors[-1] < 1e-3


def test_what_iteration_leaves_open_is_said(rng, monkeypatch):
    """Values that fall slowly, and a space that may not grow: the bound is near 1, and the note says why."""
    matrix, _, right = known(rng, "flat", (1000, 800))
    begin = krylov._Space.__init__

    def short(self, *given):
        begin(self, *given)
        self.most = self.size

    monkeypatch.setattr(krylov._Space, "__init__", short)
    found = subspaces.top_directions(matrix, 40, method="krylov")
    assert sine(found.vectors, right[:, :40]) <= found.errors[-1]
    assert found.errors[-1] > 0.1
    assert "has not told the first 40 directions from the next" in found.note


def test_the_last_block_of_a_space_may_be_a_narrow_one(rng):
    """Values that fall so slowly that the space grows to its most, which is no multiple of a block."""
    matrix, _, right = known(rng, "flat", (800, 750))
    found = subspaces.top_directions(matrix, 8, method="krylov")
    assert sine(found.vectors, right[:, :8]) <= found.errors[-1]


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_and_arrays_of_every_kind(rng, kind):
    """Rounding as stored counts; squares of the largest numbers of float16 have no room in float16."""
    matrix = known(rng, "geometric", (120, 100))[0] * 2e5
    tensor = stored(matrix, kind)
    whole = tensor.to(torch.float64).numpy()
    unit = torch.finfo(tensor.dtype).eps / 2
    for method in ("svd", "krylov"):
        found = subspaces.top_directions(tensor, 5, method=method)
        truth = subspaces.top_directions(whole, 5, precision=unit)
        assert sine(found.vectors, truth.vectors) < 1e-5
        np.testing.assert_allclose(found.errors, truth.errors, rtol=0.05, atol=1e-4)
    if kind != "bfloat16":
        again = subspaces.top_directions(tensor.numpy(), 5, method="krylov")
        np.testing.assert_array_equal(again.vectors, found.vectors)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_sizes_whose_squares_float32_cannot_hold(rng, scale):
    matrix, _, right = known(rng, "geometric", (120, 100))
    found = subspaces.top_directions((scale * matrix).astype(np.float32), 8, method="krylov")
    assert sine(found.vectors, right[:, :8]) <= found.phi_error < 1e-3
    np.testing.assert_allclose(found.singular_values, scale * SPECTRA["geometric"](8), rtol=1e-5)


def test_rank_is_counted_as_by_the_other_methods(rng):
    stored = known(rng, "deficient", (300, 200))[0].astype(np.float32)
    assert subspaces.top_directions(stored, 30, method="krylov").errors[-1] < 1e-3
    with pytest.raises(ValueError, match="40 directions asked of a matrix of rank 30"):
        subspaces.top_directions(stored, 40, method="krylov")
    with pytest.raises(ValueError, match="rank 0"):
        subspaces.top_directions(np.zeros((30, 20)), 1, method="krylov")
    with pytest.raises(ValueError, match="holds the first 5"):
        subspaces.decompose(rng.standard_normal((100, 100)), 5, "krylov").directions(6)


def test_all_directions_and_the_smallest_matrices(rng):
    for shape in ((1, 1), (3, 1), (2, 5), (40, 30)):
        matrix = rng.standard_normal(shape)
        found = subspaces.top_directions(matrix, None, "left", "krylov")
        assert found.vectors.shape == (shape[0], min(shape))
        assert subspaces.phi(found.vectors, np.linalg.svd(matrix)[0], min(shape), min(shape)) == pytest.approx(1)
        assert found.errors[-1] < 1e-3


def test_auto_takes_it_above_a_size_and_turns_to_all_where_iteration_leaves_open_what_is_determined(rng, monkeypatch):
    for name, size in (("FULL_SVD_SIZE", 60), ("GRAM_SIZE", 100), ("WAITED_FOR", 320)):
        monkeypatch.setattr(directions, name, size)
    used, by = [], directions._by
    monkeypatch.setattr(directions, "_by", lambda method, *of: used.append(method) or by(method, *of))
    matrix = known(rng, "calibrated", (300, 300))[0].astype(np.float32)
    found, truth = (subspaces.top_directions(matrix, 20, method=method) for method in ("auto", "svd"))
    assert used == ["krylov", "svd"]
    assert sine(found.vectors, truth.vectors) <= found.errors[-1] < 1e-2
    subspaces.top_directions(matrix, 90)
    assert used[2:] == ["svd"]
    subspaces.top_directions(matrix[:80], 5)
    assert used[3:] == ["gram"]
    nothing = by("krylov", matrix, 20)._replace(sines=np.ones(20))
    monkeypatch.setattr(directions, "_by_krylov", lambda *_: nothing)
    assert subspaces.top_directions(matrix, 20).phi_error < 1e-2
    assert used[4:] == ["krylov", "svd"]
    monkeypatch.setattr(directions, "WAITED_FOR", 200)
    assert subspaces.top_directions(matrix, 20).phi_error == 1


@pytest.mark.parametrize(
    ("matrix", "k", "kwargs", "message"),
    [
        (np.eye(4), 5, {}, "k must be 1 … 4"),
        (np.eye(4), 0, {}, "k must be 1 … 4"),
        (np.full((4, 4), np.nan, np.float32), 1, {}, "NaN or Inf"),
        (torch.full((4, 4), torch.inf, dtype=torch.bfloat16), 1, {}, "NaN or Inf"),
        (np.ones(4), 1, {}, "two dimensions"),
        (np.eye(4), 1, {"method": "lanczos"}, "expected one of auto, svd, gram, krylov"),
        (np.eye(4), 1, {"side": "top"}, "expected one of right, left"),
    ],
)
def test_it_refuses(matrix, k, kwargs, message, unchecked):
    with pytest.raises(ValueError, match=message):
        subspaces.top_directions(matrix, k, **{"method": "krylov", **kwargs})
