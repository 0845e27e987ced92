"""Figures and slider of notebook 06 draw what a table says. Synthetic: what the columns mean is tested elsewhere."""

import re
from itertools import combinations, permutations
from types import SimpleNamespace

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

LABELS = ("r = 8", "r = 64", "author")
LONG = "/home/$some_one/adapters/a_very_long_name_of/checkpoint"
METHODS = {"sum": 1.0, "average": 1 / 3, "ties": np.nan}
VERDICTS = "apart", "agree", "share a place", "against"
NUMBER = r"(−?[\d.]+)"
SD = 0.01


class Asked(Parameters):
    adapters: str = ""
    """which adapters"""
    modules: str = ""
    """which modules"""


def synthetic(layers=3, kinds=("q_proj", "v_proj"), labels=LABELS):
    """Tables as of `subspaces.AdaptersTogether`, with the columns that figures ask for."""
    rng = np.random.default_rng(3)
    pairs, interference, kept, drift = [], [], [], []
    for layer, kind in ((layer, kind) for layer in range(layers) for kind in kinds):
        at = {"module": f"model.layers.{layer}.self_attn.{kind}", "layer": layer, "projection": kind}
        for one, other in combinations(labels, 2):
            row = at | {"one": one, "other": other, "why": "", "j": 4, "cosine_sd": SD, "verdict": rng.choice(VERDICTS)}
            row |= {"cosine": rng.uniform(-0.2, 0.8), "cosine_p_holm": rng.choice([0.001, 0.7])}
            for side in ("left", "right"):
                row |= {f"phi_{side}": rng.uniform(), f"phi_{side}_chance": 0.05}
            pairs.append(row)
        for one, other in permutations(labels, 2):
            row = at | {"one": one, "other": other, "k": int(rng.integers(1, 9))}
            for end in ("output", "input"):
                row |= {end: rng.uniform(0.001, 0.5), f"{end}_chance": row["k"] / 100}
                row[f"{end}_p_holm"] = rng.choice([0.001, 0.7])
            interference.append(row)
        for method, independent in METHODS.items():
            for label in labels:
                row = at | {"method": method, "adapter": label, "along_independent": independent}
                row["off_independent"] = 2 * independent
                kept.append(row | {"along": rng.uniform(-0.1, 1.2), "off": rng.uniform(0.1, 9)})
        for step, name in enumerate(("step24", "step80", "end")):
            row = {name: rng.uniform() for name in ("cosine_end", "phi_left_end", "phi_right_end", "kept_a")}
            drift.append(at | row | {"checkpoint": name, "norm": rng.uniform(1, 2 + step), "kept_a_chance": 0.05})
    by_pair = pd.DataFrame(list(combinations(labels, 2)), columns=["one", "other"])
    counts = rng.multinomial(layers * len(kinds), [0.4, 0.3, 0.2, 0.1], len(by_pair))
    cosines = rng.uniform(-0.1, 0.6, (len(labels), len(labels)))
    return SimpleNamespace(
        pairs=pd.DataFrame(pairs),
        interference=pd.DataFrame(interference),
        kept=pd.DataFrame(kept),
        drift=pd.DataFrame(drift),
        by_pair=by_pair.assign(**{name.replace(" ", "_"): counts[:, n] for n, name in enumerate(VERDICTS)}),
        agreement=pd.DataFrame(cosines + cosines.T, labels, labels),
        map=pd.DataFrame(rng.normal(0, 0.5, (len(labels), 2)), labels, ["x", "y"]),
        labels=list(labels),
        layers=list(range(layers)),
        projections=list(kinds),
        parameters=Asked(),
    )


@pytest.fixture(scope="module")
def tables():
    return synthetic()


def drawn(figure):
    """Draw it, as a file would be: every text must be one that can be set."""
    figure.draw_without_rendering()
    return figure


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def dots(axes, hollow=None):
    """[n, 2] of the lines without a line between their points; hollow: only those that are, or are not."""
    found = [line for line in axes.lines if line.get_linestyle() == "None"]
    if hollow is not None:
        found = [line for line in found if (line.get_markerfacecolor() == "none") == hollow]
    return np.concatenate([line.get_xydata() for line in found])


