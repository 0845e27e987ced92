"""Bundled networks, and anyone's own: which files and callables are opened, and what is said of those that are not."""

import email
import importlib
import os
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers import digits, parameters
from helpers.digits import bundled, classifiers, controls, saliency
from helpers.parameters import BadParameter, DigitSaliency
from helpers.paths import ROOT
from helpers.training import digit_models
from helpers.weights import WeightsError


def mine():
    """A classifier for 12 × 10 images, found by its name as `tests.digits.test_classifiers:mine`."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(120, 16), nn.ReLU(), nn.Linear(16, 10))


network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def no_module():
    return "not a module"


def fails():
    raise RuntimeError("as asked")


def fails_at_length():
    raise RuntimeError("a first line\nand\nthe last line")


@pytest.fixture(scope="module")
def data():
    return digits.load("digits")


@pytest.fixture
def program(tmp_path):
    """Write a module as TorchScript or as an exported program, and return its file."""

    def write(model, kind, x=None, limit=None, name=None):
        file, x = tmp_path / (name or f"model.{kind}"), torch.rand(4, 1, 8, 8) if x is None else x
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "pt2":
                shapes = {0: torch.export.Dim("n", max=limit)} if limit else None
                torch.export.save(torch.export.export(model, (x,), dynamic_shapes=(shapes,)), file)
            else:
                torch.jit.trace(model, x, check_trace=False).save(file)
        return file

    return write


def opened(source, data, **parameters):
    return classifiers.opened(DigitSaliency.parse({"model": str(source), **parameters}), data)


@pytest.mark.parametrize("dataset", digits.SIZES)
@pytest.mark.parametrize("architecture", digits.ARCHITECTURES)
def test_the_bundled_networks_read_digits_and_the_permuted_one_does_not(dataset, architecture):
    networks = bundled.by_seed(dataset, architecture)
    data = digits.load(dataset)
    train, held_out = digits.hold_out(data)
    accuracy = {name: digits.accuracy(n, data.images[held_out], data.labels[held_out]) for name, n in networks.items()}
    assert accuracy.pop("permuted_labels") < 0.2
    assert len(accuracy) == 5
    assert min(accuracy.values()) > 0.9
    permuted = np.random.default_rng(0).permutation(data.labels[train])
    assert digits.accuracy(networks["permuted_labels"], data.images[train], permuted) > 0.4


def test_a_broken_file_of_the_bundle_is_named(tmp_path, monkeypatch):
    place = tmp_path / "digits-cnn"
    place.mkdir()
    for name in (*parameters.TRAINED, parameters.PERMUTED):
        save_file(digits.untrained("cnn", 8, 0).state_dict(), place / f"{name}.safetensors")
    monkeypatch.setattr(bundled, "BUNDLED", str(tmp_path))
    assert len(bundled.by_seed("digits", "cnn")) == 6
    (place / "seed_3.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match=r"seed_3\.safetensors does not hold the cnn of this data set"):
        bundled.by_seed("digits", "cnn")
    save_file(digits.untrained("transformer", 8, 0).state_dict(), place / "seed_3.safetensors")
    with pytest.raises(WeightsError, match="does not hold the cnn of this data set") as refusal:
        bundled.by_seed("digits", "cnn")
    assert "\n" not in str(refusal.value)


def test_saving_replaces_a_directory_whole_with_a_card(tmp_path):
    model = digits.untrained("cnn", 8, 0)
    digit_models.save({"a": model, "b": model}, tmp_path / "nets", "# Card\n\n{hashes}\n")
    digit_models.save({"a": model}, tmp_path / "nets", "# Card\n\n{hashes}\n")
    assert sorted(file.name for file in (tmp_path / "nets").iterdir()) == ["README.md", "a.safetensors"]
    assert torch.equal(load_file(tmp_path / "nets" / "a.safetensors")["0.weight"], model[0].weight)


def test_a_callable_is_resized_to_and_normalised_for(data):
    fed = {"input_rows": 12, "input_columns": 10, "input_mean": 0.13, "input_std": 0.31}
    found = opened("tests.digits.test_classifiers:mine", data, **fed)
    assert found.file == Path(__file__)
    assert found.read["source"] == f"callable tests.digits.test_classifiers:mine, from {__file__}"
    assert found.read["input"] == "12 × 10, images resized"
    x = torch.from_numpy(data.images[:6])[:, None]
    resized = nn.functional.interpolate(x, (12, 10), mode="bilinear")
    torch.testing.assert_close(found.network(x), mine()((resized - 0.13) / 0.31))
    maps = saliency.attribute(found.network, data.images[:6], np.arange(6), "deep_lift")
    assert maps.shape == (6, 8, 8)
    assert saliency.completeness_residual(found.network, data.images[:6], np.arange(6), maps)[0].max() < 1e-4


def test_a_module_may_stand_for_its_callable(data):
    assert (
        opened("tests.digits.test_classifiers:network", data).network.model
        is importlib.import_module("tests.digits.test_classifiers").network
    )


NETS = """
import json

