"""Figures and slider of notebook 05 draw what a table says. Synthetic: what the columns mean is tested elsewhere."""

import re
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.text import Text

from helpers import show
from helpers.parameters import BadParameter, Parameters
from helpers.show import explorers
from helpers.show.explore import BUDGET, Frozen
from helpers.values import Nothing

RANKS = {"r = 4": 4, "r = 8": 8, "r = 64": 40, "r = 64′": 40}
SIX = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
ODD = {"$x_$y_adapter": 4}
NUMBER = r"(−?[\d.]+)"
D = 64


class Asked(Parameters):
    modules: str = ""
    """which modules"""
    factor: Literal["A", "BA"] = "BA"
    """whose directions"""
    side: Literal["right", "left"] = "left"
    """of which space"""


def synthetic(layers=30, kinds=("q_proj", "v_proj"), ranks=RANKS, missing=(), **asked):
    """An atlas with the columns and details that figures ask for. missing: (layer, projection, adapter)."""
    rng, rows, details = np.random.default_rng(1), [], {}
    for layer, kind in ((layer, kind) for layer in range(layers) for kind in kinds):
        module = f"model.layers.{layer}.self_attn.{kind}"
        weight = np.sort(rng.gamma(2, 1, D))[::-1]
        for name, r in ranks.items():
            row = {"module": module, "layer": layer, "projection": kind, "adapter": name, "why": ""}
            if (layer, kind, name) in missing:
                rows.append(row | {"why": f"{name} does not change it"})
                details[module, name] = detail(np.zeros(0), weight, np.zeros(0))
                continue
            values = np.sort(rng.gamma(1, 0.3, r))[::-1] + 1e-3
            row |= {"ratio": np.linalg.norm(values) / np.linalg.norm(weight), "k90": float(rng.integers(1, r))}
            row |= {"effective_rank": 0.5 * r, "random_effective_rank": 0.8 * r}
            row |= {"intruders": float(rng.integers(8)), "intruders_expected": rng.uniform(1, 4)}
            for end in ("in", "out"):
                z = rng.normal(2, 2)
                row |= {f"energy_{end}": 0.3 + 0.03 * z, f"energy_{end}_chance": 0.3, f"energy_{end}_z": z}
            for choice in ("a", "ba_right", "ba_left"):
                i, j, z = 12, min(r, 8), rng.normal(1, 2)
                row |= {f"i_{choice}": i, f"j_{choice}": j, f"phi_{choice}": i / D + 0.02 * z}
                row |= {f"chance_{choice}": i / D, f"z_{choice}": z, f"ratio_{choice}": 1 + 0.02 * z * D / i}
            rows.append(row)
            details[module, name] = detail(values, weight, rng.uniform(0.2, 1, 10))
    rows, asked = pd.DataFrame(rows), Asked(**asked)
    return SimpleNamespace(
        rows=rows,
        details=details,
        labels=list(ranks),
        layers=list(range(layers)),
        projections=list(kinds),
        parameters=asked,
        choice="a" if asked.factor == "A" else f"ba_{asked.side}",
    )


def detail(spectrum, weight_spectrum, cosines):
    return SimpleNamespace(spectrum=spectrum, weight_spectrum=weight_spectrum, cosines=cosines)


def heat(atlas, column="ratio_ba_left"):
    tables = {name: part.pivot(index="layer", columns="projection") for name, part in atlas.rows.groupby("adapter")}
    return {name: tables[name][column].reindex(columns=atlas.projections) for name in atlas.labels}


def trends(atlas, measure="phi", slope=0.1, half=0.05):
    """The slope of every adapter is that of the one before, turned around."""
    rows = [
        [kind, name, measure, slope * (-1) ** n, slope * (-1) ** n - half, slope * (-1) ** n + half]
        for kind in atlas.projections
        for n, name in enumerate(atlas.labels)
    ]
    return pd.DataFrame(rows, columns=["projection", "adapter", "measure", "slope", "low", "high"])


