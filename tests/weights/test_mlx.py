import numpy as np
import pytest
import torch

from helpers import weights
from helpers.weights import Dense, LowRank
from tests.weights.building import MODELS, Q, llama, refused, write

FILE, V1 = "adapters.safetensors", "model.layers.1.self_attn.v_proj"
HAS_BASE = {Q: (32, 32), V1: (16, 32), "model.layers.1.mlp.down_proj": (32, 48), "lm_head": (60, 32)}


def settings(scale=20.0, kind="lora", **more):
    """adapter_config.json as mlx-lm writes it; the rank that it gives is another than the tensors'."""
    return {
        "fine_tune_type": kind,
        "num_layers": 2,
        "lora_parameters": {"rank": 7, "scale": scale, "dropout": 0.0},
        **more,
    }


def factors(shapes, seed=0):
    """{name: tensor} of LoRA on linear layers of these shapes (out, in), of rank 2, 3, … in turn."""
    draw, held = torch.Generator().manual_seed(seed), {}
    for rank, (name, (out, width)) in enumerate(shapes.items(), 2):
        held[f"{name}.lora_a"] = torch.randn(width, rank, generator=draw)
        held[f"{name}.lora_b"] = torch.randn(rank, out, generator=draw)
    return held


def opened(place, held, config, *, base=None, file=FILE):
    return weights.open_update(write(place / "adapter", held, config, file), base)


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    llama().save_pretrained(tmp_path / "base")
    return weights.open_base(tmp_path / "base")


@pytest.mark.parametrize("scale", [20.0, 1, -0.5, 1e-3])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_update_is_what_mlx_adds_to_a_layers_output(tmp_path, base, scale, kind):
    """x ΔWᵀ = scale · (x a) b for any x, whatever rank the config gives; each layer has its own."""
    held = {name: tensor.to(kind) for name, tensor in factors(HAS_BASE).items()}
    updates = opened(tmp_path, held, settings(scale), base=base)
    x = np.random.default_rng(1)
    assert weights.match(base, updates) == {name: name for name in HAS_BASE}
    for rank, (name, shape) in enumerate(HAS_BASE.items(), 2):
        a, b = (held[f"{name}.lora_{letter}"].double().numpy() for letter in "ab")
        update, given = updates.update(name), x.standard_normal((5, shape[1]))
        assert isinstance(update, LowRank)
        assert (update.shape, len(update.a)) == (shape, rank) == (updates.shape(name), rank)
        np.testing.assert_allclose(given @ update.delta().T, scale * (given @ a) @ b, rtol=1e-9, atol=1e-9)
        assert update.stored_precision == {torch.float32: 2**-24, torch.bfloat16: 2**-8}[kind]


@pytest.mark.parametrize("given", ["", FILE, "adapter_config.json", "0000100_adapters.safetensors"])
def test_the_final_adapter_is_read_and_a_checkpoint_beside_it_where_named(tmp_path, given):
    final, earlier = factors({Q: (8, 6)}), factors({Q: (8, 6)}, seed=1)
    place = write(tmp_path / "adapter", earlier, None, "0000100_adapters.safetensors")
    write(place, final, settings(3.0), FILE)
    right = earlier if given.startswith("0") else final
    delta = weights.open_update(place / given).delta(Q)
    np.testing.assert_allclose(delta, 3 * (right[f"{Q}.lora_a"] @ right[f"{Q}.lora_b"]).T.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["model.embed_tokens", "transformer.wte", "backbone.embeddings", "model.tok_embeddings"]
)
@pytest.mark.parametrize("shape", [(60, 32), (32, 32)])
def test_embeddings_have_their_rows_in_a(tmp_path, name, shape):
    """The row that token t gets more is scale · a[t] b, also where the shape does not tell rows from columns."""
    held = factors({name: shape[::-1], "model.layers.0.mlp.up_proj": (4, 4)})
    delta = opened(tmp_path, held, settings(0.5)).delta(name)
    a, b = (held[f"{name}.lora_{letter}"].double().numpy() for letter in "ab")
    assert delta.shape == shape
    for token in (0, 7, shape[0] - 1):
        np.testing.assert_allclose(delta[token], 0.5 * a[token] @ b, rtol=1e-9, atol=1e-12)


