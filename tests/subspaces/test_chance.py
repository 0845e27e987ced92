import mpmath
import numpy as np
import pytest
from scipy import stats

from helpers import subspaces
from helpers.subspaces import chance, haar

SHAPES = [
    (30, 7, 4), (30, 4, 7), (30, 6, 6), (12, 9, 8), (12, 1, 5), (20, 20, 3), (50, 14, 4), (40, 3, 30),
    (16, 15, 9), (25, 12, 13), (9, 8, 8), (200, 20, 2),
]  # fmt: skip


def drawn_phi(rng, d, i, j, draws):
    """φ of random pairs by QR of whole Gaussian matrices: shares nothing with the draws of `chance`."""
    bases = np.linalg.qr(rng.standard_normal((draws, d, j)))[0]  # one side may stay fixed, by invariance
    return (bases[:, :i] ** 2).sum((1, 2)) / min(i, j)


def within(values, expected, sigmas=4):
    return abs(values.mean() - expected) <= sigmas * values.std() / np.sqrt(len(values)) + 1e-12


@pytest.mark.parametrize(("d", "i", "j"), SHAPES)
def test_mean_and_variance_against_monte_carlo(rng, d, i, j):
    phi = drawn_phi(rng, d, i, j, 4000)
    assert within(phi, chance.mean(i, j, d))
    assert within((phi - chance.mean(i, j, d)) ** 2, chance.variance(i, j, d))


@pytest.mark.parametrize(("d", "i", "j"), [(40, 9, 1), (40, 1, 9), (12, 11, 5), (12, 5, 11), (384, 14, 1)])
def test_tail_is_exact_where_one_dimension_is_one(d, i, j):
    """One dimension, of a subspace or of its complement: then φ is a Beta variable, by the ratio of two χ²."""
    smaller, larger = min(i, j), max(i, j)
    floor = max(i + j - d, 0) / smaller
    phi = floor + (1 - floor) * np.linspace(0.001, 0.999, 40)
    law = stats.beta(larger / 2, (d - larger) / 2) if smaller == 1 else stats.beta((d - smaller) / 2, smaller / 2)
    np.testing.assert_allclose(
        chance.tail_probability(phi, i, j, d), law.sf((phi - floor) / (1 - floor)), rtol=1e-9, atol=1e-300
    )
    sample = drawn_phi(np.random.default_rng(3), d, i, j, 4000)
    assert stats.kstest(1 - chance.tail_probability(sample, i, j, d), "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    ("d", "i", "j"), [(384, 14, 4), (60, 14, 4), (60, 4, 14), (100, 30, 30), (30, 20, 15), (20, 6, 5), (12, 9, 8)]
)
def test_p_values_are_uniform_when_there_is_nothing_to_find(d, i, j):
    p = chance.tail_probability(drawn_phi(np.random.default_rng(4), d, i, j, 2000), i, j, d)
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 2000))


def test_p_values_of_a_wrong_null_are_not_uniform():
    """The check above can fail: one dimension more or less of W shows."""
    p = chance.tail_probability(drawn_phi(np.random.default_rng(4), 60, 16, 4, 2000), 14, 4, 60)
    assert stats.kstest(p, "uniform").pvalue < 1e-6


@pytest.mark.parametrize(
    ("phi", "i", "j", "d"),
    [(0.2, 1229, 4, 12288), (0.2, 1176, 4, 12288), (0.113, 1200, 64, 12288), (0.9, 14, 4, 384), (0.9, 300, 200, 400),
     (0.05, 14, 4, 384), (0.02, 14, 4, 384), (0.999, 3, 2, 20), (1 - 1e-9, 38, 38, 384)],
)  # fmt: skip
def test_far_tail_against_many_digits(phi, i, j, d):
    """The upper tail of the matched Beta law as a series of positive terms, in 40 digits."""
    mpmath.mp.dps = 40
    smaller, mpf = min(i, j), mpmath.mpf
    floor = mpf(max(i + j - d, 0)) / smaller
    centre = (mpf(max(i, j)) / d - floor) / (1 - floor)
    spread = mpf(2 * i * j * (d - i) * (d - j)) / (d**2 * (d - 1) * (d + 2) * smaller**2) / (1 - floor) ** 2
    size = centre * (1 - centre) / spread - 1
    a, b, x = centre * size, (1 - centre) * size, (mpf(phi) - floor) / (1 - floor)
    term, total, n = mpf(1), mpf(0), 0
    while term > total * mpf(10) ** -30:
        total, term, n = total + term, term * (a + b + n) / (b + 1 + n) * (1 - x), n + 1
    expected = b * mpmath.log(1 - x) + a * mpmath.log(x) - mpmath.log(b * mpmath.beta(a, b)) + mpmath.log(total)
    found = chance.log_tail_probability(phi, i, j, d)
    assert found == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
    assert np.isfinite(found)


