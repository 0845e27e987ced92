"""φ at one (i, j) over the layers of a model: a study asked at every layer → tables."""

import sys
from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np
import pandas as pd
from jaxtyping import Float64
from tqdm import tqdm

from helpers.subspaces import chance, nulls, similarity
from helpers.subspaces.inputs import Inputs
from helpers.values import Nothing, computed
from helpers.weights import modules

CHOICES = {"A": ("A", "right"), "BA right": ("BA", "right"), "BA left": ("BA", "left")}  # (factor, side)


class Place(NamedTuple):
    """One projection in one layer: its module's full name, W's leading directions, and the adapters' there.

    found: by adapter, its directions and those of its untrained A.
    """

    module: str
    top: Float64[np.ndarray, "d i"]
    found: dict[str, tuple[Float64[np.ndarray, "d j"], Float64[np.ndarray, "d j"] | None]]


def collect(
    study: Inputs, projection: str, i: Index, j: Index, d: Index, factor: str = "A", side: str = "right"
) -> tuple[dict[Index, Place], list[str]]:
    """The directions of W and of the adapters in every layer that has a projection.

    study: with a base and labels. projection: a module, which stands for its counterparts in all layers. d:
    dimension that the directions must have. The untrained A is known for factor "A", where the adapter has its file.

    Returns ({layer: Place}, left_out): modules are left out that have another dimension, a W with fewer than i
    directions, or an adapter with fewer than j there.
    """
    places, left_out = {}, []
    layers = modules.every_layer(projection, study.common)
    for layer, module in tqdm(layers.items(), desc="layers", delay=10, file=sys.stdout):
        every = range(len(study.labels))
        trained = [study.directions(module, n, factor, side).vectors for n in every]
        before = [study.untrained(module, n) if factor == "A" else None for n in every]
        out, inputs = study.base.shape(module)
        enough = all(found.shape[1] >= j for found in trained)
        if (inputs if side == "right" else out) != d or min(out, inputs) < i or not enough or study.has(module, i) < i:
            left_out.append(module)
            continue
        leading = {
            name: (v[:, :j].copy(), None if start is None else start.vectors[:, :j].copy())
            for name, v, start in zip(study.labels, trained, before, strict=True)
        }
        places[layer] = Place(module, study.top(module, i, side).vectors, leading)
    return places, left_out


def pairings(places: dict[tuple, Place], i: Index, j: Index) -> pd.DataFrame:
    """φ(W, adapter, i, j) of the adapter in every layer with the W of every layer, its own and the others'.

    places: {(projection, layer): Place}. Returns projection, layer (the adapter's), weight_layer (that of W), adapter,
    phi, untrained (NaN: unknown). The rows of a projection stand together, as `nulls.turned` has them.
    """
    rows = [
        [kind, layer, other, name, *(np.nan if v is None else similarity.phi(weight.top, v, i, j) for v in pair)]
        for kind in dict.fromkeys(kind for kind, _ in places)
        for (mine, layer), place in places.items()
        if mine == kind
        for (its, other), weight in places.items()
        if its == kind
        for name, pair in place.found.items()
    ]
    return pd.DataFrame(rows, columns=["projection", "layer", "weight_layer", "adapter", "phi", "untrained"])


def own_layers(table: pd.DataFrame, i: Index, j: Index, d: Index) -> pd.DataFrame:
    """The rows of a table from `pairings` in which an adapter meets its own W, against chance and the other layers' W.

    Returns projection, layer, adapter, phi, untrained, elsewhere (mean φ of the same adapter with the W of the other
    layers, NaN if there is none), chance, ratio (of phi to it), z and p, and both of untrained.
    """
    own = table["layer"] == table["weight_layer"]
    place = ["projection", "layer", "adapter"]
    elsewhere = table[~own].groupby(place)["phi"].mean().rename("elsewhere")
    table = table[own].drop(columns="weight_layer").join(elsewhere, on=place).reset_index(drop=True)
    table["chance"] = chance.mean(i, j, d)
    table["ratio"] = table["phi"] / table["chance"]
    for name, of in (("", "phi"), ("untrained_", "untrained")):
        table[f"{name}z"] = chance.z_score(table[of], i, j, d)
        table[f"{name}p"] = chance.tail_probability(table[of], i, j, d)
    return table


