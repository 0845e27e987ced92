"""Notebook 06 under papermill in four situations, held against numpy on whole matrices and against PEFT's TIES."""

import numpy as np
import pandas as pd
import pytest
import torch
from peft.utils import merge_utils
from scipy import linalg

from helpers import weights
from helpers.paths import ROOT
from tests.notebooks import running
from tests.notebooks.running import claims, rows
from tests.weights import building

NOTEBOOK = ROOT / "notebooks" / "06_adapters_together.ipynb"
PLACE = ROOT / "data" / "language_model_adapters"
LABELS = ["r8", "r64", "r64-seed1", "r8-author"]
ALONE = {"beside_base": "", "beside_adapters": []}
CLAIMS = [
    "seeds_agree_more_than_tasks",
    "seeds_agree_everywhere",
    "what_is_written_is_shared",
    "none_against",
    "ties_keeps_more_than_average",
    "sums_keep_the_answers",
    "points_to_its_end_early",
    "keeps_its_a",
]


def execute(place, **given):
    result = running.execute(NOTEBOOK, place, **given)
    assert [claim["name"] for claim in result["claims"]] == CLAIMS
    undecided = [claim["found"] for claim in result["claims"] if claim["holds"] is None]
    assert not {"", "it cannot be computed here"} & set(undecided), undecided
    return result


def assert_compared(row, one, other):
    """The cosine, φ and angles of a row of pairs against whole matrices."""
    (u, s, v), (b, d, a) = (np.linalg.svd(matrix, full_matrices=False) for matrix in (one, other))
    j = row["j"]
    expected = {
        "cosine": np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other),
        "norm_one": np.linalg.norm(s),
        "norm_other": np.linalg.norm(d),
        "phi_left": (np.cos(linalg.subspace_angles(u[:, :j], b[:, :j])) ** 2).mean(),
        "phi_right": (np.cos(linalg.subspace_angles(v[:j].T, a[:j].T)) ** 2).mean(),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4), row["module"]


def assert_writes(row, one, other):
    """A row of interference, of what one writes into the other, against whole matrices."""
    u, s, v = np.linalg.svd(other, full_matrices=False)
    k = 1 + int((np.cumsum(s**2) < 0.9 * (s**2).sum()).sum())
    size = np.linalg.norm(one) ** 2
    inside = {
        "k": k,
        "output": np.linalg.norm(u[:, :k].T @ one) ** 2 / size,
        "input": np.linalg.norm(one @ v[:k].T) ** 2 / size,
        "both": np.linalg.norm(u[:, :k].T @ one @ v[:k].T) ** 2 / size,
    }
    assert {name: row[name] for name in inside} == pytest.approx(inside, rel=1e-4, abs=1e-9), row["module"]


