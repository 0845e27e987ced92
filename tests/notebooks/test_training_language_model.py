"""The training notebook of the language model with few steps: what is finished is not trained again."""

import json
import shutil
from contextlib import nullcontext

import nbformat
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import weights
from helpers.parameters import LanguageModelAdapters
from helpers.paths import ROOT
from helpers.training import adapters, language_model
from tests.notebooks import running

NOTEBOOK = ROOT / "notebooks" / "training" / "language_model_adapters.ipynb"
FEW = {"steps": 3, "warm_up": 1, "evaluate_every": 2, "batch_size": 4, "train_texts": 200, "held_out_texts": 20}
BOTH = {"ranks": [4, 3], "seeds": [0, 5], "tasks": ["sentiment", "author"], "checkpoints": [2]}


def printed(place):
    cells = nbformat.read(place / "out.ipynb", as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(place, parameters, result of a run that found the first of two finished, when that was written).

    The first is the bundled one of its rank, with a record that says that it was trained by the recipe of this run.
    """
    place = tmp_path_factory.mktemp("language-model")
    p = LanguageModelAdapters(**FEW, **BOTH, output=str(place / "data"))
    there = ROOT / "data" / "language_model_adapters" / "r4"
    first = shutil.copytree(there, place / "data" / "language_model_adapters" / "r4")
    record = json.loads((first / adapters.RECORD).read_text(encoding="utf-8"))
    adapters.save_record(first, record | {"settings": record["settings"] | p.recipe()})
    before = (first / "README.md").stat().st_mtime_ns
    return place, p, running.execute(NOTEBOOK, place, **FEW, **BOTH, output=str(place / "data")), before


def test_a_finished_adapter_is_found_and_the_others_are_trained(trained):
    place, _, result, before = trained
    there = place / "data" / "language_model_adapters"
    assert "r4: there already" in printed(place)
    assert "r3-seed5-author: there already" not in printed(place)
    assert (there / "r4" / "README.md").stat().st_mtime_ns == before
    assert sorted(file.name for file in there.iterdir()) == ["r3-seed5-author", "r3-seed5-author-step2", "r4"]
    assert [row["adapter"] for row in running.rows(result, "accuracy")] == ["r4", "r3-seed5-author"]
    steps = [
        row["step"]
        for row in json.loads((there / "r3-seed5-author" / "training.json").read_text(encoding="utf-8"))["curve"]
    ]
    assert steps == [0, 2, 3]


@pytest.mark.parametrize("lost", ["", "r3-seed5-author", "r3-seed5-author-step2"])
def test_what_a_run_has_written_is_found_finished_unless_a_part_is_lost(trained, tmp_path, monkeypatch, lost):
    class Loaded(Exception):
        """The model is asked for: it trains."""

    def load():
        raise Loaded

    monkeypatch.setattr(language_model, "load", load)
    place, p, _, _ = trained
    there = shutil.copytree(place / "data" / "language_model_adapters", tmp_path / "there")
    if lost:
        (there / lost / "adapter_model.safetensors").unlink()
    _, run = p.runs()
    with pytest.raises(Loaded) if lost else nullcontext():
        curve = language_model.train_adapter(run, p, there / run[0], 0.5)
        assert curve == json.loads((there / run[0] / adapters.RECORD).read_text(encoding="utf-8"))["curve"]


def test_it_reports_loss_accuracy_yardsticks_and_sizes(trained):
    _, _, result, _ = trained
    for row in running.rows(result, "accuracy"):
        assert row["loss before"] > 0 and row["loss after"] > 0
        assert all(0 <= row[name] <= 1 for name in ("accuracy before", "accuracy after", "bag of words"))
    assert set(running.claims(result)) == {"beats_zero_shot", "beats_bag_of_words", "gentle"}
    for row in running.rows(result, "sizes"):
        assert 0 < row["Frobenius norm, median"] <= row["Frobenius norm, most"] < 1
        assert 0 < row["spectral norm, median"] <= row["spectral norm, most"] < 1


def test_what_it_saves_is_small_free_of_this_machine_and_starts_from_its_seed(trained):
    place, *_ = trained
    there = place / "data" / "language_model_adapters"
    for directory in there.iterdir():
        for name in ("adapter_model", "untrained_A"):
            assert {t.dtype for t in load_file(directory / f"{name}.safetensors").values()} == {torch.bfloat16}
        for file in directory.iterdir():
            assert str(place).encode() not in file.read_bytes()
            assert b"site-packages" not in file.read_bytes()
    base = weights.open_base(place / "data" / "SmolLM2-135M-Instruct")
    last, early = (weights.open_update(there / name, base) for name in ("r3-seed5-author", "r3-seed5-author-step2"))
    assert not last.notes  # the adapter names the model that it is given
    module = "model.layers.7.self_attn.v_proj"
    names = [weights.match(base, updates)[module] for updates in (last, early)]
    np.testing.assert_array_equal(last.untrained_a(names[0]), early.untrained_a(names[1]))
    assert np.abs(last.update(names[0]).b - early.update(names[1]).b).max() > 0


def test_text_is_asked_for_once(trained):
    for task in language_model.TASKS:
        train, held_out = language_model.split(task, 1000)
        assert len(set(train[0]) & set(held_out[0])) <= (
            task == "author"
        )  # one text, once it is cut; the notebook says it
        assert set(train[1]) == set(held_out[1]) == {0, 1}
        assert abs(held_out[1].mean() - 0.5) < 0.01
    assert max(len(text) for text in train[0]) <= language_model.CHARACTERS
