"""The atlas of a model against notebook 01's study, planted truths and simulation, on small synthetic files."""

import os
import threading

import distributed
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from helpers import parameters, subspaces
from helpers.parameters import BadParameter
from helpers.subspaces import haar, measured, model_atlas, nulls, spectra
from helpers.subspaces.atlas import COLUMNS, labels
from helpers.weights import NoSuchModule, WeightsError, open_base
from helpers.weights.modules import expand
from tests.weights import building

D, OUT = 32, {"q": 32, "v": 24}
NEOX = "gpt_neox.layers.{}.attention.query_key_value"


def name(layer, kind="q"):
    return f"layers.{layer}.{kind}_proj"


def write_base(place, weights, config=None):
    return building.write(
        place, {f"{module}.weight": torch.tensor(weight) for module, weight in weights.items()}, config
    )


def write_lora(place, factors, scale=2.0):
    """A PEFT adapter of {module: (B, A)}, with a rank_pattern."""
    tensors = {
        f"base_model.model.{module}.lora_{letter}.weight": torch.tensor(np.ascontiguousarray(matrix)).float()
        for module, pair in factors.items()
        for letter, matrix in zip("BA", pair, strict=True)
    }
    ranks = {module.replace(".", r"\."): len(a) for module, (_, a) in factors.items()}
    config = {"r": 4, "rank_pattern": ranks, "alpha_pattern": {key: scale * r for key, r in ranks.items()}}
    return building.write(place, tensors, config, "adapter_model.safetensors")


