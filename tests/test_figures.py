import numpy as np
import pandas as pd
import pytest

from helpers import chance, figures


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_panels_share_one_scale_and_one_bar_and_count_downwards_in_data_units(rng):
    grids = {"one": rng.uniform(0.1, 0.3, (25, 4)), "two": rng.uniform(0.2, 0.9, (25, 64))}
    figure = figures.similarity_panels(grids, "finding", first_i=14, chance=np.array([0.05, 0.2]))
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
    figure = figures.similarity_panels({"x": rng.uniform(size=(726, 4))}, "", first_i=451)
    assert list(figure.axes[0].get_yticks()) == [451, 555, 658, 762, 865, 969, 1072, 1176]


def test_given_colour_limits_are_kept_and_clipping_is_shown(rng):
    figure = figures.similarity_panels({"x": rng.uniform(0, 1, (5, 5))}, "", colour_limits=(0.1, 0.2))
    assert panels(figure)[0].images[0].norm.vmin == 0.1
    assert panels(figure)[0].images[0].norm.vmax == 0.2
    assert panels(figure)[0].images[0].colorbar.extend == "both"


def test_triangle_holds_the_cells_with_j_up_to_i_and_no_others(rng):
    grid = rng.uniform(size=(3, 9))
    whole, zoom = figures.full_and_triangle({"x.query": grid}, "A", "r = 3", "r = 9").values()
    np.testing.assert_array_equal(whole, grid)
    for i in range(3):
        np.testing.assert_array_equal(zoom[i, : i + 1], grid[i, : i + 1])
        assert np.isnan(zoom[i, i + 1 :]).all()


def test_titles_are_the_papers_notation():
    assert figures.adapter_names([4, 64, 64]) == ["r = 4", "r = 64", "r = 64′"]
    titles = figures.phi_titles("layer.5.query", "A", [4, 64, 64])
    assert titles[0] == r"$\phi(W_q, A_{r=4}, i, j)$"
    assert titles[2] == r"$\phi(W_q, A'_{r=64}, i, j)$"
    assert figures.phi_titles("mlp.down_proj", "BA", [4])[0] == r"$\phi(W, \Delta W_{r=4}, i, j)$"
    figure = figures.similarity_panels(dict.fromkeys(titles, np.ones((2, 2))), "")
    figure.savefig("/dev/null", format="png")  # mathtext must be able to set them


def test_region_view_keeps_order_and_numbers():
    rows = [
        ["top", 1, "r = 8", 0.5, 0.25],
        ["top", 1, "r = 4", 0.25, 0.1],
        ["bottom", 9, "r = 8", 1, 0.5],
        ["bottom", 9, "r = 4", 0, 0],
    ]
    view = figures.region_view(pd.DataFrame(rows, columns=["region", "i", "panel", "phi", "chance"]))
    assert list(view.columns) == ["region", "i", "r = 8", "r = 4"]
    assert view.iloc[0].tolist() == ["top", 1, "0.500 (0.250)", "0.250 (0.100)"]
    assert view["region"].tolist() == ["top", "bottom"]


@pytest.mark.parametrize(("values", "text"), [([1, -2.04], "−2.0 to 1.0"), ([0.51, 0.5], "0.5"), ([3], "3.0")])
def test_span(values, text):
    assert figures.span(values) == text


def test_curves_and_layers_show_what_they_are_given():
    i = np.arange(5, 9)
    figure = figures.excess_curves(i, {"r = 4": (i / 10, None), "r = 8": (i / 10, i / 20)}, np.full(4, 0.01), "t")
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "-", "-", "--"]
    table = pd.DataFrame({"layer": [0, 1], "adapter": "r = 4", "phi": [0.2, 0.3], "untrained": [0.1, np.nan]})
    figure = figures.layer_panels({"query": (table, chance.mean(5, 2, 20), 0.05)}, "t")
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata())]
    np.testing.assert_array_equal(drawn[0].get_ydata(), [0.2, 0.3])
    np.testing.assert_array_equal(drawn[1].get_ydata(orig=False), [0.1, np.nan])
    figure = figures.learning_curves({"r4": [(0, 0.5), (9, 0.8)]}, baseline=0.7, sentences=100)
    np.testing.assert_allclose(figure.axes[0].containers[0].lines[0].get_ydata(orig=False), [0.5, 0.8])
