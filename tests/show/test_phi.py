import numpy as np
import pandas as pd
import pytest

from helpers import show
from helpers.show.phi import PhiRow
from helpers.subspaces import adapter_names
from helpers.values import Nothing


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_panels_share_one_scale_and_one_bar_and_count_downwards_in_data_units(rng):
    grids = {"one": rng.uniform(0.1, 0.3, (25, 4)), "two": rng.uniform(0.2, 0.9, (25, 64))}
    figure = show.similarity_panels(grids, "finding", np.array([0.05, 0.2]), first_i=14)
    one, two = panels(figure)
    assert len(figure.axes) == 3
    assert one.images[0].norm.vmin == two.images[0].norm.vmin == 0.05  # chance is on the scale
    assert one.images[0].norm.vmax == two.images[0].norm.vmax == grids["two"].max()
    assert one.get_ylim() == (38.5, 13.5)
    assert (two.get_xlim(), one.get_xlim()) == ((0.5, 64.5), (0.5, 4.5))
    assert list(one.get_xticks()) == [1, 2, 3, 4]
    assert list(two.get_xticks()) == [1, 16, 32, 48, 64]
    assert (one.get_yticks()[0], one.get_yticks()[-1]) == (14, 38)
    np.testing.assert_array_equal(one.images[0].get_array(), grids["one"])
    assert "chance" in [text.get_text() for text in figure.axes[-1].texts]
    assert figure.axes[-1].get_ylabel().startswith(r"$\phi$")


def test_ticks_of_the_published_figure(rng):
    figure = show.similarity_panels({"x": rng.uniform(size=(726, 4))}, "", 0.1, first_i=451)
    assert list(figure.axes[0].get_yticks()) == [451, 555, 658, 762, 865, 969, 1072, 1176]


def test_given_colour_limits_are_kept(rng):
    figure = show.similarity_panels({"x": rng.uniform(0, 1, (5, 5))}, "", 0.1, colours=(0.1, 0.2))
    assert panels(figure)[0].images[0].norm.vmin == 0.1
    assert panels(figure)[0].images[0].norm.vmax == 0.2


def test_triangle_holds_the_cells_with_j_up_to_i_and_no_others(rng):
    grid = rng.uniform(size=(3, 9))
    whole, zoom = show.full_and_triangle({"x.query": grid}, "A", ["r = 3", "r = 9"]).values()
    np.testing.assert_array_equal(whole, grid)
    for i in range(3):
        np.testing.assert_array_equal(zoom[i, : i + 1], grid[i, : i + 1])
        assert np.isnan(zoom[i, i + 1 :]).all()


def test_a_headline_has_the_grids_and_below_them_phi_less_chance(rng):
    grids = {"one": rng.uniform(0.1, 0.3, (5, 4)), "two": rng.uniform(0.2, 0.9, (5, 9))}
    curves = {"one": (np.arange(5.0), np.ones(5)), "random": (-np.arange(5.0), None)}
    figure = show.headline(grids, "t", 7, (0, 0), np.array([0.2, 0.25]), curves, (np.full(5, -1), np.full(5, 2)))
    one, two = [axes for axes in figure.axes if "trained" in axes.get_legend_handles_labels()[1]]
    np.testing.assert_array_equal(panels(figure)[1].images[0].get_array(), grids["two"])
    drawn = {line.get_label(): line for line in one.lines}
    np.testing.assert_array_equal(drawn["trained"].get_xydata(), np.c_[7:12, :5])
    np.testing.assert_array_equal(drawn["untrained"].get_ydata(), 1)
    assert "untrained" not in {line.get_label() for line in two.lines}
    low, high = one.collections[0].get_datalim(one.transData).intervaly
    assert (low, high) == (-1, 2)
    assert not figure.findobj(lambda artist: artist.get_animated())  # or they would be missing from a file
    figure.savefig("/dev/null", format="png")


@pytest.mark.parametrize("quantity", ["phi", "excess", "z"])
def test_a_row_changes_its_grids_scale_ring_and_chance(rng, quantity):
    row, grids = PhiRow(2), {"a": rng.uniform(-1, 1, (6, 3)), "b": rng.uniform(-1, 1, (6, 8))}
    row.show({"x": np.ones((2, 2)), "y": np.ones((2, 2))}, "before", 1, chance=0.5, cell=(1, 1))
    row.show(grids, "t", 5, (0.1, 0.4), np.array([0.15, 0.3]), quantity, (7, 5))
    for image, grid in zip(row.images, grids.values(), strict=True):
        np.testing.assert_array_equal(image.get_array(), grid)
        assert image.get_extent() == [0.5, grid.shape[1] + 0.5, 10.5, 4.5]
    most = max(abs(grid).max() for grid in grids.values())
    most = max(most, 4) if quantity == "z" else most
    ends = (0.1, 0.4) if quantity == "phi" else (-most, most)
    assert (row.norm.vmin, row.norm.vmax) == ends
    assert [list(ring.get_xdata()) for ring in row.rings[::2]] == [[], [5]]
    marked = list(row.mark.get_ydata())
    assert marked == ([0.15, 0.3] if quantity == "phi" else [])


