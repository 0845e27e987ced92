"""Parts and heads that cannot be asked for, and configs that cannot be trusted."""

import numpy as np
import pytest
import torch

from helpers import weights
from helpers.weights import architectures
from helpers.weights.architectures import Layout
from tests.weights.building import refused, write

Q, FUSED_Q = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.qkv_proj"
HELD = {
    f"{Q}.weight": torch.arange(64.0).reshape(16, 4),
    "model.layers.0.self_attn.k_proj.weight": torch.ones(8, 4),
    "model.layers.0.self_attn.o_proj.weight": torch.ones(4, 16),
    "model.layers.0.mlp.up_proj.weight": torch.ones(16, 4),
}
PHI3 = {f"{FUSED_Q}.weight": torch.arange(128.0).reshape(32, 4), "a.mlp.gate_up_proj.weight": torch.ones(6, 4)}
LLAMA = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("q_proj[head 4]", ["'head 0 … 3'", "[head 4]", Q]),
        ("k_proj[head 2]", ["'head 0 … 1'"]),
        ("o_proj[head 4]", ["'head 0 … 3'"]),
        ("q_proj[k]", ["'head 0 … 3'"]),
        ("q_proj[k, head 0]", ["'head 0 … 3'"]),
        ("q_proj[head]", ["'head 0 … 3'"]),
        ("q_proj[head -1]", ["'head 0 … 3'"]),
        ("q_proj[head 1.5]", ["'head 0 … 3'"]),
        ("q_proj[head 99999999999999999999]", ["'head 0 … 3'"]),
        ("q_proj[head\x1b 1]", ["'head 0 … 3'"]),
        ("q_proj[3]", ["'head 0 … 3'"]),
        ("up_proj[head 1]", ["up_proj", "nothing of the kind"]),
        ("up_proj[up]", ["nothing of the kind"]),
        ("x_proj[head 1]", ["'x_proj' is not in"]),
    ],
)
def test_a_part_or_head_that_does_not_exist_lists_those_that_do(tmp_path, asked, words):
    base = weights.open_base(write(tmp_path, HELD, LLAMA))
    for action in (base.weight, base.shape, base.find):
        refused(lambda action=action: action(asked), *words)


@pytest.mark.parametrize(
    "asked", ["[head 1]", "[q, head 4]", "[k, head 2]", "[gate]", "[q head 1]", "[q,]", "[head 1, q]", "[o]"]
)
def test_a_fused_projection_lists_its_parts_and_their_heads(tmp_path, asked):
    base = weights.open_base(write(tmp_path, PHI3, {**LLAMA, "model_type": "phi3"}))
    listed = ["'q'", "'k'", "'v'", "'q, head 0 … 3'", "'k, head 0 … 1'", "'v, head 0 … 1'", asked]
    refused(lambda: base.weight(FUSED_Q + asked), *listed)
    if asked != "[gate]":
        refused(lambda: base.weight(f"gate_up_proj{asked}"), "'gate', 'up'")
    assert base.layout.parts("model.norm", (4, 4)) == []


@pytest.mark.parametrize("asked", ["[q,head 1]", "[ q , head 01 ]", "[q,\thead 1]"])
def test_spaces_are_free(tmp_path, asked):
    base = weights.open_base(write(tmp_path, PHI3, {**LLAMA, "model_type": "phi3"}))
    assert base.find(f"qkv_proj{asked}") == f"{FUSED_Q}[q, head 1]"
    np.testing.assert_array_equal(base.weight(f"qkv_proj{asked}"), np.arange(16.0, 32).reshape(4, 4))
    assert base.find("qkv_proj[]") == FUSED_Q and base.shape("qkv_proj[ ]") == (32, 4)


