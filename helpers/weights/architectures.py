"""How the weights of a model lie: rows of architectures.toml, and the numbers in its config.json or a GGUF's header."""

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers.weights.tensors import NoSuchModule, WeightsError, listed

ROWS = tomllib.loads(Path(__file__).with_name("architectures.toml").read_text(encoding="utf-8"))
COMMON = ROWS.pop("common")
ROWS = {row["arch"]: {"like": kind} for kind, row in ROWS.items() if "arch" in row} | ROWS
ROLES = {end: part for part, ends in COMMON["roles"].items() for end in ends}
OF_TEXT = re.compile(r"(model\.|transformer\.)?(layers|h)\.")


class Cut(NamedTuple):
    """A part of a matrix [out, in]: some of its rows or, of a head of an output projection, some of its columns.

    text: what follows the name of a module: "[q]", "[q, head 3]" or "[head 3]"; "" of the whole. axis: 0 of rows, 1 of
    columns. index: their numbers.
    """

    text: str
    axis: int
    index: slice | np.ndarray

    def __call__(self, matrix):
        """The part of a matrix [out, in]."""
        return matrix[:, self.index] if self.axis else matrix[self.index]

    def shape(self, whole):
        """Its (out, in), of a matrix of that shape."""
        size = len(np.arange(whole[self.axis])[self.index])
        return (whole[0], size) if self.axis else (size, whole[1])


WHOLE = Cut("", 0, slice(None))


