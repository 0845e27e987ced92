"""What is published about GPT-3's φ (Hu et al. 2021), and a synthetic stand-in to draw its figure 8 from.

The numbers lie in data/published, whose card says where each is from. GPT-3's weights are not public. φ(W, A, i, j)
depends on where A's directions lie among those of W and on nothing else of W, so the stand-in works in the basis of
W's own singular directions and decomposes nothing.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float64

from helpers.paths import of_repository
from helpers.subspaces import chance, similarity
from helpers.values import passing

NAMES = ("lora_numbers", "lora_table_7", "figure_8_axes", "figure_8_readings")
FILES = [of_repository(f"data/published/{name}.csv") for name in NAMES]
NUMBERS, _norms, _axes, REGIONS = map(pd.read_csv, FILES)  # REGIONS: what one reader took from the colours of figure 8
NUMBERS = NUMBERS.set_index("name")["value"]
D, FROBENIUS_NORM = int(NUMBERS["d"]), NUMBERS["weight_norm"]  # of W_q in layer 48
TOP_TENTH = round(NUMBERS["top_share"] * D)  # where φ "barely exceeds 0.2" for the top 4 of A (appendix H.3)
TABLE_7 = {int(r): tuple(norms) for r, *norms in _norms.to_numpy()}
"""Section 7.3: r: (‖ΔW‖, ‖UᵀWV‖ with the directions of ΔW, of W, of random matrices)."""
TICKS, _bar = ([*own["tick"]] for _, own in _axes.groupby("axis"))
TICKS = [int(tick) for tick in TICKS]  # of i in figure 8; where its rows end is not known
COLOURS = _bar[0], _bar[-1]  # ends of its colour bar
READING_ERROR = 0.005  # taken for what a reading by eye may be off by
READINGS = {  # r: {i: φ}; the random panel was black
    int(r): dict(zip(own["i"], own["phi"], strict=True))
    for r, own in REGIONS.groupby("panel", sort=False)
    if r != "random"
}
PLANTED = READINGS | {64: {**READINGS[64], 1176: 0.204}}


def singular_values() -> Float64[np.ndarray, f"{D}"]:
    """Singular values of the stand-in for W_q: σ_k ∝ (k + 0.856)^−0.4755, scaled to its Frobenius norm.

    Fitted to the column "W_q" of Table 7: the roots of their first 4 and 64 squares are 21.67 and 37.71.
    """
    shape = (np.arange(1, D + 1) + 0.856) ** -0.4755
    return FROBENIUS_NORM * shape / np.linalg.norm(shape)


@passing
def beside(ours: pd.DataFrame) -> pd.DataFrame:
    """Rows of `similarity.Amplification`, and below them GPT-3's of Table 7; its factors are of its rounded norms."""
    rows = {
        f"GPT-3, r = {r}": [r, FROBENIUS_NORM, delta, by_delta, by_weight, random, delta / by_delta, delta / random]
        for r, (delta, by_delta, by_weight, random) in TABLE_7.items()
    }
    columns = similarity.Amplification._fields
    theirs = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return pd.concat([ours[[*columns]], theirs]).rename_axis("adapter")


def stand_in(rng: np.random.Generator) -> dict[int, Float64[np.ndarray, f"{D} r"]]:
    """By r: synthetic directions of A in the basis of W's singular directions, planted at the readings.

    φ at the three i of READINGS is what was read there (0.204 where it was "> 0.200") for every
    j and any seed; in between it rises evenly.
    """
    return {r: chance.planted_directions(D, shares, r, rng) for r, shares in PLANTED.items()}


def norms() -> pd.DataFrame:
    """Table 7's ‖UᵀWV‖ with W's own directions and with random ones, of the stand-in and as published: a row an r."""
    values, columns = singular_values(), ["W_q, stand-in", "W_q, published", "random, stand-in", "random, published"]
    rows = {
        r: (np.linalg.norm(values[:r]), of_weight, r * FROBENIUS_NORM / D, random)
        for r, (*_, of_weight, random) in TABLE_7.items()
    }
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("r")


def regions(grids: dict) -> pd.DataFrame:
    """φ of four panels, averaged over j, beside what the reader took from the colours, and chance.

    grids: {"r = 4", …, "random": φ [rows, columns]}, rows from i = 1. Returns REGIONS with φ as `read`, and phi,
    chance and off by: how far phi is from the reading, or beyond it where that is a limit.
    """
    table = REGIONS.rename(columns={"phi": "read"})
    table["panel"] = [name if name in grids else f"r = {name}" for name in table["panel"]]
    table["phi"] = [grids[row.panel][row.i - 1].mean() for row in table.itertuples()]
    table["chance"] = chance.mean(table["i"], 1, D)
    beyond = table["phi"] - table["read"]
    limits = [table["limit"] == "at most", table["limit"] == "at least"]
    table["off by"] = np.select(limits, [beyond.clip(lower=0), -beyond.clip(upper=0)], beyond.abs())
    return table


def along_ticks(grids: dict, j: int) -> pd.DataFrame:
    """φ and chance at column j along the ticks, and z of all panels but the last. grids: as in `regions`."""
    ticks = np.array(TICKS)
    table = pd.DataFrame({"i": ticks, "chance": chance.mean(ticks, j, D)})
    table = table.assign(**{name: grid[ticks - 1, j - 1] for name, grid in grids.items()})
    return table.assign(**{f"z ({name})": chance.z_score(table[name], ticks, j, D) for name in [*grids][:-1]})


def chance_band(j: int) -> pd.DataFrame:
    """Chance at column j along the ticks: i, mean, and the ends, low and high, of what holds 99 % of it."""
    ticks = np.array(TICKS)
    low, high = (chance.critical_phi(p, ticks, j, D) for p in (0.995, 0.005))
    return pd.DataFrame({"i": ticks, "mean": chance.mean(ticks, j, D), "low": low, "high": high})


def certain(j: int) -> pd.DataFrame:
    """The readings between the ends of the bar, and p of chance at column j if they were too high by READING_ERROR."""
    table = REGIONS[REGIONS["limit"].isna()]
    return table.assign(p=chance.tail_probability(table["phi"] - READING_ERROR, table["i"], j, D))


def rises(j: int) -> pd.DataFrame:
    """How much φ as read rises from the first tick to the last, a row an r, beside chance.

    p: of chance at column j, with both readings off by READING_ERROR against the rise.
    """
    first, last = TICKS[0], TICKS[-1]
    rise = np.array([read[last] - read[first] for read in READINGS.values()])
    worst = chance.rise_as_phi(np.maximum(rise - 2 * READING_ERROR, 0), first, last, j)
    p = chance.tail_probability(worst, last - first, j, D)
    return pd.DataFrame({"r": [*READINGS], "rise as read": rise, "chance": (last - first) / D, "p": p})
