"""Planted truths: what the generators promise, what the networks know, and what scores tell."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import precision_score, roc_auc_score

from helpers import digits
from helpers.digits import saliency, truth
from helpers.parameters import SEEDS
from helpers.training import planted_models
from helpers.weights import WeightsError

MOVING = ("translated", "distractors")
METHODS = ["gradient", "input_x_gradient"]


def drawn(task, count=2000, seed=11):
    return truth.make(task, count, np.random.default_rng([9, seed]))


@pytest.fixture(scope="module")
def found():
    return truth.scores(METHODS, count=40)


@pytest.mark.parametrize("task", truth.TASKS)
def test_a_generator_decides_all_and_classes_are_balanced(task):
    one, same, other = (drawn(task, 101, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(*each) for each in zip(one, same, strict=True))
    assert not np.array_equal(one.images, other.images)
    assert one.labels.sum() == 50
    assert one.images.min() >= 0
    assert one.images.max() <= 1
    assert set(one.truth.sum((1, 2))) == {4 if task in (*MOVING, "marked_digits") else 8}
    places = len(np.unique(one.truth, axis=0))
    assert places > 20 if task in MOVING else places == (4 if task == "marked_digits" else 1)


@pytest.mark.parametrize("task", truth.TASKS)
def test_the_class_is_in_the_true_pixels_and_in_no_other(task):
    """Given the place, a pixel that is true in a class is distributed otherwise in either, the rest in both alike."""
    images, labels, true = drawn(task, 40000 if task in MOVING else 8000)
    centres = [tuple(np.argwhere(mask).mean(0)) for mask in true]
    place = pd.factorize(pd.Series(centres))[0]
    p = {True: [], False: []}
    for index in range(min(4, place.max() + 1)):
        own = place == index
        for pixel, carries in enumerate(true[own].any(0).ravel()):
            sides = (images.reshape(len(images), -1)[own & (labels == label), pixel] for label in (0, 1))
            p[bool(carries)].append(stats.ks_2samp(*sides, method="asymp").pvalue)
    assert max(p[True]) < 1e-3
    assert min(p[False]) * len(p[False]) > 1e-3  # Bonferroni


@pytest.mark.parametrize("task", truth.TASKS)
def test_every_bundled_network_knows_its_task_as_its_card_says(task):
    images, labels, _ = drawn(task)
    card = (truth.files(task)[0].parent / "README.md").read_text(encoding="utf-8")
    for seed, model in truth.trained(task).items():
        accuracy = digits.accuracy(model, images, labels)
        (line,) = [line for line in card.splitlines() if line.startswith(f"| `seed_{seed}` |")]
        said = float(line.split("|")[2])
        assert said >= 0.98
        assert accuracy == pytest.approx(said, abs=4 * (said * (1 - said) / len(labels)) ** 0.5 + 2 / len(labels))
        assert digits.accuracy(truth.network(seed), images, labels) < 0.7
    assert list(truth.trained(task)) == list(SEEDS)


@pytest.mark.parametrize("task", truth.TASKS)
def test_the_answer_follows_the_true_pixels(task):
    """All other pixels come from an image of the other class: the answer stays, so swapping the true ones flips it."""
    mixed = planted_models.exchanged(drawn(task))
    mostly = 0.75 if task == "correlated" else 0.95  # where noise is smoothed the networks look at the neighbours, too
    for model in truth.trained(task).values():
        assert digits.accuracy(model, mixed.images, mixed.labels) > mostly


def test_exchanged_images_have_their_true_pixels_of_one_image_and_the_rest_of_another():
    planted = drawn("translated", 300)
    mixed = planted_models.exchanged(planted)
    assert len(mixed.labels) > 100
    for image, label, true in zip(*mixed, strict=True):
        (one,) = np.flatnonzero((planted.images == image)[:, true].all(1))
        (other,) = np.flatnonzero((planted.images == image)[:, ~true].all(1))
        assert (planted.labels[one], planted.labels[other]) == (label, 1 - label)
        assert (planted.truth[[one, other]].any(0) == true).all()


def test_scores_are_those_of_scikit_learn(rng):
    maps, true = rng.standard_normal((30, 8, 8)).astype(np.float32), rng.random((30, 8, 8)) < rng.uniform(0.1, 0.9)
    for values, mask, precision, mass, rank in zip(maps, true, *truth.score(maps, true), strict=True):
        sizes, mask = np.abs(values).ravel(), mask.ravel()
        largest = np.isin(np.arange(64), np.argsort(sizes)[-mask.sum() :])
        assert precision == pytest.approx(precision_score(mask, largest))
        assert rank == pytest.approx(roc_auc_score(mask, sizes))
        assert mass == pytest.approx(sizes[mask].sum() / sizes.sum())


@pytest.mark.parametrize("value", [0.0, -2.5])
def test_a_constant_map_is_at_chance_and_a_perfect_one_is_perfect(value):
    true = drawn("translated", 12).truth
    chance = truth.score(np.full(true.shape, value), true)
    for values, expected in zip(chance, (1 / 16, 1 / 16, 1 / 2), strict=True):
        np.testing.assert_allclose(values, expected)
    for values in truth.score(-1.0 * true, true):
        np.testing.assert_allclose(values, 1)


def test_of_tied_pixels_their_share_counts():
    """Six pixels as large as one another, of which three are true, for two places that one larger true pixel leaves."""
    maps, true = np.zeros((1, 3, 3)), np.zeros((1, 3, 3), dtype=bool)
    maps.flat[:7] = [2, 1, 1, 1, 1, 1, 1]
    true.flat[[0, 1, 2]] = True
    (precision,), _, (rank,) = truth.score(maps, true)
    assert precision == pytest.approx((1 + 2 * 2 / 6) / 3)
    assert rank == pytest.approx(roc_auc_score(true.ravel(), maps.ravel()))


def test_random_maps_are_at_chance(found):
    random = found[found.method == "random"]
    for measure, level in {"precision": random.chance, "mass": random.chance, "rank": 0.5}.items():
        gaps = random[measure] - level
        assert abs(gaps.mean()) < 4 * gaps.sem()
        assert gaps.sem() < 0.01


def test_input_x_gradient_recovers_the_linear_task_and_ink_order_fails_on_the_multiplicative(found):
    mean = truth.table(found).set_index(["task", "method"])
    assert mean.loc[("linear", "input_x_gradient"), "precision"] > 0.95
    assert mean.loc[("linear", "input_x_gradient"), "rank"] > 0.98
    ink = mean.loc[("multiplicative", "ink")]
    assert ink.precision <= ink.chance  # the brightest pixels are where noise was left
    assert ink["rank"] == pytest.approx(0.5, abs=0.05)
    assert mean.loc[("multiplicative", "input_x_gradient"), "precision"] > 4 * ink.chance


def test_a_network_that_learnt_nothing_finds_nothing_where_the_ink_tells_nothing(found):
    own = found[(found.task == "multiplicative") & (found.method == "gradient")]
    assert own["untrained rank"].mean() < 0.65 < 0.9 < own["rank"].mean()


def test_the_table_has_means_and_spreads_over_networks(found):
    table = truth.table(found).set_index(["task", "method"])
    assert len(table) == len(truth.TASKS) * (len(truth.YARDSTICKS) + len(METHODS))
    own = found[(found.task == "linear") & (found.method == "gradient")]
    assert len(own) == len(SEEDS)
    for name in ("precision", "untrained rank"):
        values = own[name].to_numpy()
        assert table.loc[("linear", "gradient"), [name, f"{name} ±"]].tolist() == pytest.approx(
            [values.mean(), values.std(ddof=1)]
        )
    assert table.loc[("linear", "ink")].isna().sum() == 6  # of no network, trained or not


def test_the_images_are_new_to_the_networks_and_the_same_in_the_same_call(found):
    again = truth.scores(METHODS, count=40)
    pd.testing.assert_frame_equal(found, again)
    assert not found.precision.equals(truth.scores(METHODS, count=40, seed=1).precision)


def test_scores_are_of_maps_of_the_class_with_the_options_given():
    of_task = truth.scores(["integrated_gradients"], count=10, seed=3, options={"integrated_gradients": {"steps": 4}})
    place, start = truth.TASKS.index("translated"), 2
    images, labels, true = truth.make("translated", 10, np.random.default_rng([3, 3, place, start]))
    model = truth.trained("translated")[start]
    expected = truth.score(saliency.attribute(model, images, labels, "integrated_gradients", steps=4), true)
    row = of_task.query("task == 'translated' and network == 2 and method == 'integrated_gradients'").iloc[0]
    assert row["rank"] == pytest.approx(expected.rank.mean())


def test_expected_gradients_take_images_of_the_task_for_absence_unless_given_others(monkeypatch):
    seen = []

    def attribute(model, images, targets, method, background):
        seen.append(background)
        return images

    monkeypatch.setattr(saliency, "attribute", attribute)
    truth.scores(["expected_gradients"], count=4)
    assert {background.shape for background in seen} == {(truth.BACKGROUND, 8, 8)}
    noise, marked = seen[0], seen[-1]
    assert noise.min() >= 0.2  # of the linear task
    assert (marked == 0).mean() > 0.3  # digits
    given = np.zeros((3, 8, 8), dtype=np.float32)
    truth.scores(["expected_gradients"], count=4, options={"expected_gradients": {"background": given}})
    assert seen[-1] is given


def invented(gap, spread, rng, tasks=("one", "two"), networks=5):
    """Scores of a method that is `gap` above each of the yardsticks, with a spread over networks."""
    rows = []
    for task in tasks:
        for network in range(networks):
            level = rng.normal(0.5, 0.2)
            rows += [[task, network, name, level + rng.normal(0, spread), np.nan] for name in truth.YARDSTICKS]
            rows.append([task, network, "method", level + gap + rng.normal(0, spread), level])
    return pd.DataFrame(rows, columns=["task", "network", "method", "precision", "untrained precision"])


def test_beating_all_is_beating_the_strongest(rng):
    scores = invented(0.1, 0.01, rng)
    assert (truth.beats(scores) < 0.01).all(axis=None)
    for rival in truth.YARDSTICKS:
        stronger = scores.copy()
        stronger.loc[(scores.task == "two") & (scores.method == rival), "precision"] += 0.2
        p = truth.beats(stronger).loc["method"]
        assert p["one"] < 0.05 < 0.9 < p["two"]
    learnt_nothing = scores.assign(**{"untrained precision": scores.precision})
    assert (truth.beats(learnt_nothing) == 1).all(axis=None)


def test_p_is_the_largest_of_scipys_paired_tests_corrected_for_the_tasks(rng):
    scores = invented(0.02, 0.02, rng, tasks=("one",))
    of = scores.pivot(index="network", columns="method", values="precision")
    untrained = scores[scores.method == "method"].set_index("network")["untrained precision"]
    rivals = [*(of[name] for name in truth.YARDSTICKS), untrained]
    p = max(stats.ttest_rel(of["method"], rival, alternative="greater").pvalue for rival in rivals)
    assert truth.beats(scores).loc["method", "one"] == pytest.approx(p)
    twice = pd.concat([scores, scores.assign(task="two")])
    assert truth.beats(twice).loc["method"].tolist() == pytest.approx([min(1, 2 * p)] * 2)


def test_a_method_that_equals_one_rival_and_beats_the_others_is_said_to_beat_all_in_one_of_twenty(rng, monkeypatch):
    monkeypatch.setattr(truth, "holm", np.asarray)  # every task by itself
    scores = invented(0.5, 0.02, rng, tasks=range(1000))
    scores.loc[scores.method == "ink", "precision"] += 0.5
    said = int((truth.beats(scores) < 0.05).sum(axis=None))
    assert stats.binomtest(said, 1000, 0.05).pvalue > 1e-3


def test_refusals(tmp_path, monkeypatch, rng):
    with pytest.raises(ValueError, match="task is 'xor': expected one of linear"):
        truth.make("xor", 4, rng)
    monkeypatch.setattr(truth, "BUNDLED", str(tmp_path))
    with pytest.raises(WeightsError, match=r"linear/seed_0\.safetensors does not hold a network for planted truths"):
        truth.trained("linear")


def test_deep_lift_accounts_for_these_networks():
    images, labels, _ = drawn("distractors", 20)
    for model in (truth.trained("distractors")[0], truth.network(0)):
        maps = saliency.attribute(model, images, labels, "deep_lift")
        residual, change = saliency.completeness_residual(model, images, labels, maps)
        np.testing.assert_allclose(residual, 0, atol=1e-4 * (1 + np.abs(change).max()))
        assert sum(each.numel() for each in model.parameters()) == 5394
        assert not [module for module in model if isinstance(module, torch.nn.MaxPool2d)]
