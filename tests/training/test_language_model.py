"""What data/ holds of the language model is the model's, and the adapters do on it what their cards say."""

import json
import re

import gguf
import numpy as np
import peft
import pytest
import torch

from helpers import weights
from helpers.training import adapters, encoder, language_model

PARTS = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}


@pytest.fixture(scope="module")
def loaded():
    torch.set_num_threads(1)
    return language_model.load()


def test_the_subset_is_the_packages_file_bit_for_bit(data):
    (file,) = (data / "SmolLM2-135M-Instruct").glob("*.gguf")
    ours, theirs = (
        {tensor.name: tensor for tensor in gguf.GGUFReader(place).tensors}
        for place in (file, language_model.package_file())
    )
    assert len(ours) == 30 * len(PARTS)
    for name, tensor in ours.items():
        assert tensor.tensor_type == theirs[name].tensor_type
        np.testing.assert_array_equal(tensor.shape, theirs[name].shape)
        np.testing.assert_array_equal(tensor.data, theirs[name].data)


def test_it_is_read_as_transformers_reads_the_package(data, loaded):
    base = weights.open_base(data / "SmolLM2-135M-Instruct")
    expected = {name: weight for name, weight in loaded[0].state_dict().items() if name.split(".")[-2] in PARTS}
    assert [f"{name}.weight" for name in base.modules()] == sorted(expected)
    for name in base.modules():
        np.testing.assert_array_equal(base.weight(name), expected[f"{name}.weight"].numpy(), name)


def test_an_adapter_reproduces_the_accuracy_of_its_card(data, loaded):
    """One of seven, of the task that has fewer of them, each text beside those of as many tokens: else it is slow."""
    place = data / "language_model_adapters" / "r8-author"
    settings = json.loads((place / "training.json").read_text(encoding="utf-8"))["settings"]
    model = peft.PeftModel.from_pretrained(loaded[0], place)
    asked = language_model.Asked(model, loaded[1], settings["task"])
    texts, labels = language_model.split(settings["task"], settings["held_out_texts"])[1]
    by_tokens = np.argsort([len(tokens) for tokens in loaded[1](texts).input_ids], kind="stable")
    parts = [asked.measure([texts[k] for k in part], labels[part]) for part in np.split(by_tokens, 20)]
    accuracy, loss = (np.mean([part[name] for part in parts]) for name in ("accuracy", "loss"))
    told = re.search(
        r"accuracy [\d.]+ before \(zero-shot\),\s+([\d.]+) ±", (place / "README.md").read_text(encoding="utf-8")
    )
    assert accuracy == pytest.approx(float(told[1]), abs=0.005)  # another processor rounds otherwise
    assert loss == pytest.approx(adapters.curve(place, settings)[-1]["loss"], abs=0.01)
    model.unload()


def test_cards_say_what_was_recorded(data):
    bags = {task: language_model.bag_of_words(*language_model.split(task, 1000)) for task in language_model.TASKS}
    for place in sorted((data / "language_model_adapters").iterdir()):
        record = json.loads((place / "training.json").read_text(encoding="utf-8"))
        bag = bags[record["settings"]["task"]]
        card = language_model.adapter_card(place.name, record["settings"], record["curve"], bag)
        assert (place / "README.md").read_text(encoding="utf-8").startswith(card.partition("{hashes}")[0])
    for place in sorted((data / "adapters").iterdir()):
        record = json.loads((place / "training.json").read_text(encoding="utf-8"))
        frozen = float(re.search(r"frozen encoder ([\d.]+)\.\n", (place / "README.md").read_text(encoding="utf-8"))[1])
        card = encoder.run_card(place.name, record["settings"], record["curve"], frozen)
        assert (place / "README.md").read_text(encoding="utf-8").startswith(card.partition("{hashes}")[0])


def test_the_recipe_in_the_readme_is_the_recorded_one(data):
    readme = (data.parent / "README.md").read_text(encoding="utf-8")
    for name in ("r4", "r8", "r64", "r64-seed1"):
        record = json.loads((data / "language_model_adapters" / name / "training.json").read_text(encoding="utf-8"))
        settings, before, after = record["settings"], record["curve"][0], record["curve"][-1]
        assert settings["learning_rate"] == 5e-4
        assert (
            f"({settings['steps']} steps, learning rate 5·10⁻⁴; held-out accuracy {before['accuracy']:.2f} →" in readme
        )
        assert f"→ {after['accuracy']:.2f})" in readme, name


@pytest.mark.parametrize(
    "found", ["", "{", "[]", '{"settings": {"steps": 3}}', '{"settings": {"steps": 4}, "curve": []}']
)
def test_an_unfinished_or_other_training_is_none(tmp_path, found):
    settings = {"steps": 3, "threads": 1}
    assert adapters.curve(tmp_path / "nowhere", settings) is None
    (tmp_path / adapters.RECORD).write_text(found, encoding="utf-8")
    assert adapters.curve(tmp_path, settings) is None
    adapters.save_record(tmp_path, {"settings": settings | {"threads": 2}, "curve": [{"step": 3}]})
    assert adapters.curve(tmp_path, settings) is None  # a record without weights
    (tmp_path / "adapter_model.safetensors").touch()
    assert adapters.curve(tmp_path, settings) == [{"step": 3}]


def test_an_adapter_is_measured_as_it_is_stored(loaded):
    model = torch.nn.Linear(3, 2)
    weight = model.weight.detach().clone()
    with adapters.as_stored(model, torch.bfloat16):
        assert torch.equal(model.weight, weight.bfloat16().float())
        assert not torch.equal(model.weight, weight)
    assert torch.equal(model.weight, weight)


def test_the_learning_rate_rises_then_falls_and_training_lowers_the_loss(monkeypatch):
    """A stand-in for a model: one number that is to become 1."""

    class Asked:
        model = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(model.weight)

        def loss(self, texts, labels):
            seen.extend(texts)
            return (self.model.weight - 1).square().sum()

    seen, rates = [], []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1]
    )
    train = (list("abcdefgh"), np.array([0, 1] * 4))
    given = {"steps": 10, "batch_size": 4, "learning_rate": 0.1, "warm_up": 3}
    losses = [loss for _, loss in language_model.fine_tune(Asked(), train, seed=0, **given)]
    np.testing.assert_allclose(
        rates, 0.1 * np.array([1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
    )
    assert losses[-1] < losses[0]
    assert sorted(seen) == sorted("abcdefgh" * 5)
