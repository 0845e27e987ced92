"""One toy explorer in all its forms: by a call, by widgets, in a page, and at rest."""

import base64
import io
import json
import types

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helpers.parameters import BadParameter
from helpers.show import explore
from helpers.show.explore import Axis, Cells, Explorer, Frozen

AXES = [
    Axis("height", (1, 2, 3, 4), "height", "how high", in_page=(1, 3)),
    Axis("kind", ("bar", "line"), "kind", kinds=True),
    Axis("width", (1, 2), "width", needs=("kind", "bar")),
    Axis(("low", "high"), (0, 1, 2, 3), "range"),
]
START = {"height": 2, "kind": "bar", "width": 1, "low": 0, "high": 3}


def toy(axes=AXES, start=START, make=None):
    """A bar or a line whose height and width are the values; there is no line of height 4."""
    figure = (make or Figure)(figsize=(2, 1), dpi=50)
    axes_of_figure = figure.add_axes((0, 0, 1, 1))
    (line,) = axes_of_figure.plot([], [], animated=True)
    other = figure.add_axes((0.5, 0, 0.5, 0.5), animated=True)
    bar = axes_of_figure.axhspan(0, 0, animated=True)
    calls = []

    def draw(height, kind, width, low, high):
        calls.append(height)
        if kind == "line" and height == 4:
            raise BadParameter("there is no line <of> height 4")
        axes_of_figure.set(xlim=(0, 4), ylim=(low, high + 2))
        line.set_data(*(([0, 4], [height] * 2) if kind == "line" else ([], [])))
        bar.set_height(height if kind == "bar" else 0)
        bar.set_width(width / 2 if kind == "bar" else 0)
        grids = [np.array([[height, -width / 3]]), np.array([[np.nan, 2.5e5], [1, 0]])]
        cells = Cells({"one": axes_of_figure, "two": other}, "at {}, {}", (1, 0), {"v": (grids, 2)})
        return figure, f"{kind} of {height} × {width}, {low} to {high}", cells

    explorer = Explorer("A <toy>", draw, axes, start)
    return explorer, calls


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_a_picture_is_that_of_a_figure_drawn_for_the_first_time():
    """The toy's range changes what is static, its height what is animated; a fresh figure knows no earlier state."""
    explorer, _ = toy()
    for changes in ({"height": 3}, {"high": 1}, {"kind": "line"}, {"height": 1, "low": 2}, {}):
        fresh, line = toy()[0].picture(**changes)
        picture, same = explorer.picture(**changes)
        assert line == same
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(fresh))
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 1


def test_an_axis_that_needs_another_rests_at_its_first_value():
    explorer, _ = toy()
    assert explorer.picture(kind="line", width=2)[1] == "line of 2 × 1, 0 to 3"
    assert explorer.picture(kind="bar", width=2)[1] == "bar of 2 × 2, 0 to 3"


def test_widgets_move_the_picture_and_the_line():
    explorer, _ = toy()
    live = explorer.live()
    assert {name: type(control).__name__ for name, control in live.controls.items()} == {
        "height": "SelectionSlider",
        "kind": "ToggleButtons",
        "width": "SelectionSlider",
        ("low", "high"): "SelectionRangeSlider",
    }
    assert live.controls["height"].tooltip == "how high"
    before = live.image.value
    live.controls["height"].value = 3
    live.controls["low", "high"].value = (1, 2)
    picture, line = toy()[0].picture(height=3, low=1, high=2)
    assert line in live.line.value
    np.testing.assert_array_equal(pixels(live.image.value), np.asarray(picture))
    assert live.image.value != before
    assert not live.controls["width"].disabled
    live.controls["width"].value = 2
    live.controls["kind"].value = "line"
    assert live.controls["width"].disabled
    assert "line of 3 × 1, 1 to 2" in live.line.value
    assert live.image.layout.width == "192px"


def test_where_there_is_nothing_to_show_the_line_says_why_and_the_picture_stays():
    live = toy()[0].live()
    live.controls["kind"].value = "line"
    before = live.image.value
    live.controls["height"].value = 4
    assert "there is no line &lt;of&gt; height 4" in live.line.value
    assert live.image.value == before
    live.controls["height"].value = 3
    assert live.image.value != before


def test_frames_are_those_of_the_figure_function():
    explorer, _ = toy(axes=[Axis("height", (1, 2, 3, 4), "height"), *AXES[1:]], start=START | {"kind": "line"})
    frozen = Frozen(**explorer.frozen())
    assert [axis.label for axis in frozen.axes] == ["height", "kind", "width"]
    assert [axis.start for axis in frozen.axes] == [1, 1, 0]
    assert frozen.positions[2] == frozen.positions[3] != frozen.positions[1]  # of a line the width has no say
    assert frozen.note == "More sliders in Jupyter: range."
    places = np.ndindex(*(len(axis.words) for axis in frozen.axes))
    for (height, kind, width), (frame, line, cells) in zip(places, frozen.positions, strict=True):
        changes = {"height": height + 1, "kind": ("bar", "line")[kind], "width": width + 1}
        if changes["height"] == 4 and changes["kind"] == "line":
            assert (frozen.frames[frame], frozen.lines[line]) == ("", "there is no line <of> height 4")
            assert frozen.cells[cells] is None
            continue
        picture, words = toy(start=START | {"kind": "line"})[0].picture(**changes)
        assert frozen.lines[line] == words
        (value,) = frozen.cells[cells].values
        third = {1: "-33", 2: "-67"}[1 if kind else changes["width"]]
        assert value.numbers == f"{100 * changes['height']} {third} nan 25000000 100 0"
        assert [panel.box for panel in frozen.cells[cells].panels] == [(0, 0, 1, 1), (0.5, 0.5, 0.5, 0.5)]
        np.testing.assert_array_equal(pixels(base64.b64decode(frozen.frames[frame])), np.asarray(picture))
    # eight bars, three lines of which the width has no say, nothing
    assert (len(frozen.frames), len(frozen.positions)) == (12, 16)