def assert_kept(table, deltas, density):
    """Rows of kept of one module, {(method, adapter): row}, against merges that are made, TIES by PEFT."""
    stacked = [torch.from_numpy(delta) for delta in deltas.values()]
    ties = merge_utils.ties(stacked, torch.ones(len(deltas), dtype=torch.float64), density, "total").numpy()
    whole = sum(deltas.values())
    for method, merged in {"sum": whole, "average": whole / len(deltas), "ties": ties}.items():
        for name, delta in deltas.items():
            along = np.vdot(merged, delta) / np.linalg.norm(delta) ** 2
            off = np.linalg.norm(merged - along * delta) / np.linalg.norm(delta)
            row = table[method, name]
            assert [row["along"], row["off"]] == pytest.approx([along, off], rel=1e-6, abs=1e-9), (method, name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def default(place):
    return execute(place)


def deltas_of(module, names=LABELS):
    base = weights.open_base(ROOT / "data/SmolLM2-135M-Instruct")
    return {name: weights.open_update(PLACE / name, base).delta(module) for name in names}


@pytest.mark.parametrize("module", ["layers.0.self_attn.v_proj", "layers.14.self_attn.q_proj"])
def test_tables_are_what_whole_matrices_say(default, module):
    deltas, module = deltas_of(module), f"model.{module}"
    pairs = [row for row in rows(default, "pairs") if row["module"] == module]
    assert len(pairs) == 6
    for row in pairs:
        assert_compared(row, deltas[row["one"]], deltas[row["other"]])
    shares = [row for row in rows(default, "interference") if row["module"] == module]
    assert len(shares) == 12
    for row in shares:
        assert_writes(row, deltas[row["one"]], deltas[row["other"]])
    kept = {(row["method"], row["adapter"]): row for row in rows(default, "kept") if row["module"] == module}
    assert_kept(kept, deltas, 0.2)
    run = deltas_of(module, ["r8-step24", "r8-step80", "r8"])
    for row in (row for row in rows(default, "drift") if row["module"] == module):
        sizes = np.linalg.norm(run[row["checkpoint"]]), np.linalg.norm(run["r8"])
        assert row["cosine_end"] == pytest.approx(np.vdot(run[row["checkpoint"]], run["r8"]) / np.prod(sizes), rel=1e-6)


def test_the_answer_counts_the_tables_and_the_page_is_the_committed_one(default, place):
    pairs, by_pair = pd.DataFrame(rows(default, "pairs")), pd.DataFrame(rows(default, "by_pair"))
    assert len(pairs) == 6 * 60 and list(by_pair["modules"]) == [60] * 6
    for row in by_pair.itertuples():
        own = pairs[(pairs["one"] == row.one) & (pairs["other"] == row.other)]
        assert row.cosine == pytest.approx(
            (own["cosine"] * own["norm_one"] * own["norm_other"]).sum()
            / np.linalg.norm(own["norm_one"])
            / np.linalg.norm(own["norm_other"])
        )
        counted = own["verdict"].value_counts()
        told = [row.apart, row.agree, row.against, row.share_a_place]
        assert told == [counted.get(name, 0) for name in ("apart", "agree", "against", "share a place")]
    running.assert_same_outputs(NOTEBOOK, place / "out.ipynb")


def test_what_the_readme_says(default):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pairs = {(row["one"], row["other"]): row for row in rows(default, "by_pair")}
    tasks = [row for pair, row in pairs.items() if "r8-author" in pair]
    assert "have a cosine of {:.2f} over all sixty".format(pairs["r64", "r64-seed1"]["cosine"]) in text
    assert "of r = 8 and r = 64 {:.2f};".format(pairs["r8", "r64"]["cosine"]) in text
    assert "of two tasks {:.2f}.".format(max(row["cosine"] for row in tasks)) in text
    seeds, other = rows(default, "yardsticks")
    assert "they write (φ {phi_left:.2f} of the outputs, chance {phi_left_chance:.2f})".format(**seeds) in text
    assert "({:.2f}; from two starts {:.2f})".format(other["phi_right"], seeds["phi_right"]) in text
    sums = [row[f"sum_along_{end}"] for row in tasks for end in ("one", "other")]
    assert f"along itself ({min(sums):.2f} to {max(sums):.2f})" in text
    answers = pd.DataFrame(rows(default, "answers"))
    apart = answers[answers["other"] == "r8-author"].groupby("method")["lost"].max()
    assert f"by up to {apart['sum']:.3f} in accuracy, by TIES by up to {apart['ties']:.3f};" in text
    assert "lose {:.3f} at the most".format(answers.loc[answers["other"] != "r8-author", "lost"].max()) in text
    base = weights.open_base(ROOT / "data/SmolLM2-135M-Instruct")
    whole = []
    for name in ("r8-step24", "r8"):
        updates = weights.open_update(PLACE / name, base)
        whole.append(np.concatenate([updates.delta(each).ravel() for each in weights.match(base, updates).values()]))
    sizes = [np.linalg.norm(each) for each in whole]
    cosine = whole[0] @ whole[1] / np.prod(sizes)
    assert f"the end is {cosine:.2f}, at {sizes[0] / sizes[1]:.2f} of its length" in text
    kept = np.median([row["kept_a"] for row in rows(default, "drift") if row["checkpoint"] == "r8"])
    assert f"*A* keeps {100 * kept:.0f} % of the space" in text


def test_a_whole_fine_tune_among_the_adapters_of_an_encoder(tmp_path):
    given = {"base": "data/all-MiniLM-L6-v2", "adapters": [f"data/adapters/{name}" for name in ("r8", "full")]}
    result = execute(tmp_path, **given, **ALONE, modules="layer.[05].*.query")
    base = weights.open_base(ROOT / given["base"])
    for row in rows(result, "pairs"):
        deltas = [weights.open_update(ROOT / path, base).delta(row["module"]) for path in given["adapters"]]
        assert_compared(row, *deltas)
    assert [row["verdict"] for row in rows(result, "pairs")] == ["agree", "agree"]
    assert rows(result, "beside_by_pair") == rows(result, "by_pair")
    undecided = {name for name, claim in claims(result).items() if claim["holds"] is None}
    run = {"sums_keep_the_answers", "points_to_its_end_early", "keeps_its_a"}
    assert undecided == {"seeds_agree_more_than_tasks", "seeds_agree_everywhere", *run}
    assert "answers" not in result["tables"] and "drift" not in result["tables"]


def planted(place):
    """Synthetic: adapters of a Llama of which two agree, one undoes them, and one has nothing to do with them."""
    torch.manual_seed(8)
    model = building.llama(hidden_size=64, num_attention_heads=4, num_key_value_heads=4)
    model.save_pretrained(place / "base")
    rng = np.random.default_rng(8)
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        a, b = rng.standard_normal((4, 64)), rng.standard_normal((64, 4))
        noise = 0.1 * rng.standard_normal((2, 64, 4))
        factors = {
            "one": (a, b),
            "like": (a, b + noise[0]),
            "against": (a, -b + noise[1]),
            "apart": (rng.standard_normal((4, 64)), rng.standard_normal((64, 4))),
        }
        for label, (down, up) in factors.items():
            yield label, {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def test_what_is_planted_in_adapters_without_a_base_is_found(tmp_path):
    """With a table of one's own of what merges answer, and another density."""
    tensors = {}
    for label, found in planted(tmp_path):
        tensors.setdefault(label, {}).update(found)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]}
    for label, found in tensors.items():
        held = {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}
        building.write(tmp_path / label, held, config, "adapter_model.safetensors")
    table = {"one": ["like", "other"], "other": ["one", "one"], "method": "sum", "task": "mine"}
    pd.DataFrame({**table, "accuracy": 0.5, "alone": [0.75, 1.0]}).to_csv(tmp_path / "mine.csv", index=False)
    given = {"base": "", "adapters": [str(tmp_path / label) for label in tensors], "density": 0.5}
    result = execute(tmp_path / "out", **given, **ALONE, measured=str(tmp_path / "mine.csv"))
    verdicts = {(row["one"], row["other"]): row for row in rows(result, "by_pair")}
    assert {pair for pair, row in verdicts.items() if row["agree"] == 2} == {("one", "like")}
    assert {pair for pair, row in verdicts.items() if row["against"] == 2} == {("one", "against"), ("like", "against")}
    assert {pair for pair, row in verdicts.items() if row["apart"] == 2} == {
        (name, "apart") for name in ("one", "like", "against")
    }
    module = "model.layers.1.self_attn.q_proj"
    found = [row for row in rows(result, "kept") if row["module"].endswith(module)]
    name = f"base_model.model.{module}"
    deltas = {
        label: held[f"{name}.lora_B.weight"].astype(np.float32).astype(float)
        @ held[f"{name}.lora_A.weight"].astype(np.float32)
        for label, held in tensors.items()
    }
    assert_kept({(row["method"], row["adapter"]): row for row in found}, deltas, 0.5)
    assert [(row["one"], row["other"], row["lost"]) for row in rows(result, "answers")] == [("like", "one", 0.25)]
    assert claims(result)["none_against"]["holds"] is False


