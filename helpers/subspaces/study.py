"""φ at one (i, j) over the layers of a model: weights and adapters from disk → tables, and tests over all layers."""

import sys
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from helpers.subspaces import chance, directions, nulls, similarity
from helpers.weights import modules

COLUMNS = ["projection", "layer", "weight_layer", "adapter", "phi", "untrained"]


class Place(NamedTuple):
    """One projection in one layer: its module's full name, W's leading directions [d, i], and the adapters' there.

    found: {adapter: (directions [d, j], those of its untrained A [d, j] or None)}.
    """

    module: str
    top: np.ndarray
    found: dict


def collect(model, adapters, projections, i, j, d, factor="A", side="right"):
    """The directions of W and of the adapters in every layer that has one of the projections.

    model: `checkpoints.Base`. adapters: {name: `checkpoints.Adapter`}. projections: module names; each stands for its
    counterparts in all layers. d: dimension that the directions must have. factor, side: as in
    `directions.factor_directions`; the untrained A is known for factor "A", where the adapter has its file.

    Returns ({(projection, layer): Place}, left_out): projections by their short names, and the modules left out because
    they have another dimension, fewer than i directions, or an adapter with fewer than j there.
    """
    common = modules.common([*adapters.values(), model])
    places, left_out = {}, []
    every = [(kind, *place) for kind in projections for place in modules.every_layer(kind, common).items()]
    for projection, layer, name in tqdm(every, desc="layers", delay=10, file=sys.stdout):
        found = {label: _directions(adapter, name, factor, side) for label, adapter in adapters.items()}
        out, inputs = model.shape(name)
        enough = all(trained.shape[1] >= j for trained, _ in found.values())
        if (inputs if side == "right" else out) != d or min(out, inputs) < i or not enough:
            left_out.append(name)
            continue
        top = directions.top_directions(model.weight(name), i, side).vectors
        leading = {label: [v if v is None else v[:, :j].copy() for v in pair] for label, pair in found.items()}
        places[modules.short_name(projection), layer] = Place(name, top, leading)
    return places, left_out


def pairings(places, i, j):
    """φ(W, adapter, i, j) of the adapter in every layer with the W of every layer, its own and the others'.

    places: as from `collect`. Returns a DataFrame of COLUMNS, in which `layer` is the adapter's and `weight_layer`
    that of W; untrained is NaN where unknown.
    """
    rows = [
        [kind, layer, other, name, *(np.nan if v is None else similarity.phi(weight.top, v, i, j) for v in pair)]
        for (kind, layer), place in places.items()
        for (weight_kind, other), weight in places.items()
        if weight_kind == kind
        for name, pair in place.found.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def own_layers(table, i, j, d):
    """The rows of a table from `pairings` in which an adapter meets its own W, against chance and the other layers' W.

    Returns a DataFrame: projection, layer, adapter, phi, untrained, elsewhere (mean φ of the same adapter with the W of
    the other layers, NaN if there is none), z of phi and of untrained, p of phi; p_holm: p corrected over all rows.
    """
    own = table["layer"] == table["weight_layer"]
    place = ["projection", "layer", "adapter"]
    elsewhere = table[~own].groupby(place)["phi"].mean().rename("elsewhere")
    table = table[own].drop(columns="weight_layer").join(elsewhere, on=place).reset_index(drop=True)
    table["z"], table["untrained_z"] = (chance.z_score(table[name], i, j, d) for name in ("phi", "untrained"))
    table["p"] = chance.tail_probability(table["phi"], i, j, d)
    table["p_holm"] = nulls.holm(table["p"])
    return table


def _directions(adapter, name, factor, side):
    """Directions of an adapter at a module, and of its untrained A or None; [·, 0] where ΔW is zero."""
    a, b, _ = adapter.factors(name)
    untrained = adapter.untrained_a(name) if factor == "A" else None
    trained = directions.factor_directions(a, b, factor, side).vectors if factor == "A" or b.any() else np.empty((1, 0))
    return trained, None if untrained is None else directions.factor_directions(untrained).vectors
