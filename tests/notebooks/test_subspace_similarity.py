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
# Half as many random directions beside intruders: p of four adapters can still be far below 0.05, corrected.
DIRECTIONS = 199
HALF = f"""\
from helpers.subspaces import contents
contents.DRAWS = {DIRECTIONS}
"""
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
    return execute(minilm_place, before=HALF)


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
    given = {"adapters": ["data/adapters/r8", "data/adapters/r64"], "last_j": 64}
    result = execute(tmp_path, before=running.FEW_DIRECTIONS, **given)
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
    readme, table = (ROOT / "README.md").read_text(encoding="utf-8"), rows(minilm, "layers")
    beyond = sum(row["p_holm"] < 0.05 for row in table)
    by_product = sum(row["beyond"] for row in rows(minilm, "choices") if row["choice"] == "BA right")
    assert f"{beyond} of {len(table)} lie beyond chance on the reading side (by ΔW {by_product})" in readme


def test_what_the_readme_says_of_gentle_and_of_whole_training(tmp_path):
    """The control of another training on the same task: an adapter with a small learning rate, and W′ − W."""
    given = {"adapters": ["data/adapters/r8-lr0.0003", "data/adapters/full"], "factor": "BA"}
    result = execute(tmp_path, before=running.FEW_DIRECTIONS, **given)
    table = rows(result, "layers")
    beyond = sum(row["p_holm"] < 0.05 for row in table)
    assert f"compared by ΔW, {beyond} of {len(table)} do" in (ROOT / "README.md").read_text(encoding="utf-8")
    row = next(row for row in table if (row["projection"], row["layer"], row["adapter"]) == ("query", 2, "r = 8"))
    module = "encoder.layer.2.attention.self.query"
    delta = factor("r8-lr0.0003", "B", module) @ factor("r8-lr0.0003", "A", module)
    assert row["phi"] == pytest.approx(mean_cos2(right(weight(module), 14), right(delta, 4)), abs=1e-6)


def test_p_values_of_the_layers_are_shares_of_random_pairs(minilm):
    """p from 40,000 random pairs by QR."""
    bases = np.linalg.qr(np.random.default_rng(6).standard_normal((40000, 384, 4)))[0]
    drawn = np.sort((bases[:, :14] ** 2).sum((1, 2)) / 4)
    for row in rows(minilm, "layers"):
        share = 1 - np.searchsorted(drawn, row["phi"]) / len(drawn)
        assert row["p"] == pytest.approx(share, abs=4 * math.sqrt(max(share, 1e-4) / len(drawn)))


def test_p_is_corrected_over_every_choice_of_factor_and_side(minilm):
    """φ of A and of both sides of B A in every layer, by numpy; p by a Beta law of chance's mean and variance."""
    phi = {}
    for kind, n in itertools.product(("query", "value"), range(6)):
        module = f"encoder.layer.{n}.attention.self.{kind}"
        across, left = right(weight(module), 14), right(weight(module).T, 14)
        for name, adapter in LABELS.items():
            a, b = (factor(adapter, letter, module) for letter in "AB")
            of_product = np.linalg.svd(b @ a)
            found = {
                "A": (across, right(a, 4)),
                "BA right": (across, of_product[2][:4].T),
                "BA left": (left, of_product[0][:, :4]),
            }
            phi |= {(choice, kind, n, name): mean_cos2(*pair) for choice, pair in found.items()}
    mean, variance = 14 / 384, 2 * 14 * 4 * (384 - 14) * (384 - 4) / (384**2 * 383 * 386 * 16)
    size = mean * (1 - mean) / variance - 1
    p = stats.beta.sf(list(phi.values()), mean * size, (1 - mean) * size)
    corrected = dict(zip(sorted(p), holm_by_hand(p), strict=True))
    p_holm = {place: corrected[value] for place, value in zip(phi, p, strict=True)}
    for row in rows(minilm, "layers"):
        own = p_holm["A", row["projection"], row["layer"], row["adapter"]]
        assert row["p_holm"] == pytest.approx(own, rel=1e-3, abs=1e-9)
    table = rows(minilm, "choices")
    assert {(row["choice"], row["projection"]) for row in table} == {place[:2] for place in phi}
    for row in table:
        here = [place for place in phi if place[:2] == (row["choice"], row["projection"])]
        assert row["ratio"] == pytest.approx(np.mean([phi[place] for place in here]) / mean, abs=1e-4)
        assert (row["beyond"], row["cases"]) == (sum(p_holm[place] < 0.05 for place in here), 24)


