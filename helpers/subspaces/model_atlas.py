"""The argument of notebook 05 about a whole model and its adapters: tables over layers and projections.

Notebook, slider and figures ask the same study. What does not apply is a `values.Nothing` with its reason.
"""

import re

import pandas as pd

from helpers.parameters import BadParameter
from helpers.subspaces import chance, compared, measured, nulls
from helpers.subspaces.atlas import client, mapped, names_of, pattern_of, plan, store_of, survey, task
from helpers.subspaces.intruders import DRAWS, family_p
from helpers.subspaces.measured import CHOICES
from helpers.values import Nothing, computed
from helpers.weights import modules
from helpers.weights.formats.full import Full

MOST_TESTED = 20  # modules: each takes as many draws as there are below
MORE_INTRUDERS = 0.5  # than expected, from which on a module is said to have more


class ModelAtlas:
    """Every module of a model that adapters change: what the notebook shows of it, computed when asked for.

    parameters: as `parameters.ModelAtlas`; what cannot be compared is refused on construction (WeightsError,
    BadParameter). What cannot be computed of one module is NaN in its rows, with the reason in `why`.

    labels: of the adapters, unique. choice: the column suffix of the parameters' factor and side. beside: the
    ModelAtlas of the second model; without one this, if a whole fine-tune is among the adapters, or Nothing.
    """

    def __init__(self, parameters):
        p = self.parameters = parameters
        with pattern_of("modules"):
            self.plan = plan(p.base, p.adapters, p.modules, p.i, p.j)
        self.labels, self._store = self.plan.labels, store_of(self.plan, p.store)
        self.choice = next(name for name, choice in CHOICES.items() if choice == (p.factor, p.side))
        self.base = measured.base_at(self.plan.base)
        self.updates = [measured.updates_at(place, self.plan.base) for place in self.plan.places]
        with pattern_of("tested"):
            self._named = self._to_test()
        self.beside = self if self.whole else Nothing("no second model is given, nor a whole fine-tune")
        if p.beside_base:
            changed = {"base": p.beside_base, "adapters": p.beside_adapters, "modules": "", "tested": []}
            given = {**p.model_dump(), **changed, "beside_base": "", "beside_adapters": []}
            self.beside = ModelAtlas(type(p).parse(given))

    def _to_test(self):
        """Full names of the modules whose intruders are tested, once each."""
        found = [modules.expand(pattern, self.base, self._whole_modules) for pattern in self.parameters.tested]
        names = list(dict.fromkeys(name for each in found for name in each))
        if len(names) > MOST_TESTED:
            raise BadParameter(
                f"tested stands for {len(names)} modules, such as {names[0]}, of each of which {DRAWS} matrices are "
                f"drawn: name {MOST_TESTED} at most"
            )
        return names

    @property
    def _whole_modules(self):
        return sorted(set().union(*self._matches))

    @property
    def _matches(self):
        return [compared.matched(self.base, updates) for updates in self.updates]

    @property
    def files(self):
        """The files that base and adapters are read from, sorted."""
        return sorted({file for holder in (self.base, *self.updates) for file in holder.files})

    @property
    def notes(self):
        """What a reader must see of how the files, and so far the store, were read: sentences."""
        told = [note for updates in self.updates for note in updates.notes] + (self._store.notes if self._store else [])
        packed = [module for module in self.plan.names if not self.base.shape(module)]
        return told + [
            f"{len(packed)} modules are packed in {self.base.label} and not read, such as {packed[0]}"
            for _ in packed[:1]
        ]

    @computed()
    def _surveyed(self):
        p = self.parameters
        return survey(self.plan, p.i, p.j, p.scheduler, p.seed, self.choice, store=self._store)

    @computed()
    def rows(self):
        """The table of `atlas.atlas`: a row a module and adapter."""
        return self._surveyed[0]

    @computed()
    def details(self):
        """{(module, adapter): `measured.Detail`}, with the φ grid of the parameters' factor and side."""
        return self._surveyed[1]

    @computed()
    def projections(self):
        """Names of the projections, in the order of the model."""
        return list(dict.fromkeys(self.rows["projection"]))

    @computed()
    def layers(self):
        """Numbers of the layers, rising."""
        return sorted(set(self.rows["layer"]))

    @computed()
    def by_adapter(self):
        """Medians over modules of what can be computed, a row an adapter; modules: of how many its ΔW is known."""
        grouped = self.rows.drop(columns=["layer", "module", "projection", "why"]).groupby("adapter", sort=False)
        table = grouped.median()
        table.insert(0, "modules", grouped["norm"].count())
        return table

    @computed()
    def ranking(self):
        """The rows, the greatest change relative to its weight first."""
        known = self.rows.dropna(subset=["ratio"])
        if known.empty:
            return Nothing("no module could be measured")
        return known.sort_values("ratio", ascending=False, kind="stable", ignore_index=True)

    @computed()
    def holds(self):
        """In how many layers a claim holds: claim, projection, adapter, n (layers that tell), many (where it holds).

        p is Holm's, over all rows and all of one measure. There is no test of all layers together: neighbours are
        alike, so that a permutation of layers would be too sure.
        """
        rows, claims = self.rows, {}
        for choice, of in CHOICES.items():
            claims[f"φ above chance ({', '.join(of)}; p < 0.05, Holm)"] = _below(rows[f"p_holm_{choice}"], 0.05)
        for end, side in (("in", "input"), ("out", "output")):
            claims[f"energy above chance ({side} side; p < 0.05, Holm)"] = _below(rows[f"energy_{end}_p_holm"], 0.05)
        claims["holds more of W than random directions do"] = _below(1, rows["holds"])
        claims["factor above 1"] = _below(1, rows["factor"])
        claims["k90 is half of r or less"] = _below(rows["k90"], rows["rank"] / 2 + 0.5)
        claims["rank used less than random products use it (p < 0.05, Holm)"] = _below(rows["rank_p_holm"], 0.05)
        more = _below(rows["intruders_expected"] + MORE_INTRUDERS, rows["intruders"])
        claims[f"more intruders than the singular values predict (by {MORE_INTRUDERS} or more; no test)"] = more
        place = [rows["projection"], rows["adapter"]]
        found = {
            claim: held.groupby(place, sort=False).agg(n="count", many="sum").reset_index()
            for claim, held in claims.items()
        }
        table = pd.concat(found, names=["claim"]).reset_index("claim").reset_index(drop=True)
        return table.astype({"n": int, "many": int})

    @computed()
    def trends(self):
        """How measures go with depth: projection, adapter, measure, slope per ten layers, low, high (95 %).

        measure: ratio, k90, energy_in, energy_out, phi (over chance, of the parameters' choice). See
        `nulls.depth_trend`; NaN for fewer than five layers. layers: how many; clear: whether zero lies outside.
        """
        of = {name: name for name in ("ratio", "k90", "energy_in", "energy_out")} | {"phi": f"ratio_{self.choice}"}
        table = [
            [projection, adapter, measure, *(10 * each for each in trend[:3]), part[column].count()]
            for (projection, adapter), part in self.rows.groupby(["projection", "adapter"], sort=False)
            for measure, column in of.items()
            for trend in [nulls.depth_trend(part[column], part["layer"])]
        ]
        table = pd.DataFrame(table, columns=["projection", "adapter", "measure", "slope", "low", "high", "layers"])
        if table["slope"].isna().all():
            return Nothing("there are fewer than five layers")
        return table.assign(clear=(table["low"] > 0) | (table["high"] < 0))

    @computed()
    def intruders(self):
        """Intruders of an adapter over all modules: intruders, expected (by singular values alone), of (how many)."""
        grouped = self.rows.groupby("adapter", sort=False)
        counts = grouped[["intruders", "intruders_expected"]].sum(min_count=1)
        asked = [
            sum(len(d.cosines) for (_, name), d in self.details.items() if name == label) for label in counts.index
        ]
        return counts.rename(columns={"intruders_expected": "expected"}).assign(of=asked)

    @computed()
    def rank_pattern(self):
        """The rank that keeps 90 % of ‖ΔW‖²_F in each module of the adapters with factors: adapter, module, k90, r."""
        rows = self.rows[self.rows["k90"].notna() & self.rows["whole"].eq(False)]
        if rows.empty:
            return Nothing("no adapter has factors")
        return rows[["adapter", "module", "k90", "rank"]].rename(columns={"rank": "r"}).reset_index(drop=True)

    @computed("rank_pattern")
    def kept(self):
        """The share of its numbers that an adapter keeps with these ranks, by adapter."""
        rows = self.rows[self.rows["k90"].notna() & self.rows["whole"].eq(False)]
        sizes = rows[["k90", "rank"]].mul(rows["out"] + rows["in"], axis=0).groupby(rows["adapter"], sort=False).sum()
        return sizes["k90"] / sizes["rank"]

    @computed()
    def whole(self):
        """Labels of the whole fine-tunes among the adapters."""
        return [label for label, updates in zip(self.labels, self.updates, strict=True) if isinstance(updates, Full)]

    @computed()
    def left_out(self):
        """What is not computed or not read: adapter, reason, modules (how many), examples."""
        rows = self.rows[self.rows["why"] != ""]
        told = [
            (row.adapter, re.sub(rf"(?<![\w.]){re.escape(row.module)}(?![\w.])", "the module", row.why), row.module)
            for row in rows.itertuples()
        ]
        for label, updates, pairs in zip(self.labels, self.updates, self._matches, strict=True):
            told += [(label, why, name) for name, why in compared.unread(updates, pairs).items()]
        if not told:
            return Nothing("nothing is left out")
        table = pd.DataFrame(told, columns=["adapter", "reason", "module"])
        grouped = table.groupby(["adapter", "reason"], sort=False)["module"]
        return grouped.agg(modules="size", examples=lambda names: ", ".join(names[:3])).reset_index()

    @computed()
    def tested(self):
        """Intruders against drawn directions, of modules that are named, or else of what changed most.

        module, adapter, count and its mean drawn, T and its mean T_drawn, p of T, least (the smallest p of a direction,
        Holm); family_p (of an adapter over its modules, by the draw-wise maximum), family_p_holm (over the adapters).
        See `intruders.intruder_test`.
        """
        p, shared = self.parameters, self.ranking.groupby("module")["adapter"].transform("size")
        changed = self.ranking["module"][shared == shared.max()][:1]
        tasks = [
            (each._replace(adapters={label: place}), DRAWS, p.seed)
            for module in self._named or changed
            for each in [task(self.plan, module, names_of(module, self._matches))]
            for label, place in each.adapters.items()
        ]
        with client(p.scheduler, len(tasks)) as at:
            found = mapped(at, measured.intruder_test, tasks, None, "tests", self._store, measured.untested)
        known = [each for each in found if each[1] is not None]
        if not known:
            return Nothing("; ".join(dict.fromkeys(row["why"] for row, *_ in found)) or "no module could be measured")
        families = {}
        for label in dict.fromkeys(row["adapter"] for row, *_ in known):
            mine = {row["module"]: pair for row, *pair in known if row["adapter"] == label}
            families[label] = family_p(*({name: pair[n] for name, pair in mine.items()} for n in (0, 1)))
        corrected = dict(zip(families, nulls.holm(list(families.values())), strict=True))
        table = pd.DataFrame([row for row, *_ in found])
        return table.assign(family_p=table["adapter"].map(families), family_p_holm=table["adapter"].map(corrected))

    def heat(self, column, over=None):
        """{adapter: the values of a column, or over another, layers × projections}; NaN where there is none."""
        rows = self.rows.assign(shown=self.rows[column] / (self.rows[over] if over else 1))
        tables = {
            label: part.pivot(index="layer", columns="projection", values="shown")
            for label, part in rows.groupby("adapter", sort=False)
        }
        return {label: tables[label].reindex(index=self.layers, columns=self.projections) for label in self.labels}

    def beyond(self, column):
        """{adapter: whether a column of p is below 0.05, layers × projections}."""
        return {label: table < 0.05 for label, table in self.heat(column).items()}

    @computed()
    def closest(self):
        """The adapter whose φ, of the parameters' factor and side, is the greatest multiple of chance in the median."""
        ratios = self.by_adapter[f"ratio_{self.choice}"].dropna()
        return ratios.idxmax() if len(ratios) else Nothing("no adapter has a φ of this factor and side")

    @computed("closest")
    def excess(self):
        """{projection: {layer: φ − chance [I, J]}} of the closest adapter, of the parameters' factor and side."""
        found = {}
        for row in self.rows[self.rows["adapter"] == self.closest].itertuples():
            grid = self.details[row.module, row.adapter].grid
            if grid.size:
                d = self.base.shape(row.module)[self.parameters.side == "right"]
                found.setdefault(row.projection, {})[row.layer] = grid - chance.mean_grid(*grid.shape, d)
        return found


def _below(one, other):
    """Whether one is below the other; NaN where either is not known."""
    found = pd.Series(other - one)
    return (found > 0).astype(float).where(found.notna())
