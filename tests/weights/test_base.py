import itertools
import json

import gguf
import numpy as np
import pytest
import torch

from helpers import weights
from tests.weights.building import EYES, MODELS, Q, composite, gguf_model, interleaved, llama, refused, write

WAY_OUT = "give the original, unquantised model, or dequantise"


@pytest.mark.parametrize(
    "key",
    ["{}", "model.{}", "_orig_mod.{}", "module._orig_mod.{}", "base_model.model.{}", "{}.base_layer", "module.{}"],
)
def test_a_module_is_found_by_suffix_whatever_wraps_it(tmp_path, key):
    weight = torch.arange(6.0).reshape(2, 3)
    name = "encoder.layer.0.attention.self.query"
    base = weights.open_base(write(tmp_path, {f"{key.format(name)}.weight": weight, "norm.weight": torch.ones(3)}))
    assert base.find("self.query") == ("model." if key.startswith("model.") else "") + name
    assert base.modules() == [base.find("self.query")]
    assert base.shape("self.query") == (2, 3)
    np.testing.assert_array_equal(base.weight("self.query"), weight)
    refused(lambda: base.weight("self.qery"), "did you mean")
    refused(lambda: base.weight("norm"), "norm.weight (3,)", "no weight matrix")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(2, 3, 4), ["(2, 3, 4)", "only matrices"]),
        (torch.zeros(0), ["(0,)", "gathered"]),
        (torch.zeros(0, 4), ["(0, 4)", "gathered"]),
    ],
)
def test_what_is_no_matrix_is_left_out_and_asking_for_it_says_why(tmp_path, tensor, words):
    base = weights.open_base(write(tmp_path, {"a.conv.weight": tensor, "a.q.weight": torch.ones(2, 2)}))
    assert base.modules() == ["a.q"]
    assert words[0] in base.left_out["a.conv"] and words[0] in base.describe().to_string()
    refused(lambda: base.weight("conv"), *words)


TWINS = itertools.combinations(["x.0.q.weight", "module.x.0.q.weight", "x.0.q.base_layer.weight"], 2)


@pytest.mark.parametrize(
    ("names", "config", "words"),
    [
        (["norm"], None, ["no weight matrices", "'norm'"]),
        (["x.lora_A.weight"], None, ["is an adapter, not a model"]),
        (["lora_unet_x.lora_down.weight"], None, ["is an adapter"]),
        (["x.lora_a"], None, ["is an adapter"]),
        (["x.weight"], "[]", ["config.json", "JSON list"]),
        *((twins, None, twins) for twins in TWINS),  # two tensors of one module
    ],
)
def test_files_that_are_no_model_are_refused(tmp_path, names, config, words):
    refused(lambda: weights.open_base(write(tmp_path, dict.fromkeys(names, torch.ones(2, 2)), config)), *words)


# ------------------------------------------------------------------ stored as [in, out]
CONV1D = {"h.0.attn.c_attn.weight": torch.randn(4, 12), "h.0.attn.c_proj.weight": torch.randn(4, 4)}