@pytest.fixture(scope="module")
def crossed():
    """φ of the adapters of every layer with the W of every layer, and the same of W turned by 400 random rotations.

    [kind, layer, layer of W, adapter], and a first axis of the rotations.
    """
    modules = [[f"encoder.layer.{n}.attention.self.{kind}" for n in range(6)] for kind in ("query", "value")]
    tops = np.array([[right(weight(name), 14) for name in of] for of in modules])
    a = np.array([[[right(factor(label, "A", name), 4) for label in LABELS.values()] for name in of] for of in modules])
    held, drawn, rng = np.linalg.qr(np.hstack(tops.reshape(12, 384, 14))), [], np.random.default_rng(9)
    for _ in range(400):
        frame = np.linalg.qr(rng.standard_normal(held[0].shape))[0]
        turned = (frame @ held[1]).reshape(384, 2, 6, 14)
        drawn.append(np.square(np.einsum("dkwi,kladj->klwaij", turned, a, optimize=True)).sum((4, 5)) / 4)
    observed = [
        [[[mean_cos2(top, v) for v in adapters] for top in of_w] for adapters in of_a]
        for of_w, of_a in zip(tops, a, strict=True)
    ]
    return np.array(observed), np.array(drawn)


def assert_share(p, drawn, observed):
    """A p-value of 199 draws is the share of ours that reach what was observed."""
    share = np.mean(drawn >= observed)
    spread = math.sqrt(max(share * (1 - share), 0.005) * (1 / 199 + 1 / len(drawn)))
    assert p == pytest.approx(share, abs=4 * spread + 1 / 200)


def test_its_own_weight_is_held_against_permuted_layers_and_rotations(minilm, crossed):
    """All 720 ways to give the adapters the W of other layers, and our rotations; the larger p, corrected."""
    observed, drawn = crossed
    table, diagonal = rows(minilm, "own"), np.eye(6, dtype=bool)
    for n, row in enumerate(table):
        phi = observed[n].mean(2)
        sums = np.array([phi[range(6), order].sum() for order in itertools.permutations(range(6))])
        assert row["permutation"] == pytest.approx(np.mean(sums >= sums[0] - 1e-12))
        own, elsewhere = (observed[n][which].mean() for which in (diagonal, ~diagonal))
        assert (row["own"], row["elsewhere"]) == pytest.approx((own, elsewhere), abs=1e-6)
        leads = drawn[:, n][:, diagonal].mean((1, 2)) - drawn[:, n][:, ~diagonal].mean((1, 2))
        assert_share(row["rotation"], leads, own - elsewhere)
    assert [row["projection"] for row in table] == ["query", "value"]
    claim = claims(minilm)["its_own_weight"]
    larger = [max(row["permutation"], row["rotation"]) for row in table]
    assert claim["statistic"] == pytest.approx(max(holm_by_hand(larger)))
    assert claim["holds"] is (claim["statistic"] < 0.05)


def test_the_average_over_the_layers_is_held_against_rotations(minilm, minilm_place, crossed):
    observed, drawn = (phi[..., range(6), range(6), :].mean((-1, -2)) for phi in crossed)
    shares = [np.mean(drawn[:, n] >= phi) for n, phi in enumerate(observed)]
    claim = claims(minilm)["above_chance_on_average"]
    assert claim["statistic"] == pytest.approx(max(holm_by_hand(np.maximum(shares, 1 / 200))), abs=0.03)
    assert claim["holds"] is (claim["statistic"] < 0.05)
    ratios = ", ".join(
        f"{phi / (14 / 384):.2f} ({kind})" for phi, kind in zip(observed, ("query", "value"), strict=True)
    )
    assert f"Over the layers φ of A, right directions, is {ratios} times chance on average" in running.shown(
        minilm_place / "out.ipynb"
    )


