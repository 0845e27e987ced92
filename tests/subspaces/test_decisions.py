"""Whole decisions of notebooks 01 and 02 where there is nothing to find: how often they find it all the same.

On synthetic pairs of W and adapters that have no relation. A statement may come out in 5 % of them, and in as many more
as a rate of 5 % gives once in a thousand simulations of this size.
"""

import gc

import jaxtyping
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers.subspaces import atlas, chance, haar, nulls, similarity

REPLICATES = 400
MOST = stats.binom.ppf(0.999, REPLICATES, 0.05) / REPLICATES
D, TOP, J, LAYERS = 24, 5, 3, 12
ALIKE = 0.95  # correlation of a layer's Gaussian matrix with the next layer's, of W and of adapters
RANKS = {"r = 4": 4, "r = 8": 8}


@pytest.fixture(autouse=True, scope="module")
def in_haste():
    """Without checking types, and without the garbage collection of every Holm of statsmodels: they cost the most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *_: 0)
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


def generators(seed):
    return np.random.default_rng(seed).spawn(REPLICATES)


def drifting(rng, k):
    """Orthonormal directions [LAYERS, D, k] that drift with depth."""
    found = [rng.standard_normal((D, k))]
    while len(found) < LAYERS:
        found.append(ALIKE * found[-1] + np.sqrt(1 - ALIKE**2) * rng.standard_normal((D, k)))
    return np.linalg.qr(np.array(found))[0]


def unrelated(rng):
    """The places of a model with adapters that have nothing to do with its W: one projection, no correction for two.

    An untrained A is drawn anew in every layer.
    """
    tops, found = drifting(rng, TOP), {name: drifting(rng, J) for name in RANKS}
    start = np.linalg.qr(rng.standard_normal((LAYERS, len(RANKS), D, J)))[0]
    return {
        ("q_proj", n): atlas.Place(
            f"q_proj.{n}", top, {a: (found[a][n], v) for a, v in zip(RANKS, start[n], strict=True)}
        )
        for n, top in enumerate(tops)
    }


def over_layers(rng):
    """What is decided of one such model, by name; in brackets what was decided without this care."""
    places = unrelated(rng)
    table = atlas.pairings(places, TOP, J)
    own = (table["layer"] == table["weight_layer"]).to_numpy()
    drawn = nulls.turned(places, TOP, J, rng, 79)
    layers = atlas.own_layers(table, TOP, J, D)
    special = nulls.own_layer(table, drawn, rng)
    growth = nulls.growth_with_rank(layers, layers["adapter"].map(RANKS), drawn[:, own])
    weak, strong = layers["phi"].to_numpy().reshape(LAYERS, -1).T
    decided = {
        "any_beyond_chance": nulls.holm(layers["p"]).min() < 0.05,
        "above_chance_on_average": nulls.monte_carlo_p(table.loc[own, "phi"].mean(), drawn[:, own].mean(1)) < 0.05,
        "its_own_weight": special["p_holm"].max() < 0.05,
        "(its_own_weight)": special["permutation"].max() < 0.05,
        "grows_with_rank_over_layers": growth.p < 0.05,
        "(grows_with_rank_over_layers)": stats.ttest_rel(strong, weak, alternative="greater").pvalue < 0.05,
    }
    before = nulls.turned(nulls.before_training(places), TOP, J, rng, 79)[:, own]
    for name, phi, null in (
        ("own", table.loc[own, "phi"], drawn[:, own]),
        ("untrained", table.loc[own, "untrained"], before),
        ("elsewhere", table.loc[~own, "phi"], drawn[:, ~own]),
    ):
        decided[f"{name}_differs_from_rotations"] = nulls.two_sided_p(phi.mean(), null.mean(1)) < 0.05
    return decided


@pytest.fixture(scope="module")
def rates():
    return pd.DataFrame([over_layers(rng) for rng in generators(1)]).mean()


@pytest.mark.parametrize(
    "decision",
    [
        "any_beyond_chance",
        "above_chance_on_average",
        "its_own_weight",
        "grows_with_rank_over_layers",
        "own_differs_from_rotations",
        "untrained_differs_from_rotations",
        "elsewhere_differs_from_rotations",
    ],
)
def test_over_the_layers_of_a_model(rates, decision):
    assert rates[decision] <= MOST


@pytest.mark.parametrize("decision", ["(its_own_weight)", "(grows_with_rank_over_layers)"])
def test_that_would_be_noticed_if_it_came_out_too_often(rates, decision):
    """Permuted layers alone, and modules taken for independent."""
    assert rates[decision] > MOST


def rate(outcomes):
    outcomes = np.asarray(outcomes)
    assert outcomes.shape == (REPLICATES,)
    return outcomes.mean()


@pytest.mark.parametrize(("i", "j", "d", "n"), [(4, 3, 12, 24), (2, 2, 4, 24), (14, 4, 60, 48), (14, 4, 60, 1)])
def test_any_of_n_beyond_chance(i, j, d, n):
    """Of which `above_chance`, its likes over layers and pairs of adapters, and `untrained_is_chance` are made."""
    phi = haar.random_phi(i, j, d, REPLICATES * n, np.random.default_rng(2)).reshape(REPLICATES, n)
    p = chance.tail_probability(phi, i, j, d)
    assert rate([nulls.holm(each).min() < 0.05 for each in p]) <= MOST


@pytest.mark.parametrize(("first", "last", "j", "d", "n"), [(5, 12, 3, 24, 4), (5, 9, 4, 16, 2), (14, 38, 4, 384, 1)])
def test_rises(first, last, j, d, n):
    """`grows_more_than_chance` and its contrary, by one correction for both."""

    def decide(rng):
        grids = similarity.cumulative_phi(haar.random_overlaps(last, j, d, max(n, 2), rng))[:n]
        found = nulls.rises(grids[:, first - 1, j - 1], grids[:, last - 1, j - 1], first, last, j, d)
        return found[["above", "below"]].min(axis=None) < 0.05

    assert rate([decide(rng) for rng in generators(3)]) <= MOST


@pytest.mark.parametrize("ranks", [(4, 8, 64, 64), (4, 64)])
def test_growth_with_rank_in_one_module(ranks):
    place = pd.DataFrame({"projection": "q_proj", "layer": 0, "phi": np.nan}, index=range(len(ranks)))
    drawn = haar.random_phi(14, 4, 60, 199 * len(ranks), np.random.default_rng(4)).reshape(199, -1)

    def decide(rng):
        phi = haar.random_phi(14, 4, 60, len(ranks), rng)
        return nulls.growth_with_rank(place.assign(phi=phi), ranks, drawn).p < 0.05

    assert rate([decide(rng) for rng in generators(5)]) <= MOST


def test_query_shares_more():
    sizes, rng = np.array([1, 4, 16]), np.random.default_rng(6)
    query, value = (
        similarity.cumulative_phi(haar.random_overlaps(16, 16, 64, REPLICATES, rng))[:, sizes - 1, sizes - 1]
        for _ in range(2)
    )
    assert rate(nulls.lead_z(query, value, sizes, 64, 2000, rng) > 1.645) <= MOST


@pytest.mark.parametrize(("i", "j", "d", "n"), [(14, 4, 60, 1), (14, 4, 384, 4), (3, 1, 6, 1)])
def test_comes_from_training(i, j, d, n):
    rng = np.random.default_rng(7)
    trained, untrained = (haar.random_phi(i, j, d, REPLICATES * n, rng).reshape(-1, n) for _ in range(2))
    assert rate(chance.difference_z(trained, untrained, i, j, d).min(1) > 3) <= MOST


def test_holds_more_than_random():
    weight = np.random.default_rng(8).standard_normal((16, 20)) * np.linspace(3, 1, 20)

    def decide(rng):
        observed, *drawn = haar.projection_norms(weight, 3, 100, rng)
        return min(drawn) > observed or observed > max(drawn)

    assert rate([decide(rng) for rng in generators(9)]) <= MOST


SHAPES = [(14, 4), (4, 1), (58, 4)]  # of notebook 02's sections 1 and 2, in d = 60


def test_law_differs_from_beta():
    """Its formulas for mean and variance included."""
    shapes, d, draws = SHAPES, 60, 400

    def decide(rng):
        phi = {shape: haar.random_phi(*shape, d, draws, rng) for shape in shapes}
        return nulls.holm([stats.kstest(chance.tail_probability(of, *s, d), "uniform").pvalue for s, of in phi.items()])

    assert rate([decide(rng).min() < 0.05 for rng in generators(10)]) <= MOST


def test_formulas_are_off():
    """Contrary of `mean_formula` and `variance_formula`, which are true."""

    def decide(rng):
        z = np.array([chance.z_score(haar.random_phi(*s, 60, 400, rng), *s, 60) for s in SHAPES])
        off = z.mean(1) * 20, (z**2 - 1).mean(1) / (z**2).std(1) * 20
        return np.abs(off).max() > 4

    assert rate([decide(rng) for rng in generators(11)]) <= MOST
