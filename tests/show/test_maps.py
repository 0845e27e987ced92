import numpy as np
import pandas as pd
import pytest
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE

from helpers import show
from helpers.show.maps import colour_readings
from helpers.values import Nothing


def images_of(figure):
    return [image for axes in figure.axes for image in axes.images]


def panels_of(figure):
    return [axes for axes in figure.axes if axes.images]


def test_the_published_layout(rng):
    """Digits in reading order, 5 rows of 2; axes 0–6 and 0–5; one scale from 0 to 0.014 for all panels and the bar."""
    maps = rng.random((10, 7, 6)) * 0.015
    figure = show.rows_of_two(maps, "t", "bar", "hot", 0.014)
    panels = panels_of(figure)
    assert [axes.get_title() for axes in panels] == [str(digit) for digit in range(10)]
    figure.canvas.draw()
    places = [axes.get_position() for axes in panels]
    assert places[0].x0 == pytest.approx(places[2].x0, abs=0.01)
    assert places[0].y0 == pytest.approx(places[1].y0, abs=0.01)
    assert places[0].y0 > places[2].y0 > places[8].y0
    for digit, axes in enumerate(panels):
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), maps[digit])
        assert image.get_clim() == (0, 0.014)
        assert image.get_cmap().name == "hot"
        assert axes.get_yticks().tolist() == list(range(7))
        assert axes.get_xticks().tolist() == list(range(6))
        top, bottom = axes.get_ylim()
        assert top > bottom  # row 0 is on top
    bar = next(axes for axes in figure.axes if axes.get_ylabel() == "bar")
    assert bar.get_ylim() == (0, 0.014)


def test_without_a_top_the_scale_ends_at_the_largest_value(rng):
    maps = rng.random((10, 28, 28))
    assert {image.get_clim() for image in images_of(show.rows_of_two(maps, "t", "bar"))} == {(0, maps.max())}


def test_the_other_published_layout(rng):
    """Ten rows of two, named; the one bar spans most of the height."""
    names = [f"{digit}, {side}" for digit in range(10) for side in "ab"]
    figure = show.rows_of_two(rng.random((20, 7, 7)), "t", "bar", names=names)
    panels = panels_of(figure)
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in panels] == names
    assert len({round(axes.get_position().x0, 2) for axes in panels}) == 2
    assert len({round(axes.get_position().y0, 2) for axes in panels}) == 10
    bar = next(axes for axes in figure.axes if axes.get_ylabel() == "bar")
    assert bar.get_position().height > 0.8


def test_readings_stand_in_rows_with_their_intervals_and_verdicts():
    table = pd.DataFrame({
        "reader": ["first", "first", "second"], "digit": [0, 1, 2], "says": ["a", "b", "c"], "ratio": [2.0, 0.5, 1.1],
        "low": [1.5, 0.3, 0.9], "high": [3.0, 0.8, 1.3], "holds": [True, False, None], "ink": [None, True, True],
    })  # fmt: skip
    figure = show.reading_intervals(table, "t")
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["first, 0: a", "first, 1: b", "second, 2: c"]
    places = axes.get_yticks()
    marks = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert marks["holds"] == [[2.0, places[0]]]
    assert marks["does not hold"] == [[0.5, places[1]]]
    assert marks["undecided"] == [[1.1, places[2]]]
    in_ink = [
        line for line in axes.lines if line.get_transform() == axes.get_yaxis_transform() and len(line.get_xdata())
    ]
    assert sorted(place for line in in_ink for place in line.get_ydata()) == sorted(places)
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == table[["low", "high"]].to_numpy().tolist()
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top


