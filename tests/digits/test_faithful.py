"""Replacement curves, and decisions by writer: whole decisions are simulated where nothing is there to be found."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from helpers import digits
from helpers.digits import faithful, grids, saliency

BLACK = np.zeros((8, 8), np.float32)


@pytest.fixture(scope="module")
def data():
    found = digits.load("digits")
    chosen = digits.examples(found.labels, np.arange(300), 3, np.random.default_rng(0))
    return found.images[chosen], found.labels[chosen]


@pytest.fixture(scope="module")
def model():
    return digits.untrained("cnn", 8, 0).requires_grad_(False)


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


def test_a_planted_feature_goes_first(rng):
    """Every method finds the one pixel that a class depends on, and taking it away takes the class away."""
    pixels = rng.permutation(64)[:10]
    model, labels = Planted(pixels).eval(), np.arange(10)
    images = (0.5 + 0.5 * rng.random((10, 8, 8))).astype(np.float32)
    black = np.zeros((8, 8), np.float32)
    for method in ("gradient", "input_x_gradient", "integrated_gradients", "smooth_grad", "occlusion", "deep_lift"):
        maps = saliency.attribute(model, images, labels, method)
        assert maps.reshape(10, 64).argmax(1).tolist() == pixels.tolist(), method
        curve = faithful.replacement_curve(model, images, black, labels, maps, rng)
        without = images.copy().reshape(10, 64)
        without[range(10), pixels] = 0
        logits = model(torch.from_numpy(without.reshape(10, 1, 8, 8))).softmax(1).detach().numpy()
        np.testing.assert_allclose(curve[:, 1], logits[range(10), labels], atol=1e-6)
        assert (curve[:, 1] < 0.01).all()


def test_every_step_replaces_the_next_pixels(model, data, rng):
    """Against one pixel after the other by hand, where there are no ties; both ends are real images."""
    images, labels = data
    others, maps = rng.permutation(images), rng.standard_normal(images.shape)
    curve = faithful.replacement_curve(model, images, others, labels, maps, rng, points=32)
    assert curve.shape == (30, 33)
    mixed = images.copy().reshape(30, 64)
    for step in range(33):
        expected = digits.logits(model, mixed.reshape(30, 8, 8)).softmax(1).numpy()[range(30), labels]
        np.testing.assert_allclose(curve[:, step], expected, atol=1e-6)
        next_two = np.argsort(-maps.reshape(30, 64), axis=1)[:, 2 * step : 2 * step + 2]
        np.put_along_axis(mixed, next_two, np.take_along_axis(others.reshape(30, 64), next_two, 1), 1)


def test_replacement_runs_from_one_image_to_the_other(data, rng):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)
    black = np.zeros((8, 8), np.float32)
    curve = faithful.replacement_curve(model, images, black, labels, images, rng)
    assert curve.shape == (30, 65)
    given = digits.logits(model, images).softmax(1).numpy()[range(30), labels]
    np.testing.assert_allclose(curve[:, 0], given, atol=1e-6)
    empty = digits.logits(model, black[None]).softmax(1).numpy()[0, labels]
    np.testing.assert_allclose(curve[:, -1], empty, atol=1e-6)
    back = faithful.replacement_curve(model, black, images, labels, -images, rng)
    np.testing.assert_allclose(back[:, [0, -1]], curve[:, [-1, 0]], atol=1e-6)
    assert faithful.replacement_curve(model, images, black, labels, images, rng, points=8).shape == (30, 9)


def test_ties_fall_at_random(data):
    images, labels = data
    model = digits.untrained("cnn", 8, 0).requires_grad_(False)
    black, nothing = np.zeros((8, 8), np.float32), np.zeros_like(images)
    one, same, other = (
        faithful.replacement_curve(model, images, black, labels, nothing, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_area():
    np.testing.assert_allclose(faithful.area(np.array([[1, 1, 1], [1, 0.5, 0], [1, 0, 0]])), [1, 0.5, 0.25])


def test_areas_are_those_of_all_curves(model, data):
    images, labels = data
    orders = {"ink": images, "back": -images}
    ends = {"black": BLACK, "donors": faithful.donors(labels, images, labels, np.random.default_rng(0))}
    found = faithful.areas(model, images, labels, orders, ends, np.random.default_rng(1), 16)
    table = pd.DataFrame(found)
    assert table.shape == (30, 8)
    curve = faithful.replacement_curve(model, images, BLACK, labels, images, np.random.default_rng(1), 16)
    np.testing.assert_array_equal(table["deletion", "black", "ink"], faithful.area(curve))
    swapped = faithful.areas(model, ends["donors"], labels, orders, {"back": images}, np.random.default_rng(2), 64)
    given = faithful.areas(model, images, labels, orders, ends, np.random.default_rng(2), 64)
    difference = swapped["insertion", "back", "ink"] - given["deletion", "donors", "ink"]
    assert np.abs(difference).max() < 1e-2  # the same ends; ties differ


def test_donors_are_images_of_another_class(data, rng):
    images, labels = data
    wanted = np.array([4, 4, 0, 9] * 20)
    found = faithful.donors(wanted, images, labels, rng)
    place = (found[:, None] == images).all((2, 3)).argmax(1)
    assert (found == images[place]).all()
    assert (labels[place] != wanted).all()
    assert len(set(place)) > 15
    with pytest.raises(ValueError, match="expected some of another"):
        faithful.donors(wanted[:1], images[labels == 4], labels[labels == 4], rng)


def test_units_are_weighed_alike(rng):
    values, units = rng.standard_normal((40, 2, 3)), rng.integers(0, 7, 40)
    expected = pd.DataFrame(values.reshape(40, 6)).groupby(units).mean().to_numpy()
    np.testing.assert_allclose(faithful.by_unit(values, units).reshape(-1, 6), expected)
    np.testing.assert_array_equal(faithful.by_unit(values, np.arange(40)), values)


@pytest.mark.parametrize("better", ["less", "greater"])
def test_a_difference_is_tested_over_units(better, rng):
    gaps, units = rng.standard_normal((60, 4)), rng.integers(0, 14, 60)
    mean, error, p = faithful.beats(gaps, units, better)
    own = pd.DataFrame(gaps).groupby(units).mean()
    np.testing.assert_allclose(mean, own.mean())
    np.testing.assert_allclose(error, own.sem())
    np.testing.assert_allclose(p, stats.ttest_1samp(own, 0, alternative=better).pvalue)
    assert faithful.beats(gaps[:, 0], units, better)[2] == pytest.approx(p[0])


def test_a_difference_that_is_not_known_has_no_p(rng):
    gaps, units = rng.standard_normal(28), np.repeat(range(14), 2)
    assert np.isnan(faithful.beats(np.where(np.arange(28) == 5, np.nan, gaps), units, "less")[2])
    assert np.isnan(faithful.beats(gaps, np.zeros(28, int), "less")[2])
    assert faithful.beats(0 * gaps, units, "less")[2] == 0.5


def test_a_ratio_holds_what_a_t_test_does_not_reject(rng):
    """Fieller's interval against its definition, by trying ratios; of few noisy values some have no end."""
    ends = []
    for _ in range(60):
        top, bottom = rng.gamma(0.7, 1, (2, 5))
        found = faithful.ratio_interval(top, bottom, np.arange(5))
        tried = np.geomspace(1e-3, 1e3, 400)
        kept = stats.ttest_1samp(top[:, None] - tried * bottom[:, None], 0).pvalue > 0.05
        np.testing.assert_array_equal(kept, (tried > found.low) & (tried < found.high))
        assert found.low <= found.ratio <= found.high
        assert found.ratio == pytest.approx(top.mean() / bottom.mean())
        assert found.p_below == pytest.approx(stats.ttest_rel(top, bottom, alternative="less").pvalue)
        ends.append((found.low > 0, np.isfinite(found.high)))
    assert set(ends) == {(True, True), (True, False), (False, True), (False, False)}


