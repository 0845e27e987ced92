"""Notebook 01 at its defaults, held against numpy on the raw files: four bits a number, bfloat16, thirty layers."""

import re

import gguf
import nbformat
import numpy as np
import pytest
from safetensors.torch import load_file
from scipy import linalg
from statsmodels.stats.multitest import multipletests

from helpers.paths import ROOT
from helpers.press import escaped
from tests.notebooks import running
from tests.notebooks.running import claims, rows

NOTEBOOK = ROOT / "notebooks" / "01_subspace_similarity.ipynb"
LABELS = {"r = 4": "r4", "r = 8": "r8", "r = 64": "r64", "r = 64′": "r64-seed1"}
D, FIRST, J = 576, 21, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("default")


@pytest.fixture(scope="module")
def default(place):
    return running.execute(NOTEBOOK, place)


@pytest.fixture(scope="module")
def tensors():
    (file,) = (ROOT / "data/SmolLM2-135M-Instruct").glob("*.gguf")
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def weight(tensors, layer, part):
    """W from the file; its rows of each head lie [half, pair] in transformers and [pair, half] in llama.cpp."""
    tensor = tensors[f"blk.{layer}.attn_{part}.weight"]
    stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(float)
    return stored.reshape(-1, 32, 2, D).swapaxes(1, 2).reshape(-1, D) if part == "q" else stored


def leading_a(label, layer, part, file="adapter_model"):
    tensors = load_file(ROOT / "data/language_model_adapters" / LABELS[label] / f"{file}.safetensors")
    (a,) = [t for name, t in tensors.items() if f"layers.{layer}.self_attn.{part}_proj.lora_A" in name]
    return np.linalg.svd(a.double().numpy())[2][:J].T


def phi(weight, v, i=FIRST):
    return float((np.cos(linalg.subspace_angles(np.linalg.svd(weight)[2][:i].T, v)) ** 2).mean())


def test_the_module_pictured_trained_and_untrained(default, tensors):
    table = rows(default, "untrained")
    assert [row["adapter"] for row in table] == list(LABELS)
    for row in table:
        for column, file in (("trained", "adapter_model"), ("untrained", "untrained_A")):
            expected = phi(weight(tensors, 14, "q"), leading_a(row["adapter"], 14, "q", file))
            assert row[column] == pytest.approx(expected, abs=1e-6)
        assert row["chance"] == pytest.approx(FIRST / D)


def test_every_layer_of_thirty(default, tensors):
    table = {(row["projection"], row["layer"], row["adapter"]): row for row in rows(default, "layers")}
    assert len(table) == 2 * 30 * 4
    rng = np.random.default_rng(0)
    for n in rng.choice(len(table), 8, replace=False):
        (projection, layer, label), row = list(table.items())[n]
        part, own = projection[0], leading_a(label, layer, projection[0])
        assert row["phi"] == pytest.approx(phi(weight(tensors, layer, part), own), abs=1e-6)
    others = [phi(weight(tensors, other, "v"), leading_a("r = 8", 3, "v")) for other in range(30) if other != 3]
    assert table["v_proj", 3, "r = 8"]["elsewhere"] == pytest.approx(np.mean(others), abs=1e-6)


def test_what_was_drawn_for_four_bits_is_what_four_bits_may_do(default, place, tensors):
    """The shift that the notebook tells of is in the range of ours, from the steps of the blocks themselves."""
    told = float(re.search(r"φ moves by ([\d.]+) at most in the panels", running.shown(place / "out.ipynb"))[1])
    tensor = tensors["blk.14.attn_q.weight"]
    scale = tensor.data.reshape(-1, 20)[:, :2].copy().view(np.float16).astype(float)  # of 32 numbers, the step
    w = weight(tensors, 14, "q")
    steps = np.repeat(scale, 32, 1).reshape(D, D).reshape(-1, 32, 2, D).swapaxes(1, 2).reshape(D, D)
    moves, rng = [], np.random.default_rng(1)
    rows, columns = np.arange(FIRST, 59), np.arange(1, FIRST + 1)

    def panel(matrix, a):
        overlap = np.square(np.linalg.svd(matrix)[2][:58] @ np.linalg.svd(a)[2][:FIRST].T).cumsum(0).cumsum(1)
        return overlap[FIRST - 1 :] / np.minimum.outer(rows, columns)[:, : overlap.shape[1]]

    for _ in range(3):
        moved = w + steps * rng.uniform(-0.5, 0.5, w.shape)
        for label in LABELS:
            file = ROOT / "data/language_model_adapters" / LABELS[label] / "adapter_model.safetensors"
            a = next(t for name, t in load_file(file).items() if "layers.14.self_attn.q_proj.lora_A" in name)
            moves.append(np.abs(panel(moved, a.double().numpy()) - panel(w, a.double().numpy())).max())
    assert max(moves) / 2 < told < 2 * max(moves)  # other draws of the same