@pytest.mark.parametrize("shape", [(7, 6), (28, 28), (1, 8)])
def test_the_comparison_stands_in_five_columns_on_one_scale_and_marks_what_differs(rng, shape):
    """By digit, down a column: one condition, the other, their difference; 5 to 9 under 0 to 4."""
    one, other = rng.random((2, 10, *shape))
    widths = np.full((10, *shape), 0.3)
    figure = show.comparison(one, other, widths, ("a", "b"), "t")
    figure.draw_without_rendering()
    panels = panels_of(figure)
    assert len(panels) == 30
    assert len({round(axes.get_position().x0, 2) for axes in panels}) == 5
    assert [axes.get_ylabel() for axes in panels[::5]] == ["a", "b", "difference"] * 2
    by_row = [panels[n : n + 5] for n in range(0, 30, 5)]
    for digit in range(10):
        above, below, change = (row[digit % 5] for row in by_row[3 * (digit // 5) :][:3])
        assert above.get_title() == str(digit)
        assert above.get_position().y0 > below.get_position().y0 > change.get_position().y0
        for axes, found in ((above, one), (below, other), (change, one - other)):
            np.testing.assert_array_equal(axes.images[0].get_array(), found[digit])
        marks = {(row, column) for column, row in change.lines[0].get_xydata().astype(int)}
        assert marks == {tuple(place) for place in np.argwhere(np.abs(one - other)[digit] > 0.3)}
    scales = [{axes.images[0].get_clim() for row in by_row[n::3] for axes in row} for n in range(3)]
    assert scales[0] == scales[1] == {(0, max(one.max(), other.max()))}
    assert scales[2] == {(-np.abs(one - other).max(), np.abs(one - other).max())}


def test_readings_from_colours_stand_with_their_error_their_limits_and_chance():
    table = pd.DataFrame({
        "panel": ["r = 4", "r = 4", "random"], "i": [10, 20, 10], "read": [0.12, 0.2, 0.1],
        "limit": [np.nan, "at least", "at most"],
    })  # fmt: skip
    chance = pd.DataFrame({"i": [10, 20], "mean": [0.03, 0.05], "low": [0.02, 0.04], "high": [0.04, 0.06]})
    figure = colour_readings(table, chance, (0.1, 0.2), 0.005, "t")
    (axes,) = figure.axes
    errors = {bars.get_label(): bars for bars in axes.containers}
    assert errors["r = 4"].lines[0].get_ydata().tolist() == [0.12, 0.2]
    assert errors["random"].lines[0].get_ydata().tolist() == [0.1]
    up, *_ = errors["r = 4"].lines[2][0].get_segments()
    assert up[:, 1].tolist() == pytest.approx([0.115, 0.125])
    arrows = [cap.get_marker() for bars in errors.values() for cap in bars.lines[1] if len(cap.get_xdata())]
    assert sum(marker in (CARETUPBASE, CARETDOWNBASE) for marker in arrows) == 2
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(row) for row in chance[["i", "low"]].to_numpy()} <= {tuple(row) for row in band}
    assert {tuple(row) for row in chance[["i", "high"]].to_numpy()} <= {tuple(row) for row in band}
    assert axes.patches[0].get_height() == 0.1  # black up to the floor of the bar


def test_contested_digits_share_one_scale(rng):
    maps = {
        "7 × 6": {2: rng.random((7, 6)), 3: rng.random((7, 6))},
        "7 × 7": {2: rng.random((7, 7)), 3: rng.random((7, 7))},
    }
    panels = panels_of(show.contested(maps, "t", "bar"))
    assert [axes.get_title() for axes in panels] == ["2", "3", "2", "3"]
    assert panels[2].get_ylabel() == "7 × 7"
    highest = max(panel.max() for row in maps.values() for panel in row.values())
    assert {axes.images[0].get_clim() for axes in panels} == {(0, highest)}


def test_confusion_has_the_digits_that_are_confused():
    counts = np.diag(np.arange(10, 20))
    counts[3, 8] = 7
    axes = panels_of(show.confusion(counts, "t"))[0]
    texts = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "13", (1, 1): "18", (0, 1): "7"}
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["3", "8"]


def test_where_nothing_is_confused_there_is_no_matrix():
    found = show.confusion(np.diag(np.arange(10)), "t")
    assert isinstance(found, Nothing)
    assert found.reason == "every digit is read right"


@pytest.mark.parametrize("count", [2, 4])
def test_curves_show_means_and_areas(rng, count):
    names = ["deletion", "insertion", "deletion by images", "insertion by images"][:count]
    curves = {name: {"ink": rng.random((20, 9)), "random": rng.random((20, 9))} for name in names}
    figure = show.replacement_curves(curves, "t")
    figure.draw_without_rendering()
    places = [axes.get_position() for axes in figure.axes]
    assert [axes.get_ylabel() for axes in figure.axes] == ["probability of the target", ""] * (count // 2)
    for left, right in zip(places[::2], places[1::2], strict=True):
        assert left.x1 < right.x0
        assert left.y0 == pytest.approx(right.y0)
    assert [place.y0 for place in places] == sorted((place.y0 for place in places), reverse=True)
    for axes, (name, orders) in zip(figure.axes, curves.items(), strict=True):
        assert axes.get_title() == name
        for line, (order, values) in zip(axes.lines, orders.items(), strict=True):
            np.testing.assert_allclose(line.get_xydata(), np.transpose([np.linspace(0, 1, 9), values.mean(0)]))
            assert (
                f"{order} ({np.trapezoid(values, dx=1 / 8, axis=1).mean():.3f})" in axes.get_legend_handles_labels()[1]
            )


def test_numbers_stand_in_their_cells_and_a_dash_where_there_is_none():
    table = pd.DataFrame([[0.1, np.nan], [2 / 3, 1.0], [0.5, 0.25]], index=["a", "b", "c"], columns=["one", "two"])
    figure = show.numbers(table, "t", "share", 0, 2)
    axes, bar = figure.axes
    figure.draw_without_rendering()
    colours = axes.collections[0]
    assert colours.get_clim() == (0, 2)
    assert bar.get_ylabel() == "share"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["one", "two"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top
    np.testing.assert_array_equal(np.ma.filled(colours.get_array(), np.nan).ravel(), table.to_numpy().ravel())
    written = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    numbers = {(0.5, 0.5): "0.10", (0.5, 1.5): "0.67", (1.5, 1.5): "1.00", (0.5, 2.5): "0.50", (1.5, 2.5): "0.25"}
    assert numbers.items() <= written.items()
    assert written.get((1.5, 0.5)) == "–"
    assert {text.get_text() for text in show.numbers(table, "t", "share", decimals=0).axes[0].texts} == set("–01")


def test_null_dots_show_every_copy_and_the_network():
    null = np.arange(30.0).reshape(3, 10) / 30
    figure = show.null_dots(np.full(10, 0.9), null, "t")
    copies, own = figure.axes[0].lines[:2]
    assert sorted(copies.get_ydata()) == sorted(null.ravel())
    assert own.get_ydata().tolist() == [0.9] * 10


def test_similarities_and_layers_and_accuracies_are_drawn_from_their_tables():
    table = pd.DataFrame({"method": ["a", "b"], "with": ["ink", "ink"], "signed": [0.1, 0.2], "absolute": [0.8, 0.9]})
    figure = show.similarity_dots(table, "t")
    assert [axes.get_title() for axes in figure.axes] == ["signed maps", "absolute maps"]
    drawn = [point for dots in figure.axes[1].collections for point in dots.get_offsets()[:, 0]]
    assert sorted(drawn) == [0.8, 0.9]
    layers = pd.DataFrame({
        "randomised": [1, 1, 2, 2], "how": ["cascading", "independent"] * 2, "layer": ["o", "o", "i", "i"],
        "signed": [0.1, 0.2, 0.3, 0.4], "absolute": [0.5, 0.6, 0.7, 0.8], "signed ±": 0.1, "absolute ±": 0.1,
    })  # fmt: skip
    figure = show.layer_curves(layers, "t")
    drawn = [[bars.lines[0].get_ydata().tolist() for bars in axes.containers] for axes in figure.axes]
    assert drawn == [[[0.1, 0.3], [0.5, 0.7]], [[0.2, 0.4], [0.6, 0.8]]]
    accuracy = pd.DataFrame({"classifier": ["a", "a"], "split": ["s", "w"], "accuracy": [0.9, 0.8]})
    figure = show.accuracy_dots(accuracy, "t")
    assert sorted(point for dots in figure.axes[0].collections for point in dots.get_offsets()[:, 0]) == [0.8, 0.9]


def test_worst_errors_say_what_was_read(rng):
    figure = show.worst_errors(rng.random((2, 8, 8)), [3, 4], [8, 9], [0.01, 0.2], "t")
    assert [axes.get_title() for axes in figure.axes] == ["3 read as 8\np = 0.010", "4 read as 9\np = 0.200"]
