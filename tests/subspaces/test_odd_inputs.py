"""Inputs that are odd but legal, on small synthetic models: what can be told is told, and the rest has a reason."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from statsmodels.stats.multitest import multipletests

from helpers.parameters import BadParameter, SubspaceSimilarity
from helpers.press import Report
from helpers.show import explorers
from helpers.subspaces import chance, nulls, study

D, LAYERS = 24, 5


def name(layer, kind="q"):
    return f"layers.{layer}.{kind}_proj"


def of_rank(rng, rank, d=D):
    return rng.standard_normal((d, rank)) @ rng.standard_normal((rank, d))


@pytest.fixture
def weights(rng):
    return {name(layer): rng.standard_normal((D, D)) for layer in range(LAYERS)}


@pytest.fixture
def write(make_adapter, rng):
    """Write an adapter of {module: r, or its (A, B)}, and return its directory."""

    def written(directory, given):
        tensors, ranks = {}, {}
        for module, each in given.items():
            factors = (rng.standard_normal((each, D)), rng.standard_normal((D, each))) if type(each) is int else each
            ranks[module] = len(factors[0])
            for letter, matrix in zip("AB", factors, strict=True):
                tensors[f"base_model.model.{module}.lora_{letter}.weight"] = torch.tensor(matrix, dtype=torch.float32)
        place = make_adapter(directory=directory, config={"rank_pattern": ranks})
        save_file(tensors, place / "adapter_model.safetensors")
        return place

    return written


def opened(base, *adapters, **asked):
    asked = {"base": str(base), "adapters": list(map(str, adapters)), "module": name(0)} | asked
    return study.Similarity(SubspaceSimilarity.parse(asked))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_weight_with_too_few_directions_stands_in_the_notes_and_in_no_table(make_base, write, weights, rng, rank):
    weights[name(2)] = of_rank(rng, rank)
    found = opened(make_base(weights), write("one", dict.fromkeys(weights, 4)), first_i=3, last_i=5)
    layers = found.layers
    assert layers.choices["cases"].tolist() == [LAYERS - 1] * 3
    for (choice, survey), note in zip(layers.surveys.items(), layers.notes, strict=True):
        assert note.startswith(f"{choice} leaves out") and note.endswith(f": {name(2)}")
        for table in (survey.table, survey.pairings):
            assert set(table["layer"]) == {0, 1, 3, 4}
    assert set(layers.table["layer"]) == set(layers.own_choice.pairings["weight_layer"]) == {0, 1, 3, 4}
    for p in (layers.table["p_holm"], layers.averages["p"], layers.own["p"]):
        assert p.between(0, 1).all()
    assert opened(found.base.path, found.updates[0].path, first_i=2, last_i=2).layers.notes == [
        f"{choice} leaves out, of another size or with too few directions: {name(2)}" for choice in layers.surveys
    ] * (rank < 2)


def test_a_weight_of_less_rank_than_the_adapter(make_base, write, weights, rng):
    weights[name(0)] = of_rank(rng, 5)
    base, adapter = make_base(weights), write("one", dict.fromkeys(weights, 8))
    found = opened(base, adapter)
    assert found.first_i <= found.last_i <= 5
    row = found.amplified.loc["r = 8"]
    assert row["rank"] == 8
    assert row["by_weight"] == pytest.approx(np.sqrt((np.linalg.svd(weights[name(0)])[1] ** 2).sum()), rel=1e-5)
    assert row["by_delta"] <= row["by_weight"]
    with pytest.raises(BadParameter, match=r"rows i = 7 … 7 asked for .* must lie within 1 … 5"):
        opened(base, adapter, first_i=7)
    with pytest.raises(BadParameter, match=r"last_i = 7 rows asked for, but the weight of layers.0.q_proj has rank 5"):
        opened(base, adapter, last_i=7).reading  # noqa: B018


def test_all_directions_of_w_meet_every_adapter(make_base, write, weights):
    base, adapter = make_base(weights), write("one", dict.fromkeys(weights, 4))
    found = opened(base, adapter, first_i=D, last_i=D)
    reason = f"at i = {D}, j = 4 in d = {D} dimensions φ is 1 whatever the adapter"
    for what in ("grids", "panels", "reading", "regions", "growth", "by_rank", "start", "stored", "layers"):
        assert getattr(found, what).reason == reason, what
    report, layers = Report("name", {}), found.layers
    for value in (found.reading.p_holm.max(), found.by_rank.p, layers.averages.p_holm.max(), layers.own.p_holm.max()):
        report.claim("c", value, below=0.05, says="So.", tables=[found.reading], found="p = {p_holm:each p}")
    assert [(claim["holds"], claim["found"]) for claim in report.claims] == [(None, reason)] * 4
    explorer = explorers.subspace_similarity(opened(base, adapter))
    with pytest.raises(ValueError, match=reason):
        explorer.picture(first_i=D, last_i=D)


def test_two_runs_of_all_directions_agree_where_they_may_differ(write, rng):
    d = 16
    a = rng.standard_normal((d, d)) * 0.7 ** np.arange(d)[:, None]
    runs = [
        write(run, {name(0): (a + 1e-3 * rng.standard_normal((d, d)), rng.standard_normal((d, d)))}) for run in "xy"
    ]
    found = opened("", *runs).agreeing("runs")
    assert found["k"].tolist() == [1, 4]
    assert found["p_holm"].max() < 0.05


def test_an_adapter_whose_b_is_zero_adds_nothing_to_count(make_base, write, weights, rng):
    untrained = {module: (rng.standard_normal((8, D)), np.zeros((D, 8))) for module in weights}
    found = opened(make_base(weights), write("one", dict.fromkeys(weights, 4)), write("other", untrained))
    choices = found.layers.choices.set_index("choice")
    assert choices["cases"].to_dict() == {"A": 2 * LAYERS, "BA right": 0, "BA left": 0}
    assert choices["beyond"].loc[["BA right", "BA left"]].tolist() == [0, 0]
    assert choices["ratio"].isna().tolist() == [False, True, True]
    names = f"{', '.join(list(weights)[:4])} and {LAYERS - 4} more"
    assert found.layers.notes == [
        f"{choice} leaves out, of another size or with too few directions: {names}"
        for choice in ("BA right", "BA left")
    ]
    assert found.amplified.index.tolist() == ["r = 4"]
    assert found.factoring["BA"].isna().tolist() == [False, True]


def test_ranks_may_differ_in_another_layer_only(make_base, write, weights):
    ranks = dict.fromkeys(weights, 8)
    found = opened(make_base(weights), write("one", ranks | {name(1): 4}), write("other", ranks))
    assert found.by_rank.reason == "the adapters have one rank"
    growth, phi = found.layers.by_rank, found.layers.table.query("layer == 1")["phi"].tolist()
    assert growth.means["r = 4"] == phi[0]
    here = found.layers.own_choice.pairings.eval("layer == 1 and weight_layer == 1")
    drawn = found.layers.turned[:, here]
    assert growth.p == (1 + (drawn[:, 1] - drawn[:, 0] >= phi[1] - phi[0]).sum()) / (1 + len(drawn))


def test_queries_and_values_are_compared_at_the_numbers_that_both_have(write):
    runs = [write(run, {name(0, "q"): 8, name(0, "v"): 3}) for run in ("one", "other")]
    found = opened("", *runs)
    phi = found.agreement.set_index(["projection", "k"])["phi"]
    assert [k for _, k in phi.index] == [1, 4, 1]
    lead = found.query_lead
    assert lead["difference"] == pytest.approx(phi["q_proj", 1] - phi["v_proj", 1])
    spread = np.sqrt(2 * chance.variance(1, 1, D))
    assert lead["z"] == pytest.approx(lead["difference"] / spread, rel=0.1)  # of which the spread is drawn


def test_another_model_is_opened_and_read(make_base, write, weights, rng):
    others = {module: rng.standard_normal((D, D)) for module in weights}
    first, second = make_base(weights), make_base(others, "other")
    adapter = write("one", dict.fromkeys(weights, 4))
    found = opened(first, adapter)
    other = found.replace(base=str(second))
    np.testing.assert_array_equal(other.weight, others[name(0)].astype(np.float32))
    pd.testing.assert_frame_equal(other.reading, opened(second, adapter).reading)
    assert other.base is not found.base
    np.testing.assert_array_equal(found.weight, weights[name(0)].astype(np.float32))


def test_holm_is_that_of_statsmodels_over_what_is_known(rng):
    for n in (1, 2, 7, 30):
        p = rng.random(n) ** 3
        np.testing.assert_allclose(nulls.holm(p), multipletests(p, method="holm")[1])
        gaps = np.insert(p, [0, n // 2], np.nan)
        np.testing.assert_allclose(nulls.holm(gaps)[~np.isnan(gaps)], nulls.holm(p))
        assert np.isnan(nulls.holm(gaps)).sum() == 2
    assert nulls.holm([]).size == 0