def test_cells_of_a_matrix_tell_their_numbers_but_for_the_diagonal(tables):
    matrix = tables.agreement.copy()
    matrix.iloc[0, 2] = matrix.iloc[2, 0] = np.nan
    figure = drawn(show.agreement(matrix, "t", 0.004))
    axes, bar = figure.axes
    shown = axes.images[0].get_array().filled(np.nan)
    away = ~np.eye(3, dtype=bool)
    np.testing.assert_array_equal(shown[away], matrix.to_numpy()[away])
    assert np.isnan(np.diag(shown)).all()
    assert axes.images[0].get_clim() == pytest.approx(np.nanmax(np.abs(shown)) * np.array([-1, 1]))
    told = {text.get_position(): float(text.get_text().replace("−", "-")) for text in axes.texts}
    known = [(over, down) for down, over in np.argwhere(np.isfinite(shown))]
    assert told == {place: round(shown[place[::-1]], 3) for place in known}
    assert {tuple(patch.get_xy() + np.array(0.5)) for patch in axes.patches} == {(n, n) for n in range(3)}
    assert axes.patch.get_hatch() and "no value" in legend_of(figure)
    assert sorted(line.get_ydata()[0] for line in bar.lines) == [-0.008, 0.008]
    assert any("chance, 0.008," in text for text in legend_of(figure))
    assert [text.get_text() for text in axes.get_yticklabels()] == list(LABELS)
    both = show.agreement(matrix, "t", pd.Series([0.004, 0.02, 0.01]))
    assert sorted(line.get_ydata()[0] for line in both.axes[1].lines) == [-0.04, -0.008, 0.008, 0.04]
    assert any("chance, 0.008 to 0.04," in text for text in legend_of(both))
    calm = show.agreement(matrix * 1e-4, "t", 0.004).axes[0].images[0]
    assert calm.get_clim() == (-0.02, 0.02)  # noise has no full colour
    many = show.agreement(pd.DataFrame(np.zeros((40, 40)), map(str, range(40)), map(str, range(40))), "t")
    assert not many.axes[0].texts and max(many.get_size_inches()) <= 11


def test_names_stand_beside_their_dots_and_on_nothing_else():
    places = pd.DataFrame({"x": [0, 0.3, 0.3, 0.6], "y": [0, 0.4, 0.41, 0]}, ["a_$b", "r = 64", "r = 64′", "$c_d$"])
    figure = show.adapter_map(places, 0.834, "t")
    (axes,) = figure.axes
    figure.draw_without_rendering()
    np.testing.assert_array_equal([line.get_xydata()[0] for line in axes.lines], places)
    assert axes.get_aspect() == 1
    assert "off by 83 % of itself" in axes.get_xlabel()
    assert [text.get_text() for text in axes.texts] == ["a_\\$b", "r = 64", "r = 64′", "\\$c_d\\$"]
    pixels, boxes = axes.transData.transform(places), [Text.get_window_extent(text) for text in axes.texts]
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:n])
        assert not any(box.contains(*dot) for dot in pixels)
        ends = np.array([box.x0, box.y0]), np.array([box.x1, box.y1])
        away = [np.linalg.norm(np.maximum(0, np.maximum(ends[0] - dot, dot - ends[1]))) for dot in pixels]
        assert away[n] < 0.2 * figure.dpi or away[n] == min(away)
    places.iloc[0] = np.nan
    assert r"without a place: a_\$b" in show.adapter_map(places, 0.8, "t").axes[0].get_xlabel()
    assert show.adapter_map(places * np.nan, 0.8, "t").reason == "no adapter has a place in the plane"