def random_factors(rng, weights, rank):
    return {
        module: (rng.standard_normal((len(w), rank)) / 9, rng.standard_normal((rank, w.shape[1])))
        for module, w in weights.items()
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Six layers of query and value with two LoRA, one of them of several ranks, and a whole fine-tune."""
    rng, place = np.random.default_rng(7), tmp_path_factory.mktemp("model")
    weights = {name(n, k): rng.standard_normal((OUT[k], D)).astype(np.float32) for n in range(6) for k in "qv"}
    patterned = random_factors(rng, weights, 4)
    patterned |= random_factors(rng, {name(1): weights[name(1)]}, 2) | random_factors(
        rng, {name(2): weights[name(2)]}, 8
    )
    write_base(place / "base", weights)
    write_lora(place / "patterned", patterned)
    write_lora(place / "r6", random_factors(rng, weights, 6))
    tuned = {module: w + 0.1 * rng.standard_normal(w.shape).astype(np.float32) for module, w in weights.items()}
    write_base(place / "full", tuned)
    return place


@pytest.fixture(scope="module")
def rows(model):
    return subspaces.atlas(model / "base", [model / each for each in ("patterned", "r6", "full")], i=5)


def study(place, module, adapters, factor, side, i):
    asked = {"base": str(place / "base"), "adapters": [str(place / each) for each in adapters], "module": module}
    asked |= {"factor": factor, "side": side, "first_i": i}
    return subspaces.Similarity(parameters.SubspaceSimilarity.parse(asked))


def held_against(rows, place, module, adapters, i):
    """φ and amplification of the rows of a module, against notebook 01's readings."""
    here = rows[rows["module"] == module].set_index("adapter").loc[adapters]
    lora = [each for each in adapters if each != "full"]
    for choice, factor, side in (("a", "A", "right"), ("ba_right", "BA", "right"), ("ba_left", "BA", "left")):
        mine = lora if factor == "A" else adapters
        found = study(place, module, mine, factor, side, i)
        expected = found.reading.assign(i=found.i, j=found.j, chance=found.chance).set_axis(mine)
        for column in ("i", "j", "phi", "chance", "ratio", "z", "p"):
            np.testing.assert_allclose(here.loc[mine, f"{column}_{choice}"], expected[column], rtol=1e-9, atol=1e-9)
        if choice == "ba_right" and not isinstance(found.amplified, subspaces.study.Nothing):
            table = found.amplified.set_axis([adapters[found.labels.get_loc(label)] for label in found.amplified.index])
            table = table.assign(holds=table["by_delta"] / table["by_chance"])
            for column in ("holds", "factor", "factor_by_chance"):
                np.testing.assert_allclose(here.loc[table.index, column], table[column], rtol=1e-9)


@pytest.mark.parametrize("i", [0, 5])
def test_a_row_is_what_notebook_01_reads_of_its_module(model, rows, i):
    adapters = ["patterned", "r6", "full"]
    table = rows if i else subspaces.atlas(model / "base", [model / each for each in adapters], "layers.[12].*")
    for module in (name(1), name(2), name(1, "v")):
        held_against(table, model, module, adapters, i)
    assert list(rows.columns) == COLUMNS
    assert rows["why"].eq("").all() and len(rows) == 36


def test_norms_and_corrections_are_those_of_the_matrices_and_of_all_rows(model, rows):
    base = open_base(model / "base")
    for row in rows.itertuples():
        values = np.linalg.svd(base.weight(row.module), compute_uv=False)
        np.testing.assert_allclose([row.weight_norm, row.weight_spectral], [np.linalg.norm(values), values[0]], 1e-5)
        assert row.ratio == row.norm / row.weight_norm and row.ratio_spectral == row.spectral / row.weight_spectral
    for names, holm in (
        (["energy_in_p", "energy_out_p"], ["energy_in_p_holm", "energy_out_p_holm"]),
        (["p_a", "p_ba_right", "p_ba_left"], ["p_holm_a", "p_holm_ba_right", "p_holm_ba_left"]),
        (["rank_p"], ["rank_p_holm"]),
    ):
        together = nulls.holm(np.concatenate([rows[each] for each in names]))
        np.testing.assert_array_equal(np.concatenate([rows[each] for each in holm]), together)
    assert rows.loc[rows["adapter"] == "patterned", "rank"].tolist() == [4, 4, 2, 4, 8, 4, 4, 4, 4, 4, 4, 4]
    assert rows.loc[rows["adapter"] == "full", ["phi_a", "i_a", "p_a"]].isna().all().all()


def test_parts_and_heads_are_rows_of_their_own(tmp_path, rng):
    weights = {NEOX.format(n): rng.standard_normal((3 * 64, 64)).astype(np.float32) for n in range(2)}
    base = write_base(tmp_path / "base", weights, {"model_type": "gpt_neox", "num_attention_heads": 4})
    adapter = write_lora(tmp_path / "lora", random_factors(rng, weights, 4))
    held = open_base(base)
    parts = {
        "[*]": ["[q]", "[k]", "[v]"],
        "[q, head *]": [f"[q, head {n}]" for n in range(4)],
        "[q,head 03]": ["[q, head 3]"],
    }
    for asked, texts in parts.items():
        expected = [NEOX.format(n) + text for n in range(2) for text in texts]
        assert expand("query_key_value" + asked, held, sorted(weights)) == expected
    assert len(expand("[head *]", held, sorted(weights))) == 2 * 3 * 4
    for asked, module in (("[*]", "[v]"), ("layers.1.*[q, head *]", "[q, head 2]")):
        table = subspaces.atlas(base, [adapter], asked, i=3)
        held_against(table, tmp_path, NEOX.format(1) + module, ["lora"], 3)
        assert f"query_key_value{module}" in set(table["projection"])
    for asked, words in (("[z]", "has no part"), ("query_key_valu[q]", "did you mean"), ("[head ?, *]", "has no part")):
        with pytest.raises(NoSuchModule, match=words):
            expand(asked, held, sorted(weights))


def test_what_is_planted_comes_back_through_files(tmp_path, rng):
    """ΔW of three equal directions and a faint one: written into W's leading outputs, half inside W's inputs."""
    weight = rng.standard_normal((40, 48))
    u, _, v = np.linalg.svd(weight)
    base = write_base(tmp_path / "base", {name(0): weight})
    left, right = u[:, :4], (v[:4] + v[20:24]) / np.sqrt(2)
    adapter = write_lora(tmp_path / "lora", {name(0): (left * [1, 1, 1, 1e-2], right)}, 0.5)
    row = subspaces.atlas(base, [adapter], i=8).iloc[0]
    assert (row["k90"], row["rank"], row["out"], row["in"]) == (3, 4, 40, 48)
    assert row["energy_out"] == pytest.approx(1, abs=1e-5) and row["energy_in"] == pytest.approx(0.5, abs=1e-5)
    assert row["phi_ba_left"] == pytest.approx(1, abs=1e-5) and row["phi_a"] == pytest.approx(0.5, abs=1e-5)
    assert row["norm"] == pytest.approx(0.5 * np.sqrt(3.0001)) and row["spectral"] == pytest.approx(0.5)
    assert row["effective_rank"] == pytest.approx(3, abs=0.01) and row["stable_rank"] == pytest.approx(3, abs=0.01)
    assert row["energy_out_p_holm"] < row["energy_in_p_holm"] < 1e-4


def test_numbers_do_not_depend_on_threads_workers_or_order(model, rows, monkeypatch):
    adapters = [model / each for each in ("patterned", "r6", "full")]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    pd.testing.assert_frame_equal(subspaces.atlas(model / "base", adapters, i=5), rows, check_exact=True)
    seen = []
    kinds = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "protocol": "tcp", "memory_limit": 0}
    own = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**kinds, **own) as cluster:
        asked = {"i": 5, "scheduler": cluster.scheduler_address, "progress": lambda *told: seen.append(told)}
        elsewhere = subspaces.atlas(model / "base", adapters, **asked)
    pd.testing.assert_frame_equal(elsewhere, rows, check_exact=True)
    assert seen == [(done, 12) for done in range(1, 13)]

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subspaces.atlas(model / "base", adapters, progress=interrupt)
    with pytest.raises(BadParameter, match="no Dask scheduler answers at 'nowhere://x'"):
        subspaces.atlas(model / "base", adapters, scheduler="nowhere://x")
    assert "IO loop" not in {thread.name for thread in threading.enumerate()}


