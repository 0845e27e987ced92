import numpy as np
import pandas as pd
import pytest

from helpers.published import captions
from helpers.published.captions import READINGS

LABELS, WRITERS = (part.ravel() for part in np.indices((10, 6)))  # an image of every digit by each of six writers


def painted(rng, panel):
    """Maps [60, 56, 56] that are a panel on the grid of its reader, but for every writer's hand and some noise."""
    cells = np.kron(panel, np.ones((8, 8)))
    spare = (56 - cells.shape[1]) // 2  # what `grids.crop` takes off
    maps = np.pad(cells, ((0, 0), (spare, spare))) * rng.uniform(0.99, 1.01, (60, 56, 56))
    return maps * rng.uniform(0.5, 2, 6)[WRITERS, None, None]


def table_of(maps, labels=LABELS, units=WRITERS):
    return captions.check(maps, labels, units).set_index(["reader", "digit", "name"])


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: f"{reading.reader}-{reading.digit}-{reading.name}")
def test_a_reading_sets_two_regions_apart_and_is_decided_by_them(reading, rng):
    """Painted as the reader says it holds, painted the other way round it does not."""
    bright, dark = captions.masks(reading)
    assert bright.shape == captions.GRIDS[reading.reader]
    assert bright.any()
    assert dark.any()
    assert not (bright & dark).any()
    panel = np.full(bright.shape, 0.5)
    panel[bright], panel[dark] = 2, 1
    for ratio, shown in {2: panel, 0.5: 1 / panel}.items():
        found = table_of(painted(rng, shown)).loc[tuple(reading[:3])]
        assert found["ratio"] == pytest.approx(ratio, rel=0.01)
        assert found["low"] < found["ratio"] < found["high"]
        assert found["holds"] is (ratio > 1)
        assert found["p_false"] > 0.999 if ratio > 1 else found["p_false"] < 0.001


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
    """Maps that shine in the top two rows only, and leave left and right to the writers."""
    panel = np.where(np.arange(7) < 2, 5.0, 1.0)[:, None] * np.ones(6)
    maps = painted(rng, panel)
    maps[:, :, 28:] *= np.array([0.5, 0.6, 0.8, 1.25, 1.7, 2])[WRITERS, None, None]
    table = table_of(maps)
    assert table.loc[("first", 7, "top_bar"), "holds"] is True
    assert table.loc[("first", 6, "bottom_loop"), "holds"] is False
    assert table.loc[("first", 3, "right"), "holds"] is None
    assert table.loc[("first", 7, "top_bar"), "ratio"] == pytest.approx(5, rel=0.01)
    against = captions.contradictions(table.reset_index()).set_index("digit").astype(object)
    assert list(against.index) == list(captions.CONTRADICTIONS)
    assert against.loc[7, "verdict"] is True
    says = {(row.reader, row.digit, row.name): row.says for row in READINGS}
    assert against.loc[8, "first caption"] == says["first", 8, "junction"]
    assert against.loc[8, "second caption"] == says["second", 8, "hollow"]


def test_more_images_of_the_same_hands_decide_nothing(rng):
    """Copies of every image leave the table as it is; taken for images of other writers they make it surer."""
    maps = rng.random((60, 8, 8)) ** 4
    once, copied = table_of(maps), table_of(maps.repeat(9, 0), LABELS.repeat(9), WRITERS.repeat(9))
    pd.testing.assert_frame_equal(once, copied)
    as_others = table_of(maps.repeat(9, 0), LABELS.repeat(9), np.arange(540))
    np.testing.assert_allclose(once["ratio"], as_others["ratio"])
    assert (as_others["high"] - as_others["low"] < 0.5 * (once["high"] - once["low"])).all()
    assert once["holds"].isna().sum() > as_others["holds"].isna().sum()


@pytest.mark.parametrize(
    ("holds", "p_false", "refuted", "decided"),
    [
        ([True, True, False], [1.0, 1.0, 0.01], True, True),
        ([True, True, False], [1.0, 1.0, 0.02], False, False),  # 3 × 0.02
        ([True, True, None], [1.0, 1.0, 0.3], False, False),
        ([True, True, True], [1.0, 1.0, 1.0], False, True),
    ],
)
def test_a_caption_is_refuted_borne_out_or_open(holds, p_false, refuted, decided):
    tested = pd.DataFrame({"reader": "first", "holds": pd.Series(holds, dtype=object), "p_false": p_false})
    row = captions.by_caption(tested).loc["first"]
    assert [row["holding"], row["failing"], row["open"]] == [holds.count(value) for value in (True, False, None)]
    assert row["p"] == pytest.approx(min(1, 3 * min(p_false)))
    assert (row["p"] < 0.05) == refuted
    assert (row["unless"] == "") == decided


def test_means_lie_on_the_grid_of_the_caption_and_sum_to_one(rng):
    maps, labels = rng.random((40, 8, 8)), np.arange(40) % 10
    assert captions.SIZES == {"first": "7 × 6", "second": "7 × 7", "third": "8 × 8"}
    for caption, cells in {"first": (7, 6), "second": (7, 7), "third": (8, 8)}.items():
        means = captions.joint_means(maps, labels, caption)
        assert means.shape == (10, *cells)
        assert means.sum() == pytest.approx(1)
    np.testing.assert_allclose(means * maps.mean() * 640, [maps[labels == n].mean(0) for n in range(10)])


def test_strokes_lie_where_they_were_painted():
    means = {reader: np.ones((10, *grid)) for reader, grid in captions.GRIDS.items()}
    for of_all in means.values():
        of_all[1, :, 3], of_all[4, 5] = 9, 9
    table = captions.strokes(means).set_index(["digit", "grid"])
    assert (table.loc[1, "brightest column x"] == 3).all()
    assert (table.loc[4, "brightest row y"] == 5).all()