@pytest.mark.parametrize(
    ("chance_range", "text"), [((0.02, 0.09), "chance: below"), ((0.3, 0.4), "chance: above"), ((0.05, 0.15), "chance")]
)
def test_chance_outside_the_scale_is_said_and_not_drawn(chance_range, text):
    grids = {"x": np.full((4, 3), 0.15)}
    figure = show.similarity_panels(grids, "", np.array(chance_range), colours=(0.1, 0.2))
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.texts] == [text]
    marks = [line for line in bar.lines if len(line.get_ydata()) == 2 and line.get_linewidth() == 3]
    assert bool(marks) is (text == "chance")
    for line in marks:
        assert 0.1 <= min(line.get_ydata()) < max(line.get_ydata()) <= 0.2


@pytest.mark.parametrize(
    ("p", "text"),
    [(1, "1.00"), (0.361, "0.36"), (0.0481, "0.048"), (0.001, "0.001"), (1.2e-5, "1·10⁻⁵"), (3.4e-7, "3·10⁻⁷"),
     (9.6e-5, "1·10⁻⁴"), (9.4e-5, "9·10⁻⁵"), (0, "less than 10⁻³⁰⁰")],
)  # fmt: skip
def test_probabilities_in_words(p, text):
    assert show.p_value(p) == text


def test_probabilities_beyond_double_precision():
    assert show.probability(-995.2) == "6·10⁻⁴³³"  # 10 to the −432.2


def test_what_is_not_known_is_a_dash():
    assert show.readings([0.5, np.nan], ["a", "b"]) == "0.50 (a), – (b)"
    assert show.p_value(np.nan) == "–"
    assert show.span([np.nan, np.nan]) == "–"


def test_titles_are_the_papers_notation():
    assert adapter_names([4, 64, 64]) == ["r = 4", "r = 64", "r = 64′"]
    titles = show.phi_titles("layer.5.query", "A", [4, 64, 64])
    assert titles[0] == r"$\phi(W_{q}, A_{r=4}, i, j)$"
    assert titles[2] == r"$\phi(W_{q}, A'_{r=64}, i, j)$"
    assert show.phi_titles("mlp.down_proj", "BA", [4])[0] == r"$\phi(W, \Delta W_{r=4}, i, j)$"
    heads = [
        show.phi_titles(f"h.0.{name}", "A", [4])[0] for name in ("c_attn[q, head 12]", "v_proj[head 0]", "up[gate]")
    ]
    assert heads == [
        rf"$\phi(W_{{{index}}}, A_{{r=4}}, i, j)$"
        for index in (*(rf"{part},\mathrm{{h}}{n}" for part, n in (("q", 12), ("v", 0))), "gate")
    ]
    titles += heads
    figure = show.similarity_panels(dict.fromkeys(titles, np.ones((2, 2))), "", 0.5)
    figure.savefig("/dev/null", format="png")  # mathtext must be able to set them


def test_region_view_keeps_order_and_numbers():
    rows = [
        ["top", 1, "r = 8", 0.5, 0.25],
        ["top", 1, "r = 4", 0.25, 0.1],
        ["bottom", 9, "r = 8", 1, 0.5],
        ["bottom", 9, "r = 4", 0, 0],
    ]
    view = show.region_view(pd.DataFrame(rows, columns=["region", "i", "panel", "phi", "chance"]))
    assert list(view.columns) == ["region", "i", "r = 8", "r = 4"]
    assert view.iloc[0].tolist() == ["top", 1, "0.500 (0.250)", "0.250 (0.100)"]
    assert view["region"].tolist() == ["top", "bottom"]


@pytest.mark.parametrize(("values", "text"), [([1, -2.04], "−2.0 to 1.0"), ([0.51, 0.5], "0.5"), ([3], "3.0")])
def test_span(values, text):
    assert show.span(values) == text


