"""Bundled networks, and anyone's own: what is opened, what it becomes, what is refused and how."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers import digits, parameters
from helpers.digits import classifiers, controls, saliency
from helpers.training import digit_models
from helpers.weights import WeightsError


def mine():
    """A classifier for 12 × 10 images, found by its name as `tests.digits.test_classifiers:mine`."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(120, 16), nn.ReLU(), nn.Linear(16, 10))


def no_module():
    return "not a module"


def fails():
    raise RuntimeError("as asked")


def fails_at_length():
    raise RuntimeError("a first line\nand\nthe last line")


@pytest.fixture(scope="module")
def images():
    return digits.load("digits").images[:6]


@pytest.fixture
def program(tmp_path):
    """Write a module as TorchScript or as an exported program, and return its file."""

    def write(model, kind, x, **options):
        file = tmp_path / f"model.{kind}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "pt2":
                torch.export.save(torch.export.export(model.eval(), (x,), **options), file)
            else:
                torch.jit.trace(model.eval(), x).save(file)
        return file

    return write


@pytest.mark.parametrize("dataset", digits.SIZES)
@pytest.mark.parametrize("architecture", digits.ARCHITECTURES)
def test_the_bundled_networks_read_digits_and_the_permuted_one_does_not(dataset, architecture):
    networks = classifiers.bundled(dataset, architecture)
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
    for name in (*classifiers.TRAINED, classifiers.PERMUTED):
        save_file(digits.untrained("cnn", 8, 0).state_dict(), place / f"{name}.safetensors")
    monkeypatch.setattr(classifiers, "BUNDLED", str(tmp_path))
    assert len(classifiers.bundled("digits", "cnn")) == 6
    (place / "seed_3.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match=r"seed_3\.safetensors is not a readable safetensors file"):
        classifiers.bundled("digits", "cnn")
    save_file(digits.untrained("transformer", 8, 0).state_dict(), place / "seed_3.safetensors")
    with pytest.raises(WeightsError, match="does not hold the cnn of this data set") as refusal:
        classifiers.bundled("digits", "cnn")
    assert "\n" not in str(refusal.value)


def test_saving_replaces_a_directory_whole_with_a_card(tmp_path):
    model = digits.untrained("cnn", 8, 0)
    digit_models.save({"a": model, "b": model}, tmp_path / "nets", "# Card\n\n{hashes}\n")
    digit_models.save({"a": model}, tmp_path / "nets", "# Card\n\n{hashes}\n")
    assert sorted(file.name for file in (tmp_path / "nets").iterdir()) == ["README.md", "a.safetensors"]
    assert torch.equal(load_file(tmp_path / "nets" / "a.safetensors")["0.weight"], model[0].weight)


def test_a_callable_is_resized_to_and_normalised_for(images):
    model, file = classifiers.open_model("tests.digits.test_classifiers:mine", (12, 10), 0.13, 0.31)
    assert file is None
    classifiers.check(model, "mine", images)
    resized = nn.functional.interpolate(torch.from_numpy(images)[:, None], (12, 10), mode="bilinear")
    torch.testing.assert_close(model(torch.from_numpy(images)[:, None]), mine()((resized - 0.13) / 0.31))
    maps = saliency.attribute(model, images, np.arange(6), "deep_lift")
    assert maps.shape == images.shape
    assert saliency.completeness_residual(model, images, np.arange(6), maps)[0].max() < 1e-4


@pytest.mark.parametrize("kind", ["pt", "pt2"])
def test_a_saved_program_is_what_was_saved(program, images, kind):
    source = digits.untrained("cnn", 8, 3)
    options = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if kind == "pt2" else {}
    file = program(source, kind, torch.rand(4, 1, 8, 8), **options)
    model, found = classifiers.open_model(str(file), (8, 8))
    assert found == file
    classifiers.check(model, "mine", images)
    x = torch.from_numpy(images)[:, None]
    torch.testing.assert_close(model(x), source(x))
    expected = saliency.attribute(source, images, np.arange(6), "integrated_gradients")
    np.testing.assert_allclose(
        saliency.attribute(model, images, np.arange(6), "integrated_gradients"), expected, atol=1e-5
    )
    other = controls.randomise(model, 0)
    assert (other(x) - model(x)).abs().max() > 1e-3
    torch.testing.assert_close(model(x), source(x))
    assert len(controls.layers(model)) == 4
    assert "deep_lift" not in saliency.methods_for(model)


def test_an_exported_program_of_one_batch_size_is_refused(program, images):
    file = program(digits.untrained("cnn", 8, 3), "pt2", torch.rand(4, 1, 8, 8))
    model, _ = classifiers.open_model(str(file), (8, 8))
    with pytest.raises(WeightsError, match=r"does not take 2 images .*export with a dynamic batch size"):
        classifiers.check(model, "mine", images)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.pt", "is not a file: expected a saved program"),
        ("README.md", "is no program that torch.jit.save or torch.export.save wrote"),
        ("tests.nothing:mine", "cannot be called: ModuleNotFoundError"),
        ("tests.digits.test_classifiers:nothing", "cannot be called: AttributeError"),
        ("tests.digits.test_classifiers:fails", "cannot be called: RuntimeError: as asked"),
        ("tests.digits.test_classifiers:no_module", "gives a str: expected a torch.nn.Module"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_sentence(source, message):
    with pytest.raises(WeightsError, match=message) as refusal:
        classifiers.open_model(source, (8, 8))
    assert "\n" not in str(refusal.value)


class Bomb:
    """Unpickling this would end the test run."""

    def __reduce__(self):
        return (exec, ("import os; os._exit(9)",))


@pytest.mark.parametrize("kind", ["pt", "pth", "pt2"])
def test_pickles_are_not_loaded(tmp_path, kind):
    file = tmp_path / f"weights.{kind}"
    torch.save({"weights": Bomb()}, file)
    with pytest.raises(WeightsError, match="cannot be opened as a saved program") as refusal:
        classifiers.open_model(str(file), (8, 8))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), r"gives \[2, 7\] for 2 images: expected logits \[2, 10\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "does not take 2 images of 8 × 8 .* set input_rows"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Unflatten(1, (1, 10))), r"gives \[2, 1, 10\]"),
    ],
)
def test_networks_that_do_not_fit_are_refused(images, model, message):
    with pytest.raises(WeightsError, match=message) as refusal:
        classifiers.check(model.eval(), "mine", images)
    assert "\n" not in str(refusal.value)


