"""The rows of architectures.toml on GGUF: names as the gguf library has them, orders as transformers loads them."""

import gguf
import numpy as np
import pytest
import torch
import transformers as tr
from transformers.pytorch_utils import Conv1D

from helpers import weights
from helpers.weights import architectures
from tests.weights.attention import RELATIVES, Named
from tests.weights.building import MODELS, gguf_model, refused, stacked

ARCHES = set(gguf.MODEL_ARCH_NAMES.values())

OF_GGUF = [
    kind for kind in sorted(architectures.ROWS) if kind in ARCHES and architectures.architecture(kind).get("gguf")
]


def names_of(arch):
    """The gguf library's map of names, of an architecture with two layers."""
    return gguf.get_tensor_name_map(next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), 2)


@pytest.mark.parametrize("arch", OF_GGUF)
def test_names_are_those_of_the_gguf_library(arch):
    names, held = names_of(arch), architectures.architecture(arch)["gguf"]
    tensors = next(gguf.MODEL_TENSORS[key] for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    known = {gguf.TENSOR_NAMES[tensor].replace("{bid}", "{n}") for tensor in tensors}
    for stem in held.keys() & known:
        module = architectures.gguf_module(arch, stem.replace("{n}", "1"))
        spoken = [module, module.partition(".")[2]]  # converters drop what wraps the layers of BERT and BLOOM
        assert stem.replace("{n}", "1") in [names.get_name(name) for name in spoken], module
    assert {"token_embd"} < held.keys() & known
    assert held.keys() <= {name.replace("{bid}", "{n}") for name in gguf.TENSOR_NAMES.values()}
    assert architectures.gguf_module(arch, "blk.1.no_such") is None
    assert architectures.gguf_module(arch, "token_embd.1") is None


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        *(
            (name, name)
            for name in ("llama", "mpt", "bloom", "qwen2", "qwen3", "gemma2", "phi3", "bert", "t5", "falcon")
        ),
        *(("llama", "mixtral"), ("llama", "mistral"), ("gptneox", "gpt-neox"), ("gpt2", "gpt2"), ("phi2", "phi")),
        *(("starcoder", "gpt-bigcode-multi-query"), ("modern-bert", "modernbert"), ("qwen3moe", "qwen3-moe")),
        *(("qwen2moe", "qwen2-moe"), ("starcoder2", "starcoder2"), ("gemma", "gemma"), ("gemma3", "gemma2")),
    ],
)
def test_every_weight_of_a_layer_that_a_gguf_can_hold_has_a_name(tmp_path, arch, name):
    """But for positions, classes, experts, which a GGUF stacks, and what is wi_1 in one T5 and wi in another."""
    names = names_of(arch)
    {**MODELS, **RELATIVES}[name]().save_pretrained(tmp_path)
    for module in weights.open_base(tmp_path).modules():
        spoken = [module, module.partition(".")[2]]  # converters drop what wraps the layers of BERT and BLOOM
        stem = next(filter(None, map(names.get_name, spoken)), "")
        left_out = ("position_embd", "token_types", "attn_rel_b", "cls", "shexp_inp", "inp_shexp")
        if stem and not (stem.endswith(left_out) or "experts" in module or module.endswith(".wi")):
            assert architectures.gguf_module(arch, stem) in spoken, stem


@pytest.mark.parametrize(
    ("arch", "heads", "shared", "module"),
    [
        ("bloom", 4, 4, "transformer.h.0.self_attention.query_key_value"),
        ("gptneox", 4, 4, "gpt_neox.layers.0.attention.query_key_value"),
        ("falcon", 4, 4, "transformer.h.0.self_attention.query_key_value"),
        ("falcon", 6, 2, "transformer.h.0.self_attention.query_key_value"),
        ("falcon", 6, 1, "transformer.h.0.self_attention.query_key_value"),
    ],
)
def test_a_fused_projection_of_a_gguf_is_put_back_in_groups(tmp_path, rng, arch, heads, shared, module):
    matrix = rng.standard_normal(((heads + 2 * shared) * 4, 32)).astype(np.float32)
    held = {"blk.0.attn_qkv.weight": stacked(matrix, heads, shared)}
    gguf_model(tmp_path / "m.gguf", held, "F32", arch, heads, ARCH__attention__head_count_kv=shared)
    base = weights.open_base(tmp_path)
    np.testing.assert_array_equal(base.weight(module), matrix)
    for n, part in enumerate("qkv"):
        start = [0, heads, heads + shared][n] * 4
        count = heads if part == "q" else shared
        np.testing.assert_array_equal(
            base.weight(f"{module}[{part}]"), held["blk.0.attn_qkv.weight"][start : start + count * 4]
        )
    refused(lambda: base.weight(f"{module}[q, head {heads}]"), f"q, head 0 … {heads - 1}")


HEADER = {"block_count": 2, "embedding_length": 32, "feed_forward_length": 48, "context_length": 32, "vocab_size": 60}
HEADER |= {"attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16}
FEW = {
    "bloom": {"attention.head_count_kv": 4},
    "falcon": {"attention.head_count_kv": 1},
    "t5": {"attention.key_length": 8},
}


@pytest.mark.parametrize(
    ("arch", "shaped_like"),
    [
        *((name, name) for name in ("qwen2", "gemma2", "bloom", "falcon", "gpt2", "t5")),
        *(("llama", "mistral"), ("llama", "llama"), ("gemma3", "gemma2")),
    ],
)
def test_a_gguf_reads_as_transformers_loads_it(tmp_path, rng, arch, shaped_like):
    """Any numbers, under the names of the GGUF: transformers puts names and rows in its own order, too."""
    like, held = Named(MODELS[shaped_like]()), {}
    for stem, module in architectures.architecture(arch)["gguf"].items():
        for n in "01":
            if (name := module.replace("{n}", n)) in like.sizes and (stem != "output" or "gemma" not in arch):
                out, width = like.sizes[name]
                out = 50257 if arch == "gpt2" and out == 60 else out  # which transformers takes for the vocabulary
                held[f"{stem.replace('{n}', n)}.weight"] = rng.standard_normal((out, width))
    if arch == "t5":  # held, and left out
        held |= {
            f"{side}.blk.{n}.ffn_up.weight": rng.standard_normal((48, 32)) for side in ("enc", "dec") for n in "01"
        }
    header = {**HEADER, **FEW.get(arch, {})}
    if arch in ("llama", "qwen2"):
        header["rope.dimension_count"] = 16 if shaped_like == "mistral" else 8
    fields = {f"ARCH__{key.replace('.', '__')}": value for key, value in header.items()}
    gguf_model(tmp_path / "m.gguf", held, "F32", arch, 4, **fields, general__name="x")
    kind = tr.AutoModelForSeq2SeqLM if arch == "t5" else tr.AutoModelForCausalLM
    model, base = kind.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32), weights.open_base(tmp_path)
    assert len(base.modules()) >= len(held) - 4 * (arch == "t5")
    for name in base.modules():
        part = model.get_submodule(name)
        weight = part.weight.detach().numpy()
        np.testing.assert_array_equal(base.weight(name), weight.T if isinstance(part, Conv1D) else weight)
