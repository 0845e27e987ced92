import numpy as np
import pytest
import torch
import transformers as tr

from helpers import weights
from helpers.weights import LowRank
from tests.weights.building import (
    MODELS,
    gguf_adapter,
    gguf_lora,
    gguf_model,
    interleaved,
    linears,
    llama,
    refused,
    stacked,
    write,
)

Q, K = "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
NAMES = {
    **{f"blk.1.attn_{x}": f"model.layers.1.self_attn.{x}_proj" for x in "qkv"},
    "blk.1.attn_output": "model.layers.1.self_attn.o_proj",
    **{f"blk.1.ffn_{x}": f"model.layers.1.mlp.{x}_proj" for x in ("gate", "up", "down")},
    "output": "lm_head",
}
HEADS = {"blk.1.attn_q": 4, "blk.1.attn_k": 2}
ALPHA = {"adapter.lora.alpha": 16.0}
ROWS_BY_PART = {"gpt-neox": "gptneox", "bloom": "bloom", "falcon": "falcon", "falcon, new": "falcon"}


def pair(shape, rank, seed=0):
    """(A [r, in], B [out, r]) of ΔW of a shape (out, in)."""
    draw = np.random.default_rng(seed)
    return draw.standard_normal((rank, shape[1])).astype("f"), draw.standard_normal((shape[0], rank)).astype("f")


@pytest.fixture(params=["safetensors", "gguf"])
def base(request, tmp_path):
    """The same Llama with 4 heads, 2 of keys and values, as Hugging Face and as llama.cpp save it."""
    torch.manual_seed(0)
    model = llama()
    model.save_pretrained(tmp_path / "base")
    if request.param == "gguf":
        held = {name: model.get_submodule(module).weight.detach().numpy() for name, module in NAMES.items()}
        held["token_embd"] = model.model.embed_tokens.weight.detach().numpy()
        held = {f"{n}.weight": interleaved(w, HEADS[n]) if n in HEADS else w for n, w in held.items()}
        gguf_model(tmp_path / "base.gguf", held, heads=4, ARCH__attention__head_count_kv=2)
        return weights.open_base(tmp_path / "base.gguf")
    return weights.open_base(tmp_path / "base")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_update_is_alpha_over_r_b_a_in_the_rows_order_of_its_base(tmp_path, base, kind):
    """ΔW in Hugging Face's order; as llama.cpp keeps W + ΔW, both are in its own."""
    pairs = {name: pair(base.shape(module), 2 + n, n) for n, (name, module) in enumerate(NAMES.items())}
    held = {}
    for name, (a, b) in pairs.items():
        held |= gguf_lora(name, a, interleaved(b, HEADS[name]) if name in HEADS else b)
    updates = weights.open_update(gguf_adapter(tmp_path / "adapter.gguf", held, kind=kind, **ALPHA), base)
    assert weights.match(base, updates) == {name: name for name in NAMES.values()}
    assert not updates.left_out
    u = {"F32": 2**-24, "F16": 2**-11, "BF16": 2**-8}[kind]
    for name, factors in pairs.items():
        update, (a, b) = updates.update(NAMES[name]), (factor.astype(float) for factor in factors)
        assert isinstance(update, LowRank)
        assert update.stored_precision == u
        truth, most = 16 / len(a) * b @ a, 16 / len(a) * np.abs(b) @ np.abs(a)
        assert (np.abs(update.delta() - truth) <= 3 * u * most).all()


def test_without_a_base_what_needs_its_heads_is_left_out_by_name(tmp_path):
    shapes = {"blk.1.attn_q": (32, 32), "blk.1.attn_k": (16, 32), "blk.1.attn_v": (16, 32)}
    held = {key: each for name, shape in shapes.items() for key, each in gguf_lora(name, *pair(shape, 2)).items()}
    updates = weights.open_update(gguf_adapter(tmp_path / "adapter.gguf", held))
    assert updates.modules() == [NAMES["blk.1.attn_v"]]
    assert set(updates.left_out) == {Q, K}
    refused(lambda: updates.delta(Q), Q, "give its base")
    alone = {key: each for key, each in held.items() if "attn_v" not in key}
    refused(lambda: weights.open_update(gguf_adapter(tmp_path / "alone.gguf", alone)), Q, "give its base")


