"""Notebook 05 under papermill, held against numpy on whole matrices: by default, on an encoder, on heads and parts."""

import numpy as np
import pytest
import torch
import transformers as tr
from scipy import linalg

from helpers import parameters, subspaces, weights
from helpers.paths import ROOT
from tests.notebooks import running
from tests.notebooks.running import claims, rows
from tests.weights import building

NOTEBOOK = ROOT / "notebooks" / "05_model_atlas.ipynb"
SMOLLM2 = {"base": "data/SmolLM2-135M-Instruct", "at": "data/language_model_adapters/"}
LABELS = ["r4", "r8", "r64", "r64-seed1"]
ALONE = {"beside_base": "", "beside_adapters": []}
CLAIMS = [
    "half_the_rank_suffices",
    "uses_less_than_random",
    "energy_in_above_chance",
    "energy_out_above_chance",
    "has_intruders",
    "intruders_beyond_chance",
    "full_has_no_intruders",
    "beside_intruders_beyond_chance",
]


FEW_DRAWS = "from helpers.subspaces import model_atlas\nmodel_atlas.DRAWS = 19\n"  # where no test rests on them


def execute(place, before="", **given):
    result = running.execute(NOTEBOOK, place, before, **given)
    assert [claim["name"] for claim in result["claims"]] == CLAIMS
    undecided = [claim["found"] for claim in result["claims"] if claim["holds"] is None]
    assert not {"", "it cannot be computed here"} & set(undecided), undecided
    return result