def test_a_page_holds_the_values_it_is_given_and_the_one_at_rest():
    frozen = toy()[0].frozen()
    assert frozen["axes"][0]["words"] == ["1", "2", "3"]
    assert frozen["axes"][0]["start"] == 1


def test_beyond_the_budget_numbers_go_first_then_the_last_axes_and_the_page_says_so(monkeypatch):
    explorer, calls = toy()
    whole = explorer.frozen()
    frames = sum(map(len, whole["frames"])) + len(explore._encoded(explorer.picture()[0])) * 4 // 3
    monkeypatch.setattr(explore, "BUDGET", frames + 1500)
    calls.clear()
    pictures = explorer.frozen()
    assert [axis["label"] for axis in pictures["axes"]] == ["height", "kind", "width"]
    assert pictures["frames"] == whole["frames"]
    assert pictures["cells"] == [None]
    assert pictures["note"].endswith(" MB: numbers of single cells.")
    assert len(calls) <= 13  # what was drawn with them is not drawn again
    monkeypatch.setattr(explore, "BUDGET", frames)
    less = explorer.frozen()
    assert [axis["label"] for axis in less["axes"]] == ["height", "kind"]
    assert less["note"].startswith("More sliders in Jupyter: range. Left out here to stay below ")
    assert less["note"].endswith(" MB: width, numbers of single cells.")
    assert len(json.dumps(less)) < explore.BUDGET + 1000  # of labels and the like
    monkeypatch.setattr(explore, "BUDGET", 10)
    none = Frozen(**explorer.frozen())
    assert none.axes == []
    assert len(none.positions) == 1


def test_an_axis_whose_need_is_not_in_the_page_goes_with_it(monkeypatch):
    kinds = Axis("kind", ("bar", "line"), "kind", kinds=True, in_page=())
    for at_rest, labels in (("bar", ["width"]), ("line", [])):
        explorer, _ = toy(axes=[kinds, AXES[2]], start=START | {"kind": at_rest})
        frozen = Frozen(**explorer.frozen())
        assert [axis.label for axis in frozen.axes] == labels
        assert len(frozen.positions) == 2 ** len(labels)


def shown(monkeypatch, explorer, **how):
    """What `show` displays."""
    outputs = []
    monkeypatch.setattr(explore, "display", lambda data, **kwargs: outputs.append((data, kwargs.get("metadata"))))
    for name, value in how.items():
        monkeypatch.setenv(name, value)
    explorer.show()
    return outputs


def test_at_rest_it_is_a_figure_with_its_numbers(monkeypatch):
    (data, metadata), (line, _) = shown(monkeypatch, toy()[0], **{explore.ASKED: ""})
    assert data.keys() == {"image/png", "text/plain"}
    np.testing.assert_array_equal(pixels(base64.b64decode(data["image/png"])), np.asarray(toy()[0].picture()[0]))
    assert metadata["image/png"] == {"alt": "A <toy>. bar of 2 × 1, 0 to 3", "width": 192}
    assert "bar of 2 × 1, 0 to 3" in line.data


def test_for_a_page_the_frames_come_with_it(monkeypatch):
    (data, _), (line, tag) = shown(monkeypatch, toy()[0], **{explore.ASKED: "1"})
    assert tag == {explore.LINE: True}  # by which a page knows it
    assert "bar of 2" in line.data
    assert data[explore.MIME] == toy()[0].frozen()


@pytest.mark.parametrize("who", ["a person", "voila", "papermill"])
def test_somebody_who_can_answer_gets_sliders(monkeypatch, who):
    """JupyterLab allows questions to the user, papermill does not; Voilà says who it is."""
    kernel = types.SimpleNamespace(get_parent=lambda channel: {"content": {"allow_stdin": who == "a person"}})
    monkeypatch.setattr(explore, "get_ipython", lambda: types.SimpleNamespace(kernel=kernel))
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13" if who == "voila" else "")
    outputs = shown(monkeypatch, toy()[0], **{explore.ASKED: "1"})
    data = outputs[0][0]
    live = "application/vnd.jupyter.widget-view+json" in data
    assert live == (who != "papermill")
    assert (explore.MIME in data) == (who == "papermill")
    assert len(outputs) == 1 + (who == "papermill")
    assert data["text/plain"].startswith("bar of 2")
    assert "image/png" in data  # for who opens the notebook later, without a kernel


def test_an_axis_of_one_value_is_no_control():
    explorer, _ = toy(axes=[AXES[0], Axis("kind", ("bar",), "kind"), *AXES[2:]])
    assert "kind" not in explorer.live().controls
    assert explorer.picture()[1] == "bar of 2 × 1, 0 to 3"


def test_a_fault_of_ours_is_not_shown_as_a_refusal():
    """An axis whose values the drawing does not know: no sentence for a reader, in a page or live."""
    axes, start = [Axis("kind", ("bar",), "kind")], {"kind": "bar"}
    faulty = Explorer("A fault", lambda kind: (_ for _ in ()).throw(ValueError("a fault")), axes, start)
    for ask in (faulty.frozen, faulty.live):
        with pytest.raises(ValueError, match="a fault"):
            ask()
