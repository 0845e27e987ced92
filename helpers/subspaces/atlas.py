"""A row for every module of a model and every adapter: opened and checked, mapped over modules on Dask, corrected."""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from typing import SupportsIndex as Index

import distributed
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from helpers import workers
from helpers.parameters import BadParameter
from helpers.paths import resolve
from helpers.subspaces import compared, measured, nulls, spectra
from helpers.subspaces.measured import CHOICES
from helpers.subspaces.store import Store
from helpers.subspaces.study import PRIME
from helpers.weights import Base, NoSuchModule, Updates, WeightsError, modules

OF_CHOICE = ("i", "j", "phi", "chance", "ratio", "z", "p", "p_holm")
OF_ENERGY = ("", "_chance", "_z", "_p", "_p_holm")
COLUMNS = [
    *("module", "layer", "projection", "adapter", "why", "out", "in", "rank", "whole"),
    *("weight_norm", "weight_spectral", "norm", "spectral", "ratio", "ratio_spectral"),
    *("effective_rank", "stable_rank", "k90", "random_effective_rank", "random_k90", "rank_p", "rank_p_holm"),
    *("intruders", "intruders_expected"),
    *(f"energy_{end}{name}" for end in ("in", "out") for name in OF_ENERGY),
    *("holds", "factor", "factor_by_chance"),
    *(f"{name}_{choice}" for choice in CHOICES for name in OF_CHOICE),
]


class Plan(NamedTuple):
    """What an atlas is made of, opened and checked: places of base and adapters, which are known by their labels.

    names: {module: what each of the adapters calls it; None: it does not change it}.
    """

    base: measured.Place
    places: list
    labels: list
    names: dict


def atlas(
    base: str | Path | Base,
    updates: Sequence[str | Path | Updates],
    modules: str = "",
    i: Index = 0,
    j: Index = 0,
    scheduler: str = "",
    seed: Index = 0,
    progress: Callable | None = None,
    store: str | Path = "",
) -> pd.DataFrame:
    """Every measure of what adapters, or models fine-tuned from it, change in a model: a row a module and adapter.

    base, updates: opened, or paths. modules: a pattern, see `modules.expand`. i, j: of φ; 0 to choose as `Similarity`
    does. scheduler: address of a Dask scheduler whose workers have this package and see these files; empty: threads of
    this process, one a core. seed: of all draws. progress: called with (modules done, all), first with those that the
    store has; None: a bar, after 10 s. store: directory that keeps what is measured, so that another run goes on (see
    `store.Store`); of what in it could not be used a warning tells.

    Raises WeightsError and BadParameter for what cannot be compared at all. What cannot be computed of a module is NaN
    in its rows, and the reason in `why`. Columns: module, layer, projection, adapter, why; out, in, rank (r; of a whole
    ΔW its directions above rounding), whole (whether it is one); weight_norm, norm (Frobenius), weight_spectral,
    spectral, ratio, ratio_spectral (ΔW to W); effective_rank, stable_rank, k90 (`spectra.RankUse`),
    random_effective_rank, random_k90, rank_p (`spectra.rank_p`), rank_p_holm; intruders, intruders_expected; energy_in,
    energy_out: share of ‖ΔW‖²_F in the i leading directions of W on the side of inputs and of outputs, with _chance,
    _z, _p, _p_holm; holds (‖UᵀWV‖ of directions of ΔW, over that of random ones), factor, factor_by_chance
    (`similarity.Amplification`); and of the directions of A (_a) and of ΔW (_ba_right, _ba_left) i, j, phi, chance,
    ratio (φ to chance), z, p, p_holm. p_holm is corrected (Holm) over all rows, and of energy over both sides, of φ
    over all three choices.
    """
    made = plan(base, updates, modules, i, j)
    kept = store_of(made, store)
    rows, _ = survey(made, i, j, scheduler, seed, progress=progress, store=kept)
    for note in kept.notes if kept else ():
        warnings.warn(note, stacklevel=2)
    return rows


def plan(
    base: str | Path | Base, updates: Sequence[str | Path | Updates], pattern: str = "", i: Index = 0, j: Index = 0
) -> Plan:
    """The Plan of an atlas. Raises WeightsError, or BadParameter for negative numbers and where nothing is given."""
    for name, value in (("i", i), ("j", j)):
        if not isinstance(value, int | np.integer) or value < 0:
            raise BadParameter(f"{name} is {value!r}: expected a number of directions, or 0 to choose")
    if not base or not updates or isinstance(updates, str | Path):
        raise BadParameter("an atlas needs a base and a list of adapters: one of the two is empty, or no list")
    base, *places = (measured.place(resolve(getattr(each, "path", each))) for each in (base, *updates))
    opened = measured.base_at(base)
    every = [measured.updates_at(place, base) for place in places]
    compared.refuse_twice(every)
    matches = [compared.matched(opened, updates) for updates in every]
    refuse_same_numbers(every, matches)
    union = sorted(set().union(*matches))
    names = {module: names_of(module, matches) for module in modules.expand(pattern, opened, union)}
    return Plan(base, places, labels([place.path for place in places]), names)