class Survey(NamedTuple):
    """One choice of factor and side over all layers: {projection: (d, i, j)}, {(projection, layer): Place}, `pairings`,
    `own_layers`, and the modules left out."""

    sizes: dict
    places: dict
    pairings: pd.DataFrame
    table: pd.DataFrame
    left_out: list


def survey(study: Inputs, factor: str, side: str) -> Survey:
    """The Survey of the study's module and, beside a query, of the value.

    i and j are the study's where the directions live in its R^d; where they live in another, i is chosen from its size.
    """
    sizes, places, tables, owns, left_out = {}, {}, [], [], []
    for projection in modules.query_and_value(study.module, study.common):
        shape = study.base.shape(projection)
        d = shape[1] if side == "right" else shape[0]
        i = study.i if d == study.d else similarity.choose_window(d, min(shape), study.counts)[0]
        j, kind = min(study.j, i), modules.short_name(projection)
        found, left = collect(study, projection, i, j, d, factor, side)
        found = {(kind, layer): place for layer, place in found.items()}
        sizes[kind], places, left_out = (d, i, j), places | found, left_out + left
        tables.append(pairings(found, i, j))
        owns.append(own_layers(tables[-1], i, j, d))
    return Survey(sizes, places, *(pd.concat(each, ignore_index=True) for each in (tables, owns)), left_out)


