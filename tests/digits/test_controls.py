"""The controls: randomised networks, rank similarity, eMPRT and sMPRT, p-values; and what a map of noise passes."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from helpers import digits
from helpers.digits import controls, faithful, saliency
from tests.digits import oracle
from tests.digits.test_faithful import Planted


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
    maps, others = rng.integers(0, 5, (2, 6, 4, 4)).astype(float)
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


def test_p_values_count_the_statistic_itself():
    null = np.arange(99.0)
    assert controls.null_p_value(1000.0, null) == 0.01
    assert controls.null_p_value(-1.0, null) == 1
    assert controls.null_p_value(97.0, null) == pytest.approx(0.03)
    np.testing.assert_allclose(controls.null_p_value(np.array([1000.0, 0.0]), np.zeros((9, 2))), [0.1, 1])
    np.testing.assert_array_equal(controls.null_p_value(np.array([np.nan, 0.0]), np.zeros((9, 2))), [np.nan, 1])
    assert np.isnan(controls.null_p_value(np.nan, null))  # maps that are constant agree with nothing
    assert controls.null_p_value(1000.0, np.append(null[1:], np.nan)) == 0.02


@pytest.mark.parametrize("architecture", ["cnn"])
def test_p_values_are_uniform_when_the_network_is_itself_random(data, architecture):
    """Agreement with references that have nothing to do with it, and complexity."""
    images, labels = data[0][::3], data[1][::3]
    rng, found = np.random.default_rng(0), []
    references = {"gradient": rng.standard_normal((2, *images.shape))}
    methods = controls.by_captum(["gradient"], {})
    for seed in range(60):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        if architecture != "linear":
            model = digits.untrained(architecture, 8, seed)
        model = controls.randomise(model.requires_grad_(False), 10_000 + seed)
        null = controls.null_study(model, methods, images, labels, labels, references, 19, seed)
        pooled = null.groupby("network")[["agreement_0", "agreement_1"]].mean()
        pooled["complexity"] = -null.groupby("network")["complexity"].mean()
        found.append(controls.null_p_value(pooled.loc[-1], pooled.drop(-1).to_numpy()))
    spread_out = np.array(found) - rng.random((60, 3)) / 20  # p is a multiple of 1/20
    assert min(stats.kstest(p, "uniform").pvalue for p in spread_out.T) > 0.005


def test_null_study_measures_the_network_and_its_copies(data):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)
    methods = controls.by_captum(["occlusion"], {"occlusion": {"window": 2}})
    targets = (labels + 1) % 10
    own = saliency.attribute(model, images, targets, "occlusion", window=2)
    references = {"occlusion": np.stack([own, -own])}
    null = controls.null_study(model, methods, images, targets, labels, references, 3, 7)
    assert len(null) == 4 * 10
    itself = null[null["network"] == -1]
    np.testing.assert_allclose(itself[["agreement_0", "signed", "absolute"]], 1)
    np.testing.assert_allclose(null["agreement_1"], -null["agreement_0"])
    copies = null[null["network"] >= 0]
    np.testing.assert_allclose(copies["agreement_0"], copies["signed"])
    assert (copies["signed"] < 0.999).all()
    again = controls.null_study(model, methods, images, targets, labels, references, 3, 7)
    pd.testing.assert_frame_equal(null, again)
    copied = saliency.attribute(controls.randomise(model, 7 * 1_000_003 + 2), images, targets, "occlusion", window=2)
    expected = controls.rank_similarity(copied, own)[labels == 4].mean()
    assert copies.set_index(["network", "digit"]).loc[(2, 4), "signed"] == pytest.approx(expected)


def test_what_cannot_be_computed_is_nan(data):
    """A digit whose maps are all zero, and then every map: no warning, no p of 1."""
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)

    def silent_on_three(model, images, targets, seed):
        return saliency.attribute(model, images, targets, "gradient") * (targets != 3)[:, None, None]

    methods = {"some": silent_on_three, "none": lambda model, images, targets, seed: np.zeros_like(images)}
    references = dict.fromkeys(methods, images[None])
    null = controls.null_study(model, methods, images, labels, labels, references, 2, 0)
    lost = null[["agreement_0", "signed", "absolute"]].isna().all(axis=1)
    assert (lost == ((null["method"] == "none") | (null["digit"] == 3))).all()
    maps = {name: method(model, images, labels, 0) for name, method in methods.items()}
    table = controls.similarity_table(maps, {name: found[None] for name, found in maps.items()}, null, images)
    assert (table[["signed", "absolute"]].isna().all(axis=1) == (table["method"] == "none")).all()
    for measure in (controls.efficient_mprt, controls.smooth_mprt):
        assert np.isnan(measure(model, methods["none"], images, labels, 0)).all()


def test_complexity_is_the_entropy_of_equally_wide_bins():
    even, two = np.arange(64.0).reshape(8, 8), np.repeat([0.0, 1.0], 32).reshape(8, 8)
    found = controls.complexity(np.stack([even, 1e-12 * even, two, 0 * even]))
    np.testing.assert_allclose(found, [np.log(64), np.log(64), np.log(2), 0])


def test_maps_that_ignore_the_network_neither_rise_nor_change(data):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)

    def ink(model, images, targets, seed):
        return images

    np.testing.assert_allclose(controls.efficient_mprt(model, ink, images, labels, 0), 0, atol=1e-12)
    np.testing.assert_allclose(controls.smooth_mprt(model, ink, images, labels, 0, samples=1), 1)
    method = controls.by_captum(["gradient"], {})["gradient"]
    copies = [controls.randomise(model, k) for k in range(5)]
    own, *others = (saliency.attribute(network, images, labels, "gradient") for network in (model, *copies))
    expected = np.mean([controls.rank_similarity(own, other) for other in others], axis=0)
    np.testing.assert_allclose(controls.smooth_mprt(model, method, images, labels, 0, samples=1), expected)


@pytest.mark.parametrize("method", oracle.METHODS)
def test_measures_are_those_of_quantus(method):
    recorded = pd.read_csv(oracle.RECORDED).query("method == @method").set_index(["measure", "image", "step"])["value"]
    model, images, labels = oracle.given()
    explain = controls.by_captum([method], {})[method]
    rise = controls.efficient_mprt(model, explain, images, labels, oracle.SEED, copies=1)
    np.testing.assert_allclose(rise, recorded["eMPRT"], atol=1e-6)
    similar = controls.smooth_mprt(model, explain, images, labels, oracle.SEED, copies=1, samples=oracle.SAMPLES)
    np.testing.assert_allclose(similar, recorded["sMPRT"], atol=1e-6)
    maps, black = explain(model, images, labels, 0), np.zeros((8, 8), np.float32)
    steps = 64 // oracle.PIXELS_A_STEP
    curve = faithful.replacement_curve(model, images, black, labels, maps, np.random.default_rng(0), steps)
    np.testing.assert_allclose(curve[:, 1:], recorded["PixelFlipping"].unstack("step"), atol=1e-5)


def test_noise_passes_what_asks_for_change_and_nothing_else(rng):
    """Networks that read a pixel for each class: a true map passes five controls, noise only the one without p."""
    pixels, labels = rng.permutation(64)[:10], np.repeat(range(10), 3)
    images = rng.random((30, 64)).astype(np.float32)
    images[:, pixels] = 0.8 * (labels[:, None] == range(10))
    images = images.reshape(30, 8, 8)
    model, *others = (Planted(pixels).eval().requires_grad_(False) for _ in range(4))
    for other in others:
        other.linear.weight += 0.1 * torch.from_numpy(rng.standard_normal((10, 64)))
    methods = controls.by_captum(["gradient"], {})
    methods["noise"] = lambda model, images, targets, seed: controls.noise(images, seed)
    passed = []
    for seed in range(6):
        references = {
            name: controls.mean_map(
                np.stack([method(other, images, labels, 100 * seed + n + 50) for n, other in enumerate(others)])
            )[None]
            for name, method in methods.items()
        }
        null = controls.null_study(model, methods, images, labels, labels, references, 19, seed)
        null = null.groupby(["method", "network"])[["agreement_0", "complexity"]].mean()
        ends = {"black": np.zeros((8, 8), np.float32), "donors": faithful.donors(labels, images, labels, rng)}
        orders = {name: method(model, images, labels, seed) for name, method in methods.items()} | {"ink": images}
        areas = faithful.areas(model, images, labels, orders, ends, rng)
        for name, method in methods.items():
            own, copies = null.loc[name].loc[-1], null.loc[name].drop(-1)
            p = {"learnt": controls.null_p_value(own["agreement_0"], copies["agreement_0"])}
            p["rises"] = controls.null_p_value(-own["complexity"], -copies["complexity"])
            for curve, better in {"deletion": "less", "insertion": "greater"}.items():
                for end in ends:
                    gaps = areas[curve, end, name] - areas[curve, end, "ink"]
                    p[curve, end] = faithful.beats(gaps, np.arange(30), better)[2]
            similar = controls.smooth_mprt(model, method, images, labels, seed, copies=1, samples=2)
            answers = {control: value <= 0.05 for control, value in p.items()}
            passed.append({"method": name, **answers, "changes": similar.mean() < 0.2})
    rates = pd.DataFrame(passed).groupby("method").mean()
    assert (rates.loc["gradient"].drop(["rises", "changes"]) == 1).all()
    assert (rates.loc["noise"].drop("changes") < 0.5).all()  # 3 of 6 by chance: 2 in 1,000
    assert rates.loc["noise", "changes"] == 1


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
