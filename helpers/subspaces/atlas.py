"""φ at one (i, j) over the layers of a model: a study asked at every layer → tables."""

import sys
from collections.abc import Sequence
from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np
import pandas as pd
from jaxtyping import Float64
from tqdm import tqdm

from helpers.subspaces import chance, nulls, similarity
from helpers.subspaces.study import Similarity
from helpers.weights import modules

COLUMNS = ["projection", "layer", "weight_layer", "adapter", "phi", "untrained"]


class Place(NamedTuple):
    """One projection in one layer: its module's full name, W's leading directions, and the adapters' there.

    found: by adapter, its directions and those of its untrained A. ranks: r by adapter.
    """

    module: str
    top: Float64[np.ndarray, "d i"]
    found: dict[str, tuple[Float64[np.ndarray, "d j"], Float64[np.ndarray, "d j"] | None]]
    ranks: dict[str, int]


def collect(
    study: Similarity,
    projections: Sequence[str] | dict,
    i: Index,
    j: Index,
    d: Index,
    factor: str = "A",
    side: str = "right",
    names: Sequence[str] | None = None,
) -> tuple[dict[tuple, Place], list[str]]:
    """The directions of W and of the adapters in every layer that has one of the projections.

    study: with a base. projections: module names; each stands for its counterparts in all layers. d:
    dimension that the directions must have. factor, side: as in `directions.factor_directions`; the untrained A is
    known for factor "A", where the adapter has its file. names: of the adapters, in the result (None: their labels).

    Returns ({(projection, layer): Place}, left_out): projections by their short names, and the modules left out because
    they have another dimension, fewer than i directions, or an adapter with fewer than j there.
    """
    names = names or [updates.label for updates in study.updates]
    places, left_out = {}, []
    every = [(kind, *place) for kind in projections for place in modules.every_layer(kind, study.common).items()]
    for projection, layer, module in tqdm(every, desc="layers", delay=10, file=sys.stdout):
        trained = [study.directions(module, n, factor, side).vectors for n in range(len(names))]
        before = [study.untrained(module, n) if factor == "A" else None for n in range(len(names))]
        out, inputs = study.base.shape(module)
        enough = all(found.shape[1] >= j for found in trained)
        if (inputs if side == "right" else out) != d or min(out, inputs) < i or not enough:
            left_out.append(module)
            continue
        pairs = [(v, None if start is None else start.vectors) for v, start in zip(trained, before, strict=True)]
        leading = {
            name: [None if v is None else v[:, :j].copy() for v in pair]
            for name, pair in zip(names, pairs, strict=True)
        }
        ranks = {name: study.rank(module, n) for n, name in enumerate(names)}
        places[modules.short_name(projection), layer] = Place(
            module, study.top(module, i, side).vectors, leading, ranks
        )
    return places, left_out


def pairings(places: dict[tuple, Place], i: Index, j: Index) -> pd.DataFrame:
    """φ(W, adapter, i, j) of the adapter in every layer with the W of every layer, its own and the others'.

    places: as from `collect`. Returns a DataFrame of COLUMNS, in which `layer` is the adapter's and `weight_layer`
    that of W; untrained is NaN where unknown. The rows of a projection stand together, as `nulls.turned` has them.
    """
    rows = [
        [kind, layer, other, name, *(np.nan if v is None else similarity.phi(weight.top, v, i, j) for v in pair)]
        for kind in dict.fromkeys(kind for kind, _ in places)
        for (mine, layer), place in places.items()
        if mine == kind
        for (its, other), weight in places.items()
        if its == kind
        for name, pair in place.found.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def own_layers(table: pd.DataFrame, i: Index, j: Index, d: Index) -> pd.DataFrame:
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
