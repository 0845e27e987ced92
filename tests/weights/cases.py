"""Tiny models of each architecture, saved and adapted, and how each library calls their modules."""

import re
from functools import cached_property

import gguf
import numpy as np
import peft
import torch
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from helpers import weights
from tests.weights.attention import Named
from tests.weights.building import MODELS, adapt, interleaved, linears, merged, stacked, write

RANK, ALPHA = 3, 5.0
CROSS = "mid_block.attentions.0.transformer_blocks.0"
OF_UNET = {f"{CROSS}.attn{n}.to_{x}": (32, 24 if n == 2 and x in "kv" else 32) for n in (1, 2) for x in "qkv"}
OF_UNET |= {f"{CROSS}.attn{n}.to_out.0": (32, 32) for n in (1, 2)}
OF_UNET |= {f"{CROSS}.ff.net.0.proj": (96, 32), f"{CROSS}.ff.net.2": (32, 48), "time_embedding.linear_1": (48, 16)}


class UNet(torch.nn.Module):
    """The linear layers of a UNet, and one convolution, by the names that diffusers gives them; computes nothing."""

    def __init__(self):
        super().__init__()
        for name, (out, width) in OF_UNET.items():
            self._put(name, torch.nn.Linear(width, out))
        self._put("conv_in", torch.nn.Conv2d(4, 8, 3))

    def _put(self, name, layer):
        *parents, last = name.split(".")
        within = self
        for part in parents:
            if part not in within._modules:
                within.add_module(part, torch.nn.Module())
            within = within.get_submodule(part)
        within.add_module(last, layer)

    def save_pretrained(self, place):
        write(place, self.state_dict(), {"_class_name": "UNet2DConditionModel"}, "diffusion_pytorch_model.safetensors")


ARCHITECTURES = {**MODELS, "unet": UNet}
# Those that llama.cpp converts, and what it calls them.
IN_GGUF = {
    **{"llama": "llama", "llama-tied": "llama", "mistral": "llama", "mixtral": "llama", "llava": "llama"},
    **{"qwen2": "qwen2", "qwen3": "qwen3", "qwen3-moe": "qwen3moe", "qwen2-vl": "qwen2vl", "gemma2": "gemma2"},
    **{"gemma3": "gemma3", "phi": "phi2", "phi3": "phi3", "gpt2": "gpt2", "gpt2-bare": "gpt2", "gpt-neox": "gptneox"},
    **{"gpt-bigcode-multi-query": "starcoder", "bloom": "bloom", "mpt": "mpt", "t5": "t5", "modernbert": "modern-bert"},
    **dict.fromkeys(("falcon", "falcon-heads", "falcon-new"), "falcon"),
    **dict.fromkeys(("bert", "bert-bare", "roberta", "distilbert"), "bert"),
}
# What llama.cpp's converter takes off the names of modules, and which modules it leaves out, or stacks into one tensor.
TAKEN_OFF = r"^(bert|roberta|distilbert)\.|language_model\.|^model\.(?=layers\.\d+\.(attn|mlp)\.W|embeddings)"
NOT_CONVERTED = (
    r"vision|visual|projector|pooler|^cls\.|^lm_head\.(dense|decoder)|^vocab_|^(model\.)?head\.|\.experts\.\d"
)
# Those that mlx-lm has, and its names of their modules where they differ from transformers'.
IN_MLX = dict.fromkeys(
    ("llama", "llama-tied", "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe", "gemma2", "phi", "phi3"), ("", "")
)
IN_MLX |= {"gpt2": (r"^transformer\.", "model."), "gpt2-bare": (r"^", "model.")}
IN_MLX |= {"gpt-neox": (r"^gpt_neox\.layers\.", "model.h."), "gpt-bigcode-multi-query": ("", "")}
IN_MLX |= dict.fromkeys(("gemma3", "qwen2-vl"), (r"^model\.language_model\.", "language_model.model."))


class Inapplicable(Exception):
    """A format that an architecture does not come in; says why."""


class Partly(Exception):
    """Some modules are refused, and all others read right."""


class Wrong(Exception):
    """A module that was read as something else than it is, or not at all."""