def test_an_architecture_that_reorders_nothing_needs_no_base(tmp_path):
    a, b = pair((32, 32), 3)
    updates = weights.open_update(
        gguf_adapter(tmp_path / "adapter.gguf", gguf_lora("blk.1.attn_q", a, b), "qwen2", **ALPHA)
    )
    np.testing.assert_allclose(updates.delta(Q), 16 / 3 * b @ a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("header", "scale"), [({}, 1), ({"adapter.lora.alpha": 0.0}, 1), (ALPHA, 4), ({"adapter.lora.alpha": 2}, 0.5)]
)
def test_without_alpha_the_scale_is_one(tmp_path, header, scale):
    a, b = pair((16, 32), 4)
    updates = weights.open_update(
        gguf_adapter(tmp_path / "lora" / "any.gguf", gguf_lora("blk.0.attn_v", a, b), **header).parent
    )
    assert updates.update("v_proj").scale == scale
    np.testing.assert_allclose(updates.delta("v_proj"), scale * (b @ a), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(60, 32), (32, 32)])
def test_the_token_embedding_has_its_rows_in_a(tmp_path, shape):
    """lora_a [rows, r] and lora_b [columns, r]: row t gets α/r · b a[t], also where the shape tells nothing."""
    a, b = pair(shape, 4)[1], pair(shape[::-1], 4, seed=1)[1]
    updates = weights.open_update(gguf_adapter(tmp_path / "adapter.gguf", gguf_lora("token_embd", a, b), **ALPHA))
    delta = updates.delta("embed_tokens")
    assert delta.shape == shape == updates.shape("model.embed_tokens")
    for token in (0, 5, shape[0] - 1):
        np.testing.assert_allclose(delta[token], 16 / 4 * b @ a[token], rtol=1e-5, atol=1e-6)


def fused(name):
    """A tiny model whose query_key_value lies head by head, or group by group, and its (heads, key/value heads)."""
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 60}
    if name == "gpt-neox":
        return MODELS[name](), (4, 4)
    if name == "bloom":
        return tr.BloomForCausalLM(tr.BloomConfig(n_head=4, n_layer=1, hidden_size=32, vocab_size=60)), (4, 4)
    groups = {"new_decoder_architecture": True, "num_kv_heads": 2} if "new" in name else {"multi_query": True}
    config = tr.FalconConfig(num_attention_heads=4, **tiny, **groups)
    return tr.FalconForCausalLM(config), (4, 2 if "new" in name else 1)


@pytest.mark.parametrize(("name", "arch"), ROWS_BY_PART.items())
def test_a_fused_projection_gets_its_rows_back_where_hugging_face_has_them(tmp_path, name, arch):
    """llama.cpp stacks all queries, all keys, all values; Hugging Face has those of each head or group together."""
    torch.manual_seed(0)
    model, (heads, shared) = fused(name)
    model.save_pretrained(tmp_path / "base")
    base = weights.open_base(tmp_path / "base")
    module = next(each for each in linears(model) if each.endswith("query_key_value"))
    out, width = base.shape(module)
    a, b = pair((out, width), 3)
    held = gguf_lora("blk.0.attn_qkv", a, stacked(b, heads, shared))
    updates = weights.open_update(gguf_adapter(tmp_path / "adapter.gguf", held, arch, **ALPHA), base)
    np.testing.assert_allclose(updates.delta(module), 16 / 3 * b @ a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "header", "words"),
    [
        ("llama", {"adapter.type": "control"}, ["control", "only lora"]),
        ("llama", {"adapter.type": None}, ["None", "only lora"]),
        ("llama", {"general.type": None}, ["lora"]),
        ("llama", {"adapter.alora.invocation_tokens": [1, 2]}, ["aLoRA", "plain LoRA"]),
        ("llama", {"adapter.lora.alpha": "16"}, ["adapter.lora.alpha is '16'", "expected a number"]),
        ("llama", {"adapter.lora.alpha": float("nan")}, ["adapter.lora.alpha is nan"]),
        ("llama", {"adapter.lora.alpha": float("inf")}, ["adapter.lora.alpha is inf"]),
        ("llama", {"adapter.lora.alpha": [1.0, 2.0]}, ["adapter.lora.alpha is [1.0, 2.0]"]),
        ("no-such-model", {}, ["no-such-model", "no row in architectures.toml", "PEFT"]),
        ("gpt2", {}, ["gpt2", "converter", "PEFT"]),
    ],
)
def test_what_is_not_read_right_is_refused(tmp_path, arch, header, words):
    held = gguf_lora("blk.0.attn_output", *pair((32, 32), 2))
    refused(lambda: weights.open_update(gguf_adapter(tmp_path / "adapter.gguf", held, arch, **header)), *words)