def drawn(figure):
    """Draw it, as a file would be: every text must be one that can be set."""
    figure.draw_without_rendering()
    return figure


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_heatmaps_share_a_scale_around_chance_and_mark_and_hatch_what_they_are_told():
    atlas = synthetic(6, SIX, missing=[(2, "k_proj", "r = 8")])
    tables = heat(atlas)
    marks = {name: table > 1.2 for name, table in tables.items()}
    figure = drawn(show.heatmaps(tables, "label", "t", 1.0, marks))
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == list(RANKS)
    values = np.stack([table.to_numpy() for table in tables.values()])
    most = np.nanmax(np.abs(values - 1))
    for axes, table in zip(panels, tables.values(), strict=True):
        shown = axes.images[0].get_array().filled(np.nan)
        np.testing.assert_array_equal(shown, table)
        assert axes.images[0].get_clim() == pytest.approx((1 - most, 1 + most))
        assert axes.get_ylim() == (5.5, -0.5)  # layer 0 is on top
        assert axes.patch.get_hatch()
        marked = {(round(y), round(x)) for x, y in axes.lines[0].get_xydata()}
        assert marked == set(zip(*np.nonzero(table.to_numpy() > 1.2), strict=True))
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list("012345")
    assert [label.get_text() for label in panels[0].get_xticklabels()] == list(SIX)
    bar = next(axes for axes in figure.axes if axes.get_ylabel() == "label")
    assert bar.get_ylim() == pytest.approx((np.nanmin(values), np.nanmax(values)))  # of the colours, those that occur
    assert [1.0, 1.0] in [list(line.get_ydata()) for line in bar.lines]
    assert legend_of(figure) == ["p < 0.05, corrected", "no value", "chance, 1, in the colour bar"]


