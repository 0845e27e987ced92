"""Notebook 01 under papermill, held against numbers computed here another way."""

import html
import itertools
import math

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy import linalg, stats

from helpers import parameters, subspaces
from helpers.paths import ROOT
from helpers.show import explorers
from tests.notebooks import running
from tests.notebooks.running import claims, rows

NOTEBOOK = ROOT / "notebooks" / "01_subspace_similarity.ipynb"
MODULE = running.MINILM["module"]
LABELS = {"r = 4": "r4", "r = 8": "r8", "r = 64": "r64", "r = 64′": "r64-seed1"}


def execute(place, **given):
    return running.execute(NOTEBOOK, place, **(running.MINILM | given))


def weight(module=MODULE):
    return load_file(ROOT / "data/all-MiniLM-L6-v2/model.safetensors")[f"{module}.weight"].double().numpy()


def factor(adapter, letter, module=MODULE, file="adapter_model"):
    tensors = load_file(ROOT / "data/adapters" / adapter / f"{file}.safetensors")
    return tensors[f"base_model.model.{module}.lora_{letter}.weight"].double().numpy()


def mean_cos2(u, v):
    """φ from scipy's principal angles: an implementation that shares nothing with ours."""
    return float((np.cos(linalg.subspace_angles(u, v)) ** 2).mean())


def right(matrix, k):
    return np.linalg.svd(matrix)[2][:k].T


def holm_by_hand(p):
    """Corrected p-values in rising order."""
    return np.minimum(np.maximum.accumulate([value * (len(p) - n) for n, value in enumerate(sorted(p))]), 1)


@pytest.fixture(scope="module")
def minilm_place(tmp_path_factory):
    return tmp_path_factory.mktemp("minilm")


@pytest.fixture(scope="module")
def minilm(minilm_place):
    return execute(minilm_place)


def test_numbers_are_scipys(minilm):
    assert minilm["complete"] is True
    at = rows(minilm, "untrained")
    assert [row["adapter"] for row in at] == list(LABELS)
    for row in at:
        adapter, top = LABELS[row["adapter"]], right(weight(), 14)
        assert row["trained"] == pytest.approx(mean_cos2(top, right(factor(adapter, "A"), 4)), abs=1e-6)
        untrained = factor(adapter, "A", file="untrained_A")
        assert row["untrained"] == pytest.approx(mean_cos2(top, right(untrained, 4)), abs=1e-6)
        assert row["chance"] == pytest.approx(14 / 384)


def test_regions_are_means_over_the_columns_beside_their_chance(minilm):
    table = rows(minilm, "regions")
    assert {(row["region"], row["i"]) for row in table} == {("top", 14), ("middle", 26), ("bottom", 38)}
    assert [row["panel"] for row in table[:5]] == [*LABELS, "random"]
    for row in table:
        if row["panel"] in ("r = 4", "r = 8"):
            rank = int(row["panel"][4:])
            cells = [
                mean_cos2(right(weight(), row["i"]), right(factor(f"r{rank}", "A"), j)) for j in range(1, rank + 1)
            ]
            assert row["phi"] == pytest.approx(np.mean(cells), abs=1e-6)
        assert row["chance"] == pytest.approx(row["i"] / 384)
    random = [row for row in table if row["panel"] == "random"]
    assert all(abs(row["phi"] - row["chance"]) < 0.02 for row in random)


def test_columns_beyond_the_rows_have_a_higher_chance(tmp_path):
    result = execute(tmp_path, adapters=["data/adapters/r8", "data/adapters/r64"], last_j=64)
    table = {(row["panel"], row["i"]): row["chance"] for row in rows(result, "regions")}
    assert table["r = 8", 26] == pytest.approx(26 / 384)
    assert table["r = 64", 26] == pytest.approx(np.mean([max(26, j) / 384 for j in range(1, 65)]))


