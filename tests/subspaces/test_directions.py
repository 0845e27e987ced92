import numpy as np
import pytest
from scipy import linalg

from helpers import subspaces
from helpers.subspaces import directions


def basis(rng, d, k):
    return np.linalg.qr(rng.standard_normal((d, k)))[0]


def rotation(rng, k):
    return linalg.qr(rng.standard_normal((k, k)))[0]


def double_loop(u, v):
    """φ as the definition has it, one (i, j) at a time."""
    return np.array(
        [
            [np.linalg.norm(u[:, :i].T @ v[:, :j]) ** 2 / min(i, j) for j in range(1, v.shape[1] + 1)]
            for i in range(1, u.shape[1] + 1)
        ]
    )


@pytest.mark.parametrize(("d", "i", "j"), [(30, 7, 4), (30, 4, 7), (12, 9, 8), (50, 1, 6), (5, 5, 5)])
def test_grid_is_the_double_loop_and_scipys_mean_squared_cosine(rng, d, i, j):
    u, v = basis(rng, d, i), basis(rng, d, j)
    grid = subspaces.similarity_grid(u, v)
    np.testing.assert_allclose(grid, double_loop(u, v), atol=1e-14)
    for rows, columns in ((i, j), (1, j), (i, 1)):
        angles = linalg.subspace_angles(u[:, :rows], v[:, :columns])
        assert grid[rows - 1, columns - 1] == pytest.approx((np.cos(angles) ** 2).mean(), abs=1e-12)


def test_grid_lies_in_0_1_is_symmetric_and_1_on_itself(rng):
    u, v = basis(rng, 40, 12), basis(rng, 40, 9)
    grid = subspaces.similarity_grid(u, v)
    assert (grid >= 0).all()
    assert (grid <= 1).all()
    np.testing.assert_allclose(grid, subspaces.similarity_grid(v, u).T, atol=1e-14)
    np.testing.assert_allclose(np.diag(subspaces.similarity_grid(u, u)), 1, atol=1e-14)
    inside = u @ rotation(rng, 12)[:, :5]
    assert subspaces.phi(u, inside, 12, 5) == pytest.approx(1, abs=1e-12)


def test_phi_does_not_change_under_a_change_of_basis(rng):
    u, v = basis(rng, 40, 6), basis(rng, 40, 9)
    turned = subspaces.phi(u @ rotation(rng, 6), v @ rotation(rng, 9), 6, 9)
    assert turned == pytest.approx(subspaces.phi(u, v, 6, 9), abs=1e-14)
    moved = rotation(rng, 40)
    np.testing.assert_allclose(
        subspaces.similarity_grid(moved @ u, moved @ v), subspaces.similarity_grid(u, v), atol=1e-13
    )


def test_projector_distance_identity(rng):
    u, v = basis(rng, 25, 6), basis(rng, 25, 9)
    distance = np.linalg.norm(u @ u.T - v @ v.T) ** 2
    assert distance == pytest.approx(6 + 9 - 2 * 6 * subspaces.phi(u, v, 6, 9))


def test_grid_refuses_what_is_not_orthonormal_or_does_not_fit(rng, unchecked):
    u = basis(rng, 20, 3)
    with pytest.raises(ValueError, match="same d"):
        subspaces.similarity_grid(u, basis(rng, 21, 3))
    with pytest.raises(ValueError, match="orthonormal"):
        subspaces.similarity_grid(u, 2 * u)
    with pytest.raises(ValueError, match="finite"):
        subspaces.similarity_grid(u, u * np.nan)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize("shape", [(60, 60), (40, 60), (60, 40)])
def test_top_directions_are_those_of_a_full_svd(rng, shape, side, method):
    matrix = rng.standard_normal(shape) @ np.diag(np.arange(shape[1], 0, -1.0))
    left, values, right = np.linalg.svd(matrix)
    found = subspaces.top_directions(matrix, 10, side, method)
    truth = (right.T if side == "right" else left)[:, :10]
    assert found.vectors.shape == truth.shape
    np.testing.assert_allclose(found.singular_values, values[:10])
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(10), atol=1e-12)
    np.testing.assert_allclose(np.diag(subspaces.similarity_grid(truth, found.vectors)), 1, atol=1e-9)
    assert found.phi_error < 1e-8


