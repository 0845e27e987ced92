"""Other nulls than uniform directions, over the layers of a model: permuted layers, one rotation of all W; Holm.

What is decided by them, each by one function: from arrays and tables to a result whose p-values are calibrated.
"""

from numbers import Real
from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from numpy.random import Generator
from scipy import special, stats

from helpers.subspaces import chance, haar, similarity
from helpers.subspaces.chance import Numbers

LEAD_PAIRS = 500  # random pairs drawn at once
PERMUTATIONS = 9999  # of layers, at most
ROTATIONS = 199  # by default; p cannot fall below 1 / (ROTATIONS + 1)
LEAST_LAYERS = 5  # of a trend


def holm(p: Numbers) -> Float64[np.ndarray, "n"]:
    """p-values corrected by Holm (1979) for being as many as are known; NaN stays, and is not counted.

    (statsmodels has it, but collects garbage at every call, which takes half a second beside a loaded network.)
    """
    p = np.array(p, dtype=float)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN comes last
    p[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return p


def lead_z(phi: Numbers, other: Numbers, sizes: Numbers, d: Index, draws: Index, rng: Generator) -> Numbers:
    """By how many standard deviations of chance one pair of subspaces shares more than another, averaged over k.

    phi, other: φ(k, k) of the two pairs, [..., n], at the numbers k of leading directions in `sizes`, [n]. Their mean
    difference is held against that of two independent random pairs in R^d. It has mean 0 and twice the variance of one
    pair's mean over k, which is drawn, since the cells of a pair depend on each other. Returns z [...]; NaN where
    chance has no spread. Raises ValueError unless there is a φ of either pair at every k, and as
    `haar.random_overlaps`.
    """
    phi, other, sizes = (np.asarray(each) for each in (phi, other, sizes))
    if not sizes.size or {phi.shape[-1:], other.shape[-1:]} != {sizes.shape}:
        raise ValueError(f"φ of shapes {phi.shape} and {other.shape} at k = {sizes.tolist()}: expected one at every k")
    last, means = int(sizes.max()), []
    for part in np.array_split(range(draws), -(-draws // LEAD_PAIRS)):
        grids = similarity.cumulative_phi(haar.random_overlaps(last, last, d, len(part), rng))
        means.append(grids[:, sizes - 1, sizes - 1].mean(1))
    spread = np.sqrt(2) * np.concatenate(means).std()
    return (phi - other).mean(-1) / (spread if spread > 1e-9 else np.nan)


def pairing_test(table: pd.DataFrame, rng: Generator | None) -> dict[str, float]:
    """p-value of every projection for: adapters have a higher φ with their own layer's W than with other layers'.

    Which W belongs to which layer is permuted, for all adapters of a layer together, and the mean φ compared; all
    permutations while there are at most 9,999 (7 layers), as many random ones beyond. Exact if layers may be exchanged;
    where W and adapters both drift with depth p is too small, see `own_layer`. table: as from `layers.pairings`.
    Returns {projection: p}, without the projections that have a single layer; p cannot fall below 1 / (number of
    layers)!.
    """
    found = {}
    for projection, part in table.groupby("projection", sort=False):
        phi = part.pivot_table(index="layer", columns="weight_layer", values="phi").to_numpy()  # mean over adapters
        if len(phi) > 1:
            order = np.arange(len(phi))
            found[projection] = stats.permutation_test(
                (order,),
                lambda layers, axis, phi=phi, order=order: phi[order, layers].mean(axis),
                permutation_type="pairings",
                n_resamples=PERMUTATIONS,
                alternative="greater",
                rng=rng,
            ).pvalue
    return found


def shared_by_layers(places: dict, i: Index) -> dict[str, float]:
    """Mean φ(i, i) between the W of different layers, {projection: φ}; without those that have a single layer."""
    found = {}
    for kind in dict.fromkeys(kind for kind, _ in places):
        tops = [place.top for (other, _), place in places.items() if other == kind]
        phi = [similarity.phi(u, v, i, i) for n, u in enumerate(tops) for v in tops[:n]]
        if phi:
            found[kind] = float(np.mean(phi))
    return found


def turned(
    places: dict, i: Index, j: Index, rng: Generator, draws: Index = ROTATIONS
) -> Float64[np.ndarray, "{draws} rows"]:
    """φ(i, j) of the rows of `layers.pairings` when all W are turned by one random rotation.

    A Haar rotation is drawn for each of `draws`. The W keep their relations to each other, and so do the adapters;
    between the two there is none but by chance. places: as from `layers.collect`.
    """
    frame, mix = np.linalg.qr(np.hstack([place.top[:, :i] for place in places.values()]))
    mix = mix.reshape(len(mix), len(places), i)
    kinds = np.array([kind for kind, _ in places])
    parts = []
    for kind in dict.fromkeys(kinds):
        found = [[v[:, :j] for v, _ in place.found.values()] for (name, _), place in places.items() if name == kind]
        parts.append((kinds == kind, np.moveaxis(found, 2, 0)))  # [d, layers, adapters, j]
    drawn = []
    for _ in range(draws):
        weights = np.tensordot(haar.random_directions(len(frame), len(mix), rng), mix, 1)
        drawn.append(np.concatenate([_every_pair(weights[:, here], adapters) for here, adapters in parts]))
    return np.array(drawn)


def before_training(places: dict) -> dict:
    """The same places with every adapter's untrained A in its place; each must be known."""
    return {
        key: place._replace(found={name: (start, None) for name, (_, start) in place.found.items()})
        for key, place in places.items()
    }


def monte_carlo_p(observed: Numbers, drawn: Float[np.ndarray, "draws *shape"]) -> Numbers:
    """p-value, one-sided, of a statistic among draws from its null: at least 1 / (draws + 1)."""
    return (1 + (drawn >= observed).sum(0)) / (1 + len(drawn))


def two_sided_p(observed: Numbers, drawn: Float[np.ndarray, "draws *shape"]) -> Numbers:
    """Twice the smaller `monte_carlo_p` of either side, at most 1."""
    return np.minimum(1, 2 * np.minimum(monte_carlo_p(observed, drawn), monte_carlo_p(np.negative(observed), -drawn)))


def own_layer(table: pd.DataFrame, drawn: Float[np.ndarray, "draws rows"], rng: Generator) -> pd.DataFrame:
    """Do adapters have a higher φ with their own layer's W than with other layers'? By two nulls; the larger p counts.

    Permuted layers (`pairing_test`) are too sure where the W and the adapters drift with depth; a rotation of all W
    (own minus elsewhere, mean φ) keeps both drifts, but its null is that W and adapters have nothing in common.
    table: as from `layers.pairings`. drawn: its `turned`. rng: of the permutations.

    Returns a DataFrame, a row for each projection with more than one layer: projection, own, elsewhere (mean φ),
    permutation, rotation (their p), p (the larger), p_holm, least (below which p cannot fall).
    """
    rows, permuted = [], pairing_test(table, rng)
    for projection, permutation in permuted.items():
        here = (table["projection"] == projection).to_numpy()
        phi, own = table["phi"].to_numpy()[here], (table["layer"] == table["weight_layer"]).to_numpy()[here]
        lead = np.where(own, 1 / own.sum(), -1 / (~own).sum())
        rotation = monte_carlo_p(phi @ lead, drawn[:, here] @ lead)
        layers = table.loc[here, "layer"].nunique()
        least = max(1 / min(special.factorial(layers), PERMUTATIONS + 1), 1 / (1 + len(drawn)))
        p = max(permutation, rotation)
        rows.append([projection, phi[own].mean(), phi[~own].mean(), permutation, rotation, p, least])
    columns = ["projection", "own", "elsewhere", "permutation", "rotation", "p", "least"]
    found = pd.DataFrame(rows, columns=columns)
    found.insert(6, "p_holm", holm(found["p"]))
    return found


class Growth(NamedTuple):
    """How φ goes with the rank. means: mean φ by rank. p: of the greatest rank's lead over the least, one-sided."""

    means: pd.Series
    p: Real


def growth_with_rank(table: pd.DataFrame, ranks: Numbers, drawn: Float[np.ndarray, "draws n"]) -> Growth:
    """Does φ grow with the rank, over modules and adapters? A `Growth`, against draws of all the φ together.

    Modules of one adapter are not independent, so that a t test over them is too sure; the draws carry their
    dependence. p says that these adapters' φ differ as chance would not have it, not that other runs' would.
    table: projection, layer and phi of n adapters in their places, as from `layers.own_layers`; ranks: theirs. drawn: φ
    under the null, the columns of `turned` of adapters with their own layer's W, or for the adapters of
    one module independent `haar.random_phi`. Means and lead are over the places in which a rank occurs, and both the
    least and the greatest do; p is NaN where there is none, or one rank only.
    """
    rows = table[["projection", "layer", "phi"]].assign(rank=np.asarray(ranks)).reset_index(drop=True)
    by_rank = rows.pivot_table(index=["projection", "layer"], columns="rank", values="phi")
    least, greatest, means = rows["rank"].min(), rows["rank"].max(), by_rank.mean().rename("r = {}".format)
    both = by_rank[[least, greatest]].notna().all(axis=1).rename("both")
    if least == greatest or not both.any():
        return Growth(means, np.nan)
    same = rows.groupby(["projection", "layer", "rank"])["phi"].transform("size")
    sign = (rows["rank"] == greatest).astype(int) - (rows["rank"] == least)
    lead = (sign / same * rows.join(both, on=["projection", "layer"])["both"] / both.sum()).to_numpy(float)
    return Growth(means, monte_carlo_p(rows["phi"].to_numpy() @ lead, drawn @ lead))


def rises(phi_first: Numbers, phi_last: Numbers, first: Index, last: Index, j: Index, d: Index) -> pd.DataFrame:
    """By how much φ rises from i = first to last at this j, and how often that of chance rises by more or by less.

    phi_first, phi_last: φ(first, j) and φ(last, j) of n adapters. Returns a DataFrame: rise, chance (its mean), p above
    and p below; above and below: both corrected together (Holm, 2n p-values). Raises ValueError as
    `chance.rise_as_phi`.
    """
    rise = np.subtract(phi_last, phi_first)
    above = chance.tail_probability(chance.rise_as_phi(rise, first, last, j), last - first, j, d)
    corrected = holm(np.concatenate([above, 1 - above])).reshape(2, -1)
    columns = {"rise": rise, "chance": (last - first) / d, "p above": above, "p below": 1 - above}
    return pd.DataFrame(columns | dict(zip(("above", "below"), corrected, strict=True)))


class Trend(NamedTuple):
    """Slope of a measure per layer, with the ends of its 95 % interval."""

    slope: float
    low: float
    high: float


def depth_trend(values: Numbers, layers: Numbers) -> Trend:
    """The Trend of a measure over the depth of a model, from the means of its four quarters, as neighbours are alike.

    A line through the means, and an interval of two degrees of freedom. Of residuals that follow each other (AR(1))
    it covers a slope of zero, in 2,000 draws of 30 layers, in 0.95 (ρ = 0), 0.94 (0.5), 0.92 (0.8) and 0.84 (0.95); of
    12 layers in 0.94, 0.93, 0.88 and 0.80. layers: of each value; What is not finite among the values is left out.
    All NaN for fewer than five layers. ValueError unless there are as many of each.
    """
    values, layers = (np.asarray(each, dtype=float) for each in (values, layers))
    if values.shape != layers.shape or values.ndim != 1:
        raise ValueError(f"values of shape {values.shape} and layers of shape {layers.shape}: expected one of each")
    order = np.argsort(layers)
    order = order[np.isfinite(values[order])]
    if len(np.unique(layers[order])) < LEAST_LAYERS:
        return Trend(*[np.nan] * 3)
    quarters = np.array_split(order, 4)
    line = stats.linregress(*([each[quarter].mean() for quarter in quarters] for each in (layers, values)))
    reach = stats.t.ppf(0.975, 2) * np.nan_to_num(line.stderr)  # NaN of a constant
    return Trend(*(float(each) for each in (line.slope, line.slope - reach, line.slope + reach)))


def _every_pair(weights, adapters):
    """φ of the adapters [d, layers, adapters, j] of every layer with the W [d, layers, i] of every layer: flat."""
    d, layers, i = weights.shape
    count, j = adapters.shape[2:]
    squares = np.square(weights.reshape(d, -1).T @ adapters.reshape(d, -1))
    sums = np.add.reduceat(squares, np.arange(0, layers * i, i), axis=0)
    sums = np.add.reduceat(sums, np.arange(0, layers * count * j, j), axis=1)
    return sums.reshape(layers, layers, count).swapaxes(0, 1).ravel() / min(i, j)