@pytest.mark.parametrize(
    ("config", "prefix", "turned"),
    [
        ({"model_type": "gpt2"}, "", True),
        ({"model_type": "gpt2"}, "transformer.", True),
        ({"model_type": "imagegpt"}, "transformer.", True),
        ({"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}}, "decoder.transformer.", True),
        ({"model_type": "x", "text_config": {"model_type": "gpt2"}}, "language_model.transformer.", True),
        ({"model_type": "x", "encoder": {"model_type": "vit"}, "decoder": {"model_type": "gpt2"}}, "encoder.", False),
        ({"model_type": "gpt_bigcode"}, "transformer.", False),
        ({"model_type": "bert"}, "", False),
        ({"model_type": "my-own-gpt"}, "transformer.", True),
        (None, "transformer.", True),  # its three projections stand side by side, so it is GPT-2's
    ],
)
def test_conv1d_is_turned_around_even_when_square(tmp_path, config, prefix, turned):
    base = weights.open_base(write(tmp_path, {prefix + name: weight for name, weight in CONV1D.items()}, config))
    for name, weight in CONV1D.items():
        module = prefix + name.removesuffix(".weight")
        np.testing.assert_array_equal(base.weight(module), weight.T if turned else weight)
        assert base.shape(module) == base.weight(module).shape
        assert ("transposed" in base.describe().set_index("module").loc[module].iloc[0]) == turned


def test_a_square_weight_that_may_be_turned_is_refused_where_no_config_tells(tmp_path):
    alone, flat = {"h.0.attn.c_proj.weight": torch.randn(4, 4)}, {"h.0.attn.c_attn.weight": torch.randn(12, 4)}
    base = weights.open_base(write(tmp_path / "alone", alone))
    refused(lambda: base.weight("c_proj"), "config.json", "[in, out]")
    below = weights.open_base(write(tmp_path / "nanogpt", {**alone, **flat}))  # one below the other: [out, in]
    np.testing.assert_array_equal(below.weight("c_proj"), alone["h.0.attn.c_proj.weight"])


# ------------------------------------------------------------------ heads; those that are tied: test_peft.py
@pytest.mark.parametrize("name", ["bert-bare", "gpt2-bare", "vit"])
def test_a_model_without_a_head_gets_none(tmp_path, name):
    MODELS[name]().save_pretrained(tmp_path)
    assert not {"lm_head", "cls.predictions.decoder"} & set(weights.open_base(tmp_path).modules())


def test_a_reader_of_handwriting_has_its_tied_head_under_its_own_name(tmp_path):
    size = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "vocab_size": 60}
    model = composite(
        *("VisionEncoderDecoderModel", "VisionEncoderDecoderConfig"), ("ViTConfig", EYES), ("TrOCRConfig", size)
    )()
    model.save_pretrained(tmp_path)
    weight = weights.open_base(tmp_path).weight("decoder.output_projection")
    np.testing.assert_array_equal(weight, model.decoder.output_projection.weight.detach())


def test_a_head_that_lies_in_the_text_tower_is_no_tied_one(tmp_path):
    """Files of LLaVA call it language_model.lm_head, and their configs may leave open whether it is tied."""
    tower = f"language_model.{Q}"
    head, *others = (torch.randn(6, 4, generator=torch.Generator().manual_seed(n)) for n in range(3))
    names = ("language_model.lm_head", "language_model.model.embed_tokens", tower)
    held = {f"{name}.weight": tensor for name, tensor in zip(names, (head, *others), strict=True)}
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": {"n": 1}}
    base = weights.open_base(write(tmp_path, held, config))
    assert base.find("lm_head") == "language_model.lm_head" and not base.left_out
    np.testing.assert_array_equal(base.weight("lm_head"), head)


@pytest.mark.parametrize("where", ["tie_word_embeddings", "text_config"])
def test_a_head_that_is_neither_tied_nor_in_the_file_is_refused(tmp_path, where):
    llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    untied = {"tie_word_embeddings": False}
    config.pop("tie_word_embeddings")
    (tmp_path / "config.json").write_text(
        json.dumps(config | (untied if where in untied else {where: untied})), encoding="utf-8"
    )
    refused(lambda: weights.open_base(tmp_path).weight("lm_head"), "lm_head", "not tied", "no file holds it")


# ------------------------------------------------------------------ quantised
U8, I8, I32 = (lambda *shape, t=t: torch.zeros(shape, dtype=t) for t in (torch.uint8, torch.int8, torch.int32))
F8 = torch.float8_e4m3fn
PACKED = {
    "gptq": {"qweight": I32(4, 8), "qzeros": I32(1, 4), "scales": torch.ones(1, 8), "g_idx": I32(32)},
    "awq": {"qweight": I32(32, 1), "qzeros": I32(1, 1), "scales": torch.ones(1, 8)},
    "bitsandbytes": {"weight": U8(128, 1), "weight.absmax": U8(4), "weight.quant_map": torch.ones(16)},
    "bitsandbytes ": {"weight": I8(8, 32), "SCB": torch.ones(8), "weight_format": U8(1)},
    "hqq": {"W_q": U8(16, 8), "scale": torch.ones(8, 1), "zero": torch.ones(8, 1), "meta": U8(3)},
    "compressed-tensors": {"weight_packed": I32(8, 4), "weight_scale": torch.ones(8, 1), "weight_shape": I32(2)},
    "aqlm": {"codes": I8(4, 4, 1), "codebooks": torch.ones(1, 8, 1, 8), "scales": torch.ones(4, 1, 1, 1)},
    "quanto": {"weight._data": I8(8, 32), "weight._scale": torch.ones(8, 1)},
    "eetq": {"weight": I8(32, 8), "weight_scales": torch.ones(8)},
    "mlx": {"weight": torch.zeros(8, 4, dtype=torch.uint32), "scales": torch.ones(8, 1), "biases": torch.ones(8, 1)},
    "bitnet": {"weight": U8(2, 32), "weight_scale": torch.ones(1)},
    "modelopt": {"weight": U8(8, 16), "weight_scale": torch.ones(8, 2).to(F8), "weight_scale_2": torch.ones(())},
    "mxfp8": {"weight": torch.ones(8, 32).to(F8), "weight_scale": U8(8, 1)},
    "asymmetric": {"weight": I8(8, 32), "weight_scale": torch.ones(8, 1), "weight_zero_point": I8(8, 1)},
    "actorder": {"weight": I8(8, 32), "weight_scale": torch.ones(8, 1), "weight_g_idx": I32(32)},
    "rounded": {"weight": torch.ones(8, 32).bfloat16(), "scales": torch.ones(8, 1)},
    "torchao": {"weight": torch.ones(8, 32).bfloat16(), "weight_zero_point": torch.ones(8, 1)},
    "bare": {"weight": I8(8, 32)},
    "fp8": {"weight": torch.ones(8, 32).to(F8)},
}


@pytest.mark.parametrize("method", PACKED)
@pytest.mark.parametrize("named", [True, False])
def test_packed_weights_are_refused_with_the_way_out(tmp_path, method, named):
    """With the method's name where the config, or a tensor that only it has, says so."""
    config = {"model_type": "llama", "quantization_config": {"quant_method": method.strip()}} if named else None
    held = {f"{Q}.{end}": tensor for end, tensor in PACKED[method].items()}
    base = weights.open_base(write(tmp_path, {**held, "model.norm_proj.weight": torch.ones(2, 2)}, config))
    if method == "fp8" and not named:  # a plain cast: the numbers are the weight
        np.testing.assert_array_equal(base.weight("q_proj"), 1)
        return
    known = {"gptq", "bitsandbytes", "hqq", "compressed-tensors", "aqlm", "quanto", "eetq", "modelopt"}
    said = method.strip() if named or method.strip() in known else ""
    refused(lambda: base.weight("self_attn.q_proj"), Q, WAY_OUT, said)
    assert base.shape("q_proj") is None
    assert WAY_OUT in base.describe().set_index("module").loc[Q].iloc[0]
    refused(lambda: base.weight("k_proj"), "not in", method.strip() if named else "")


def spread(scale, rows, columns):
    return np.repeat(np.repeat(scale.double().numpy(), rows, 0), columns, 1)


@pytest.mark.parametrize("kind", [F8, torch.float8_e5m2, torch.int8, torch.bfloat16])
@pytest.mark.parametrize(
    ("end", "scale", "blocks", "config"),
    [
        ("weight_scale", (200, 1), (1, 300), {}),
        ("weight_scale", (200,), (1, 300), {}),
        ("weight_scale", (), (200, 300), {}),
        ("scale_weight", (1,), (200, 300), {}),
        ("weight_scale", (200, 3), (1, 100), {"quant_method": "compressed-tensors"}),
        ("weight_scale_inv", (2, 3), (128, 128), {"quant_method": "fp8", "weight_block_size": [128, 128]}),
        ("weight_scale_inv", (2, 3), (100, 100), {"quant_method": "fp8", "weight_block_size": [100, 100]}),
        ("weight_scale_inv", (4, 5), (64, 64), {"quant_method": "fp8", "weight_block_size": [64, 64]}),
    ],
)
def test_a_weight_with_a_scale_is_their_product(tmp_path, kind, end, scale, blocks, config):
    scale = torch.rand(scale) + 0.5
    weight = (torch.randn(200, 300) * 20).round().to(kind)
    held = {f"{Q}.weight": weight, f"{Q}.{end}": scale, f"{Q}.input_scale": torch.ones(1)}
    base = weights.open_base(write(tmp_path, held, {"quantization_config": config}))
    full = spread(scale.reshape(len(scale) if scale.ndim else 1, -1), *blocks)[:200, :300]
    np.testing.assert_allclose(base.weight(Q), weight.double().numpy() * full, rtol=1e-6)
    assert f"times {end}" in base.describe().to_string()
    if kind in (torch.int8, torch.bfloat16):  # whole numbers: what stands between two of them is one scale
        assert base.round_off(Q) is None
        np.testing.assert_allclose(base.steps(Q), np.broadcast_to(full, (200, 300)), rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "config"),
    [
        ((2, 3), {}),  # 100 × 100, or 128 × 128 cut off at the edges?
        ((2, 3), {"weight_block_size": "128"}),
        ((2, 3), {"weight_block_size": [64, 64]}),
        ((2, 3), {"weight_block_size": [0, 0]}),
        ((7, 300), {}),
        ((300,), {}),
        ((2, 3, 1), {}),
    ],
)
def test_a_scale_that_may_be_spread_otherwise_is_refused(tmp_path, scale, config):
    held = {f"{Q}.weight": torch.ones(200, 300).to(F8), f"{Q}.weight_scale_inv": torch.rand(scale) + 0.5}
    base = weights.open_base(write(tmp_path, held, {"quantization_config": config}))
    refused(lambda: base.weight(Q), "weight_scale_inv", "(200, 300)", "weight_block_size", WAY_OUT)


