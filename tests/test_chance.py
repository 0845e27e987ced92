import numpy as np
import pytest

from helpers import chance, subspace

SHAPES = [(30, 7, 4), (30, 4, 7), (30, 6, 6), (12, 9, 8), (12, 1, 5), (20, 20, 3), (50, 14, 4), (40, 3, 30)]


@pytest.mark.parametrize(("d", "i", "j"), SHAPES)
def test_mean_and_variance_against_monte_carlo(rng, d, i, j):
    draws = 4000
    bases = np.linalg.qr(rng.standard_normal((draws, d, j)))[0]  # one side may stay fixed, by invariance
    phi = (bases[:, :i] ** 2).sum((1, 2)) / min(i, j)
    mean, variance = chance.mean(i, j, d), chance.variance(i, j, d)
    assert phi.mean() == pytest.approx(mean, abs=4 * phi.std() / np.sqrt(draws) + 1e-12)
    fourth = ((phi - phi.mean()) ** 4).mean()
    error = np.sqrt(max(fourth - phi.var() ** 2, 0) / draws)
    assert phi.var() == pytest.approx(variance, abs=4 * error + 1e-12)


def test_random_directions_are_orthonormal_uniform_and_seeded():
    u = chance.random_directions(20, 5, np.random.default_rng(1))
    np.testing.assert_allclose(u.T @ u, np.eye(5), atol=1e-14)
    np.testing.assert_array_equal(u, chance.random_directions(20, 5, np.random.default_rng(1)))
    rng, fixed = np.random.default_rng(2), np.eye(20)[:, :8]
    phi = np.array([subspace.phi(fixed, chance.random_directions(20, 5, rng), 8, 5) for _ in range(2000)])
    assert phi.mean() == pytest.approx(8 / 20, abs=4 * phi.std() / np.sqrt(2000))
    z = chance.z_score(phi, 8, 5, 20)
    assert z.mean() == pytest.approx(0, abs=4 / np.sqrt(2000))
    assert z.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("d", "first", "last", "j"), [(40, 6, 30, 4), (40, 6, 8, 4), (30, 5, 6, 5)])
def test_rise_from_one_row_to_another_against_monte_carlo(rng, d, first, last, j):
    draws = 4000
    bases = np.linalg.qr(rng.standard_normal((draws, d, j)))[0]
    rise = (bases[:, :last] ** 2).sum((1, 2)) / j - (bases[:, :first] ** 2).sum((1, 2)) / j
    z = chance.rise_z_score(rise, first, last, j, d)
    assert z.mean() == pytest.approx(0, abs=4 / np.sqrt(draws))
    kurtosis = (z**4).mean()
    assert (z**2).mean() == pytest.approx(1, abs=4 * np.sqrt((kurtosis - 1) / draws))


def test_grid_agrees_with_its_cells_and_edges():
    grid = chance.mean_grid(6, 9, 12)
    assert grid.shape == (6, 9)
    assert all(grid[i - 1, j - 1] == chance.mean(i, j, 12) for i in range(1, 7) for j in range(1, 10))
    assert chance.mean(3, 12, 12) == 1
    assert chance.variance(3, 12, 12) == 0
    assert np.isnan(chance.z_score(1.0, 3, 12, 12))
    assert (chance.mean(1, 1, 1), chance.variance(1, 1, 1)) == (1, 0)


def test_random_projections_of_a_weight_have_the_closed_form_as_their_root_mean_square(rng):
    weight = rng.standard_normal((20, 30)) * np.linspace(3, 0, 30)
    norms = chance.projection_norms(weight, 4, 3000, np.random.default_rng(1))
    squares = norms**2
    expected = 4**2 * np.sum(weight**2) / weight.size
    assert squares.mean() == pytest.approx(expected, abs=4 * squares.std() / np.sqrt(len(squares)))


def test_variance_at_the_papers_size_does_not_overflow():
    """At i = 1229, j = 4, d = 12288 a φ of 0.2 lies 52 standard deviations above chance."""
    assert chance.z_score(0.2, 1229, 4, 12288) == pytest.approx(52, abs=0.5)
    assert chance.z_score(0.2, 1176, 4, 12288) == pytest.approx(55, abs=1)


@pytest.mark.parametrize(
    ("i", "j", "d", "message"),
    [
        (0, 1, 5, "i is 0: expected positive"),
        (1, -2, 5, "j is -2"),
        (1.5, 1, 5, "i is 1.5"),
        (6, 1, 5, "i reaches 6, above d = 5"),
        (1, 6, 5, "j reaches 6"),
        (1, 1, 0, "d is 0"),
        ("a", 1, 5, "i is a"),
    ],
)
def test_refuses_what_is_no_dimension(i, j, d, message):
    for formula in (chance.mean, chance.variance):
        with pytest.raises(ValueError, match=message):
            formula(i, j, d)


def test_refuses_more_directions_than_dimensions(rng):
    with pytest.raises(ValueError, match="above d = 4"):
        chance.random_directions(4, 5, rng)
