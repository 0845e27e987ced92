"""Notebook 01 under papermill with the inputs of others: their models and adapters, odd parameters, bad files."""

import json
import shutil

import nbformat
import numpy as np
import papermill
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.paths import ROOT
from tests.notebooks import running
from tests.notebooks.running import claims, rows

NOTEBOOK = ROOT / "notebooks" / "01_subspace_similarity.ipynb"
MODULE = "encoder.layer.5.attention.self.query"


def execute(place, **given):
    return running.execute(NOTEBOOK, place, **given)


def failure(place, **given):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        execute(place, **given)
    assert not (place / "results.json").exists()
    executed = [cell for cell in nbformat.read(place / "out.ipynb", as_version=4).cells if cell.get("execution_count")]
    assert executed[-1].id in ("check", "open", "window"), "the run must end before anything is computed"
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
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
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


@pytest.mark.parametrize(
    "given",
    [
        {"last_j": 2},
        {"first_i": 1, "last_i": 1},
        {"first_i": 384, "last_i": 384},
        {"last_i": 10, "factor": "BA"},
        {"preset": "paper", "last_i": 400, "base": "", "adapters": ["nowhere"]},
        {"preset": "paper", "first_i": 2000, "seed": 1},
        {"adapters": ["data/adapters/r64", "data/adapters/r64-seed1"], "factor": "BA", "side": "left"},
    ],
    ids=str,
)
def test_unusual_but_legal_parameters(tmp_path, given):
    assert execute(tmp_path, **given)["complete"] is True


def test_an_adapter_and_its_copy_agree_without_a_warning(tmp_path):
    """p underflows here: agreement in full."""
    shutil.copytree(ROOT / "data/adapters/r64", tmp_path / "copy")
    result = execute(tmp_path / "out", adapters=["data/adapters/r64", str(tmp_path / "copy")])
    assert min(row["phi"] for row in rows(result, "agreement")) == pytest.approx(1)
    text = running.shown(tmp_path / "out" / "out.ipynb")
    assert "less than 10<sup>−300</sup>" in text
    assert "Warning" not in (tmp_path / "out" / "out.ipynb").read_text()


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
    assert claims(result)["its_own_weight"]["holds"] is None


def test_modules_of_other_sizes_are_left_out_by_name(tmp_path, make_base, make_adapter, rng):
    """Synthetic: a value projection with fewer rows than i, another layer of another width, another prefix."""
    shapes = {"a.layers.0.q_proj": (64, 64), "a.layers.0.v_proj": (16, 64), "a.layers.1.q_proj": (32, 32)}
    base = make_base({name: rng.standard_normal(shape) for name, shape in shapes.items()})
    place = make_adapter(rng.standard_normal((4, 64)), rng.standard_normal((64, 4)), module="x.b.layers.0.q_proj")
    tensors = load_file(place / "adapter_model.safetensors")
    for name, (rows_, columns) in {"layers.0.v_proj": (16, 64), "layers.1.q_proj": (32, 32)}.items():
        tensors[f"base_model.model.x.b.{name}.lora_A.weight"] = torch.tensor(rng.standard_normal((4, columns)))
        tensors[f"base_model.model.x.b.{name}.lora_B.weight"] = torch.tensor(rng.standard_normal((rows_, 4)))
    save_file(tensors, place / "adapter_model.safetensors")
    result = execute(tmp_path / "out", base=str(base), adapters=[str(place)], module="layers.0.q_proj", first_i=20)
    assert [(row["projection"], row["layer"]) for row in rows(result, "layers")] == [("q_proj", 0)]
    text = (tmp_path / "out" / "out.ipynb").read_text()
    assert "Left out, of another size or with too few directions" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base": "data/nowhere"}, "data/nowhere does not exist"),
        ({"base": "tests"}, "tests holds no safetensors file"),
        ({"adapters": ["data/adapters/r3"]}, "data/adapters/r3 is not a directory"),
        ({"module": "encoder.layer.5.attention.self.qery"}, "did you mean 'encoder.layer.5.attention.self.query'"),
        ({"module": "query"}, "'query' is ambiguous in r4"),
        ({"last_j": 65}, "last_j = 65 columns asked for, but the adapters have at most 64 directions"),
        ({"first_i": 400}, "rows i = 400 … 400 asked for (first_i … last_i): they must lie within 1 … 384"),
        ({"factor": "C"}, "parameter factor is 'C'"),
        ({"side": "left"}, 'use factor "BA"'),
        ({"preset": "papr"}, "parameter preset is 'papr'"),
        ({"modul": MODULE}, "there is no parameter 'modul'; did you mean 'module'?"),
    ],
)
def test_bad_parameters_end_the_run_before_any_compute(tmp_path, given, message):
    assert message in failure(tmp_path, **given)


def test_bad_files_end_the_run_before_any_compute(tmp_path, make_base, make_adapter, rng):
    base = make_base({MODULE: rng.standard_normal((24, 24))})

    def adapter(directory, a=None, b=None, **config):
        return [str(make_adapter(a, b, directory, MODULE, config))]

    pickle = tmp_path / "pickle"
    pickle.mkdir()
    torch.save({}, pickle / "pytorch_model.bin")
    fine = adapter("fine")
    cases = [
        ({"base": str(base), "adapters": adapter("wide", rng.standard_normal((4, 30)))}, "wide adds a 24 × 30 matrix"),
        ({"base": str(base), "adapters": adapter("zero", r=0)}, "rank 0"),
        ({"base": str(base), "adapters": adapter("nan", np.full((4, 24), np.nan))}, "NaN or Inf"),
        ({"base": str(base), "adapters": adapter("none", b=np.zeros((24, 4))), "factor": "BA"}, "compare factor A"),
        ({"base": str(pickle), "adapters": fine}, "is a pickle"),
        ({"base": str(make_base({MODULE: np.full((24, 24), np.inf)}, "inf")), "adapters": fine}, "NaN or Inf"),
    ]
    for n, (given, message) in enumerate(cases):
        assert message in failure(tmp_path / f"out{n}", module=MODULE, **given)
