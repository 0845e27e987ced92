"""The training notebook for planted truths with few steps: it runs through, and saves and says what it measured."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import digits
from helpers.digits import truth
from helpers.paths import ROOT
from helpers.training import planted_models
from tests.notebooks import running
from tests.notebooks.running import claims, rows

NOTEBOOK = ROOT / "notebooks" / "training" / "planted_models.ipynb"
FEW = {"tasks": ["linear", "marked_digits"], "seeds": [0, 7], "steps": 120, "measured": 500, "jobs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("planted")
    return place, running.execute(NOTEBOOK, place, **FEW, output=str(place / "models"))


def test_it_saves_networks_with_their_measured_accuracy(trained):
    place, result = trained
    measured = rows(result, "networks")
    assert [(row["task"], row["seed"]) for row in measured] == [
        (task, seed) for task in FEW["tasks"] for seed in (0, 7)
    ]
    for row in measured:
        directory = place / "models" / row["task"]
        assert sorted(file.name for file in directory.iterdir()) == [
            "README.md", "seed_0.safetensors", "seed_7.safetensors",
        ]  # fmt: skip
        tensors = load_file(directory / f"seed_{row['seed']}.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        network = truth.network(1)
        network.load_state_dict(tensors)
        fresh = truth.make(row["task"], 500, np.random.default_rng([2, truth.TASKS.index(row["task"])]))
        assert row["accuracy"] == digits.accuracy(network, fresh.images, fresh.labels) > 0.6
        card = (directory / "README.md").read_text(encoding="utf-8")
        assert f"| `seed_{row['seed']}` | {row['accuracy']:.4f} |" in card
        assert "steps 120" in card
        assert str(place) not in card


def test_claims_follow_what_was_measured(trained):
    _, result = trained
    found, measured = claims(result), rows(result, "networks")
    for task in FEW["tasks"]:
        own = [row for row in measured if row["task"] == task]
        for name, column, least in (("known", "accuracy", 0.98), ("decided", "follows", 0.9)):
            worst = min(row[column] for row in own)
            assert found[f"{task}_{name}"]["statistic"] == pytest.approx(worst)
            assert found[f"{task}_{name}"]["holds"] == (worst >= least)
    assert found["multiplicative_not_linear"]["holds"] is None
    assert found["multiplicative_not_linear"]["found"] == "multiplicative is not among the tasks"


def test_the_same_seed_trains_the_same_network_and_another_another():
    given = {"steps": 20, "batch_size": 32, "learning_rate": 0.005, "weight_decay": 0.1}
    one, same, other = (planted_models.fit("translated", seed, **given).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(one[name], one[name].half().float()) for name in one)