def test_phi_is_one_cell_of_the_grid_and_of_no_other(rng):
    u, v = basis(rng, 20, 5), basis(rng, 20, 3)
    assert subspaces.phi(u, v, 4, 2) == subspaces.similarity_grid(u, v)[3, 1]
    for i, j in ((6, 3), (5, 4), (0, 1)):
        with pytest.raises(ValueError, match="not so many"):
            subspaces.phi(u, v, i, j)


def test_rank_is_counted_at_the_precision_of_the_numbers_given(rng):
    """A matrix of rank 3 stored in float32 has 57 more singular values, of round-off; they are no directions."""
    stored = (rng.standard_normal((60, 3)) @ rng.standard_normal((3, 60))).astype(np.float32)
    assert len(subspaces.top_directions(stored, 3).singular_values) == 3
    with pytest.raises(ValueError, match="rank 3"):
        subspaces.top_directions(stored, 4)
    assert subspaces.top_directions(stored, None).vectors.shape == (60, 3)


def test_phi_error_of_a_product_covers_badly_scaled_factors(rng):
    """B Q and Q⁻¹ A give the same product; with a Q near singular its rounding grows, and the error owns up to it."""
    b, a = rng.standard_normal((40, 4)), rng.standard_normal((4, 40))
    left, right = rotation(rng, 4), rotation(rng, 4)
    q = left @ np.diag([1e8, 1e3, 1, 1e-2]) @ right
    plain = subspaces.low_rank_directions(b, a)
    scaled = subspaces.low_rank_directions(b @ q, np.linalg.solve(q, a))
    u = basis(rng, 40, 5)
    moved = np.abs(subspaces.similarity_grid(u, plain.vectors) - subspaces.similarity_grid(u, scaled.vectors)).max()
    assert moved <= scaled.phi_error
    assert plain.phi_error < 1e-12 < scaled.phi_error


def test_phi_error_bounds_the_error_that_the_gram_matrix_makes(rng):
    """Two singular values a relative 1e-7 apart: the Gram matrix confuses their directions, and says so."""
    left, right = rotation(rng, 50), rotation(rng, 50)
    values = np.append([2.0, 1.0, 1.0 - 1e-7], np.full(47, 0.1))
    matrix = left @ np.diag(values) @ right.T
    found = subspaces.top_directions(matrix, 2, method="gram")
    error = 1 - subspaces.phi(found.vectors, right, 2, 2)
    assert error <= found.phi_error
    assert found.phi_error > 1e-9
    tied = subspaces.top_directions(np.eye(6), 2)
    assert tied.phi_error == 1


def test_auto_is_exact_above_and_below_the_size_where_it_changes_method(rng):
    size = directions.FULL_SVD_SIZE + 26
    matrix = rng.standard_normal((size, size)) * np.linspace(3, 1, size)
    found = subspaces.top_directions(matrix, 12)
    truth = subspaces.top_directions(matrix, 12, method="svd")
    np.testing.assert_allclose(subspaces.phi(found.vectors, truth.vectors, 12, 12), 1, atol=1e-10)
    weight = rng.standard_normal((size, size))
    row = subspaces.amplification(weight, matrix, 12)
    assert row.delta_norm == pytest.approx(np.linalg.norm(matrix))
    assert row.by_weight == pytest.approx(np.linalg.norm(np.linalg.svd(weight, compute_uv=False)[:12]))
    low_rank = rng.standard_normal((size, 3)) @ rng.standard_normal((3, size))
    assert len(subspaces.top_directions(low_rank, 3).singular_values) == 3
    with pytest.raises(ValueError, match="rank 3"):
        subspaces.top_directions(low_rank, 5)


