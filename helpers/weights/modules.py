"""Names of a model's modules: finding one, its role and layer, and ONE mapping between the names of two holders."""

import difflib
import re
from collections import Counter
from fnmatch import fnmatchcase

from helpers.weights import architectures
from helpers.weights.tensors import NoSuchModule, WeightsError, listed

# Parts that a wrapper (compiling, distributing, PEFT) puts into names, and that say nothing of the module.
WRAPPERS = {"_orig_mod", "module", "base_layer", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
ANY_MODEL = {"", "model", "base_model"}  # a class's name for what it wraps; says nothing of which part of a model it is

TOWERS = 10**5  # pairs of towers (see `match`) that are held against each other, which takes a second


def plain(name):
    """A module's name without the parts that wrappers put into it."""
    kept = ".".join(part for part in name.split(".") if part not in WRAPPERS) or name
    return kept.removeprefix("base_model.model.") or name


def split_part(module):
    """("….c_attn", "q, head 3") of "….c_attn[q, head 3]"; of a whole module what follows is empty."""
    found = re.fullmatch(r"(.*?)\s*\[([^][]*)\]", module)
    return (found[1], found[2].strip()) if found else (module, "")


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


def expand(pattern, base, names):
    """The modules among `names`, all of them of the base, that a pattern stands for; of those in brackets the parts.

    pattern: a glob on the end of a name, in whole parts, such as `q_proj` or `layers.1?.self_attn.*`; empty: all. In
    brackets stands one on parts: `c_attn[*]` all parts, `q_proj[head *]` all heads, `c_attn[q, head 3]` one.
    Raises NoSuchModule where nothing fits, with what there is; WeightsError where parts are not known.
    """
    stem, wanted = split_part(pattern.strip())
    glob = plain(stem)
    found = [name for name in names if not stem or any(fnmatchcase(name, end + glob) for end in ("", "*."))]
    found = found or [find(stem, names, f"what is changed of {base.label}")]  # which says what there is
    if not pattern.strip().endswith("]"):
        return found
    readable = [name for name in found if base.shape(name) or base.weight(name) is None]  # or why none is
    parts = [f"{name}{text}" for name in readable for text in _parts_like(base, name, wanted)]
    return parts or [base.layout.cut(found[0], base.shape(found[0]), wanted or "*").text]  # likewise


def _parts_like(base, name, wanted):
    """What may stand in brackets after a module that fits, with the brackets."""
    if not set(wanted) & set("*?"):
        try:
            return [base.layout.cut(name, base.shape(name), wanted).text]
        except NoSuchModule:
            return []
    glob = "".join(wanted.split())
    alike = {text: "".join(text.split()) for text in base.layout.each(name, base.shape(name))}
    return [
        f"[{text}]"
        for text, plain in alike.items()
        if ("head" in plain) == ("head" in glob) and any(fnmatchcase(plain, end + glob) for end in ("", "*,"))
    ]


def match(base, updates):
    """{module of the base: its name in the updates}: one mapping for all modules of two holders, one-to-one.

    base, updates: with `modules()`, `shape(module)` and `label`; any two holders will do. Names agree from the first
    number on. What stands before it, a *tower* such as `model.decoder.layers`, belongs to the tower of that name; else
    to one of the same parts in another order; else to one that has more of them, or fewer (`bert.encoder.layer`,
    `encoder.layer`): to the one that has more of its modules, in their shapes. Raises WeightsError where no module has
    a counterpart, and where two towers fit equally.
    """
    rename = base.layout.renamed if hasattr(base, "layout") else str
    theirs, ours = (_towers(holder.modules(), rename) for holder in (updates, base))

    def alike(tower, other):
        """The modules that two towers share, in the same shape as far as it is known."""
        shared = theirs[tower].keys() & ours[other].keys()
        shapes = {rest: {updates.shape(theirs[tower][rest]), base.shape(ours[other][rest])} for rest in shared}
        return {rest for rest, different in shapes.items() if len(different - {None}) < 2}

    chosen = {tower: tower for tower in theirs.keys() & ours.keys() if theirs[tower].keys() & ours[tower].keys()}
    if len(theirs.keys() - chosen.keys()) * len(ours) > TOWERS:
        raise WeightsError(f"names of {updates.label} and {base.label} have too little in common: give its own base")
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
    for tower, best in ill_fitting.items():  # so that reading a module of another shape can say so
        if tower not in chosen and len(best) == 1 and best[0] not in chosen.values():
            chosen[tower] = best[0]
    pairs = {ours[o][rest]: theirs[t][rest] for t, o in chosen.items() for rest in theirs[t].keys() & ours[o].keys()}
    if not pairs:
        have = f"the one has {listed(updates.modules())}, the other {listed(base.modules())}"
        raise WeightsError(f"no module of {updates.label} is one of {base.label}: {have}; give its own base")
    return dict(sorted(pairs.items()))


def short_name(module):
    """The last part of a module's name, for a sentence or a figure: whatever could act as markup becomes `·`."""
    stem, part = split_part(_last(module))
    return re.sub(r"[^\w-]", "·", stem) + (f"[{re.sub(r'[^a-z0-9, ]', '·', part)}]" if part else "")


def role(module):
    """What a projection does in attention, by the usual names: "q", "k", "v", "o"; else the part named, or ""."""
    stem, part = split_part(module)
    named = part.partition(",")[0]
    return architectures.role(stem) if not named or named.startswith("head") else named.strip()


def query_and_value(module, names):
    """`module` and, where `names` holds it, the value projection beside it (beside a value projection: the query).

    Beside a head the one that it attends with: of grouped heads several queries share one value.
    """

    def beside(wanted):
        alike = [(head, name) for name in names for *place, head in [_place(name)] if place == [*own, wanted]]
        return [name for head, name in sorted(alike) if (head < 0) == (number < 0)]

    (*own, kind, number), wanted = _place(module), "q" if role(module) == "v" else "v"
    mine, others = beside(kind), beside(wanted)
    if not others or module not in mine:
        return [module]
    return [module, others[mine.index(module) * len(others) // len(mine)]]


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
    """2: the same parts; 1: the one has the other's parts and more; 0: each has its own. Those in brackets are none."""
    told = ([part for part in tower.split(".") if part not in ANY_MODEL and part[0] != "("] for tower in (one, other))
    one, other = map(Counter, told)
    return 2 if one == other else int(one <= other or one >= other)


def _refuse_rivals(found, base, updates):
    """Raise WeightsError where a tower fits several, or several fit one: {tower of the updates: [of the base]}."""
    for tower, fitting in found.items():
        rivals = [other for other in found if other != tower and set(found[other]) & set(fitting)]
        if len(fitting) > 1 or rivals:
            could = f"{listed([tower, *rivals])} of {updates.label} could be {listed(fitting)} of {base.label}"
            raise WeightsError(f"names fit in more than one way: {could}; give files whose names agree, or hold one")


def _place(name):
    """(parent of a module, its role, number of its head or −1)."""
    stem, part = split_part(name)
    head = re.search(r"head (\d+)", part)
    return stem.rpartition(".")[0], role(name), int(head[1]) if head else -1


def _last(name):
    return name.rpartition(".")[2]