# ------------------------------------------------------------------ GGUF
GGUF = {
    "blk.0.attn_q": (Q, (64, 32)),
    "blk.1.attn_k": ("model.layers.1.self_attn.k_proj", (32, 32)),
    "blk.1.ffn_up": ("model.layers.1.mlp.up_proj", (48, 32)),
    "token_embd": ("model.embed_tokens", (60, 32)),
}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize(
    ("arch", "heads", "more", "turned"),
    [
        ("llama", 4, {"ARCH__attention__head_count_kv": 2}, (4, 2)),
        ("llama", [4, 8], {"ARCH__attention__head_count_kv": [2, 4]}, (4, 4)),
        ("llama", 4, {}, (4, 4)),
        ("qwen2", 4, {"ARCH__attention__head_count_kv": 2}, None),
        ("gemma2", 4, {}, None),
    ],
)
def test_gguf_is_read_in_hugging_faces_names_and_order_of_rows(tmp_path, rng, kind, arch, heads, more, turned):
    """llama.cpp interleaves the halves of each head of Llama's queries and keys, not of Qwen2's."""
    held = {name: rng.standard_normal(shape) for name, (_, shape) in GGUF.items()}
    expected = gguf_model(
        tmp_path / "plain" / "m.gguf", held, kind
    )  # as the library reads them, which rounds row by row
    for name, count in zip(held, turned or (), strict=False):
        held[name] = interleaved(held[name], count)
    gguf_model(
        tmp_path / "m.gguf", {f"{name}.weight": matrix for name, matrix in held.items()}, kind, arch, heads, **more
    )
    base = weights.open_base(tmp_path)
    for name, (module, shape) in GGUF.items():
        np.testing.assert_array_equal(base.weight(module), expected[name])
        assert (base.find(name), base.kind(module), base.shape(module)) == (module, kind, shape)
    np.testing.assert_array_equal(base.weight("lm_head"), base.weight("embed_tokens"))  # no output.weight: tied


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arch": "mamba"}, ["'mamba'", "give the model as safetensors"]),
        ({"general__type": "adapter"}, ["is an adapter, not a model"]),
        ({"heads": 7}, ["how many heads", "q_proj"]),
        ({"heads": [], "arch": "llama"}, ["how many heads"]),
        ({"heads": [0, 4]}, ["how many heads"]),
    ],
)
def test_gguf_that_cannot_be_read_right_is_refused(tmp_path, rng, options, words):
    gguf_model(tmp_path / "m.gguf", {"blk.0.attn_q.weight": rng.standard_normal((64, 32))}, **options)
    refused(lambda: weights.open_base(tmp_path).weight(Q), *words)