def assert_measured(row, weight, delta, i_in, i_out):
    """The measures of a row against whole decompositions of W, ΔW and W + ΔW."""
    (u, s, v), (b, d, a) = (np.linalg.svd(np.asarray(m, float), full_matrices=False) for m in (weight, delta))
    share = d**2 / (d**2).sum()
    expected = {
        "ratio": np.linalg.norm(delta) / np.linalg.norm(weight),
        "ratio_spectral": d[0] / s[0],
        "k90": 1 + (share.cumsum() < 0.9).sum(),
        "stable_rank": 1 / share[0],
        "effective_rank": np.exp(-(share[share > 1e-20] * np.log(share[share > 1e-20])).sum()),
        "energy_in": np.linalg.norm(delta @ v[:i_in].T) ** 2 / (d**2).sum(),
        "energy_out": np.linalg.norm(u[:, :i_out].T @ delta) ** 2 / (d**2).sum(),
        "phi_ba_right": (np.cos(linalg.subspace_angles(v[:i_in].T, a[: min(4, i_in)].T)) ** 2).mean(),
        "phi_ba_left": (np.cos(linalg.subspace_angles(u[:, :i_out], b[:, : min(4, i_out)])) ** 2).mean(),
        "intruders": (np.abs(np.linalg.svd(weight + delta)[0][:, :10].T @ u).max(1) < 0.5).sum(),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=2e-4), row["module"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("default")


@pytest.fixture(scope="module")
def default(place):
    return execute(place)


@pytest.mark.parametrize(
    "module", ["layers.0.self_attn.q_proj", "layers.14.self_attn.q_proj", "layers.21.self_attn.v_proj"]
)
def test_rows_are_what_whole_decompositions_say(default, module):
    base = weights.open_base(ROOT / SMOLLM2["base"])
    weight = base.weight(module).astype(float)
    found = [row for row in rows(default, "atlas") if row["module"] == f"model.{module}"]
    assert [row["adapter"] for row in found] == LABELS
    for row in found:
        delta = weights.open_update(ROOT / SMOLLM2["at"] / row["adapter"], base).delta(module)
        assert_measured(row, weight, delta, 21, 21 if "q_proj" in module else 7)


def test_a_row_is_what_notebook_01_says_of_its_module(default):
    (module,) = {row["module"] for row in rows(default, "tested")}
    assert module == max(rows(default, "atlas"), key=lambda row: row["ratio"])["module"]
    given = {"adapters": [SMOLLM2["at"] + name for name in LABELS], "module": module}
    found = [row for row in rows(default, "atlas") if row["module"] == module]
    for choice, settings in {"a": ("A", "right"), "ba_right": ("BA", "right"), "ba_left": ("BA", "left")}.items():
        p = parameters.SubspaceSimilarity(**given, **dict(zip(("factor", "side"), settings, strict=True)))
        study = subspaces.Similarity(p)
        for name in ("phi", "z", "p"):
            ours = [row[f"{name}_{choice}"] for row in found]
            assert ours == pytest.approx(study.reading[name].tolist(), rel=1e-8), (choice, name)
    for name in ("factor", "factor_by_chance"):
        assert [row[name] for row in found] == pytest.approx(study.amplified[name].tolist(), rel=1e-8)
    tested = {row["adapter"]: row for row in rows(default, "tested")}
    own = study.contents.intruders
    assert [tested[name]["p"] for name in LABELS] == own["p"].tolist()


def test_all_modules_have_a_row_and_what_is_said_of_them_counts_it(default, place):
    table = rows(default, "atlas")
    assert len(table) == 30 * 2 * len(LABELS)
    assert [row for row in table if row["why"]] == []
    for claim in rows(default, "holds"):
        assert 0 <= claim["many"] <= claim["n"] == 30
    counted = {(row["claim"], row["projection"], row["adapter"]): row["many"] for row in rows(default, "holds")}
    for name in LABELS:
        own = [row for row in table if row["adapter"] == name and row["projection"] == "q_proj"]
        beyond = sum(row["p_holm_ba_left"] < 0.05 for row in own)
        assert counted["φ above chance (BA, left; p < 0.05, Holm)", "q_proj", name] == beyond
    running.assert_same_outputs(NOTEBOOK, place / "out.ipynb")


def test_its_second_model_shows_that_intruders_follow_the_singular_values(default):
    """Counts by two whole decompositions of every module."""
    base = weights.open_base(ROOT / "data/all-MiniLM-L6-v2")
    table, counts = {row["adapter"]: row for row in rows(default, "beside_intruders")}, {}
    for name in ("r8", "r64", "full"):
        updates = weights.open_update(ROOT / "data/adapters" / name, base)
        counts[name] = 0
        for module in weights.match(base, updates):
            before, delta = base.weight(module).astype(float), updates.delta(module)
            whole, own = (np.linalg.svd(matrix)[0] for matrix in (before + delta, before))
            counts[name] += (np.abs(whole[:, :10].T @ own).max(1) < 0.5).sum()
    assert {name: table[name]["intruders"] for name in counts} == counts
    assert counts["r8"] > 12 and counts["full"] == 0
    for row in table.values():
        assert row["expected"] == pytest.approx(row["intruders"], abs=2)


def test_what_the_readme_says(default):
    text, table = (ROOT / "README.md").read_text(encoding="utf-8"), rows(default, "atlas")
    beyond = {side: [row for row in table if row[f"energy_{side}_p_holm"] < 0.05] for side in ("in", "out")}
    counts = f"{len(beyond['out'])} of {len(table)} write into its leading directions"
    assert counts in text and f"{len(beyond['in'])} read from them" in text
    places = [{row["module"] for row in beyond["out"] if row["adapter"] == name} for name in LABELS]
    assert len(set.union(*places)) == 4 and all(each == places[0] for each in places)
    ours = {row["adapter"]: row for row in rows(default, "rank_use")}
    assert {1, 2} >= {ours[name]["k90"] // 1 for name in LABELS}
    random = {row["projection"]: row["random_k90"] for row in table if row["adapter"] == "r64"}
    assert f"need {random['v_proj']:.0f} (values) to {random['q_proj']:.0f} (queries)" in text
    full = [row for row in rows(default, "beside_atlas") if row["adapter"] == "full"]
    k90, chance = np.median([[row["k90"], row["random_k90"]] for row in full], axis=0)
    assert f"spreads over {k90:.0f} of 384, a random matrix over {chance:.0f}" in text
    made = {row["adapter"]: row for row in rows(default, "beside_intruders")}
    assert "have {} (r = 8) and {} (r = 64) of 120".format(*(made[name]["intruders"] for name in ("r8", "r64"))) in text
    expected = (made[name]["expected"] for name in ("r8", "r64"))
    assert "with the same singular values {:.0f} and {:.0f};".format(*expected) in text
    assert made["full"]["intruders"] == made["full"]["expected"] == 0
    tested = {row["adapter"]: row["family_p_holm"] for row in rows(default, "beside_tested")}
    assert {name for name, p in tested.items() if p <= 0.015} == {"r8", "full"} and tested["full"] == 0.015


def test_a_whole_fine_tune_beside_adapters_and_a_pattern_of_modules(tmp_path):
    given = {"base": "data/all-MiniLM-L6-v2", "adapters": ["data/adapters/full", "data/adapters/r8"]}
    given |= ALONE | {"modules": "layer.[03].*.query", "factor": "A", "side": "right"}
    result = execute(tmp_path, FEW_DRAWS, **given)
    base = weights.open_base(ROOT / given["base"])
    table = rows(result, "atlas")
    assert {row["module"] for row in table} == {f"encoder.layer.{n}.attention.self.query" for n in (0, 3)}
    for row in table:
        delta = weights.open_update(ROOT / "data/adapters" / row["adapter"], base).delta(row["module"])
        assert_measured(row, base.weight(row["module"]).astype(float), delta, 14, 14)
        assert np.isnan(row["phi_a"] or np.nan) == (row["adapter"] == "full")
    undecided = {name for name, claim in claims(result).items() if claim["holds"] is None}
    assert undecided == set()
    assert claims(result)["full_has_no_intruders"]["found"] == "0 (full)"
    assert claims(result)["has_intruders"]["found"].endswith(" (r8)")


def fused(place):
    """Synthetic: a GPT-2, whose queries, keys and values are one block; the rows of its query heads."""
    model = tr.GPT2LMHeadModel(tr.GPT2Config(n_embd=48, n_head=4, n_layer=2, vocab_size=16, n_positions=8))
    model.save_pretrained(place / "base")
    whole = building.merged(model, building.adapt(model, place / "lora", target_modules=["c_attn"], r=4))
    heads = {f"[q, head {n}]": slice(12 * n, 12 * n + 12) for n in range(4)}
    return "c_attn[q, head *]", "transformer.h.{}.attn.c_attn", heads, whole


def grouped(place):
    """Synthetic: a Llama in which two queries share a key; the rows of its key heads."""
    model = building.llama(hidden_size=48, num_attention_heads=4, num_key_value_heads=2)
    model.save_pretrained(place / "base")
    whole = building.merged(model, building.adapt(model, place / "lora", target_modules=["k_proj"], r=4))
    heads = {f"[head {n}]": slice(12 * n, 12 * n + 12) for n in range(2)}
    return "k_proj[head *]", "model.layers.{}.self_attn.k_proj", heads, whole


@pytest.mark.parametrize("make", [fused, grouped])
def test_heads_of_fused_and_grouped_projections(tmp_path, make):
    torch.manual_seed(5)
    pattern, name, heads, whole = make(tmp_path)
    given = {"base": str(tmp_path / "base"), "adapters": [str(tmp_path / "lora")], "modules": pattern}
    table = {row["module"]: row for row in rows(execute(tmp_path / "out", FEW_DRAWS, **given, **ALONE), "atlas")}
    assert table.keys() == {name.format(layer) + head for layer in range(2) for head in heads}
    for module, row in table.items():
        stem = module.partition("[")[0]
        weight, delta = (np.asarray(m)[heads[module.removeprefix(stem)]].astype(float) for m in whole[stem])
        assert_measured(row, weight, delta, 2, 1)


def test_what_cannot_be_measured_is_a_row_with_its_reason_while_the_rest_goes_on(tmp_path):
    """Synthetic: of a Llama one W is NaN, another zero, a third has rank 2, and one adapter lacks a layer."""
    torch.manual_seed(6)
    model = building.llama(hidden_size=48)
    attention = [layer.self_attn for layer in model.model.layers]
    building.adapt(model, tmp_path / "all", target_modules=["q_proj", "v_proj"], r=4)
    building.adapt(model, tmp_path / "some", target_modules=["q_proj"], layers_to_transform=[1], r=2)
    with torch.no_grad():
        attention[0].q_proj.weight[0, 0] = torch.nan
        attention[0].v_proj.weight.zero_()
        attention[1].v_proj.weight[:] = torch.randn(len(attention[1].v_proj.weight), 2) @ torch.randn(2, 48)
    model.save_pretrained(tmp_path / "base")
    adapters = [str(tmp_path / name) for name in ("all", "some")]
    given = {"base": str(tmp_path / "base"), "adapters": adapters, "i": 3, **ALONE}
    result = execute(tmp_path / "out", FEW_DRAWS, **given)
    why = {(row["projection"], row["layer"], row["adapter"]): row["why"] for row in rows(result, "atlas")}
    assert len(why) == 8
    assert why["q_proj", 1, "all"] == why["q_proj", 1, "some"] == ""
    for place, words in {
        ("q_proj", 0, "all"): "NaN",
        ("v_proj", 0, "all"): "zero",
        ("v_proj", 1, "all"): "fewer than i = 3",
        ("v_proj", 1, "some"): "some has no such module",
    }.items():
        assert words in why[place]
    assert {row["adapter"] for row in rows(result, "left_out")} == {"all", "some"}