import beside
from helpers.digits import load
from torch import nn


class Net(nn.Linear):
    def __init__(self):
        super().__init__(64, 10)

    def forward(self, x):
        from ours.later import flat

        return super().forward(flat(x)) * beside.SCALE
"""
HERE = """
import sys

before = [*sys.path]
from helpers.digits import classifiers
from helpers.parameters import DigitSaliency

found = classifiers.opened(DigitSaliency.parse({"model": "ours.nets:Net"}))
assert sys.path == before
print(found.file)
"""


def test_a_package_in_the_current_directory_is_found_and_nothing_else_there_stands_in_for_a_library(tmp_path):
    files = {"ours/__init__.py": "", "ours/nets.py": NETS, "ours/later.py": "def flat(x):\n    return x.flatten(1)\n"}
    files |= {"beside.py": "SCALE = 2\n"}
    files |= dict.fromkeys(["helpers.py", "json.py", "numpy.py", "torch.py"], "raise SystemExit('not this one')\n")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    command, env = [sys.executable, "-P", "-c", HERE], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.strip() == str(tmp_path / "ours" / "nets.py"), done.stderr


def test_a_callable_that_is_nowhere_or_elsewhere_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError) as refusal:
        classifiers.open_classifier("nobodys.nets:Net")
    assert str(refusal.value) == (
        f"model nobodys.nets:Net (neither installed nor in {tmp_path}) cannot be called: "
        "ModuleNotFoundError: No module named 'nobodys'"
    )
    (tmp_path / "email").mkdir()
    (tmp_path / "email" / "nets.py").write_text("", encoding="utf-8")
    with pytest.raises(WeightsError, match=re.escape(f"email.nets:Net (of {email.__file__}) cannot be called")):
        classifiers.open_classifier("email.nets:Net")


@pytest.mark.parametrize(("kind", "name"), [("pt", None), ("pt2", None), ("pt2", "final.pt"), ("pt", "final.bin")])
def test_a_saved_program_is_what_was_saved(program, plain, data, kind, name):
    file = program(plain, kind, limit=4096, name=name)
    model, *_, found, read, lacking, notes, _ = opened(file, data)
    assert found == file
    assert read["source"] == {"pt": "TorchScript program", "pt2": "exported program"}[kind]
    assert not lacking
    assert not notes
    x, y = data.images[:20], data.labels[:20]
    torch.testing.assert_close(digits.logits(model, x), digits.logits(plain, x))
    maps = [saliency.attribute(each, x, y, "integrated_gradients") for each in (model, plain)]
    np.testing.assert_allclose(*maps, atol=1e-5)
    other = controls.randomise(model, 0)
    assert (digits.logits(other, x) - digits.logits(model, x)).abs().max() > 1e-3
    assert len(controls.layers(model)) == 4


def test_programs_that_keep_a_mode_or_a_number_are_refused_by_what_they_do(program, plain, data):
    noisy, norm = nn.Sequential(nn.Dropout(0.1), plain), nn.Sequential(plain, nn.BatchNorm1d(10))  # in training mode
    for kind in ("pt", "pt2"):
        for model, said in ((noisy, "other outputs each time"), (norm, "depends on the other images of its batch")):
            file = program(model, kind, limit=4096)
            with pytest.raises(WeightsError, match=said):
                opened(file, data)
    for x, limit, said in (
        (torch.rand(1, 1, 8, 8), None, "takes batches of 1 images, not of 2"),
        (torch.rand(16, 1, 8, 8), None, "takes batches of 16 images, not of 2"),
        (torch.rand(4, 1, 8, 8), 32, "takes batches of .*2, 3, 4, .* 32 images, not of 64"),
    ):
        with pytest.raises(WeightsError, match=f"{said} .* dynamic batch size"):
            opened(program(plain, "pt2", x, limit), data)


def test_weights_that_are_constants_of_a_program_are_refused(program, plain, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        file = program(plain, "pt")
        frozen = torch.jit.freeze(torch.jit.load(file))
        frozen.save(file)
    with pytest.raises(WeightsError, match="has no parameters to randomise"):
        opened(file, data)

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = [plain], nn.Parameter(torch.tensor([1.0, 1.001]))

        def forward(self, x):
            return self.scale.mean() * self.inner[0](x)

    with pytest.raises(WeightsError, match=r"copies of .* still give .* constants of it"):
        opened(program(Shared(), "pt"), data)
    found = opened(program(Shared(), "pt2", limit=4096), data)
    assert sum(map(len, controls.layers(found.network))) == 9  # exporting has registered them


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.pt", "is not a file: expected a saved program"),
        ("README.md", "is no program that torch.export.save or torch.jit.save wrote"),
        ("tests.nothing:mine", "cannot be called: ModuleNotFoundError"),
        ("tests.digits.test_classifiers:nothing", "cannot be called: AttributeError"),
        ("tests.digits.test_classifiers:fails", "cannot be called: RuntimeError: as asked"),
        ("tests.digits.test_classifiers:fails_at_length", "cannot be called: RuntimeError: the last line"),
        ("tests.digits.test_classifiers:no_module", "gives a str: expected a torch.nn.Module"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_sentence(source, message):
    with pytest.raises(WeightsError, match=message) as refusal:
        classifiers.open_classifier(source)
    assert "\n" not in str(refusal.value)


class Bomb:
    """Unpickling this would end the test run."""

    def __reduce__(self):
        return (exec, ("import os; os._exit(9)",))


def zipped(place):
    with zipfile.ZipFile(place, "w") as file:
        file.writestr("config.json", "{}")


FILES = {
    "weights.pt": (lambda n, f: torch.save({"epoch": 3, "net": n.state_dict()}, f), "holds weights alone"),
    "weights.pth": (
        lambda n, f: torch.save(n.state_dict(), f, _use_new_zipfile_serialization=False),
        "holds weights alone",
    ),
    "weights.safetensors": (lambda n, f: save_file(n.state_dict(), f), "holds weights alone"),
    "weights.bin": (lambda n, f: save_file(n.state_dict(), f), "holds weights alone"),
    "module.pt": (lambda n, f: torch.save(n, f), "is a pickle, .* and is not read"),
    "module.pkl": (lambda n, f: f.write_bytes(pickle.dumps(n)), "is a pickle, .* and is not read"),
    "bomb.pt2": (lambda n, f: torch.save({"weights": Bomb()}, f), "is a pickle, .* and is not read"),
    "bomb.pt": (lambda n, f: f.write_bytes(pickle.dumps(Bomb())), "is a pickle, .* and is not read"),
    "network.onnx": (lambda n, f: f.write_bytes(b"no"), "is an ONNX file: .* torch.export.save, .* onnx2torch"),
    "network.pb": (lambda n, f: f.write_bytes(b"\x08\x08\x12\x07pytorch"), "is an ONNX file"),
    "network.keras": (lambda n, f: zipped(f), "Keras"),
    "network.h5": (lambda n, f: f.write_bytes(b"\x89HDF\r\n"), "Keras"),
    "empty.pt": (lambda n, f: f.write_bytes(b""), "is no program that"),
    "cut.pt2": (lambda n, f: f.write_bytes(b"PK\x03\x04 and then nothing"), "is no program that"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_programs_get_the_sentence_that_helps(name, tmp_path, plain):
    write, message = FILES[name]
    write(plain, tmp_path / name)
    with pytest.raises(WeightsError, match=message) as refusal:
        classifiers.open_classifier(str(tmp_path / name))
    assert "\n" not in str(refusal.value)
    assert "package.module:callable" in str(refusal.value)


def test_a_program_that_is_broken_is_refused(tmp_path, program, plain):
    file = program(plain, "pt2", limit=64)
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(tmp_path / "half.pt2", "w") as half:
        for each in whole.namelist():
            if "weight_0" not in each:
                half.writestr(each, whole.read(each))
    with pytest.raises(WeightsError, match=r"half\.pt2 cannot be opened as a saved program") as refusal:
        classifiers.open_classifier(str(tmp_path / "half.pt2"))
    assert "\n" not in str(refusal.value)


def test_bundled_networks_are_given_as_they_are(plain):
    network = classifiers.open_classifier("cnn")
    assert type(network) is nn.Sequential
    assert torch.equal(network[0].weight, plain[0].weight)


def test_parameters_of_ones_own_network_are_checked():
    for given in ({"explains": "probability"}, {"channels": 3}, {"input_mean": 0.1}):
        with pytest.raises(BadParameter, match=f"{next(iter(given))} describes your own model, and model is 'cnn'"):
            classifiers.open_classifier("cnn", **given)
    with pytest.raises(BadParameter, match="no parameter 'chanels'; did you mean 'channels'"):
        classifiers.open_classifier("x:y", chanels=3)
