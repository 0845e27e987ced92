"""One module of a model and what each adapter adds to it → a row an adapter: what a worker does for an atlas.

Knows paths, not open holders, so that workers elsewhere can do it; what it opens it keeps open, and no matrix.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from typing import SupportsIndex as Index

import numpy as np

from helpers.subspaces import chance, directions, inputs, similarity, spectra
from helpers.subspaces.compared import unrelated, without_directions
from helpers.subspaces.intruders import LEADING, intruders, tested
from helpers.weights import Base, Dense, LowRank, Updates, WeightsError, open_base, open_update

CHOICES = {"a": ("A", "right"), "ba_right": ("BA", "right"), "ba_left": ("BA", "left")}  # (factor, side)
SIDES = {"in": "right", "out": "left"}
WHOLE_UP_TO = 2048  # smaller side of a W that is decomposed in full
UNDETERMINED = 0.1  # error of φ from which on directions of W are not determined
SHOWN = 64  # singular values of W that are kept


class Place(NamedTuple):
    """Where a model or an adapter lies. state: of its files; another one where they have changed since."""

    path: str
    state: str


class Task(NamedTuple):
    """A module to be measured: {label of an adapter: (its Place, its name of the module; None: it has none)}.

    i, j: 0 to choose. shown: of which of CHOICES the φ grid is kept.
    """

    module: str
    base: Place
    adapters: dict
    i: int
    j: int
    shown: str


class Detail(NamedTuple):
    """What does not fit into a row: singular values of ΔW and the leading ones of W, cosines of intruders, a φ grid.

    cosines: as in `intruders.Intruders`. grid: φ [I, J] of one choice of factor and side. Empty where not known.
    """

    spectrum: np.ndarray
    weight_spectrum: np.ndarray
    cosines: np.ndarray
    grid: np.ndarray


EMPTY = {"spectrum": np.zeros(0), "weight_spectrum": np.zeros(0), "cosines": np.zeros(0), "grid": np.zeros((0, 0))}


class Weight(NamedTuple):
    """W [out, in] of a module, and its Decomposition, whose rank is of what rises above the rounding of storing."""

    matrix: np.ndarray
    found: directions.Decomposition

    @property
    def rank(self):
        """How many directions are known, and rise above rounding."""
        return min(self.found.rank(), self.found.right.shape[1])

    def leading(self, i, side):
        """The i leading ones, orthonormal columns."""
        return (self.found.right if side == "right" else self.found.left)[:, :i]


class Added(NamedTuple):
    """What an adapter adds to a module: the Decomposition of ΔW, and the directions of A (None of a whole ΔW).

    rank: r; of a whole ΔW the directions above rounding. count: of the directions of ΔW above rounding. rounding: of
    storing, usual, as `directions.Rounding` has it.
    """

    found: directions.Decomposition
    a: np.ndarray | None
    rank: int
    count: int
    rounding: float

    def leading(self, factor, side):
        """Orthonormal columns; none, [·, 0], of what is not known or does not rise above rounding."""
        if factor == "A":
            return np.zeros((len(self.found.right), 0)) if self.a is None else self.a
        return (self.found.right if side == "right" else self.found.left)[:, : self.count]


def place(path: str | Path) -> Place:
    """The Place of a file or directory."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent  # a file's config lies beside it
    files = sorted(folder.iterdir()) if folder.is_dir() else []  # opening says that it is not there
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    told = repr([(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats])
    return Place(str(path), hashlib.sha256(told.encode()).hexdigest())


@lru_cache(32)
def base_at(here: Place) -> Base:
    """The open `Base` of a Place."""
    return open_base(Path(here.path))


@lru_cache(128)
def updates_at(here: Place, of_base: Place | None) -> Updates:
    """The open `Updates` of a Place, with the model at another, or without one."""
    return open_update(Path(here.path), of_base and base_at(of_base))


def rng_of(seed: Index, module: str) -> np.random.Generator:
    """A generator of its own for every module, whatever order they come in."""
    return np.random.default_rng([seed, *module.encode()])


def measure(task: Task) -> list[tuple[dict, dict]]:
    """[(row, Detail as a dict)] of a Task, one an adapter: {column of the table: value}, without what is not known."""
    base, why_of_weight = base_at(task.base), []
    weight = None
    with noted(why_of_weight):
        weight = read_weight(base, task)
        if not weight.rank:
            raise ValueError(f"{task.module} of {base.label} is zero, so W has no directions")
    whys = {label: [] for label in task.adapters}
    added = {label: _read(base, weight, task, label, why) for label, why in whys.items()}
    counts = {
        choice: [count for each in added.values() if each and (count := each.leading(*of).shape[1])]
        for choice, of in CHOICES.items()
    }
    shape = base.shape(task.module) or (np.nan, np.nan)
    rows = []
    for label, each in added.items():
        row, detail, why = dict(zip(("out", "in"), shape, strict=True)), {}, whys[label]
        if each:
            row |= {
                "rank": each.rank,
                "whole": each.a is None,
                "norm": each.found.size,
                "spectral": each.found.values[0],
            }
            detail["spectrum"] = each.found.values
        if each and each.count:
            with noted(why):
                use = spectra.rank_use(each.found)
                row |= {name: getattr(use, name) for name in ("effective_rank", "stable_rank", "k90")}
        if weight:
            row |= _sizes(weight, row)
            detail["weight_spectrum"] = weight.found.values[:SHOWN]
        if each and weight and weight.rank:
            found, seen = _against(weight, each, task, counts, why)
            row, detail = row | found, detail | seen
        elif each:
            why += why_of_weight
        row |= {"why": "; ".join(dict.fromkeys(why)), "adapter": label}
        rows.append((row, EMPTY | detail))
    return rows


def lost(task: Task, why: str) -> list[tuple[dict, dict]]:
    """What stands for `measure` of a Task that could not be done: rows with the reason."""
    size = dict(zip(("out", "in"), base_at(task.base).shape(task.module) or (np.nan, np.nan), strict=True))
    return [(size | {"adapter": label, "why": why}, EMPTY) for label in task.adapters]


@contextmanager
def noted(why: list[str]) -> Iterator[None]:
    """What cannot be computed is noted, and the rest goes on."""
    try:
        yield
    except (ValueError, ArithmeticError, MemoryError) as error:
        why.append(str(error) or type(error).__name__)


def read_weight(base: Base, task: Task) -> Weight:
    """The Weight of a task's module. Raises WeightsError where it cannot be read."""
    matrix = base.weight(task.module)
    smaller, most = min(matrix.shape), max(task.i, SHOWN, max(matrix.shape) // 10)
    found, stored = inputs.decomposed_weight(matrix, smaller if smaller <= WHOLE_UP_TO else min(most, smaller))
    return Weight(matrix.astype(np.float64), inputs.with_floor(found, stored))


def _read(base, weight, task, label, why):
    """The Added of an adapter, or None with the reason in `why`."""
    here, name = task.adapters[label]
    if name is None:
        why.append(f"{label} has no such module")
        return None
    with noted(why):
        matrix = weight.matrix if weight and weight.rank else None
        return added(base, matrix, updates_at(here, task.base).update(name), task.module, label, why)
    return None


def added(
    base: Base | None, matrix: np.ndarray | None, update: LowRank | Dense, module: str, label: str, why: list[str]
) -> Added:
    """The Added of an update; what it lacks is noted in `why`. matrix: W, if it is known and not zero.

    Raises WeightsError of a W′ that is none of W's.
    """
    dense = isinstance(update, Dense)
    if reason := without_directions(update, "BA", label, module, base and base.label):
        why.append(reason)
    elif dense and matrix is not None and (reason := unrelated(matrix, update.difference, module, base.label, label)):
        raise WeightsError(reason)
    found, usual = directions.decompose_update(update), inputs.update_rounding(update, "BA").usual
    usual *= 1 if dense else abs(update.scale)
    count = found.rank(usual)
    if not count and not reason:
        why.append(inputs.lost_in_rounding(label, module))
    if dense:
        return Added(found, None, count, count, usual)
    of_a, stored = inputs.decomposed_a(update), inputs.update_rounding(update, "A")
    return Added(found, of_a.right[:, : of_a.rank(stored.usual)], len(update.a), count, usual)


def _sizes(weight, row):
    """Norms of W, and of ΔW by them."""
    found = {"weight_norm": weight.found.size, "weight_spectral": weight.found.values[0]}
    if weight.rank and "norm" in row:
        found |= {"ratio": row["norm"] / found["weight_norm"]}
        found |= {"ratio_spectral": row["spectral"] / found["weight_spectral"]}
    return found


def _against(weight, added, task, counts, why):
    """(what a row, what a Detail holds of ΔW beside W). counts: {choice: directions of each adapter that has some}."""
    row, detail, windows = {}, {}, {}
    if task.i > weight.rank:
        why.append(f"W has {weight.rank} directions above rounding, fewer than i = {task.i}")
    for choice, (_, side) in CHOICES.items() if task.i <= weight.rank else ():
        if counts[choice]:
            d = weight.matrix.shape[side == "right"]
            windows[choice] = (d, *similarity.choose_window(d, weight.rank, counts[choice], task.i))
    deepest = max((i for _, i, *_ in windows.values()), default=0)
    if deepest and directions.phi_errors(weight.found.values, deepest, weight.found.floor)[-1] > UNDETERMINED:
        why.append(
            f"singular values {deepest} and {deepest + 1} of W agree to within rounding: its first are any of many"
        )
    if added.count:
        for end, side in SIDES.items() if windows else ():
            with noted(why):
                row |= _energy(weight, added, end, side, *windows[f"ba_{side}"][:2])
        with noted(why):
            i = task.i if windows else 0
            window = similarity.choose_window(weight.matrix.shape[1], weight.rank, counts["ba_right"], i)
            row |= _amplified(weight, added, window[1] if added.a is None else added.count)
        with noted(why):
            if weight.found.right.shape[1] < min(weight.matrix.shape):
                raise ValueError(f"intruders are not sought in a W whose smaller side is above {WHOLE_UP_TO}")
            found = intruders(weight.found, added.found, min(LEADING, *weight.matrix.shape))
            row |= {"intruders": found.count, "intruders_expected": found.expected}
            detail["cosines"] = found.cosines
    for choice, (d, i, last_i, last_j) in windows.items():
        (factor, side), j = CHOICES[choice], task.j or min(4, i, last_j, *counts[choice])
        v = added.leading(factor, side)
        if j <= v.shape[1]:
            grid = similarity.similarity_grid(weight.leading(last_i, side), v[:, : max(j, last_j)])
            row |= {f"{name}_{choice}": value for name, value in _phi(grid, i, j, d, why).items()}
            detail |= {"grid": grid} if choice == task.shown else {}
        elif v.shape[1]:
            why.append(f"{factor} {side}: it has {v.shape[1]} directions, fewer than j = {j}")
    return row, detail


def _energy(weight, added, end, side, d, i):
    """Share of ‖ΔW‖²_F in the i leading directions of W on a side, beside chance."""
    held, values = spectra.energy(weight.leading(i, side), added.found, side), added.found.values
    mean, variance = spectra.energy_chance(i, values, d)
    found = {f"energy_{end}": held, f"energy_{end}_chance": float(mean)}
    if not variance > 0:
        return found
    z, p = (held - mean) / np.sqrt(variance), spectra.energy_tail(held, i, values, d)
    return found | {f"energy_{end}_z": float(z), f"energy_{end}_p": float(p)}


def _amplified(weight, added, most):
    """`holds` and factors of `similarity.amplification`, at the rank that notebook 01 takes, at most `most`."""
    rank = min(added.count, most, inputs.KEPT if added.a is None else most)
    if rank >= min(weight.matrix.shape):
        raise ValueError(f"ΔW has {rank} directions, all that there are on a side: they hold all of W")
    strongest = weight.found.values[: min(rank, weight.rank)]
    found = similarity.amplification(weight.matrix, added.found, rank, strongest)
    holds = found.by_delta / found.by_chance
    return {"holds": holds, "factor": found.factor, "factor_by_chance": found.factor_by_chance}


def _phi(grid, i, j, d, why):
    """φ at (i, j) beside chance."""
    phi, mean = grid[i - 1, j - 1], float(chance.mean(i, j, d))
    found = {"i": i, "j": j, "phi": phi, "chance": mean, "ratio": phi / mean}
    if chance.variance(i, j, d) > 0:
        return found | {"z": float(chance.z_score(phi, i, j, d)), "p": float(chance.tail_probability(phi, i, j, d))}
    why.append(f"at i = {i}, j = {j} in d = {d} dimensions φ is 1 whatever the adapter")
    return found


def intruder_test(task: tuple[Task, Index, Index]) -> tuple[dict, np.ndarray | None, np.ndarray | None]:
    """(row, cosines, drawn) of (a Task of one adapter, draws, seed): see `intruders.tested`; None with a `why`."""
    (task, draws, seed), why, held = task, [], (None, None)
    (label,) = task.adapters
    row = {"module": task.module, "adapter": label}
    with noted(why):
        weight = read_weight(base_at(task.base), task)
        added = _read(base_at(task.base), weight, task, label, why)
        if added and added.count:
            found, drawn, test = tested(weight.found, added.found, rng_of(seed, task.module), draws)
            row |= {
                "count": found.count,
                "drawn": test.counts_mean,
                "T": test.statistic,
                "T_drawn": test.statistic_mean,
            }
            row |= {"p": test.p, "least": test.each_p_holm.min()}
            held = found.cosines, drawn
    return row | {"why": "; ".join(why)}, *held


def untested(task: tuple[Task, Index, Index], why: str) -> tuple[dict, None, None]:
    """What stands for `intruder_test` of what could not be done: a row with the reason."""
    (label,) = task[0].adapters
    return {"module": task[0].module, "adapter": label, "why": why}, None, None