@pytest.mark.parametrize(
    ("matrix", "k", "kwargs", "message"),
    [
        (np.eye(4), 0, {}, "k must be 1 … 4"),
        (np.eye(4), 5, {}, "k must be 1 … 4"),
        (np.zeros((4, 4)), 1, {}, "rank 0"),
        (np.ones((4, 4)), 2, {}, "rank 1"),
        (np.eye(4), 1, {"side": "top"}, "expected one of right, left"),
        (np.eye(4), 1, {"method": "fast"}, "expected one of auto, svd, gram"),
        (np.ones(4), 1, {}, "two dimensions"),
        (np.ones((0, 4)), 1, {}, "neither of them zero"),
        (np.full((4, 4), np.nan), 1, {}, "NaN or Inf"),
        (np.full((4, 4), np.inf), 1, {}, "NaN or Inf"),
    ],
)
def test_top_directions_refuses(matrix, k, kwargs, message, unchecked):
    with pytest.raises(ValueError, match=message):
        subspaces.top_directions(matrix, k, **kwargs)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("out", "r", "inputs"), [(30, 4, 30), (50, 6, 20), (20, 6, 50), (5, 8, 30)])
def test_low_rank_directions_are_those_of_the_product(rng, side, out, r, inputs):
    b, a = rng.standard_normal((out, r)), rng.standard_normal((r, inputs))
    left, values, right = np.linalg.svd(b @ a)
    rank = min(out, r, inputs)
    found = subspaces.low_rank_directions(b, a, side)
    np.testing.assert_allclose(found.singular_values, values[:rank])
    truth = (right.T if side == "right" else left)[:, :rank]
    np.testing.assert_allclose(np.diag(subspaces.similarity_grid(truth, found.vectors)), 1, atol=1e-10)


def test_low_rank_directions_do_not_depend_on_how_the_product_is_factored(rng):
    b, a, q = rng.standard_normal((30, 5)), rng.standard_normal((5, 30)), rng.standard_normal((5, 5))
    one, other = subspaces.low_rank_directions(b, a), subspaces.low_rank_directions(b @ q, np.linalg.inv(q) @ a)
    u = basis(rng, 30, 10)
    np.testing.assert_allclose(
        subspaces.similarity_grid(u, one.vectors), subspaces.similarity_grid(u, other.vectors), atol=1e-9
    )


def test_low_rank_directions_drop_what_the_product_has_not(rng, unchecked):
    b, a = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 5)), rng.standard_normal((5, 30))
    assert subspaces.low_rank_directions(b, a).vectors.shape == (30, 2)
    with pytest.raises(ValueError, match="compare factor A"):
        subspaces.low_rank_directions(np.zeros((30, 5)), a)
    with pytest.raises(ValueError, match="as many as the rows"):
        subspaces.low_rank_directions(b, a.T)


def test_factors_a_and_ba_agree_on_the_whole_and_differ_on_parts(rng):
    a, b, u = rng.standard_normal((4, 30)), rng.standard_normal((30, 4)), basis(rng, 30, 6)
    of_a, of_ba = subspaces.top_directions(a, None).vectors, subspaces.low_rank_directions(b, a).vectors
    assert subspaces.phi(u, of_a, 6, 4) == pytest.approx(subspaces.phi(u, of_ba, 6, 4), abs=1e-12)
    assert abs(subspaces.phi(u, of_a, 6, 1) - subspaces.phi(u, of_ba, 6, 1)) > 1e-3
    np.testing.assert_allclose(subspaces.top_directions(a, 4).singular_values, np.linalg.svd(a)[1])


