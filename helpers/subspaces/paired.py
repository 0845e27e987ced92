"""One module and what several adapters add to it → rows of each pair, of merges and of checkpoints: a worker's part.

Knows paths, as `measured`, and gives plain dicts, so that workers elsewhere can do it.
"""

from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
from scipy import linalg, stats

from helpers.subspaces import agreement, chance, directions, measured, merging, similarity
from helpers.subspaces.measured import Added, Place, noted
from helpers.weights import Dense, WeightsError

MOST_J = 4  # leading directions of ΔW that φ compares
TABLES = ("pairs", "interference", "kept", "kept_of_pairs", "drift")


class Task(NamedTuple):
    """A module to be compared: {label of an adapter or checkpoint: (its Place, its name of the module, or None)}.

    adapters: labels of those that are held against each other. checkpoints: of states of one run, its end last.
    density: of `merging.merge`.
    """

    module: str
    base: Place | None
    states: dict
    adapters: tuple
    checkpoints: tuple
    density: float


class State(NamedTuple):
    """What an adapter or checkpoint adds to a module.

    delta: ΔW [out, in]. trimmed: what of it a merge by TIES takes, or None. a: A as it is stored, [r, in], of updates
    with factors. untrained: A before training, where it is known.
    """

    added: Added
    delta: np.ndarray
    trimmed: np.ndarray | None
    a: np.ndarray | None
    untrained: np.ndarray | None

    @property
    def size(self):
        """‖ΔW‖_F."""
        return float(self.added.found.size)

    def phi_error(self, j):
        """The most that rounding, as stored and as computed, may do to φ of the j leading directions of ΔW."""
        perturbation = self.added.found.computed + self.added.rounding
        return float(directions.phi_errors(self.added.found.values, j, perturbation)[-1])


def compare(task: Task) -> dict[str, list[dict]]:
    """{each of TABLES: rows, {column: value}, without what is not known}."""
    whys = {label: [] for label in task.states}
    states = {label: _read(task, label, why) for label, why in whys.items() if task.states[label][1] is not None}
    here = {label: state for label, state in states.items() if label in task.adapters}
    found = {name: [] for name in TABLES}
    for labels in combinations(here, 2):
        pair, two, why = dict(zip(("one", "other"), labels, strict=True)), {label: here[label] for label in labels}, []
        row = {f"norm_{end}": here[label].size for end, label in pair.items() if here[label]}
        if all(each and each.added.count for each in two.values()):
            with noted(why):
                row |= _agreement(two.items(), why)
                row |= _chance_of(*two.values(), row["cosine"])
                found["interference"] += _interference(two, row["same_start"])
                found["kept_of_pairs"] += [pair | kept for kept in _kept(two, 2)]
        found["pairs"].append(pair | row | {"why": _told(whys[labels[0]], whys[labels[1]], why)})
    if len(here) > 1 and all(here.values()):
        with noted([]):  # of which a pair says why
            found["kept"] = _kept(here, len(task.adapters))
    run = {label: states[label] for label in task.checkpoints if label in states}
    found["drift"] = _drift(run, task.checkpoints[-1:], whys)
    return found


def lost(task: Task, why: str) -> dict[str, list[dict]]:
    """What stands for `compare` of a Task that could not be done: rows with the reason."""
    here = [label for label, (_, name) in task.states.items() if name is not None]
    found = {name: [] for name in TABLES}
    pairs = combinations([label for label in here if label in task.adapters], 2)
    found["pairs"] = [{"one": one, "other": other, "why": why} for one, other in pairs]
    found["drift"] = [{"checkpoint": label, "why": why} for label in task.checkpoints if label in here]
    return found


def _read(task, label, why):
    """The State of one that changes the module, or None with the reason in `why`."""
    place, name = task.states[label]
    with noted(why):
        updates = measured.updates_at(place, task.base)
        update = updates.update(name)
        dense = isinstance(update, Dense)
        base = task.base and measured.base_at(task.base)
        added = measured.added(base, _weight(task) if dense else None, update, task.module, label, why)
        delta = update.delta()
        trimmed = None
        if label in task.adapters:
            with noted(why):  # of TIES alone: the rest can be told
                trimmed = merging.merge([delta], "ties", task.density)
        return State(added, delta, trimmed, None if dense else update.a, updates.untrained_a(name))
    return None


def _weight(task):
    """W of the module; None where it is not known, or zero."""
    try:
        matrix = task.base and measured.base_at(task.base).weight(task.module)
    except WeightsError:
        return None
    return matrix if matrix is not None and matrix.any() else None


def _agreement(two, why):
    """Cosine, φ and angles of two States, given with their labels. Raises ValueError where their shapes differ."""
    labels, states = zip(*two, strict=True)
    shapes, added = [each.delta.shape for each in states], [each.added for each in states]
    if shapes[0] != shapes[1]:
        sizes = [f"{label} adds {out} × {width}" for label, (out, width) in zip(labels, shapes, strict=True)]
        raise ValueError(f"{' and '.join(sizes)}: they belong to different models")
    j = min(MOST_J, *(each.count for each in added))
    row = {
        "out": shapes[0][0],
        "in": shapes[0][1],
        "cosine": agreement.cosine(*(each.delta for each in states)),
        "j": j,
    }
    errors = {label: each.phi_error(j) for label, each in zip(labels, states, strict=True)}
    row["phi_error"] = max(errors.values())
    for label in (label for label, error in errors.items() if error >= 1):
        why.append(
            f"φ at j = {j}: directions of {label} are not determined, as singular values agree to within rounding"
        )
    for side in ("left", "right"):
        angles = linalg.subspace_angles(*(each.leading("BA", side)[:, :j] for each in added))
        row |= {f"phi_{side}": float(np.mean(np.cos(angles) ** 2)), f"angle_{side}": float(np.degrees(angles[-1]))}
    return row


