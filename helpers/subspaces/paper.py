"""What is published about GPT-3's φ (Hu et al. 2021), and a synthetic stand-in to draw its figure 8 from.

The numbers lie in data/published, whose card says where each is from. GPT-3's weights are not public. φ(W, A, i, j)
depends on where A's directions lie among those of W and on nothing else of W, so the stand-in works in the basis of
W's own singular directions and decomposes nothing.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float64

from helpers.paths import resolve
from helpers.subspaces import chance, similarity

NAMES = ("lora_numbers", "lora_table_7", "figure_8_axes", "figure_8_readings")
FILES = [resolve(f"data/published/{name}.csv") for name in NAMES]
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


def amplification() -> pd.DataFrame:
    """Table 7 of GPT-3 in the fields of `similarity.Amplification`; the factors are quotients of its rounded norms."""
    rows = {
        f"GPT-3, r = {r}": [r, FROBENIUS_NORM, delta, by_delta, by_weight, random, delta / by_delta, delta / random]
        for r, (delta, by_delta, by_weight, random) in TABLE_7.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=similarity.Amplification._fields)


def stand_in(rng: np.random.Generator) -> dict[int, Float64[np.ndarray, f"{D} r"]]:
    """By r: synthetic directions of A in the basis of W's singular directions, planted at the readings.

    φ at the three i of READINGS is what was read there (0.204 where it was "> 0.200") for every
    j and any seed; in between it rises evenly.
    """
    return {r: chance.planted_directions(D, shares, r, rng) for r, shares in PLANTED.items()}
