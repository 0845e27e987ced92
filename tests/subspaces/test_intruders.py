"""Intruders against PEFT's function and whole decompositions, planted ones, and their null by simulation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from scipy import stats
from torch import nn

from helpers import subspaces
from helpers.subspaces import directions, haar
from helpers.subspaces.intruders import (
    EPSILON,
    draw_cosines,
    expected_intruders,
    family_p,
    intruder_test,
    leading_cosines,
)


def made(rng, shape, values, strengths):
    """A W and a ΔW of these singular values, in random directions."""
    pairs = []
    for given in (values, strengths):
        left, right = (haar.random_directions(side, len(given), rng) for side in shape)
        pairs.append((left * given) @ right.T)
    return pairs


def by_two_svds(weight, update, k):
    """(Largest |cosine| of each of the k leading vectors, their singular values), by the definition."""
    known = np.linalg.svd(weight, full_matrices=False)[0]
    changed, values, _ = np.linalg.svd(weight + update, full_matrices=False)
    return np.abs(changed[:, :k].T @ known).max(1), values[:k]


@pytest.mark.parametrize("k", [10, 7])
def test_counts_are_pefts(k):
    torch.manual_seed(0)
    sizes = [(40, 40), (40, 90), (90, 30), (30, 120)]
    model = nn.Sequential(*(nn.Linear(*size, bias=False) for size in sizes)).double()
    config = LoraConfig(r=6, lora_alpha=6, target_modules=[str(n) for n in range(len(sizes))], init_lora_weights=False)
    model, told = get_peft_model(model, config).double(), []
    layers = [model.base_model.model[n] for n in range(len(sizes))]
    for n, layer in enumerate(layers):
        layer.weight.data *= torch.linspace(3, 1, layer.weight.shape[1])
        layer.lora_B["default"].weight.data *= torch.linspace(1 + n, 0.1, 6)
    ours = []
    for layer in layers:
        b, a = (getattr(layer, name)["default"].weight.detach().numpy() for name in ("lora_B", "lora_A"))
        ours.append(subspaces.intruders(layer.weight.detach().numpy(), (b, a), k).count)
    reduce_intruder_dimension(model, top_k=k, threshold_epsilon=EPSILON, logging_sink=told.append)
    theirs = [0 if "No intruders" in line else int(line.split()[-1]) for line in told[: len(sizes)]]
    assert ours == theirs
    assert len(set(theirs)) > 1


@pytest.mark.parametrize("shape", [(30, 30), (90, 90), (75, 110), (110, 75)])
@pytest.mark.parametrize("r", [3, 30])
def test_cosines_are_those_of_two_svds_whatever_holds_the_update(rng, shape, r, unchecked):
    n = min(shape)
    weight, update = made(rng, shape, np.linspace(3, 0.5, n), np.linspace(4, 0.1, r))
    b, a = rng.standard_normal((shape[0], r)), rng.standard_normal((r, shape[1]))
    whole, product = by_two_svds(weight, update, 10), by_two_svds(weight, -0.07 * b @ a, 10)
    known = directions.decompose(weight, n, "svd")
    for given, truth in (
        (update, whole),
        (SimpleNamespace(difference=update), whole),
        (directions.decompose(update, n), whole),
        ((-0.07 * b, a), product),
        (SimpleNamespace(b=b, a=a, scale=-0.07), product),
    ):
        for base in (weight, known):
            cosines, values = leading_cosines(base, given)
            np.testing.assert_allclose(cosines, truth[0], atol=1e-9)
            np.testing.assert_allclose(values, truth[1], rtol=1e-12)
    found = subspaces.intruders(known, update)
    np.testing.assert_array_equal(found.cosines, leading_cosines(known, update)[0])
    assert found.count == (whole[0] < 0.5).sum()


def test_planted_intruders_are_found_and_own_directions_are_none(rng):
    d, values = 100, np.linspace(5, 1, 100)
    left, right = haar.random_directions(d, d, rng), haar.random_directions(d, d, rng)
    weight, even = (left * values) @ right.T, np.full(d, d**-0.5)
    for strength in (1e2, 1e4):
        found = subspaces.intruders(weight, strength * np.outer(left @ even, right @ even))
        assert found.count == 1
        assert found.cosines.argmin() == 0
        assert found.cosines[0] == pytest.approx(d**-0.5, rel=10 / strength)
    along = (left[:, :3] * [50.0, 40.0, -2.0]) @ right[:, :3].T
    found = subspaces.intruders(weight, along)
    assert found.count == 0
    np.testing.assert_allclose(found.cosines, 1, atol=1e-9)


def test_no_update_makes_no_intruders(rng):
    weight = rng.standard_normal((80, 70))
    found = subspaces.intruders(weight, (np.zeros((80, 4)), rng.standard_normal((4, 70))))
    np.testing.assert_allclose(found.cosines, 1, atol=1e-12)
    assert (found.count, found.expected) == (0, 0.0)


def test_where_singular_values_of_w_are_repeated_their_whole_subspace_counts(rng):
    d, update = 70, 0.1 * rng.standard_normal((70, 2)) @ rng.standard_normal((2, 70))
    for weight in (np.eye(d), haar.random_directions(d, d, rng)):
        np.testing.assert_allclose(subspaces.intruders(weight, update).cosines, 1, atol=1e-9)
    values = np.concatenate([[9.0], np.full(20, 5.0), np.linspace(3, 1, d - 21)])
    left, right = haar.random_directions(d, d, rng), haar.random_directions(d, d, rng)
    vectors = np.linalg.svd((left * values) @ right.T + update)[0][:, :10]
    shares = np.square(left.T @ vectors)
    truth = np.sqrt(np.vstack([shares[0], shares[1:21].sum(0), shares[21:]]).max(0))
    found = subspaces.intruders((left * values) @ right.T, update)
    np.testing.assert_allclose(found.cosines, truth, atol=1e-9)
    assert np.sqrt(shares.max(0)).min() < 0.5 < found.cosines.min()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_null_directions_of_w_are_none_of_its_directions(rng, dtype):
    left, right = haar.random_directions(40, 40, rng), haar.random_directions(30, 30, rng)
    weight = ((left[:, :29] * np.linspace(4, 1, 29)) @ right[:, :29].T).astype(dtype)
    update = 9 * np.outer(left[:, 29], right[:, 29])  # PEFT takes it for a direction of W: W has but this one to add
    found = subspaces.intruders(weight, update)
    assert found.count == 1
    assert found.cosines[0] < 1e-6
    np.testing.assert_allclose(found.cosines[1:], 1, atol=1e-6)


def test_no_copy_of_equal_singular_values_is_missed(rng):
    """Changes that make leading values of W + ΔW agree, of which Lanczos' method may find one copy only."""
    d, values = 70, np.linspace(30, 1, 70)
    for _ in range(20):
        places, targets = rng.choice(np.arange(10, d), 3, replace=False), rng.integers(0, 5, 3)
        update = np.zeros((d, d))
        update[places, places] = values[targets] - values[places]
        found = leading_cosines(np.diag(values), update)[1]
        np.testing.assert_allclose(found, np.linalg.svd(np.diag(values) + update)[1][:10], rtol=1e-9)