def test_lines_of_pairs_follow_the_table_and_dots_are_filled_beyond_chance(tables):
    pairs = tables.pairs.sample(frac=1, random_state=1)
    figure = show.pairs_by_layer(pairs, "cosine", "t", "label", spread="cosine_sd", p="cosine_p_holm")
    assert {axes.get_title() for axes in figure.axes} == {"q_proj", "v_proj"}
    for axes in figure.axes:
        here = tables.pairs[tables.pairs["projection"] == axes.get_title()]
        wanted = {tuple(map(tuple, own[["layer", "cosine"]].to_numpy())) for _, own in here.groupby(["one", "other"])}
        assert {tuple(map(tuple, line.get_xydata())) for line in axes.lines if line.get_linestyle() == "-"} == wanted
        sure = here[here["cosine_p_holm"] < 0.05]
        assert sorted(map(tuple, dots(axes))) == sorted(map(tuple, sure[["layer", "cosine"]].to_numpy()))
        corners = axes.collections[0].get_paths()[0].vertices
        assert set(map(tuple, corners)) == {(layer, end) for layer in range(3) for end in (-2 * SD, 2 * SD)}
    assert legend_of(figure)[:3] == [
        f"{one} · {other}" for one, other in pairs[["one", "other"]].drop_duplicates().values
    ]
    assert "chance ± 2 standard deviations" in legend_of(figure)
    level = show.pairs_by_layer(tables.pairs, "phi_left", "t", "label", chance="phi_left_chance")
    assert set(level.axes[0].collections[0].get_paths()[0].vertices[:, 1]) == {0.05}
    assert "within chance" not in legend_of(level) and "chance" in legend_of(level)


def test_a_pair_with_another_chance_has_a_band_of_its_own(tables):
    wide = (tables.pairs["one"] == "r = 64") & (tables.pairs["other"] == "author")
    pairs = tables.pairs.assign(cosine_sd=np.where(wide, 5 * SD, SD))
    figure = drawn(show.pairs_by_layer(pairs, "cosine", "t", "label", spread="cosine_sd"))
    (own,) = [line for line in figure.axes[0].lines if np.isin(line.get_ydata(), pairs["cosine"][wide]).all()]
    for axes in figure.axes:
        most, other = (band.get_paths()[0].vertices[:, 1] for band in axes.collections)
        assert set(most) == {-2 * SD, 2 * SD} and set(other) == {-10 * SD, 10 * SD}
        assert tuple(axes.collections[1].get_facecolor()[0, :3]) == own.get_color()
    assert "chance of r = 64 · author" in legend_of(figure)
    for n in (1, 2):
        part = pairs[pairs["other"].isin(["r = 64", "author"][:n]) & (pairs["one"] == "r = 8")]
        figure = show.pairs_by_layer(part, "cosine", "t", "label", spread="cosine_sd")
        assert [len(axes.collections) for axes in figure.axes] == [1, 1]
        assert set(figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]) == {-2 * SD, 2 * SD}
    one = show.pairs_by_layer(pairs[pairs["layer"] == 1], "cosine", "t", "label", spread="cosine_sd").axes[0]
    assert sorted(patch.get_y() for patch in one.patches) == [-10 * SD, -2 * SD]


def test_of_many_pairs_those_furthest_from_chance_stand_out():
    pairs = synthetic(4, ("q",), tuple("abcde")).pairs
    figure = show.pairs_by_layer(pairs, "cosine", "t", "label")
    lines, of_pair = figure.axes[0].lines, pairs.groupby(["one", "other"])["cosine"]
    far = of_pair.agg(lambda cosines: cosines.abs().median()).nlargest(6).index
    strong = {tuple(line.get_ydata()) for line in lines if line.get_color() != "0.8"}
    assert strong == {tuple(of_pair.get_group(pair)) for pair in far} and len(lines) == 10
    assert set(legend_of(figure)) == {f"{one} · {other}" for one, other in far} | {"the other 4 pairs"}


