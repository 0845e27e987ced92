"""Other nulls than uniform directions, over the layers of a model: permuted layers, one rotation of all W; Holm."""

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from helpers.subspaces import chance, similarity

LEAD_PAIRS = 500  # random pairs drawn at once


def holm(p):
    """p-values corrected by Holm (1979) for being as many as they are; none if there are none."""
    return multipletests(p, method="holm")[1] if len(p) else np.empty(0)


def lead_z(phi, other, sizes, d, draws, rng):
    """By how many standard deviations of chance one pair of subspaces shares more than another, averaged over k.

    phi, other: φ(k, k) of the two pairs, [..., n], at the numbers k of leading directions in `sizes`, [n]. Their mean
    difference is held against that of two independent random pairs in R^d. It has mean 0 and twice the variance of one
    pair's mean over k, which is drawn, since the cells of a pair depend on each other. Returns z [...]; NaN where
    chance has no spread. draws: random pairs, at least 2. rng: numpy Generator. Raises ValueError unless there is a φ
    of either pair at every k, and as `chance.random_overlaps`.
    """
    phi, other, sizes = (np.asarray(each) for each in (phi, other, sizes))
    if not sizes.size or {phi.shape[-1:], other.shape[-1:]} != {sizes.shape}:
        raise ValueError(f"φ of shapes {phi.shape} and {other.shape} at k = {sizes.tolist()}: expected one at every k")
    last, means = int(sizes.max()), []
    for part in np.array_split(range(draws), -(-draws // LEAD_PAIRS)):
        grids = similarity.cumulative_phi(chance.random_overlaps(last, last, d, len(part), rng))
        means.append(grids[:, sizes - 1, sizes - 1].mean(1))
    spread = np.sqrt(2) * np.concatenate(means).std()
    return (phi - other).mean(-1) / (spread if spread > 1e-9 else np.nan)


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
    frame, mix = np.linalg.qr(np.hstack([place.top[:, :i] for place in places.values()]))
    mix = mix.reshape(len(mix), len(places), i)
    kinds = np.array([kind for kind, _ in places])
    trained, before = (
        np.stack([[pair[when][:, :j] for pair in place.found.values()] for place in places.values()]) for when in (0, 1)
    )  # [places, adapters, d, j]
    each, pairs = trained.shape[1] * min(i, j), (kinds[:, None] == kinds).sum()
    sums = np.zeros((3, draws))
    for n in range(draws):
        turned = np.tensordot(chance.random_directions(len(frame), mix.shape[0], rng), mix, 1)
        own = turned.transpose(1, 2, 0)[:, None]  # [places, 1, i, d]
        sums[:2, n] = [np.square(own @ side).sum() for side in (trained, before)]
        for kind in set(kinds):
            weight = turned[:, kinds == kind].reshape(len(frame), -1)
            adapter = trained[kinds == kind].transpose(2, 0, 1, 3).reshape(len(frame), -1)
            sums[2, n] += np.square(weight.T @ adapter).sum()
    sums[2] -= sums[0]
    means = sums / (each * np.array([[len(places)], [len(places)], [max(pairs - len(places), 1)]]))
    return means
