"""What PEFT writes besides LoRA of linear layers: LoHa, LoKr, (IA)^3, embeddings, DoRA; held against what it merges."""

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from helpers import weights
from helpers.weights import Dense, LowRank
from tests.weights.building import MODELS, Q, adapt, llama, merged, refused, write

FILE = "adapter_model.safetensors"
LAYERS = ["q_proj", "v_proj", "down_proj"]  # square, smaller, larger
PATTERNS = {"rank_pattern": {r"layers\.0\..*": 2}, "alpha_pattern": {"v_proj": 7}}
EMBEDDING = {"target_modules": ["embed_tokens", "q_proj"], "r": 3, "lora_alpha": 5}
OF_GPT2 = {"target_modules": ["wte", "c_attn"], "fan_in_fan_out": True}
MODELS = {**MODELS, "llama, square embedding": lambda: llama(vocab_size=32)}
KINDS = {
    "loha": ("llama", peft.LoHaConfig(r=3, alpha=5, target_modules=LAYERS)),
    "loha, patterns": ("llama", peft.LoHaConfig(r=3, alpha=5, target_modules=LAYERS, **PATTERNS)),
    "loha, bert": ("bert", peft.LoHaConfig(r=2, alpha=3, target_modules=["query", "dense"])),
    "lokr": ("llama", peft.LoKrConfig(r=3, alpha=5, target_modules=LAYERS)),
    "lokr, patterns": ("llama", peft.LoKrConfig(r=3, alpha=5, target_modules=LAYERS, decompose_factor=4, **PATTERNS)),
    "lokr, both in two": ("llama", peft.LoKrConfig(r=1, alpha=5, target_modules=LAYERS, decompose_both=True)),
    "lokr, both whole": ("llama", peft.LoKrConfig(r=32, alpha=5, target_modules=LAYERS)),
    "lokr, bert": ("bert", peft.LoKrConfig(r=2, alpha=3, target_modules=["query", "dense"])),
    "ia3": ("llama", peft.IA3Config(target_modules=LAYERS, feedforward_modules=["down_proj"])),
    "ia3, t5": ("t5", peft.IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"])),
    "ia3, gpt2": (
        "gpt2",
        peft.IA3Config(
            target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True
        ),
    ),
    "embedding": ("llama", peft.LoraConfig(**EMBEDDING)),
    "embedding, tied": ("llama-tied", peft.LoraConfig(**EMBEDDING)),
    "embedding, gpt2": ("gpt2", peft.LoraConfig(r=3, **OF_GPT2)),
    "embedding, rslora": ("llama", peft.LoraConfig(**EMBEDDING, use_rslora=True)),
    "embedding, patterns": ("llama", peft.LoraConfig(**EMBEDDING, rank_pattern={"embed_tokens": 2})),
    "embedding, dora": ("llama", peft.LoraConfig(**EMBEDDING, use_dora=True)),
    "embedding, dora, square": ("llama, square embedding", peft.LoraConfig(**EMBEDDING, use_dora=True)),
    "embedding, dora, gpt2": ("gpt2", peft.LoraConfig(r=3, use_dora=True, **OF_GPT2)),
    "dora, rslora": ("llama", peft.LoraConfig(r=3, target_modules=LAYERS, use_dora=True, use_rslora=True)),
    "dora, patterns": ("llama", peft.LoraConfig(r=3, target_modules=LAYERS, use_dora=True, **PATTERNS)),
}


def saved(place, kind):
    """(ΔW of each module as PEFT merges it, the Base, the Updates)."""
    torch.manual_seed(1)
    name, config = KINDS[kind]
    model = MODELS[name]()
    model.save_pretrained(place / "base")
    truth = {name: delta for name, (_, delta) in merged(model, adapt(model, place / "adapter", config)).items()}
    base = weights.open_base(place / "base")
    return truth, base, weights.open_update(place / "adapter", base)


@pytest.mark.parametrize("kind", KINDS)
def test_delta_is_what_peft_merges(tmp_path, kind):
    truth, base, updates = saved(tmp_path, kind)
    pairs = {theirs: ours for ours, theirs in weights.match(base, updates).items()}
    assert set(pairs) == set(updates.modules()) == set(truth)
    assert updates.left_out == {} and updates.notes == []
    factored = "embedding" in kind and "dora" not in kind
    for module, delta in truth.items():
        found = updates.update(module)
        assert isinstance(found, LowRank if factored else Dense)
        assert found.shape == delta.shape == base.shape(pairs[module])
        np.testing.assert_allclose(found.delta(), delta, atol=2e-6 * np.abs(delta).max() + 1e-7)
        assert 0 < found.stored_precision < 1e-4


@pytest.mark.parametrize("kind", ["loha", "lokr, both in two", "embedding"])
def test_no_base_is_needed_for_products_of_factors(tmp_path, kind):
    truth, _, _ = saved(tmp_path, kind)
    updates = weights.open_update(tmp_path / "adapter")
    for module, delta in truth.items():
        assert updates.shape(module) == delta.shape
        np.testing.assert_allclose(updates.delta(module), delta, atol=2e-6 * np.abs(delta).max() + 1e-7)


@pytest.mark.parametrize("kind", ["ia3", "dora, rslora", "embedding, dora"])
def test_what_is_made_from_the_weight_needs_the_base(tmp_path, kind):
    truth, _, _ = saved(tmp_path, kind)
    for module in truth:
        refused(lambda name=module: weights.open_update(tmp_path / "adapter").update(name), "give its base", module)


def test_the_description_says_how_each_kind_is_read(tmp_path):
    for kind, words in {"loha": "∘", "lokr": "⊗", "ia3": "W ∘ l − W", "dora, rslora": "DoRA: m (W + scale"}.items():
        told = saved(tmp_path / kind, kind)[2].describe().set_index("module")
        assert words in told.loc[Q, "how it is read"]
        assert told.loc[Q, "stored as"] == "F32"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["loha", "lokr", "ia3", "embedding, dora"])
