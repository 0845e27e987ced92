"""φ at one (i, j) over the layers of a model: weights and adapters from disk → tables, and tests over all layers."""

import sys

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from tqdm import tqdm

from helpers import chance, modules, subspace

COLUMNS = ["projection", "layer", "weight_layer", "adapter", "phi", "untrained"]


def every_pairing(model, adapters, projections, i, j, d, factor="A", side="right", instead=None):
    """φ(W, adapter, i, j) of the adapter in every layer with the W of every layer, its own and the others'.

    model: `checkpoints.Base`. adapters: {name: `checkpoints.Adapter`}. projections: module names; each stands for its
    counterparts in all layers. d: dimension that the directions must have. factor, side: as in
    `subspace.factor_directions`; φ of the untrained A is known for factor "A", where the adapter has its file.
    instead: a function of W whose result takes its place, such as a random matrix.

    Returns (table, left_out): a DataFrame of COLUMNS, NaN where unknown, in which `layer` is the adapter's and
    `weight_layer` that of W; and the modules left out because they have another dimension, fewer than i directions,
    or an adapter with fewer than j there.
    """
    common = modules.common([*adapters.values(), model])
    rows, left_out = [], []
    for projection in projections:
        tops, found = {}, {}
        places = modules.every_layer(projection, common)
        for layer, name in tqdm(places.items(), desc="layers", delay=10, file=sys.stdout):
            at = {label: _directions(adapter, name, factor, side) for label, adapter in adapters.items()}
            out, inputs = model.shape(name)
            enough = all(trained.shape[1] >= j for trained, _ in at.values())
            if (inputs if side == "right" else out) != d or min(out, inputs) < i or not enough:
                left_out.append(name)
                continue
            weight = model.weight(name) if instead is None else instead(model.weight(name))
            tops[layer], found[layer] = subspace.top_directions(weight, i, side).vectors, at
        for layer, at in found.items():
            for weight_layer, top in tops.items():
                for label, pair in at.items():
                    phi = [np.nan if v is None else subspace.phi(top, v, i, j) for v in pair]
                    rows.append([modules.short_name(projection), layer, weight_layer, label, *phi])
    return pd.DataFrame(rows, columns=COLUMNS), left_out


def own_layers(pairings, i, j, d):
    """The rows of `every_pairing` in which an adapter meets its own W, against chance and the other layers' W.

    Returns a DataFrame: projection, layer, adapter, phi, untrained, elsewhere (mean φ of the same adapter with the W of
    the other layers, NaN if there is none), z and p of phi, untrained_z; p_holm: p corrected over all rows.
    """
    own = pairings["layer"] == pairings["weight_layer"]
    place = ["projection", "layer", "adapter"]
    elsewhere = pairings[~own].groupby(place)["phi"].mean().rename("elsewhere")
    table = pairings[own].drop(columns="weight_layer").join(elsewhere, on=place).reset_index(drop=True)
    table["z"], table["untrained_z"] = (chance.z_score(table[name], i, j, d) for name in ("phi", "untrained"))
    table["p"] = chance.tail_probability(table["phi"], i, j, d)
    table["p_holm"] = holm(table["p"])
    return table


def holm(p):
    """p-values corrected by Holm (1979) for being as many as they are; none if there are none."""
    return multipletests(p, method="holm")[1] if len(p) else np.empty(0)


def pairing_test(pairings, rng):
    """p-value of every projection for: adapters have a higher φ with their own layer's W than with other layers'.

    Which W belongs to which layer is permuted, for all adapters of a layer together, and the mean φ compared: exactly
    while there are at most 9,999 permutations. pairings: as from `every_pairing`. Returns {projection: p}, without
    the projections that have a single layer.
    """
    found = {}
    for projection, part in pairings.groupby("projection", sort=False):
        phi = part.pivot_table(index="layer", columns="weight_layer", values="phi").to_numpy()  # mean over adapters
        if len(phi) > 1:
            order = np.arange(len(phi))
            found[projection] = stats.permutation_test(
                (order,),
                lambda layers, phi=phi, order=order: phi[order, layers].mean(),
                permutation_type="pairings",
                alternative="greater",
                rng=rng,
            ).pvalue
    return found


def _directions(adapter, name, factor, side):
    """Directions of an adapter at a module, and of its untrained A or None; [·, 0] where ΔW is zero."""
    a, b, _ = adapter.factors(name)
    untrained = adapter.untrained_a(name) if factor == "A" else None
    trained = subspace.factor_directions(a, b, factor, side).vectors if factor == "A" or b.any() else np.empty((1, 0))
    return trained, None if untrained is None else subspace.factor_directions(untrained).vectors