def test_names_that_mlx_gives_a_neox_are_matched_with_its_base(tmp_path):
    MODELS["gpt-neox"]().save_pretrained(tmp_path / "base")
    base = weights.open_base(tmp_path / "base")
    fused, theirs = "gpt_neox.layers.1.attention.query_key_value", "model.h.1.attention.query_key_value"
    held = factors({theirs: (96, 32), "model.embed_out": (60, 32)})
    updates = opened(tmp_path, held, settings(), base=base)
    assert weights.match(base, updates) == {fused: theirs, base.find("embed_out"): "model.embed_out"}
    a, b = (held[f"{theirs}.lora_{letter}"].double().numpy() for letter in "ab")
    heads = (20 * (a @ b).T).reshape(4, 3, 8, 32)  # of each head its query, its key, its value
    np.testing.assert_allclose(updates.delta(f"{theirs}[k, head 2]"), heads[2, 1], rtol=1e-9)


def test_the_output_layer_of_a_neox_is_no_embedding(tmp_path):
    held = factors({"embed_out": (60, 32)})
    assert opened(tmp_path, held, settings()).shape("embed_out") == (60, 32)


@pytest.mark.parametrize(
    "config", [settings(2.0, "dora"), {"use_dora": True, "lora_layers": 2, "lora_parameters": {"scale": 2.0}}]
)
def test_dora_gives_each_row_its_length(tmp_path, base, config):
    """Row by row, of an embedding too: m · (w + scale · Δw) / ‖w + scale · Δw‖ − w."""
    held = {**factors({Q: (32, 32), V1: (16, 32)}), **factors({"model.embed_tokens": (32, 60)}, seed=1)}
    shapes, draw = {Q: 32, V1: 16, "model.embed_tokens": 60}, torch.Generator().manual_seed(2)
    held |= {f"{name}.m": 1 + torch.rand(out, generator=draw) for name, out in shapes.items()}
    updates = opened(tmp_path, held, config, base=base)
    for name in shapes:
        m, a, b = (held[f"{name}.{factor}"].double().numpy() for factor in ("m", "lora_a", "lora_b"))
        before = base.weight(name).astype(np.float64)
        after = before + 2 * (a @ b if "embed" in name else (a @ b).T)
        after = np.stack([length * row / np.linalg.norm(row) for length, row in zip(m, after, strict=True)])
        assert isinstance(updates.update(name), Dense)
        np.testing.assert_allclose(updates.delta(name), after - before, rtol=1e-6, atol=1e-7)
    refused(lambda: opened(tmp_path, held, config).delta(Q), "give its base")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_a_composite_models_names_are_matched_with_its_base(tmp_path, prefix):
    torch.manual_seed(0)
    MODELS["llava"]().save_pretrained(tmp_path / "base")
    of_base = weights.open_base(tmp_path / "base")
    inner = "layers.0.self_attn.q_proj"
    updates = opened(tmp_path, factors({prefix + inner: (32, 32)}), settings(), base=of_base)
    assert weights.match(of_base, updates) == {"language_model.model." + inner: prefix + inner}


@pytest.mark.parametrize("a", [(4, 2, 8), (8, 8)])
def test_experts_are_left_out_by_name(tmp_path, a):
    """Of now [experts, r, in], of older releases [experts · r, in]; what stands beside them is read."""
    experts = {"model.layers.0.mlp.switch_mlp.up_proj.lora_a": torch.ones(a)}
    experts |= {"model.layers.0.mlp.switch_mlp.up_proj.lora_b": torch.ones(4, 6, 2)}
    updates = opened(tmp_path, {**factors({Q: (8, 6)}), **experts, "model.norm.weight": torch.ones(8)}, settings())
    assert updates.modules() == [Q]
    assert "experts" in updates.left_out["model.layers.0.mlp.switch_mlp.up_proj"]
    assert "whole" in updates.left_out["model.norm.weight"]
    refused(lambda: updates.delta("switch_mlp.up_proj"), "switch_mlp.up_proj", "experts")


def older(scale, alpha, rank=8, **more):
    return {"lora_parameters": {"rank": rank, "alpha": alpha, "scale": scale, "dropout": 0.0}, **more}


