"""Names of a model's modules: finding one, its role and layer, and ONE mapping between the names of two holders."""

import difflib
import re
from collections import Counter

from helpers.weights.tensors import NoSuchModule, WeightsError, listed

# What projections of attention are called in common architectures.
ROLES = {
    **dict.fromkeys(("query", "q_proj", "q_lin", "q", "wq"), "q"),
    **dict.fromkeys(("key", "k_proj", "k_lin", "k", "wk"), "k"),
    **dict.fromkeys(("value", "v_proj", "v_lin", "v", "wv"), "v"),
    **dict.fromkeys(("o_proj", "out_proj", "out_lin", "o", "wo"), "o"),
}
# Parts that a wrapper (compiling, distributing, PEFT) puts into names, and that say nothing of the module.
WRAPPERS = {"_orig_mod", "module", "base_layer", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
ANY_MODEL = {"", "model", "base_model"}  # a class's name for what it wraps; says nothing of which part of a model it is


def plain(name):
    """A module's name without the parts that wrappers put into it."""
    kept = ".".join(part for part in name.split(".") if part not in WRAPPERS) or name
    return kept.removeprefix("base_model.model.") or name


def find(wanted, names, where, more=""):
    """The one of `names` that is `wanted` or ends with it, in whole parts: `layer.1` is not found in `layer.11`.

    where: owner, for the message. more: what the message adds where nothing fits. Raises NoSuchModule when none or
    several fit.
    """
    names = list(names)
    found = [name for name in names if name in (wanted, plain(wanted))]
    found = found or [name for name in names if name.endswith("." + wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchModule(f"module {wanted!r} is ambiguous in {where}: {listed(found)}; write more of the name")
    parts = wanted.count(".") + 1
    ends = {".".join(name.split(".")[-parts:]): name for name in reversed(names)}
    near = [ends[end] for end in difflib.get_close_matches(wanted, ends, 3)]
    hint = f"did you mean {listed(near)}?" if near else f"they are {listed(names)}"
    raise NoSuchModule(f"module {wanted!r} is not in {where}, which has {len(names)} modules; {hint}{more}")


def match(base, updates):
    """{module of the base: its name in the updates}: one mapping for all modules of two holders, one-to-one.

    base, updates: with `modules()`, `shape(module)` and `label`; any two holders will do. Names agree from the first
    number on. What stands before it, a *tower* such as `model.decoder.layers`, belongs to the tower of that name; else
    to one of the same parts in another order; else to one that has more of them, or fewer (`bert.encoder.layer`,
    `encoder.layer`): to the one that has more of its modules, in their shapes. Raises WeightsError where no module has
    a counterpart, and where two towers fit equally.
    """
    rename = getattr(base, "renamed", str)
    theirs, ours = (_towers(holder.modules(), rename) for holder in (updates, base))

    def alike(tower, other):
        """The modules that two towers share, in the same shape as far as it is known."""
        shared = theirs[tower].keys() & ours[other].keys()
        shapes = {rest: {updates.shape(theirs[tower][rest]), base.shape(ours[other][rest])} for rest in shared}
        return {rest for rest, different in shapes.items() if len(different - {None}) < 2}

    chosen = {tower: tower for tower in theirs.keys() & ours.keys() if theirs[tower].keys() & ours[tower].keys()}
    ill_fitting = {}
    for degree in (2, 1):
        found = {}
        for tower in sorted(theirs.keys() - chosen.keys()):
            free = [o for o in ours if o not in chosen.values() and _kinship(tower, o) == degree]
            fits = {other: alike(tower, other) for other in free if theirs[tower].keys() & ours[other].keys()}
            best = [other for other in fits if not any(fits[other] < rival for rival in fits.values())]
            if best:
                (found if fits[best[0]] else ill_fitting)[tower] = best
        _refuse_rivals(found, base, updates)
        chosen |= {tower: best[0] for tower, best in found.items()}
    if not chosen:
        _refuse_rivals(ill_fitting, base, updates)
        chosen = {tower: best[0] for tower, best in ill_fitting.items()}
    pairs = {ours[o][rest]: theirs[t][rest] for t, o in chosen.items() for rest in theirs[t].keys() & ours[o].keys()}
    if not pairs:
        have = f"the one has {listed(updates.modules())}, the other {listed(base.modules())}"
        raise WeightsError(f"no module of {updates.label} is one of {base.label}: {have}; give its own base")
    return dict(sorted(pairs.items()))


def short_name(module):
    """The last part of a module's name, for a sentence or a figure: whatever could act as markup becomes `·`."""
    return re.sub(r"[^\w-]", "·", _last(module))


def role(module):
    """What a projection does in attention, by the usual names: "q", "k", "v", "o", or "" for any other."""
    return ROLES.get(_last(module), "")


def query_and_value(module, names):
    """`module` and, where `names` holds it, the value projection beside it (beside a value projection: the query)."""
    wanted, parent = "q" if role(module) == "v" else "v", module.rpartition(".")[0]
    beside = (name for name in names if name.rpartition(".")[0] == parent)
    return [module, *(name for name in beside if name != module and role(name) == wanted)]


def every_layer(module, names):
    """{layer number: name} of those `names` that differ from `module` in its first number only; else {0: module}."""
    before, _, after = _split(module)
    places = {name: _split(name) for name in names}
    layers = {int(n): name for name, (start, n, end) in places.items() if n and (start, end) == (before, after)}
    return dict(sorted(layers.items())) or {0: module}


def by_layer(names):
    """{(layer, projection): name}: the first number in a name, 0 without one, and the name's last part.

    Where several end alike, the projection is the whole name without that number.
    """
    places = {}
    for name in names:
        before, number, after = _split(name)
        places[name] = int(number or 0), f"{before}.{after}".strip(".")
    alike = Counter(_last(stem) for stem in {stem for _, stem in places.values()})
    return {(layer, _last(stem) if alike[_last(stem)] == 1 else stem): name for name, (layer, stem) in places.items()}


def _split(name):
    """(what stands before the first number in a name, the number, what follows); without one (…, "", the last part)."""
    numbered = re.fullmatch(r"(?:(.*?)\.)??(\d+)(?:\.(.*))?", name)
    before, _, last = name.rpartition(".")
    return numbered.groups("") if numbered else (before, "", last)


def _towers(names, rename):
    """{what stands before the first number, or before the last part: {the rest: name}}."""
    towers = {}
    for name in names:
        tower, *rest = _split(rename(name))
        towers.setdefault(tower, {})[tuple(rest)] = name
    return towers


def _kinship(one, other):
    """2: the same parts; 1: the one has the other's parts and more; 0: each has its own."""
    one, other = (Counter(part for part in tower.split(".") if part not in ANY_MODEL) for tower in (one, other))
    return 2 if one == other else int(one <= other or one >= other)


def _refuse_rivals(found, base, updates):
    """Raise WeightsError where a tower fits several, or several fit one: {tower of the updates: [of the base]}."""
    for tower, fitting in found.items():
        rivals = [other for other in found if other != tower and set(found[other]) & set(fitting)]
        if len(fitting) > 1 or rivals:
            could = f"{listed([tower, *rivals])} of {updates.label} could be {listed(fitting)} of {base.label}"
            raise WeightsError(f"names fit in more than one way: {could}; give files whose names agree, or hold one")


def _last(name):
    return name.rpartition(".")[2]
