"""A model and its adapters at one module: opened, matched, and held against each other."""

from weakref import WeakKeyDictionary

import numpy as np

from helpers.weights import Dense, LowRank, NoSuchModule, WeightsError, modules, open_base, open_update

RELATED = 0.1  # cosine of W and W′; an update ten times as large as W would leave as much
SAME = 1e-6  # of a norm: some roundings of float32
_matches = WeakKeyDictionary()


class Compared:
    """A model and its adapters, opened, matched and checked at one module.

    parameters: with base, adapters, module and factor, as in `parameters.SubspaceSimilarity`. opened: another of the
    kind, whose adapters, and base where it is the same, are taken and not opened again. Raises WeightsError where they
    cannot be compared.

    base: `Base`, or None. updates: `Updates` of each adapter. module: its full name, as the base has it (without one:
    as the first adapter has it). names: what each of the updates calls it. here: `LowRank` or `Dense` of each. common:
    {module: names in each of the updates}, of all that base and updates have and that can be read; if the module is a
    head, of all heads, and if it is a part of a fused projection, of all such parts.
    """

    def __init__(self, parameters, opened=None):
        p = self.parameters = parameters
        opened = opened if opened and opened.parameters.base == p.base else None
        known = dict(zip(opened.parameters.adapters, opened.updates, strict=True)) if opened else {}
        self.base = opened.base if opened else open_base(p.base) if p.base else None
        self.updates = [known.get(path) or open_update(path, self.base) for path in p.adapters]
        refuse_twice(self.updates)
        first = self.base or self.updates[0]
        self.matches = [matched(first, updates) for updates in self.updates]
        shared = sorted(set.intersection(*map(set, self.matches)))
        held = [module for module in shared if self.base is None or self.base.shape(module)]
        self.packed = sorted(set(shared) - set(held))
        self.common = {module: [pair[module] for pair in self.matches] for module in held}
        self.module = self._find(first, p.module)
        if self.base and not opened:
            self.base.weight(self.module)  # or why it cannot be read
        for updates, pair in zip(self.updates, self.matches, strict=True):
            if modules.split_part(self.module)[0] not in pair:
                updates.find(self.module)  # says what it has instead
                raise WeightsError(
                    f"{updates.label} has no counterpart of {self.module}: choose one that `inspect` shows"
                )
        if part := modules.split_part(self.module)[1]:
            self.common = self._parts("head" in part)
        self.names = self.common[self.module]
        self.here = [updates.update(name) for updates, name in zip(self.updates, self.names, strict=True)]
        self._check()

    @property
    def notes(self) -> list[str]:
        """What a reader must see of how the files were read: sentences."""
        told = []
        for n, updates in enumerate(self.updates):
            told += updates.notes + self._unread(n)
            if self.base and self.names[n] != self.module:
                told.append(f"{updates.label} calls the module {self.names[n]}")
        whole, part = modules.split_part(self.module)
        cut = part and self.base.layout.cut(whole, self.base.shape(whole), part)
        if cut and self.parameters.factor == "A" and not cut.axis:
            told.append(f"A is that of the whole {whole}; of [{part}] alone is W, and with factor BA ΔW, too")
        if self.packed:
            told.append(f"{len(self.packed)} more modules are packed in {self.base.label}, such as {self.packed[0]}")
        return told

    @property
    def files(self) -> list:
        """The files that base and updates are read from, sorted."""
        return sorted({file for holder in (self.base, *self.updates) if holder for file in holder.files})

    @property
    def factors(self) -> list[str]:
        """The factors whose directions can be compared: A only where every update has one."""
        return ["A", "BA"] if all(isinstance(update, LowRank) for update in self.here) else ["BA"]

    def _find(self, first, wanted):
        """The module that is wanted, by the name of the base or by that of an adapter."""
        try:
            return first.find(wanted)
        except NoSuchModule:
            whole, part = modules.split_part(wanted)
            if found := next((module for module, names in self.common.items() if whole in names), None):
                return first.find(f"{found}[{part}]")
            raise

    def _parts(self, heads):
        """`common` of every head, or of every part of a fused projection that is no head."""
        return {
            f"{module}[{part}]": [f"{name}[{part}]" for name in names]
            for module, names in self.common.items()
            for part in self.base.layout.each(module, self.base.shape(module))
            if ("head" in part) == heads
        }

    def _check(self):
        p, shapes = self.parameters, [update.shape for update in self.here]
        for n, (updates, update, name) in enumerate(zip(self.updates, self.here, self.names, strict=True)):
            if isinstance(update, Dense) and p.factor == "A":
                raise WeightsError(f"{updates.label} gives a whole ΔW, which has no factor A: use factor BA")
            if why := without_directions(update, p.factor, updates.label, name, self.base and self.base.label):
                raise WeightsError(why)
            if shapes[n] != shapes[0]:
                raise WeightsError(
                    f"{updates.label} adds a {shapes[n][0]} × {shapes[n][1]} matrix to {name}, but "
                    f"{self.updates[0].label} has {shapes[0][0]} × {shapes[0][1]}: they belong to different models; "
                    "give adapters trained on one"
                )
            for k in (k for k in range(n) if same_numbers(self.here[k], update)):
                raise WeightsError(given_twice(self.updates[k], updates, name))
            if isinstance(update, Dense):
                weight = self.base.weight(self.module)
                if why := unrelated(weight, update.difference, self.module, self.base.label, updates.label):
                    raise WeightsError(why)
            updates.untrained_a(name)

    def _unread(self, n):
        """What the files of the n-th update hold and no table here shows, in a sentence, if there is anything."""
        updates = self.updates[n]
        told = [f"{name} ({why})" for name, why in unread(updates, self.base and self.matches[n]).items()]
        more = f" and {len(told) - 4} more" if len(told) > 4 else ""
        return [f"{updates.label} also holds what is not read here: {', '.join(told[:4])}{more}"] * bool(told)