def test_interference_is_over_chance_and_has_a_row_for_each_direction(tables):
    rows = tables.interference
    figure = show.interference_panels(rows, "t")
    order = list(permutations(LABELS, 2))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [f"{one} into {other}" for one, other in order]
    for axes, end in zip(figure.axes, ("output", "input"), strict=True):
        assert end in axes.get_xlabel() and axes.get_xscale() == "log"
        assert list(axes.lines[0].get_xdata()) == [1, 1]
        ratio, sure = rows[end] / rows[f"{end}_chance"], rows[f"{end}_p_holm"] < 0.05
        for hollow, wanted in ((False, ratio[sure]), (True, ratio[~sure])):
            found = dots(axes, hollow)
            np.testing.assert_allclose(np.sort(found[:, 0]), np.sort(wanted))
            own = rows.loc[wanted.index, ["one", "other"]].apply(tuple, axis=1).map(order.index)
            assert sorted(zip(found[:, 0], found[:, 1].round(), strict=True)) == sorted(zip(wanted, own, strict=True))
        medians = ratio.groupby([rows["one"], rows["other"]]).median()
        bars = [line.get_xdata()[0] for line in axes.lines if line.get_color() == "black"]
        assert bars == pytest.approx([medians[pair] for pair in order])
    few = show.interference_panels(rows, "t", n=2)
    both = [
        (rows[end] / rows[f"{end}_chance"]).groupby([rows["one"], rows["other"]]).median()
        for end in ("output", "input")
    ]
    most = np.maximum(*both).nlargest(2).index
    assert [text.get_text() for text in few.axes[0].get_yticklabels()] == [f"{one} into {other}" for one, other in most]
    assert "2 of 6, with the greatest medians" in legend_of(few)
    even = show.interference_panels(rows.assign(output=0.01, output_chance=0.01, input=0.0), "t").axes[0]
    assert even.get_xscale() == "linear" and even.get_xlim()[0] == 0


