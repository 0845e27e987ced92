"""What two published captions say of one picture of ten digit maps, as regions to compare; nobody has its numbers.

Both readers took their words from the same image. The first saw panels of 7 rows × 6 columns, the second of 7 × 7.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

GRIDS = {"first": (7, 6), "second": (7, 7)}  # rows, columns
BAR = 0.014  # the top of the one colour bar
FIRST_TICK = 0.002  # its lowest tick above 0
ALL = "0123456"
REST = ("", "")  # the cells outside the other region
RING = ("12345", "12345")  # around the central 3 × 3, which is taken out


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


READINGS = (
    Reading("first", 0, "hollow", "the sides are brighter than the centre", ("234", "14"), ("234", "23")),
    Reading("first", 0, "base", "the bottom curve is brighter than the top", ("56", ALL), ("01", ALL)),
    Reading("first", 1, "line", "column x = 3 is brighter than its two neighbours on average", (ALL, "3"), (ALL, "24")),
    Reading("first", 1, "faint_ends", "the line is fainter at its ends", ("12345", "3"), ("06", "3")),
    Reading("first", 2, "curve_and_base", "top curve and base are brighter than the rest", ("0156", ALL), REST),
    Reading("first", 3, "right", "the right half is brighter than the left", (ALL, "345"), (ALL, "012")),
    Reading(
        "first", 3, "junction", "the middle junction is brighter than the rows beside it", ("3", "23"), ("24", "23")
    ),
    Reading("first", 4, "crossing", "the crossing of the strokes is brighter than the rest", ("34", "34"), REST),
    Reading("first", 5, "top_bar", "the top bar is brighter than the rest", ("01", ALL), REST),
    Reading("first", 6, "bottom_loop", "the bottom loop is brighter than the top", ("456", ALL), ("012", ALL)),
    Reading("first", 7, "top_bar", "the top bar is brighter than the rest", ("01", ALL), REST),
    Reading("first", 8, "junction", "the central junction is brighter than the rest", ("3", "23"), REST),
    Reading("first", 9, "top_loop", "the top loop is brighter than the bottom", ("012", ALL), ("456", ALL)),
    Reading("second", 0, "hollow", "the perimeter is brighter than the central 3 × 3", RING, ("234", "234")),
    Reading(
        "second", 1, "line", "column x = 3 is brighter than its two neighbours on average", (ALL, "3"), (ALL, "24")
    ),
    Reading("second", 1, "faint_ends", "the line is fainter at its ends", ("12345", "3"), ("06", "3")),
    Reading("second", 2, "quadrants", "top left is brighter than bottom right", ("012", "012"), ("456", "456")),
    Reading("second", 2, "hollow", "the centre is dimmer than what is around it", RING, ("234", "234")),
    Reading("second", 3, "halves", "the upper half is brighter than the lower", ("012", ALL), ("456", ALL)),
    Reading("second", 3, "black_row", "the middle row is dimmer than the rest", REST, ("3", ALL)),
    Reading("second", 4, "column", "column x = 2 is brighter than row y = 4", (ALL, "2"), ("4", "013456")),
    Reading("second", 5, "quadrants", "top right is brighter than bottom left", ("012", "456"), ("456", "012")),
    Reading("second", 5, "hollow", "the centre is dimmer than what is around it", RING, ("234", "234")),
    Reading("second", 6, "quadrants", "bottom left is brighter than top right", ("456", "012"), ("012", "456")),
    Reading("second", 6, "hollow", "the centre is dimmer than what is around it", RING, ("234", "234")),
    Reading("second", 7, "column", "column x = 1 is brighter than the rest", (ALL, "1"), REST),
    Reading("second", 8, "hollow", "the perimeter is brighter than the central 3 × 3", RING, ("234", "234")),
    Reading("second", 9, "halves", "the upper half is brighter than the lower", ("012", ALL), ("456", ALL)),
    Reading("second", 9, "black_row", "the middle row is dimmer than the rest", REST, ("3", ALL)),
)
CONTRADICTIONS = {  # digit: (what the first says, what the second says); in their strong form they exclude each other
    2: ("curve_and_base", "quadrants"),
    3: ("junction", "black_row"),
    5: ("top_bar", "quadrants"),
    7: ("top_bar", "column"),
    8: ("junction", "hollow"),
}


def masks(reading):
    """(bright, dark): which cells of the reader's grid are in either region, [rows, columns] each."""
    rows, columns = np.indices(GRIDS[reading.reader])
    bright, dark = (
        np.isin(rows, [int(n) for n in region[0]]) & np.isin(columns, [int(n) for n in region[1]])
        for region in (reading.bright, reading.dark)
    )
    return (bright & ~dark if bright.any() else ~dark), (dark if dark.any() else ~bright)


def contrast(reading, maps):
    """Mean of the bright region over the mean of the dark one, for maps of that digit on the reader's grid [..., 7, _].

    Infinite where the dark region is exactly 0, NaN where both are.
    """
    bright, dark = (maps[..., mask].mean(-1) for mask in masks(reading))
    with np.errstate(divide="ignore", invalid="ignore"):
        return bright / dark


def check(means):
    """Every reading, held against the maps.

    means: {reader: class means on that reader's grid, [1 + draws, 10, 7, _]}, the estimate first, bootstrap samples
    after it. Returns a DataFrame: reader, digit, name, says, ratio (`contrast`), low and high (its 95 % interval), and
    holds: True or False if the interval is above or below 1, None if it has 1 in it.
    """
    rows = []
    for reading in READINGS:
        ratios = contrast(reading, means[reading.reader][:, reading.digit])
        low, high = np.quantile(ratios[1:], [0.025, 0.975])
        holds = True if low > 1 else False if high < 1 else None
        rows.append([*reading[:4], ratios[0], low, high, holds])
    return pd.DataFrame(rows, columns=["reader", "digit", "name", "says", "ratio", "low", "high", "holds"])


def contradictions(tested):
    """Where the readers contradict each other, as pairs of rows of a table from `check`: {digit: (first, second)}."""
    rows = {(row.reader, row.digit, row.name): row for row in tested.itertuples(index=False)}
    return {
        digit: tuple(rows[reader, digit, name] for reader, name in zip(GRIDS, names, strict=True))
        for digit, names in CONTRADICTIONS.items()
    }