def test_every_layer_is_surveyed(minilm):
    table = rows(minilm, "layers")
    assert len(table) == 2 * 6 * 4
    row = next(row for row in table if (row["projection"], row["layer"], row["adapter"]) == ("value", 0, "r = 64′"))
    module = "encoder.layer.0.attention.self.value"
    expected = mean_cos2(right(weight(module), 14), right(factor("r64-seed1", "A", module), 4))
    assert row["phi"] == pytest.approx(expected, abs=1e-6)
    d, i, j = 384, 14, 4
    spread = math.sqrt(2 * i * j * (d - i) * (d - j) / (d * d * (d - 1) * (d + 2) * j * j))
    assert row["z"] == pytest.approx((expected - i / d) / spread, abs=1e-3)
    others = [
        mean_cos2(
            right(weight(f"encoder.layer.{n}.attention.self.value"), 14), right(factor("r64-seed1", "A", module), 4)
        )
        for n in range(1, 6)
    ]
    assert row["elsewhere"] == pytest.approx(np.mean(others), abs=1e-6)
    found = claims(minilm)["above_chance_everywhere"]
    assert found["statistic"] == pytest.approx(max(row["p_holm"] for row in table))
    assert found["holds"] is (found["statistic"] < 0.05)


def test_what_the_readme_says_of_the_encoder(minilm):
    table = rows(minilm, "layers")
    beyond = sum(row["p_holm"] < 0.05 for row in table)
    assert f"{beyond} of {len(table)} lie beyond chance on the reading side" in (ROOT / "README.md").read_text()
    assert claims(minilm)["its_own_weight"]["holds"] is True
    assert claims(minilm)["untrained_is_chance"]["holds"] is True


def test_what_the_readme_says_of_gentle_and_of_whole_training(tmp_path):
    """The control of another training on the same task: an adapter with a small learning rate, and W′ − W."""
    result = execute(tmp_path, adapters=["data/adapters/r8-lr0.0003", "data/adapters/full"], factor="BA")
    table = rows(result, "layers")
    beyond = sum(row["p_holm"] < 0.05 for row in table)
    assert f"compared by ΔW, {beyond} of {len(table)} do" in (ROOT / "README.md").read_text()
    row = next(row for row in table if (row["projection"], row["layer"], row["adapter"]) == ("query", 2, "r = 8"))
    module = "encoder.layer.2.attention.self.query"
    delta = factor("r8-lr0.0003", "B", module) @ factor("r8-lr0.0003", "A", module)
    assert row["phi"] == pytest.approx(mean_cos2(right(weight(module), 14), right(delta, 4)), abs=1e-6)


def test_p_values_of_the_layers_are_shares_of_random_pairs(minilm):
    """p from 40,000 random pairs by QR; Holm's correction by hand."""
    bases = np.linalg.qr(np.random.default_rng(6).standard_normal((40000, 384, 4)))[0]
    drawn = np.sort((bases[:, :14] ** 2).sum((1, 2)) / 4)
    table = rows(minilm, "layers")
    for row in table:
        share = 1 - np.searchsorted(drawn, row["phi"]) / len(drawn)
        assert row["p"] == pytest.approx(share, abs=4 * math.sqrt(max(share, 1e-4) / len(drawn)))
    np.testing.assert_allclose(sorted(row["p_holm"] for row in table), holm_by_hand([row["p"] for row in table]))


def test_permuting_layers_by_hand(minilm):
    """The adapters' own layers against all 720 ways to give them the W of other layers."""
    found = []
    for kind in ("query", "value"):
        modules = [f"encoder.layer.{n}.attention.self.{kind}" for n in range(6)]
        tops = [right(weight(name), 14) for name in modules]
        phi = np.zeros((6, 6))
        for label in LABELS.values():
            v = [right(factor(label, "A", name), 4) for name in modules]
            phi += [[mean_cos2(top, each) for top in tops] for each in v]
        sums = [phi[range(6), order].sum() for order in itertools.permutations(range(6))]
        found.append(np.mean(np.array(sums) >= sums[0] - 1e-12))
    claim = claims(minilm)["its_own_weight"]
    assert claim["statistic"] == pytest.approx(max(2 * min(found), max(found)))
    assert claim["holds"] is (claim["statistic"] < 0.05)


def test_adapters_against_each_other(minilm):
    table = {(row["pair"], row["projection"], row["k"]): row for row in rows(minilm, "agreement")}
    module = "encoder.layer.5.attention.self.value"
    for pair, (one, other) in {"r = 8 and r = 64": ("r8", "r64"), "r = 64 and r = 64′": ("r64", "r64-seed1")}.items():
        row = table[pair, "value", 4]
        assert row["phi"] == pytest.approx(
            mean_cos2(right(factor(one, "A", module), 4), right(factor(other, "A", module), 4)), abs=1e-6
        )
        assert row["chance"] == pytest.approx(4 / 384)
    assert ("r = 64 and r = 64′", "query", 64) in table
    assert ("r = 8 and r = 64", "query", 16) not in table