class Case:
    """One tiny model, saved in `place`, and what the floor makes of it.

    names: its linear layers, as it calls them. held: {the same: W [out, in]}. where: {the same: the base's name}.
    layers: those that are no Conv1D; none where only the output layer is not.
    """

    def __init__(self, name, place):
        torch.manual_seed(0)
        self.name, self.place, self.model = name, place, ARCHITECTURES[name]().eval()
        self.model.save_pretrained(place / "base")
        self.names, self.draw = linears(self.model), np.random.default_rng(0)
        self.held = {each: self._weight(each) for each in self.names}
        plain = [each for each in self.names if isinstance(self.model.get_submodule(each), torch.nn.Linear)]
        self.layers = plain if any(re.search(r"\.\d+\.", each) for each in plain) else []

    @cached_property
    def base(self):
        return weights.open_base(self.place / "base")

    @cached_property
    def stored(self):
        """Names of tensors in the file of the model, which has no tied ones."""
        return load_file(self.place / "base" / "model.safetensors").keys()

    @cached_property
    def where(self):
        pairs = {name: ours for ours, name in weights.match(self.base, Named(self.model)).items()}
        if lacking := [name for name in self.names if name not in pairs]:
            raise Wrong(f"the base has no {lacking}")
        return {name: pairs[name] for name in self.names}

    @cached_property
    def lora(self):
        """(where a LoRA of PEFT lies, its {name: ΔW}), on every linear layer."""
        return self.of_peft("lora", peft.LoraConfig, self.names, r=RANK, lora_alpha=ALPHA)

    def factors(self, names):
        """{name: (A [r, in], B [out, r])}."""
        found = {}
        for name in names:
            out, width = self.held[name].shape
            found[name] = [self.draw.standard_normal(size).astype("f") for size in ((RANK, width), (out, RANK))]
        return found

    def of_peft(self, label, kind, names, **settings):
        """(where PEFT saved an adapter of these modules, {name: ΔW}): what PEFT itself merges."""
        if not names:
            raise Inapplicable("PEFT has it for none of its Conv1D layers")
        conv1d = len(self.layers) < len(self.names) and kind in (peft.LoraConfig, peft.IA3Config)
        settings |= {"fan_in_fan_out": True} if conv1d else {}
        adapted = adapt(self.model, self.place / label, kind(target_modules=names, **settings))
        truth = {name: delta for name, (_, delta) in merged(self.model, adapted).items()}
        if truth.keys() != set(names):
            raise Wrong(f"PEFT itself merges {len(truth)} of {len(names)} modules")
        return self.place / label, truth

    @cached_property
    def kept(self):
        """{name: the base's name}: of the modules that llama.cpp's converter keeps, linear layers and others."""
        others = set(self.base.modules()) - set(self.where.values())
        saved = {**self.where, **{each: each for each in others}}
        return {name: each for name, each in saved.items() if not re.search(NOT_CONVERTED, each)}

    @cached_property
    def in_gguf(self):
        """{name: its name in a GGUF}: of the modules that are kept. Raises Wrong where gguf knows none."""
        if self.name not in IN_GGUF:
            raise Inapplicable("llama.cpp is not known to convert such a model")
        key = next(key for key, arch in gguf.MODEL_ARCH_NAMES.items() if arch == IN_GGUF[self.name])
        known = gguf.get_tensor_name_map(key, 2)
        named = {name: known.get_name(re.sub(TAKEN_OFF, "", each)) for name, each in self.kept.items()}
        lacking = [name for name, stem in named.items() if not stem and f"{self.kept[name]}.weight" in self.stored]
        if lacking:
            raise Wrong(f"gguf has no names for {lacking}")
        return {name: stem for name, stem in named.items() if stem}  # a tied output layer need not have one

    @property
    def heads(self):
        """(heads, heads of key and value), by the model's own config."""
        config = self.model.config.get_text_config()
        heads = next(
            n for key in ("num_attention_heads", "n_heads", "n_head", "num_heads") if (n := getattr(config, key, 0))
        )
        if self.name.startswith("falcon"):
            return heads, config.num_kv_heads if config.new_decoder_architecture else 1 if config.multi_query else heads
        alone = getattr(config, "multi_query", False)
        return heads, 1 if alone else getattr(config, "num_key_value_heads", None) or heads

    def in_llama_cpp(self, name, rows):
        """Rows [out, …] of a module in the order in which llama.cpp's converter puts them."""
        (heads, shared), arch, stem = self.heads, IN_GGUF[self.name], self.in_gguf[name]
        if arch == "llama" and stem.endswith(("attn_q", "attn_k")):
            return interleaved(rows, heads if stem.endswith("q") else shared)
        if arch in ("gptneox", "bloom", "falcon") and stem.endswith("attn_qkv"):
            return stacked(rows, heads, shared)
        return rows

    def _weight(self, name):
        part = self.model.get_submodule(name)
        return (part.weight.T if isinstance(part, Conv1D) else part.weight).detach().numpy()
