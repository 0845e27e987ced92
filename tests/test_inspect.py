"""`phi-and-pixels inspect`: how each matrix would be read, or why not."""

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from helpers.press.kernel import Outcome
from tests.conftest import MODULE
from tests.weights import building


def rows(shown):
    """The lines of a table by the name that each begins with."""
    return {line.split()[0]: " ".join(line.split()) for line in shown.splitlines() if line.strip()}


def test_a_model_an_adapter_and_what_is_left_out(call, make_base, make_adapter, rng):
    place = make_base({MODULE: rng.standard_normal((24, 24)), "conv": rng.standard_normal((4, 3, 3, 3))})
    adapter = make_adapter(config={"use_rslora": True}, prefix="base_model.model.bert.")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.classifier.weight": torch.ones(2, 2)}, adapter / "adapter_model.safetensors")
    status, shown, _ = call("inspect", place)
    assert status == Outcome.DONE
    assert rows(shown)[MODULE].endswith(f"as stored model.safetensors {MODULE}.weight (24, 24) F32")
    assert "left out" in rows(shown)["conv"]
    status, shown, _ = call("inspect", adapter, "--base", place)
    told = rows(shown)
    assert f"bert.{MODULE} {MODULE} scale · B A, r = 4, scale = 8/√4" in told[f"bert.{MODULE}"]
    assert "left out" in told["classifier.weight"]
    elsewhere = make_base({"decoder.layer.0.key": rng.standard_normal((24, 24))}, "elsewhere")
    status, shown, error = call("inspect", adapter, "--base", elsewhere)
    assert (status, shown) == (Outcome.UNREADABLE_FILE, "")
    assert "no module of adapter is one of elsewhere" in error
    status, alone, _ = call("inspect", adapter)
    assert "scale = 8/√4" in alone


def test_a_fine_tuned_model_beside_its_base(call, make_base, rng):
    weight = rng.standard_normal((24, 24))
    base, tuned = make_base({MODULE: weight}), make_base({MODULE: weight + 1}, "tuned")
    assert "W′ − W" in rows(call("inspect", tuned, "--base", base)[1])[MODULE]
    assert "as stored" in rows(call("inspect", tuned)[1])[MODULE]


def test_an_adapter_is_known_by_what_its_file_holds(call, tmp_path):
    """No base is given: kohya's flattened names stay, and mlx-lm's factor is told as it is."""
    pair = {
        "lora_unet_mid_attn1_to_q.lora_down.weight": torch.ones(2, 8),
        "lora_unet_mid_attn1_to_q.alpha": torch.ones(1),
    }
    pair["lora_unet_mid_attn1_to_q.lora_up.weight"] = torch.ones(8, 2)
    building.write(tmp_path, pair, file="style.safetensors")
    status, shown, _ = call("inspect", tmp_path / "style.safetensors")
    assert status == Outcome.DONE and "scale · B A, r = 2, scale = 1/2" in rows(shown)["lora_unet_mid_attn1_to_q"]
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 2, "scale": 20.0}}
    held = {"h.0.q_proj.lora_a": torch.ones(8, 2), "h.0.q_proj.lora_b": torch.ones(2, 8)}
    building.write(tmp_path / "mlx", held, config, "adapters.safetensors")
    status, shown, _ = call("inspect", tmp_path / "mlx")
    assert status == Outcome.DONE and "r = 2, scale = 20" in rows(shown)["h.0.q_proj"]


def test_one_module_that_cannot_be_read_leaves_the_others_told(call, tmp_path):
    """A GGUF that does not count its heads, and an adapter whose alpha is 0 for one module."""
    own = {f"blk.0.attn_{part}.weight": np.eye(8) for part in "qv"}
    building.gguf_model(tmp_path / "m.gguf", own, heads=0)
    shown = rows(call("inspect", tmp_path / "m.gguf")[1])
    assert "not read: " in shown[building.Q] and "as stored" in shown[building.Q.replace("q_proj", "v_proj")]
    names = building.Q, building.Q.replace("q_proj", "v_proj")
    building.adapter(tmp_path / "lora", *names, config={"alpha_pattern": {"q_proj": 0}})
    shown = rows(call("inspect", tmp_path / "lora")[1])
    assert "not read: " in shown[names[0]] and "scale · B A" in shown[names[1]]


def test_a_misfit_shows_before_a_run_and_an_adapter_is_no_base(call, tmp_path):
    building.llama(hidden_size=64).save_pretrained(tmp_path / "base")
    model = building.llama(hidden_size=32)
    model.save_pretrained(tmp_path / "other")
    building.adapt(model, tmp_path / "lora", target_modules=["q_proj"])
    for given, sizes in (("lora", "adds a 32 × 32 matrix"), ("other", "adds a 32 × 32 matrix")):
        shown = rows(call("inspect", tmp_path / given, "--base", tmp_path / "base")[1])
        assert "not read: " in shown[building.Q] and sizes in shown[building.Q] and "64 × 64" in shown[building.Q]
    status, shown, error = call("inspect", tmp_path / "base", "--base", tmp_path / "lora")
    assert (status, shown) == (Outcome.UNREADABLE_FILE, "") and "is an adapter, not a model" in error


def test_a_known_format_that_is_not_read_is_named_not_listed_as_a_model(call, tmp_path):
    building.write(tmp_path, {"h.0.adapter.linear_in.weight": torch.ones(2, 8)})
    status, shown, error = call("inspect", tmp_path)
    assert (status, shown) == (Outcome.UNREADABLE_FILE, "") and "NeMo" in error


def test_parts_and_heads_are_told(call, tmp_path):
    building.llama().save_pretrained(tmp_path)
    shown = rows(call("inspect", tmp_path)[1])
    assert shown[building.Q].endswith("[head 0 … 3]")
    assert shown[building.Q.replace("q_proj", "v_proj")].endswith("[head 0 … 1]")


def test_what_cannot_be_read_is_one_sentence(call, make_base, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    damaged = make_base({MODULE: np.eye(4)})
    (damaged / "model.safetensors").write_bytes(b"\x08")
    for place, said in (
        (empty, "holds no weights"),
        (tmp_path / "none", "does not exist"),
        (damaged, "not a readable"),
    ):
        status, shown, error = call("inspect", place)
        assert status == Outcome.UNREADABLE_FILE
        assert shown == ""
        assert error.startswith("error: ")
        assert said in error