def test_the_answer_is_a_sentence_the_picture_and_three_findings(default, place):
    (cell,) = [each for each in nbformat.read(place / "out.ipynb", as_version=4).cells if "Report(" in each.source]
    sentence, picture, rest = (output.data for output in cell.outputs)
    beyond, before = (sum(p < 0.05 for p in each) for each in corrected(default))
    assert re.fullmatch(r"\*\*Does it follow W\? .*\.", sentence["text/markdown"])
    assert f"Of 240 single cases (layer × projection × adapter) {beyond} lie beyond" in sentence["text/markdown"]
    told = f"Of 240 cases whose start is known {before} lay beyond chance before training"
    assert told in running.shown(place / "out.ipynb")
    assert "image/png" in picture
    caption, *findings = re.split(r"\n+- ", rest["text/markdown"])
    variance = 2 * FIRST * J * (D - FIRST) * (D - J) / (D**2 * (D - 1) * (D + 2) * J**2)
    z = {row["adapter"]: (row["trained"] - FIRST / D) / variance**0.5 for row in rows(default, "untrained")}
    told = ", ".join(f"{value:.1f} ({name})" for name, value in z.items())
    assert caption.startswith("**The picture.** Heatmaps of φ")
    assert escaped(f"z is {told}") in caption
    assert len(findings) == 3


def corrected(result):
    """p of A in every layer, over all choices; and before training, when there is no other choice."""
    table = rows(result, "layers")
    return [row["p_holm"] for row in table], multipletests([row["untrained_p"] for row in table], method="holm")[1]


def test_the_claims(default):
    running.assert_the_claims_of_01(default)
    assert [name for name, claim in claims(default).items() if claim["holds"] is None] == []
    after, before = corrected(default)
    assert claims(default)["above_chance_everywhere"]["statistic"] == pytest.approx(max(after))
    assert claims(default)["untrained_is_chance"]["statistic"] == pytest.approx(min(before))


def test_the_summary_in_the_readme_is_true(default):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table, own = rows(default, "layers"), {row["projection"]: row for row in rows(default, "own")}
    beyond = sum(row["p_holm"] < 0.05 for row in table)
    query, value = (np.mean([row["phi"] for row in table if row["projection"] == kind]) / (FIRST / D) for kind in own)
    assert f"Of the queries φ is {query:.2f} times chance" in readme
    assert f"p = {own['q_proj']['p_holm']:.2f}); of the values {value:.2f} times" in readme
    assert f"{beyond} of {len(table)} lie beyond chance, corrected for all that were looked at" in readme
    kept = [row["A kept"] for row in rows(default, "untrained")]
    assert f"keeps {min(kept):.0%} to {max(kept):.0%} of".replace("%", " %") in readme


def test_what_the_readme_says_of_the_other_side(default, tmp_path, tensors):
    """Left directions of B A: counted in the notebook, and at one place computed here from the files."""
    result = running.execute(NOTEBOOK, tmp_path, running.FEW_ROTATIONS, factor="BA", side="left")
    table, readme = rows(result, "layers"), (ROOT / "README.md").read_text(encoding="utf-8")
    beyond = sum(row["p_holm"] < 0.05 for row in table)
    ratio = np.mean([row["phi"] for row in table]) / (FIRST / D)
    assert f"φ of the queries is {ratio:.2f} times chance, and {beyond} of {len(table)} lie beyond it" in readme
    assert rows(result, "choices") == rows(default, "choices")
    choices = {(row["choice"], row["projection"]): row for row in rows(default, "choices")}
    query, value = choices["A", "q_proj"], choices["BA left", "v_proj"]
    assert f"(of A's right directions {query['beyond']} of {query['cases']}; of the values" in readme
    assert f"in their {value['d']} dimensions, {value['beyond']} of {value['cases']})" in readme
    file = ROOT / "data/language_model_adapters/r8/adapter_model.safetensors"
    a, b = (
        next(
            t.double().numpy()
            for name, t in load_file(file).items()
            if f"layers.5.self_attn.q_proj.lora_{which}" in name
        )
        for which in "AB"
    )
    u, v = (np.linalg.svd(m)[0] for m in (weight(tensors, 5, "q"), b @ a))
    expected = (np.cos(linalg.subspace_angles(u[:, :FIRST], v[:, :J])) ** 2).mean()
    row = next(row for row in table if (row["layer"], row["adapter"]) == (5, "r = 8"))
    assert row["phi"] == pytest.approx(expected, abs=1e-6)


def test_the_committed_outputs_are_those_of_a_run_now(default, place):
    running.assert_same_outputs(NOTEBOOK, place / "out.ipynb")