@contextlib.contextmanager
def pattern_of(parameter: str) -> Iterator[None]:
    """Say of which parameter a pattern fits nothing."""
    try:
        yield
    except NoSuchModule as error:
        raise NoSuchModule(f"parameter {parameter}: {error}") from None


def labels(paths: Sequence[str]) -> list[str]:
    """Names of paths, each unique: their last parts, and where these are alike as many more as it takes."""
    parts = [re.sub(r"[^\w./=+,-]", "·", path).strip("/").split("/") for path in paths]  # nothing that acts as markup
    lengths = [1] * len(parts)
    while True:
        names = ["/".join(each[-n:]) for each, n in zip(parts, lengths, strict=True)]
        alike = [names.count(name) > 1 and n < len(each) for name, n, each in zip(names, lengths, parts, strict=True)]
        if not any(alike):
            return [name + PRIME * names[:n].count(name) for n, name in enumerate(names)]
        lengths = [n + more for n, more in zip(lengths, alike, strict=True)]


def store_of(plan: Plan, path: str | Path) -> Store | None:
    """The Store at a path for tasks of a Plan; None without a path. Raises BadParameter."""
    files = {place: measured.updates_at(place, plan.base).files for place in plan.places}
    return Store(path, {**files, plan.base: measured.base_at(plan.base).files}) if path else None


def task(
    plan: Plan, module: str, names: Sequence[str | None], i: Index = 0, j: Index = 0, shown: str = ""
) -> measured.Task:
    """The `measured.Task` of a module. names: what each of the adapters calls it, or None."""
    adapters = dict(zip(plan.labels, zip(plan.places, names, strict=True), strict=True))
    return measured.Task(module, plan.base, adapters, i, j, shown)


def names_of(module: str, matches: Sequence[dict[str, str]]) -> list[str | None]:
    """What each of the adapters calls a module of the base, with the part in brackets; None where it has none."""
    whole, text = module, ""
    if not any(module in pairs for pairs in matches):
        whole, part = modules.split_part(module)
        text = f"[{part}]"
    return [pairs[whole] + text if whole in pairs else None for pairs in matches]


def kinds_of(names: Collection[str]) -> dict[str, tuple[int, str]]:
    """{module: (layer, projection)}; of two in one place the other one by its whole name."""
    return {name: (0, name) for name in names} | {name: key for key, name in modules.by_layer(names).items()}


def survey(
    plan: Plan,
    i: Index = 0,
    j: Index = 0,
    scheduler: str = "",
    seed: Index = 0,
    shown: str = "ba_left",
    progress: Callable | None = None,
    store: Store | None = None,
) -> tuple[pd.DataFrame, dict]:
    """(the table of `atlas`, {(module, adapter): `measured.Detail`}). shown: of which of CHOICES the grid is kept."""
    tasks = [task(plan, module, names, i, j, shown) for module, names in plan.names.items()]
    kinds = kinds_of(plan.names)
    with client(scheduler, len(tasks)) as at:
        found = mapped(at, measured.measure, tasks, progress, "modules", store, measured.lost)
        rows = pd.DataFrame(
            [
                {**dict(zip(("module", "layer", "projection"), (each.module, *kinds[each.module]), strict=True)), **row}
                for each, measures in zip(tasks, found, strict=True)
                for row, _ in measures
            ]
        ).reindex(columns=COLUMNS)
        rows = rows.assign(**against_random(at, rows, seed, store))
    corrected(rows, [f"energy_{end}" for end in ("in", "out")], "{}_p", "{}_p_holm")
    corrected(rows, CHOICES, "p_{}", "p_holm_{}")
    corrected(rows, ["rank"], "{}_p", "{}_p_holm")
    details = {
        (each.module, row["adapter"]): measured.Detail(**detail)
        for each, measures in zip(tasks, found, strict=True)
        for row, detail in measures
    }
    places = {kind: n for n, kind in enumerate(dict.fromkeys(rows["projection"]))}
    order = sorted(range(len(rows)), key=lambda n: (rows["layer"][n], places[rows["projection"][n]], n))
    return rows.loc[order].reset_index(drop=True), details