def unread(updates, matches):
    """{name: why} of what the files of an adapter hold and is not compared.

    matches: {module of the base: its name there}; None without a base.
    """
    known = set(updates.modules() if matches is None else matches.values())
    return {name: "not in the base" for name in updates.modules() if name not in known} | updates.left_out


def matched(first, updates):
    """`modules.match`, once for a pair of holders."""
    seen = _matches.setdefault(updates, {})
    if first not in seen:
        seen[first] = modules.match(first, updates)
    return seen[first]


def refuse_twice(every):
    """WeightsError where two of the updates lie in one place."""
    if len({updates.path.resolve() for updates in every}) < len(every):
        raise WeightsError(f"an adapter is named twice: {[str(updates.path) for updates in every]}; name each once")


def without_directions(update, factor, label, name, base):
    """Why an update has no directions of a factor, in a sentence; empty where it is not zero.

    label, name, base: what adapter, module and model are called.
    """
    if isinstance(update, Dense):
        alike = f"{name} of {label} is what it is in {base}: choose one that training changed"
        return "" if update.difference.any() else alike
    if not update.a.any():
        return f"{label}: A of {name} is zero and has no directions: give a trained adapter"
    if factor == "BA" and not update.b.any():
        return f"{label}: B of {name} is zero, so ΔW = B A is zero and has no directions: compare factor A"
    return ""


def unrelated(weight, difference, module, base, label):
    """Why W′ = W + difference is none of W's, in a sentence: they share next to nothing, as those of two trainings.

    Empty where W′ is related to W, or zero. module, base, label: what the module, the model and the other are called.
    """
    before = weight.astype(np.float64)
    after = before + difference
    if not after.any():  # pruned
        return ""
    cosine = (before * after).sum() / (np.linalg.norm(before) * np.linalg.norm(after) or 1.0)
    if abs(cosine) >= RELATED:
        return ""
    return (
        f"{module} of {base} and what {label} makes of it have a cosine of {cosine:.3f}, as of two models with nothing "
        "in common: give the base that it was trained from"
    )


def given_twice(one, other, name):
    """What is said of two updates that are the same numbers."""
    return (
        f"{one.path} and {other.path} hold the same numbers at {name}: one adapter given twice, whose agreement is no "
        "finding; name it once"
    )


def same_change(one, other):
    """Whether two updates are one ΔW, not zero, but for rounding of float32, whatever their factors."""
    if one.shape != other.shape:
        return False
    delta = one.delta()
    return bool(delta.any()) and np.linalg.norm(delta - other.delta()) <= SAME * np.linalg.norm(delta)


def same_numbers(one, other):
    """Whether two updates are the same numbers."""
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        return one.scale == other.scale and np.array_equal(one.a, other.a) and np.array_equal(one.b, other.b)
    return type(one) is type(other) and np.array_equal(one.delta(), other.delta())
