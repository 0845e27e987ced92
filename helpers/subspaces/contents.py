"""What ΔW of a study's module is made of: the rank that it uses, and whether W + ΔW has new leading directions."""

import numpy as np
import pandas as pd

from helpers.subspaces import directions, nulls
from helpers.subspaces.inputs import decomposed_weight, with_floor
from helpers.subspaces.intruders import DRAWS, tested
from helpers.subspaces.measured import WHOLE_UP_TO, rng_of
from helpers.subspaces.spectra import FEW, FEWEST, LARGE, RankUse, drawn_rank_use, random_values, rank_p, rank_use
from helpers.values import Nothing, computed
from helpers.weights import Dense


class Contents:
    """The updates of one module beside random ones. Tables have a row an adapter, under its name, if it adds anything.

    study: a `Similarity`. spectra: {adapter: singular values of ΔW above rounding}.
    """

    def __init__(self, study):
        self.study, self.found = study, {}
        for n, (name, update) in enumerate(zip(study.labels, study.here, strict=True)):
            whole = isinstance(update, Dense)
            found = directions.decompose_update(update) if whole else study.decomposition(study.module, n)
            if found.rank():
                self.found[name] = found, None if whole else study.ranks[n]
        self.spectra = {name: found.values[: found.rank()] for name, (found, _) in self.found.items()}

    @computed()
    def rank_use(self):
        """r, the fields of `RankUse`, and of random updates of that shape random_effective_rank, random_k90, p, p_holm.

        p: of random ones that use as few directions, see `spectra.rank_p`.
        """
        rows = {}
        for name, (found, r) in self.found.items():
            out, inputs = len(found.left), len(found.right)
            drawn, k90 = drawn_rank_use((out, inputs), r, self.study.parameters.seed)
            use = rank_use(found)
            rows[name] = [np.nan if r is None else r, *use, drawn.mean(), k90, rank_p(use.effective_rank, drawn)]
        if not rows:
            return Nothing("no adapter adds anything")
        columns = ["r", *RankUse._fields, "random_effective_rank", "random_k90", "p"]
        table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("adapter")
        return table.assign(p_holm=nulls.holm(table["p"]))

    @computed()
    def random_spectra(self):
        """{adapter: (low, high)}: between them lie 90 % of the singular values of random updates of its norm, each."""
        bands = {}
        for n, (name, (found, r)) in enumerate(self.found.items()):
            shape = len(found.left), len(found.right)
            drawn = random_values(shape, r, FEW if min(shape) <= LARGE else FEWEST, self.study.rng(9, n))
            drawn *= found.size / np.linalg.norm(drawn, axis=1, keepdims=True)
            bands[name] = tuple(np.percentile(drawn[:, : len(self.spectra[name])], [5, 95], axis=0))
        return bands

    @computed()
    def weight(self):
        """The Decomposition of W, with all its directions."""
        weight = self.study.weight
        if isinstance(weight, Nothing):
            return weight
        if min(weight.shape) > WHOLE_UP_TO:
            return Nothing(f"W is decomposed in full up to a smaller side of {WHOLE_UP_TO} only")
        return with_floor(*decomposed_weight(weight, min(weight.shape)))

    @computed("weight")
    def tested(self):
        """{adapter: `intruders.tested`}, of those whose W + ΔW has enough directions."""
        p, module, found, why = self.study.parameters, self.study.module, {}, ["no adapter adds anything"]
        for name, (update, _) in self.found.items():
            try:
                found[name] = tested(self.weight, update, rng_of(p.seed, module), DRAWS)
            except ValueError as error:
                why = [f"{name}: {error}"]
        return found or Nothing(why[0])

    @computed("tested")
    def cosines(self):
        """{adapter: the largest |cosine| of each leading left direction of W + ΔW with one of W, [k]}."""
        return {name: found.cosines for name, (found, *_) in self.tested.items()}

    @computed("tested")
    def drawn(self):
        """{adapter: the same where ΔW has random directions, [draws, k]}."""
        return {name: drawn for name, (_, drawn, _) in self.tested.items()}

    @computed("tested")
    def intruders(self):
        """count, T and their means over draws, p of T, least (of a direction, Holm), p_holm (over adapters)."""
        columns = ["count", "drawn", "T", "T_drawn", "p", "least"]
        rows = {
            name: [found.count, test.counts_mean, test.statistic, test.statistic_mean, test.p, min(test.each_p_holm)]
            for name, (found, _, test) in self.tested.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("adapter")
        return table.assign(p_holm=nulls.holm(table["p"]))