# ------------------------------------------------------------------ what storing rounds to
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "F16", "BF16"])
@pytest.mark.parametrize("size", [1.0, 0.02])
def test_steps_and_rounding_of_gguf(tmp_path, rng, kind, size):
    weight = (size * rng.standard_normal((96, 256))).astype(np.float32)
    read = gguf_model(tmp_path / "m.gguf", {"blk.0.attn_v.weight": weight}, kind)["blk.0.attn_v.weight"]
    base = weights.open_base(tmp_path / "m.gguf")
    steps, off = base.steps("v_proj"), np.linalg.norm(weight - read)
    assert steps.shape == weight.shape
    assert off <= base.rounding("v_proj") <= 3 * off
    if kind.startswith("Q"):
        blocks = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
        width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
        d = blocks.reshape(96, -1, width)[..., :2].copy().view(np.float16).astype(np.float32)  # of each block
        ratio = steps.reshape(96, -1, 32)[..., 0] / np.abs(d[..., 0])
        assert np.median(ratio) == pytest.approx(1, rel=1e-4)
        assert base.round_off("v_proj") is None


# Where a block of 256 numbers keeps its scales of half precision, and how many numbers have one of their own.
K_QUANTS = {
    "Q2_K": ([80, 82], 16),
    "Q3_K": ([108], 16),
    "Q4_K": ([0, 2], 32),
    "Q5_K": ([0, 2], 32),
    "Q6_K": ([208], 16),
}