@pytest.mark.parametrize(
    "config",
    [
        older(5.0, 16, fine_tune_type="lora", num_layers=16),  # 0.19 and later write alpha down, and do not use it
        older(5.0, 16, num_layers=16),
        older(5.0, 8, lora_layers=16),  # alpha / rank = 1
        {"lora_layers": 16, "lora_parameters": {"rank": 8, "scale": 5.0}},
        {"lora_parameters": {"scale": 5}},
    ],
)
def test_configs_of_older_releases_whose_scale_is_plain(tmp_path, config):
    held = factors({Q: (8, 6)})
    delta = opened(tmp_path, held, config).delta(Q)
    np.testing.assert_allclose(delta, 5 * (held[f"{Q}.lora_a"] @ held[f"{Q}.lora_b"]).T.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (older(10.0, 16, lora_layers=16), ["alpha", "0.19", "scale", "take alpha out"]),
        (older(10.0, 16, lora_layers=16, use_dora=False), ["alpha", "take alpha out"]),
        (settings(kind="full"), ["full", "mlx_lm.fuse", "whole model"]),
        (settings(kind="full", lora_parameters=None), ["full", "mlx_lm.fuse"]),
        (settings(kind=["lora"]), ["fine_tune_type"]),
        ({"rank": 8, "alpha": 16, "dropout": 0.1}, ["mlx-vlm", "alpha / rank", "whole model"]),
        ({"fine_tune_type": "lora"}, ["scale is None", "adapter_config.json"]),
        ({}, ["scale is None", "adapter_config.json"]),
        ({"lora_parameters": [20.0]}, ["scale is None"]),
        ({"lora_parameters": {"rank": 8, "alpha": 16}, "num_layers": 4}, ["scale is None"]),
        (settings("20"), ["scale is '20'"]),
        (settings(True), ["scale is True"]),
        (settings(0), ["scale is 0"]),
        (settings(float("nan")), ["scale is nan"]),
        (settings(float("inf")), ["scale is inf"]),
        (settings(10**400), ["scale is 1000"]),
        (settings({}), ["scale is {}"]),
        (settings(kind="dora"), ["DoRA", "does speak", Q]),
        ("[1]", ["list", "adapter_config.json"]),
        ("{", ["not readable JSON"]),
    ],
)
def test_what_does_not_tell_its_scale_is_refused(tmp_path, config, words):
    refused(lambda: opened(tmp_path, factors({Q: (8, 6)}), config), *words)


def test_magnitudes_without_dora_in_the_config_are_refused(tmp_path):
    refused(
        lambda: opened(tmp_path, {**factors({Q: (8, 6)}), f"{Q}.m": torch.ones(8)}, settings()),
        "does not speak of DoRA",
    )


def test_whole_weights_and_older_names_of_mlx_vlm_are_known_by_their_config(tmp_path):
    whole = {f"{Q}.weight": torch.ones(8, 6)}
    refused(lambda: opened(tmp_path, whole, settings(kind="full")), "mlx_lm.fuse")
    plain = {f"language_model.{Q}.A": torch.ones(6, 2), f"language_model.{Q}.B": torch.ones(2, 8)}
    refused(
        lambda: opened(tmp_path / "vlm", plain, {"rank": 2, "alpha": 0.1, "dropout": 0.1}), "mlx-vlm", "whole model"
    )


def test_a_fused_model_beside_its_adapter_is_a_whole_model(tmp_path, base):
    """As a file, and as the directory's, where it is taken first: as loaders of models do."""
    tuned = {f"{name}.weight": torch.tensor(base.weight(name)) + 0.25 for name in HAS_BASE}
    place = write(tmp_path / "adapter", factors({Q: (32, 32)}), settings(), FILE)
    write(place, tuned)
    for path in (place, place / "model.safetensors"):
        np.testing.assert_allclose(weights.open_update(path, base).delta(Q), 0.25, rtol=1e-5)
    assert isinstance(weights.open_update(place / FILE, base).update(Q), LowRank)


def test_factors_without_their_config_or_without_each_other_are_refused(tmp_path):
    held = factors({Q: (8, 6)})
    refused(lambda: opened(tmp_path / "one", held, None), "adapter_config.json", "scale")
    refused(
        lambda: opened(tmp_path / "two", {f"{Q}.lora_a": held[f"{Q}.lora_a"]}, settings()), Q, "lora_B", "incomplete"
    )
    ranks = {f"{Q}.lora_a": torch.ones(6, 3), f"{Q}.lora_b": torch.ones(2, 8)}
    refused(lambda: opened(tmp_path / "three", ranks, settings()), Q, "do not fit")


def test_a_base_of_another_width_is_refused(tmp_path, base):
    updates = opened(tmp_path, factors({Q: (32, 24)}), settings(), base=base)
    refused(lambda: updates.delta(Q), "32 × 24", "32 × 32", "give its own base")


def test_describe_says_how_each_module_is_read(tmp_path):
    told = opened(tmp_path, factors({Q: (8, 6)}), settings(2.5)).describe().iloc[0]
    assert (told["module"], told["file"]) == (Q, FILE)
    assert "scale = 2.5" in told["how it is read"]
