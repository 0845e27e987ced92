"""Other nulls than uniform directions, over the layers of a model: permuted layers, one rotation of all W; Holm."""

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from helpers.subspaces import chance, similarity


def holm(p):
    """p-values corrected by Holm (1979) for being as many as they are; none if there are none."""
    return multipletests(p, method="holm")[1] if len(p) else np.empty(0)


def pairing_test(table, rng):
    """p-value of every projection for: adapters have a higher φ with their own layer's W than with other layers'.

    Which W belongs to which layer is permuted, for all adapters of a layer together, and the mean φ compared; all
    permutations while there are at most 9,999 (7 layers), as many random ones beyond. Exact if layers may be exchanged,
    which they may not quite: neighbours are more alike. table: as from `pairings`. Returns {projection: p}, without the
    projections that have a single layer; p cannot fall below 1 / (number of layers)!.
    """
    found = {}
    for projection, part in table.groupby("projection", sort=False):
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


def shared_by_layers(places, i):
    """Mean φ(i, i) between the W of different layers, {projection: φ}; without those that have a single layer."""
    found = {}
    for kind in dict.fromkeys(kind for kind, _ in places):
        tops = [place.top for (other, _), place in places.items() if other == kind]
        phi = [similarity.phi(u, v, i, i) for n, u in enumerate(tops) for v in tops[:n]]
        if phi:
            found[kind] = float(np.mean(phi))
    return found


def rotated_means(places, i, j, draws, rng):
    """Means of φ when all W are turned by one random rotation: what chance gives while the W keep their relations.

    places: as from `collect`, every untrained A known. Returns [draws] of each of: own (adapters with their own
    layer's W), untrained (the same before training), elsewhere (adapters with the other layers' W).
    """
    kinds = np.array([kind for kind, _ in places])
    own = np.eye(len(places), dtype=bool)
    elsewhere = (kinds[:, None] == kinds) & ~own
    frame, mix = np.linalg.qr(np.hstack([place.top[:, :i] for place in places.values()]))
    sides = [
        np.hstack([pair[when][:, :j] for place in places.values() for pair in place.found.values()]) for when in (0, 1)
    ]
    means = np.empty((3, draws))
    for n in range(draws):
        turned = chance.random_directions(len(frame), frame.shape[1], rng) @ mix
        trained, untrained = (
            np.square(turned.T @ side).reshape(len(places), i, len(places), -1, j).sum((1, 4)).mean(2) / min(i, j)
            for side in sides
        )
        means[:, n] = trained[own].mean(), untrained[own].mean(), trained[elsewhere].mean()
    return means
