"""The argument of notebook 01 about one module and its adapters: grids, tables and tests, computed when asked for.

Notebook, sliders and atlas ask the same study. What does not apply is a `values.Nothing` with its reason.
"""

import numpy as np
import pandas as pd

from helpers.subspaces import chance, haar, layers, nulls, similarity
from helpers.subspaces.between import Between
from helpers.subspaces.contents import Contents
from helpers.subspaces.inputs import random_adapter
from helpers.values import Nothing, computed
from helpers.weights import LowRank

PRIME = "\u2032"
FACTORED = 3  # z of φ of A less that of B A from which on A is said to depend on the factoring
DRAWS = 99  # of random directions beside amplification
DRAWN_ANEW = 3  # times what is stored coarsely


def adapter_names(ranks: list[int]) -> list[str]:
    """Names of adapters by rank, primed where a rank comes again: `r = 64`, `r = 64′`."""
    return [f"r = {rank}" + PRIME * ranks[:n].count(rank) for n, rank in enumerate(ranks)]


class Similarity(Between):
    """φ between a weight and its adapters, and between the adapters.

    parameters: as `parameters.SubspaceSimilarity`; what cannot be compared is refused on construction (WeightsError,
    or ValueError where rows and columns do not exist). Tables have a row an adapter, under its name, unless they say
    otherwise.

    ranks, labels: of the adapters. vectors: their directions [d, ·]. counts: how many each has. d: the dimension.
    first_i, last_i, last_j: rows and columns shown. i, j: the one cell that single numbers are read at.
    """

    def __init__(self, parameters, opened=None):
        super().__init__(parameters, opened)
        p, every = parameters, range(len(self.updates))
        self.ranks = [self.rank(self.module, n) for n in every]
        self.labels = pd.Index(adapter_names(self.ranks), name="adapter")
        self.of_adapters = [self.directions(self.module, n, p.factor, p.side) for n in every]
        self.vectors = [each.vectors for each in self.of_adapters]
        self.counts = [v.shape[1] for v in self.vectors]
        self.d = len(self.vectors[0])
        self.available = min(self.base.shape(self.module)) if self.base else self.d
        window = similarity.choose_window(self.d, self.available, self.counts, p.first_i, p.last_i, p.last_j)
        if self.base and not p.last_i and (rank := self.has(self.module, window[1])) < window[1]:
            window = similarity.choose_window(self.d, rank, self.counts, p.first_i, 0, p.last_j)
        self.first_i, self.last_i, self.last_j = window
        self.i, self.j = self.first_i, min(4, self.first_i, self.last_j, *self.counts)
        self.chance = chance.mean(self.i, self.j, self.d)
        self.spread = chance.variance(self.i, self.j, self.d) ** 0.5

    def replace(self, **changes):
        """The study of other parameters, of the same model and of adapters that are open already."""
        return Similarity(type(self.parameters).parse({**self.parameters.model_dump(), **changes}), self)

    @property
    def notes(self):
        """What a reader must see of how the files were read, and of what φ of A depends on: sentences."""
        rows = zip([updates.label for updates in self.updates], self.factoring.itertuples(), strict=False)
        told = ", ".join(
            f"{name} ({row.A:.3f} of A, {row.BA:.3f} of BA)" for name, row in rows if abs(row.z) > FACTORED
        )
        return super().notes + [
            f"at i = {self.i}, j = {self.j} φ of A is not that of ΔW = B A, by more than {FACTORED} standard "
            f"deviations of two random draws, for {told}: it depends on how ΔW was factored, as after a conversion; "
            "use factor BA"
        ] * bool(told)

    def rng(self, *place):
        """A generator of its own for every use of the seed."""
        return np.random.default_rng([self.parameters.seed, *place])

    @computed()
    def weight(self):
        """W [out, in]."""
        return self.base.weight(self.module) if self.base else Nothing("no base is given")

    @property
    def first_update(self):
        """What the first adapter's directions are those of: A [r, in], or ΔW [out, in]."""
        return self.here[0].a if self.parameters.factor == "A" else self.here[0].delta()

    @computed("weight")
    def leading(self):
        """Directions of W, as many as rows are shown; Nothing where φ is 1 whatever the adapter."""
        if not self.spread:
            return Nothing(f"at i = {self.i}, j = {self.j} in d = {self.d} dimensions φ is 1 whatever the adapter")
        return self.top(self.module, self.last_i, self.parameters.side)

    @computed("leading")
    def grids(self):
        """{label: φ [last_i, columns]} of every adapter and, last, of a random one."""
        random = random_adapter(max(self.counts), self.d, self.parameters.seed)
        every = dict(zip([*self.labels, "random"], [*self.vectors, random], strict=True))
        u = self.leading.vectors
        return {name: similarity.similarity_grid(u, v[:, : self.last_j]) for name, v in every.items()}

    @computed("grids")
    def panels(self):
        """{label: (φ, φ − chance, z)} of the rows shown."""
        rows = np.arange(self.first_i, self.last_i + 1)[:, None]
        shown = {name: grid[self.first_i - 1 :] for name, grid in self.grids.items()}
        columns = {name: np.arange(1, grid.shape[1] + 1) for name, grid in shown.items()}
        level = {name: chance.mean(rows, columns[name], self.d) for name in shown}
        z = {name: chance.z_score(grid, rows, columns[name], self.d) for name, grid in shown.items()}
        return {name: (grid, grid - level[name], z[name]) for name, grid in shown.items()}

    @computed("panels")
    def highest(self):
        """The largest φ in the adapters' panels."""
        return max(self.panels[name][0].max() for name in self.labels)

    @computed("grids")
    def level(self):
        """Chance over the widest of the panels, [rows, columns]."""
        return chance.mean_grid(*self.grids["random"].shape, self.d)[self.first_i - 1 :]

    @computed("grids")
    def reading(self):
        """φ at (i, j): phi, ratio (to chance), z, p (of chance to reach it), p_holm; the random panel is not in it."""
        phi, place = [self.grids[name][self.i - 1, self.j - 1] for name in self.labels], (self.i, self.j, self.d)
        found = pd.DataFrame({"phi": phi}, self.labels)
        p = chance.tail_probability(found["phi"], *place)
        z, ratio = chance.z_score(found["phi"], *place), found["phi"] / self.chance
        return found.assign(ratio=ratio, z=z, p=p, p_holm=nulls.holm(p))

    @computed("grids")
    def regions(self):
        """φ and chance at the first, middle and last row, averaged over the columns: a row a region and a panel."""
        ends = {"top": self.first_i, "middle": (self.first_i + self.last_i) // 2, "bottom": self.last_i}
        level = chance.mean_grid(self.last_i, self.last_j, self.d)
        rows = [
            [region, i, name, grid[i - 1].mean(), level[i - 1, : grid.shape[1]].mean()]
            for region, i in ends.items()
            for name, grid in self.grids.items()
        ]
        return pd.DataFrame(rows, columns=["region", "i", "panel", "phi", "chance"])

    @computed("grids")
    def stored(self):
        """What coarse storing may do to φ: kind (of W), draws, shift (the largest in the panels), here (at i, j)."""
        p, rng, shifts = self.parameters, self.rng(5), []
        for again in self.redrawn(self.last_i, p.side, DRAWN_ANEW, rng) or [self.leading] * DRAWN_ANEW:
            for n, name in enumerate(self.labels):
                moved = self.redrawn_update(n, p.factor, p.side, rng)
                if again is not self.leading or moved:
                    v, grid = (moved or self.of_adapters[n]).vectors, self.grids[name]
                    off = np.abs(
                        similarity.similarity_grid(again.vectors, v[:, : self.last_j])[:, : grid.shape[1]] - grid
                    )
                    shifts.append([off[self.first_i - 1 :].max(), off[self.i - 1, self.j - 1]])
        if not shifts:
            return Nothing("W and the adapters are stored finely")
        told = {"kind": self.base.kind(self.module), "draws": DRAWN_ANEW}
        return pd.Series(told | dict(zip(("shift", "here"), np.max(shifts, axis=0), strict=True)))

    @computed()
    def factoring(self):
        """φ of A and of ΔW = B A, right directions, at (i, j): A, BA, chance, z; NaN where one has fewer than j.

        B A is (B Q⁻¹)(Q A) for any invertible Q, so that directions of A belong to one factoring among many. z is A
        less BA in standard deviations of the difference of two random draws: a yardstick, no test, as the two are one
        adapter's; NaN where both have j directions and cannot differ.
        """
        if not self.base or self.parameters.factor != "A":
            return Nothing("these are directions of B A" if self.base else "no base is given")
        top, rows, place = self.top(self.module, self.i).vectors, [], (self.i, self.j, self.d)
        for n in range(len(self.updates)):
            found = [self.directions(self.module, n, factor).vectors for factor in ("A", "BA")]
            both = [similarity.phi(top, v, self.i, self.j) if v.shape[1] >= self.j else np.nan for v in found]
            may_differ = max(v.shape[1] for v in found) > self.j  # else both span one and the same space
            rows.append([*both, self.chance, chance.difference_z(*both, *place) if may_differ else np.nan])
        return pd.DataFrame(rows, self.labels, ["A", "BA", "chance", "z"])

    @computed("grids")
    def growth(self):
        """Rise of φ from the first row to the last at column j, against chance: `nulls.rises`, a row an adapter."""
        if self.first_i == self.last_i:
            return Nothing("a single row is shown")
        first, last = (
            [self.grids[name][i - 1, self.j - 1] for name in self.labels] for i in (self.first_i, self.last_i)
        )
        return nulls.rises(first, last, self.first_i, self.last_i, self.j, self.d).set_index(self.labels)

    @computed("reading")
    def by_rank(self):
        """How φ at (i, j) goes with r in this module: a `nulls.Growth`, against independent random pairs."""
        if len(set(self.ranks)) < 2:
            return Nothing("the adapters have one rank")
        drawn = haar.random_phi(self.i, self.j, self.d, nulls.ROTATIONS * len(self.ranks), self.rng(8))
        table = self.reading.assign(projection="", layer=0)
        return nulls.growth_with_rank(table, self.ranks, drawn.reshape(nulls.ROTATIONS, -1))

    @computed("weight")
    def amplified(self):
        """The fields of `Amplification`, and beaten: how many of 99 draws of random directions hold less of W."""
        rows = {}
        for n, name in enumerate(self.labels):
            rank = self.directions(self.module, n, "BA").singular_values.size
            if not isinstance(self.here[n], LowRank):
                rank = min(rank, self.last_i)
            if 0 < rank < min(self.weight.shape):  # an untrained B adds nothing; all directions hold all of W
                strongest = self.top(self.module, self.has(self.module, rank)).singular_values
                row = similarity.amplification(self.weight, self.decomposition(self.module, n), rank, strongest)
                draws = haar.projection_norms(self.weight, rank, DRAWS, self.rng(rank))
                rows[name] = [*row, (draws < row.by_delta).sum()]
        if not rows:
            return Nothing("no adapter adds anything, or each adds in all directions")
        columns = [*similarity.Amplification._fields, "beaten"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("adapter")

    @computed()
    def contents(self):
        """What the updates of the module are made of: `contents.Contents`."""
        return Contents(self)

    @computed("reading")
    def start(self):
        """φ at (i, j) before and after: trained, untrained, chance, A kept (of its row space), kept by chance, z.

        z: trained less untrained, in standard deviations of the difference of two random draws.
        """
        before = {name: self._before(self.module, n) for n, name in enumerate(self.labels)}
        if self.parameters.factor == "BA":
            return Nothing("B A is zero before training")
        if all(v is None for v in before.values()):
            return Nothing("no adapter has its untrained A (`untrained_A.safetensors`) beside it")
        u, rows = self.leading.vectors, {}
        for name, v in zip(self.labels, self.vectors, strict=True):
            if (v0 := before[name]) is not None:
                n = v.shape[1]
                at = similarity.phi(u, v0, self.i, self.j)
                rows[name] = [self.reading.loc[name, "phi"], at, self.chance, similarity.phi(v, v0, n, n), n / self.d]
        columns = ["trained", "untrained", "chance", "A kept", "kept by chance"]
        table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("adapter")
        return table.assign(z=chance.difference_z(table["trained"], table["untrained"], self.i, self.j, self.d))

    @computed("grids")
    def excess(self):
        """{label: (trained, untrained or None)}: φ − chance at column j over the rows shown."""
        rows = np.arange(self.first_i, self.last_i + 1)
        level, u = chance.mean(rows, self.j, self.d), self.leading.vectors

        def curve(v):
            return None if v is None else similarity.similarity_grid(u, v[:, : self.j])[self.first_i - 1 :, -1] - level

        every = {
            name: (curve(self.vectors[n]), curve(self._before(self.module, n))) for n, name in enumerate(self.labels)
        }
        return every | {"random": (self.grids["random"][self.first_i - 1 :, self.j - 1] - level, None)}

    @computed("grids")
    def band(self):
        """(low, high): φ − chance at column j that 99 % of chance lie between, over the rows shown."""
        rows = np.arange(self.first_i, self.last_i + 1)
        level = chance.mean(rows, self.j, self.d)
        return tuple(chance.critical_phi(share, rows, self.j, self.d) - level for share in (0.995, 0.005))

    @computed("grids")
    def layers(self):
        """The same question in every layer: `layers.Layers`."""
        return layers.Layers(self)
