"""What is published about GPT-3's φ (Hu et al. 2021), as numbers, and a synthetic stand-in to draw its figure 8 from.

GPT-3's weights are not public. φ(W, A, i, j) depends on where A's directions lie among those of W and on nothing else
of W, so the stand-in works in the basis of W's own singular directions and decomposes nothing.
"""

import numpy as np
from jaxtyping import Float64

from helpers.subspaces import chance

D = 12288
FROBENIUS_NORM = 61.95  # of W_q in layer 48
TABLE_7 = {  # section 7.3: r: (‖ΔW‖, ‖UᵀWV‖ with the directions of ΔW, of W, of random matrices)
    4: (6.91, 0.32, 21.67, 0.02),
    64: (3.57, 1.90, 37.71, 0.33),
}
TICKS = (451, 555, 658, 762, 865, 969, 1072, 1176)  # of i in figure 8; where its rows end is not known
TOP_TENTH = 1229  # i of the "top-10%" of directions, at which φ "barely exceeds 0.2" for the top 4 of A (appendix H.3)
COLOURS = (0.1, 0.2)  # ends of its colour bar
READING_ERROR = 0.005  # taken for what a reading by eye may be off by
READINGS = {  # r: {i: φ} that one reader took from the colours; 0.100, black, means at most, the last was "> 0.200"
    4: {451: 0.100, 865: 0.140, 1176: 0.175},
    8: {451: 0.100, 865: 0.155, 1176: 0.190},
    64: {451: 0.115, 865: 0.170, 1176: 0.200},
}
PLANTED = READINGS | {64: {**READINGS[64], 1176: 0.204}}


def singular_values() -> Float64[np.ndarray, f"{D}"]:
    """Singular values of the stand-in for W_q: σ_k ∝ (k + 0.856)^−0.4755, scaled to its Frobenius norm.

    Fitted to the column "W_q" of Table 7: the roots of their first 4 and 64 squares are 21.67 and 37.71.
    """
    shape = (np.arange(1, D + 1) + 0.856) ** -0.4755
    return FROBENIUS_NORM * shape / np.linalg.norm(shape)


def stand_in(rng: np.random.Generator) -> dict[int, Float64[np.ndarray, f"{D} r"]]:
    """By r: synthetic directions of A in the basis of W's singular directions, planted at the readings.

    φ at the three i of READINGS is what was read there (0.204 where it was "> 0.200") for every
    j and any seed; in between it rises evenly.
    """
    return {r: chance.planted_directions(D, shares, r, rng) for r, shares in PLANTED.items()}