class Layers:
    """A study's question in every layer of its projections, for every choice of factor and side that all adapters have.

    study: a `Similarity` with a base. surveys: {choice: Survey}; p_holm in their tables is corrected over all of them.
    """

    def __init__(self, study):
        self.study = study
        found = {name: survey(study, *choice) for name, choice in CHOICES.items() if choice[0] in study.factors}
        corrected = nulls.holm(np.concatenate([each.table["p"] for each in found.values()]))
        parts = np.split(corrected, np.cumsum([len(each.table) for each in found.values()])[:-1])
        self.surveys = {
            name: each._replace(table=each.table.assign(p_holm=part))
            for (name, each), part in zip(found.items(), parts, strict=True)
        }

    @computed()
    def own_choice(self):
        """The Survey of the study's own factor and side, as far as its directions live in the study's R^d."""
        p, study = self.study.parameters, self.study
        found = next(self.surveys[name] for name, choice in CHOICES.items() if choice == (p.factor, p.side))
        places = {key: place for key, place in found.places.items() if len(place.top) == study.d}
        if not places:
            return Nothing("there is no layer in which all adapters have enough directions")
        kinds = {kind for kind, _ in places}
        tables = (table[table["projection"].isin(kinds)] for table in (found.pairings, found.table))
        return found._replace(
            places=places, **dict(zip(("pairings", "table"), (t.reset_index(drop=True) for t in tables), strict=True))
        )

    @computed("own_choice")
    def table(self):
        """`own_layers` of the study's own choice, with p_holm."""
        return self.own_choice.table

    @computed("own_choice")
    def band(self):
        """(low, high) of φ: of as many random adapters as there are cases, one set in twenty has one outside."""
        study, level = self.study, 0.05 / self.choices["cases"].sum()
        return [chance.critical_phi(share, study.i, study.j, study.d) for share in (1 - level, level)]

    @computed()
    def choices(self):
        """What a choice of factor and side decides: a row a choice and projection.

        choice, projection, d, i, j, cases, ratio (mean φ over chance), beyond (how many, Holm over all rows together).
        """
        rows = []
        for choice, found in self.surveys.items():
            for kind, size in found.sizes.items():
                part = found.table[found.table["projection"] == kind]
                rows.append([choice, kind, *size, len(part), part["ratio"].mean(), (part["p_holm"] < 0.05).sum()])
        return pd.DataFrame(rows, columns=["choice", "projection", "d", "i", "j", "cases", "ratio", "beyond"])

    @computed()
    def notes(self):
        """What a reader must see of what is in no table, for each choice: sentences."""
        told = []
        for choice, names in ((name, found.left_out) for name, found in self.surveys.items() if found.left_out):
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            told.append(
                f"{choice} leaves out, of another size or with too few directions: {', '.join(names[:4])}{more}"
            )
        return told

    @computed("own_choice")
    def averages(self):
        """Over the layers of a projection: ratio (mean φ over chance), p and p_holm of it by `turned`."""
        own = self.own_choice.pairings["layer"] == self.own_choice.pairings["weight_layer"]
        rows = {}
        for kind, part in self.table.groupby("projection", sort=False):
            here = (own & (self.own_choice.pairings["projection"] == kind)).to_numpy()
            p = nulls.monte_carlo_p(part["phi"].mean(), self.turned[:, here].mean(1))
            rows[kind] = [part["ratio"].mean(), p]
        found = pd.DataFrame.from_dict(rows, orient="index", columns=["ratio", "p"]).rename_axis("projection")
        return found.assign(p_holm=nulls.holm(found["p"]))

    @computed("own_choice")
    def summary(self):
        """The table in single numbers: word, cases, beyond; ratio, elsewhere (times chance).

        known, before, least before: untrained ones, how many of them lie beyond chance, their smallest p (Holm).
        """
        table, higher = self.table, self.averages.index[self.averages["p_holm"] < 0.05]
        n, beyond, known = len(table), (table["p_holm"] < 0.05).sum(), nulls.holm(table["untrained_p"].dropna())
        on_average = f"On average in {' and '.join(higher)}, but in no single case" if len(higher) else "Not detectably"
        found = {"word": "Yes, everywhere" if beyond == n else "In some cases" if beyond else on_average}
        found |= {"cases": n, "beyond": beyond, "ratio": table["ratio"].mean()}
        found |= {"elsewhere": (table["elsewhere"] / table["chance"]).mean(), "known": len(known)}
        found |= {"before": int((known < 0.05).sum()), "least before": min(known, default=np.nan)}
        return pd.Series(found)

    @computed("own_choice")
    def shared(self):
        """Mean φ(i, i) between the W of different layers, by projection."""
        found = nulls.shared_by_layers(self.own_choice.places, self.study.i)
        return pd.Series(found) if found else Nothing("there is a single layer")

    @computed("own_choice")
    def detectable(self):
        """The mean φ, as a multiple of chance, from which nine in ten adapters are noticed among all cases."""
        study, level = self.study, 0.05 / self.choices["cases"].sum()
        if not study.spread:
            return Nothing("chance has no spread here")
        return chance.detectable_phi(study.i, study.j, study.d, level, 0.9, 1000, study.rng(6)) / study.chance

    @computed("own_choice")
    def turned(self):
        """φ of the pairings when all W are turned by one random rotation, many times: see `nulls.turned`."""
        return nulls.turned(self.own_choice.places, self.study.i, self.study.j, self.study.rng(7))

    @computed("own_choice")
    def own(self):
        """Whether an adapter's own layer's W is special, by projection: see `nulls.own_layer`."""
        found = nulls.own_layer(self.own_choice.pairings, self.turned, self.study.rng(3)).set_index("projection")
        least = max(nulls.holm(found["least"]), default=None)
        if least is None:
            return Nothing("there is a single layer")
        return found if least < 0.05 else Nothing(f"of so few layers p cannot fall below {least:.2f}, corrected")

    @computed("own_choice")
    def by_rank(self):
        """How φ goes with r over all layers: a `nulls.Growth`, against `turned`."""
        ranks = [
            self.study.rank(
                self.own_choice.places[row.projection, row.layer].module, self.study.labels.get_loc(row.adapter)
            )
            for row in self.table.itertuples()
        ]
        own = self.own_choice.pairings["layer"] == self.own_choice.pairings["weight_layer"]
        found = nulls.growth_with_rank(self.table, ranks, self.turned[:, own.to_numpy()])
        if len(set(ranks)) < 2:
            return Nothing("the adapters have one rank")
        return Nothing("no layer has both the least and the greatest rank") if np.isnan(found.p) else found