def test_heads_of_three_states_of_one_run(tmp_path):
    """Synthetic: a Llama's adapter, and two earlier states of it; heads of its queries."""
    torch.manual_seed(9)
    model = building.llama(hidden_size=48, num_attention_heads=4)
    model.save_pretrained(tmp_path / "base")
    adapted = building.adapt(model, tmp_path / "end", target_modules=["q_proj"], r=3)
    states = []
    for name, share in (("early", 0.3), ("late", 0.8)):
        with torch.no_grad():
            for key, value in adapted.named_parameters():
                if "lora_B" in key:
                    states.append((value, value.clone()))
                    value.mul_(share).add_(0.1 * (1 - share) * value.std() * torch.randn_like(value))
        adapted.save_pretrained(tmp_path / name)
        with torch.no_grad():
            for value, before in states:
                value.copy_(before)
    run = [str(tmp_path / name) for name in ("early", "late", "end")]
    given = {"base": str(tmp_path / "base"), "adapters": run[1:], "checkpoints": run}
    result = execute(tmp_path / "out", **given, **ALONE, modules="q_proj[head *]")
    found = rows(result, "drift")
    assert len({row["module"] for row in found}) == 8 and len(found) == 24
    base = weights.open_base(tmp_path / "base")
    end, early = (weights.open_update(tmp_path / name, base) for name in ("end", "early"))
    for row in (row for row in found if row["checkpoint"] == "early"):
        whole, _, head = row["module"].partition("[")
        part = slice(12 * int(head[5:-1]), 12 * int(head[5:-1]) + 12)
        one, other = (each.delta(weights.match(base, each)[whole])[part] for each in (early, end))
        expected = np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
        assert row["cosine_end"] == pytest.approx(expected, rel=1e-5)
    assert claims(result)["points_to_its_end_early"]["holds"] is True