class Layout:
    """How the weights of one model lie.

    config: what config.json says. fields: a GGUF's header. tensors: {name: what has a shape}, by which GPT-2 is known
    without a config.json. label: the model in sentences. kind: its model_type, in a GGUF general.architecture. kinds:
    with those of the models that it is composed of. known: whether one of them has a row.
    """

    def __init__(self, config, fields=None, tensors=None, label="the model"):
        self.fields, self.where = fields or {}, f"the {'header' if fields else 'config.json'} of {label}"
        self.kind = str(self.fields.get("general.architecture", config.get("model_type") or ""))
        if self.kind not in ROWS:
            self.kind = _kind_by_shape(tensors or {}) or self.kind
        header = {key.removeprefix(f"{self.kind}."): value for key, value in self.fields.items()}
        self._whole, self._towers = (self.kind, header or config, False), {}
        for key, inner in config.items():
            if isinstance(inner, dict) and (inner.get("model_type") or key in COMMON["towers"]) and not self.fields:
                names = [key, key.removesuffix("_config"), *COMMON["towers"].get(key, [])]
                self._towers |= dict.fromkeys(names, (str(inner.get("model_type") or self.kind), inner, True))
        self.kinds = list(dict.fromkeys([self.kind, *(kind for kind, *_ in self._towers.values())]))
        self.known = any(map(architecture, self.kinds))

    def transposed(self, module):
        """Whether the weight of a module is stored as [in, out]: never in a GGUF."""
        tower = self._tower(module)
        kinds = [tower[0]] if tower else self.kinds
        return not self.fields and any(_ends(architecture(kind), "transposed", module) for kind in kinds)

    def renamed(self, module):
        """A module's name in this architecture, where another release of its library writes a different one."""
        for kind in self.kinds:
            for old, new in architecture(kind).get("renamed", {}).items():
                module = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, module)
        return module

    def order(self, module, rows):
        """Index that puts a GGUF's rows of a module in Hugging Face's order; None where it changes nothing.

        Raises WeightsError where the numbers of heads are missing, or do not divide the rows.
        """
        return gguf_order(self.kind, module, self.heads, rows) if self.fields else None

    def heads(self, module):
        """(heads, heads of key and value) of the attention of a module. Raises WeightsError where nothing tells."""
        row, settings, nested = self._row(module)
        given = {key: value for key, value in settings.items() if value is not None}
        named = [row["heads"][part] for part in module.split(".") if part in row.get("heads", {})]
        known, keys = given if self.fields else {**row.get("defaults", {}), **given}, named[:1] or COMMON["heads"]
        heads = self._count(known if nested else given, keys, module)
        if heads is None:
            lacking = keys[-1 if self.fields else 0]
            raise WeightsError(f"{self.where} lacks {lacking}, how many heads {module} has: complete it")
        alone = known.get("multi_query") and not known.get("new_decoder_architecture")
        shared = 1 if alone else self._count(known, COMMON["kv_heads"], module) or heads
        if heads % shared:
            raise WeightsError(f"{self.where} gives {module} {heads} heads, and {shared}, no divisor, of key and value")
        return heads, shared

    def parts(self, module, shape):
        """What may stand in brackets after a module, in words: "q", "q, head 0 … 3", "head 0 … 3"; [] of most."""
        split = [re.fullmatch(r"(.*?)([0-9]*)", text).groups() for text in self.each(module, shape)]
        return [f"{text}0 … {last}" if last else text for text, last in dict(split).items()]

    def each(self, module, shape):
        """All that may stand in brackets after a module: "q", "q, head 0", "q, head 1", …; "head 0", …; [] of most."""
        try:
            return list(self._cuts(module, shape)) if shape else []
        except WeightsError:
            return []

    def cut(self, module, shape, part):
        """The Cut of a module of this shape [out, in] that stands in brackets: "q", "q, head 3", "head 3"; "": WHOLE.

        Heads count from 0, those of key and value by themselves. Raises NoSuchModule, which lists what there is;
        WeightsError where the architecture or the numbers of heads are not known, or do not divide the matrix.
        """
        wanted = re.sub(r"(?<=head)0+(?=[0-9])", "", "".join(part.split()))
        if not wanted:
            return WHOLE
        cuts = {text.replace(" ", ""): cut for text, cut in self._cuts(module, shape).items()}
        if not self._fused(module)[0] and (own := role(module)):
            cuts |= {own: WHOLE} | {f"{own},{text}": cut for text, cut in cuts.items()}
        if wanted not in cuts:
            has = listed(self.parts(module, shape)) or "nothing of the kind"
            raise NoSuchModule(f"{module} has no part [{part.strip()}]: by its architecture it has {has}")
        return cuts[wanted]

    def _tower(self, module):
        """(model type, config, True) of the part of a composite model whose name a module bears; None of others."""
        return next((self._towers[part] for part in module.split(".") if part in self._towers), None)

    def _row(self, module):
        """(row, config, whether it is nested) of the part of a model that a module belongs to."""
        # Of the text tower alone some files have names without the tower's; what else has none is no part of it.
        text = self._towers.get("text_config") if OF_TEXT.match(module) else None
        kind, settings, nested = self._tower(module) or text or self._whole
        if not architecture(kind):
            why = f"architectures.toml has no row for {kind!r}" if kind else f"{self.where} tells no architecture"
            raise WeightsError(f"parts and heads of {module} are not known: {why}; ask for the whole module")
        return architecture(kind), settings, nested

    def _fused(self, module):
        """(parts of a fused projection, whether they lie group by group); no parts of any other."""
        row, *_ = self._row(module)
        found = [(row[how][end], how == "grouped") for how in ("stacked", "grouped") for end in _ends(row, how, module)]
        return next(iter(found), ([], False))

    def _cuts(self, module, shape):
        """{what may stand in brackets after a module: its Cut}."""
        (fused, grouped), own = self._fused(module), role(module)
        counts, groups, axis = dict.fromkeys(fused or [own] * bool(own), 1), 1, int(own == "o")
        attends = COMMON["roles"].keys() >= counts.keys()
        if counts and attends:
            heads, shared = self.heads(module)
            counts, groups = {part: shared if part in "kv" else heads for part in counts}, shared if grouped else 1
        _divide(module, shape[axis], sum(counts.values()) or 1, ("rows", "columns")[axis])
        blocks = _arranged(counts, groups)
        found = {part: [n for n, (other, _) in enumerate(blocks) if other == part] for part in fused}
        if attends:
            found |= {f"{part}, head {head}" if fused else f"head {head}": [n] for n, (part, head) in enumerate(blocks)}
        numbers = np.arange(shape[axis]).reshape(len(blocks) or 1, -1)
        return {text: Cut(f"[{text}]", axis, _run(numbers[which].ravel())) for text, which in found.items()}

    def _count(self, settings, keys, module):
        """The number under the first of the keys, of a list that of the module's layer or stage; None without any."""
        key = next((key for key in keys if key in settings), None)
        value, number = settings.get(key), re.search(r"(?<![^.])[0-9]{1,9}(?![^.])", module)
        if isinstance(value, list):
            value = dict(enumerate(value)).get(int(number[0])) if number else None
        if key and (type(value) is not int or value < 1):
            raise WeightsError(f"{key} in {self.where} does not say how many heads {module} has: save it again")
        return value