def test_growth_with_rank_is_held_against_random_pairs_and_rotations(minilm, crossed):
    observed, drawn = (phi[..., range(6), range(6), :] for phi in crossed)

    def leads(phi):
        return phi[..., 2:].mean(-1) - phi[..., 0]

    found = claims(minilm)
    whole = leads(drawn).mean((1, 2))
    assert_share(found["grows_with_rank_over_layers"]["statistic"], whole, leads(observed).mean())
    pairs = np.linalg.qr(np.random.default_rng(7).standard_normal((4000, 384, 4)))[0][:, :14]
    alone = leads((pairs**2).sum((1, 2)).reshape(-1, 4) / 4)
    assert_share(found["grows_with_rank"]["statistic"], alone, leads(observed)[0, 5])
    assert all(claim["threshold"] == 0.05 for name, claim in found.items() if name.startswith("grows"))


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


def test_what_an_update_is_made_of_is_said_by_whole_decompositions(minilm):
    w, used = weight(), {row["adapter"]: row for row in rows(minilm, "rank_use")}
    new = {row["adapter"]: row for row in rows(minilm, "intruders")}
    for name, adapter in LABELS.items():
        delta = 16 / used[name]["r"] * factor(adapter, "B") @ factor(adapter, "A")
        shares = np.linalg.svd(delta, compute_uv=False) ** 2 / np.linalg.norm(delta) ** 2
        assert used[name]["k90"] == 1 + (shares.cumsum() < 0.9).sum()
        assert used[name]["stable_rank"] == pytest.approx(1 / shares[0])
        cosines = np.abs(np.linalg.svd(w + delta)[0][:, :10].T @ np.linalg.svd(w)[0]).max(1)
        assert new[name]["count"] == (cosines < 0.5).sum()
        assert new[name]["T"] == pytest.approx((1 - cosines**2).sum(), rel=1e-6)


def test_intruders_are_held_against_random_directions_of_the_same_strength(minilm):
    """Draws of whole matrices, by numpy alone: their mean count, and how often they leave W as far."""
    row = rows(minilm, "intruders")[1]
    values = np.linalg.svd(weight(), compute_uv=False)
    strengths = np.linalg.svd(2 * factor("r8", "B") @ factor("r8", "A"), compute_uv=False)[:8]
    rng, counts, totals = np.random.default_rng(11), [], []
    for _ in range(60):
        p, q = (np.linalg.qr(rng.standard_normal((384, 8)))[0] for _ in range(2))
        cosines = np.abs(np.linalg.svd(np.diag(values) + p * strengths @ q.T)[0][:, :10]).max(0)
        counts.append((cosines < 0.5).sum())
        totals.append((1 - cosines**2).sum())
    several = 1 / 60 + 1 / DIRECTIONS
    assert row["drawn"] == pytest.approx(np.mean(counts), abs=4 * np.std(counts) * np.sqrt(several))
    share = np.mean(np.array(totals) >= row["T"])
    assert abs(row["p"] - share) <= 4 * np.sqrt(max(share * (1 - share), 1 / 60) * several)
    p = [row["p"] for row in rows(minilm, "intruders")]
    assert sorted(row["p_holm"] for row in rows(minilm, "intruders")) == pytest.approx(holm_by_hand(p))


