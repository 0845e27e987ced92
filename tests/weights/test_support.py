"""The table in helpers/weights/README.md is what happens; and what is measured for it can be wrong."""

import difflib
import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from helpers import weights
from helpers.weights.architectures import ROWS
from tests.weights import cases, matrix, support
from tests.weights.attention import taken
from tests.weights.cases import Case, Partly, Wrong


@pytest.mark.parametrize("name", cases.ARCHITECTURES)
def test_what_is_read_is_right_or_refused(name):
    happened = support.row(name)
    assert not {column: why for column, (what, why) in happened.items() if what == "wrong"}
    assert happened["safetensors"] == happened["whole"] == (support.RIGHT, "")


def test_the_readme_says_what_happened():
    found, now = support.README.read_text(encoding="utf-8"), support.readme()
    if found != now:
        changes = difflib.unified_diff(found.splitlines(), now.splitlines(), "README.md", "what happens", "", "", 0, "")
        text = "\n".join(changes)
        pytest.fail(f"{text}\n`python -m tests.weights.support` writes {support.README} anew", pytrace=False)


# ------------------------------------------------------------------ the measure itself
@pytest.fixture
def case(tmp_path):
    return Case("llama", tmp_path)


def outcome(case, place, truth):
    return support.happened(case, lambda _: matrix.judge(case, place, truth))


@pytest.mark.parametrize("setting", ["r", "lora_alpha", "use_rslora"])
def test_another_scale_is_wrong_or_refused(case, setting):
    place, truth = case.lora
    assert outcome(case, place, truth) == (support.RIGHT, "")
    path = place / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config[setting] = True if setting == "use_rslora" else config[setting] + 1
    path.write_text(json.dumps(config), encoding="utf-8")
    what, why = outcome(case, place, truth)
    assert what == ("refused" if setting == "r" else "wrong") and why


def test_two_modules_that_change_places_are_wrong(case):
    place, truth = case.lora
    held, (one, two) = load_file(place / "adapter_model.safetensors"), ("layers.0.self_attn.q", "layers.1.self_attn.q")
    swapped = {key.replace(one, "…").replace(two, one).replace("…", two): tensor for key, tensor in held.items()}
    save_file(swapped, place / "adapter_model.safetensors")
    assert outcome(case, place, truth)[0] == "wrong"


@pytest.mark.parametrize(("lost", "kept"), [("layers.0.self_attn.q_proj", "some"), ("", "refused")])
def test_a_module_that_is_left_out_is_not_right(case, lost, kept):
    place, truth = case.lora
    held = load_file(place / "adapter_model.safetensors")
    save_file(
        {key: tensor for key, tensor in held.items() if lost not in key or "lora_B" in key},
        place / "adapter_model.safetensors",
    )
    what, why = outcome(case, place, truth)
    assert what == kept and "incomplete" in why and str(case.place) not in why


UNTRUE = [
    ("llama", "llama", {"reordered": {}}, ["GGUF", "llama.cpp"]),
    ("bloom", "bloom", {"reordered": {}}, ["GGUF", "llama.cpp"]),
    ("gpt2", "gpt2", {"transposed": []}, ["safetensors", "LoRA", "whole"]),
    ("bloom", "bloom", {"grouped": {}, "stacked": {"query_key_value": ["q", "k", "v"]}}, ["parts"]),
    ("bert", "bert", {"head": "lm_head"}, ["safetensors"]),
]


@pytest.mark.parametrize(("name", "kind", "row", "columns"), UNTRUE)
def test_a_row_of_architectures_that_is_not_true_is_found_out(tmp_path, monkeypatch, name, kind, row, columns):
    for column in columns:
        assert support.happened(Case(name, tmp_path / "before"), matrix.COLUMNS[column]) == (support.RIGHT, "")
    for key, value in row.items():
        monkeypatch.setitem(ROWS[kind], key, value)
    for column in columns:
        assert support.happened(Case(name, tmp_path / "after"), matrix.COLUMNS[column])[0] != support.RIGHT


@pytest.mark.parametrize(
    ("name", "setting"), [("bert", "TAKEN_OFF"), ("modernbert", "TAKEN_OFF"), ("llava", "NOT_CONVERTED")]
)
@pytest.mark.parametrize("column", ["GGUF", "llama.cpp"])
def test_a_module_that_gguf_has_no_name_for_is_wrong(tmp_path, monkeypatch, name, setting, column):
    assert support.happened(Case(name, tmp_path / "before"), matrix.COLUMNS[column]) == (support.RIGHT, "")
    monkeypatch.setattr(cases, setting, r"^no such")
    what, why = support.happened(Case(name, tmp_path / "after"), matrix.COLUMNS[column])
    assert what == "wrong" and "gguf has no names" in why


def test_a_module_that_is_paired_besides_is_wrong(case):
    place, truth = case.lora
    fewer = dict(list(truth.items())[1:])
    assert outcome(case, place, fewer)[0] == "wrong"


def test_compare_tells_right_from_wrong_at_the_fifth_digit():
    truth = {"x": np.array([[1.0, -4.0]])}
    matrix.compare(truth, lambda name: truth[name] + 3e-5)
    for off in (truth["x"] + 5e-5, truth["x"].T, truth["x"] * np.nan):
        with pytest.raises(Wrong, match="x is read as another"):
            matrix.compare(truth, lambda _, off=off: off)

    def refuse(name):
        if name == "y":
            raise weights.WeightsError("no")
        return truth["x"]

    with pytest.raises(Partly):
        matrix.compare({**truth, "y": truth["x"]}, refuse)
    with pytest.raises(weights.WeightsError):
        matrix.compare({"y": truth["x"]}, refuse)
    with pytest.raises(Wrong, match="nothing to compare"):
        matrix.compare({}, refuse)


def test_rows_that_attention_takes_are_those_of_a_fused_projection(tmp_path):
    """Of GPT-2 thirds of the rows, each of 4 heads; of GPT-NeoX thirds of each head's, by their own documentation."""
    for name, module, output in (
        ("gpt2", "transformer.h.1.attn.c_attn", "transformer.h.1.attn.c_proj"),
        ("gpt-neox", "gpt_neox.layers.1.attention.query_key_value", "gpt_neox.layers.1.attention.dense"),
    ):
        model = Case(name, tmp_path / name).model.double()
        projections = [*(f"{module}[{part}]" for part in "qkv"), output]
        parts = {text: cut for at, text, cut in taken(model, name, projections, 4, 4) if at == module}
        rows = np.arange(96).reshape(3, 4, 8) if name == "gpt2" else np.arange(96).reshape(4, 3, 8).swapaxes(0, 1)
        for part, text in enumerate("qkv"):
            np.testing.assert_array_equal(parts[f"[{text}]"](np.arange(96)), np.sort(rows[part].ravel()))
            for head in range(4):
                np.testing.assert_array_equal(parts[f"[{text}, head {head}]"](np.arange(96)), rows[part, head])


def test_sentences_of_one_kind_read_alike(tmp_path):
    one = support.spoken(
        f"{tmp_path}/a: x.0.q is not in m.gguf, 'x.y', 'y_z' and 3 more of 12 modules", tmp_path, ["x.0.q"]
    )
    two = support.spoken(f"{tmp_path}/b: x.1.k is not in a.gguf, 'x.z' of 4 modules", tmp_path, ["x.1.k"])
    assert one == two == "…: … is not in …, '…' of … modules"
    said = "it is of 'gpt2', of which llama.cpp's converter swaps A and B, and its loader doesn't"
    assert support.spoken(said, tmp_path) == said
