"""Notebook 01 under papermill with the inputs of others: their models and adapters, odd parameters, bad files."""

import copy
import json
import shutil
import warnings

import nbformat
import numpy as np
import papermill
import peft
import pytest
import torch
import transformers as tr
from safetensors.torch import load_file, save_file
from scipy import linalg

from helpers.paths import ROOT
from helpers.press import escaped
from tests.notebooks import running
from tests.notebooks.running import claims, rows
from tests.weights import building

NOTEBOOK = ROOT / "notebooks" / "01_subspace_similarity.ipynb"
MODULE = running.MINILM["module"]


def execute(place, **given):
    return running.execute(NOTEBOOK, place, **(running.MINILM | given))


def failure(place, **given):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        execute(place, **given)
    assert not (place / "results.json").exists()
    executed = [cell for cell in nbformat.read(place / "out.ipynb", as_version=4).cells if cell.get("execution_count")]
    ends = ".check(globals())", "subspaces.Similarity(p)"
    assert any(end in executed[-1].source for end in ends), "the run must end before anything is computed"
    assert "\n" not in error.value.evalue
    return error.value.evalue


def test_someone_elses_model_and_adapters(tmp_path, make_adapter, rng):
    """A synthetic model in shards and bfloat16, hostile names, a narrow value projection, no untrained A."""
    base = tmp_path / "theirs"
    base.mkdir()
    index = {}
    for n in range(3):
        name = f"model.layers.{n}.self_attn."
        tensors = {
            f"{name}q<b>$_.weight": torch.tensor(rng.standard_normal((64, 64)), dtype=torch.bfloat16),
            f"{name}v_proj.weight": torch.tensor(rng.standard_normal((16, 64)), dtype=torch.bfloat16),
        }
        save_file(tensors, base / f"part-{n}.safetensors")
        index |= dict.fromkeys(tensors, f"part-{n}.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    across = np.linalg.svd(tensors["model.layers.2.self_attn.q<b>$_.weight"].double().numpy())[2]
    planted = across[:4] + 1e-3 * rng.standard_normal((4, 64))
    module = "model.layers.2.self_attn.q<b>$_"
    places = [
        make_adapter(planted, rng.standard_normal((64, 4)), "planted", module),
        make_adapter(rng.standard_normal((2, 64)), np.zeros((64, 2)), "<b>untrained $x_1$", module),
    ]
    result = execute(
        tmp_path / "out", base=str(base), adapters=[str(place) for place in places],
        module="layers.2.self_attn.q<b>$_", first_i=4, last_i=20,
    )  # fmt: skip
    top = next(row for row in rows(result, "regions") if row["panel"] == "r = 4" and row["region"] == "top")
    assert top["phi"] == pytest.approx(1, abs=1e-3)
    assert [row["adapter"] for row in rows(result, "amplification")][:1] == ["r = 4"]
    assert "untrained" not in result["tables"]
    cells = nbformat.read(tmp_path / "out" / "out.ipynb", as_version=4).cells
    data = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    page = "".join(str(content.get("text/html", "")) + str(content.get("text/markdown", "")) for content in data)
    assert "<b>" not in page
    assert "&lt;b&gt;untrained" in page


def converted_pissa(place, model):
    """A LoRA that began as PiSSA, trained on noise, and converted to plain LoRA as PEFT advises."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa")
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(place.parent / "initial")
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    adapted.peft_config["default"].init_lora_weights = "pissa"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about what the conversion is there for
        adapted.save_pretrained(place, path_initial_model_for_weight_conversion=str(place.parent / "initial"))
    return place


def test_a_converted_adapter_shows_what_depends_on_its_factoring(tmp_path):
    """Synthetic: half of A's rows are W's own directions, so that φ of A says what that of B A does not."""
    model = building.llama(hidden_size=64)
    model.save_pretrained(tmp_path / "base")
    place = converted_pissa(tmp_path / "lora", model)
    result = execute(tmp_path / "out", base=str(tmp_path / "base"), adapters=[str(place)], module=building.Q, first_i=4)
    assert claims(result)["above_chance"]["holds"] is True
    (row,) = rows(result, "factoring")
    weight = model.get_parameter(f"{building.Q}.weight").detach().double().numpy()
    update = load_file(place / "adapter_model.safetensors")
    a, b = (update[f"base_model.model.{building.Q}.lora_{factor}.weight"].double().numpy() for factor in "AB")
    for name, matrix in (("A", a), ("BA", b @ a)):
        angles = linalg.subspace_angles(np.linalg.svd(weight)[2][:4].T, np.linalg.svd(matrix)[2][:4].T)
        assert row[name] == pytest.approx((np.cos(angles) ** 2).mean(), abs=1e-4)
    told = f"for lora ({row['A']:.3f} of A, {row['BA']:.3f} of BA): it depends on how ΔW was factored"
    assert escaped(told) in running.shown(tmp_path / "out" / "out.ipynb")


def test_a_quantised_base_says_what_that_may_have_done(tmp_path):
    """Synthetic: a Llama in GGUF, its rows of queries in llama.cpp's order, under an adapter of the original."""
    model = building.llama(hidden_size=64)
    names = {f"blk.{n}.attn_{x}": f"model.layers.{n}.self_attn.{x}_proj" for n in (0, 1) for x in "qv"}
    held = {own: model.get_parameter(f"{name}.weight").detach().numpy() for own, name in names.items()}
    shuffled = {own: building.interleaved(w, 4) if own.endswith("q") else w for own, w in held.items()}
    building.gguf_model(tmp_path / "model.gguf", {f"{own}.weight": w for own, w in shuffled.items()}, "Q4_0")
    building.adapt(model, tmp_path / "lora", target_modules=["q_proj", "v_proj"])
    given = {"base": str(tmp_path / "model.gguf"), "adapters": [str(tmp_path / "lora")], "module": building.Q}
    result = execute(tmp_path / "out", factor="BA", side="left", **given)
    text = running.shown(tmp_path / "out" / "out.ipynb")
    assert "W is stored as Q4_0. With W and adapters drawn anew within their steps (3 times) φ moves by" in text
    assert "rows put back in Hugging Face's order" in str(rows(result, "inputs"))
    update = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    a, b = (update[f"base_model.model.{building.Q}.lora_{factor}.weight"].double().numpy() for factor in "AB")
    top = [row for row in rows(result, "layers") if (row["projection"], row["layer"]) == ("q_proj", 0)]
    sides = np.linalg.svd(held["blk.0.attn_q"])[0][:, :2], np.linalg.svd(b @ a)[0][:, :2]
    assert top[0]["phi"] == pytest.approx((np.cos(linalg.subspace_angles(*sides)) ** 2).mean(), abs=0.03)


def test_a_whole_fine_tune_is_read_as_an_update(tmp_path):
    """Synthetic: a GPT-2 in bfloat16, whose weights lie transposed, and the same after four directions were added."""
    model = tr.GPT2LMHeadModel(tr.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=60)).bfloat16()
    model.save_pretrained(tmp_path / "base")
    added = {}
    for name, weight in model.named_parameters():
        if name.endswith("attn.c_proj.weight"):
            left, right = (torch.linalg.qr(torch.randn(64, 4))[0] for _ in range(2))
            before = weight.detach().clone()
            weight.data += left @ torch.diag(torch.tensor([2.0, 1.7, 1.4, 1.2])) @ right.T
            added[name] = (weight.detach().double() - before.double()).T.numpy()
    model.save_pretrained(tmp_path / "tuned")
    module, given = (
        "transformer.h.1.attn.c_proj",
        {"base": str(tmp_path / "base"), "adapters": [str(tmp_path / "tuned")]},
    )
    result = execute(tmp_path / "out", module=module, factor="BA", **given)
    (row,) = rows(result, "amplification")[:1]
    assert row["rank"] == 4
    assert row["delta_norm"] == pytest.approx(np.linalg.norm(added[f"{module}.weight"]), rel=1e-3)
    assert "W′ − W; W′ transposed" in str(rows(result, "inputs"))
    assert "factor A: use factor BA" in failure(tmp_path / "a", module=module, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"first_i": 1, "last_i": 1, "last_j": 1},
        {"first_i": 384, "last_i": 384},
        {"adapters": ["data/adapters/r64", "data/adapters/r64-seed1"], "factor": "BA", "side": "left"},
    ],
    ids=str,
)
def test_unusual_but_legal_parameters(tmp_path, given):
    running.assert_the_claims_of_01(execute(tmp_path, before=running.FEW_DIRECTIONS, **given))


