"""Names of a model's modules: finding one, its role in attention, its counterparts in other layers."""

import difflib
import re
from collections import Counter

# What projections of attention are called in common architectures.
ROLES = {
    **dict.fromkeys(("query", "q_proj", "q_lin", "q", "wq"), "q"),
    **dict.fromkeys(("key", "k_proj", "k_lin", "k", "wk"), "k"),
    **dict.fromkeys(("value", "v_proj", "v_lin", "v", "wv"), "v"),
    **dict.fromkeys(("o_proj", "out_proj", "out_lin", "o", "wo"), "o"),
}


class NoSuchModule(ValueError):
    """A name that fits no module, or several; the message lists candidates."""


def find(wanted, names, where):
    """The one of `names` that is `wanted`, ends with it, is its end, or agrees from the layer's number on.

    An adapter's `bert.encoder.layer.0.x` is the base's `encoder.layer.0.x`; prefixes change with the class that
    a model was loaded by. Parts are whole: `layer.1` is not found in `layer.11`. where: owner, for the message.
    Raises NoSuchModule when none or several fit.
    """
    names = list(names)
    if wanted in names:
        return wanted
    found = [name for name in names if name.endswith("." + wanted)]
    found = found or [name for name in names if wanted.endswith("." + name)]
    found = found or [name for name in names if _from_layer(name) == _from_layer(wanted) != ""]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchModule(f"module {wanted!r} is ambiguous in {where}: {_listed(found)}; write more of the name")
    parts = wanted.count(".") + 1
    ends = {".".join(name.split(".")[-parts:]): name for name in reversed(names)}
    near = [ends[end] for end in difflib.get_close_matches(wanted, ends, 3)]
    hint = f"did you mean {_listed(near)}?" if near else f"they are {_listed(names)}"
    raise NoSuchModule(f"module {wanted!r} is not in {where}, which has {len(names)} modules; {hint}")


def common(holders):
    """Modules of the first of `holders` (adapters, models), under its names, that all the others have too."""
    first, *others = holders
    return [name for name in first.modules() if all(_has(other, name) for other in others)]


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
    parts = module.split(".")
    place = next((n for n, part in enumerate(parts) if part.isdigit()), None)
    if place is None:
        return {0: module}
    pattern = re.compile(r"\.".join(r"(\d+)" if n == place else re.escape(part) for n, part in enumerate(parts)))
    return dict(sorted((int(match[1]), match[0]) for match in map(pattern.fullmatch, names) if match))


def by_layer(names):
    """{(layer, projection): name}: the first number in a name, 0 without one, and the name's last part.

    Where several end alike, the projection is the whole name without that number.
    """
    places = {}
    for name in names:
        parts = name.split(".")
        number = next((part for part in parts if part.isdigit()), None)
        if number:
            parts.remove(number)
        places[name] = int(number or 0), ".".join(parts)
    alike = Counter(_last(stem) for stem in {stem for _, stem in places.values()})
    return {(layer, _last(stem) if alike[_last(stem)] == 1 else stem): name for name, (layer, stem) in places.items()}


def _has(holder, module):
    try:
        return bool(holder.find(module))
    except NoSuchModule:
        return False


def _from_layer(name):
    """`layers.3.q_proj` of `model.layers.3.q_proj`: from the part before the first number; empty without one."""
    match = re.search(r"(?:^|\.)([^.]+\.\d+\..*)", name)
    return match[1] if match else ""


def _last(name):
    return name.rpartition(".")[2]


def _listed(names):
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(repr(name) for name in names[:6]) + more
