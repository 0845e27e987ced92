"""Tables of the modules of updates, measures of whole ones from them, and a plane to lay them out in. Knows tables."""

import numpy as np
import pandas as pd
from scipy import optimize

PLACE = ["module", "layer", "projection"]
PHI = [f"phi_{side}{name}" for side in ("left", "right") for name in ("", "_chance", "_p", "_p_holm")]
SHARES = [f"{end}{name}" for end in ("output", "input") for name in ("", "_chance", "_p", "_p_holm")]
COLUMNS = {
    "pairs": [
        *(*PLACE, "one", "other", "why", "out", "in", "same_start", "cosine", "cosine_sd", "cosine_p", "cosine_p_holm"),
        *("norm_one", "norm_other", "j", *PHI, "phi_error", "angle_left", "angle_right"),
    ],
    "interference": [*PLACE, "one", "other", "same_start", "k", *SHARES, "both", "both_chance"],
    "kept": [*PLACE, "method", "adapter", "along", "cosine", "off", "along_independent", "off_independent", "norm"],
    "kept_of_pairs": [*PLACE, "one", "other", "method", "adapter", "along", "cosine", "off", "norm"],
    "drift": [
        *("checkpoint", *PLACE, "why", "out", "in", "norm", "norm_end", "j", "cosine_end"),
        *("phi_left_end", "phi_right_end", "kept_a", "kept_a_chance"),
    ],
}
TEXTS = {*PLACE, "one", "other", "why", "same_start", "method", "adapter", "checkpoint"}


def tabled(found):
    """{table of COLUMNS: DataFrame}, of {module: (layer, projection, {table: rows})}."""
    tables = {}
    for table, columns in COLUMNS.items():
        rows = [
            dict(zip(PLACE, (name, *place), strict=True)) | row
            for name, (*place, of) in found.items()
            for row in of[table]
        ]
        made = pd.DataFrame(rows, columns=columns)
        empty = [name for name in columns if name not in TEXTS and made[name].dtype == object]
        tables[table] = made.astype(dict.fromkeys(empty, float))
    return tables


def pooled_cosine(rows, cosine, one, other):
    """The cosine of whole updates, from those of their modules and the norms there."""
    sizes = rows[[one, other]].to_numpy(float)
    return float((rows[cosine].to_numpy(float) * sizes.prod(1)).sum() / np.linalg.norm(sizes, axis=0).prod())


def pooled_sd(rows):
    """Its standard deviation where the two have nothing to do with each other."""
    sizes = rows[["norm_one", "norm_other"]].to_numpy(float)
    return float(np.linalg.norm(rows["cosine_sd"] * sizes.prod(1)) / np.linalg.norm(sizes, axis=0).prod())


def pooled_kept(rows, names):
    """`merging.Kept` of whole updates, over the modules of which rows know it."""
    size = rows["norm"].where(rows["along"].notna()) ** 2
    parts = rows[names].assign(
        size=size, inner=rows["along"] * size, merged=(rows["along"] ** 2 + rows["off"] ** 2) * size
    )
    found = parts.groupby(names, sort=False).sum(min_count=1)
    along = found["inner"] / found["size"]
    off = np.sqrt(np.maximum(found["merged"] / found["size"] - along**2, 0))
    cosine = found["inner"] / np.sqrt(found["size"] * found["merged"])
    return pd.DataFrame({"along": along, "cosine": cosine, "off": off}).reset_index()


def noticed(p, size, least):
    """p-values, 1 where the size that they are about is below the least that counts."""
    return p.where(~(size < least), 1.0)


def scaled(cosines):
    """(DataFrame label → x, y, the greatest relative error of a distance there), of cosines [labels, labels].

    Least squares of the distances √(2 − 2 cos) of updates of one length (metric multidimensional scaling), from the
    places of classical scaling (Torgerson 1952).
    """
    centre = np.eye(len(cosines)) - 1 / len(cosines)
    values, vectors = np.linalg.eigh(centre @ cosines.to_numpy() @ centre)
    start = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))
    pairs = np.triu_indices(len(cosines), 1)
    wanted = np.sqrt(np.maximum(2 - 2 * cosines.to_numpy()[pairs], 0))

    def drawn(places):
        return np.linalg.norm(np.subtract(*(places.reshape(-1, 2)[each] for each in pairs)), axis=1)

    found = optimize.least_squares(lambda places: drawn(places) - wanted, start.ravel()).x
    places = found.reshape(-1, 2) - found.reshape(-1, 2).mean(0)
    places *= np.sign(places[np.abs(places).argmax(0), [0, 1]])  # the same place everywhere
    off = np.abs(drawn(found) - wanted) / np.where(wanted > 0, wanted, 1.0)
    return pd.DataFrame(places, index=cosines.index, columns=["x", "y"]), float(off.max())