def test_what_is_no_linear_layers_factor_is_left_out_by_name(tmp_path):
    held = {
        **gguf_lora("blk.0.attn_v", *pair((16, 32), 2)),
        **gguf_lora("blk.0.no_such_layer", *pair((16, 32), 2)),
        "blk.0.ffn_up.weight.lora_a": np.ones((4, 2, 32)),
        "blk.0.ffn_up.weight.lora_b": np.ones((4, 48, 2)),
        "blk.0.ffn_down.weight.lora_a": np.ones((2, 48)),
        "blk.0.attn_norm.weight": np.ones(32),
    }
    updates = weights.open_update(gguf_adapter(tmp_path / "adapter.gguf", held))
    assert updates.modules() == ["model.layers.0.self_attn.v_proj"]
    told = {name.rpartition(".")[2]: why for name, why in updates.left_out.items()}
    assert "architectures.toml" in told["no_such_layer"]
    assert "experts" in told["up_proj"]
    assert "incomplete" in told["down_proj"]
    assert "whole" in told["weight"]


def test_an_adapter_with_other_names_is_still_read_as_one(tmp_path):
    path = gguf_adapter(tmp_path / "adapter.gguf", {"blk.0.attn_v.weight.loraA": np.ones((2, 32))})
    refused(lambda: weights.open_update(path), "holds no LoRA factors", "blk.0.attn_v.weight.loraA")


def test_quantised_factors_are_named(tmp_path):
    held = gguf_lora("blk.0.attn_v", *pair((32, 32), 32))
    path = gguf_adapter(tmp_path / "adapter.gguf", held, kind="Q8_0")
    refused(lambda: weights.open_update(path), "v_proj", "Q8_0", "quantised")


@pytest.mark.parametrize("config", [{"model_type": "llama"}, {"model_type": "llama", "num_attention_heads": 7}])
def test_a_base_that_does_not_tell_its_heads_leaves_what_needs_them_out(tmp_path, config):
    base = weights.open_base(write(tmp_path / "base", {f"{Q}.weight": torch.ones(32, 32)}, config))
    held = {**gguf_lora("blk.1.attn_q", *pair((32, 32), 2)), **gguf_lora("blk.1.attn_v", *pair((16, 32), 2))}
    updates = weights.open_update(gguf_adapter(tmp_path / "adapter.gguf", held), base)
    assert updates.modules() == [NAMES["blk.1.attn_v"]]
    assert "heads" in updates.left_out[Q]


def test_a_base_of_another_width_is_refused(tmp_path, base):
    held = gguf_lora("blk.1.attn_v", *pair((16, 24), 2))
    updates = weights.open_update(gguf_adapter(tmp_path / "adapter.gguf", held), base)
    refused(lambda: updates.delta("v_proj"), "16 × 24", "16 × 32", "give its own base")


def test_an_adapter_is_no_base(tmp_path):
    path = gguf_adapter(tmp_path / "adapter.gguf", gguf_lora("blk.0.attn_v", *pair((16, 32), 2)))
    refused(lambda: weights.open_base(path), "is an adapter", "base")
