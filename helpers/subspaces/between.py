"""The adapters of one module held against each other: a small rank in a large one, and two runs of one rank."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.subspaces import chance, haar, nulls, similarity
from helpers.subspaces.inputs import Inputs
from helpers.values import Nothing, computed
from helpers.weights import modules

LEADING = (1, 4, 16, 64)  # numbers k of leading directions in which two adapters are compared


class Pair(NamedTuple):
    """Two adapters: their names, {projection: φ grid}, and chance over all cells of the grids."""

    names: list
    grids: dict
    level: np.ndarray


class Between(Inputs):
    """What `Similarity`, which has labels, ranks, counts and d, says of its adapters among themselves."""

    @computed()
    def projections(self):
        """{short name: full name} of the module and, beside a query, the value; whose directions lie in R^d."""
        named = modules.query_and_value(self.module, self.common)
        return {modules.short_name(name): name for name in named if self._fits(name)}

    def _fits(self, module):
        found = [self._of(module, n) for n in range(len(self.updates))]
        return len(found[0]) == self.d and all(v.shape[1] for v in found)

    def _of(self, module, n):
        return self.directions(module, n, self.parameters.factor, self.parameters.side).vectors

    def _before(self, module, n):
        """Directions of an adapter's A before its training, or None."""
        found = self.untrained(module, n) if self.parameters.factor == "A" else None
        return None if found is None else found.vectors

    @computed()
    def pairs(self):
        """{"ranks": positions of a small and a large adapter, "runs": of two of one rank}, or Nothing."""
        small_large, two_runs = similarity.choose_pairs(self.ranks)
        one = "there is one adapter"
        ranks = small_large or Nothing(one if len(self.updates) == 1 else "the adapters have one rank")
        runs = two_runs or Nothing(one if len(self.updates) == 1 else "no two adapters have the same rank")
        return {"ranks": ranks, "runs": runs}

    def between(self, kind):
        """The `Pair` of a kind, "ranks" or "runs", or Nothing."""
        pair = self.pairs[kind]
        if isinstance(pair, Nothing):
            return pair
        grids = {
            short: similarity.similarity_grid(*(self._of(name, n) for n in pair))
            for short, name in self.projections.items()
        }
        level = [chance.mean_grid(*grid.shape, self.d).ravel() for grid in grids.values()]
        return Pair([self.labels[n] for n in pair], grids, np.concatenate(level))

    @computed()
    def random_pair(self):
        """φ grid of two random subspaces as large as the two runs."""
        pair = self.pairs["runs"]
        if isinstance(pair, Nothing):
            return pair
        draws = (haar.random_directions(self.d, self.counts[n], self.rng(n)) for n in pair)
        return similarity.similarity_grid(*draws)

    @computed()
    def agreement(self):
        """φ(k, k) of pairs of adapters: a row a kind, projection and number k of leading directions.

        kind, pair, projection, k, phi, chance, z, p_holm (over the table), untrained (of their A before; NaN: unknown).
        """
        rows = []
        for kind, pair in self.pairs.items():
            for short, name in self.projections.items() if pair else ():
                found, before = ([of(name, n) for n in pair] for of in (self._of, self._before))
                for k in (k for k in LEADING if k <= min(self.d - 1, *(v.shape[1] for v in found))):
                    start = np.nan if any(v is None for v in before) else similarity.phi(*before, k, k)
                    pair_named = " and ".join(self.labels[n] for n in pair)
                    rows.append([kind, pair_named, short, k, similarity.phi(*found, k, k), start])
        if not rows:
            nothing = [pair for pair in self.pairs.values() if isinstance(pair, Nothing)]
            return nothing[0] if nothing else Nothing("in one dimension φ is 1 whatever the adapters")
        table = pd.DataFrame(rows, columns=["kind", "pair", "projection", "k", "phi", "untrained"])
        k = table["k"]
        table["chance"], table["z"] = chance.mean(k, k, self.d), chance.z_score(table["phi"], k, k, self.d)
        table["p_holm"] = nulls.holm(chance.tail_probability(table["phi"], k, k, self.d))
        return table

    def agreeing(self, kind):
        """The rows of `agreement` of one kind of pair."""
        if isinstance(self.pairs[kind], Nothing):
            return self.pairs[kind]
        return self.agreement[self.agreement["kind"] == kind]

    @computed()
    def query_lead(self):
        """By how much two runs share more of their queries than of their values: mean difference, z of random pairs."""
        table, roles = self.agreeing("runs"), {modules.role(name): short for short, name in self.projections.items()}
        if isinstance(table, Nothing):
            return table
        if not {"q", "v"} <= roles.keys():
            return Nothing("there is no pair of a query and a value to compare")
        phi = table.pivot(index="k", columns="projection", values="phi").dropna()
        query, value = phi[roles["q"]], phi[roles["v"]]
        z = nulls.lead_z(query, value, phi.index.to_numpy(), self.d, 2000, self.rng(4, 1))
        return pd.Series({"difference": (query - value).mean(), "z": z})
