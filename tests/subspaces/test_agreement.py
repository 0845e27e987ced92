from types import SimpleNamespace

import numpy as np
import pytest
from scipy import integrate, stats

from helpers import subspaces
from helpers.subspaces import agreement, directions, haar
from helpers.values import Nothing

ONE = np.ones(1)
EVEN = np.ones(8)
FALLING = 0.6 ** np.arange(8)
STRONG = np.sqrt([0.9, *np.full(63, 0.1 / 63)])
WHOLE = np.linspace(1, 0.02, 64)  # about as the singular values of a square normal matrix fall
UNKNOWN = float("nan")


def factors(rng, values=FALLING, shape=(40, 30)):
    """(b, a) of an update with these singular values and uniform directions."""
    left, right = (haar.random_directions(d, len(values), rng) for d in shape)
    return left * values, right.T


def in_all_forms(b, a):
    whole = b @ a
    return {
        "array": whole,
        "factors": (b, a),
        "low rank": SimpleNamespace(b=-b, a=a, scale=-1.0),
        "dense": SimpleNamespace(difference=whole),
        "decomposition": directions.decompose_update((b, a)),
    }


def by_hand(one, other):
    return np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)


def test_cosine_is_that_of_all_entries(rng):
    one, other = (b @ a for b, a in (factors(rng), factors(rng, EVEN)))
    assert agreement.cosine(one, other) == pytest.approx(by_hand(one, other))
    assert subspaces.cosine(one, one) == pytest.approx(1)
    assert agreement.cosine(one, -3 * one) == pytest.approx(-1)


def test_products_are_not_multiplied_out(rng):
    """They would be of 40 GB."""
    b, a, other = (rng.standard_normal((d, 2)) for d in (100_000, 50_000, 50_000))
    found = agreement.interference((b, a.T), (b, other.T), 1.0)
    assert found.output == pytest.approx(1) and found.input < 0.01


