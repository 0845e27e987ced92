from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from helpers import subspaces
from helpers.subspaces import chance, directions, spectra
from helpers.values import Nothing

SKEWED = np.array([3.0, 1, 0.5, 0.5, 0.2])


def frame(rng, d, k):
    return np.linalg.qr(rng.standard_normal((d, k)))[0]


def planted(rng, values, shape=(20, 14)):
    """ΔW with these singular values and random directions, and the directions: (ΔW, left, right)."""
    left, right = (frame(rng, d, len(values)) for d in shape)
    return left * values @ right.T, left, right


def drawn_energies(rng, k, values, d, draws):
    """Energies of drawn singular directions in the first k coordinates: by QR, which nothing in `spectra` uses."""
    own = np.linalg.qr(rng.standard_normal((draws, d, len(values))))[0]
    return np.square(own[:, :k]).sum(axis=1) @ (np.square(values) / np.square(values).sum())


def in_all_forms(b, a, scale):
    whole = scale * b @ a
    return {
        "array": whole,
        "factors": (scale * b, a),
        "low rank": SimpleNamespace(b=b, a=a, scale=scale),
        "dense": SimpleNamespace(difference=whole),
        "decomposition": directions.decompose_update(SimpleNamespace(b=b, a=a, scale=scale)),
    }


def test_planted_spectrum_is_measured(rng):
    use = subspaces.rank_use(planted(rng, SKEWED)[0])
    weights = SKEWED**2 / (SKEWED**2).sum()
    assert use.rank == 5
    assert use.norm == pytest.approx(np.sqrt((SKEWED**2).sum()))
    assert use.spectral == pytest.approx(3)
    assert use.effective_rank == pytest.approx(np.exp(stats.entropy(weights)))
    assert use.stable_rank == pytest.approx(1 / weights[0])
    assert use.k90 == 2  # 9 + 1 of 10.54


@pytest.mark.parametrize("n", [1, 7, 10])
def test_equal_values_use_all_of_the_rank(rng, n):
    use = subspaces.rank_use(planted(rng, np.ones(n))[0])
    assert (use.rank, use.k90) == (n, int(np.ceil(0.9 * n)))
    assert (use.effective_rank, use.stable_rank) == pytest.approx((n, n))


def test_what_is_below_rounding_is_no_rank(rng):
    exact = np.diag([3.0, 2, 1, 0, 0, 0])
    noise = np.diag([0, 0, 0, 1e-17, 1e-18, 0])
    assert subspaces.rank_use(exact + noise) == subspaces.rank_use(exact)
    assert subspaces.rank_use(exact).rank == 3
    doubled = np.vstack([frame(rng, 14, 2).T] * 2)  # four rows that span two directions
    assert subspaces.rank_use((rng.standard_normal((20, 4)), doubled)).rank == 2


@pytest.mark.parametrize("scale", [2.0, -0.5, 1e-150])
def test_every_form_of_an_update_is_the_same(rng, scale):
    b, a, top = rng.standard_normal((20, 4)), rng.standard_normal((4, 14)), frame(rng, 14, 3)
    expected, plain = subspaces.energy(top, b @ a, "right"), subspaces.rank_use(b @ a)
    for update in in_all_forms(b, a, scale).values():
        use, found = subspaces.rank_use(update), directions.decompose_update(update)
        assert use[3:] == pytest.approx(plain[3:])
        assert use[:3] == pytest.approx((4, abs(scale) * plain.norm, abs(scale) * plain.spectral), rel=1e-12, abs=0)
        assert subspaces.energy(top, update, "right") == pytest.approx(expected)
        np.testing.assert_allclose(found.left * found.values @ found.right.T, scale * b @ a, atol=abs(scale) * 1e-13)


def test_a_change_of_basis_between_the_factors_changes_nothing(rng):
    b, a, q = rng.standard_normal((20, 4)), rng.standard_normal((4, 14)), rng.standard_normal((4, 4))
    turned, top = (b @ q, np.linalg.solve(q, a)), frame(rng, 20, 6)
    assert subspaces.rank_use(turned) == pytest.approx(subspaces.rank_use((b, a)))
    assert subspaces.energy(top, turned, "left") == pytest.approx(subspaces.energy(top, (b, a), "left"))


def test_energy_is_that_of_the_projected_matrix(rng):
    delta, left, right = planted(rng, SKEWED)
    size = np.linalg.norm(delta) ** 2
    for side, d, own, turned in (("left", 20, left, delta.T), ("right", 14, right, delta)):
        top = frame(rng, d, 4)
        assert subspaces.energy(top, delta, side) == pytest.approx(np.linalg.norm(turned @ top) ** 2 / size)
        assert subspaces.energy(own[:, 1:3], delta, side) == pytest.approx((SKEWED[1:3] ** 2).sum() / size)
        assert subspaces.energy(own, delta, side) == pytest.approx(1)
        assert subspaces.energy(np.linalg.qr(own, "complete")[0][:, 5:], delta, side) == pytest.approx(0, abs=1e-28)