def test_stored_precision_bounds_what_storing_changed(tmp_path, kind, dtype):
    """The same adapter, stored more coarsely: it reads as another ΔW, but no further away than is said."""
    truth, base, _ = saved(tmp_path, kind)
    held = {name: tensor.to(dtype) for name, tensor in load_file(tmp_path / "adapter" / FILE).items()}
    write(tmp_path / "adapter", held, file=FILE)
    updates = weights.open_update(tmp_path / "adapter", base)
    for module, delta in truth.items():
        found = updates.update(module)
        off = np.linalg.norm(found.delta() - delta) / np.linalg.norm(found.delta())
        assert 1e-6 < off < found.stored_precision


# (kind, the end of the tensor's name, what stands in its place, words of the refusal)
SPOILT = [
    ("loha", "hada_w1_a", lambda t: torch.full_like(t, torch.nan), ["hada_w1_a", "NaN"]),
    ("lokr", "lokr_w1", lambda t: torch.full_like(t, torch.inf), ["lokr_w1", "Inf"]),
    ("ia3", "ia3_l", lambda t: torch.full_like(t, torch.nan), ["ia3_l", "NaN"]),
    ("loha", "hada_w2_b", lambda t: None, ["hada_w2", "incomplete"]),
    ("lokr", "lokr_w1", lambda t: None, ["lokr_w1", "incomplete"]),
    ("loha", "hada_w2_b", lambda t: t[:-1], ["hada_w2_b (2, 32)", "do not fit"]),
    ("loha", "hada_w2_b", lambda t: t[:, :-1], ["hada_w2_b (3, 31)", "do not fit"]),
    ("lokr", "lokr_w1", lambda t: t[:-1], ["base has 32 × 32"]),
    ("ia3", "ia3_l", lambda t: t[:-1], ["(31, 1) factors", "a weight of (32, 32)", "give its own base"]),
    ("loha", "hada_w1_a", lambda t: t.to(torch.int8), ["hada_w1_a is stored as I8"]),
    ("lokr", "lokr_w1", lambda t: t[:0], ["lokr_w1 of shape (0,", "gathered"]),
    ("loha", "hada_w1_a", lambda t: t[..., None], ["3 dimensions"]),
    ("ia3", "ia3_l", lambda t: t.flatten()[None, None], ["weight of (32, 32)"]),
    ("ia3", "ia3_l", lambda t: t[:1], ["weight of (32, 32)"]),
]


@pytest.mark.parametrize(("kind", "end", "change", "words"), SPOILT)
def test_factors_that_cannot_be_right_are_refused(tmp_path, kind, end, change, words):
    _, base, _ = saved(tmp_path, kind)
    changed = {
        name: change(t) if f"{Q}.{end}" in name else t for name, t in load_file(tmp_path / "adapter" / FILE).items()
    }
    write(tmp_path / "adapter", {name: t for name, t in changed.items() if t is not None}, file=FILE)
    refused(lambda: weights.open_update(tmp_path / "adapter", base).update(Q), *words)
