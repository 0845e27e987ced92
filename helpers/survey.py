"""φ at one (i, j) over the layers of a model: weights and adapters from disk → one table."""

import sys

import numpy as np
import pandas as pd
from tqdm import tqdm

from helpers import chance, modules, subspace

COLUMNS = ["projection", "layer", "adapter", "phi", "untrained", "z", "untrained_z"]


def every_layer(model, adapters, projections, i, j, d, factor="A", side="right"):
    """φ(W, adapter, i, j) in every layer that has one of the projections, trained and untrained, against chance.

    model: `checkpoints.Base`. adapters: {name: `checkpoints.Adapter`}. projections: module names; each stands for its
    counterparts in all layers. d: dimension that the directions must have. factor, side: as in
    `subspace.factor_directions`; φ of the untrained A is known for factor "A", where the adapter has its file.

    Returns (table, left_out): a DataFrame of COLUMNS, NaN where unknown, and the modules left out because they have
    another dimension, fewer than i directions, or an adapter with fewer than j there.
    """
    common = modules.common([*adapters.values(), model])
    rows, left_out = [], []
    places = [(kind, *place) for kind in projections for place in modules.every_layer(kind, common).items()]
    for projection, layer, name in tqdm(places, desc="layers", delay=10, file=sys.stdout):
        found = {label: _directions(adapter, name, factor, side) for label, adapter in adapters.items()}
        out, inputs = model.shape(name)
        enough = all(trained.shape[1] >= j for trained, _ in found.values())
        if (inputs if side == "right" else out) != d or min(out, inputs) < i or not enough:
            left_out.append(name)
            continue
        top = subspace.top_directions(model.weight(name), i, side).vectors
        for label, pair in found.items():
            phi = [np.nan if v is None else subspace.phi(top, v, i, j) for v in pair]
            z = chance.z_score(np.array(phi), i, j, d)
            rows.append([modules.short_name(projection), layer, label, *phi, *z])
    return pd.DataFrame(rows, columns=COLUMNS), left_out


def _directions(adapter, name, factor, side):
    """Directions of an adapter at a module, and of its untrained A or None; [·, 0] where ΔW is zero."""
    a, b, _ = adapter.factors(name)
    untrained = adapter.untrained_a(name) if factor == "A" else None
    trained = subspace.factor_directions(a, b, factor, side).vectors if factor == "A" or b.any() else np.empty((1, 0))
    return trained, None if untrained is None else subspace.factor_directions(untrained).vectors