def test_energy_of_other_input_is_refused(rng, unchecked):
    delta, left, _ = planted(rng, SKEWED)
    for top, update, side, message in (
        (left, delta, "output", "side is 'output'"),
        (left, delta, "right", r"R\^20, but on the right those of ΔW lie in R\^14"),
        (1.01 * left, delta, "left", "not orthonormal"),
        (np.hstack([left, left]), delta, "left", "not orthonormal"),
        (np.eye(20, 21), delta, "left", "not orthonormal"),
        (left * np.nan, delta, "left", "top holds NaN"),
        (left[:, 0], delta, "left", "two dimensions"),
        (left, 0 * delta, "left", "ΔW is zero"),
    ):
        with pytest.raises(ValueError, match=message):
            subspaces.energy(top, update, side)


def test_what_is_no_update_is_refused(rng, unchecked):
    b, a = rng.standard_normal((20, 4)), rng.standard_normal((4, 14))
    part = directions.decompose(frame(rng, 20, 20), 3, "gram")
    for update, message in (
        ((0 * b, a), "ΔW is zero"),
        (SimpleNamespace(b=b, a=a, scale=0.0), "ΔW is zero"),
        (SimpleNamespace(b=b, a=a, scale=np.nan), "scale of the update is nan"),
        (SimpleNamespace(difference=b * np.inf), "the update holds NaN or Inf"),
        ((b, a * np.nan), "a holds NaN or Inf"),
        ((b, a.T), "columns of b"),
        ((b, a, 2.0), "a tuple of 3"),
        (b[0], "two dimensions"),
        (part, "not all"),
    ):
        with pytest.raises(ValueError, match=message):
            subspaces.rank_use(update)


def test_nothing_stays_nothing():
    assert subspaces.rank_use(Nothing("no base")).reason == "no base"


@pytest.mark.parametrize("r", [1, 3, 6, 9, 15, None])
@pytest.mark.parametrize("shape", [(6, 12), (12, 6)])
def test_random_updates_have_the_law_of_drawn_matrices(rng, shape, r):
    """Two samples, measure by measure; ranks below, at and above both sides."""
    found, k90 = spectra.drawn_rank_use(shape, r, 5, 400)
    if r is None:
        drawn = rng.standard_normal((400, *shape))
    else:
        drawn = rng.standard_normal((400, shape[0], r)) @ rng.standard_normal((400, r, shape[1]))
    weights = np.square(np.linalg.svd(drawn, compute_uv=False))
    weights /= weights.sum(axis=1, keepdims=True)
    effective, counts = np.exp(stats.entropy(weights, axis=1)), 1 + (weights.cumsum(axis=1) < 0.9).sum(axis=1)
    assert found.shape == (400,) and k90 == pytest.approx(counts.mean(), abs=5 * np.sqrt(2 / 400) * counts.std() + 1e-9)
    if r == 1:
        np.testing.assert_allclose(found, effective)
    else:
        assert stats.ks_2samp(found, effective, method="asymp").pvalue > 1e-4


def test_random_updates_of_another_shape_have_another_law():
    """The test above can fail: one row more shows."""
    (one, _), (other, _) = (spectra.drawn_rank_use((6, width), 4, 5, 2000) for width in (8, 10))
    assert stats.ks_2samp(one, other, method="asymp").pvalue < 1e-4


def test_the_same_seed_gives_the_same_random_updates():
    (one, k90), (other, again) = (spectra.drawn_rank_use((30, 20), 4, 3, 5) for _ in range(2))
    np.testing.assert_array_equal([*one, k90], [*other, again])
    assert not np.array_equal(one, spectra.drawn_rank_use((30, 20), 4, 4, 5)[0])


@pytest.mark.parametrize(
    ("k", "values", "d"),
    [
        (3, SKEWED, 12),
        (9, SKEWED, 12),
        (5, SKEWED, 5),
        (1, [1.0], 2),
        (4, np.ones(6), 10),
        (2, [1.0], 30),
        (2, SKEWED, 6),
    ],
)
def test_mean_and_variance_of_energy_are_exact(rng, k, values, d):
    found = drawn_energies(rng, k, np.array(values), d, 4000)
    mean, variance = spectra.energy_chance(k, np.array(values), d)
    assert mean == pytest.approx(found.mean(), abs=4 * found.std() / np.sqrt(4000) + 1e-12)
    squares = (found - mean) ** 2
    assert variance == pytest.approx(squares.mean(), abs=4 * squares.std() / np.sqrt(4000) + 1e-12)


def test_chance_of_many_k_at_once():
    k = np.array([1, 3, 12])
    mean, variance = spectra.energy_chance(k, SKEWED, 12)
    np.testing.assert_allclose(mean, k / 12)
    np.testing.assert_allclose(variance, [spectra.energy_chance(int(each), SKEWED, 12)[1] for each in k])
    assert variance[-1] == 0