def test_a_bad_module_is_a_row_with_its_reason_and_the_rest_goes_on(tmp_path, rng):
    kinds = ("good", "zero", "thin", "odd", "lone", "untrained", "broken", "misfit", "same", "alien", "small")
    weights = {kind: rng.standard_normal((D, D)).astype(np.float32) for kind in kinds}
    weights["zero"][:] = 0
    weights["thin"] = weights["thin"][:, :3] @ weights["thin"][:3]
    weights["odd"][3, 4] = np.nan
    weights["small"] = weights["small"][:6]
    factors = random_factors(rng, {kind: weights[kind] for kind in kinds if kind != "lone"}, 4)
    factors["untrained"][0][:] = 0
    factors["broken"][0][0] = np.inf
    factors["misfit"] = rng.standard_normal((D + 1, 4)), rng.standard_normal((4, D))
    tuned = {kind: w + 0.1 * rng.standard_normal(w.shape).astype(np.float32) for kind, w in weights.items()}
    tuned["same"], tuned["alien"] = weights["same"], rng.standard_normal((D, D)).astype(np.float32)
    base = write_base(tmp_path / "base", {f"layers.0.{kind}": w for kind, w in weights.items()})
    lora = write_lora(tmp_path / "lora", {f"layers.0.{kind}": pair for kind, pair in factors.items()})
    full = write_base(tmp_path / "full", {f"layers.0.{kind}": w for kind, w in tuned.items()})
    table = subspaces.atlas(base, [lora, full], i=5, j=5).set_index(["projection", "adapter"])
    plain = ["norm", "ratio", "k90", "energy_in", "holds", "intruders", "phi_ba_right"]

    def row(kind, adapter="full"):
        return table.loc[(kind, adapter)]

    assert row("good")["why"] == "" and row("good")[plain].notna().all()
    few = "A right: it has 4 directions, fewer than j = 5; BA right: it has 4 directions, fewer than j = 5"
    assert row("good", "lora")["why"].startswith(few) and row("good", "lora")[plain[:-1]].notna().all()
    assert "is zero, so W has no directions" in row("zero")["why"] and row("zero")[["norm", "k90"]].notna().all()
    assert row("zero")["weight_norm"] == 0 and row("zero")[["ratio", "energy_in", "phi_ba_left"]].isna().all()
    assert row("thin")["why"] == "W has 3 directions above rounding, fewer than i = 5"
    assert row("thin")[["ratio", "holds", "intruders"]].notna().all() and row("thin")[plain[-1:]].isna().all()
    assert "NaN or Inf" in row("odd")["why"] and row("odd")[["weight_norm", "ratio"]].isna().all()
    assert "NaN or Inf" in row("odd", "lora")["why"] and row("odd", "lora")[["norm", "k90"]].notna().all()
    assert row("lone", "lora")["why"] == "lora has no such module" and np.isnan(row("lone", "lora")["norm"])
    assert "NaN or Inf" in row("broken", "lora")["why"] and row("broken", "lora")["weight_norm"] > 0
    assert "33 × 32" in row("misfit", "lora")["why"] and row("misfit")["why"] == ""
    assert "is what it is in base" in row("same")["why"] and row("same")["norm"] == 0
    assert "nothing in common" in row("alien")["why"] and np.isnan(row("alien")["norm"])
    assert row("small", "full")["why"] == "" and 0 <= row("small", "full")["intruders"] <= 6
    assert row("small", "full")["energy_out"] > 0
    again = subspaces.atlas(base, [lora], "untrained").iloc[0]
    assert "B of layers.0.untrained is zero" in again["why"]
    assert again["phi_a"] > 0 and np.isnan(again["phi_ba_right"]) and again["norm"] == 0