def test_amplification_against_its_definition_and_monte_carlo(rng):
    weight, delta = rng.standard_normal((30, 40)), rng.standard_normal((30, 3)) @ rng.standard_normal((3, 40))
    row = subspaces.amplification(weight, delta, 3)
    left, _, right = np.linalg.svd(delta)
    assert row.by_delta == pytest.approx(np.linalg.norm(left[:, :3].T @ weight @ right[:3].T))
    assert row.by_weight == pytest.approx(np.sqrt((np.linalg.svd(weight)[1][:3] ** 2).sum()))
    assert row.factor == pytest.approx(np.linalg.norm(delta) / row.by_delta)
    assert row.factor_by_chance == pytest.approx(
        np.linalg.norm(delta) * np.sqrt(30 * 40) / (3 * np.linalg.norm(weight))
    )
    draws = np.array([np.sum((basis(rng, 30, 3).T @ weight @ basis(rng, 40, 3)) ** 2) for _ in range(2000)])
    assert row.by_chance**2 == pytest.approx(draws.mean(), abs=4 * draws.std() / np.sqrt(len(draws)))
    assert subspaces.amplification(weight, weight, 3).by_delta == pytest.approx(row.by_weight)


def test_amplification_refuses_another_shape(rng, unchecked):
    with pytest.raises(ValueError, match="same shape"):
        subspaces.amplification(rng.standard_normal((30, 40)), rng.standard_normal((40, 30)), 3)


def test_window_is_the_papers_share_of_the_spectrum_by_default():
    assert subspaces.choose_window(12288, 12288, [4, 8, 64]) == (451, 1229, 64)
    assert subspaces.choose_window(384, 384, [4, 64]) == (14, 38, 14)
    assert subspaces.choose_window(384, 384, [4, 64], last_j=33) == (14, 38, 33)
    assert subspaces.choose_window(384, 384, [4], first_i=1, last_i=384) == (1, 384, 1)
    assert subspaces.choose_window(384, 384, [4], first_i=39) == (39, 39, 4)
    assert subspaces.choose_window(384, 384, [4], last_i=10) == (10, 10, 4)
    assert subspaces.choose_window(4, 4, [2]) == (1, 1, 1)
    assert subspaces.choose_window(4096, 30, [8])[:2] == (30, 30)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"first_i": 5, "last_i": 4}, "the first not above the last"),
        ({"last_i": 385}, "1 … 384"),
        ({"first_i": 385}, "1 … 384"),
        ({"last_j": 65}, "last_j must be 1 … 64"),
        ({"last_j": -1}, "last_j must be 1 … 64"),
    ],
)
def test_window_refuses(bounds, message):
    with pytest.raises(ValueError, match=message):
        subspaces.choose_window(384, 384, [4, 64], **bounds)


def test_pairs():
    assert subspaces.choose_pairs([4, 8, 64, 64]) == ((1, 2), (2, 3))
    assert subspaces.choose_pairs([64, 64]) == (None, (0, 1))
    assert subspaces.choose_pairs([8]) == (None, None)
    assert subspaces.choose_pairs([8, 4]) == ((1, 0), None)


def test_amplification_from_factors_is_that_of_the_product_at_any_scale(rng):
    weight, b, a = rng.standard_normal((30, 40)), rng.standard_normal((30, 3)), rng.standard_normal((3, 40))
    plain = subspaces.amplification(weight, b @ a, 3)
    assert subspaces.amplification(weight, (b, a), 3) == pytest.approx(plain)
    small = subspaces.amplification(weight, directions.decompose_product(b, a).scaled(1e-14), 3)
    assert small.factor == pytest.approx(1e-14 * plain.factor)
    assert small.by_delta == pytest.approx(plain.by_delta)


def test_of_a_large_difference_only_what_rises_above_rounding_must_be_exact(rng, monkeypatch):
    """Rank 5 and noise: the leading eigenvectors are enough, and no full decomposition follows."""
    size = directions.FULL_SVD_SIZE + 10
    noise = 1e-3 * rng.standard_normal((size, size))
    matrix = basis(rng, size, 5) * [9.0, 7, 5, 4, 3] @ basis(rng, size, 5).T + noise
    usual = np.linalg.norm(noise, 2) * 1.2
    monkeypatch.setattr(directions, "_by_svd", None)
    found = directions.decompose(matrix, 200, usual=usual)
    assert found.rank(usual) == 5
    assert found.size == pytest.approx(np.linalg.norm(matrix))
