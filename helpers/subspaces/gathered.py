"""Adapters of one model, and checkpoints of one run, opened, named alike and checked: what notebook 06 compares."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.parameters import BadParameter
from helpers.paths import resolve
from helpers.subspaces import compared, measured
from helpers.subspaces.atlas import labels, names_of, pattern_of, refuse_same_numbers
from helpers.weights import WeightsError, modules
from helpers.weights.tensors import listed

ANSWERS = ["one", "other", "method", "task", "accuracy", "alone"]


class Plan(NamedTuple):
    """Adapters and checkpoints, opened and checked: places of the base, if any, and of each by its label.

    names: {module: what each calls it; None: it does not change it}, of the modules that two at least change.
    """

    base: measured.Place | None
    places: dict
    adapters: list
    checkpoints: list
    names: dict


class Named:
    """The modules of adapters without their base, each by its name in the adapter that has the most of them.

    matches: {module: its name there} of each of the updates. Raises WeightsError where one has none of those.
    """

    def __init__(self, every):
        order = sorted(range(len(every)), key=lambda n: -len(every[n].modules()))
        self.label, self.shapes, self.matches = every[order[0]].label, {}, [{} for _ in every]
        for n in order:
            names = every[n].modules()
            self.matches[n] = modules.match(self, every[n]) if self.shapes else {name: name for name in names}
            lone = set(names) - set(self.matches[n].values()) - self.shapes.keys()
            self.matches[n] |= {name: name for name in lone}
            self.shapes |= {
                name: every[n].shape(name) for name in sorted(lone | self.matches[n].keys() - self.shapes.keys())
            }

    def modules(self):
        """Their names, sorted."""
        return sorted(self.shapes)

    def shape(self, module):
        """(out, in), or None."""
        return self.shapes[module]


def plan(p) -> Plan:
    """The Plan of parameters. Raises WeightsError for what cannot be compared at all."""
    base = measured.place(resolve(p.base)) if p.base else None
    paths = list(dict.fromkeys(resolve(path) for path in (*p.adapters, *p.checkpoints)))
    places = [measured.place(path) for path in paths]
    names = dict(zip(paths, labels([str(path) for path in paths]), strict=True))
    every = [measured.updates_at(place, base) for place in places]
    first = measured.base_at(base) if base else Named(every)
    matches = [compared.matched(first, updates) for updates in every] if base else first.matches
    for updates, pairs in zip(every, matches, strict=True):
        _refuse_misfit(first, updates, pairs)
    groups = {}
    alike = {"adapters": compared.same_change, "checkpoints": compared.same_numbers}  # training ends with small steps
    for group, given in (("adapters", p.adapters), ("checkpoints", p.checkpoints)):
        groups[group] = [names[resolve(path)] for path in given]
        at = [paths.index(resolve(path)) for path in given]
        compared.refuse_twice([every[n] for n in at])
        refuse_same_numbers([every[n] for n in at], [matches[n] for n in at], alike[group])
    shared = _shared(names, groups, matches)
    if modules.split_part(p.modules.strip())[1] and not base:
        raise WeightsError(f"where the parts of {p.modules} lie only the base tells: give it, or name whole modules")
    with pattern_of("modules"):
        wanted = modules.expand(p.modules, first, shared)
    found = {module: names_of(module, matches) for module in wanted}
    return Plan(base, dict(zip(names.values(), places, strict=True)), groups["adapters"], groups["checkpoints"], found)


def pair_of(p, name, labels) -> list:
    """Labels of the two adapters that a parameter names by their labels or paths; none where it is empty."""
    known = dict(zip(map(resolve, p.adapters), labels, strict=True)) | {label: label for label in labels}
    found = [known.get(each) or known.get(resolve(each)) for each in getattr(p, name)]
    for each, label in zip(getattr(p, name), found, strict=True):
        if not label:
            raise BadParameter(f"{name} names {each!r}, which is none of the adapters: they are {listed(labels)}")
    if len(set(found)) < len(found):
        raise BadParameter(f"{name} names {found[0]} twice: name two of the adapters")
    return found


def answers(path, density) -> pd.DataFrame:
    """The table of what merges answer at a path; where it tells the density of TIES, without other densities.

    Raises BadParameter where it cannot be read as one, or is none.
    """
    told = f"measured is {path}, which cannot be read as a CSV with columns {listed(ANSWERS)}: "
    try:
        table = pd.read_csv(resolve(path), encoding="utf-8")
        if missing := [name for name in ANSWERS if name not in table]:
            raise BadParameter(f"{told}it has no {listed(missing)}")
        kinds = dict.fromkeys(ANSWERS[:4], str) | dict.fromkeys([*ANSWERS[4:], "texts", "density"], float)
        table = table.astype({name: kind for name, kind in kinds.items() if name in table})
    except BadParameter:
        raise
    except (OSError, ValueError) as error:
        raise BadParameter(f"{told}{error}") from None
    for bad, why in (
        (table["one"] == table["other"], "merges one adapter with itself"),
        (~table[ANSWERS[4:]].apply(lambda shares: shares.between(0, 1)).all(axis=1), "has a share outside 0 … 1"),
        (table.get("texts", pd.Series(1.0, table.index)) < 1, "was measured on no text"),
    ):
        if bad.any():
            raise BadParameter(f"measured is {path}, of which row {bad.argmax() + 1} {why}: correct it")
    of_other = table["method"].eq("ties") & ~np.isclose(table.get("density", density), density)
    return table[~of_other]


def _shared(names, groups, matches):
    """The modules that two of the adapters change, or two of the checkpoints, sorted."""
    of = dict(zip(names.values(), matches, strict=True))
    counts = [Counter(module for label in mine for module in of[label]) for mine in groups.values()]
    if max(counts[0].values()) < 2:
        have = "; ".join(f"{label}: {listed(of[label])}" for label in groups["adapters"])
        raise WeightsError(f"no two of the adapters change one module ({have}): give adapters of one model that do")
    return sorted({module for count in counts for module, many in count.items() if many > 1})


def _refuse_misfit(first, updates, pairs):
    """WeightsError where no module of an adapter has the shape that it has in the base, or in other adapters."""
    sizes = {module: (first.shape(module), updates.shape(name)) for module, name in pairs.items()}
    known = {module: pair for module, pair in sizes.items() if all(pair)}
    if known and all(one != other for one, other in known.values()):
        module, ((out, width), (own_out, own_width)) = next(iter(known.items()))
        raise WeightsError(
            f"{updates.label} adds a {own_out} × {own_width} matrix to {pairs[module]}, but in {first.label} it is "
            f"{out} × {width}: they belong to different models; give adapters trained on one"
        )