def test_tail_falls_with_phi_and_has_no_step_where_the_method_changes():
    phi = np.linspace(0.1, 0.5, 2001)
    logs = chance.log_tail_probability(phi, 1229, 4, 12288)
    slopes = np.diff(logs)
    assert (slopes < 0).all()
    assert (np.diff(slopes) < 0.02).all()  # concave but for rounding


@pytest.mark.parametrize(
    ("d", "i", "j"),
    [(60, 4, 4), (60, 14, 4), (60, 54, 6), (60, 58, 2), (60, 54, 54), (100, 30, 30), (100, 90, 3),
     (384, 14, 4), (384, 16, 14), (384, 38, 38), (384, 382, 4), (2048, 75, 16)],
)  # fmt: skip
def test_tail_is_as_accurate_as_it_says(d, i, j):
    """The bounds in the docstring, above and below i + j = d and in square shapes."""
    for probability, off, relative in ((0.03, 0.07, 0), (0.01, 0.07, 0), (1e-3, 0.12, 0), (1e-9, 0, 0.08)):
        relative = relative and (0.03 if d >= 384 else relative)
        phi = chance.critical_phi(probability, i, j, d)
        logarithm, error = np.array(chance.sampled_log_tail(phi, i, j, d, 4000, np.random.default_rng(0))) / np.log(10)
        assert error < 0.06
        assert np.log10(probability) == pytest.approx(logarithm, abs=max(off, -relative * logarithm) + 3 * error)


@pytest.mark.parametrize(
    ("d", "i", "j"), [(4, 2, 2), (6, 3, 3), (8, 3, 4), (12, 3, 4), (12, 6, 6), (12, 9, 8), (12, 10, 2), (19, 5, 9)]
)
def test_tail_in_few_dimensions_is_what_is_counted(d, i, j):
    """Where no Beta law is close: against whole matrices, as often as they can be counted, and on by sampling."""
    assert d < chance.SAMPLED_BELOW
    phi, stated = drawn_phi(np.random.default_rng(20), d, i, j, 200_000), np.array([0.5, 0.05, 5e-3, 1e-3])
    true = np.array([(phi >= critical).mean() for critical in chance.critical_phi(stated, i, j, d)])
    assert np.all(abs(true / stated - 1) < 0.06 + 4 / np.sqrt(stated * len(phi)))
    far = chance.critical_phi(1e-9, i, j, d)
    logarithm, error = chance.sampled_log_tail(far, i, j, d, 20_000, np.random.default_rng(21))
    assert np.log(1e-9) == pytest.approx(logarithm, abs=0.3 + 4 * error)


def test_a_beta_law_in_few_dimensions_is_not_what_is_counted(monkeypatch):
    """The check above can fail."""
    phi = drawn_phi(np.random.default_rng(20), 4, 2, 2, 200_000)
    critical = chance.critical_phi(1e-3, 2, 2, 4)
    monkeypatch.setattr(chance, "SAMPLED_BELOW", 4)
    assert (phi >= chance.critical_phi(1e-3, 2, 2, 4)).mean() > 5e-3
    assert chance.critical_phi(1e-3, 2, 2, 4) < critical - 0.01


def test_a_sampled_tail_has_no_gap_at_its_ends_and_no_chance_in_it():
    phi = np.linspace(0, 1, 2001)
    logs = chance.log_tail_probability(phi, 3, 4, 8)
    assert (logs[0], logs[-1]) == (0, -np.inf)
    assert (np.diff(logs) <= 0).all()
    near = 1 - np.array([1e-6, 1e-7])  # there P is a power of 1 - φ, 3 (8 - 4) / 2
    assert np.diff(chance.log_tail_probability(near, 3, 4, 8)) == pytest.approx(-6 * np.log(10))
    chance._sampled_tail.cache_clear()
    np.testing.assert_array_equal(chance.log_tail_probability(phi, 4, 3, 8), logs)  # drawn again; either way round


