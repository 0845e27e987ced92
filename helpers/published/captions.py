"""What two published captions say of one picture of ten digit maps, as regions to compare; nobody has its numbers.

Both readers took their words from the same image. The first saw panels of 7 rows × 6 columns, the second of 7 × 7. The
readings lie in data/published, whose card says how they were taken.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.digits import faithful, grids
from helpers.paths import of_repository
from helpers.subspaces.nulls import holm

FILES = [of_repository(f"data/published/{name}.csv") for name in ("digit_captions", "digit_readings")]
LAYOUTS = pd.read_csv(FILES[0], index_col="caption")
_rows = pd.read_csv(FILES[1], dtype=str, keep_default_na=False).astype({"digit": int})
LAID = {name: (int(own["rows"]), int(own["columns"])) for name, own in LAYOUTS.iterrows()}  # cells of a panel
SIZES = {name: "{} × {}".format(*cells) for name, cells in LAID.items()}
GRIDS = {reader: LAID[reader] for reader in _rows["caption"].unique()}  # of those that go digit by digit
LEVEL = 0.05
BAR, FIRST_TICK = LAYOUTS.loc["first", ["bar_high", "first_tick"]]  # of the one colour bar


def colour_top(largest, asked=0.0):
    """Top of a colour bar: as asked, else as published if that is within a quarter of the largest value, else that."""
    return asked or (BAR if abs(largest / BAR - 1) <= 0.25 else largest)


class Reading(NamedTuple):
    """One thing that a reader says of the panel of a digit.

    says: the weakest form of it, which compares two regions: "black" is taken as dimmer, "brightest" and "peak" as
    brighter. bright, dark: those regions, each as the numbers of its rows and of its columns; what is in both is dark.
    """

    reader: str
    digit: int
    name: str
    says: str
    bright: tuple
    dark: tuple


READINGS = [Reading(*row[:4], row[4:6], row[6:8]) for row in _rows.itertuples(index=False, name=None)]
CONTRADICTIONS = {  # digit: (what the first says, what the second says); in their strong form they exclude each other
    row.digit: (row.name, row.contradicts) for row in _rows.itertuples() if row.contradicts
}


def masks(reading):
    """(bright, dark): which cells of the reader's grid are in either region, [rows, columns] each."""
    rows, columns = np.indices(GRIDS[reading.reader])
    bright, dark = (
        np.isin(rows, [int(n) for n in region[0]]) & np.isin(columns, [int(n) for n in region[1]])
        for region in (reading.bright, reading.dark)
    )
    return (bright & ~dark if bright.any() else ~dark), (dark if dark.any() else ~bright)


def joint_means(maps, labels, caption):
    """Mean map of every digit on the grid of a caption, [10, rows, columns]; together they sum to 1."""
    return grids.joint_normalise(grids.class_means(grids.on_grid(maps, *LAID[caption])[0], labels))


def check(maps, labels, units):
    """Every reading, held against maps [n, h, w] of images of digits (labels [n]); units [n]: their writers.

    Returns a DataFrame: reader, digit, name, says, ratio (mean of the bright region over that of the dark one), low and
    high (its 95 % interval over writers, `faithful.ratio_interval`), holds: True or False if the interval is above or
    below 1, None if it has 1 in it; and p_false: of the one-sided test that the ratio is below 1.
    """
    laid = {reader: grids.on_grid(maps, *grid)[0] for reader, grid in GRIDS.items()}
    rows = []
    for reading in READINGS:
        own = labels == reading.digit
        sides = [laid[reading.reader][own][:, mask].mean(1) for mask in masks(reading)]
        found = faithful.ratio_interval(*sides, units[own])
        holds = True if found.low > 1 else False if found.high < 1 else None
        rows.append([*reading[:4], *found[:3], holds, found.p_below])
    return pd.DataFrame(rows, columns=["reader", "digit", "name", "says", "ratio", "low", "high", "holds", "p_false"])


def by_caption(tested):
    """What becomes of each caption as a whole, from a table of `check`: a row a reader.

    holding, failing, open: numbers of readings. p: the least p_false by Holm, below which one is false. unless: why the
    caption is neither refuted nor borne out, or empty.
    """
    rows = {}
    for reader, own in tested.groupby("reader", sort=False):
        counts = [
            int(own["holds"].map(lambda holds, value=value: holds is value).sum()) for value in (True, False, None)
        ]
        p = holm(own["p_false"]).min()
        unsure = p >= LEVEL and counts[0] < len(own)
        rows[reader] = [*counts, p, f"none is refuted, and {len(own) - counts[0]} are not borne out" if unsure else ""]
    return pd.DataFrame.from_dict(rows, "index", columns=["holding", "failing", "open", "p", "unless"])


def contradictions(tested):
    """Where the readers contradict each other, a row a digit: what either says and whether it holds, from `check`."""
    rows = {(row.reader, row.digit, row.name): row for row in tested.itertuples(index=False)}
    found = []
    for digit, names in CONTRADICTIONS.items():
        one, other = (rows[reader, digit, name] for reader, name in zip(GRIDS, names, strict=True))
        found.append([digit, one.says, one.holds, other.says, other.holds])
    return pd.DataFrame(found, columns=["digit", "first caption", "verdict", "second caption", "its verdict"])


def strokes(means, digits=(1, 4, 7)):
    """The brightest column and row of the digits whose strokes the captions give by number, on either grid.

    means: {reader: class means [10, 7, _] on that reader's grid}.
    """
    rows = [
        [digit, SIZES[reader], int(of_all[digit].sum(0).argmax()), int(of_all[digit].sum(1).argmax())]
        for digit in digits
        for reader, of_all in means.items()
    ]
    return pd.DataFrame(rows, columns=["digit", "grid", "brightest column x", "brightest row y"])