def test_layers_show_what_they_are_given():
    table = pd.DataFrame({"layer": [0, 1] * 2, "adapter": ["r = 4"] * 2 + ["r = 8"] * 2, "phi": [0.2, 0.3, 0.4, 0.1]})
    table["projection"], table["untrained"], table["elsewhere"] = "query", [0.1, np.nan, 0.2, 0.3], 0.15
    figure = show.layer_panels(table.assign(beyond=table["phi"] > 0.25), 0.25, (0.1, 0.35), "t")
    assert [axes.get_title() for axes in figure.axes] == ["r = 4", "r = 8"]
    for axes, name in zip(figure.axes, ("r = 4", "r = 8"), strict=True):
        part, drawn = table[table["adapter"] == name], {line.get_label(): line for line in axes.lines}
        np.testing.assert_array_equal(drawn["trained"].get_xydata(), part[["layer", "phi"]])
        np.testing.assert_array_equal(drawn["untrained"].get_ydata(orig=False), part["untrained"])
        np.testing.assert_array_equal(drawn["with the other layers' W"].get_ydata(), part["elsewhere"])
        ringed = part.loc[part["phi"] > 0.25, "phi"]
        np.testing.assert_array_equal(drawn["beyond chance (Holm)"].get_ydata(), ringed)
    view = show.layer_view(table.assign(p_holm=[0.5, 0.01, 1e-9, 1.0]))
    assert view.to_numpy().tolist() == [["query", 0, "0.50", "1·10⁻⁹"], ["query", 1, "0.010", "1.00"]]


def test_figures_of_nothing_are_that_nothing():
    nothing = Nothing("no base is given")
    for drawn in (
        show.similarity_panels({}, nothing, 0.1),
        show.headline({}, "t", 1, (0, 0), nothing, {}, ()),
        show.layer_panels(nothing, 0.1, nothing, "t"),
        show.full_and_triangle(nothing, "A", nothing),
        show.region_view(nothing),
        show.layer_view(nothing),
    ):
        assert drawn is nothing


def test_learning_curves_show_what_they_are_given():
    curves = {"r4": [{"step": 0, "accuracy": 0.5}, {"step": 9, "accuracy": 0.8}]}
    figure = show.learning_curves(curves, {"yardstick": 0.7}, texts=100)
    np.testing.assert_allclose(figure.axes[0].containers[0].lines[0].get_ydata(orig=False), [0.5, 0.8])


def test_figures_of_chance_show_what_they_are_given(rng):
    x, draws = np.linspace(0, 1, 50), rng.uniform(size=400)
    figure = show.law_panels(draws, (x, {"law": np.ones(50)}), draws, (x, {"limit": x}), "t")
    for axes in figure.axes:  # histograms are densities, on the scale of the law
        assert sum(bar.get_height() * bar.get_width() for bar in axes.patches) == pytest.approx(1)
    tail = pd.DataFrame({"phi": [0.4, 0.9], "sampled": [-0.4, -8], "standard error": 0.1, "counted": [-0.5, np.nan]})
    figure = show.tail_curves(x, {"law": -x, "normal": -2 * x}, tail, "t")
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_array_equal(drawn["law"].get_ydata(), -x)
    np.testing.assert_array_equal(drawn["counted draws"].get_ydata(), tail["counted"])
    (sampled,) = figure.axes[0].containers
    np.testing.assert_array_equal(sampled.lines[0].get_xydata(), tail[["phi", "sampled"]])
    figure = show.critical_curves(np.arange(1, 4), {"one": [3, 2, 1]}, [0, 1, 0], "t")
    assert [list(line.get_ydata()) for line in figure.axes[0].lines[1:]] == [[3, 2, 1], [0, 1, 0]]
    figure = show.p_value_curves({"a": {"half": np.array([0.1, 0.9])}, "b": {"x": draws}}, "t")
    curve = figure.axes[0].lines[1]
    assert max(y for x, y in zip(*curve.get_data(), strict=True) if x < 0.9) == 0.5
    figure = show.detection_curves([128, 384], {1: [3.0, 2.0], 4: [2.0, 1.5]}, "t")
    assert list(figure.axes[0].lines[1].get_ydata()) == [3.0, 2.0]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["128", "384"]


def test_what_rounding_may_do_is_said_for_rows_and_columns_apart():
    sure = show.rounding(np.full(3, 2e-5), 14, {"r = 4": np.array([1e-4, 3e-5]), "r = 8": np.array([2e-4])})
    assert sure == "Rounding, as stored and in computing, may move φ by 2·10⁻⁴ at most."
    some = show.rounding(np.array([0.01, 1.0, 0.02]), 14, {"r = 4": np.array([1.0, 0.5, 1e-6])}, coarse=True)
    assert "of the adapters as stored, and in computing, may move φ by 0.020 at most, but for" in some
    assert "**not determined**: φ at i = 15 of W (1 of 3); j = 1 … 2 of r = 4 (2 of 3), whose" in some
    none = show.rounding(np.zeros(1), 1, {"r = 4": np.ones(2), "r = 8": np.ones(1)})
    assert "leaves **not determined** φ at j = 1 … 2 of r = 4 (2 of 2); j = 1 of r = 8 (1 of 1)" in none
    assert "at most" not in none