def test_tail_at_the_papers_own_cell():
    """φ = 0.2 at i = 1176, j = 4, d = 12288, z = 56: the matched Beta law is a thousandth off in log P."""
    exact, error = chance.sampled_log_tail(0.2, 1176, 4, 12288, 20000, np.random.default_rng(0))
    assert error < 0.1
    assert chance.log_tail_probability(0.2, 1176, 4, 12288) == pytest.approx(exact, rel=0.001)


@pytest.mark.parametrize(("d", "i", "j"), [(60, 14, 4), (30, 20, 15), (100, 12, 12)])
def test_importance_sampling_counts_what_plain_sampling_counts(d, i, j):
    """Where a tail is heavy enough to count in plain draws, by QR, both agree within their errors."""
    phi = chance.mean(i, j, d) + 2.5 * np.sqrt(chance.variance(i, j, d))
    share = np.mean(drawn_phi(np.random.default_rng(5), d, i, j, 40000) >= phi)
    logarithm, error = chance.sampled_log_tail(phi, i, j, d, 20000, np.random.default_rng(6))
    assert np.exp(logarithm) == pytest.approx(share, abs=4 * np.hypot(np.sqrt(share / 40000), error * share))


@pytest.mark.parametrize(("i", "j", "d"), [(1, 1, 1), (5, 2, 5), (2, 5, 5), (5, 5, 5)])
def test_where_phi_is_a_constant_it_surprises_nobody(i, j, d):
    assert chance.tail_probability(1.0, i, j, d) == 1
    assert haar.random_phi(i, j, d, 2, np.random.default_rng(0)) == pytest.approx(1)


def test_tail_over_a_grid_is_that_of_its_cells(rng):
    u, v = (haar.random_directions(12, k, rng) for k in (12, 9))
    grid = subspaces.similarity_grid(u, v)
    rows, columns = np.ogrid[1:13, 1:10]
    tails = chance.log_tail_probability(grid, rows, columns, 12)
    assert tails.shape == (12, 9)
    assert all(
        tails[i - 1, j - 1] == chance.log_tail_probability(grid[i - 1, j - 1], i, j, 12)
        for i in range(1, 13)
        for j in range(1, 10)
    )
    assert (tails[-1] == 0).all()  # i = d
    assert np.isnan(chance.log_tail_probability(np.nan, 3, 2, 12))


@pytest.mark.parametrize(("i", "j", "d"), [(14, 4, 384), (20, 15, 30), (3, 1, 9)])
def test_critical_phi_is_the_inverse_of_the_tail(i, j, d):
    for probability in (0.5, 0.05, 1e-6):
        critical = chance.critical_phi(probability, i, j, d)
        assert chance.tail_probability(critical, i, j, d) == pytest.approx(probability)


def test_random_directions_are_orthonormal_uniform_and_seeded():
    u = haar.random_directions(20, 5, np.random.default_rng(1))
    np.testing.assert_allclose(u.T @ u, np.eye(5), atol=1e-14)
    np.testing.assert_array_equal(u, haar.random_directions(20, 5, np.random.default_rng(1)))
    rng, fixed = np.random.default_rng(2), np.eye(20)[:, :8]
    phi = np.array([subspaces.phi(fixed, haar.random_directions(20, 5, rng), 8, 5) for _ in range(2000)])
    assert within(phi, 8 / 20)
    z = chance.z_score(phi, 8, 5, 20)
    assert z.mean() == pytest.approx(0, abs=4 / np.sqrt(2000))
    assert z.std() == pytest.approx(1, abs=0.1)


def test_random_directions_favour_no_sign():
    """Their mean is zero, also where they are mixed; QR alone gives the first of them a fixed sign."""
    rng = np.random.default_rng(15)
    frames = np.array([haar.random_directions(5, 3, rng) for _ in range(4000)])
    np.testing.assert_allclose(frames.mean(0), 0, atol=4 / np.sqrt(5 * 4000))
    mixed = frames.sum(2)[:, :2]
    assert within(np.square(mixed).sum(1), 3 * 2 / 5)


def test_the_papers_gaussian_factor_has_uniform_directions():
    rng = np.random.default_rng(7)
    found = [subspaces.top_directions(haar.gaussian_factor(6, 30, rng), 6).vectors for _ in range(1500)]
    for j in (1, 3, 6):  # also the strongest of them alone
        phi = np.array([subspaces.phi(np.eye(30)[:, :9], v, 9, j) for v in found])
        assert stats.kstest(chance.tail_probability(phi, 9, j, 30), "uniform").pvalue > 0.001