def test_an_adapter_and_its_copy_at_another_scale_agree_without_a_warning(tmp_path):
    """p underflows here: agreement in full. At the same scale it would be one adapter given twice."""
    shutil.copytree(ROOT / "data/adapters/r64", tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "copy" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 32}), encoding="utf-8")
    given = {"adapters": ["data/adapters/r64", str(tmp_path / "copy")]}
    result = execute(tmp_path / "out", before=running.FEW_DIRECTIONS, **given)
    assert min(row["phi"] for row in rows(result, "agreement")) == pytest.approx(1)
    text = running.shown(tmp_path / "out" / "out.ipynb")
    assert "less than 10<sup>−300</sup>" in text
    assert "Warning" not in (tmp_path / "out" / "out.ipynb").read_text(encoding="utf-8")


def test_too_few_layers_to_permute_leave_the_claim_undecided(tmp_path, make_base, make_adapter, rng):
    """Synthetic: three layers, whose permutations cannot give p below 1/6."""
    names = [f"layers.{n}.q_proj" for n in range(3)]
    base = make_base({name: rng.standard_normal((24, 24)) for name in names})
    place = make_adapter(module=names[0])
    tensors = {}
    for name in names:
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.tensor(rng.standard_normal((4, 24)))
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.tensor(rng.standard_normal((24, 4)))
    save_file(tensors, place / "adapter_model.safetensors")
    result = execute(tmp_path / "out", base=str(base), adapters=[str(place)], module=names[0])
    assert len(rows(result, "layers")) == 3
    claim = claims(result)["its_own_weight"]
    assert (claim["holds"], claim["found"]) == (None, "of so few layers p cannot fall below 0.17, corrected")