def against_random(
    at: distributed.Client, rows: pd.DataFrame, seed: Index, store: Store | None = None
) -> dict[str, np.ndarray]:
    """{column: values}: random_effective_rank, random_k90 and rank_p (see `spectra.rank_p`) of rows with out, in, rank,
    effective_rank and whole, of which those of one shape and r share 999 draws, or 25 times as many as rows."""
    known = rows[rows["effective_rank"].notna()]
    kinds = [
        ((int(out), int(width)), None if whole else int(r))
        for out, width, r, whole in known[["out", "in", "rank", "whole"]].itertuples(index=False)
    ]
    draws = max(spectra.LEAST, 25 * len(known))  # so that p may be below 0.05 after Holm's correction
    different = list(dict.fromkeys(kinds))
    tasks = [(*kind, seed, draws) for kind in different]
    drawn = dict(zip(different, mapped(at, _drawn_rank_use, tasks, lambda *_: None, store=store), strict=True))
    found = {name: np.full(len(rows), np.nan) for name in ("random_effective_rank", "random_k90", "rank_p")}
    for index, kind, own in zip(known.index, kinds, known["effective_rank"], strict=True):
        effective, k90 = drawn[kind]
        for name, value in zip(found, (effective.mean(), k90, spectra.rank_p(own, effective)), strict=True):
            found[name][index] = value
    return found


def corrected(rows: pd.DataFrame, names: Collection[str], p: str, p_holm: str) -> None:
    """Fill the columns p_holm from those of p, over all of them together (Holm)."""
    every = nulls.holm(np.concatenate([rows[p.format(name)] for name in names]))
    for name, part in zip(names, every.reshape(len(names), -1), strict=True):
        rows[p_holm.format(name)] = part


@contextlib.contextmanager
def client(scheduler: str, tasks: int) -> Iterator[distributed.Client]:
    """A Dask client of a scheduler, or of this process with a thread for each core, whose libraries then use one."""
    if scheduler:
        with workers.cluster(scheduler, 0) as found:
            yield found
        return
    jobs = max(1, min(len(os.sched_getaffinity(0)), tasks))
    with threadpool_limits(1), workers.cluster("", jobs) as found:
        yield found


def mapped(
    at: distributed.Client,
    function: Callable,
    tasks: Sequence,
    progress: Callable | None = None,
    told: str = "draws",
    store: Store | None = None,
    lost: Callable | None = None,
) -> list:
    """The function of each of the tasks, from a store or from the workers of a client, into the store as it comes.

    function: of a module of this package; what a store keeps is plain (`Store.write`). lost: of a task and a reason,
    what stands for the result where its workers died. Raises BadParameter as `workers.results`; stopped with the whole
    when interrupted.
    """
    origins = [store.origin(function, task) for task in tasks] if store else []
    found = {n: kept for n, origin in enumerate(origins) if (kept := store.read(origin)) is not None}
    left, bar = [n for n in range(len(tasks)) if n not in found], contextlib.nullcontext()
    if progress is None:
        told += f" ({len(found)} from the store)" * bool(found)
        bar = tqdm(total=len(tasks), initial=len(found), desc=told, delay=10, leave=False, file=sys.stdout)
    elif found:
        progress(len(found), len(tasks))
    coming = workers.results(at, function, [tasks[n] for n in left])
    with bar, contextlib.closing(coming):
        for n, result in coming:
            n, here = left[n], tasks[left[n]]
            if isinstance(result, workers.Lost):
                if not lost:
                    raise BadParameter(f"{here!r:.200}: {result.why}")
                result = lost(here, result.why)
            elif store:
                if store.origin(function, here) != origins[n]:
                    raise BadParameter("files of the model or an adapter changed while they were read: run again")
                store.write(origins[n], result)
            found[n] = result
            bar.update() if progress is None else progress(len(found), len(tasks))
    return [found[n] for n in range(len(tasks))]


def _drawn_rank_use(task):
    return spectra.drawn_rank_use(*task)


def refuse_same_numbers(
    every: Sequence[Updates], matches: Sequence[dict[str, str]], same: Callable = compared.same_numbers
) -> None:
    """WeightsError where two adapters hold the same numbers wherever both change something."""
    for n, other in enumerate(every):
        for k, one in enumerate(every[:n]):
            alike = None
            for module in sorted(matches[k].keys() & matches[n].keys()):
                try:
                    pair = one.update(matches[k][module]), other.update(matches[n][module])
                except WeightsError:
                    continue  # a row will say why
                if not same(*pair):
                    break
                if not compared.without_directions(pair[0], "BA", "", "", ""):
                    alike = module
            else:
                if alike:
                    raise WeightsError(compared.given_twice(one, other, alike))