@pytest.mark.parametrize(("d", "i", "j"), [(30, 7, 4), (30, 4, 7), (12, 9, 8), (20, 6, 6), (9, 9, 4)])
def test_draws_have_the_law_of_whole_random_matrices(d, i, j):
    """Cosines and overlaps from the small representations, against QR of d × j Gaussian matrices."""
    whole, draws = np.random.default_rng(8), 3000
    bases = np.linalg.qr(whole.standard_normal((draws, d, j)))[0]
    expected = np.linalg.svd(bases[:, :i], compute_uv=False) ** 2
    cosines = haar.random_cosines(i, j, d, draws, np.random.default_rng(9))
    overlaps = haar.random_overlaps(i, j, d, draws, np.random.default_rng(10))
    assert overlaps.shape == (draws, i, j)
    for found in (cosines, np.linalg.svd(overlaps, compute_uv=False) ** 2):
        assert found.shape == (draws, min(i, j))
        for theirs, ours in zip(expected.T, found.T, strict=True):
            if theirs.std() > 1e-9:
                assert stats.ks_2samp(theirs, ours).pvalue > 0.0005
            else:
                np.testing.assert_allclose(ours, theirs.mean(), atol=1e-9)  # cosines that must be 1
    corner = np.square(overlaps[:, : i - 1, : j - 1]).sum((1, 2)) / min(i - 1, j - 1)
    assert stats.ks_2samp(corner, drawn_phi(whole, d, i - 1, j - 1, draws)).pvalue > 0.0005


def test_same_seed_same_draws():
    for draw in (haar.random_phi, haar.random_overlaps, chance.least_log_tails):
        one, other = (draw(6, 3, 20, 5, np.random.default_rng(1)) for _ in range(2))
        np.testing.assert_array_equal(one, other)


def test_many_draws_come_in_parts_of_the_same_law(monkeypatch):
    monkeypatch.setattr(haar, "CHUNK", 64)
    phi = haar.random_phi(6, 3, 20, 1001, np.random.default_rng(1))
    assert len(phi) == 1001
    assert within(phi, 6 / 20)
    assert len(chance.least_log_tails(6, 3, 20, 7, np.random.default_rng(1))) == 7


def test_the_most_surprising_cell_of_a_grid(rng):
    """Its quantile lies between that of one cell and Bonferroni's, and holds for pairs drawn another way."""
    d, i, j = 40, 12, 4
    critical = np.quantile(chance.least_log_tails(i, j, d, 2000, np.random.default_rng(11)), 0.05)
    assert np.log(0.05 / (i * j)) < critical < np.log(0.05)
    rows, columns = np.ogrid[1 : i + 1, 1 : j + 1]
    pairs = [(haar.random_directions(d, i, rng), haar.random_directions(d, j, rng)) for _ in range(600)]
    least = [chance.log_tail_probability(subspaces.similarity_grid(*pair), rows, columns, d).min() for pair in pairs]
    spread = np.sqrt(0.05 * 0.95 * (1 / 600 + 1 / 2000))
    assert np.mean(np.array(least) < critical) == pytest.approx(0.05, abs=4 * spread)


@pytest.mark.parametrize(("d", "i", "j"), [(400, 100, 60), (400, 60, 100), (300, 200, 180)])
def test_cosines_fill_wachters_density(d, i, j):
    low, high = chance.cosine_limits(i, j, d)
    forced = max(i + j - d, 0)
    cosines = haar.random_cosines(i, j, d, 40, np.random.default_rng(12))[:, forced:].ravel()
    grid = np.linspace(low, min(high, 1 - 1e-6), 20001)[1:-1]
    density = chance.cosine_density(grid, i, j, d)
    cumulative = np.cumsum(density) * (grid[1] - grid[0])
    assert cumulative[-1] == pytest.approx(1 - forced / min(i, j), abs=0.01)
    assert low - 0.02 < cosines.min() < cosines.max() < high + 0.02
    empirical = np.searchsorted(np.sort(cosines), grid) / cosines.size * cumulative[-1]
    assert abs(empirical - cumulative).max() < 0.01


