"""The argument of notebook 06 about several adapters of one model: do they agree, drift, write over each other?

Notebook, slider and figures ask the same study. What does not apply is a `values.Nothing` with its reason.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from helpers.paths import resolve
from helpers.subspaces import agreement, chance, measured, paired
from helpers.subspaces.atlas import client, corrected, kinds_of, mapped
from helpers.subspaces.gathered import answers, pair_of, plan
from helpers.subspaces.pooled import noticed, pooled_cosine, pooled_kept, pooled_sd, scaled, tabled
from helpers.values import Nothing, computed
from helpers.weights.formats.full import Full
from helpers.weights.tensors import listed

NOTICED = 0.1  # of a cosine, or of ‖ΔW‖²_F, below which nothing is said to agree, work against or share: by hand
SIDES = {"left": "out", "right": "in"}
VERDICTS = {verdict: verdict.replace(" ", "_") for verdict in agreement.VERDICTS}


class AdaptersTogether:
    """Adapters of one model, held against each other: what the notebook shows of them, computed when asked for.

    parameters: as `parameters.AdaptersTogether`; what cannot be compared is refused on construction (WeightsError,
    BadParameter). What cannot be computed of one module is NaN in its rows, with the reason in `why`.

    labels: of the adapters, unique. checkpoints: of states of one run in their order. layers: numbers, rising.
    projections: names, in the order of the model. beside: the AdaptersTogether of the second model; without one this,
    if a whole fine-tune is among the adapters, or Nothing.
    """

    def __init__(self, parameters):
        p = self.parameters = parameters
        self.plan = plan(p)
        self.labels, self.checkpoints = self.plan.adapters, self.plan.checkpoints
        self.base = self.plan.base and measured.base_at(self.plan.base)
        self.updates = {label: measured.updates_at(place, self.plan.base) for label, place in self.plan.places.items()}
        self._kinds = kinds_of(self.plan.names)
        self.projections = list(dict.fromkeys(projection for _, projection in self._kinds.values()))
        self.layers = sorted({layer for layer, _ in self._kinds.values()})
        self._answers = answers(p.measured, p.density) if p.measured else None
        self._yardsticks = {
            name: pair_of(p, name.replace(" ", "_"), self.labels) for name in ("two seeds", "two tasks")
        }
        self.beside = self if self.whole else Nothing("no second model is given, nor a whole fine-tune")
        if p.beside_base:
            empty = {name: [] for name in ("checkpoints", "two_seeds", "two_tasks", "beside_adapters")}
            changed = {"base": p.beside_base, "adapters": p.beside_adapters, "modules": "", "beside_base": ""}
            self.beside = AdaptersTogether(type(p).parse({**p.model_dump(), **changed, **empty}))

    @property
    def files(self):
        """The files that base, adapters, checkpoints and what merges answer are read from, sorted."""
        holders = [*([self.base] if self.base else []), *self.updates.values()]
        answers = [resolve(self.parameters.measured)] if self.parameters.measured else []
        return sorted({file for holder in holders for file in holder.files}.union(answers))

    @property
    def notes(self):
        """What a reader must see of how the files were read: sentences."""
        told = [note for updates in self.updates.values() for note in updates.notes]
        named = {}
        for label, updates in self.updates.items():
            if given := getattr(updates, "config", {}).get("base_model_name_or_path"):
                named.setdefault(str(given), []).append(label)
        if len(named) > 1 and not self.base:
            says = "; ".join(f"{listed(names)}: {given!r}" for given, names in named.items())
            told.append(f"the adapters say that they were trained on different models ({says})")
        rows = self.pairs.groupby(["one", "other"])["same_start"]
        shared, alike = rows.size(), rows.agg(lambda same: same.eq(True).mean() > 0.5)
        for pair in combinations(self.labels, 2):
            names = " and ".join(pair)
            if pair not in shared:
                told.append(f"{names} change no module in common")
            elif alike[pair]:
                told.append(f"{names} began with one A, so that their inputs are alike without any training")
        return told

    @computed()
    def whole(self):
        """Labels of the whole fine-tunes among the adapters."""
        return [label for label in self.labels if isinstance(self.updates[label], Full)]

    @computed()
    def _compared(self):
        """{each of `paired.TABLES`: DataFrame}, by layer and projection, without what needs all rows."""
        plan, p = self.plan, self.parameters
        places = {name: (layer, self.projections.index(kind)) for name, (layer, kind) in self._kinds.items()}
        names = sorted(plan.names, key=places.get)
        told = [tuple(plan.adapters), tuple(plan.checkpoints), p.density]
        states = {
            name: dict(zip(plan.places, zip(plan.places.values(), plan.names[name], strict=True), strict=True))
            for name in names
        }
        tasks = [paired.Task(name, plan.base, states[name], *told) for name in names]
        with client(p.scheduler, len(tasks)) as at:
            found = mapped(at, paired.compare, tasks, told="modules", lost=paired.lost)
        return tabled({name: (*self._kinds[name], of) for name, of in zip(names, found, strict=True)})

    @computed()
    def pairs(self):
        """A row a module and pair of adapters that change it.

        module, layer, projection, one, other, why; out, in; same_start: whether their A began as one; cosine of the two
        ΔW, cosine_sd of independent ones (of one start: with these inputs), cosine_p, cosine_p_holm; norm_one,
        norm_other; j directions of each, at most 4; phi_left, phi_right: φ(j, j), with _chance, _p, _p_holm; phi_error:
        a bound on what rounding may do to either (of one start φ right has no p: it is alike from there); angle_left,
        angle_right: the smallest principal angle, in degrees; verdict: `agreement.verdict`, for which less than NOTICED
        of a cosine or of a share is within chance. Holm's correction is over all rows, of φ over both sides too.
        """
        rows = self._compared["pairs"].copy()
        known = rows["j"].notna()
        for side, d in SIDES.items() if known.any() else ():
            j, d = (rows.loc[known, name].to_numpy(int) for name in ("j", d))
            phi = rows.loc[known, f"phi_{side}"].to_numpy(float)
            rows.loc[known, f"phi_{side}_chance"] = chance.mean(j, j, d)
            rows.loc[known, f"phi_{side}_p"] = chance.tail_probability(phi, j, j, d)
        rows.loc[rows["same_start"].eq(True), "phi_right_p"] = np.nan
        corrected(rows, ["cosine"], "{}_p", "{}_p_holm")
        corrected(rows, ["phi_left", "phi_right"], "{}_p", "{}_p_holm")
        return rows.assign(verdict=self._verdicts(rows))

    def _verdicts(self, rows):
        """The `agreement.verdict` on each row of pairs."""
        shares = self.interference.set_index(["module", "one", "other"])
        out, into = (noticed(shares[f"{end}_p_holm"], shares[end], NOTICED) for end in ("output", "input"))
        into = into.where(~shares["same_start"].eq(True), out)  # they have the inputs in common
        beyond = dict(zip(shares.index, zip(out, into, strict=True), strict=True))
        unknown = (np.nan, np.nan)
        p = noticed(rows["cosine_p_holm"], rows["cosine"].abs(), NOTICED)
        return [
            agreement.verdict(
                row.cosine,
                p[row.Index],
                beyond.get((row.module, row.one, row.other), unknown),
                beyond.get((row.module, row.other, row.one), unknown),
            )
            for row in rows.itertuples()
        ]

    @computed()
    def left_out(self):
        """What is not computed of pairs and checkpoints, or not determined: reason, modules (how many), examples."""
        tables = [self.pairs] if isinstance(self.drift, Nothing) else [self.pairs, self.drift]
        told = pd.concat([table[["why", "module"]] for table in tables])
        told = told[told["why"] != ""].assign(why=lambda rows: rows["why"].str.split("; ")).explode("why")
        if told.empty:
            return Nothing("nothing is left out")
        grouped = told.drop_duplicates().groupby("why", sort=False)["module"]
        found = grouped.agg(modules="size", examples=lambda names: ", ".join(names[:3]))
        return found.reset_index().rename(columns={"why": "reason"})

    @computed()
    def interference(self):
        """A row a module and ordered pair: what one writes into the leading directions of the other.

        k: directions that hold 90 % of ‖ΔW‖²_F of the other; output, input, both: shares of ‖ΔW‖²_F of the one in
        them, with _chance, and _p, _p_holm of output and input, corrected over all rows and both; of adapters of one
        start (same_start) the input has no p. See `agreement.interference`.
        """
        rows = self._compared["interference"].copy()
        rows.loc[rows["same_start"].eq(True), "input_p"] = np.nan
        corrected(rows, ["output", "input"], "{}_p", "{}_p_holm")
        return rows

    @computed()
    def kept(self):
        """What a merge of all adapters keeps of each: a row a module, method and adapter. See `merging.Kept`.

        along, cosine, off; along_independent, off_independent: of adapters that have nothing to do with each other (NaN
        of ties); norm of ΔW. An adapter that does not change the module adds nothing there.
        """
        return self._compared["kept"]

    @computed()
    def kept_pooled(self):
        """The same over all modules together: method, adapter, along, cosine, off."""
        return pooled_kept(self.kept, ["method", "adapter"])

    @computed()
    def kept_of_pairs(self):
        """What the merge of two adapters keeps of each, over all modules: one, other, method, adapter, along, …"""
        return pooled_kept(self._compared["kept_of_pairs"], ["one", "other", "method", "adapter"])

    @computed()
    def answers(self):
        """What merges of two of the adapters were measured to answer: the rows of `measured` that are of them.

        one, other, method, task, accuracy, alone (of the adapter that learnt the task), lost (alone − accuracy).
        """
        if self._answers is None:
            return Nothing("no table of what merged models answer is given")
        ours = self._answers[["one", "other"]].isin(self.labels).all(axis=1)
        if not ours.any():
            return Nothing(f"{self.parameters.measured} tells nothing of merges of these adapters")
        rows = self._answers[ours].reset_index(drop=True)
        return rows.assign(lost=rows["alone"] - rows["accuracy"])

    @computed("answers")
    def answers_by_pair(self):
        """Accuracy of merges by method, a row a pair and task, beside the adapter alone."""
        rows = self.answers
        rows = rows.assign(pair=rows["one"] + " · " + rows["other"])
        table = rows.pivot_table(index=["pair", "task"], columns="method", values="accuracy", sort=False)
        table.insert(0, "alone", rows.groupby(["pair", "task"], sort=False)["alone"].first())
        return table.reset_index()

    @computed()
    def by_pair(self):
        """A row a pair: one, other, modules (how many tell); cosine of the whole updates, over these modules.

        cosine_sd: of independent ones; least, median, most of the modules' cosines; apart, agree, against,
        share_a_place: how many modules have that verdict; sum_along_one, sum_along_other: how much of each is in the
        sum of the two, along itself, and sum_along_least: the least of either in any module; no_conflict: whether no
        module is against or shares a place.
        """
        grouped = dict(iter(self.pairs.dropna(subset=["cosine"]).groupby(["one", "other"])))
        along = self.kept_of_pairs[self.kept_of_pairs["method"] == "sum"]
        along = along.set_index(["one", "other", "adapter"])["along"]
        table = []
        for pair in combinations(self.labels, 2):
            row = dict(zip(("one", "other"), pair, strict=True)) | {"modules": 0}
            if pair in grouped:
                part = grouped[pair]
                row |= {"modules": len(part), "cosine": pooled_cosine(part, "cosine", "norm_one", "norm_other")}
                row["cosine_sd"] = pooled_sd(part)
                row |= dict(zip(("least", "median", "most"), part["cosine"].quantile([0, 0.5, 1]), strict=True))
                row |= {name: int((part["verdict"] == verdict).sum()) for verdict, name in VERDICTS.items()}
                row |= {f"sum_along_{end}": along.get((*pair, row[end]), np.nan) for end in ("one", "other")}
                ratio = part["norm_other"] / part["norm_one"]
                row["sum_along_least"] = 1 + np.minimum(part["cosine"] * ratio, part["cosine"] / ratio).min()
                row["no_conflict"] = row["against"] + row["share_a_place"] == 0
            table.append(row)
        columns = ["one", "other", "modules", "cosine", "cosine_sd", "least", "median", "most", *VERDICTS.values()]
        return pd.DataFrame(
            table, columns=[*columns, *(f"sum_along_{name}" for name in ("one", "other", "least")), "no_conflict"]
        )

    @computed()
    def agreement(self):
        """The cosine of the whole updates of every two adapters, [labels, labels]."""
        table = pd.DataFrame(np.eye(len(self.labels)), index=self.labels, columns=self.labels)
        for row in self.by_pair.itertuples():
            table.loc[row.one, row.other] = table.loc[row.other, row.one] = row.cosine
        return table

    @computed()
    def _scaled(self):
        if len(self.labels) < 3:
            return Nothing("a map takes three adapters or more")
        if self.agreement.isna().any(axis=None):
            return Nothing("two of the adapters have no module in common that can be compared")
        return scaled(self.agreement)

    @computed("_scaled")
    def map(self):
        """A place for each adapter in a plane, as far from each other as their updates: label → x, y."""
        return self._scaled[0]

    @computed("_scaled")
    def map_error(self):
        """By how much of itself a distance in the plane is off, at the most."""
        return self._scaled[1]

    @computed()
    def drift(self):
        """A row a checkpoint and module: norm; beside the end of the run cosine_end, phi_left_end, phi_right_end.

        kept_a: φ(r, r) of the directions of A now and before training, beside kept_a_chance; NaN where not known.
        """
        if not self.checkpoints:
            return Nothing("no checkpoints are given")
        rows = self._compared["drift"]
        order = {label: n for n, label in enumerate(self.checkpoints)}
        return rows.sort_values("checkpoint", key=lambda names: names.map(order), kind="stable", ignore_index=True)

    @computed("drift")
    def drift_pooled(self):
        """A row a checkpoint: modules, norm and cosine_end of the whole update; medians of the rest over modules."""
        table = []
        for label, part in self.drift.groupby("checkpoint", sort=False):
            known = part.dropna(subset=["cosine_end"])
            row = {"checkpoint": label, "modules": len(part), "norm": float(np.linalg.norm(part["norm"].dropna()))}
            row["cosine_end"] = pooled_cosine(known, "cosine_end", "norm", "norm_end") if len(known) else np.nan
            medians = part[["phi_left_end", "phi_right_end", "kept_a", "kept_a_chance"]].median()
            table.append(row | medians.to_dict())
        return pd.DataFrame(table)

    @computed()
    def yardsticks(self):
        """What the same and what different look like: a row for two seeds, for two tasks.

        yardstick, one, other, modules, cosine, cosine_sd; phi_left, phi_right and their _chance, medians over modules.
        """
        table = []
        for name, pair in self._yardsticks.items():
            if not pair:
                continue
            told = _between(self.by_pair, *pair)[["one", "other", "modules", "cosine", "cosine_sd"]].iloc[0]
            columns = [f"phi_{side}{end}" for side in SIDES for end in ("", "_chance")]
            medians = _between(self.pairs, *pair)[columns].median()
            table.append({"yardstick": name, **told.to_dict(), **medians.to_dict()})
        return pd.DataFrame(table) if table else Nothing("neither two_seeds nor two_tasks is given")

    @computed("yardsticks")
    def yardstick_lead(self):
        """Cosine of the two seeds less that of the two tasks."""
        cosines = self.yardsticks.set_index("yardstick")["cosine"]
        if len(cosines) < 2:
            return Nothing("one of two_seeds and two_tasks is not given")
        return cosines["two seeds"] - cosines["two tasks"]

    def of_yardstick(self, name):
        """The row of by_pair of "two seeds" or "two tasks"."""
        if not (pair := self._yardsticks[name]):
            return Nothing(f"{name.replace(' ', '_')} is not given")
        row = _between(self.by_pair, *pair).iloc[0]
        return row if row["modules"] else Nothing(f"the {name} change no module in common")

    @computed()
    def written_lead(self):
        """φ left less φ right of each pair whose A did not begin as one, medians over modules."""
        rows = self.pairs[self.pairs["same_start"].eq(False)]
        if rows.empty:
            return Nothing("no two of the adapters are from different starts")
        medians = rows.groupby([rows["one"] + " · " + rows["other"]], sort=False)[["phi_left", "phi_right"]].median()
        return medians["phi_left"] - medians["phi_right"]

    @computed()
    def with_whole(self):
        """The rows of by_pair of an adapter and a whole fine-tune."""
        return self._of_whole(1) if self.whole else Nothing("there is no whole fine-tune")

    @computed()
    def without_whole(self):
        """The rows of by_pair of two adapters."""
        return self._of_whole(0)

    def _of_whole(self, many):
        rows = self.by_pair[self.by_pair[["one", "other"]].isin(self.whole).sum(axis=1) == many]
        return rows if len(rows) else Nothing("there are no two such adapters")


def _between(rows, one, other):
    """The rows of two adapters, in whichever order."""
    return rows[[{one, other} == {*pair} for pair in zip(rows["one"], rows["other"], strict=True)]]