def test_a_heatmap_without_chance_is_sequential_and_over_decades_logarithmic():
    table = pd.DataFrame({"q": [0.001, 0.01], "v": [0.1, 1.0]}, index=[3, 7])
    figure = drawn(show.heatmaps({"x": table}, "label", "t"))
    image = figure.axes[0].images[0]
    assert not figure.legends
    assert image.get_clim() == (0.001, 1.0)
    np.testing.assert_allclose(image.norm(table.to_numpy()), [[0, 2 / 3], [1 / 3, 1]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["3", "7"]
    around = show.heatmaps({"x": table * 4}, "label", "t", 1).axes[0].images[0]
    np.testing.assert_allclose(around.norm([1 / 4, 1, 4]), 0.5 + np.array([-1, 0, 1]) * np.log(4) / np.log(250) / 2)


def test_panels_of_heatmaps_are_aligned_though_one_has_fewer_layers():
    one, two = pd.DataFrame({"q": [1.0, 2.0]}, index=[0, 2]), pd.DataFrame({"v": [3.0]}, index=[1])
    first, second, _ = show.heatmaps({"one": one, "two": two}, "label", "t", marks={"two": two > 0}).axes
    nan = np.nan
    np.testing.assert_array_equal(first.images[0].get_array().filled(nan), [[1, nan], [nan, nan], [2, nan]])
    np.testing.assert_array_equal(second.images[0].get_array().filled(nan), [[nan, nan], [nan, 3], [nan, nan]])
    assert (len(first.lines), second.lines[0].get_xydata().tolist()) == (0, [[1, 1]])


def test_the_ranking_begins_with_the_module_that_changed_most():
    rows = synthetic(6, SIX).rows.sample(frac=1, random_state=2)
    figure = drawn(show.ranking(rows, "t", 7))
    (axes,) = figure.axes
    greatest = rows.groupby("module")["ratio"].max().sort_values(ascending=False).index[:7]
    expected = [re.sub(r".*\.(\d+)\..*\.(.*)", r"layer \1: \2", module) for module in greatest]
    assert [label.get_text() for label in axes.get_yticklabels()] == expected
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert legend_of(figure) == list(rows["adapter"].unique())
    for line, name in zip(axes.lines, rows["adapter"].unique(), strict=True):
        own = rows[rows["adapter"] == name].set_index("module")["ratio"]
        found = {greatest[round(place)]: ratio for ratio, place in line.get_xydata()}
        assert found == {module: own[module] for module in greatest}


def test_modules_of_one_short_name_are_told_apart():
    names = ["encoder.layers.0.fc", "decoder.layers.0.fc"]
    rows = pd.DataFrame({"module": names, "layer": 0, "adapter": "x", "ratio": [0.1, np.nan]})
    figure = show.ranking(rows, "t")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["layer 0: fc"]
    figure = show.ranking(rows.fillna(0.2), "t")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names[::-1]


def test_small_grids_stand_in_order_on_one_scale(rng):
    panels = {kind: {layer: rng.normal(size=(12, 5)) for layer in range(20)} for kind in ("q_proj", "v_proj")}
    panels["v_proj"] = {layer: grid[:9, :1] for layer, grid in panels["v_proj"].items()} | {3: np.zeros((0, 0))}
    beside = ["q_proj\n$i$ = 1 … 12\n$j$ = 1 … 5", "v_proj\n$i$ = 1 … 9\n$j$ = 1 … 1"]
    figure = drawn(show.grids(panels, "label", "t"))
    first, second, bar = figure.axes
    assert (first.get_title(loc="left"), bar.get_ylabel()) == ("layer", "label")
    most = max(abs(grid).max() for found in panels.values() for grid in found.values() if grid.size)
    for axes, layers in ((first, range(10)), (second, range(10, 20))):
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(layer) for layer in layers]
        assert [label.get_text() for label in axes.get_yticklabels()] == beside
        assert len(axes.patches) == 20
        found = set()
        for image in axes.images:
            left, _, bottom, top = image.get_extent()
            place = ("q_proj", "v_proj")[int(top)], layers[int(left)]
            np.testing.assert_array_equal(image.get_array(), panels[place[0]][place[1]])
            assert bottom > top and image.get_clim() == (-most, most)
            found.add(place)
        assert found == {(kind, layer) for kind in panels for layer in layers if (kind, layer) != ("v_proj", 3)}
    assert legend_of(figure) == ["no value"]
    panels["v_proj"][5] = np.ones((2, 2))
    assert show.grids(panels, "label", "t").axes[0].get_yticklabels()[1].get_text() == "v_proj\nof several sizes"


@pytest.mark.parametrize("chance", [1.0, None])
def test_measures_over_depth_with_chance_and_the_trends_that_there_are(chance):
    atlas = synthetic(8, missing=[(3, "v_proj", "r = 8")])
    slopes = trends(atlas)
    slopes.loc[slopes["adapter"] == "r = 64", ["low", "high"]] = [-0.1, 0.3]
    figure = show.depth(atlas.rows, "ratio_ba_left", slopes, chance, "t", "label", "phi")
    for axes, kind in zip(figure.axes, atlas.projections, strict=True):
        told = [text.get_text() for text in axes.get_legend().get_texts()]
        assert told == ["chance"] * (chance is not None) + [
            "r = 4: 0.10 (0.05 to 0.15)",
            "r = 8: −0.10 (−0.15 to −0.05)",
            "r = 64: 0.10 (−0.10 to 0.30)",
            "r = 64′: −0.10 (−0.15 to −0.05)",
        ]
        lines = {line.get_label(): line for line in axes.lines}
        if chance:
            assert lines["chance"].get_ydata() == [1, 1]
        for name, label in zip(RANKS, told[-4:], strict=True):
            own = atlas.rows[(atlas.rows["projection"] == kind) & (atlas.rows["adapter"] == name)]
            np.testing.assert_array_equal(lines[label].get_xydata(), own[["layer", "ratio_ba_left"]])
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        found = [np.diff(line.get_ydata()) / np.diff(line.get_xdata()) for line in dashed]
        assert [each.mean() for each in found] == pytest.approx([0.01, -0.01, -0.01])
        means = atlas.rows[atlas.rows["projection"] == kind].groupby("adapter")["ratio_ba_left"].mean()
        assert [line.get_ydata().mean() for line in dashed] == pytest.approx(list(means[["r = 4", "r = 8", "r = 64′"]]))


def test_adapters_stand_beside_each_other_with_medians_and_chance():
    atlas = synthetic(5, missing=[(1, "q_proj", "r = 4")])
    measures = {"a": ("ratio", None), "b": ("intruders", "intruders_expected"), "c": ("ratio_ba_left", 1.0)}
    measures["d"] = ("effective_rank", "random_effective_rank")
    figure = drawn(show.adapters_beside(atlas.rows, "t", measures))
    assert [axes.get_title() for axes in figure.axes] == list("abcd")
    assert [axes.get_yscale() for axes in figure.axes][1:] == ["linear", "linear", "linear"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list(RANKS)
    for axes, (column, chance) in zip(figure.axes, measures.values(), strict=True):
        kinds = [
            [line.get_ydata() for line in axes.lines if line.get_linestyle() == style] for style in ("None", "-", ":")
        ]
        for n, name in enumerate(RANKS):
            own = atlas.rows[atlas.rows["adapter"] == name]
            np.testing.assert_array_equal(kinds[0][n], own[column])
            assert list(kinds[1][n]) == [own[column].median()] * 2
            if chance is not None:
                assert list(kinds[2][n]) == [own[chance].median() if isinstance(chance, str) else chance] * 2
        assert len(kinds[2]) == 4 * (chance is not None)
    rows = atlas.rows.assign(ratio=np.where(atlas.rows["adapter"] == "r = 4", 0.01, 1.0))
    assert show.adapters_beside(rows, "t", {"a": ("ratio", None)}).axes[0].get_yscale() == "log"


def test_a_spectrum_is_in_units_of_the_norm_of_w():
    spectra = {"r = 2": np.array([6.0, 1.0]), "r = 3": np.array([1.0, 0.5, 0.1])}
    random = {"r = 3": (np.array([0.8, 0.6, 0.3]), np.array([0.9, 0.7, 0.4]))}
    figure = drawn(show.spectrum(spectra, np.array([2.0, 1.0, 0.5, 0.4]), random, {"r = 2": 1, "r = 3": 2}, "t"))
    for axes, (name, values), k90 in zip(figure.axes, spectra.items(), (1, 2), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        np.testing.assert_array_equal(lines[r"$\Delta W$"].get_xydata(), np.c_[range(1, len(values) + 1), values / 2])
        assert lines[r"$\Vert W\Vert_2$"].get_ydata() == [1, 1]
        assert list(lines["W"].get_ydata()) == [1, 0.5, 0.25]
        assert lines["$k_{90}$"].get_xdata() == [k90, k90]
        assert axes.get_title() == f"{name}\n$k_{{90}}$ = {k90}"
        assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 0.05 < 3 < axes.get_ylim()[1]
    (band,) = figure.axes[1].collections
    corners = {tuple(np.round(corner, 6)) for corner in band.get_paths()[0].vertices}
    assert {(1, 0.4), (1, 0.45), (3, 0.15), (3, 0.2)} <= corners
    assert not figure.axes[0].collections
    assert "random product of the same norm, 90 %" in legend_of(figure)


def test_cosines_below_epsilon_are_intruders(rng):
    cosines = {"x": np.array([0.9, 0.3, 0.5, 0.49])}
    draws = rng.uniform(size=(101, 4))
    figure = drawn(show.intruder_cosines(cosines, {"x": draws}, {"x": (2, 1.96)}, "t"))
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["an intruder"].get_xydata().tolist() == [[2, 0.3], [4, 0.49]]
    assert lines["no intruder"].get_xydata().tolist() == [[1, 0.9], [3, 0.5]]
    assert list(lines[r"$\varepsilon$ = 0.5"].get_ydata()) == [0.5, 0.5]
    assert axes.get_title() == "x\n2, expected 2.0"
    ordered = np.sort(draws, axis=0)
    np.testing.assert_allclose(lines["its median"].get_ydata(), ordered[50])
    corners = {tuple(corner) for corner in np.round(axes.collections[0].get_paths()[0].vertices, 9)}
    assert {(k + 1, round(ordered[place, k], 9)) for k in range(4) for place in (5, 95)} <= corners


@pytest.mark.parametrize("ranks", [ODD, {f"_adapter_{n}/r{n}": n for n in range(2, 13)}])
def test_odd_names_one_layer_and_many_adapters_can_be_drawn(ranks):
    """A name is no formula, and one that begins with an underscore has its place in a legend."""
    atlas = synthetic(1, ("a_$b",), ranks)
    tables, name = heat(atlas), next(iter(ranks))
    spectra = {name: np.ones(3) for name in ranks}
    title = "$x_$y_adapter and $\\foo"
    figures = [
        show.heatmaps(tables, "label", title, 1),
        show.heatmaps({name: table * np.nan for name, table in tables.items()}, "label", title),
        show.ranking(atlas.rows, title),
        show.grids({"a_$b": {0: np.ones((1, 1))}}, "label", title),
        show.depth(atlas.rows, "ratio_ba_left", trends(atlas).assign(low=np.nan), 1.0, title, "label"),
        show.adapters_beside(atlas.rows, title),
        show.spectrum(spectra, np.ones(3), {}, dict.fromkeys(ranks, 1), title),
        show.intruder_cosines(spectra, {}, dict.fromkeys(ranks, (0, np.nan)), title),
    ]
    for figure in figures:
        assert figure.get_figwidth() <= 11
        assert figure.get_suptitle().replace("\n", " ") == title
        named = figure.findobj(lambda artist: isinstance(artist, Text) and "adapter" in artist.get_text())
        assert not any(text.get_parse_math() and is_math_text(text.get_text().split("\n")[0]) for text in named)
    for figure in figures if ranks is ODD else figures[2:3]:
        drawn(figure)
    assert len(legend_of(figures[2])) == len(ranks)
    assert legend_of(figures[2])[0] == name.replace("$", r"\$")


def test_figures_of_no_atlas_are_its_reason():
    nothing = Nothing("no base is given")
    found = [
        show.heatmaps(nothing, "label", "t"),
        show.ranking(nothing, "t"),
        show.grids(nothing, "label", "t"),
        show.depth(nothing, "ratio", nothing, 1.0, "t", "label"),
        show.adapters_beside(nothing, "t"),
        show.spectrum(nothing, nothing, {}, {}, "t"),
        show.intruder_cosines(nothing, nothing, {}, "t"),
        explorers.model_atlas(nothing),
        explorers.model_atlas(SimpleNamespace(rows=nothing)),
    ]
    assert all(each is nothing for each in found)
    assert show.grids({"q": {0: np.zeros((0, 0))}}, "label", "t").reason == "there is no grid to draw"
    unknown = pd.DataFrame({"module": ["x"], "layer": 0, "adapter": "y", "ratio": np.nan})
    assert "not known" in show.ranking(unknown, "t").reason
    assert show.adapters_beside(unknown, "t", {"a": ("ratio", 1.0)}).axes[0].get_yscale() == "linear"


def readings(line, what):
    """{adapter: number} of what a line says behind these words."""
    listed = re.split(r";|\. ", line.partition(what)[2])[0]
    found = re.findall(NUMBER + r"(?: for [\d.]+ expected)? \(([^)]*)\)", listed)
    return {name: float(number.replace("−", "-")) for number, name in found}


@pytest.mark.parametrize("asked", [{}, {"factor": "A", "side": "right"}])
def test_the_line_of_a_card_reads_the_table(asked):
    atlas = synthetic(3, missing=[(2, "v_proj", "r = 8")], **asked)
    explorer = explorers.model_atlas(atlas)
    choice = "a" if asked else "ba_left"
    most = atlas.rows.loc[atlas.rows["ratio"].idxmax()]
    assert explorer.start == {"layer": most["layer"], "projection": most["projection"]}
    line = explorer.picture(layer=2, projection="v_proj")[1]
    rows = atlas.rows[(atlas.rows["layer"] == 2) & (atlas.rows["projection"] == "v_proj")].set_index("adapter")
    rows = rows.drop("r = 8")
    assert line.startswith("model.layers.2.self_attn.v_proj: ") and line.endswith(" r = 8 does not change it.")
    told = {"W‖ = ": "ratio", "90 %: ": "k90", "intruders: ": "intruders", "φ = ": "phi_", "z = ": "z_"}
    for words, column in told.items():
        column += choice * column.endswith("_")
        assert readings(line, words) == pytest.approx(dict(rows[column]), abs=0.051 if "z_" in column else 6e-4)
    expected = re.findall(rf"for {NUMBER} expected \(([^)]*)\)", line)
    assert {name: float(number) for number, name in expected} == pytest.approx(
        dict(rows["intruders_expected"]), abs=0.051
    )
    assert f"{'A, right' if asked else 'BA, left'} at i = 12, j = 4 to 8: φ" in line


def test_a_card_draws_the_details_and_is_that_of_a_new_one(rng):
    atlas = synthetic(3, missing=[(1, "q_proj", "r = 64")])
    walker = explorers.model_atlas(atlas)
    for place in [(2, "v_proj"), (0, "q_proj"), (1, "q_proj")]:
        at = dict(zip(("layer", "projection"), place, strict=True))
        picture, line = walker.picture(**at)
    fresh, same = explorers.model_atlas(atlas).picture(**at)
    assert line == same
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(fresh))
    card = walker._draw.__self__
    module = "model.layers.1.self_attn.q_proj"
    for name in RANKS:
        own = atlas.details[module, name]
        row = atlas.rows[(atlas.rows["module"] == module) & (atlas.rows["adapter"] == name)].iloc[0]
        np.testing.assert_array_equal(card.lines[name].get_ydata(), own.spectrum / own.weight_spectrum[0])
        np.testing.assert_array_equal(card.cosine_dots[name].get_ydata(), own.cosines)
        ratios = [row[f"ratio_{choice}"] for choice in ("a", "ba_right", "ba_left")]
        ratios += [row[f"energy_{end}"] / row[f"energy_{end}_chance"] for end in ("in", "out")]
        np.testing.assert_allclose(card.dots[name].get_xdata(), ratios)
        bands = [segment[:, 0] for segment in card.bands[name].get_segments()]
        spread = [] if name == "r = 64" else [0.02 * D / 12] * 3 + [0.03 / 0.3] * 2
        assert np.ravel(bands) == pytest.approx(np.ravel([[1 - 2 * each, 1 + 2 * each] for each in spread]))
    low, high = card.over.get_xlim()
    assert low <= min(ratios) and max(ratios) <= high
    assert card.spectrum.get_xlim()[1] > 40


def test_where_there_is_no_card_its_place_says_why():
    missing = [(1, "q_proj", name) for name in RANKS]
    atlas = synthetic(2, missing=missing)
    atlas.rows = atlas.rows[(atlas.rows["layer"] == 0) | (atlas.rows["projection"] == "q_proj")]
    explorer = explorers.model_atlas(atlas)
    with pytest.raises(BadParameter, match="layer 1 has no v_proj that an adapter changes"):
        explorer.picture(layer=1, projection="v_proj")
    with pytest.raises(BadParameter, match=r"layers.1.self_attn.q_proj: r = 4 does not change it; r = 8 does"):
        explorer.picture(layer=1, projection="q_proj")
    every = synthetic(1, missing=[(0, kind, name) for kind in ("q_proj", "v_proj") for name in RANKS])
    every.rows = every.rows.reindex(columns=synthetic(1).rows.columns)
    assert explorers.model_atlas(every).reason == "no module could be measured"


def test_a_page_holds_every_layer_as_long_as_there_is_room():
    frozen = Frozen(**explorers.model_atlas(synthetic(2, ranks={"r = 4": 4})).frozen())
    assert [axis.words for axis in frozen.axes] == [["0", "1"], ["q_proj", "v_proj"]]
    assert len(frozen.frames) == 4
    explorer = explorers.model_atlas(synthetic(30))
    assert explorer.axes[0].held(explorer.start) == tuple(range(30))
    assert 60 * len(frozen.frames[0]) < 0.85 * BUDGET
    explorer = explorers.model_atlas(synthetic(48, SIX))
    layers, kinds = (axis.held(explorer.start) for axis in explorer.axes)
    assert kinds == SIX and 2 <= len(layers) < 20 and {0, 47} <= set(layers)
    heads = explorers.model_atlas(synthetic(2, tuple(f"q_proj[head {n}]" for n in range(16)), {"x": 4}))
    assert heads.axes[1].held(heads.start) == () and heads.axes[0].held(heads.start) == (0, 1)