def test_of_a_large_weight_the_leading_directions_are_found_and_no_intruders(tmp_path, rng, monkeypatch):
    weights = {name(0): rng.standard_normal((300, 280)).astype(np.float32)}
    base = write_base(tmp_path / "base", weights)
    adapter = write_lora(tmp_path / "lora", random_factors(rng, weights, 4))
    whole = subspaces.atlas(base, [adapter]).iloc[0]
    monkeypatch.setattr(measured, "WHOLE_UP_TO", 256)
    part = subspaces.atlas(base, [adapter]).iloc[0]
    assert part["why"] == "intruders are not sought in a W whose smaller side is above 256"
    lost = ["why", "intruders", "intruders_expected"]
    assert part[lost[1:]].isna().all() and whole["why"] == ""
    assert part.drop(lost).equals(whole.drop(lost))


def test_what_cannot_be_an_atlas_is_refused_before_anything_is_computed(model, tmp_path, rng):
    base, r6 = model / "base", model / "r6"
    other = write_lora(tmp_path / "other", random_factors(rng, {"blocks.0.mlp.w": np.zeros((D, D))}, 2))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in r6.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    for error, match, adapters, more in (
        (WeightsError, "no module of other is one of base", [other], {}),
        (
            NoSuchModule,
            "'q_prj' is not in what is changed of base, .*; did you mean 'layers.0.q_proj'",
            [r6],
            {"modules": "q_prj"},
        ),
        (BadParameter, "i is -1", [r6], {"i": -1}),
        (BadParameter, "j is -2", [r6], {"j": -2}),
        (BadParameter, "one of the two is empty", [], {}),
        (WeightsError, "named twice", [r6, model / "base" / ".." / "r6"], {}),
        (WeightsError, "hold the same numbers at .* one adapter given twice", [r6, copy], {}),
        (WeightsError, "does not exist", [model / "nowhere"], {}),
    ):
        with pytest.raises(error, match=match) as refusal:
            subspaces.atlas(base, adapters, **more)
        assert "\n" not in str(refusal.value)


def test_p_values_of_adapters_without_relation_are_uniform(tmp_path, rng):
    weights = {name(n): rng.standard_normal((D, 40)).astype(np.float32) for n in range(250)}
    base = write_base(tmp_path / "base", weights)
    adapter = write_lora(tmp_path / "lora", random_factors(rng, weights, 4))
    table = subspaces.atlas(base, [adapter], i=6, j=3, seed=1)
    for column in ("energy_in_p", "energy_out_p", "p_a", "p_ba_right", "p_ba_left", "rank_p"):
        p = table[column]
        assert stats.binomtest(int((p < 0.05).sum()), len(p), 0.05).pvalue > 0.005, column
        assert stats.kstest(p, "uniform").pvalue > 0.005, column


def test_labels_are_names_and_as_much_of_their_places_as_tells_them_apart():
    assert labels(["/a/r4", "/a/r8"]) == ["r4", "r8"]
    found = ["/a/one/checkpoint-8", "/a/two/checkpoint-8", "/b/two/checkpoint-8", "/a/r4"]
    assert labels(found) == ["one/checkpoint-8", "a/two/checkpoint-8", "b/two/checkpoint-8", "r4"]


def test_one_more_draw_of_a_normal_law_is_below_as_often_as_stated(rng):
    drawn = rng.normal(5, 2, (1500, 21))
    p = [spectra.rank_p(each[0], each[1:]) for each in drawn]
    assert stats.kstest(p, "uniform").pvalue > 0.005
    assert spectra.rank_p(-1e9, drawn[0]) == 1e-6