@pytest.mark.parametrize(("k", "d"), [(1, 2), (3, 7), (6, 7), (14, 384), (380, 384)])
def test_energy_of_one_direction_is_a_beta_variable(k, d):
    energy = np.linspace(0, 1, 21)
    expected = stats.beta(k / 2, (d - k) / 2).sf(energy)
    np.testing.assert_allclose(spectra.energy_tail(energy, k, np.array([5.0]), d), expected, rtol=1e-9, atol=1e-15)


def test_energy_of_all_directions_but_one_is_a_beta_variable():
    """k/29 less what the one that is left out takes: skewed the other way."""
    energy = np.linspace(3, 4, 11) / 29
    expected = stats.beta(2, 13).cdf(4 - 29 * energy)
    np.testing.assert_allclose(spectra.energy_tail(energy, 4, np.ones(29), 30), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("k", "n", "d"), [(14, 4, 384), (5, 8, 60), (8, 8, 100), (1, 6, 40)])
def test_energy_of_equal_values_is_phi(k, n, d):
    """Where all directions weigh the same, n · energy is the trace min(k, n) φ: two approximations of one law."""
    phi = chance.critical_phi(np.array([0.9, 0.5, 0.1, 0.01, 0.001]), k, n, d)
    p = spectra.energy_tail(phi * min(k, n) / n, k, np.ones(n), d)
    np.testing.assert_allclose(p, chance.tail_probability(phi, k, n, d), rtol=0.15)


CASES = [  # k, values, d
    (14, np.sqrt([0.9, *np.full(3, 0.1 / 3)]), 128),
    (2, np.sqrt([0.5, *np.full(9, 0.5 / 9)]), 60),
    (8, 0.7 ** np.arange(24), 24),
    (40, np.sqrt(np.linspace(1, 0.02, 8)), 64),
    (61, SKEWED, 64),
    (436, 0.7 ** np.arange(6), 500),  # skewed beyond any Beta law
    (3, SKEWED, 8),
]


@pytest.mark.parametrize(("k", "values", "d"), CASES)
def test_p_of_energy_is_calibrated(rng, k, values, d):
    """P(p ≤ α) = α where the directions are random, also where they are read off draws."""
    draws = 3000
    p = spectra.energy_tail(drawn_energies(rng, k, values, d, draws), k, values, d)
    for level in (0.5, 0.1, 0.05, 0.01):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / draws))


def test_and_the_calibration_can_fail(rng):
    """With the mean and variance right but of one direction only, or of k + 1, p is not uniform."""
    k, values, d = CASES[1]
    found = drawn_energies(rng, k, values, d, 4000)
    assert np.mean(spectra.energy_tail(found, k + 1, values, d) <= 0.05) < 0.03
    assert np.mean(spectra.energy_tail(found, k, np.ones(1), d) <= 0.05) < 0.03


def test_ends_and_constants():
    values = np.array([2.0, 1.0])
    assert spectra.energy_tail(0.0, 4, values, 40) == 1
    assert spectra.energy_tail(1.0, 4, values, 40) == 0
    assert 0 < spectra.energy_tail(1.0, 38, values, 40) < 1e-4  # read off draws: no less than one in so many
    assert spectra.energy_tail(0.0, 38, values, 40) == 1
    falling = spectra.energy_tail(np.linspace(0, 1, 50), 4, values, 40)
    assert (np.diff(falling) <= 0).all()
    assert spectra.energy_tail(1.0, 40, values, 40) == 1  # all directions hold all of it
    assert spectra.energy_tail(0.25, 10, np.ones(40), 40) == 1  # and of equal values every direction as much
    assert spectra.energy_chance(10, 1 + 1e-12 * np.arange(40), 40) == (0.25, 0)
    assert spectra.energy_tail(1.0, 1, np.ones(1), 1) == 1
    for k in (4, 38, 40):
        p = spectra.energy_tail(np.array([np.nan, 1.0]), k, values, 40)
        np.testing.assert_array_equal(np.isnan(p), [True, False])


def test_energy_of_no_law_is_refused(unchecked):
    for energy, k, values, d, message in (
        (1.01, 4, SKEWED, 40, "energy is 1.01: 4 of 40"),
        (-0.01, 4, SKEWED, 40, "energy is -0.01"),
        (0.9, 1, np.ones(2), 40, "hold 0 to 0.5"),
        (0.1, 41, SKEWED, 40, "above d = 40"),
        (0.1, 0, SKEWED, 40, "positive integers"),
        (0.1, 2.0, SKEWED, 40, "positive integers"),
        (0.1, 2, SKEWED, 4, "there are 5 singular values: expected at most 4"),
        (0.1, 2, np.zeros(3), 40, "not all 0"),
        (0.1, 2, np.array([1.0, np.nan]), 40, "finite"),
        (0.1, 2, np.array([1.0, -1]), 40, "none below 0"),
        (0.1, 2, np.ones((2, 2)), 40, "expected singular values"),
    ):
        with pytest.raises(ValueError, match=message):
            spectra.energy_tail(energy, k, values, d)