def test_modules_of_other_sizes_are_left_out_by_name(tmp_path, make_base, make_adapter, rng):
    """Synthetic: a value projection with fewer rows than i, another layer of another width, another prefix."""
    shapes = {"b.layers.0.q_proj": (64, 64), "b.layers.0.v_proj": (16, 64), "b.layers.1.q_proj": (32, 32)}
    base = make_base({name: rng.standard_normal(shape) for name, shape in shapes.items()})
    place = make_adapter(rng.standard_normal((4, 64)), rng.standard_normal((64, 4)), module="x.b.layers.0.q_proj")
    tensors = load_file(place / "adapter_model.safetensors")
    for name, (rows_, columns) in {"layers.0.v_proj": (16, 64), "layers.1.q_proj": (32, 32)}.items():
        tensors[f"base_model.model.x.b.{name}.lora_A.weight"] = torch.tensor(rng.standard_normal((4, columns)))
        tensors[f"base_model.model.x.b.{name}.lora_B.weight"] = torch.tensor(rng.standard_normal((rows_, 4)))
    save_file(tensors, place / "adapter_model.safetensors")
    result = execute(tmp_path / "out", base=str(base), adapters=[str(place)], module="layers.0.q_proj", first_i=20)
    assert [(row["projection"], row["layer"]) for row in rows(result, "layers")] == [("q_proj", 0)]
    told = "A leaves out, of another size or with too few directions: b.layers.1.q_proj, b.layers.0.v_proj"
    text = running.shown(tmp_path / "out" / "out.ipynb")
    assert escaped(told) in text
    assert "Its own W, or that of any layer?" not in text  # there is a single one
    running.assert_the_claims_of_01(result)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base": "tests"}, "tests holds no weights"),
        ({"module": "encoder.layer.5.attention.self.qery"}, "did you mean 'encoder.layer.5.attention.self.query'"),
        ({"last_j": 65}, "last_j = 65 columns asked for, but the adapters have at most 64 directions"),
        ({"first_i": 400}, "rows i = 400 … 400 asked for (first_i … last_i): they must lie within 1 … 384"),
        ({"modul": MODULE}, "there is no parameter 'modul'; did you mean 'module'?"),
    ],
)
def test_what_is_wrong_ends_the_run_before_any_compute(tmp_path, given, message):
    assert message in failure(tmp_path, **given)