@pytest.mark.parametrize(("alike", "covered"), [(0.0, 0.95), (0.5, 0.94), (0.8, 0.92)])
def test_an_interval_of_a_slope_covers_it_as_often_as_stated(alike, covered):
    rng, layers, hits = np.random.default_rng(3), np.arange(30), 0
    for _ in range(400):
        noise = rng.standard_normal(30)
        noise[0] /= np.sqrt(1 - alike**2)
        for n in range(1, 30):
            noise[n] += alike * noise[n - 1]
        trend = nulls.depth_trend(0.1 * layers + noise, layers)
        hits += trend.low <= 0.1 <= trend.high
    assert abs(hits / 400 - covered) < 3.5 * np.sqrt(covered * (1 - covered) / 400)


def test_a_trend_is_of_the_layers_that_are_known(rng):
    layers, values = np.array([3, 0, 1, 9, 2, 7]), rng.standard_normal(6)
    found = nulls.depth_trend(values, layers)
    order = np.argsort(layers)
    np.testing.assert_allclose(nulls.depth_trend(1e6 * values[order], layers[order])[:3], 1e6 * np.array(found[:3]))
    gap = nulls.depth_trend([np.nan, *values], [5, *layers])
    assert gap == found
    assert np.isnan(nulls.depth_trend(values[:4], layers[:4])).all()
    assert np.isnan(nulls.depth_trend([np.nan] * 8, range(8))).all()
    np.testing.assert_allclose(nulls.depth_trend(3 + 2.0 * layers, layers)[:3], 2)


@pytest.fixture(scope="module")
def atlas(model):
    asked = {"base": str(model / "base"), "adapters": [str(model / each) for each in ("patterned", "r6", "full")]}
    asked |= {
        "i": 5,
        "beside_base": asked["base"],
        "beside_adapters": asked["adapters"][1:2],
        "tested": ["layers.[01].q_proj"],
    }
    return subspaces.ModelAtlas(parameters.ModelAtlas.parse(asked))


def test_the_study_counts_where_a_claim_holds(atlas, rows):
    pd.testing.assert_frame_equal(atlas.rows, rows, check_exact=True)
    holds = atlas.holds.set_index(["claim", "projection", "adapter"])
    assert len(holds) == 10 * 2 * 3 and holds.index.is_unique
    part = rows[(rows["projection"] == "q_proj") & (rows["adapter"] == "r6")]
    for claim, many in (
        ("φ above chance (BA, left; p < 0.05, Holm)", (part["p_holm_ba_left"] < 0.05).sum()),
        ("holds more of W than random directions do", (part["holds"] > 1).sum()),
        ("k90 is half of r or less", (part["k90"] <= 3).sum()),
    ):
        assert holds.loc[(claim, "q_proj", "r6")].tolist() == [6, many]
    assert holds.loc[("φ above chance (A, right; p < 0.05, Holm)", "q_proj", "full"), "n"] == 0
    whole = rows["adapter"] == "full"
    counted = holds.loc["energy above chance (input side; p < 0.05, Holm)"].groupby("adapter")["many"].sum()
    assert counted["full"] == (rows.loc[whole, "energy_in_p_holm"] < 0.05).sum()


