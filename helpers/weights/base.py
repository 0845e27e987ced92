"""The weights of a model: W [out, in] of a module, whatever it is called and however it is stored."""

import re
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.paths import resolve
from helpers.weights import modules, quantised, tensors
from helpers.weights.tensors import WeightsError, listed

EMBEDDINGS = re.compile(r"(.*\.)?(shared|embed_tokens|wte|word_embeddings?|tok_embeddings|tokens_embed|embed_in)")
HAS_HEAD = re.compile(r"LMHead|CausalLM|MaskedLM|ForConditional|PreTraining|MTModel|DoubleHeads")
IN_BLOCK = {"Q2_K": 16, "Q3_K": 16, "Q6_K": 16}  # numbers of a row that share a scale in a GGUF; of other types 32


def open_base(path):
    """Open a model: a safetensors or GGUF file, or a directory as Hugging Face or llama.cpp save it.

    Raises WeightsError: one sentence that says what was found, where, and what to do.
    """
    return Base(resolve(path))


class Base:
    """The linear weights of a model, read one at a time. label: its name in sentences; files: what is read of it.

    left_out: {name: why} of what the files hold besides. config: what config.json says, else what `config` does.
    """

    def __init__(self, path, config=None):
        self.path, self.label = path, path.name
        adapted = (path / "adapter_config.json").exists() and not list(path.glob("model*.safetensors*"))
        self.store = tensors.Store() if adapted else tensors.open_model(path)  # an adapter is not opened, only refused
        beside = (path if path.is_dir() else path.parent) / "config.json"
        self.config = tensors.read_json(beside) if beside.exists() else config or {}
        self.files = [*self.store.files, *([beside] if beside.exists() else [])]
        self._parts = {key: value for key, value in self.config.items() if isinstance(value, dict)}
        self._settings = self._parts.get("quantization_config", {})
        self._kind = str(self.store.fields.get("general.architecture", self.config.get("model_type") or ""))
        if self._kind not in _table():
            self._kind = self._kind_by_shape() or self._kind
        self._tensors, self._refused, self._tied, self.left_out = {}, {}, None, {}
        for key in self.store:
            self._sort(key)
        adapted = adapted or self.store.fields.get("general.type") == "adapter"
        if adapted or (not self._tensors and any("lora" in key for key in self.store)):
            raise WeightsError(f"{path} is an adapter, not a model: give it among the adapters, and its model as base")
        if self.store.fields and not architecture(self._kind).get("gguf"):
            kind = f"{self._kind!r}, which has no row in architectures.toml"
            raise WeightsError(f"{path} is a GGUF of {kind}: give the model as safetensors")
        if not self._tensors:
            raise WeightsError(f"{path} holds no weight matrices, but {listed(self.store)}: give a model with them")
        self._tie_head()

    def modules(self):
        """Names of the modules that own a weight matrix, sorted; wrappers' parts are dropped from them."""
        return sorted(self._tensors)

    def find(self, module):
        """Full name of `module`: a full name, an unambiguous suffix, or a GGUF's own name. See `modules.find`."""
        if module in self._tensors:
            return module
        held = [f"{module}.{end} {self.store[f'{module}.{end}'].shape}" for end in self.store.ends.get(module, ())]
        more = [f"; {module} holds {listed(held)}, which is no weight matrix"] if held else []
        more += [f"; {name}: {why}" for name, why in self.left_out.items() if f".{name}".endswith(f".{module}")]
        method = self._settings.get("quant_method")
        more += [f"; it is quantised by {method}: {quantised.WAY_OUT}"] if method else []
        return modules.find(self._named(module) or module, self.modules(), self.label, "".join(more[:1]))

    def shape(self, module):
        """(out, in) of the weight of `module`, without reading it; None of one that cannot be read."""
        name = self.find(module)
        if name in self._refused:
            return None
        shape = self._tensors[name].shape
        return shape[::-1] if self._transposed(name) else shape

    def kind(self, module):
        """The type that the weight of `module` is stored as, such as "BF16" or "Q4_1"."""
        return self._tensor(module).kind

    def weight(self, module):
        """Weight of `module` (a full name or an unambiguous suffix), [out, in], float32, or float64 if stored so.

        Takes little more memory than the result, however large the file. Raises NoSuchModule; WeightsError for a
        weight that is packed, not a matrix, or not finite.
        """
        tensor = self._tensor(module)
        weight = tensor.read()
        weight *= quantised.scale_of(tensor, self.store, self._settings)
        return self._turned(module, weight)

    def round_off(self, module):
        """Unit round-off of the weight of `module` as stored; None where it is quantised in steps: see `steps`."""
        tensor = self._tensor(module)
        whole = quantised.scales(tensor.key, self.store) and not tensor.kind.startswith("F8")
        return None if whole else tensor.round_off

    def steps(self, module):
        """[out, in]: how far apart the numbers are that could be stored in the place of each.

        Of a number with unit round-off u 2u|w|, the most that it may be; of whole numbers their scale; of blocks the
        least difference of two that share a scale, which is an estimate, and a poor one of types with a code book (IQ).
        """
        tensor, unit = self._tensor(module), self.round_off(module)
        stored, scale = tensor.read(), quantised.scale_of(tensor, self.store, self._settings)
        if unit is not None:
            steps = np.maximum(2 * unit * np.abs(stored), tensors.PLAIN[tensor.kind][1]) * np.abs(scale)
        elif quantised.scales(tensor.key, self.store):
            steps = np.broadcast_to(np.abs(scale), stored.shape)
        else:
            count = IN_BLOCK.get(self.kind(module), 32)
            blocks = np.sort(stored.reshape(-1, count), axis=1)
            gaps = np.diff(blocks, axis=1)
            gaps[gaps <= 1e-6 * np.abs(blocks).max(1, keepdims=True)] = np.inf
            least = gaps.min(1, keepdims=True)
            steps = np.repeat(np.where(np.isfinite(least), least, 0), count, 1).reshape(stored.shape)
        return self._turned(module, steps)

    def rounding(self, module):
        """The most, in the Frobenius norm, that storing the weight of `module` may have changed; as good as `steps`."""
        return float(np.linalg.norm(self.steps(module)) / 2)

    def has_transposed(self):
        """Whether a config.json says of what architecture this is, and some of its weights are stored as [in, out]."""
        return any(architecture(kind).get("transposed") for kind in self._kinds_of(""))

    def renamed(self, module):
        """A module's name in this architecture, where another release of its library writes a different one."""
        for kind in self._kinds_of(""):
            for old, new in architecture(kind).get("renamed", {}).items():
                module = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, module)
        return module

    def name(self):
        """What the model calls itself: in its config, in a GGUF's header, or in a hub's cache; else its directory."""
        given = self.config.get("_name_or_path") or self.store.fields.get("general.name")
        cached = [part.removeprefix("models--").replace("--", "/") for part in self.path.parts if "models--" in part]
        return str(given or (cached or [(self.path if self.path.is_dir() else self.path.parent).name])[-1])

    def describe(self):
        """DataFrame, one row a module: how it is read, or why not; and what else the files hold."""
        told = sorted(self._tensors.items())
        rows = [[name, self._how(name), t.file.name, t.key, self.shape(name) or "", t.kind] for name, t in told]
        rows += [[name, f"left out: {why}", "", "", "", ""] for name, why in self.left_out.items()]
        return pd.DataFrame(rows, columns=["module", "how it is read", "file", "key", "[out, in]", "stored as"])

    def _kind_by_shape(self):
        """Of an unknown architecture: GPT-2's, if its three projections stand side by side as they do there."""
        sides = [tensor.shape for key, tensor in self.store.items() if key.endswith("attn.c_attn.weight")]
        for kind, (one, other) in {"gpt2": (0, 1), "nanogpt": (1, 0)}.items():  # which stores them as [out, in]
            if sides and all(len(side) == 2 and side[other] == 3 * side[one] for side in sides):
                return kind
        return ""

    def _sort(self, key):
        """Put one tensor among the modules, the refused ones, or what is left out."""
        stem, _, end = key.rpartition(".")
        tensor, shape, name = self.store[key], self.store[key].shape, self._named(stem)
        if found := quantised.refusal(key, self.store, self._settings):
            self._tensors.setdefault(modules.plain(found[0]), tensor)
            self._refused.setdefault(modules.plain(found[0]), found[1])
        elif end != "weight" or not stem or ".lora_" in key or (len(shape) < 2 and 0 not in shape):
            return
        elif not name:
            self.left_out[stem] = "no row of architectures.toml says what it is"
        elif len(shape) != 2 or 0 in shape:
            empty = "; parts of a distributed run were saved before they were gathered" if 0 in shape else ""
            self.left_out[name] = f"its shape is {shape}, and only matrices are read{empty}"
        elif name in self._tensors:
            raise WeightsError(f"{self.path} holds {self._tensors[name].key} and {key}, one module: remove one")
        else:
            self._tensors[name] = tensor
            if not self._kind and _is_conv1d(stem, ["gpt2"]) and shape[0] == shape[1]:
                self._refused[name] = "not read: it may be stored as [in, out], and no config.json beside it tells"

    def _tensor(self, module):
        """The tensor of a module's weight. Raises WeightsError for one that cannot be read."""
        name = self.find(module)
        if name in self._refused:
            raise WeightsError(f"{name} of {self.path} is {self._refused[name]}")
        return self._tensors[name]

    def _turned(self, module, stored):
        """A stored matrix as [out, in], with the rows of GGUF's heads in Hugging Face's order."""
        name = self.find(module)
        if heads := self._permuted_heads(name):
            stored = stored.reshape(heads, len(stored) // heads // 2, 2, -1).swapaxes(1, 2).reshape(stored.shape)
        return stored.T if self._transposed(name) else stored

    def _transposed(self, name):
        return not self.store.fields and _is_conv1d(name, self._kinds_of(name))

    def _how(self, name):
        if name in self._refused:
            return self._refused[name]
        key = self._tensors[name].key
        how = ["transposed, as [in, out] is stored"] if self._transposed(name) else []
        how += ["rows of each head put back in order"] if self._permuted_heads(name) else []
        how += [f"tied to {key.removesuffix('.weight')}, whose weight it shares"] if name == self._tied else []
        how += [f"times {scale.rpartition('.')[2]}" for scale in quantised.scales(key, self.store)]
        return "; ".join(how) or "as stored"

    def _tie_head(self):
        """The output layer that has no tensor of its own is the embedding, unless the config says otherwise."""
        inner, settings = self._parts.get("decoder", {}), {**self._parts.get("text_config", {}), **self.config}
        kind, prefix, named = self._kind, "", self.config.get("architectures")
        if inner.get("model_type"):
            settings, kind, prefix, named = {**settings, **inner}, str(inner["model_type"]), "decoder.", None
        classes = " ".join(map(str, named)) if isinstance(named, list) else str(named or "LMHead")
        head = prefix + architecture(kind).get("head", "lm_head")
        found = [name for name in self._tensors if name.startswith(prefix) and EMBEDDINGS.fullmatch(name)]
        for mark in ("shared", "decoder"):
            found = [name for name in found if mark in name.split(".")] or found
        part = tensors.SHARD.search(self.store.files[0].stem) or not HAS_HEAD.search(classes)
        if not kind or part or head in self.modules() or len(found) != 1:
            return
        if self.store.fields or settings.get("tie_word_embeddings", architecture(kind).get("tied", True)):
            self._tensors[head], self._tied = self._tensors[found[0]], head
            self._refused |= {head: self._refused[found[0]]} if found[0] in self._refused else {}
        else:
            self.left_out[head] = "its config says that it is not tied to the embedding, and the files do not hold it"

    def _kinds_of(self, module):
        """The model types that may own a module: of the part of a composite model whose name it bears, else all."""
        parts = {key.removesuffix("_config"): part for key, part in self._parts.items()}
        inner = {name: str(part["model_type"]) for name, part in parts.items() if part.get("model_type")}
        named = [inner[part] for part in module.split(".") if part in inner]
        return named[:1] or [self._kind or "unknown", *inner.values()]

    def _named(self, stem):
        """A module by its name in the file, in a GGUF by the table; None for one that the table does not know."""
        if not self.store.fields:
            return modules.plain(stem)
        number = re.search(r"(?<=\.)\d+(?=\.)", stem)
        general = stem.replace(f".{number[0]}.", ".{n}.", 1) if number else stem
        name = architecture(self._kind).get("gguf", {}).get(general)
        return name and name.replace("{n}", number[0] if number else "")

    def _permuted_heads(self, name):
        """Number of heads within which a GGUF has reordered the rows of a module; 0 for most."""
        fields, ends = self.store.fields, architecture(self._kind).get("permuted", {}) if self.store.fields else {}
        key = next((key for end, key in ends.items() if name.endswith("." + end)), None)
        if key is None:
            return 0
        heads = fields.get(f"{self._kind}.{key}", fields.get(f"{self._kind}.attention.head_count"))
        if isinstance(heads, list):
            heads = dict(enumerate(heads)).get(int(name.split(".")[2]))
        if not isinstance(heads, int) or heads < 1 or self._tensors[name].shape[0] % (2 * heads):
            raise WeightsError(f"{self.path} does not say how many heads {name} has ({key}): convert it again")
        return heads


@cache
def _table():
    return tomllib.loads(Path(__file__).with_name("architectures.toml").read_text(encoding="utf-8"))


def architecture(kind):
    """The row of architectures.toml for a model type, with those that it is `like`; empty for one that has none."""
    row = _table().get(kind, {})
    return {**architecture(row["like"]), **row} if "like" in row else row


def _is_conv1d(module, kinds):
    return any(f".{module}".endswith(f".{end}") for kind in kinds for end in architecture(kind).get("transposed", ()))
