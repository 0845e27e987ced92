"""The notebook that merges adapters of SmolLM2: what is measured is kept and found, and the weights are put back."""

import re
import shutil
from contextlib import nullcontext

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from helpers.paths import ROOT
from helpers.training import language_model, merges
from helpers.weights import WeightsError
from tests.notebooks import running
from tests.weights import building

NOTEBOOK = ROOT / "notebooks" / "training" / "merged_adapters.ipynb"
DATA = ROOT / "data"
PAIR = [DATA / "language_model_adapters" / name for name in ("r8", "r64")]


def printed(place):
    cells = nbformat.read(place / "out.ipynb", as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


class Measured(Exception):
    """The model is asked for: it measures."""


@pytest.fixture
def found_only(monkeypatch):
    """From here on no model is to be had."""

    def load():
        raise Measured

    monkeypatch.setattr(language_model, "load", load)


@pytest.mark.parametrize(("density", "found"), [(0.2, True), (0.9, False)])
def test_merges_of_another_density_are_others(tmp_path, found_only, density, found):
    output = shutil.copytree(DATA / "merged_adapters", tmp_path / "merged")
    with nullcontext() if found else pytest.raises(Measured):
        table = merges.measure(PAIR, DATA / "SmolLM2-135M-Instruct", output, 1000, density)
        assert list(table["method"]) == ["sum", "average", "ties"]


def test_the_bundled_table_is_found_again(tmp_path):
    output = shutil.copytree(DATA / "merged_adapters", tmp_path / "merged")
    result = running.execute(NOTEBOOK, tmp_path, output=str(output))
    assert "accuracy" not in printed(tmp_path)
    for name in ("merges.csv", "README.md"):
        assert (output / name).read_bytes() == (DATA / "merged_adapters" / name).read_bytes()
    table = pd.read_csv(output / "merges.csv")
    assert [row["accuracy"] for row in running.rows(result, "merges")] == table["accuracy"].tolist()


def test_few_texts_are_measured_and_then_found(tmp_path, found_only):
    output = tmp_path / "merged"
    result = running.execute(NOTEBOOK, tmp_path, output=str(output), adapters=[*map(str, PAIR)], texts=8)
    rows = running.rows(result, "merges")
    assert [(row["method"], row["task"]) for row in rows] == [(m, "sentiment") for m in ("sum", "average", "ties")]
    assert all(row["accuracy"] * 8 == round(row["accuracy"] * 8) and row["loss"] > 0 for row in rows)
    assert len({row["loss"] for row in rows}) == 3
    assert len(re.findall("sentiment: accuracy", printed(tmp_path))) == 3
    before = (output / "merges.csv").read_bytes()
    again = merges.measure(PAIR, "", output, 8, 0.2)
    assert again["loss"].tolist() == [row["loss"] for row in rows]
    assert (output / "merges.csv").read_bytes() == before
    with pytest.raises(Measured):  # of other texts nothing is known
        merges.measure(PAIR, "", output, 10, 0.2)


def test_what_is_measured_outlives_a_run_that_ends_early(tmp_path, monkeypatch):
    """Synthetic answers: the first run ends in its third merge, the second measures that one only."""
    asked = []

    class Asked:
        def __init__(self, *_):
            asked.append(self)

        def measure(self, *_):
            if len(asked) == 3:
                raise KeyboardInterrupt
            return {"accuracy": len(asked) / 10, "loss": 1.0}

    monkeypatch.setattr(language_model, "load", lambda: (None, None))
    monkeypatch.setattr(language_model, "Asked", Asked)
    monkeypatch.setattr(merges, "merged", lambda *_: nullcontext())
    with pytest.raises(KeyboardInterrupt):
        merges.measure(PAIR, "", tmp_path, 8, 0.2)
    assert pd.read_csv(tmp_path / "merges.csv")["accuracy"].tolist() == [0.1, 0.2]
    assert merges.measure(PAIR, "", tmp_path, 8, 0.2)["accuracy"].tolist() == [0.1, 0.2, 0.4]


def test_a_merge_is_added_to_the_weights_which_are_put_back(tmp_path):
    """Tiny, synthetic, beside what PEFT merges: one changes a projection that the other leaves alone."""
    torch.manual_seed(1)
    model = building.llama()
    model.save_pretrained(tmp_path / "base")
    places, expected = [tmp_path / "one", tmp_path / "other"], {}
    for place, kinds in zip(places, (["q_proj"], ["q_proj", "v_proj"]), strict=True):
        adapted = building.adapt(model, place, target_modules=kinds)
        for module, (_, delta) in building.merged(model, adapted).items():
            expected[f"{module}.weight"] = expected.get(f"{module}.weight", 0) + delta / 2
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    with pytest.raises(Measured), merges.merged(model, tmp_path / "base", places, "average", 0.2):
        for name, tensor in model.named_parameters():
            wanted = weights[name].numpy() + expected.pop(name, 0)
            np.testing.assert_allclose(tensor.detach(), wanted, atol=1e-6)
            changed = (tensor - weights[name]).abs().max() > 1e-4
            assert bool(changed) == bool(re.search("q_proj|v_proj", name)), name
        assert not expected
        raise Measured
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, weights[name]), name


def test_an_adapter_without_a_record_is_refused(tmp_path):
    other = shutil.copytree(PAIR[1], tmp_path / "r64")
    (other / "training.json").unlink()
    with pytest.raises(WeightsError, match=r"r64 has no training\.json that says on which task it was trained"):
        merges.measure([PAIR[0], other], "", tmp_path, 8, 0.2)