def _chance_of(one, other, cosine):
    """Standard deviation of the cosine of two States that have nothing to do with each other, and p of theirs.

    Of two whose A began as one, chance keeps the directions of their inputs, and rotates those of their outputs alone:
    the sum of σ_a τ_b (V₁ᵀV₂)_ab times the overlap of two output directions, nearly normal, of variance 1/out.
    """
    found, shape = [each.added.found for each in (one, other)], one.delta.shape
    known = one.untrained is not None and other.untrained is not None
    same = np.array_equal(one.untrained, other.untrained) if known else same_start(one.a, other.a)
    if not same:
        p = agreement.cosine_p(cosine, *(each.values for each in found), shape)
        return {"same_start": False, "cosine_sd": agreement.cosine_sd(shape), "cosine_p": p}
    x, y = (each.right * (each.values / each.size) for each in found)
    sd = float(np.linalg.norm(x.T @ y) / np.sqrt(shape[0]))
    p = 2 * stats.norm.sf(abs(cosine) / max(sd, agreement.ROUNDING))
    return {"same_start": True, "cosine_sd": sd, "cosine_p": float(p)}


def same_start(a: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two A [r, in] began as one: row by row they are more alike than any row is like another one's row.

    By 0.1 of a cosine, and by six standard deviations of random ones, 1/√(r in). Of r = 1 that is not told. None: of a
    whole ΔW.
    """
    if a is None or other is None or a.shape != other.shape or len(a) == 1:
        return False
    cosines, (r, d) = (_unit(a) @ _unit(other).T).astype(np.float64), a.shape
    own = np.trace(cosines) / r
    rest = (cosines.sum() - r * own) / (r * (r - 1))
    return bool(own - abs(rest) > max(0.1, 6 / np.sqrt(r * d)))


def _unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _interference(two, same):
    """What each of two States writes into the other."""
    return [
        {
            "one": name,
            "other": label,
            "same_start": same,
            **agreement.interference(one.added.found, other.added.found)._asdict(),
        }
        for (name, one), (label, other) in permutations(two.items(), 2)
    ]


def _kept(states, count):
    """Rows of what a merge of as many adapters keeps of each State that adds something; the others add nothing to it.

    Of sums all follows from inner products; TIES of what each takes is that of the whole, where each takes something.
    Independent updates are orthogonal but for a cosine of 1/√(out · in) in size.
    """
    adding = {label: each for label, each in states.items() if each.size}
    if not adding:
        return []
    deltas, sizes = [each.delta for each in adding.values()], np.array([each.size for each in adding.values()])
    inner = np.array([[np.vdot(one, other) for other in deltas] for one in deltas])
    total, square = inner.sum(1), inner.sum()
    merges = {
        "sum": (total, square, 1.0),
        "average": (total / count, square / count**2, 1 / count),
        "ties": (np.full(len(deltas), np.nan), np.nan, np.nan),
    }
    if all(each.trimmed is not None for each in adding.values()):
        elected = merging.merge([each.trimmed for each in adding.values()], "ties", 1.0)
        merges["ties"] = [np.vdot(elected, delta) for delta in deltas], np.vdot(elected, elected), np.nan
    rows = []
    for method, (inside, square, weight) in merges.items():
        for n, (label, size) in enumerate(zip(adding, sizes, strict=True)):
            row = {"method": method, "adapter": label, "norm": size, "along_independent": weight}
            row["off_independent"] = weight * np.linalg.norm(np.delete(sizes, n)) / size
            rows.append(row | merging.keeps(inside[n], square, size)._asdict())
    return rows


def _drift(run, end, whys):
    """Rows of the States of a run, by their labels, beside its end."""
    rows, last = [], next((run[label] for label in end if label in run), None)
    untrained = next((each.untrained for each in run.values() if each and each.untrained is not None), None)
    for label, each in run.items():
        row, why = {"checkpoint": label}, []
        if each:
            row |= {"norm": each.size}
            with noted(why):
                row |= _kept_a(each, untrained)
        if each and last and each.added.count and last.added.count:
            with noted(why):
                found = _agreement([(label, each), (end[0], last)], why)
                row |= {f"{name}_end": found[name] for name in ("cosine", "phi_left", "phi_right")}
                row |= {name: found[name] for name in ("out", "in", "j")} | {"norm_end": last.size}
        rows.append(row | {"why": _told(whys[label], why)})
    return rows


def _kept_a(state, untrained):
    """φ(r, r) of the directions of A now and before training, as far as both are known, and its chance."""
    a = state.added.a
    if untrained is None or a is None or not a.shape[1]:
        return {}
    first = directions.top_directions(untrained, None).vectors
    sizes = first.shape[1], a.shape[1]
    return {"kept_a": similarity.phi(first, a, *sizes), "kept_a_chance": float(chance.mean(*sizes, len(first)))}


def _told(*whys):
    """Reasons as one text, each once."""
    return "; ".join(dict.fromkeys(reason for why in whys for reason in why))
