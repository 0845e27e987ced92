"""What two published captions say of one picture of ten digit maps, as regions to compare; nobody has its numbers.

Both readers took their words from the same image. The first saw panels of 7 rows × 6 columns, the second of 7 × 7. The
readings lie in data/published, whose card says how they were taken.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.paths import resolve

FILES = [resolve(f"data/published/{name}.csv") for name in ("digit_captions", "digit_readings")]
LAYOUTS = pd.read_csv(FILES[0], index_col="caption")
_rows = pd.read_csv(FILES[1], dtype=str, keep_default_na=False).astype({"digit": int})
GRIDS = {reader: tuple(LAYOUTS.loc[reader, ["rows", "columns"]].astype(int)) for reader in _rows["caption"].unique()}
BAR, FIRST_TICK = LAYOUTS.loc["first", ["bar_high", "first_tick"]]  # of the one colour bar


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
    after it. Returns a DataFrame: reader, digit, name, says, ratio (`contrast`), low and high (its 95 % interval),
    holds: True or False if the interval is above or below 1, None if it has 1 in it; and p_false: the share of samples
    that do not speak against the reading, one more counted on either side.
    """
    rows = []
    for reading in READINGS:
        ratios = contrast(reading, means[reading.reader][:, reading.digit])
        low, high = np.quantile(ratios[1:], [0.025, 0.975])
        holds = True if low > 1 else False if high < 1 else None
        p_false = (1 + (ratios[1:] >= 1).sum()) / len(ratios)
        rows.append([*reading[:4], ratios[0], low, high, holds, p_false])
    return pd.DataFrame(rows, columns=["reader", "digit", "name", "says", "ratio", "low", "high", "holds", "p_false"])


def contradictions(tested):
    """Where the readers contradict each other, as pairs of rows of a table from `check`: {digit: (first, second)}."""
    rows = {(row.reader, row.digit, row.name): row for row in tested.itertuples(index=False)}
    return {
        digit: tuple(rows[reader, digit, name] for reader, name in zip(GRIDS, names, strict=True))
        for digit, names in CONTRADICTIONS.items()
    }