def test_same_input_same_numbers(rng):
    weight, update = made(rng, (90, 70), np.linspace(3, 1, 70), [3.0, 2.0])
    for ask in (
        lambda: subspaces.intruders(weight, update)._asdict().values(),
        lambda: draw_cosines(np.linspace(3, 1, 70), np.ones(2), (90, 70), 5, 3, np.random.default_rng(1)),
    ):
        for one, other in zip(ask(), ask(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("shape", "rank"), [((24, 24), 24), ((20, 32), 20), ((32, 20), 20), ((24, 24), 7)])
def test_draws_have_the_law_of_random_updates(rng, shape, rank, unchecked):
    values, strengths = np.linspace(2, 0.5, rank), np.array([2.0, 1.0, 0.5])
    drawn = draw_cosines(values, strengths, shape, 4, 400, rng)
    plainly = []
    for _ in range(250):
        weight, update = made(rng, shape, values, strengths)
        known = np.linalg.svd(weight)[0][:, :rank]
        plainly.append(np.abs(np.linalg.svd(weight + update)[0][:, :4].T @ known).max(1))
    for one, other in zip(drawn.T, np.array(plainly).T, strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-4


@pytest.fixture(scope="module")
def modules():
    """{name: (values of W, of ΔW, shape)}"""
    return {
        "square": (np.linspace(2, 1, 24), np.array([1.2, 0.6]), (24, 24)),
        "wide": (np.geomspace(4, 0.5, 12), np.array([2.0, 1.0]), (12, 30)),
        "tall": (np.geomspace(4, 0.5, 12), np.array([2.0, 1.0]), (30, 12)),
    }


def test_where_there_is_nothing_p_is_uniform(rng, modules, unchecked):
    """Rates of p ≤ 0.05 lie where those of 0.05 do, but for once in a thousand simulations, and so does Holm's."""
    k, replicates = 4, 300
    drawn = {name: draw_cosines(*given, k, 599, rng) for name, given in modules.items()}
    found = {name: draw_cosines(*given, k, replicates, rng) for name, given in modules.items()}
    for n in range(0, replicates, 8):
        values, strengths, shape = modules["square"]
        found["square"][n] = leading_cosines(*made(rng, shape, values, strengths), k)[0]
    tests = [intruder_test(cosines, drawn["square"]) for cosines in found["square"]]
    family = [family_p({name: found[name][n] for name in modules}, drawn) for n in range(replicates)]
    rates = {
        "T": np.mean([test.p <= 0.05 for test in tests]),
        "Holm": np.mean([test.each_p_holm.min() <= 0.05 for test in tests]),
        "family": np.mean(np.array(family) <= 0.05),
    }
    low, high = stats.binom.ppf([0.001, 0.999], replicates, 0.05) / replicates
    assert low <= min(rates.values()) <= max(rates.values()) <= high, rates
    p = np.array([test.each_p for test in tests]).ravel()
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.06)


def test_what_singular_values_do_not_predict_is_found(rng, modules, unchecked):
    """ΔW that raises the means of W's first directions, by too little for random directions to have been noticed."""
    values, strengths, shape = np.linspace(2, 1, 40), np.full(3, 0.35), (40, 40)
    left, right = (haar.random_directions(40, 40, rng)[:, :18].reshape(40, 3, 6) for _ in range(2))
    weight = (left.reshape(40, 18) * values[:18]) @ right.reshape(40, 18).T
    rest = [np.linalg.qr(side.reshape(40, 18), mode="complete")[0][:, 18:] for side in (left, right)]
    weight += (rest[0] * values[18:]) @ rest[1].T
    update = (left.mean(2) * 6 * strengths) @ right.mean(2).T
    cosines, _ = leading_cosines(weight, update, 4)
    drawn = draw_cosines(values, strengths, shape, 4, 199, rng)
    test = intruder_test(cosines, drawn)
    assert (cosines < 0.5).sum() > test.counts_mean + 1.9
    assert max(test.p, test.each_p_holm[0]) <= 0.05
    other = draw_cosines(*modules["wide"], 4, 200, rng)
    assert family_p({"planted": cosines, "other": other[0]}, {"planted": drawn, "other": other[1:]}) <= 0.05


def test_test_is_what_its_definition_says():
    drawn = np.array([[1.0, 0.6], [0.8, 1.0], [0.0, 0.4]])
    test = intruder_test(np.array([0.8, 0.6]), drawn)
    assert test.statistic == pytest.approx(0.36 + 0.64)
    assert test.statistic_mean == pytest.approx((0.64 + 0.36 + 1.84) / 3)
    assert (test.p, test.counts_mean) == (0.5, 2 / 3)
    np.testing.assert_allclose(test.each_p, [0.75, 0.75])
    np.testing.assert_allclose(test.each_p_holm, [1, 1])
    cosines = {"a": np.array([0.0, 0.0]), "b": np.array([1.0, 1.0])}
    assert family_p(cosines, {"a": np.maximum(drawn, 0.5), "b": np.ones((3, 2))}) == 0.25
    still = {"a": np.ones(2)}
    assert family_p(still, {"a": np.ones((3, 2))}) == intruder_test(still["a"], np.ones((3, 2))).p == 1


@pytest.mark.parametrize("shape", [(70, 70), (70, 100), (100, 70)])
@pytest.mark.parametrize(("r", "ratio"), [(4, 0.1), (4, 0.5), (16, 0.7), (8, 2.0)])
def test_expected_count_is_near_the_mean_of_draws(rng, shape, r, ratio, unchecked):
    values = np.geomspace(5, 0.3, 70)
    strengths = np.linspace(2, 1, r)
    strengths *= ratio * np.linalg.norm(values) / np.linalg.norm(strengths)
    counts = (draw_cosines(values, strengths, shape, 10, 24, rng) < 0.5).sum(1)
    error = np.sqrt(counts.var() * (1 / 24 + 1 / 8))
    assert expected_intruders(values, strengths, shape) == pytest.approx(counts.mean(), abs=4 * error + 0.3)


def test_refuses_what_has_no_answer(rng, unchecked):
    weight, update = rng.standard_normal((12, 12)), rng.standard_normal((12, 12))
    rank_3 = weight * (np.arange(12) < 3)
    short = directions.decompose(rng.standard_normal((30, 30)), 5, "gram")
    broken = update.copy()
    broken[2, 3] = np.nan
    for given, message in (
        ((0 * weight, update), "W is zero"),
        ((weight * np.inf, update), "weight holds NaN or Inf"),
        ((weight, broken), "holds NaN or Inf"),
        ((weight, update[:, :11]), r"W is \(12, 12\) and ΔW is \(12, 11\)"),
        *(((given, -given), "which has rank 0") for given in rng.standard_normal((20, 12, 12))),
        ((np.diag(np.arange(1.0, 81)), -np.diag(np.arange(1.0, 81))), "which has rank 0"),
        ((weight, update, 13), "k must be 1 … 12"),
        ((weight, update, 0), "k must be 1 … 12"),
        ((rank_3, 0 * update, 4), "which has rank 3"),
        ((short._replace(values=np.ones(30)), np.eye(30)), "holds 5 of 30 directions"),
    ):
        with pytest.raises(ValueError, match=message):
            subspaces.intruders(*given)
    for given, message in (
        (([0.0], [1.0], (9, 9), 1, 2, rng), "W is zero"),
        (([1.0, -1.0], [1.0], (9, 9), 1, 2, rng), "of W: expected at most 9, finite and not negative"),
        (([1.0], [np.inf], (9, 9), 1, 2, rng), "of ΔW: expected"),
        (([1.0], np.ones(10), (9, 9), 1, 2, rng), "of ΔW: expected at most 9"),
        (([1.0], [1.0], (9, 9), 3, 2, rng), "k must be 1 … 2"),
        (([1.0], [1.0], (9, 9), 1, 1, rng), "draws is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_cosines(*(np.asarray(each) if isinstance(each, list) else each for each in given))
    with pytest.raises(ValueError, match="cosines leave"):
        intruder_test(np.array([np.nan, 1.0]), np.ones((3, 2)))
    with pytest.raises(ValueError, match="dimensions"):
        intruder_test(np.ones(2), np.ones((3, 1)))
    for cosines, drawn in (({}, {}), ({"a": np.ones(2)}, {"b": np.ones((3, 2))})):
        with pytest.raises(ValueError, match="the same modules"):
            family_p(cosines, drawn)
    with pytest.raises(ValueError, match="as many of each"):
        family_p({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones((3, 2)), "b": np.ones((4, 2))})