def test_claims_are_decided_by_their_numbers(minilm):
    found = {name: (claim["statistic"], claim["threshold"], claim["holds"]) for name, claim in claims(minilm).items()}
    higher = {
        "ranks_share_first", "runs_share_first", "query_shares_more", "holds_more_than_random", "amplifies",
        "comes_from_training", "untrained_is_chance", "has_intruders",
    }  # fmt: skip
    for name, (statistic, threshold, holds) in found.items():
        assert holds is (statistic > threshold if name in higher else statistic < threshold), name
    assert {holds for *_, holds in found.values()} == {True, False}


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
    table = rows(minilm, "rises")
    p, corrected = ([row[f"{form}{side}"] for side in ("above", "below") for row in table] for form in ("p ", ""))
    by_hand = dict(zip(sorted(p), holm_by_hand(p), strict=True))
    assert corrected == pytest.approx([by_hand[each] for each in p])
    assert found["grows_more_than_chance"]["statistic"] == max(row["above"] for row in table)
    share = np.mean(at >= min(phi[14] for phi in trained.values()))
    assert found["above_chance"]["statistic"] == pytest.approx(share, abs=4 * np.sqrt(0.25 / 4000))
    spread = at.std()
    before = {
        name: mean_cos2(right(weight(), 14), right(factor(a, "A", file="untrained_A"), 4)) for name, a in LABELS.items()
    }
    gains = [(trained[name][14] - before[name]) / (spread * np.sqrt(2)) for name in LABELS]
    assert found["comes_from_training"]["statistic"] == pytest.approx(min(gains), abs=0.1)


def test_the_same_parameters_give_the_same_numbers_and_each_matrix_is_decomposed_once(minilm, tmp_path):
    seen = tmp_path / "decomposed"
    again = execute(tmp_path, before=HALF + running.COUNTING.format(file=str(seen)), warm=False)
    assert again["claims"] == minilm["claims"]
    assert again["tables"] == minilm["tables"]
    matrices = seen.read_text(encoding="utf-8").split()
    # W, and A before and after and B A of four adapters, in six layers, query and value; a random A; two A in bfloat16,
    # three times as they may have been
    assert len(set(matrices)) == 12 * (1 + 3 * 4) + 1 + 2 * 3
    # W and the first A are decomposed where the way to φ is shown, and W once more with all its directions
    assert len(matrices) == len(set(matrices)) + 3


def test_other_parameters(tmp_path):
    """Left directions of BA, another module, other bounds, one adapter."""
    module = "encoder.layer.2.attention.self.value"
    given = {"module": module, "adapters": ["data/adapters/r8"], "factor": "BA", "side": "left"}
    result = execute(tmp_path, before=running.FEW_DIRECTIONS, **given, first_i=3, last_i=60, last_j=5)
    bounds = {row["region"]: row for row in rows(result, "regions") if row["panel"] == "r = 8"}
    assert [row["i"] for row in bounds.values()] == [3, 31, 60]
    left_w = np.linalg.svd(weight(module))[0]
    left_ba = np.linalg.svd(factor("r8", "B", module) @ factor("r8", "A", module))[0]
    expected = np.mean([mean_cos2(left_w[:, :60], left_ba[:, :j]) for j in range(1, 6)])
    assert bounds["bottom"]["phi"] == pytest.approx(expected, abs=1e-6)
    running.assert_the_claims_of_01(result)
    assert claims(result)["runs_agree"]["found"] == "there is one adapter"
    assert "agreement" not in result["tables"]
    # the same by sliders: from the module and adapters above to these
    study = subspaces.Similarity(parameters.SubspaceSimilarity(**running.MINILM, last_j=5))
    live = explorers.subspace_similarity(study).live()
    moves = {"layer": 2, "projection": "value", "factor": "BA", "side": "left", ("first_i", "last_i"): (3, 60)}
    for name, value in (moves | {"adapters": ("data/adapters/r8",)}).items():
        live.controls[name].value = value
    pixels, alt = running.picture(tmp_path / "out.ipynb")
    np.testing.assert_array_equal(running.pixels(live.image.value), pixels)
    assert alt.removeprefix("Heatmaps of φ between W and the adapters. ") in html.unescape(live.line.value)
    top = mean_cos2(left_w[:, :3], left_ba[:, :3])
    assert f"At i = 3, j = 3: φ = {top:.4f} (r = 8)" in alt