def test_the_lead_of_queries_is_counted_in_spreads_of_random_pairs(minilm):
    """Bases by QR, against coordinate axes."""
    sizes, phi = (1, 4, 16, 64), {}
    for kind in ("query", "value"):
        module = f"encoder.layer.5.attention.self.{kind}"
        one, other = (right(factor(adapter, "A", module), 64) for adapter in ("r64", "r64-seed1"))
        phi[kind] = np.mean([mean_cos2(one[:, :k], other[:, :k]) for k in sizes])
    bases = np.linalg.qr(np.random.default_rng(8).standard_normal((1500, 384, 64)))[0]
    drawn = np.mean([np.square(bases[:, :k, :k]).sum((1, 2)) / k for k in sizes], axis=0)
    claim = claims(minilm)["query_shares_more"]
    assert claim["statistic"] == pytest.approx((phi["query"] - phi["value"]) / drawn.std() / math.sqrt(2), rel=0.15)
    assert claim["threshold"] == pytest.approx(stats.norm.isf(0.05), abs=1e-3)
    assert claim["holds"] is (claim["statistic"] > claim["threshold"])


def test_amplification_is_table_7(minilm):
    table = rows(minilm, "amplification")
    assert [row["rank"] for row in table[:2]] == [4, 8]
    assert max(row["rank"] for row in table[2:4]) < 64  # of wide ones fewer directions stand above bfloat16's rounding
    for row in table[:4]:
        adapter, rank = LABELS[row["adapter"]], row["rank"]
        a = factor(adapter, "A")
        delta = 16 / len(a) * factor(adapter, "B") @ a
        left, _, across = np.linalg.svd(delta)
        inner = np.linalg.norm(left[:, :rank].T @ weight() @ across[:rank].T)
        assert row["delta_norm"] == pytest.approx(np.linalg.norm(delta))
        assert row["by_delta"] == pytest.approx(inner)
        assert row["by_chance"] == pytest.approx(rank * np.linalg.norm(weight()) / 384)
        assert row["factor"] == pytest.approx(np.linalg.norm(delta) / inner)
        assert row["factor_by_chance"] == pytest.approx(np.linalg.norm(delta) * 384 / (rank * np.linalg.norm(weight())))
    assert [row["adapter"] for row in table[4:]] == ["GPT-3, r = 4", "GPT-3, r = 64"]


def test_the_three_statements_are_decided_by_their_numbers(minilm):
    found = claims(minilm)
    assert {"grows_with_i", "grows_more_than_chance", "grows_with_rank", "above_chance"} <= found.keys()
    for name in ("grows_with_i", "comes_from_training"):
        assert found[name]["holds"] is (found[name]["statistic"] > found[name]["threshold"])
    for name in ("grows_more_than_chance", "above_chance"):
        assert found[name]["holds"] is (found[name]["statistic"] < found[name]["threshold"])
    rises = [
        mean_cos2(right(weight(), 38), right(factor(adapter, "A"), 4))
        - mean_cos2(right(weight(), 14), right(factor(adapter, "A"), 4))
        for adapter in LABELS.values()
    ]
    assert found["grows_with_i"]["statistic"] == pytest.approx(min(rises), abs=1e-6)


