"""The training notebook for digit classifiers with few epochs: it runs through and saves what notebook 03 reads."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from helpers import digits
from helpers.digits import bundled, images
from helpers.parameters import DigitModels
from helpers.paths import ROOT
from helpers.training import digit_models
from tests.notebooks import running

NOTEBOOK = ROOT / "notebooks" / "training" / "digit_models.ipynb"
FEW = {"datasets": ["digits"], "architectures": ["cnn"], "seeds": [0, 7], "fold_seeds": [0], "jobs": 1}
FEW |= {"epochs": 3, "patience": 2, "permuted_epochs": 2}
NAMES = [*(f"{fold}seed_{seed}" for fold in ("", *(f"fold_{n}-" for n in range(1, 5))) for seed in (0, 7))]
TRAINS_NOTHING = """\
from helpers.training import digit_models
def fit(*_, **__):
    raise AssertionError("it trains again")
digit_models.fit = fit
"""


def execute(place, before="", **given):
    return running.execute(NOTEBOOK, place, before, **{**FEW, "output": str(place / "models"), **given})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("training")
    return place, execute(place)


def test_it_saves_networks_with_their_measured_accuracy(trained):
    place, result = trained
    files = {file.name for file in (place / "models" / "digits-cnn").iterdir()}
    assert files == {"README.md", "training.json", *(f"{name}.safetensors" for name in [*NAMES, "permuted_labels"])}
    data = digits.load("digits")
    pairs = digits.folds(data, by_writer=True)
    card = (place / "models" / "digits-cnn" / "README.md").read_text(encoding="utf-8")
    assert str(place) not in card
    for row in running.rows(result, "bundled"):
        network = digits.untrained("cnn", 8, 0)
        network.load_state_dict(load_file(place / "models" / "digits-cnn" / f"{row['name']}.safetensors"))
        fold = int(row["name"].partition("-")[0].removeprefix("fold_")) if row["name"].startswith("fold") else 0
        _, held_out = pairs[fold]
        assert row["images held out"] == len(held_out)
        assert row["held out"] == digits.accuracy(network, data.images[held_out], data.labels[held_out])
        assert f"| `{row['name']}` | {row['on its training labels']:.3f} | {row['held out']:.3f} |" in card


def test_every_seed_is_measured_on_every_writer(trained):
    """The table against the files, image by image."""
    place, result = trained
    data = digits.load("digits")
    fold = images.fold_of(data)
    card = (place / "models" / "digits-cnn" / "README.md").read_text(encoding="utf-8")
    for row in running.rows(result, "writers"):
        right = np.zeros(len(fold), bool)
        for number in range(5):
            file = place / "models" / "digits-cnn" / f"{bundled.name(row['seed'], number)}.safetensors"
            found = digits.logits(bundled.read(file, "digits", "cnn"), data.images).argmax(1).numpy() == data.labels
            right[fold == number] = found[fold == number]
        of_writer = [right[data.writers == writer].mean() for writer in range(14)]
        assert row["all images"] == pytest.approx(right.mean())
        assert (row["least"], row["greatest"]) == pytest.approx((min(of_writer), max(of_writer)))
        assert f"| `{row['seed']}` | {right.mean():.3f} | {min(of_writer):.3f} |" in card
    means = [row["all images"] for row in running.rows(result, "writers")]
    (by_writer,) = [
        r for r in running.rows(result, "accuracy") if (r["classifier"], r["split"]) == ("cnn", "by writer")
    ]
    assert by_writer["mean"] == pytest.approx(np.mean(means))


def test_yardsticks_stand_beside_the_networks(trained):
    _, result = trained
    table = {(row[0], row[1]): row[2] for row in result["tables"]["accuracy"]["rows"]}
    assert table["logistic regression", "shuffled"] == pytest.approx(0.969, abs=0.01)  # as measured elsewhere
    assert table["1-NN", "shuffled"] > 0.97
    assert table["logistic regression", "by writer"] < table["logistic regression", "shuffled"]
    assert [claim["name"] for claim in result["claims"]] == [
        *("cnn_reads_shuffled", "cnn_beats_shuffled", "cnn_reads_by_writer", "cnn_beats_by_writer"),
        *("permuted_by_heart", "permuted_read_nothing"),
    ]


def test_what_is_finished_is_not_trained_again(trained, tmp_path):
    """The same tables and the same files, but for none of which the second run trains; a lost one is made again."""
    place, result = trained
    shutil.copytree(place / "models", tmp_path / "models")
    again = execute(tmp_path, TRAINS_NOTHING)
    assert again["tables"] == result["tables"]
    assert again["claims"] == result["claims"]


@pytest.mark.parametrize("lost", ["seed_7", "fold_3-seed_0", "shuffled-fold_2-seed_0"])
def test_the_same_settings_train_the_same_network_and_only_what_is_missing(trained, tmp_path, monkeypatch, lost):
    place, result = trained
    models = shutil.copytree(place / "models" / "digits-cnn", tmp_path / "digits-cnn")
    record = json.loads((models / "training.json").read_text(encoding="utf-8"))
    if lost.startswith("shuffled"):
        record["networks"].pop(lost)
        (models / "training.json").write_text(json.dumps(record), encoding="utf-8")
    else:
        (models / f"{lost}.safetensors").write_bytes(b"half of it")
    fits, fit = [], digit_models.fit
    monkeypatch.setattr(digit_models, "fit", lambda *given, **named: fits.append(named["seed"]) or fit(*given, **named))
    p = DigitModels(**{**FEW, "output": str(tmp_path)})
    _, table = digit_models.train_or_find("digits", digits.load("digits"), "cnn", models, p)
    assert fits == [int(lost[-1])]
    columns = result["tables"]["bundled"]["columns"][2:]
    assert table.loc[table["kept"], columns].values.tolist() == [row[2:] for row in result["tables"]["bundled"]["rows"]]
    for file in (place / "models" / "digits-cnn").iterdir():
        assert file.read_bytes() == (models / file.name).read_bytes()


@pytest.mark.parametrize("other", ["learning_rate", "fold_of", "broken"])
def test_what_was_trained_otherwise_is_not_found(trained, tmp_path, other):
    place, _ = trained
    models = shutil.copytree(place / "models" / "digits-cnn", tmp_path / "digits-cnn")
    text = (models / "training.json").read_text(encoding="utf-8")
    given, recorded = DigitModels(**{**FEW, "output": str(tmp_path)}), json.loads(text)
    wanted, key = digit_models.runs("digits", given), digit_models.settings(digits.load("digits"), given)
    networks, rows = digit_models._found("digits", "cnn", models, wanted, key)
    assert rows.keys() == wanted.keys() > networks.keys()
    if other == "learning_rate":
        recorded["settings"][other] = 0.002
    else:
        recorded["fold_of"] = recorded["fold_of"][::-1]
    (models / "training.json").write_text(text[:100] if other == "broken" else json.dumps(recorded), encoding="utf-8")
    assert digit_models._found("digits", "cnn", models, wanted, key) == ({}, {})


def test_the_bundled_networks_are_what_their_card_and_their_record_say():
    for dataset in digits.SIZES:
        data = digits.load(dataset)
        for architecture in digits.ARCHITECTURES:
            place = bundled.directory(dataset, architecture)
            card, record = (
                (place / "README.md").read_text(encoding="utf-8"),
                json.loads((place / "training.json").read_text(encoding="utf-8")),
            )
            runs = digit_models.runs(dataset, DigitModels())
            assert record["settings"] == DigitModels().recipe()
            assert record["fold_of"] == "".join(map(str, images.fold_of(data)))
            assert list(record["networks"]) == list(runs)
            for name, run in runs.items():
                told = record["networks"][name]
                if not run.kept:
                    assert 0.9 < told["held out"] <= 1
                    continue
                measured = run.measure(data, bundled.read(place / f"{name}.safetensors", dataset, architecture))
                for key, value in measured.items():
                    assert told[key] == pytest.approx(value, abs=1.5 / measured["images held out"])
                shown = [f"{told[key]:.3f}" for key in ("on its training labels", "held out")]
                line = f"| `{name}` | {' | '.join(shown)} | {told['epochs']} | {told['instructions']} |"
                assert line in card.splitlines()


@pytest.mark.parametrize("architecture", digits.ARCHITECTURES)
def test_the_cards_of_digits_tell_the_accuracy_of_every_writer(architecture):
    data, card = (
        digits.load("digits"),
        (bundled.directory("digits", architecture) / "README.md").read_text(encoding="utf-8"),
    )
    for seed, of_fold in bundled.by_fold("digits", architecture).items():
        parts = [
            (data.writers[held_out], digits.logits(network, data.images[held_out]).argmax(1) == data.labels[held_out])
            for network, (_, held_out) in zip(of_fold, digits.folds(data, by_writer=True), strict=True)
        ]
        writers, right = (np.concatenate(each) for each in zip(*parts, strict=True))
        of_writer = [right[writers == writer].mean() for writer in range(14)]
        shown = [right.mean(), min(of_writer), np.median(of_writer), max(of_writer)]
        (line,) = [line for line in card.partition("| network |")[0].splitlines() if line.startswith(f"| `{seed}` |")]
        told = [float(each) for each in line.split("|")[2:6]]
        assert told == pytest.approx(shown, abs=0.0006 + 1 / 114)  # one image of a writer
        assert told[0] == pytest.approx(shown[0], abs=0.0006 + 2 / 1797)