ODD = ["4", True, -1, 0, 2**70, 4.0, [], ["x", 4], {"a": 1}, [[4]]]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("key", ["num_attention_heads", "num_key_value_heads"])
def test_numbers_of_heads_may_be_anything(tmp_path, key, value):
    base = weights.open_base(write(tmp_path, HELD, {**LLAMA, key: value}))
    module = "q_proj" if key == "num_attention_heads" else "k_proj"
    refused(lambda: base.weight(f"{module}[head 0]"), module, "heads")
    np.testing.assert_array_equal(base.weight("q_proj"), HELD[f"{Q}.weight"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, ["q_proj", "config.json", "no architecture"]),
        ({"model_type": "my-own"}, ["architectures.toml has no row for 'my-own'"]),
        ({"model_type": "llama"}, ["config.json", "num_attention_heads"]),
        ({"model_type": "llama", "num_attention_heads": None}, ["config.json", "num_attention_heads"]),
        ({"model_type": "bart", "num_attention_heads": 3}, ["16 rows, not 3 equal parts"]),
        ({**LLAMA, "num_attention_heads": 3}, ["3 heads, and 2, no divisor"]),
        ({**LLAMA, "num_attention_heads": 64}, ["16 rows, not 64 equal parts"]),
        ({"model_type": "mistral", "num_attention_heads": 4}, ["4 heads, and 8, no divisor"]),
        ({"model_type": "llava", "text_config": {"model_type": "new"}}, ["architectures.toml has no row for 'new'"]),
    ],
)
def test_heads_that_nothing_tells_are_refused(tmp_path, config, words):
    refused(lambda: weights.open_base(write(tmp_path, HELD, config)).weight("q_proj[head 0]"), *words)


def test_older_configs_keep_the_texts_numbers_at_the_top():
    config = {**LLAMA, "model_type": "qwen2_vl", "vision_config": {"num_heads": 8, "embed_dim": 64}}
    layout = Layout(config)
    assert layout.heads("model.layers.0.self_attn.q_proj") == (4, 2)
    assert layout.heads("visual.blocks.0.attn.qkv") == (8, 8)
    assert layout.cut("visual.blocks.0.attn.qkv", (96, 32), "k, head 7").index == slice(60, 64)


def test_a_part_of_a_composite_model_that_no_config_names_has_nobodys_heads():
    """A resampler between the towers, or a second picture tower, has numbers of its own: not those of the text."""
    config = {"model_type": "idefics2", "text_config": {**LLAMA}, "perceiver_config": {"model_type": "x", "n": 2}}
    layout = Layout(config)
    for text in ("model.text_model.layers.0", "model.layers.0", "transformer.h.0", "layers.0"):
        assert layout.heads(f"{text}.self_attn.q_proj") == (4, 2)
    for other in ("model.connector.perceiver_resampler.layers.0.self_attn.q_proj", "high_res.layers.0.attn.proj"):
        assert layout.parts(other, (16, 4)) == layout.each(other, (16, 4)) == []
        refused(lambda other=other: layout.cut(other, (16, 4), "head 0"), other, "no row for 'idefics2'")


def test_an_unknown_tower_keeps_no_part_of_another_from_being_compared(tmp_path):
    eye = "vision_tower.layers.0.attention.q_proj"
    config = {"model_type": "llava", "text_config": LLAMA, "vision_config": {"model_type": "new"}}
    base = weights.open_base(
        write(tmp_path, {f"language_model.{Q}.weight": HELD[f"{Q}.weight"], f"{eye}.weight": torch.ones(8, 8)}, config)
    )
    each = {name: base.layout.each(name, base.shape(name)) for name in base.modules()}
    assert each == {eye: [], f"language_model.{Q}": [f"head {n}" for n in range(4)]}


def test_a_gguf_in_which_heads_do_not_divide_is_refused():
    layout = Layout({}, {"general.architecture": "falcon", "falcon.attention.head_count": 4})
    name = "transformer.h.0.self_attention.query_key_value"
    refused(lambda: layout.order(name, 50), "50 rows, not 12 equal parts")
    refused(lambda: Layout({}, {"general.architecture": "bloom"}).order(name, 48), "attention.head_count", "header")
    assert layout.order("transformer.h.0.mlp.dense_h_to_4h", 50) is None
    assert not Layout({}, {"general.architecture": "gpt2"}).transposed("transformer.h.0.attn.c_attn")


def test_a_model_may_hold_a_name_with_brackets(tmp_path):
    base = weights.open_base(write(tmp_path, {"a[q].weight": torch.ones(2, 3), "a.weight": torch.ones(4, 4)}, LLAMA))
    assert base.shape("a[q]") == (2, 3)
    refused(lambda: base.weight("a[k]"), "nothing of the kind")


def test_roles_are_of_attention_only():
    names = {"h.0.attn.c_proj": "o", "h.0.mlp.c_proj": "", "x.attention.output.dense": "o", "x.output.dense": ""}
    names |= {"b.DenseReluDense.wo": "", "b.SelfAttention.o": "o", "layers.0.mlp.Wo": "", "layers.0.attn.Wo": "o"}
    names |= {"attn1.to_q": "q", "attn1.to_out.0": "o", "q": "q", "": "", "my_q_proj": ""}
    assert {name: architectures.role(name) for name in names} == names
