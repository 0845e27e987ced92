"""The controls: randomised networks, similarities, replacement curves, p-values and intervals."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from helpers import digits
from helpers.digits import controls, saliency


@pytest.fixture(scope="module")
def data():
    found = digits.load("digits")
    order = np.argsort(found.labels[:300], kind="stable")
    chosen = np.concatenate([order[found.labels[order] == digit][:3] for digit in range(10)])
    return found.images[chosen], found.labels[chosen]


@pytest.fixture
def with_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    model(torch.rand(16, 1, 8, 8))  # running statistics of its own
    return model.eval()


class Planted(nn.Module):
    """The logit of every class is 20 times the ink of one pixel, less 10."""

    def __init__(self, pixels):
        super().__init__()
        weight = torch.zeros(10, 64)
        weight[range(10), pixels] = 20
        self.flat, self.linear = nn.Flatten(), nn.Linear(64, 10)
        self.linear.weight.data, self.linear.bias.data = weight, torch.full((10,), -10.0)

    def forward(self, x):
        return self.linear(self.flat(x))


def changed(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return {name for (name, tensor), found in pairs if not torch.equal(tensor, found)}


@pytest.mark.parametrize("architecture", digits.ARCHITECTURES)
def test_randomising_changes_every_tensor_even_of_a_fresh_network(architecture):
    """Fresh layer norms hold ones and zeros, which shuffling would leave alone."""
    model = digits.untrained(architecture, 8, 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = controls.randomise(model, 5)
    assert changed(model, other) == set(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not changed(other, controls.randomise(model, 5))
    assert changed(other, controls.randomise(model, 6)) == set(before)


def test_randomising_shuffles_and_takes_running_statistics_along(with_batch_norm):
    other = controls.randomise(with_batch_norm, 0)
    assert changed(with_batch_norm, other) == set(with_batch_norm.state_dict()) - {"1.num_batches_tracked"}
    for name in ("0.weight", "1.running_var", "4.weight"):
        one, two = (model.state_dict()[name].flatten().sort().values for model in (with_batch_norm, other))
        assert torch.equal(one, two), name
    assert (other.state_dict()["1.running_var"] > 0).all()
    assert torch.isfinite(other(torch.rand(2, 1, 8, 8))).all()


def test_a_tensor_of_one_number_changes_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    assert changed(model, controls.randomise(model, 0)) == {"1.weight", "1.bias"}


def test_a_tensor_that_stays_is_an_error():
    model = nn.Linear(2, 2)
    model.weight.data.fill_(float("inf"))  # inf + noise is inf
    with pytest.raises(ValueError, match="weight did not change when it was randomised"):
        controls.randomise(model, 0)


def test_layers_run_from_the_output_down(with_batch_norm):
    assert [sorted(names)[-1] for names in controls.layers(with_batch_norm)] == ["4.weight", "1.weight", "0.weight"]
    found = controls.layers(digits.untrained("transformer", 8, 0))
    assert found[0] == ["head.bias", "head.weight"]
    assert set(found[-1]) == {"class_token", "position"}


def test_randomising_some_layers_leaves_the_others(with_batch_norm):
    names = controls.layers(with_batch_norm)[0]
    assert changed(with_batch_norm, controls.randomise(with_batch_norm, 0, names)) == set(names)


def test_rank_similarity_is_spearmans(rng):
    maps, others = rng.integers(0, 5, (6, 4, 4)), rng.integers(0, 5, (6, 4, 4))
    expected = [stats.spearmanr(one.ravel(), two.ravel()).statistic for one, two in zip(maps, others, strict=True)]
    np.testing.assert_allclose(controls.rank_similarity(maps, others), expected)
    expected = [stats.spearmanr(one.ravel(), others[0].ravel()).statistic for one in maps]
    np.testing.assert_allclose(controls.rank_similarity(maps, others[0]), expected)
    assert np.isnan(controls.rank_similarity(np.zeros((1, 4, 4)), maps[:1])).all()


def test_mean_map_weighs_networks_alike(rng):
    one, other = rng.standard_normal((2, 3, 2, 2))
    scaled = controls.mean_map(np.stack([one, 1000 * other]))
    np.testing.assert_allclose(scaled, controls.mean_map(np.stack([one, other])))
    assert (controls.mean_map(np.zeros((2, 3, 2, 2))) == 0).all()


def test_a_planted_feature_goes_first(rng):
    """Every method finds the one pixel that a class depends on, and taking it away takes the class away."""
    pixels = rng.permutation(64)[:10]
    model, labels = Planted(pixels).eval(), np.arange(10)
    images = (0.5 + 0.5 * rng.random((10, 8, 8))).astype(np.float32)
    black = np.zeros((8, 8), np.float32)
    for method in ("gradient", "input_x_gradient", "integrated_gradients", "smooth_grad", "occlusion", "deep_lift"):
        maps = saliency.attribute(model, images, labels, method)
        assert maps.reshape(10, 64).argmax(1).tolist() == pixels.tolist(), method
        curve = controls.replacement_curve(model, images, black, labels, maps, rng)
        without = images.copy().reshape(10, 64)
        without[range(10), pixels] = 0
        logits = model(torch.from_numpy(without.reshape(10, 1, 8, 8))).softmax(1).detach().numpy()
        np.testing.assert_allclose(curve[:, 1], logits[range(10), labels], atol=1e-6)
        assert (curve[:, 1] < 0.01).all()


def test_replacement_runs_from_one_image_to_the_other(data, rng):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)
    black = np.zeros((8, 8), np.float32)
    curve = controls.replacement_curve(model, images, black, labels, images, rng)
    assert curve.shape == (30, 65)
    given = digits.logits(model, images).softmax(1).numpy()[range(30), labels]
    np.testing.assert_allclose(curve[:, 0], given, atol=1e-6)
    empty = digits.logits(model, black[None]).softmax(1).numpy()[0, labels]
    np.testing.assert_allclose(curve[:, -1], empty, atol=1e-6)
    back = controls.replacement_curve(model, black, images, labels, -images, rng)
    np.testing.assert_allclose(back[:, [0, -1]], curve[:, [-1, 0]], atol=1e-6)
    assert controls.replacement_curve(model, images, black, labels, images, rng, points=8).shape == (30, 9)


def test_ties_fall_at_random(data):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)
    black, nothing = np.zeros((8, 8), np.float32), np.zeros_like(images)
    one, same, other = (
        controls.replacement_curve(model, images, black, labels, nothing, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_area():
    np.testing.assert_allclose(controls.area(np.array([[1, 1, 1], [1, 0.5, 0], [1, 0, 0]])), [1, 0.5, 0.25])


def test_p_values_count_the_statistic_itself():
    null = np.arange(99.0)
    assert controls.null_p_value(1000.0, null) == 0.01
    assert controls.null_p_value(-1.0, null) == 1
    assert controls.null_p_value(97.0, null) == pytest.approx(0.03)
    np.testing.assert_allclose(controls.null_p_value(np.array([1000.0, 0.0]), np.zeros((9, 2))), [0.1, 1])
    assert controls.null_p_value(np.nan, null) == 1  # maps that are constant agree with nothing
    assert controls.null_p_value(1000.0, np.append(null[1:], np.nan)) == 0.02


@pytest.mark.parametrize("architecture", ["linear", *digits.ARCHITECTURES])
def test_p_values_are_uniform_when_the_network_is_itself_random(data, architecture):
    """Networks without training, against references that have nothing to do with them."""
    images, labels = data[0][::3], data[1][::3]
    rng, found = np.random.default_rng(0), []
    references = {"gradient": rng.standard_normal(images.shape)}
    for seed in range(60):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        if architecture != "linear":
            model = digits.untrained(architecture, 8, seed)
        model.requires_grad_(False)
        null = controls.null_study(model, ["gradient"], images, labels, references, 19, seed, {})
        pooled = null.groupby("network")["agreement"].mean()
        found.append(controls.null_p_value(pooled[-1], pooled.drop(-1)))
    spread_out = np.array(found) - rng.random(60) / 20  # p is a multiple of 1/20
    assert stats.kstest(spread_out, "uniform").pvalue > 0.01


def test_null_study_measures_the_network_and_its_copies(data):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)
    own = saliency.attribute(model, images, labels, "occlusion")
    null = controls.null_study(model, ["occlusion"], images, labels, {"occlusion": own}, 3, 7, {})
    assert len(null) == 4 * 10
    itself = null[null["network"] == -1]
    np.testing.assert_allclose(itself[["agreement", "signed", "absolute"]], 1)
    copies = null[null["network"] >= 0]
    np.testing.assert_allclose(copies["agreement"], copies["signed"])
    assert (copies["signed"] < 0.999).all()
    again = controls.null_study(model, ["occlusion"], images, labels, {"occlusion": own}, 3, 7, {})
    pd.testing.assert_frame_equal(null, again)


def test_layer_study_ends_with_everything_randomised(data):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)
    table = controls.layer_study(model, "gradient", images, labels, 3, {})
    assert table["how"].tolist() == ["cascading", "independent"] * 4
    assert table["layer"].tolist()[::2] == ["10 Linear", "8 Linear", "3 Conv2d", "0 Conv2d"]
    assert table.iloc[0]["signed"] == table.iloc[1]["signed"]  # one layer, both ways
    everything = [name for names in controls.layers(model) for name in names]
    own = saliency.attribute(model, images, labels, "gradient")
    copies = [controls.randomise(model, 3 + draw, everything) for draw in range(5)]
    maps = [saliency.attribute(copy, images, labels, "gradient") for copy in copies]
    similar = [controls.rank_similarity(found, own).mean() for found in maps]
    assert table.iloc[-2]["signed"] == pytest.approx(np.mean(similar))
    assert table.iloc[-2]["signed ±"] == pytest.approx(np.std(similar, ddof=1))


def test_similarities_are_means_over_images_and_networks(rng):
    images, maps = rng.random((20, 3, 3)), rng.standard_normal((20, 3, 3))
    peers = rng.standard_normal((2, 20, 3, 3))
    null = pd.DataFrame({"network": [-1, 0, 1], "method": "m", "signed": [1, 0.2, 0.4], "absolute": [1, 0.5, 0.7]})
    table = controls.similarity_table({"m": maps}, {"m": peers}, null, images).set_index("with")
    assert table.loc["randomised copies", ["signed", "absolute"]].tolist() == pytest.approx([0.3, 0.6])
    pairs = [(one.ravel(), two.ravel()) for peer in peers for one, two in zip(abs(maps), abs(peer), strict=True)]
    expected = np.mean([stats.spearmanr(*pair).statistic for pair in pairs])
    assert table.loc["other trained networks", "absolute"] == pytest.approx(expected)
    expected = np.mean([stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(maps, images, strict=True)])
    assert table.loc["the ink", "signed"] == pytest.approx(expected)


def test_faithfulness_sets_methods_against_the_ink_of_the_same_network(data):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)
    other = digits.untrained("transformer", 8, 0).requires_grad_(False)
    maps = {"occlusion": saliency.attribute(model, images, labels, "occlusion"), "by ink": images}
    black = np.zeros((8, 8), np.float32)
    models = {"occlusion": model, "by ink": other}
    curves, table = controls.faithfulness(models, images, black, labels, maps, np.random.default_rng(0))
    assert curves["deletion"].keys() == {"occlusion", "by ink", "ink", "random"}
    row, same = (found for _, found in table.iterrows())
    assert same["deletion − ink"] == pytest.approx(0, abs=1e-3)
    assert same["insertion − ink"] == pytest.approx(0, abs=1e-3)
    for name, better in (("deletion", "less"), ("insertion", "greater")):
        own, ink = (np.trapezoid(curves[name][order], dx=1 / 64, axis=1) for order in ("occlusion", "ink"))
        assert row[name] == pytest.approx(own.mean())
        assert row[f"{name} − ink"] == pytest.approx((own - ink).mean())
        assert row[f"{name} ±"] == pytest.approx(stats.sem(own - ink))
        p = stats.ttest_rel(own, ink, alternative=better).pvalue
        smaller = min(p, same[f"{name} p"])
        assert row[f"{name} p"] == pytest.approx(min(2 * p, 1) if p <= smaller else max(p, smaller))


@pytest.mark.parametrize("about", controls.VERDICTS.values())
def test_verdicts(about):
    """Each of the eight answers from its three p-values."""
    learnt, deletes, inserts = next(answers for answers, words in controls.VERDICTS.items() if words == about)
    networks = np.arange(-1, 99)
    agreement = np.where(networks < 0, 1 if learnt else -1, 0.0)
    null = pd.DataFrame({"network": networks, "method": "m", "agreement": agreement})
    p = {f"{name} p": [0.001 if better else 0.9] for name, better in (("deletion", deletes), ("insertion", inserts))}
    (row,) = controls.verdict_table(null, pd.DataFrame({"method": ["m"], **p}), tested=True).to_dict("records")
    assert row["about"] == about
    assert row["learnt p"] == (0.01 if learnt else 1)
    (row,) = controls.verdict_table(null, pd.DataFrame({"method": ["m"], **p}), tested=False).to_dict("records")
    assert np.isnan(row["learnt p"])
    assert "was not tested" in row["about"]
    few = pd.concat([null[null["network"] < 15].assign(method=method) for method in "abcdefg"])
    p = pd.DataFrame({"method": list("abcdefg"), **{name: values * 7 for name, values in p.items()}})
    assert controls.verdict_table(few, p, tested=True)["learnt p"].isna().all()  # 7 / 16 cannot fall below 0.05


def test_resampled_means_scatter_around_the_class_means(rng):
    labels = np.repeat(range(10), 8)
    maps = rng.random((80, 3, 2))
    draws = controls.class_mean_draws(maps, labels, 3000, rng)
    np.testing.assert_allclose(draws.sum((1, 2, 3)), 1)
    means = saliency.joint_normalise(saliency.class_means(maps, labels))
    np.testing.assert_allclose(draws[0], means)
    draws = draws[1:]
    np.testing.assert_allclose(draws.mean(0), means, atol=5 * draws.std(0).max() / np.sqrt(3000))
    share = maps[labels == 3] / saliency.class_means(maps, labels).sum()
    np.testing.assert_allclose(draws[:, 3].std(0), share.std(0) / np.sqrt(8), rtol=0.1)


def test_swapped_sides_seldom_give_a_dot_and_a_real_difference_does():
    """Digits' own maps, skewed and with blank cells: where sides are swapped at random, 5 % of figures have a dot."""
    found = digits.load("digits")
    chosen = digits.examples(found.labels, np.arange(1797), 8, np.random.default_rng(0))
    labels = found.labels[chosen]
    one = saliency.on_grid(found.images[chosen], 7, 6)[0]
    rng, dots = np.random.default_rng(1), 0
    for _ in range(150):
        other = one * rng.gamma(2, 0.5, one.shape)
        swap = rng.random(len(one)) < 0.5
        sides = (np.where(swap[:, None, None], b, a) for a, b in ((one, other), (other, one)))
        difference, widths = controls.paired_intervals(*sides, labels, 200, rng)
        dots += (np.abs(difference) > widths).any()
    assert dots / 150 <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)
    brighter = one.copy()
    brighter[labels == 3, 2, 2] += 2
    difference, widths = controls.paired_intervals(brighter, one, labels, 200, rng)
    assert difference[3, 2, 2] > widths[3, 2, 2] > 0
    means = [saliency.joint_normalise(saliency.class_means(side, labels)) for side in (brighter, one)]
    np.testing.assert_allclose(difference, means[0] - means[1], atol=1e-12)
    same, widths = controls.paired_intervals(one, one, labels, 50, rng)
    assert not same.any()
    assert not widths.any()