def test_the_study_lays_its_rows_out(atlas, rows):
    assert (atlas.labels, atlas.projections, atlas.layers) == (
        ["patterned", "r6", "full"],
        ["q_proj", "v_proj"],
        [*range(6)],
    )
    assert (
        atlas.heat("ratio")["r6"].loc[2, "v_proj"]
        == rows.query(f"module == '{name(2, 'v')}' and adapter == 'r6'")["ratio"].item()
    )
    row = rows.query(f"module == '{name(1)}' and adapter == 'patterned'").iloc[0]
    detail = atlas.details[name(1), "patterned"]
    assert detail.grid[4, int(row["j_ba_left"]) - 1] == row["phi_ba_left"]
    assert np.linalg.norm(detail.spectrum) == pytest.approx(row["norm"])
    assert len(detail.spectrum) == 2 and len(detail.cosines) == 10 and len(detail.weight_spectrum) == D
    assert atlas.heat("phi_ba_left", over="chance_ba_left")["patterned"].loc[1, "q_proj"] == row["ratio_ba_left"]
    assert atlas.beyond("energy_in_p_holm")["patterned"].loc[1, "q_proj"] == (row["energy_in_p_holm"] < 0.05)
    excess = atlas.excess["v_proj"]
    assert list(excess) == atlas.layers and atlas.whole == ["full"]
    assert atlas.by_adapter["ratio_ba_left"].drop(atlas.closest).max() < atlas.by_adapter["ratio_ba_left"].max()
    phi = rows.query(f"module == '{name(3, 'v')}' and adapter == '{atlas.closest}'").iloc[0]
    at = 4, int(phi["j_ba_left"]) - 1
    assert excess[3][at] == pytest.approx(phi["phi_ba_left"] - phi["chance_ba_left"])
    assert atlas.ranking["ratio"].is_monotonic_decreasing and len(atlas.ranking) == len(rows)
    assert atlas.by_adapter.loc["r6", "ratio"] == rows.loc[rows["adapter"] == "r6", "ratio"].median()
    trend = atlas.trends.query("projection == 'q_proj' and adapter == 'r6' and measure == 'phi'").iloc[0]
    part = rows.query("projection == 'q_proj' and adapter == 'r6'")
    expected = 10 * np.array(nulls.depth_trend(part["ratio_ba_left"], part["layer"])[:3])
    np.testing.assert_allclose(trend[["slope", "low", "high"]].astype(float), expected)
    kept = atlas.rank_pattern.set_index(["adapter", "module"])
    assert kept.loc[("patterned", name(1)), "r"] == 2 and "full" not in kept.index
    sizes = {"q": D + D, "v": OUT["v"] + D}
    counts = [[kept.loc[("r6", name(n, k)), "k90"] * sizes[k], 6 * sizes[k]] for n in range(6) for k in "qv"]
    assert atlas.kept["r6"] == pytest.approx(np.divide(*np.sum(counts, axis=0)))
    assert atlas.beside.labels == ["r6"] and atlas.beside.beside.reason.startswith("no second model")
    assert atlas.left_out.reason == "nothing is left out" and atlas.notes == []
    assert {file.name for file in atlas.files} == {
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    }


def test_what_is_left_out_stands_beside_its_reason(atlas, tmp_path, rng):
    factors = random_factors(rng, {name(0): np.zeros((D, D)), "layers.9.q_proj": np.zeros((D, D))}, 2)
    adapter = write_lora(tmp_path / "few", factors)
    given = {**atlas.parameters.model_dump(), "beside_base": "", "beside_adapters": [], "tested": []}
    other = subspaces.ModelAtlas(
        parameters.ModelAtlas.parse(given | {"adapters": [str(adapter), given["adapters"][1]]})
    )
    table = other.left_out
    assert table[["adapter", "reason", "modules"]].values.tolist() == [
        ["few", "few has no such module", 11],
        ["few", "not in the base", 1],
    ]
    assert table["examples"][1] == "layers.9.q_proj"
    with pytest.raises(NoSuchModule, match="did you mean"):
        subspaces.ModelAtlas(parameters.ModelAtlas.parse(given | {"tested": ["q_prj"]}))


def test_intruders_of_modules_named_are_tested(atlas, monkeypatch):
    monkeypatch.setattr(model_atlas, "DRAWS", 39)
    table = atlas.tested.set_index(["module", "adapter"])
    assert len(table) == 6 and set(table.index.get_level_values(0)) == {name(0), name(1)}
    for row in atlas.rows[atlas.rows["module"] == name(0)].itertuples():
        mine = table.loc[(name(0), row.adapter)]
        assert mine["count"] == row.intruders and mine["drawn"] == pytest.approx(row.intruders_expected, abs=1)
        cosines = atlas.details[name(0), row.adapter].cosines
        assert mine["T"] == pytest.approx((1 - cosines**2).sum(), abs=1e-9)
    assert table.groupby("adapter")["family_p"].nunique().eq(1).all()
    monkeypatch.setattr(model_atlas, "MOST_TESTED", 1)
    with pytest.raises(BadParameter, match=r"tested stands for 2 modules, .*: name 1 at most"):
        subspaces.ModelAtlas(atlas.parameters)


def test_a_planted_intruder_is_found_through_files(tmp_path, rng):
    weights = {name(0): rng.standard_normal((64, 64))}
    base = write_base(tmp_path / "base", weights)
    u, v = (haar.random_directions(64, 1, rng) for _ in range(2))
    adapter = write_lora(tmp_path / "strong", {name(0): (60 * u, v.T)}, 1.0)
    row = subspaces.atlas(base, [adapter]).iloc[0]
    assert row["intruders"] == 1 and row["intruders_expected"] == 1
