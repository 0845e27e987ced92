"""`phi-and-pixels inspect`: how each matrix would be read, or why not."""

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from helpers.press.run import Outcome
from tests.conftest import MODULE


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