def test_nan_and_missing_gradients_are_refused(images):
    model = digits.untrained("cnn", 8, 0)
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"mine: 3\.weight holds NaN or infinite numbers"):
        classifiers.check(model, "mine", images)

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            return self.linear(x.detach().flatten(1)).detach()

    with pytest.raises(WeightsError, match="has no gradient with respect to its input"):
        classifiers.check(Detached(), "mine", images)


def test_programs_that_would_mislead_are_refused(program, images):
    """Nothing to randomise, dropout left on, a softmax at the end."""
    source = digits.untrained("cnn", 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen = torch.jit.freeze(torch.jit.trace(source, torch.rand(2, 1, 8, 8)))
    with pytest.raises(WeightsError, match="mine has no parameters to randomise"):
        classifiers.check(frozen, "mine", images)
    with pytest.raises(WeightsError, match=r"gives other logits each time: call eval\(\)"):
        classifiers.check(digits.untrained("cnn", 8, 3).train(), "mine", images)
    with pytest.raises(WeightsError, match="gives probabilities: expected logits"):
        classifiers.check(nn.Sequential(source, nn.Softmax(1)), "mine", images)


def test_deep_lift_is_tried_before_it_is_promised(images):
    """One ReLU used twice, and a ReLU that is no module."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.three(self.relu(self.two(self.relu(self.one(x.flatten(1))))))

    class Function(Twice):
        def forward(self, x):
            return self.three(torch.relu(self.two(torch.relu(self.one(x.flatten(1))))))

    torch.manual_seed(0)
    for model in (Twice().eval(), Function().eval()):
        assert "deep_lift" not in saliency.methods_for(model, images[:2])
        with pytest.raises(ValueError, match="deep_lift does not account for this network's logits"):
            saliency.check_defined(model, "deep_lift", images[:2])
    assert "deep_lift" in saliency.methods_for(digits.untrained("cnn", 8, 0), images[:2])


def test_errors_of_other_peoples_code_are_cut_to_a_line():
    with pytest.raises(WeightsError, match="cannot be called: RuntimeError: the last line") as refusal:
        classifiers.open_model("tests.digits.test_classifiers:fails_at_length", (8, 8))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("labels", [[0, 1, 2], [*range(10), 10], [-1, *range(10)]])
def test_labels_outside_the_digits_are_refused(labels):
    with pytest.raises(ValueError, match="expected the digits 0 to 9"):
        classifiers.check_labels(np.array(labels))
    classifiers.check_labels(np.arange(10))


def test_every_condition_of_the_schema_can_be_had_of_a_bundled_study():
    for architecture in digits.ARCHITECTURES:
        study = classifiers.study("digits", architecture)
        assert not any(peer is study.subject for peer in study.peers)
        for name in parameters.CONDITIONS:
            if name in saliency.METHODS and name not in saliency.methods_for(study.subject):
                continue
            network, method = classifiers.condition(study, name, "gradient", 0)
            assert method == (name if name in saliency.METHODS else "gradient")
            assert (network is study.subject) is (name in ("trained", architecture, *saliency.METHODS))


def test_a_network_is_not_compared_with_itself():
    study = classifiers.study("digits")
    for names in (("trained", "cnn"), ("gradient", "trained")):
        with pytest.raises(ValueError, match="are the same network by the same method"):
            classifiers.sides(study, names, "gradient", 0)
    assert len(classifiers.sides(study, ("trained", "occlusion"), "gradient", 0)) == 2


def test_conditions_of_ones_own_network_are_listed():
    study = classifiers.study("digits", "tests.digits.test_classifiers:mine", (12, 10))
    assert len(study.peers) == 5
    assert classifiers.condition(study, "occlusion", "gradient", 0) == (study.subject, "occlusion")
    with pytest.raises(
        ValueError, match="condition 'seed_1' is not to be had for your network: expected one of trained"
    ):
        classifiers.condition(study, "seed_1", "gradient", 0)