def test_what_cannot_be_compared_is_refused(rng, unchecked):
    b, a = factors(rng)
    part = directions.decompose(rng.standard_normal((40, 30)), 3, "gram")
    for one, other, message in (
        ((b, a), (a.T, b.T), r"one ΔW is \(40, 30\) and the other \(30, 40\)"),
        (b @ a, (b @ a).T, r"one ΔW is \(40, 30\) and the other \(30, 40\)"),
        ((0 * b, a), (b, a), "ΔW is zero"),
        (b @ a, 0 * b @ a, "ΔW is zero"),
        (part, (b, a), "holds 3 directions of ΔW, not all"),
        ((b, a * np.nan), (b, a), "a holds NaN"),
        (b @ a * np.nan, b @ a, "the update holds NaN"),
        ((b, a, 1), (b, a), "a tuple of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            agreement.interference(one, other)
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
            with pytest.raises(ValueError, match=message):
                agreement.cosine(one, other)


def test_nothing_stays_nothing(rng):
    for function in (subspaces.cosine, subspaces.interference):
        assert function(factors(rng), Nothing("no base")).reason == "no base"


def drawn_cosines(rng, values, other, shape, n):
    """Cosines of all pairs of n drawn left and n drawn right overlaps: [n, n]."""
    unit, other_unit = (each / np.linalg.norm(each) for each in (values, other))
    left, right = (haar.random_overlaps(len(values), len(other), d, n, rng).reshape(n, -1) for d in shape)
    return (left * np.outer(unit, other_unit).ravel()) @ right.T


@pytest.mark.parametrize("values", [ONE, EVEN, FALLING])
def test_the_spread_of_cosines_is_exact_whatever_the_values(rng, values):
    found = np.array([drawn_cosines(rng, values, FALLING, (12, 30), 40).std() for _ in range(100)]) ** 2
    error = found.std() / np.sqrt(len(found))
    assert agreement.cosine_sd((12, 30)) ** 2 == pytest.approx(found.mean(), abs=4 * error)


@pytest.mark.parametrize("shape", [(24, 24), (192, 576), (4096, 4096)])
def test_of_one_value_each_the_law_is_exact(shape):
    """The cosine is then x y, coordinates of two independent uniform unit vectors."""
    out, into = shape
    x, square = stats.beta(0.5, (out - 1) / 2), stats.beta(0.5, (into - 1) / 2)
    for z in (0.1, 1, 3, 8, 15, 24):
        cosine = z * agreement.cosine_sd(shape)
        if cosine < 0.9:
            # over the angle of x: its density has no end there
            tail, _ = integrate.quad(
                lambda angle, cosine=cosine: (
                    x.pdf(np.sin(angle) ** 2) * square.sf(min(1.0, (cosine / np.sin(angle)) ** 2)) * np.sin(2 * angle)
                ),
                np.arcsin(cosine),
                min(np.pi / 2, np.arcsin(cosine) + 40 / np.sqrt(out)),
                points=[np.arcsin(min(0.99, np.sqrt(cosine)))],
                epsabs=0,
                epsrel=1e-9,
                limit=200,
            )
            assert agreement.cosine_p(cosine, ONE, ONE, shape) == pytest.approx(tail, rel=1e-6, abs=0)


@pytest.mark.parametrize("shape", [(24, 24), (64, 500)])
def test_of_one_value_and_equal_ones_it_is_a_coordinate(shape):
    """‖ΔW₂‖ = 1 with equal values on all of R^out: uᵀ ΔW₂ is 1/√out of a uniform unit vector of R^in."""
    found = [agreement.cosine_p(c / np.sqrt(shape[0]), ONE, np.ones(shape[0]), shape) for c in (0.01, 0.2, 0.5, 0.9)]
    beta = stats.beta(0.5, (shape[1] - 1) / 2)
    np.testing.assert_allclose(found, beta.sf(np.square([0.01, 0.2, 0.5, 0.9])), rtol=1e-6)


@pytest.mark.parametrize(
    "squares", [[1.0], [0.9, 0.1], [0.5, 0.3, 0.2], [0.6, 0.25, 0.1, 0.05], 0.36 ** np.arange(8)], ids=len
)
def test_far_tails_of_large_matrices(squares):
    """Of many dimensions the overlaps are independent normals, and against two equal values a sum of Laplace laws.

    Each of the values contributes (x y + x′ y′) / √2, a Laplace law of scale b: partial fractions give the tail.
    """
    scales = np.array(squares) / np.sum(squares) / 2
    weights = [np.prod([b / (b - c) for c in scales if c != b]) for b in scales]

    def tail(z):
        return np.sum(weights * np.exp(-z / np.sqrt(scales)))

    d = 50_000
    for z, within in ((1.8, 1.05), (3, 1.05), (5, 1.05), (8, 1.2), (12, 2), (17, 3.5)):
        stated = agreement.cosine_p(z / d, np.sqrt(squares), np.ones(2), (d, d))
        assert 1 / within < tail(z) / stated < within


CASES = [  # values of one and of the other, shape, draws
    (EVEN, EVEN, (24, 24), 1500),
    (FALLING, EVEN, (24, 24), 1500),
    (FALLING, FALLING, (192, 576), 1500),
    (EVEN, FALLING, (4096, 4096), 1500),
    (EVEN, STRONG, (576, 576), 600),
    (np.ones(24), FALLING, (24, 40), 600),
    (WHOLE, WHOLE, (64, 64), 200),
]


@pytest.mark.parametrize(("values", "other", "shape", "draws"), CASES)
def test_p_of_a_cosine_is_calibrated(rng, values, other, shape, draws):
    """How often drawn cosines reach z standard deviations, some 0.05 to 0.001, is what is stated."""
    values, other = np.array(values), np.array(other)
    limits = agreement.cosine_sd(shape) * np.array([1.6, 2.4, 3.1])
    rates = []
    for _ in range(8):
        found = np.abs(drawn_cosines(rng, values, other, shape, draws // 4))
        rates.append([np.mean(found >= limit) for limit in limits])
    stated = np.array([agreement.cosine_p(limit, values, other, shape) for limit in limits])
    errors = np.std(rates, axis=0, ddof=1) / np.sqrt(len(rates))
    assert (np.abs(np.mean(rates, axis=0) - stated) < 5 * errors + 0.05 * stated).all()
    assert (errors < 0.25 * stated).all()


def test_and_the_calibration_can_fail(rng):
    """Even values as if they were one: the tail is that of another law."""
    limit = 3.1 * agreement.cosine_sd((24, 24))
    rate = np.mean(np.abs(drawn_cosines(rng, EVEN, EVEN, (24, 24), 1000)) >= limit)
    assert agreement.cosine_p(limit, ONE, ONE, (24, 24)) > 2 * rate
    assert rate > 0


def test_of_few_dimensions_p_is_read_off_draws(rng):
    values, other, shape = np.array([1.0, 0.5]), np.array([1.0, 1.0, 0.2]), (3, 5)
    drawn = np.abs([np.diag(drawn_cosines(rng, values, other, shape, 1000)) for _ in range(20)])
    for limit in (0.4, 0.6):
        p = agreement.cosine_p(limit, values, other, shape)
        assert p == pytest.approx(np.mean(drawn >= limit), abs=5 * np.sqrt(2 * p / 20_000))
        assert p == agreement.cosine_p(-limit, values, other, shape)
    assert agreement.cosine_p(0.0, values, other, shape) == 1
    assert 0 < agreement.cosine_p(0.93, values, other, shape) < 2e-3


@pytest.mark.parametrize(("values", "other", "shape", "_"), CASES)
def test_p_falls_from_one_and_is_symmetric(values, other, shape, _):
    values, other = np.array(values), np.array(other)
    most = np.sum(np.sort(values)[::-1][: len(other)] * np.sort(other)[::-1][: len(values)])
    most /= np.linalg.norm(values) * np.linalg.norm(other)
    cosines = np.minimum(agreement.cosine_sd(shape) * np.array([0, 1e-9, 0.1, 1, 3, 10, 40, 1e5]), most)
    p = np.array([agreement.cosine_p(c, values, other, shape) for c in cosines])
    assert p[0] == pytest.approx(1, abs=1e-9)
    assert (np.diff(p) <= 1e-9).all() and p[-1] > 0
    assert p[1] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose([agreement.cosine_p(-c, values, other, shape) for c in cosines], p)
    for again in ((other, values, shape), (7e-80 * values, other, shape), (values, other, shape[::-1])):
        np.testing.assert_allclose(agreement.cosine_p(cosines[4], *again), p[4], rtol=1e-9)


def test_ends_of_the_law(unchecked):
    assert agreement.cosine_p(1.0, ONE, ONE, (1, 1)) == 1
    assert agreement.cosine_p(0.3, EVEN, EVEN, (40, 1_000_000)) < 1e-200
    assert np.isnan(agreement.cosine_p(UNKNOWN, EVEN, EVEN, (24, 24)))
    for cosine, values, shape, message in (
        (0.9, np.ones(2), (24, 24), "cosine is 0.9: two ΔW of these singular values reach at most 0.7071"),
        (-1.01, ONE, (24, 24), "reach at most 0.5"),
        (0.1, np.ones(25), (24, 30), "there are 25 singular values: expected at most 24"),
        (0.1, np.zeros(3), (24, 24), "not all 0"),
        (0.1, [1.0, UNKNOWN], (24, 24), "finite"),
        (0.1, [1.0, -1.0], (24, 24), "none below 0"),
        (0.1, ONE, (24, 0), "expected two positive integers"),
        (0.1, ONE, (24, 24, 24), "expected two positive integers"),
    ):
        with pytest.raises(ValueError, match=message):
            agreement.cosine_p(cosine, values, np.ones(4), shape)
    with pytest.raises(ValueError, match="expected two positive integers"):
        agreement.cosine_sd((2.5, 3))


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_interference_is_that_of_the_projected_matrix(rng, share):
    one, other = factors(rng), factors(rng, np.sqrt([0.5, 0.3, 0.1, 0.08, 0.02]))
    delta = one[0] @ one[1] / np.linalg.norm(one[0] @ one[1])
    k = {0.5: 1, 0.9: 3, 1.0: 5}[share]
    left, right = other[0][:, :k] / np.linalg.norm(other[0][:, :k], axis=0), other[1][:k].T
    u, v = left @ left.T, right @ right.T
    for first in in_all_forms(*one).values():
        found = subspaces.interference(first, other, share)
        assert found.k == k
        assert found.output == pytest.approx(np.linalg.norm(u @ delta) ** 2)
        assert found.input == pytest.approx(np.linalg.norm(delta @ v) ** 2)
        assert found.both == pytest.approx(np.linalg.norm(u @ delta @ v) ** 2)
        assert (found.output_chance, found.input_chance) == (k / 40, k / 30)
        assert found.both_chance == pytest.approx(k * k / 1200)


def test_what_lies_in_the_others_place_is_found_there(rng):
    other = factors(rng, EVEN)
    inside = (other[0] @ rng.standard_normal((8, 8)), rng.standard_normal((8, 8)) @ other[1])
    found = subspaces.interference(inside, other, 1.0)
    assert (found.output, found.input, found.both) == pytest.approx((1, 1, 1))
    assert max(found.output_p, found.input_p) < 1e-6
    read_only = (rng.standard_normal((40, 8)), other[1])
    found = subspaces.interference(read_only, other, 1.0)
    assert found.input == pytest.approx(1) and found.both == pytest.approx(found.output)
    assert found.input_p < 1e-6 < found.output_p


def test_a_share_that_is_none_is_refused(rng, unchecked):
    for share in (0.0, -0.1, 1.1, UNKNOWN):
        with pytest.raises(ValueError, match="share is"):
            subspaces.interference(factors(rng), factors(rng), share)


@pytest.fixture(scope="module")
def independent():
    """Interference, cosine and its p of 200 pairs that have nothing to do with each other."""
    rng, rows = np.random.default_rng(18), []
    for _ in range(200):
        products = [factors(rng, values) for values in (FALLING, EVEN)]
        one, other = map(directions.decompose_update, products)
        cosine = agreement.cosine(*(b @ a for b, a in products))
        p = agreement.cosine_p(cosine, one.values, other.values, (40, 30))
        rows.append((cosine, p, agreement.interference(one, other), agreement.interference(other, one)))
    return rows


def test_independent_pairs_are_at_chance(independent):
    """Each p is below 0.05 in 5 % of them; the shares have the stated means; few are said to share a place."""
    p = np.array([(p, a.output_p, a.input_p, b.output_p, b.input_p) for _, p, a, b in independent])
    assert (np.abs((p < 0.05).mean(axis=0) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(p))).all()
    for found in zip(*((a, b) for *_, a, b in independent), strict=True):
        for name in ("output", "input", "both"):
            shares = np.array([getattr(each, name) for each in found])
            error = shares.std() / np.sqrt(len(shares))
            assert getattr(found[0], f"{name}_chance") == pytest.approx(shares.mean(), abs=4 * error)
    verdicts = [
        agreement.verdict(c, p, *((each.output_p, each.input_p) for each in both)) for c, p, *both in independent
    ]
    assert verdicts.count("apart") > 0.85 * len(verdicts)
    assert 0 < verdicts.count("agree") + verdicts.count("against") < 0.12 * len(verdicts)


def judged(one, other):
    """The verdict on two updates, each p corrected as if 100 pairs were asked."""
    one, other = directions.decompose_update(one), directions.decompose_update(other)
    cosine = agreement.cosine(*(each.left * each.values @ each.right.T for each in (one, other)))
    p = agreement.cosine_p(cosine, one.values, other.values, (40, 30))
    both = agreement.interference(one, other), agreement.interference(other, one)
    return agreement.verdict(cosine, 100 * p, *((100 * each.output_p, 100 * each.input_p) for each in both))


def test_what_was_planted_is_said(rng):
    """Agreement and opposition under noise, and one place with independent cores."""
    said = {"agree": [], "against": [], "share a place": [], "apart": []}
    for _ in range(8):
        (b, a), noise = factors(rng), factors(rng)
        said["agree"].append(judged((b, a), (np.hstack([b, noise[0]]), np.vstack([a, noise[1]]))))
        said["against"].append(judged((np.hstack([-b, noise[0]]), np.vstack([a, noise[1]])), (b, a)))
        left, right = haar.random_directions(40, 6, rng), haar.random_directions(30, 6, rng)
        cores = rng.standard_normal((2, 6, 6))
        cores[1] -= np.vdot(*cores) / np.vdot(cores[0], cores[0]) * cores[0]
        said["share a place"].append(judged(*(left @ core @ right.T for core in cores)))
        said["apart"].append(judged(factors(rng), factors(rng, EVEN)))
    for expected, found in said.items():
        assert found.count(expected) >= 7, (expected, found)


@pytest.mark.parametrize(
    ("cosine", "p", "one", "other", "expected"),
    [
        (0.1, 0.5, (0.5, 0.5), (0.5, 0.5), "apart"),
        (0.1, 0.01, (0.5, 0.5), (0.5, 0.5), "agree"),
        (-0.1, 0.01, (0.5, 0.5), (0.5, 0.5), "against"),
        (-0.1, 0.01, (0.0, 0.0), (0.0, 0.0), "against"),
        (0.1, 0.5, (0.01, 0.02), (0.5, 0.5), "share a place"),
        (0.1, 0.5, (0.5, 0.5), (0.01, 0.02), "share a place"),
        (0.1, 0.5, (0.01, 0.5), (0.5, 0.01), "apart"),  # each on one side only
        (0.1, 0.05, (0.05, 0.01), (0.5, 0.5), "apart"),  # at the level is not below it
        (UNKNOWN, UNKNOWN, (0.01, 0.02), (0.5, 0.5), ""),
        (0.1, UNKNOWN, (0.5, 0.5), (0.5, 0.5), ""),
        (0.1, 0.5, (UNKNOWN, 0.01), (0.5, 0.5), ""),
        (0.1, 0.5, (UNKNOWN, UNKNOWN), (0.5, 0.5), ""),
        (0.1, 0.5, (UNKNOWN, 0.5), (0.5, 0.5), "apart"),  # whatever it is
        (0.1, 0.5, (UNKNOWN, 0.01), (0.01, 0.01), "share a place"),
        (0.1, 0.01, (UNKNOWN, 0.01), (0.01, UNKNOWN), "agree"),
    ],
)
def test_a_verdict_says_only_what_is_known(cosine, p, one, other, expected):
    assert agreement.verdict(cosine, p, one, other) == expected
    assert expected in (*agreement.VERDICTS, "")