def test_planted_directions_have_the_phi_they_were_given(rng):
    shares = {10: 0.3, 40: 0.3, 60: 0.75}
    v = chance.planted_directions(200, shares, 4, rng)
    np.testing.assert_allclose(v.T @ v, np.eye(4), atol=1e-12)
    turn = haar.random_directions(200, 200, rng)
    for i, phi in shares.items():
        for j in (1, 4):
            assert subspaces.phi(turn[:, :i], turn @ v, i, j) == pytest.approx(phi)
    between = subspaces.phi(np.eye(200)[:, :50], v, 50, 4)
    assert 0.3 < between < 0.75
    nothing = chance.planted_directions(50, {10: 0.0, 20: 1.0}, 3, rng)
    assert subspaces.phi(np.eye(50), nothing, 20, 3) == pytest.approx(1)
    assert abs(nothing[:10]).max() == 0


def test_a_spectrum_matched_matrix_has_the_singular_values_and_uniform_directions():
    weight, rng = np.diag(np.linspace(5, 1, 12)), np.random.default_rng(14)
    found = [haar.spectrum_matched(weight, rng) for _ in range(1500)]
    np.testing.assert_allclose(np.linalg.svd(found[0], compute_uv=False), np.linspace(5, 1, 12))
    for turned in (found, np.swapaxes(found, 1, 2)):
        phi = [np.square(subspaces.top_directions(matrix, 3).vectors[:5]).sum() / 3 for matrix in turned]
        assert stats.kstest(chance.tail_probability(phi, 5, 3, 12), "uniform").pvalue > 0.001
    assert haar.spectrum_matched(np.ones((3, 7)), rng).shape == (3, 7)


def test_planting_in_a_gaussian_factor_divides_the_squared_tangents(rng):
    """The formula for the cosines, against the row space of a Gaussian matrix that was stretched along U."""
    d, i, strength = 40, 9, 3.7
    for j in (4, 15):
        a = rng.standard_normal((j, d))
        stretched = a * np.where(np.arange(d) < i, np.sqrt(strength), 1.0)
        before, after = (np.linalg.svd(np.linalg.qr(m.T)[0][:i], compute_uv=False) ** 2 for m in (a, stretched))
        np.testing.assert_allclose(chance.planted_cosines(before, strength), after, rtol=1e-9)


@pytest.mark.parametrize(("d", "i", "j"), [(384, 14, 4), (60, 14, 20)])
def test_what_is_called_detectable_is_detected_as_often_as_it_says(rng, d, i, j):
    level, power = 0.01, 0.8
    mean_phi = chance.detectable_phi(i, j, d, level, power, 4000, np.random.default_rng(13))
    critical = chance.critical_phi(level, i, j, d)
    assert chance.mean(i, j, d) < critical < mean_phi

    def found(strength):  # whole matrices again, stretched along the first i coordinates
        a = rng.standard_normal((1000, d, j)) * np.where(np.arange(d) < i, np.sqrt(strength), 1.0)[:, None]
        return (np.linalg.qr(a)[0][:, :i] ** 2).sum((1, 2)) / min(i, j)

    strengths = np.geomspace(1, 30, 16)
    phi = [found(strength) for strength in strengths]
    powers, means = ([f(part) for part in phi] for f in (lambda part: (part >= critical).mean(), np.mean))
    assert np.interp(mean_phi, means, powers) == pytest.approx(power, abs=0.08)
    assert powers[0] < 0.05


@pytest.mark.parametrize(("d", "first", "last", "j"), [(40, 6, 30, 4), (40, 6, 8, 4), (30, 5, 6, 5)])
def test_rise_from_one_row_to_another_has_the_law_of_phi_of_the_block(rng, d, first, last, j):
    bases = np.linalg.qr(rng.standard_normal((3000, d, j)))[0]
    rise = (bases[:, :last] ** 2).sum((1, 2)) / j - (bases[:, :first] ** 2).sum((1, 2)) / j
    p = chance.tail_probability(chance.rise_as_phi(rise, first, last, j), last - first, j, d)
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_grid_agrees_with_its_cells_and_edges():
    grid = chance.mean_grid(6, 9, 12)
    assert grid.shape == (6, 9)
    assert all(grid[i - 1, j - 1] == chance.mean(i, j, 12) for i in range(1, 7) for j in range(1, 10))
    assert chance.mean(3, 12, 12) == 1
    assert chance.variance(3, 12, 12) == 0
    assert np.isnan(chance.z_score(1.0, 3, 12, 12))
    assert (chance.mean(1, 1, 1), chance.variance(1, 1, 1)) == (1, 0)