def test_every_module_has_a_verdict_in_the_bars():
    by_pair = pd.DataFrame({"one": ["a", "a_$b"], "other": ["b", "c"], "apart": [50, 0], "agree": [49, 100]})
    by_pair = by_pair.assign(share_a_place=[0, 0], against=[1, 0])
    figure = drawn(show.verdicts(by_pair, "t"))
    (axes,) = figure.axes
    widths = np.array([[bar.get_width() for bar in bars] for bars in axes.containers]).T
    np.testing.assert_array_equal(widths, by_pair[["apart", "agree", "share_a_place", "against"]])
    lefts = np.array([[bar.get_x() for bar in bars] for bars in axes.containers]).T
    np.testing.assert_array_equal(lefts, np.cumsum(widths, axis=1) - widths)
    looks = {(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in axes.containers}
    brightness = {sum(colour[:3]) for colour, hatch in looks if not hatch}
    assert len(looks) == 4 and len({hatch for _, hatch in looks if hatch}) == 2 and len(brightness) == 2
    assert {text.get_text() for text in axes.texts} == {"50", "49", "against 1", "100", ""}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a · b", r"a_\$b · c"]
    few = show.verdicts(by_pair.iloc[::-1], "t", n=1)
    assert [text.get_text() for text in few.axes[0].get_yticklabels()] == ["a · b"]
    assert "1 of 2 pairs: most of the last two" in legend_of(few)


def test_what_merges_answer_has_an_error_of_its_texts_where_these_are_counted():
    table = pd.DataFrame(
        [("a", "b", task, method, share, 0.9, 400) for task, share in (("x", 0.8), ("y", 0.5)) for method in "st"],
        columns=["one", "other", "task", "method", "accuracy", "alone", "texts"],
    )
    (axes,) = show.merge_accuracy(table, "").axes
    bars = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(bars, [[0.76, 0.84]] * 2 + [[0.45, 0.55]] * 2)
    (axes,) = show.merge_accuracy(table.drop(columns="texts"), "").axes
    assert not [line for line in axes.lines if len(line.get_xdata()) == 2]


def test_what_a_merge_keeps_stands_beside_what_independent_ones_would(tables):
    rows = tables.kept
    every_axes = np.reshape(show.kept(rows, "t").axes, (2, 3))
    assert [axes.get_title() for axes in every_axes[0]] == ["sum", "average", "TIES"]
    assert [text.get_text() for text in every_axes[0, 0].get_yticklabels()] == list(LABELS)
    for column, line in zip(("along", "off"), every_axes, strict=True):
        for axes, (method, independent) in zip(line, METHODS.items(), strict=True):
            own = rows[rows["method"] == method]
            found = dots(axes)
            wanted = sorted(zip(own["adapter"].map(LABELS.index), own[column], strict=True))
            assert sorted(zip(found[:, 1].round(), found[:, 0], strict=True)) == wanted
            medians = [line.get_xdata()[0] for line in axes.lines if line.get_color() == "black"]
            assert medians == list(own.groupby("adapter", sort=False)[column].median())
            ticks = [line.get_xdata()[0] for line in axes.lines if line.get_linewidth() == 6]
            assert ticks == pytest.approx([independent * (1 + (column == "off"))] * 3, nan_ok=True)
            low, high = axes.get_xlim()
            assert low < found[:, 0].min() and found[:, 0].max() < high
    assert every_axes[1, 0].get_xscale() == "log"


@pytest.mark.parametrize("one_module", [False, True])
def test_drift_is_relative_to_the_end_and_keeps_the_order_of_the_checkpoints(tables, one_module):
    drift = tables.drift
    if one_module:
        drift = drift[drift["module"] == drift["module"].iloc[0]]
    figure = drawn(show.drift(drift, "t"))
    order = ["step24", "step80", "end"]
    ends = drift[drift["checkpoint"] == "end"]["norm"].to_numpy()
    norms = pd.concat([drift[drift["checkpoint"] == name]["norm"] / ends for name in order])
    table = drift.assign(relative=norms).groupby("checkpoint")
    columns = ["cosine_end", "phi_left_end", "phi_right_end"], ["relative"], ["kept_a", "kept_a_chance"]
    for axes, lines in zip(figure.axes, columns, strict=True):
        assert [text.get_text() for text in axes.get_xticklabels()] == order
        for line, column in zip(axes.lines, lines, strict=True):
            np.testing.assert_allclose(line.get_ydata(), table[column].median()[order])
        shades = axes.collections
        assert len(shades) == (0 if one_module else len(set(lines) - {"kept_a_chance"}))
        for shade, column in zip(shades, lines, strict=False):
            corners = set(map(tuple, np.round(shade.get_paths()[0].vertices, 9)))
            assert {
                (n, round(each, 9)) for n, name in enumerate(order) for each in table[column].max()[[name]]
            } <= corners
    unknown = show.drift(drift.assign(kept_a=np.nan, kept_a_chance=np.nan), "t").axes[2]
    assert unknown.patch.get_hatch() and unknown.texts[0].get_text() == "not known"


ODD = ("$x_$y_adapter", "_adapter", LONG)


@pytest.mark.parametrize("labels", [ODD, tuple(f"_adapter_{n}" for n in range(13))])
def test_odd_names_one_layer_and_many_adapters_can_be_drawn(labels):
    """A name is no formula, and one that begins with an underscore has its place in a legend."""
    tables = synthetic(1, ("a_$b",), labels)
    unknown, title = tables.pairs.assign(cosine=np.nan), "$x_$y_adapter and $\\foo"
    figures = [
        show.agreement(tables.agreement * np.nan, title, 0.01),
        show.adapter_map(tables.map, 0.5, title),
        show.pairs_by_layer(tables.pairs, "cosine", title, "label", spread="cosine_sd", p="cosine_p_holm"),
        show.pairs_by_layer(unknown, "cosine", title, "label"),
        show.interference_panels(tables.interference.assign(output=np.nan), title),
        show.verdicts(tables.by_pair, title),
        show.kept(tables.kept.assign(off=np.nan), title),
        show.drift(tables.drift.assign(checkpoint=tables.drift["checkpoint"] + LONG), title),
    ]
    for figure in figures:
        assert figure.get_figwidth() <= 11
        assert figure.get_suptitle().replace("\n", " ") == title
        named = figure.findobj(lambda artist: isinstance(artist, Text) and "adapter" in artist.get_text())
        assert not any(text.get_parse_math() and is_math_text(text.get_text().split("\n")[0]) for text in named)
    for figure in figures if labels is ODD else figures[3:4]:
        drawn(figure)


def test_figures_of_no_study_are_its_reason(tables):
    nothing = Nothing("there are two adapters only")
    found = [
        show.agreement(nothing, "t"),
        show.agreement(tables.agreement, "t", nothing),
        show.adapter_map(nothing, nothing, "t"),
        show.pairs_by_layer(nothing, "cosine", "t", "label"),
        show.interference_panels(nothing, "t"),
        show.verdicts(nothing, "t"),
        show.kept(nothing, "t"),
        show.drift(nothing, "t"),
        explorers.adapters_together(nothing),
    ]
    assert all(each is nothing for each in found)


def numbers(line, pattern):
    return [float(each.replace("−", "-")) for each in re.search(pattern, line).groups()]


def test_the_line_of_a_card_reads_the_tables(tables):
    explorer = explorers.adapters_together(tables)
    most = tables.pairs.loc[tables.pairs["cosine"].abs().idxmax()]
    assert explorer.start == {**most[["layer", "projection"]], "pair": (most["one"], most["other"])}
    line = explorer.picture(layer=1, projection="q_proj", pair=("r = 8", "author"))[1]
    module = "model.layers.1.self_attn.q_proj"
    pairs = tables.pairs.set_index(["module", "one", "other"])
    row = pairs.loc[(module, "r = 8", "author")]
    assert line.startswith(f"{module}, r = 8 and author: {row['verdict']}. ")
    assert numbers(line, rf"Cosine {NUMBER}, chance 0 ± {NUMBER}") == pytest.approx([row["cosine"], SD], abs=6e-4)
    for side in ("left", "right"):
        told = numbers(line, rf"{side} {NUMBER} \(chance {NUMBER}\)")
        assert told == pytest.approx([row[f"phi_{side}"], 0.05], abs=6e-4)
    into = tables.interference.set_index(["module", "one", "other"])
    for one, other in (("r = 8", "author"), ("author", "r = 8")):
        row = into.loc[(module, one, other)]
        pattern = rf"of {one} in the k = {NUMBER} leading of {other}: output {NUMBER} \(chance {NUMBER}\), "
        found = numbers(line, rf"{pattern}input {NUMBER} \(chance {NUMBER}\)")
        assert found == pytest.approx([row["k"], *row[["output", "output_chance", "input", "input_chance"]]], abs=6e-4)
    kept = tables.kept.set_index(["module", "adapter", "method"])["along"].sort_index()
    for name in ("r = 8", "author"):
        found = numbers(line, rf"keeps of {name}: {NUMBER} \(sum\), {NUMBER} \(average\), {NUMBER} \(TIES\)")
        assert found == pytest.approx(list(kept[module, name][list(METHODS)]), abs=6e-3)


def test_a_card_draws_the_tables_and_is_that_of_a_new_one(tables):
    walker = explorers.adapters_together(tables)
    for place in [(2, "v_proj", ("r = 64", "author")), (0, "q_proj", ("r = 8", "r = 64"))]:
        at = dict(zip(("layer", "projection", "pair"), place, strict=True))
        picture, line = walker.picture(**at)
    fresh, same = explorers.adapters_together(tables).picture(**at)
    assert line == same
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(fresh))
    card, (layer, kind, pair) = walker._draw.__self__, place
    own = tables.pairs[(tables.pairs["one"] == pair[0]) & (tables.pairs["other"] == pair[1])]
    own = own[own["projection"] == kind].set_index("layer")
    np.testing.assert_array_equal(card.curve.get_ydata(), own["cosine"])
    np.testing.assert_array_equal(card.sure.get_xdata(), own.index[own["cosine_p_holm"] < 0.05])
    assert card.here.get_xdata() == [layer, layer]
    module = own["module"][layer]
    into = tables.interference.set_index(["module", "one", "other"])
    both = [into.loc[(module, *names)] for names in (pair, pair[::-1])]
    ratios = [row[end] / row[f"{end}_chance"] for row in both for end in ("output", "input")]
    np.testing.assert_allclose(card.share_dots.get_xdata(), ratios)
    sure = [
        ratio
        for ratio, row, end in zip(ratios, [both[0]] * 2 + [both[1]] * 2, ["output", "input"] * 2, strict=True)
        if row[f"{end}_p_holm"] < 0.05
    ]
    np.testing.assert_allclose(card.sure_shares.get_xdata(), sure)
    kept = tables.kept.set_index(["module", "adapter", "method"])
    wanted = [kept.loc[(module, name, method)] for name in pair for method in METHODS]
    np.testing.assert_array_equal(card.kept_dots.get_xdata(), [row["along"] for row in wanted])
    np.testing.assert_array_equal(card.expected.get_xdata(), [row["along_independent"] for row in wanted])
    assert [text.get_text() for text in card.headings][:2] == ["r = 8 into r = 64", "r = 64 into r = 8"]
    for axes, values in ((card.cosines, tables.pairs["cosine"]), (card.keeping, tables.kept["along"])):
        low, high = axes.get_ylim() if axes is card.cosines else axes.get_xlim()
        assert low < values.min() and values.max() < high


