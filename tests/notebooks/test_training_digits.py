"""The training notebook for digit classifiers with few epochs: it runs through and saves what notebook 03 reads."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import digits
from helpers.digits import classifiers
from helpers.paths import ROOT
from tests.notebooks import running

NOTEBOOK = ROOT / "notebooks" / "training" / "digit_models.ipynb"
FEW = {"datasets": ["digits"], "architectures": ["cnn"], "seeds": [0, 7], "fold_seeds": [0], "jobs": 1}
FEW |= {"epochs": 3, "patience": 2, "permuted_epochs": 2}


def execute(place):
    given = {**FEW, "output": str(place / "models")}
    return running.execute(NOTEBOOK, place, **given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("training")
    return place, execute(place)


def test_it_saves_networks_with_their_measured_accuracy(trained):
    place, result = trained
    files = sorted(file.name for file in (place / "models" / "digits-cnn").iterdir())
    assert files == ["README.md", "permuted_labels.safetensors", "seed_0.safetensors", "seed_7.safetensors"]
    data = digits.load("digits")
    _, held_out = digits.hold_out(data)
    for row in result["tables"]["bundled"]["rows"]:
        network = digits.untrained("cnn", 8, 0)
        network.load_state_dict(load_file(place / "models" / "digits-cnn" / f"{row[2]}.safetensors"))
        assert row[4] == pytest.approx(digits.accuracy(network, data.images[held_out], data.labels[held_out]))
    card = (place / "models" / "digits-cnn" / "README.md").read_text()
    assert str(place) not in card
    assert f"| {result['tables']['bundled']['rows'][0][4]:.3f} |" in card


def test_yardsticks_stand_beside_the_networks(trained):
    _, result = trained
    table = {(row[0], row[1]): row[2] for row in result["tables"]["accuracy"]["rows"]}
    assert table["logistic regression", "shuffled"] == pytest.approx(0.969, abs=0.01)  # as measured elsewhere
    assert table["1-NN", "shuffled"] > 0.97
    assert table["logistic regression", "by writer"] < table["logistic regression", "shuffled"]
    names = {claim["name"] for claim in result["claims"]}
    assert names >= {"cnn_reads_shuffled", "cnn_reads_by_writer", "cnn_beats_shuffled", "permuted_by_heart"}


def test_the_same_parameters_train_the_same_networks(trained, tmp_path):
    place, result = trained
    again = execute(tmp_path)
    assert again["tables"]["bundled"] == result["tables"]["bundled"]
    one, two = (load_file(where / "models" / "digits-cnn" / "seed_7.safetensors") for where in (place, tmp_path))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_bundled_networks_are_what_their_card_says():
    for dataset in digits.SIZES:
        data = digits.load(dataset)
        _, held_out = digits.hold_out(data)
        for architecture in digits.ARCHITECTURES:
            card = (classifiers.bundled_directory(dataset, architecture) / "README.md").read_text()
            for name, network in classifiers.bundled(dataset, architecture).items():
                measured = digits.accuracy(network, data.images[held_out], data.labels[held_out])
                (line,) = [line for line in card.splitlines() if line.startswith(f"| `{name}` |")]
                assert float(line.split("|")[3]) == pytest.approx(measured, abs=0.0006 + 1 / len(held_out))
                assert np.isfinite(measured)