def architecture(kind):
    """The row of a model type or of a GGUF's architecture, with those that it is `like`; empty where there is none."""
    row = ROWS.get(kind, {})
    return {**architecture(row["like"]), **row} if "like" in row else row


def role(module):
    """What a projection does in attention, by the end of its name: "q", "k", "v", "o", or "" for any other."""
    words = module.split(".")
    return next((ROLES[end] for n in (3, 2, 1) if (end := ".".join(words[-n:])) in ROLES), "")


def gguf_module(arch, stem):
    """The module that a GGUF of an architecture calls `stem`, as in `blk.3.attn_q`; None where no row says."""
    number = re.search(r"(?<=\.)\d+(?=\.)", stem)
    general = stem.replace(f".{number[0]}.", ".{n}.", 1) if number else stem
    name = architecture(arch).get("gguf", {}).get(general)
    return name and name.replace("{n}", number[0] if number else "")


def gguf_order(arch, module, heads_of, rows):
    """Index [rows] that puts a GGUF's rows of a module in Hugging Face's order; None where it changes nothing.

    heads_of: see `Layout.heads`. Raises WeightsError where it does, and where the numbers of heads do not divide the
    rows. Source: llama.cpp's convert_hf_to_gguf.py.
    """
    row = architecture(arch)
    how = [row["reordered"][end] for end in _ends(row, "reordered", module)]
    if not how:
        return None
    heads, shared = heads_of(module)
    counts = {"q": heads, "k": shared, "v": shared}
    if how == ["rope"]:
        count = counts[role(module)]
        _divide(module, rows, 2 * count)
        return np.arange(rows).reshape(count, -1, 2).swapaxes(1, 2).ravel()
    _divide(module, rows, sum(counts.values()))
    stacked = {block: n for n, block in enumerate(_arranged(counts, 1))}
    order = [stacked[block] for block in _arranged(counts, shared)]
    return np.arange(rows).reshape(len(stacked), -1)[order].ravel()


def _arranged(counts, groups):
    """[(part, number)] of parts of so many blocks each, one below the other in each of the groups."""
    each = {part: count // groups for part, count in counts.items()}
    return [(part, g * each[part] + n) for g in range(groups) for part in counts for n in range(each[part])]


def _run(index):
    """A slice for an index that takes one number after the other: it copies nothing."""
    return slice(int(index[0]), int(index[-1]) + 1) if index[-1] - index[0] == len(index) - 1 else index


def _divide(module, size, blocks, unit="rows"):
    if size % blocks or not size:
        told = "its config or header, which says how many heads it has, is of another model; give its own"
        raise WeightsError(f"{module} has {size} {unit}, not {blocks} equal parts: {told}")


def _ends(row, key, module):
    """The ends of names in a row's list or table under a key that the module's name has."""
    return [end for end in row.get(key, ()) if f".{module}".endswith(f".{end}")]


def _kind_by_shape(tensors):
    """Without a known model type: GPT-2's, where the three projections stand side by side as they do there."""
    sides = [tensor.shape for key, tensor in tensors.items() if key.endswith("attn.c_attn.weight")]
    for kind, (one, other) in {"gpt2": (0, 1), "nanogpt": (1, 0)}.items():  # which stores them as [out, in]
        if sides and all(len(side) == 2 and side[other] == 3 * side[one] for side in sides):
            return kind
    return ""