def test_where_there_is_no_card_its_place_says_why(tables):
    some = SimpleNamespace(**vars(tables))
    module = "model.layers.1.self_attn.q_proj"
    some.pairs = tables.pairs[~((tables.pairs["layer"] == 2) & (tables.pairs["projection"] == "v_proj"))].copy()
    some.pairs.loc[some.pairs["module"] == module, ["cosine", "why"]] = np.nan, "author is zero there"
    some.kept, some.interference = tables.kept[:0], tables.interference[:0]
    explorer, pair = explorers.adapters_together(some), ("r = 8", "author")
    with pytest.raises(BadParameter, match="layer 2 has no v_proj that both r = 8 and author change"):
        explorer.picture(layer=2, projection="v_proj", pair=pair)
    with pytest.raises(BadParameter, match=rf"{module}: author is zero there"):
        explorer.picture(layer=1, projection="q_proj", pair=pair)
    line = explorer.picture(layer=0, projection="q_proj", pair=pair)[1]
    assert "Cosine" in line and "A merge" not in line and "Share" not in line
    some.pairs = tables.pairs.assign(cosine=np.nan)
    assert explorers.adapters_together(some).reason == "no module could be measured"


def test_a_page_holds_all_layers_and_pairs_as_long_as_there_is_room(tables):
    small = explorers.adapters_together(synthetic(2, ("q_proj",), ("a", "b", "c")))
    frozen = Frozen(**small.frozen())
    assert [axis.words for axis in frozen.axes] == [["0", "1"], ["a · b", "a · c", "b · c"]]
    assert len(frozen.frames) == 6
    explorer = explorers.adapters_together(synthetic(30, labels=("a", "b", "c", "d")))
    held = [axis.held(explorer.start) for axis in explorer.axes]
    assert [len(each) for each in held[1:]] == [2, 6] and 4 <= len(held[0]) < 30 and {0, 29} <= set(held[0])
    size = max(map(len, frozen.frames)) + max(map(len, frozen.lines))
    assert size * np.prod([len(each) for each in held]) < BUDGET
    heads = explorers.adapters_together(synthetic(2, tuple(f"q[head {n}]" for n in range(16))))
    assert heads.axes[1].held(heads.start) == () and heads.axes[0].held(heads.start) == (0, 1)
    many = explorers.adapters_together(synthetic(2, ("q",), tuple("abcdefg")))
    assert many.axes[1].name == "pair" and many.axes[1].held(many.start) == ()