def test_a_difference_is_held_against_that_of_two_random_pairs(rng):
    one, other = (drawn_phi(rng, 60, 14, 4, 4000) for _ in range(2))
    z = chance.difference_z(one, other, 14, 4, 60)
    assert z.std() == pytest.approx(1, abs=0.05)
    assert chance.difference_z(0.3, 0.3, 14, 4, 60) == 0
    assert np.isnan(chance.difference_z(1.0, 1.0, 60, 4, 60))


def test_random_projections_of_a_weight_have_the_closed_form_as_their_root_mean_square(rng):
    weight = rng.standard_normal((20, 30)) * np.linspace(3, 0, 30)
    squares = haar.projection_norms(weight, 4, 3000, np.random.default_rng(1)) ** 2
    assert within(squares, 4**2 * np.sum(weight**2) / weight.size)


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
def test_refuses_what_is_no_dimension(i, j, d, message, unchecked):
    rng = np.random.default_rng(0)
    for refused in (
        lambda: chance.mean(i, j, d),
        lambda: chance.variance(i, j, d),
        lambda: chance.tail_probability(0.5, i, j, d),
        lambda: chance.critical_phi(0.5, i, j, d),
        lambda: chance.cosine_limits(i, j, d),
        lambda: haar.random_phi(i, j, d, 2, rng),
        lambda: haar.random_overlaps(i, j, d, 2, rng),
        lambda: chance.least_log_tails(i, j, d, 2, rng),
    ):
        with pytest.raises(ValueError, match=message):
            refused()


@pytest.mark.parametrize("phi", [-0.1, 1.0001, np.inf, [0.5, 2.0]])
def test_refuses_a_phi_that_is_none(phi):
    with pytest.raises(ValueError, match=r"φ is .*: expected numbers in \[0, 1\]"):
        chance.tail_probability(phi, 3, 2, 9)


@pytest.mark.parametrize("draws", [1, 0, -3, 2.5])
def test_refuses_too_few_draws(draws, unchecked):
    for draw in (haar.random_phi, chance.least_log_tails):
        with pytest.raises(ValueError, match=f"draws is {draws}: expected an integer of at least 2"):
            draw(3, 2, 9, draws, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({10: 0.5, 20: 0.3}, "do not fall"),
        ({10: np.nan}, "in \\[0, 1\\]"),
        ({10: 1.2}, "in \\[0, 1\\]"),
        ({10: -0.2}, "in \\[0, 1\\]"),
        ({2: 0.5}, "between i = 0 and 2: at least 3"),
        ({19: 0.5}, "between i = 19 and 20: at least 3"),
    ],
)
def test_refuses_to_plant_what_cannot_be(shares, message):
    with pytest.raises(ValueError, match=message):
        chance.planted_directions(20, shares, 3, np.random.default_rng(0))


def test_refuses_what_has_no_answer():
    rng = np.random.default_rng(0)
    for probability in (0, 1, 1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="expected numbers between 0 and 1"):
            chance.critical_phi(probability, 3, 2, 9)
    for phi in (3 / 9, 0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="expected a number above chance"):
            chance.sampled_log_tail(phi, 3, 2, 9, 10, rng)
    for level, power in ((0, 0.9), (0.5, 0.4), (0.05, 1)):
        with pytest.raises(ValueError, match="expected 0 < level < power < 1"):
            chance.detectable_phi(3, 2, 9, level, power, 10, rng)
    for ask in (
        lambda: chance.sampled_log_tail(0.9, 9, 2, 9, 10, rng),
        lambda: chance.detectable_phi(9, 2, 9, 0.05, 0.9, 10, rng),
    ):
        with pytest.raises(ValueError, match="φ is always 1 for i = 9, j = 2, d = 9"):
            ask()
    for rise, first, last, j, message in (
        (0.1, 3, 9, 4, "expected j ≤ first < last"),
        (0.1, 9, 9, 4, "expected j ≤ first < last"),
        (-0.1, 5, 9, 4, r"expected numbers in \[0, 1\]"),
        (0.6, 5, 7, 4, r"expected numbers in \[0, 1\]"),  # a block of 2 holds at most half of 4 directions
    ):
        with pytest.raises(ValueError, match=message):
            chance.rise_as_phi(rise, first, last, j)


def test_refuses_more_directions_than_dimensions(rng):
    for draw in (haar.random_directions, lambda d, k, rng: haar.gaussian_factor(k, d, rng)):
        with pytest.raises(ValueError, match="above d = 4"):
            draw(4, 5, rng)