def test_a_ratio_with_an_empty_side(rng):
    some, none, units = 1 + rng.random(8), np.zeros(8), np.arange(8)
    assert faithful.ratio_interval(some, none, units)[:3] == (np.inf, np.inf, np.inf)
    assert faithful.ratio_interval(none, some, units)[:3] == (0, 0, 0)
    for sides in ((none, none, units), (some, some, 0 * units), (np.where(units == 2, np.nan, some), some, units)):
        assert np.isnan(faithful.ratio_interval(*sides)).all()


def writers(rng, images=10):
    """Units of 14 writers with unequal numbers of images, about so many each."""
    return np.repeat(range(14), rng.integers(images // 3, 2 * images - images // 3 + 1, 14))


def often(found):
    """(how often a decision was made, its standard error if it should have been made in 5 of 100 cases)."""
    return np.mean(found, 0), np.sqrt(0.05 * 0.95 / len(found))


def test_a_picture_of_nothing_seldom_has_a_dot(rng):
    """Two maps that differ only by what their writers do to either: by writer 5 % of pictures have a dot."""
    found = []
    for _ in range(300):
        units = writers(rng, 30)
        labels = rng.permutation(np.resize(np.arange(10), len(units)))
        hand = 0.6 * rng.standard_normal((2, 14, 10, 3, 2))  # of every writer, by digit and cell
        sides = np.exp(hand[:, units, labels] + 0.4 * rng.standard_normal((2, len(units), 3, 2)))
        dots = []
        for unit in (units, np.arange(len(units))):
            difference, widths = faithful.paired_intervals(*sides, labels, unit, 200, rng)
            dots.append((np.abs(difference) > widths).any())
        found.append(dots)
    (by_writer, by_image), error = often(found)
    assert abs(by_writer - 0.05) < 4 * error
    assert by_image > 0.3


def test_of_eight_methods_that_match_the_ink_seldom_one_beats_it(rng):
    """Holm's least p is the least of all times their number."""
    found = []
    for _ in range(600):
        units = writers(rng)
        shared, hand = rng.standard_normal((2, 14, 1)), rng.standard_normal((14, 8))
        gaps = (0.5 * shared[0] + hand)[units] + rng.standard_normal((len(units), 8))
        found.append(
            [8 * faithful.beats(gaps, unit, "less")[2].min() < 0.05 for unit in (units, np.arange(len(units)))]
        )
    (by_writer, by_image), error = often(found)
    assert 0.02 < by_writer < 0.05 + 4 * error  # Holm asks more of methods that go together
    assert by_image > 0.3


def test_intervals_of_readings_hold_the_truth(rng):
    found = []
    for _ in range(600):
        units = writers(rng)
        hand, own = rng.standard_normal((3, 14)), rng.standard_normal((2, len(units)))
        top, bottom = np.exp(0.3 * (hand[:2] + hand[2])[:, units] + 0.3 * own) * [[0.6], [1.0]]
        intervals = [faithful.ratio_interval(top, bottom, unit) for unit in (units, np.arange(len(units)))]
        found.append([not each.low <= 0.6 <= each.high for each in intervals])
    (by_writer, by_image), error = often(found)
    assert abs(by_writer - 0.05) < 4 * error
    assert by_image > 0.15


def test_swapped_sides_seldom_give_a_dot_and_a_real_difference_does():
    """Digits' own maps, skewed and with blank cells: where sides are swapped at random, 5 % of figures have a dot."""
    found = digits.load("digits")
    chosen = digits.examples(found.labels, np.arange(1797), 8, np.random.default_rng(0))
    labels = found.labels[chosen]
    units = np.arange(len(chosen))
    one = grids.on_grid(found.images[chosen], 7, 6)[0]
    rng, dots = np.random.default_rng(1), 0
    for _ in range(150):
        other = one * rng.gamma(2, 0.5, one.shape)
        swap = rng.random(len(one)) < 0.5
        sides = (np.where(swap[:, None, None], b, a) for a, b in ((one, other), (other, one)))
        difference, widths = faithful.paired_intervals(*sides, labels, units, 200, rng)
        dots += (np.abs(difference) > widths).any()
    assert dots / 150 <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)
    brighter = one.copy()
    brighter[labels == 3, 2, 2] += 2
    difference, widths = faithful.paired_intervals(brighter, one, labels, units, 200, rng)
    assert difference[3, 2, 2] > widths[3, 2, 2] > 0
    means = [grids.joint_normalise(grids.class_means(side, labels)) for side in (brighter, one)]
    np.testing.assert_allclose(difference, means[0] - means[1], atol=1e-12)
    same, widths = faithful.paired_intervals(one, one, labels, units, 50, rng)
    assert not same.any()
    assert not widths.any()