@pytest.mark.parametrize("kind", K_QUANTS)
def test_numbers_that_share_a_scale_lie_whole_steps_apart(tmp_path, rng, kind):
    """The library writes no such blocks: any bytes are one, with scales that are numbers."""
    (places, count), of = K_QUANTS[kind], gguf.GGMLQuantizationType[kind]
    blocks = rng.integers(0, 256, (64, 1, gguf.GGML_QUANT_SIZES[of][1]), dtype=np.uint8)
    for place in places:
        blocks[..., place : place + 2] = np.array([0.01], np.float16).view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_head_count(4)
    writer.add_tensor("blk.0.attn_v.weight", blocks.reshape(64, -1), raw_dtype=of)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    base = weights.open_base(tmp_path / "m.gguf")
    together, steps = (each("v_proj").reshape(-1, count) for each in (base.weight, base.steps))
    apart = (together - together.min(1, keepdims=True))[steps[:, 0] > 0] / steps[steps[:, 0] > 0]
    assert len(apart) > 0.9 * len(together)
    assert np.median(np.abs(apart - np.round(apart)).max(1)) < 1e-3
    assert np.median(apart.max(1)) < 64  # steps are not far too small


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, F8, torch.float8_e5m2])
@pytest.mark.parametrize("size", [1.0, 0.004])
def test_rounding_of_plain_numbers(tmp_path, rng, kind, size):
    """Small ones too: the least number of float8 is 2⁻⁹, so that most of a weight of 0.004 has fewer digits."""
    weight = size * rng.standard_normal((96, 256))
    base = weights.open_base(write(tmp_path, {"v.weight": torch.tensor(weight).to(kind)}))
    off = np.linalg.norm(weight - base.weight("v"))
    assert off <= base.rounding("v") <= 4 * off
    assert (np.abs(weight - base.weight("v")) <= base.steps("v") * 0.5001 + 1e-12).all()


# ------------------------------------------------------------------ what cannot be trusted
FIELDS = ["model_type", "architectures", "quantization_config", "text_config", "decoder", "tie_word_embeddings"]
FIELDS += ["_name_or_path"]


@pytest.mark.parametrize("value", ["text", 5, None, [], {}, ["x", 5, None], {"x": {"model_type": []}}, True, -1])
@pytest.mark.parametrize("field", FIELDS)
def test_fields_of_a_config_may_be_anything(tmp_path, field, value):
    held = {f"{Q}.weight": torch.ones(4, 4), "model.embed_tokens.weight": torch.ones(6, 4)}
    base = weights.open_base(write(tmp_path, held, {"model_type": "llama", field: value}))
    np.testing.assert_array_equal(base.weight("q_proj"), 1)
    assert isinstance(base.name(), str) and len(base.describe()) >= 2


def test_thousands_of_modules_are_described_in_a_moment(tmp_path):
    held = {f"model.layers.{n}.mlp.experts.{k}.w.weight": torch.ones(1, 1) for n in range(30) for k in range(100)}
    base = weights.open_base(write(tmp_path, held))
    assert len(base.describe()) == 3000
    assert len(weights.match(base, base)) == 3000