def test_the_statistics_of_the_claims_are_right(minilm):
    """Standard deviations and p from draws of random subspaces, not from the formulas that the notebook uses."""
    rng, found = np.random.default_rng(5), claims(minilm)
    bases = np.linalg.qr(rng.standard_normal((4000, 384, 4)))[0]
    at, above = ((bases[:, :i] ** 2).sum((1, 2)) / 4 for i in (14, 38))
    trained = {
        name: {i: mean_cos2(right(weight(), i), right(factor(a, "A"), 4)) for i in (14, 38)}
        for name, a in LABELS.items()
    }
    for row in rows(minilm, "rises"):
        rise = trained[row["adapter"]][38] - trained[row["adapter"]][14]
        assert row["rise"] == pytest.approx(rise, abs=1e-6)
        assert row["chance"] == pytest.approx(24 / 384)
        share = np.mean(above - at >= rise)
        assert row["p above"] == pytest.approx(share, abs=4 * np.sqrt(max(share * (1 - share), 1e-4) / 4000))
        assert row["p below"] == pytest.approx(1 - row["p above"])
    above, below = ([row[side] for row in rows(minilm, "rises")] for side in ("p above", "p below"))
    corrected = dict(zip(sorted(above + below), holm_by_hand(above + below), strict=True))
    assert found["grows_more_than_chance"]["statistic"] == pytest.approx(max(corrected[p] for p in above))
    share = np.mean(at >= min(phi[14] for phi in trained.values()))
    assert found["above_chance"]["statistic"] == pytest.approx(share, abs=4 * np.sqrt(0.25 / 4000))
    spread = at.std()
    step = (trained["r = 64"][14] + trained["r = 64′"][14]) / 2 - trained["r = 4"][14]
    assert found["grows_with_rank"]["statistic"] == pytest.approx(step / (spread * np.sqrt(1 + 1 / 2)), abs=0.1)
    difference = np.array([
        np.mean([row["phi"] for row in rows(minilm, "layers") if place == (row["projection"], row["layer"])
                 and row["adapter"].startswith("r = 64")])
        - next(row["phi"] for row in rows(minilm, "layers") if place == (row["projection"], row["layer"])
               and row["adapter"] == "r = 4")
        for place in itertools.product(("query", "value"), range(6))
    ])  # fmt: skip
    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(12))
    assert found["grows_with_rank_over_layers"]["statistic"] == pytest.approx(stats.t.sf(t, 11), rel=1e-3)
    before = {
        name: mean_cos2(right(weight(), 14), right(factor(a, "A", file="untrained_A"), 4)) for name, a in LABELS.items()
    }
    gains = [(trained[name][14] - before[name]) / (spread * np.sqrt(2)) for name in LABELS]
    assert found["comes_from_training"]["statistic"] == pytest.approx(min(gains), abs=0.1)


def test_the_same_parameters_give_the_same_numbers_and_no_matrix_is_decomposed_twice(minilm, tmp_path):
    seen = tmp_path / "decomposed"
    again = execute(tmp_path, before=running.COUNTING.format(file=str(seen)))
    assert again["claims"] == minilm["claims"]
    assert again["tables"] == minilm["tables"]
    matrices = seen.read_text().split()
    # W, and A before and after of four adapters, in six layers, query and value; B A in one module; a random A
    assert len(matrices) == 12 * (1 + 2 * 4) + 4 + 1
    assert len(set(matrices)) == len(matrices)


def test_other_parameters(tmp_path):
    """Left directions of BA, another module, other bounds, one adapter."""
    module = "encoder.layer.2.attention.self.value"
    result = execute(
        tmp_path, module=module, adapters=["data/adapters/r8"], factor="BA", side="left", first_i=3, last_i=60, last_j=5
    )
    bounds = {row["region"]: row for row in rows(result, "regions") if row["panel"] == "r = 8"}
    assert [row["i"] for row in bounds.values()] == [3, 31, 60]
    left_w = np.linalg.svd(weight(module))[0]
    left_ba = np.linalg.svd(factor("r8", "B", module) @ factor("r8", "A", module))[0]
    expected = np.mean([mean_cos2(left_w[:, :60], left_ba[:, :j]) for j in range(1, 6)])
    assert bounds["bottom"]["phi"] == pytest.approx(expected, abs=1e-6)
    assert "grows_with_rank" not in claims(result)
    assert "agreement" not in result["tables"]
    # the same by sliders: from the module and adapters above to these
    p = parameters.SubspaceSimilarity(**running.MINILM, last_j=5)
    live = explorers.subspace_similarity(p, subspaces.Similarity(p)).live()
    moves = {"layer": 2, "projection": "value", "factor": "BA", "side": "left", ("first_i", "last_i"): (3, 60)}
    for name, value in (moves | {"adapters": ("data/adapters/r8",)}).items():
        live.controls[name].value = value
    pixels, alt = running.picture(tmp_path / "out.ipynb")
    np.testing.assert_array_equal(running.pixels(live.image.value), pixels)
    assert alt.removeprefix("Heatmaps of φ between W and the adapters. ") in html.unescape(live.line.value)
    top = mean_cos2(left_w[:, :3], left_ba[:, :3])
    assert f"At i = 3, j = 3: φ = {top:.4f} (r = 8)" in alt


def test_without_a_base_adapters_are_compared_with_each_other(tmp_path):
    result = execute(tmp_path, base="", adapters=["data/adapters/r64", "data/adapters/r64-seed1"])
    assert {row["pair"] for row in rows(result, "agreement")} == {"r = 64 and r = 64′"}
    assert result["tables"].keys() == {"inputs", "agreement"}
