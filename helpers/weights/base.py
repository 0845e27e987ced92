"""The weights of a model: W [out, in] of a module, whatever it is called and however it is stored."""

import re

import numpy as np
import pandas as pd

from helpers.weights import modules, quantised, tensors
from helpers.weights.architectures import WHOLE, Layout, architecture, gguf_module
from helpers.weights.tensors import WeightsError, listed

EMBEDDINGS = re.compile(r"(.*\.)?(shared|embed_tokens|wte|word_embeddings?|tok_embeddings|tokens_embed|embed_in)")
HAS_HEAD = re.compile(r"LMHead|CausalLM|MaskedLM|ForConditional|PreTraining|MTModel|DoubleHeads")
# Numbers of a row that share a scale in a GGUF; of other types 32.
IN_BLOCK = dict.fromkeys(("Q2_K", "Q3_K", "Q6_K", "NVFP4", "IQ1_M", "IQ2_S", "IQ2_XS"), 16)
IN_BLOCK |= {"TQ1_0": 256, "TQ2_0": 256}


def open_base(path):
    """Open a model: a safetensors or GGUF file, or a directory as Hugging Face or llama.cpp save it.

    Raises WeightsError: one sentence that says what was found, where, and what to do.
    """
    return Base(tensors.existing(path))


class Base:
    """The linear weights of a model, read one at a time. label: its name in sentences; files: what is read of it.

    left_out: {name: why} of what the files hold besides. config: what config.json says, else what `config` does.
    """

    def __init__(self, path, config=None):
        self.path, self.label = path, path.name
        of_peft = path if path.is_file() else path / "adapter_config.json"
        adapted = of_peft.name == "adapter_config.json" and of_peft.exists() and not [*path.glob("model*.safetensors*")]
        self.store = tensors.Store() if adapted else tensors.open_model(path)  # an adapter is not opened, only refused
        beside = (path if path.is_dir() else path.parent) / "config.json"
        self.config = tensors.read_json(beside) if beside.exists() else config or {}
        self.files = [*self.store.files, *([beside] if beside.exists() else [])]
        self._parts = {key: value for key, value in self.config.items() if isinstance(value, dict)}
        self._settings = self._parts.get("quantization_config", {})
        self.layout = Layout(self.config, self.store.fields, self.store, self.label)
        self._tensors, self._refused, self._tied, self.left_out = {}, {}, None, {}
        for key in self.store:
            self._sort(key)
        adapted = adapted or self.store.fields.get("general.type") == "adapter"
        if adapted or (not self._tensors and any(re.search("lora|hada_|lokr_|ia3_", key) for key in self.store)):
            raise WeightsError(f"{path} is an adapter, not a model: give it among the adapters, and its model as base")
        if self.store.fields and not architecture(self.layout.kind).get("gguf"):
            kind = f"{self.layout.kind!r}, which has no row in architectures.toml"
            raise WeightsError(f"{path} is a GGUF of {kind}: give the model as safetensors")
        if not self._tensors:
            raise WeightsError(f"{path} holds no weight matrices, but {listed(self.store)}: give a model with them")
        self._tie_head()

    def modules(self):
        """Names of the modules that own a weight matrix, sorted; wrappers' parts are dropped from them."""
        return sorted(self._tensors)

    def find(self, module):
        """Full name of `module`: a full name, an unambiguous suffix, or a GGUF's own name. See `modules.find`.

        What stands in brackets after it, a part or a head as in `qkv_proj[q, head 3]`, is part of the name.
        """
        name, cut = self._place(module)
        return name + cut.text

    def _whole(self, module):
        """Full name of a module, without a part of it."""
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
        name, cut = self._place(module)
        return None if name in self._refused else cut.shape(self._shape(name))

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
        with np.errstate(over="ignore"):
            weight *= quantised.scale_of(tensor, self.store, self._settings)
        if not np.isfinite(weight).all():
            raise WeightsError(f"{tensor.key} in {tensor.file} times its scale has no room in float32: it is damaged")
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
        with np.errstate(over="ignore"):
            return float(np.linalg.norm(self.steps(module)) / 2)

    def name(self):
        """What the model calls itself: in its config, in a GGUF's header, or in a hub's cache; else its directory."""
        given = self.config.get("_name_or_path") or self.store.fields.get("general.name")
        cached = [part.removeprefix("models--").replace("--", "/") for part in self.path.parts if "models--" in part]
        return str(given or (cached or [(self.path if self.path.is_dir() else self.path.parent).name])[-1])

    def describe(self):
        """DataFrame, one row a module: how it is read, or why not, and its parts; and what else the files hold."""
        rows = []
        for name, tensor in sorted(self._tensors.items()):
            shape = self.shape(name)
            parts = " ".join(f"[{part}]" for part in self.layout.parts(name, shape))
            rows.append([name, self._how(name), tensor.file.name, tensor.key, shape or "", tensor.kind, parts])
        rows += [[name, f"left out: {why}", "", "", "", "", ""] for name, why in self.left_out.items()]
        columns = ["module", "how it is read", "file", "key", "[out, in]", "stored as", "parts"]
        return pd.DataFrame(rows, columns=columns)

    def _sort(self, key):
        """Put one tensor among the modules, the refused ones, or what is left out."""
        stem, _, end = key.rpartition(".")
        tensor, shape, name = self.store[key], self.store[key].shape, self._named(stem)
        if found := quantised.refusal(key, self.store, self._settings):
            name = self._named(found[0]) or modules.plain(found[0])
            self._tensors.setdefault(name, tensor)
            self._refused.setdefault(name, found[1])
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
            if not self.layout.kind and Layout({"model_type": "gpt2"}).transposed(stem) and shape[0] == shape[1]:
                self._refused[name] = "not read: it may be stored as [in, out], and no config.json beside it tells"

    def _tensor(self, module):
        """The tensor of a module's weight. Raises WeightsError for one that cannot be read."""
        name, _ = self._place(module)
        if name in self._refused:
            raise WeightsError(f"{name} of {self.path} is {self._refused[name]}")
        return self._tensors[name]

    def _turned(self, module, stored):
        """Of a stored matrix the part that is asked for, [out, in], with a GGUF's rows in Hugging Face's order."""
        name, cut = self._place(module)
        order = self.layout.order(name, len(stored))
        ordered = stored if order is None else stored[order]
        return cut(ordered.T if self.layout.transposed(name) else ordered)

    def _place(self, module):
        """(name of a module, the Cut of it that stands in brackets after it)."""
        stem, part = (module, "") if module in self._tensors else modules.split_part(module)
        name = self._whole(stem)
        return name, WHOLE if name in self._refused else self.layout.cut(name, self._shape(name), part)

    def _shape(self, name):
        """(out, in) of a whole module."""
        shape = self._tensors[name].shape
        return shape[::-1] if self.layout.transposed(name) else shape

    def _named(self, stem):
        """A module by its name in the file; None for one of a GGUF that no row knows."""
        return gguf_module(self.layout.kind, stem) if self.store.fields else modules.plain(stem)

    def _how(self, name):
        if name in self._refused:
            return self._refused[name]
        key = self._tensors[name].key
        how = ["transposed, as [in, out] is stored"] if self.layout.transposed(name) else []
        try:
            reordered = self.layout.order(name, self._shape(name)[0]) is not None
        except WeightsError as error:
            return f"not read: {error}"
        how += ["rows put back in Hugging Face's order"] if reordered else []
        how += [f"tied to {key.removesuffix('.weight')}, whose weight it shares"] if name == self._tied else []
        how += [f"times {scale.rpartition('.')[2]}" for scale in quantised.scales(key, self.store)]
        return "; ".join(how) or "as stored"

    def _tie_head(self):
        """The output layer that has no tensor of its own is the embedding, unless the config says otherwise."""
        inner, settings = self._parts.get("decoder", {}), {**self._parts.get("text_config", {}), **self.config}
        kind, prefix, named = self.layout.kind, "", self.config.get("architectures")
        if inner.get("model_type"):
            settings, kind, prefix, named = {**settings, **inner}, str(inner["model_type"]), "decoder.", None
        classes = " ".join(map(str, named)) if isinstance(named, list) else str(named or "LMHead")
        head = prefix + architecture(kind).get("head", "lm_head")
        found = [name for name in self._tensors if name.startswith(prefix) and EMBEDDINGS.fullmatch(name)]
        for mark in ("shared", "decoder"):
            found = [name for name in found if mark in name.split(".")] or found
        part = tensors.SHARD.search(self.store.files[0].stem) or not HAS_HEAD.search(classes)
        held = any(f".{name}".endswith(f".{head}") for name in self._tensors)
        if not kind or part or held or len(found) != 1:
            return
        if self.store.fields or settings.get("tie_word_embeddings", architecture(kind).get("tied", True)):
            self._tensors[head], self._tied = self._tensors[found[0]], head
            self._refused |= {head: self._refused[found[0]]} if found[0] in self._refused else {}
        else:
            self.left_out[head] = "by config or architecture it is not tied to the embedding, and no file holds it"
