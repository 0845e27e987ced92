import copy
import math
import warnings

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from helpers import weights
from helpers.weights import Dense, LowRank
from tests.weights.building import MODELS, Q, adapt, adapter, linears, llama, merged, refused, write

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
PATTERNS = {"rank_pattern": {r"layers?\.0\..*": 2, "h.1.attn.c_attn": 5}, "alpha_pattern": {r".*\.1\..*": 9}}
KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": PATTERNS,
    "patterns, rslora": {**PATTERNS, "use_rslora": True},
    "dora": {"use_dora": True},
    "dora, rslora": {"use_dora": True, "use_rslora": True, **PATTERNS},
    "gaussian, with biases": {"init_lora_weights": "gaussian", "bias": "lora_only"},
    "mica": {"init_lora_weights": "mica"},
}
CASES = [(name, "plain") for name in MODELS]
CASES += [(name, kind) for name in ("llama", "bert", "gpt2", "vit-gpt2") for kind in list(KINDS)[1:]]


def opened(place, *, of="base", given="adapter"):
    base = weights.open_base(place / of)
    return base, weights.open_update(place / given, base)


def edit(place, change):
    """Rewrite the tensors of an adapter; its directory."""
    return write(place, change(load_file(place / FILE)), file=FILE)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_weight_and_delta_are_what_peft_merges(tmp_path, name, kind):
    """Every linear layer, tied heads too, as PEFT merges it in float64, less what was there before."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.save_pretrained(tmp_path / "base")
    conv1d = "gpt2" in name
    adapted = adapt(model, tmp_path / "adapter", target_modules=linears(model), fan_in_fan_out=conv1d, **KINDS[kind])
    truth, (base, updates) = merged(model, adapted), opened(tmp_path)
    pairs = {theirs: ours for ours, theirs in weights.match(base, updates).items()}
    assert set(pairs) == set(truth) == set(updates.modules())
    for module, (weight, delta) in truth.items():
        np.testing.assert_array_equal(base.weight(pairs[module]), weight.astype(np.float32))
        found = updates.update(module)
        assert isinstance(found, Dense if "dora" in kind else LowRank)
        assert found.shape == delta.shape == updates.shape(pairs[module])
        np.testing.assert_allclose(updates.delta(module), delta, atol=1e-5 * np.abs(delta).max() + 1e-7)
    assert updates.describe().set_index("module").loc[module, "in the base"] == pairs[module]


@pytest.mark.parametrize(
    ("base", "adapters", "count"),
    [("all-MiniLM-L6-v2", "adapters", 12), ("SmolLM2-135M-Instruct", "language_model_adapters", 60)],
)
def test_bundled_adapters_and_their_untrained_a(data, base, adapters, count):
    base = weights.open_base(data / base)
    for place in sorted((data / adapters).glob("r*")):
        updates = weights.open_update(place, base)
        assert updates.notes == []
        assert len(weights.match(base, updates)) == len(updates.modules()) == count
        tensors = load_file(place / FILE)
        for name in updates.modules():
            a, b = (tensors[f"base_model.model.{name}.lora_{factor}.weight"].double().numpy() for factor in "AB")
            np.testing.assert_allclose(updates.delta(name), 16 / len(a) * (b @ a), atol=1e-6)
            before = updates.untrained_a(name)
            bound = 1 / np.sqrt(a.shape[1])  # PEFT draws A from Kaiming's uniform law with a = √5
            assert 0.98 * bound < np.abs(before).max() <= 1.004 * bound  # some are stored in bfloat16
            assert np.abs(a - before).max() > 1e-3


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 4 / 2),
        ({"lora_alpha": 3.5}, 3.5 / 2),
        ({"lora_alpha": 32, "use_rslora": True}, 32 / 2**0.5),
        ({"alpha_pattern": {"q_proj": 20}}, 20 / 2),
        ({"alpha_pattern": {r"layers\.\d+\..*q_proj": 20, "v_proj": 1}}, 20 / 2),
        ({"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 6}}, 6 / 2),
        ({"alpha_pattern": {"proj": 20}}, 4 / 2),
        ({"r": 99, "rank_pattern": {"self_attn.q_proj": 2}}, 4 / 2),
        ({"rank_pattern": None, "alpha_pattern": None, "use_dora": None}, 4 / 2),
    ],
)
def test_scale(tmp_path, config, scale):
    updates = weights.open_update(adapter(tmp_path, Q, config=config))
    assert updates.update("q_proj").scale == pytest.approx(scale)


@pytest.mark.parametrize(
    "part", ["_orig_mod.self_attn", r"_orig_mod\.self_attn", r"\d+._orig_mod.self_attn", "self_attn"]
)
def test_patterns_may_name_a_wrapper_as_the_file_does(tmp_path, part):
    name = Q.replace(".self_attn", "._orig_mod.self_attn")
    config = {"r": 99, "rank_pattern": {f"{part}.q_proj": 2}, "alpha_pattern": {f"{part}.q_proj": 20}}
    assert weights.open_update(adapter(tmp_path, name, config=config)).update(Q).scale == 20 / 2


def test_keys_absent_from_the_config_take_pefts_defaults(tmp_path):
    (adapter(tmp_path, Q, r=8) / CONFIG).write_text("{}", encoding="utf-8")
    assert weights.open_update(tmp_path).update(Q).scale == 1


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
def test_stored_precision_is_that_of_the_file(tmp_path, kind):
    dtype = getattr(torch, kind)
    edit(adapter(tmp_path, Q), lambda held: {name: tensor.to(dtype) for name, tensor in held.items()})
    found = weights.open_update(tmp_path).update(Q)
    assert found.stored_precision == torch.finfo(dtype).eps / 2
    shown = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}[kind]
    assert weights.open_update(tmp_path).describe()["stored as"][0] == shown


RENAMED = [
    "{}.lora_{}.weight",
    "base_model.model.{}.lora_{}.default.weight",
    "base_model.model.{}.lora_{}.poet.weight",
    "module.base_model.model.{}.lora_{}.weight",
    "_orig_mod.base_model.model.{}.lora_{}.weight",
    "base_model.model._orig_mod.{}.lora_{}.weight",
    "base_model.model.module.{}.lora_{}.weight",
    "base_model.model.{}._orig_mod.lora_{}.weight",
    "base_model.model.{}.base_layer.lora_{}.weight",
]


@pytest.mark.parametrize("ours", ["{}.weight", "_orig_mod.{}.weight", "module.{}.weight", "{}.base_layer.weight"])
@pytest.mark.parametrize("theirs", RENAMED)
def test_wrappers_on_either_side_or_both_say_nothing(tmp_path, ours, theirs):
    write(tmp_path / "base", {ours.format(Q): torch.ones(8, 8)})
    adapter(tmp_path / "adapter", Q, rename=theirs)
    assert weights.match(*opened(tmp_path)) == {Q: Q}


@pytest.mark.parametrize("rename", RENAMED[1:])
def test_untrained_a_is_found_under_any_of_its_names(tmp_path, rename):
    place = adapter(tmp_path, Q)
    assert weights.open_update(place).untrained_a(Q) is None
    write(place, {rename.format(Q, "A"): torch.full((2, 8), 3.0)}, file="untrained_A.safetensors")
    np.testing.assert_array_equal(weights.open_update(place).untrained_a(Q), 3)
    assert place / "untrained_A.safetensors" in weights.open_update(place).files


def test_untrained_a_that_cannot_be_right(tmp_path):
    place = adapter(tmp_path, Q)
    write(place, {"another.lora_A.weight": torch.ones(2, 8)}, file="untrained_A.safetensors")
    assert weights.open_update(place).untrained_a(Q) is None
    write(place, {f"{Q}.lora_A.weight": torch.ones(2, 7)}, file="untrained_A.safetensors")
    refused(lambda: weights.open_update(place).untrained_a(Q), "is (2, 7), but the trained is (2, 8)")
    write(place, {f"{Q}.lora_A.weight": torch.full((2, 8), torch.nan)}, file="untrained_A.safetensors")
    refused(lambda: weights.open_update(place).untrained_a(Q), "NaN")


# ------------------------------------------------------------------ DoRA
@pytest.mark.parametrize(
    "key", ["lora_magnitude_vector", "lora_magnitude_vector.default", "lora_magnitude_vector.weight"]
)
def test_dora_is_read_under_old_and_new_names(tmp_path, key):
    model = llama()
    model.save_pretrained(tmp_path / "base")
    truth = merged(model, adapt(model, tmp_path / "adapter", target_modules=["q_proj"], use_dora=True))[Q][1]
    renamed = lambda held: {name.replace("lora_magnitude_vector.weight", key): t for name, t in held.items()}  # noqa: E731
    edit(tmp_path / "adapter", renamed)
    found = opened(tmp_path)[1].update(Q)
    np.testing.assert_allclose(found.delta(), truth, atol=1e-6)
    assert 0 < found.stored_precision < 1e-4
    refused(lambda: weights.open_update(tmp_path / "adapter").update(Q), "DoRA", "give its base")
    other = weights.open_base(write(tmp_path / "other", {"h.0.c.weight": torch.ones(2, 2)}))
    refused(lambda: weights.open_update(tmp_path / "adapter", other).update(Q), "no module of adapter")


def test_dora_without_magnitudes_or_with_others_is_refused(tmp_path):
    base = weights.open_base(write(tmp_path / "base", {f"{Q}.weight": torch.ones(8, 8)}))
    bare = adapter(tmp_path / "bare", Q, config={"use_dora": True})
    refused(lambda: weights.open_update(bare, base).update(Q), "no lora_magnitude_vector", "save it again")
    short = {f"base_model.model.{Q}.lora_magnitude_vector": torch.ones(5)}
    place = adapter(tmp_path / "short", Q, config={"use_dora": True}, more=short)
    refused(lambda: weights.open_update(place, base).update(Q), "5 magnitudes", "(8, 8)")
    whole = {f"base_model.model.{Q}.lora_magnitude_vector": torch.ones(8, dtype=torch.int8)}
    place = adapter(tmp_path / "whole", Q, config={"use_dora": True}, more=whole)
    refused(lambda: weights.open_update(place, base), "no LoRA factors", "lora_magnitude_vector is stored as I8")


# ------------------------------------------------------------------ what stands beside the factors
OTHERS = {
    "embed.lora_embedding_A": (torch.ones(2, 9), "has no lora_A"),
    "embed.lora_magnitude_vector": (torch.ones(9), "incomplete"),
    "classifier.weight": (torch.ones(2, 8), "saved whole"),
    "classifier.modules_to_save.default.weight": (torch.ones(2, 8), "saved whole"),
    "x.q.bias": (torch.ones(8), "a bias"),
    "x.q.lora_B.bias": (torch.ones(8), "a bias"),
    "conv.lora_A.weight": (torch.ones(2, 8, 3, 3), "4 dimensions: a convolution"),
    "flat.lora_A.weight": (torch.ones(0), "gathered"),
    "lm_head.base_layer.weight": (torch.ones(2, 8), "vocabulary"),
    "embed.trainable_tokens_delta": (torch.ones(2, 8), "tokens"),
    "half.lora_A.weight": (torch.ones(2, 8), "has no lora_B"),
    "x.lora_diag.weight": (torch.ones(2), "not of plain LoRA"),
    "int.lora_A.weight": (torch.ones(2, 8).to(torch.int8), "quantised"),
}


@pytest.mark.parametrize("key", OTHERS)
def test_what_stands_beside_the_factors_is_left_out_by_name_and_the_rest_read(tmp_path, key):
    tensor, why = OTHERS[key]
    place = adapter(tmp_path / "both", Q, more={f"base_model.model.{key}": tensor})
    updates = weights.open_update(place)
    assert updates.modules() == [Q] and updates.delta(Q).shape == (8, 8)
    assert any(why in each for each in updates.left_out.values())
    assert why in updates.describe().to_string()
    refused(lambda: updates.update("embed_tokens"), "not read in it", why)
    write(place, {f"base_model.model.{key}": tensor}, file=FILE)
    refused(lambda: weights.open_update(place), "no LoRA factors", why)


UP, DOWN = "gate_up_proj", "down_proj"


@pytest.mark.parametrize("target", [[f"mlp.experts.{UP}"], [f"mlp.experts.{UP}", f"mlp.experts.{DOWN}"], [UP, DOWN]])
def test_experts_are_left_out_and_the_attention_beside_them_read(tmp_path, target):
    """PEFT nests the factors of several parameters of one module; it writes bare names when it finds them itself."""
    experts = "base_model.model.model.layers.0.mlp.experts"
    owners = [experts, f"{experts}.base_layer"] if target[1:] else [experts]
    ones = {"A": torch.ones(8, 8), "B": torch.ones(16, 8)}
    more = {f"{owner}.lora_{factor}.weight": tensor for owner in owners for factor, tensor in ones.items()}
    place = adapter(tmp_path, Q, config={"target_parameters": target}, more=more)
    updates = weights.open_update(place)
    assert updates.modules() == [Q] and updates.delta(Q).shape == (8, 8)
    refused(lambda: updates.update("mlp.experts"), "target_parameters", "stacked")


@pytest.mark.parametrize("twin", [f"{Q}.lora_A.weight", RENAMED[3].format(Q, "A"), RENAMED[4].format(Q, "A")])
def test_two_pairs_of_factors_for_one_module_are_refused_by_both_names(tmp_path, twin):
    place = adapter(tmp_path, Q, more={twin: torch.ones(2, 8)})
    refused(lambda: weights.open_update(place), twin, f"base_model.model.{Q}.lora_A.weight")


def test_several_adapters_in_one_file_are_refused(tmp_path):
    place = adapter(tmp_path, Q, rename=RENAMED[2], more={f"{Q}2.lora_A.coder.weight": torch.ones(2, 8)})
    refused(lambda: weights.open_update(place), "several adapters", "poet", "coder")


# ------------------------------------------------------------------ what is refused, or said
CONVERTED = "path_initial_model_for_weight_conversion"
INITS = {"pissa_niter_4": CONVERTED, "olora": CONVERTED, "lora_ga": CONVERTED, "loftq": "train without it"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        *(({"init_lora_weights": init}, [repr(init), way_out]) for init, way_out in INITS.items()),
        ({"init_lora_weights": ["x"]}, ["['x']", "train without it"]),
        ({"kasa_config": {"beta": 1}}, ["uses kasa_config"]),
        ({"layer_replication": [[0, 2], [1, 3]]}, ["uses layer_replication"]),
        ({"peft_type": "ADALORA"}, ["ADALORA adapter", "only 'LORA'"]),
        ({"peft_type": ["LORA"]}, ["only 'LORA'"]),
        ({"r": 0}, ["r = 0"]),
        *(({"r": bad}, ["r of", repr(bad), "expected a number"]) for bad in ("2", None, True, [2])),
        ({"r": 8}, ["A (2, 8) and B (8, 2)", "the config says r = 8"]),
        *(
            ({"lora_alpha": bad}, ["lora_alpha of", f"{bad!r}", "expected a number"])
            for bad in ("16", math.nan, 10**400)
        ),
        ({"lora_alpha": 0}, ["lora_alpha = 0"]),
        *(({"rank_pattern": bad}, ["rank_pattern", "cannot be applied"]) for bad in ({"(": 2}, [["q_proj", 2]])),
        ({"alpha_pattern": "q_proj"}, ["alpha_pattern", "cannot be applied"]),
        ({"alpha_pattern": {"q_proj": "3"}}, ["lora_alpha of", "'3'"]),
        *(({key: bad}, [f"{key} is {bad!r}"]) for key, bad in (("use_rslora", "false"), ("use_dora", {}))),
        *(({"target_parameters": bad}, [f"target_parameters is {bad!r}"]) for bad in ("experts", [3])),
    ],
)
def test_a_config_under_which_delta_is_not_known_is_refused(tmp_path, config, words):
    place = adapter(tmp_path, Q, config=config)
    refused(lambda: weights.open_update(place).update(Q), *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"A": torch.full((2, 8), torch.nan)}, ["lora_A.weight in", "NaN or Inf"]),
        ({"B": torch.full((8, 2), torch.inf)}, ["lora_B.weight in", "NaN or Inf"]),
        ({"B": torch.ones(8, 3)}, ["A (2, 8) and B (8, 3)"]),
        ({"A": torch.ones(4, 8), "B": torch.ones(8, 4)}, ["says r = 2"]),
        ({"A": torch.ones(8, 2)}, ["A (8, 2)"]),
    ],
)
def test_factors_that_cannot_be_right_are_refused(tmp_path, change, words):
    more = {f"base_model.model.{Q}.lora_{factor}.weight": tensor for factor, tensor in change.items()}
    refused(lambda: weights.open_update(adapter(tmp_path, Q, more=more)).update(Q), *words)


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        ({}, "", ["holds no weights"]),
        ({CONFIG: "{}"}, "", [f"holds {CONFIG} and no {FILE}"]),
        ({CONFIG: "{"}, "", ["not readable JSON"]),
        ({CONFIG: "[]"}, "", ["JSON list", "expected an object"]),
        ({CONFIG: "{}", FILE: ""}, "", ["not a readable safetensors file"]),
        ({CONFIG: "{}", "adapter_model.bin": ""}, "", ["adapter_model.bin is a pickle"]),
        ({CONFIG: "{}", "adapter_model.bin": "", "untrained_A.safetensors": ""}, "", ["is a pickle"]),
        ({"adapter_model.bin": ""}, "", ["adapter_model.bin is a pickle"]),
        ({"adapter_model.bin": ""}, "adapter_model.bin", ["is a pickle"]),
        ({f"step-{n}/{CONFIG}": "{}" for n in (200, 500)}, "", ["'step-200', 'step-500'", "name one"]),
        ({f"run-1/{CONFIG}": "{}", "training_args.bin": ""}, "", ["'run-1'", "name one"]),
        ({f"run/{name}/{CONFIG}": "{}" for name in ("poet", "coder")}, "", ["'run/coder', 'run/poet'", "name one"]),
        ({}, "nowhere", ["does not exist"]),
    ],
)
def test_directories_without_an_adapter_of_their_own_are_refused(tmp_path, files, path, words):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    refused(lambda: weights.open_update(tmp_path / path), *words)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("base_model.model.x.lora_A.weight", "without its adapter_config.json"),
        ("base_model.model.x.hada_w1_a", "without its adapter_config.json"),
        ("x.lora_A.default.weight", "without its adapter_config.json"),
        ("x.lora_A", "loralib"),
        ("x.ia3_l", "IA3"),
    ],
)
def test_files_in_other_formats_are_refused_by_name(tmp_path, key, words):
    write(tmp_path, {key: torch.ones(2, 2)}, file="lora.safetensors")
    refused(lambda: weights.open_update(tmp_path), words, key, "as PEFT saves it")


def test_a_path_to_the_adapters_file_is_its_directory(tmp_path):
    place = adapter(tmp_path / "adapter", Q)
    write(place, {}, '{"weight_map": 1}', file="model.safetensors.index.json")  # stale, and none of the adapter's
    paths = (place, place / FILE, place / CONFIG)
    assert {weights.open_update(path).path for path in paths} == {place}


def test_an_adapter_that_does_not_fit_its_base_is_refused(tmp_path):
    base = weights.open_base(write(tmp_path / "base", {f"{Q}.weight": torch.ones(8, 8)}))
    narrow = weights.open_update(adapter(tmp_path / "narrow", Q, width=6), base)
    refused(lambda: narrow.update(Q), "narrow adds a 8 × 6 matrix", "base has 8 × 8")
    turned = weights.open_update(adapter(tmp_path / "turned", Q, config={"fan_in_fan_out": True}), base)
    refused(lambda: turned.update(Q), "put the model's config.json beside")
    write(tmp_path / "base", {f"{Q}.weight": torch.ones(8, 8)}, {"model_type": "llama"})  # which turns nothing
    known = weights.open_update(tmp_path / "turned", weights.open_base(tmp_path / "base"))
    tensors = load_file(tmp_path / "turned" / FILE)
    a, b = (tensors[f"base_model.model.{Q}.lora_{factor}.weight"].double().numpy() for factor in "AB")
    np.testing.assert_allclose(known.delta(Q), 2 * b @ a, atol=1e-6)


def test_a_pattern_may_repeat_as_much_as_a_name_of_its_length_allows(tmp_path):
    pattern = r".*\.layers\.\d+\..*\.(q|k)_proj.*"
    found = weights.open_update(adapter(tmp_path, Q, config={"alpha_pattern": {pattern: 6}}))
    assert found.update(Q).scale == 3


@pytest.mark.parametrize(
    ("given", "own", "noted"),
    [
        ("someone/tiny-poet", "someone/tiny-llama", True),
        ("someone/Tiny-Llama", "tiny_llama", False),
        ("/home/me/models/tiny-llama/", "someone/tiny-llama", False),
        ("C:\\models\\tiny-llama", "someone/tiny-llama", False),
        ("another", "", True),
        ("some/BASE", "", False),
        (None, "tiny-llama", False),
        (7, "tiny-llama", True),
    ],
)
def test_another_base_than_it_was_trained_on_is_noted(tmp_path, given, own, noted):
    write(tmp_path / "base", {f"{Q}.weight": torch.ones(8, 8)}, {"_name_or_path": own})
    adapter(tmp_path / "adapter", Q, config={"base_model_name_or_path": given})
    updates = opened(tmp_path)[1]
    assert len(updates.notes) == noted
    assert all(str(given).replace("\\", "\\\\") in note and (own or "base") in note for note in updates.notes)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_conversion_that_left_the_initialisation_in_a_is_noted(tmp_path, init):
    model = llama()
    model.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=init)
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "initial")
    for name, parameter in adapted.named_parameters():
        parameter.data += 0.01 * torch.randn_like(parameter) * ("lora_" in name)
    adapted.peft_config["default"].init_lora_weights = init
    with warnings.catch_warnings(action="ignore"):  # PEFT's, that the base has changed
        initial = str(tmp_path / "initial")
        adapted.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=initial)
    updates = opened(tmp_path)[1]
    after = adapted.double().merge_and_unload().get_submodule(Q).weight.detach()
    np.testing.assert_allclose(updates.delta(Q), after - model.get_submodule(Q).weight.detach().double(), atol=1e-6)
    assert "use factor BA" in updates.notes[0]
    assert weights.open_update(adapter(tmp_path / "plain", Q, r=4)).notes == []
