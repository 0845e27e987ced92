import numpy as np
import pytest

from helpers.digits import captions
from helpers.digits.captions import READINGS


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: f"{reading.reader}-{reading.digit}-{reading.name}")
def test_a_reading_sets_two_regions_apart_and_is_decided_by_them(reading):
    """Painted as the reader says it holds, painted the other way round it does not."""
    bright, dark = captions.masks(reading)
    assert bright.shape == captions.GRIDS[reading.reader]
    assert bright.any()
    assert dark.any()
    assert not (bright & dark).any()
    panel = np.full(bright.shape, 0.5)
    panel[bright], panel[dark] = 2, 1
    assert captions.contrast(reading, panel) == pytest.approx(2)
    assert captions.contrast(reading, 1 / panel) == pytest.approx(0.5)


def test_both_readers_speak_of_every_digit_and_contradictions_are_among_their_readings():
    for reader in captions.GRIDS:
        assert {reading.digit for reading in READINGS if reading.reader == reader} == set(range(10))
    names = {(reading.reader, reading.digit, reading.name) for reading in READINGS}
    assert len(names) == len(READINGS)
    for digit, pair in captions.CONTRADICTIONS.items():
        assert {(reader, digit, name) for reader, name in zip(captions.GRIDS, pair, strict=True)} <= names


def test_the_layouts_are_those_that_the_captions_name():
    """Panels down and across, and cells of each; the bar of either reader ends at 0.014."""
    named = captions.LAYOUTS[["panels_down", "panels_across", "rows", "columns"]].to_numpy().tolist()
    assert named == [[5, 2, 7, 6], [10, 2, 7, 7], [2, 5, 8, 8]]
    assert captions.GRIDS == {"first": (7, 6), "second": (7, 7)}
    assert (captions.BAR, captions.FIRST_TICK) == (0.014, 0.002)
    assert captions.LAYOUTS.loc["second", "bar_high"] == captions.BAR


def test_regions_are_where_the_words_say():
    """The published coordinates, by hand: the line x = 3, the corner quadrants, the central 3 × 3."""
    found = {(reading.reader, reading.digit, reading.name): captions.masks(reading) for reading in READINGS}
    bright, dark = found["first", 1, "line"]
    assert np.argwhere(bright)[:, 1].tolist() == [3] * 7
    bright, dark = found["second", 2, "quadrants"]
    assert bright[:3, :3].all()
    assert bright.sum() == 9
    assert dark[4:, 4:].all()
    assert dark.sum() == 9
    bright, dark = found["second", 0, "hollow"]
    assert dark[2:5, 2:5].all()
    assert dark.sum() == 9
    assert bright.sum() == 16
    assert not bright[0].any()
    bright, dark = found["first", 7, "top_bar"]
    assert bright[:2].all()
    assert bright.sum() == 12


def test_check_holds_fails_or_leaves_open(rng):
    """Maps that shine in the top two rows only, with noise between bootstrap samples."""
    means = {}
    for reader, (rows, columns) in captions.GRIDS.items():
        noise = 1 + 0.01 * rng.standard_normal((200, 10, rows, columns))
        means[reader] = noise * np.where(np.arange(rows) < 2, 5.0, 1.0)[:, None]
    table = captions.check(means).set_index(["reader", "digit", "name"])
    assert table.loc[("first", 7, "top_bar"), "holds"] is True
    assert table.loc[("first", 6, "bottom_loop"), "holds"] is False
    assert table.loc[("first", 3, "right"), "holds"] is None
    assert table.loc[("first", 7, "top_bar"), "ratio"] == pytest.approx(5, rel=0.02)
    assert table.loc[("first", 6, "bottom_loop"), "p_false"] == 1 / 200
    assert table.loc[("first", 7, "top_bar"), "p_false"] == 1
    pairs = captions.contradictions(captions.check(means))
    assert pairs[7][0].holds is True
    assert [row.reader for row in pairs[8]] == ["first", "second"]
