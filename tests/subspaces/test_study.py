"""φ over layers, on small synthetic models: tables against cells computed one by one, tests against brute force."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import linalg

from helpers.parameters import SubspaceSimilarity
from helpers.subspaces import chance, compared, directions, haar, inputs, nulls, study
from helpers.subspaces.layers import collect, own_layers, pairings
from helpers.weights import WeightsError, open_base
from tests.conftest import MODULE

D, TOP, J = 24, 6, 3
LAYERS = range(3)


def name(layer, kind):
    return f"layers.{layer}.{kind}_proj"


def opened(base, *adapters, module="q_proj", factor="A", **window):
    """The study of a module: by its full name, or in layer 0."""
    module = module if "." in module else f"layers.0.{module}"
    asked = {"base": str(base), "adapters": [str(place) for place in adapters], "module": module, "factor": factor}
    return study.Similarity(SubspaceSimilarity.parse(asked | window))


@pytest.fixture
def places(make_base, make_adapter, rng):
    """Three layers of query and value; the adapter's A lies in the leading directions of its own query weight."""
    weights = {name(layer, kind): rng.standard_normal((D, D)) for layer in LAYERS for kind in "qv"}
    base = make_base(weights)
    place = make_adapter(np.zeros((4, D)), np.zeros((D, 4)), module=name(0, "q"))
    tensors = {}
    for (layer, kind), weight in {
        (layer, kind): weights[name(layer, kind)] for layer in LAYERS for kind in "qv"
    }.items():
        a = rng.standard_normal((4, D))
        if kind == "q":
            a = a @ np.linalg.svd(weight)[2].T @ np.diag([9.0] * TOP + [1.0] * (D - TOP)) @ np.linalg.svd(weight)[2]
        tensors[f"base_model.model.{name(layer, kind)}.lora_A.weight"] = torch.tensor(a, dtype=torch.float32)
        tensors[f"base_model.model.{name(layer, kind)}.lora_B.weight"] = torch.tensor(rng.standard_normal((D, 4)))
    save_file(tensors, place / "adapter_model.safetensors")
    untrained = {key: value.flip(1).contiguous() for key, value in tensors.items() if "lora_A" in key}
    save_file(untrained, place / "untrained_A.safetensors")
    found = {}
    for kind in "qv":
        there, left_out = collect(opened(base, place), name(0, kind), TOP, J, D)
        assert left_out == []
        found |= {(f"{kind}_proj", layer): each for layer, each in there.items()}
    return found, weights, place


def phi(weight, a):
    u, v = np.linalg.svd(weight)[2][:TOP].T, np.linalg.svd(a.double().numpy())[2][:J].T
    return (np.cos(linalg.subspace_angles(u, v)) ** 2).mean()


def test_every_adapter_meets_the_weight_of_every_layer(places):
    found, weights, place = places
    table = pairings(found, TOP, J)
    assert list(table.columns) == ["projection", "layer", "weight_layer", "adapter", "phi", "untrained"]
    assert len(table) == 2 * 3 * 3
    trained, untrained = (load_file(place / f"{file}.safetensors") for file in ("adapter_model", "untrained_A"))
    for row in table.itertuples():
        kind = row.projection[0]
        key = f"base_model.model.{name(row.layer, kind)}.lora_A.weight"
        weight = weights[name(row.weight_layer, kind)].astype(np.float32)
        assert row.phi == pytest.approx(phi(weight, trained[key]), abs=1e-6)
        assert row.untrained == pytest.approx(phi(weight, untrained[key]), abs=1e-6)


def test_own_layers_beside_the_others(places):
    table = pairings(places[0], TOP, J)
    own = own_layers(table, TOP, J, D)
    assert len(own) == 6
    for row in own.itertuples():
        here = table[(table["projection"] == row.projection) & (table["layer"] == row.layer)]
        assert row.phi == here.loc[here["weight_layer"] == row.layer, "phi"].item()
        assert row.elsewhere == pytest.approx(here.loc[here["weight_layer"] != row.layer, "phi"].mean())
        assert row.p == pytest.approx(chance.tail_probability(row.phi, TOP, J, D))
        assert row.z == pytest.approx(chance.z_score(row.phi, TOP, J, D))
        assert own.loc[row.Index, "untrained_p"] == chance.tail_probability(row.untrained, TOP, J, D)
        assert row.ratio == pytest.approx(row.phi / (TOP / D))
    planted = own["projection"] == "q_proj"
    assert own.loc[planted, "p"].max() < 0.01 < own.loc[~planted, "p"].min()


def test_choices_are_corrected_together_and_each_lives_in_its_own_space(make_base, make_adapter, rng):
    """A value narrower than its input: its left directions live in another R^d, at an i of their own."""
    weights = {
        name(layer, kind): rng.standard_normal((60 if kind == "q" else 30, 60)) for layer in LAYERS for kind in "qv"
    }
    place, tensors = make_adapter(np.zeros((4, 60)), np.zeros((60, 4)), module=name(0, "q")), {}
    for module, weight in weights.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(4, 60)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(len(weight), 4)
    save_file(tensors, place / "adapter_model.safetensors")
    found = opened(make_base(weights), place, first_i=6, last_i=8)
    layers, every = found.layers, pd.concat([each.table for each in found.layers.surveys.values()])
    assert list(layers.choices["choice"]) == ["A", "A", "BA right", "BA right", "BA left", "BA left"]
    assert layers.choices["d"].tolist() == [60, 60, 60, 60, 60, 30]
    assert layers.choices["i"].tolist() == [6, 6, 6, 6, 6, 1]
    assert layers.choices["cases"].sum() == len(every) == 18
    np.testing.assert_allclose(every["p_holm"], nulls.holm(every["p"]))
    v = np.linalg.svd(
        tensors[key := f"base_model.model.{name(1, 'v')}.lora_B.weight"] @ tensors[key.replace("_B", "_A")]
    )
    of_w = np.linalg.svd(weights[name(1, "v")].astype(np.float32))[0][:, :1]
    row = layers.surveys["BA left"].table.query("projection == 'v_proj' and layer == 1")
    assert row["phi"].item() == pytest.approx(float((of_w[:, 0] @ v[0][:, 0].numpy()) ** 2), abs=1e-5)
    narrow = opened(found.base.path, place, module=name(0, "v"), factor="BA", first_i=2).replace(side="left")
    assert narrow.d == 30 and set(narrow.layers.table["projection"]) == {"v_proj"}


def test_a_study_of_other_parameters_opens_nothing_again(make_base, make_adapter, rng, monkeypatch):
    weights = {name(layer, "q"): rng.standard_normal((D, D)) for layer in LAYERS}
    places, one = [], make_adapter(module=name(0, "q"), directory="one")
    tensors = {}
    for module in weights:
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(4, D)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(D, 4)
    save_file(tensors, one / "adapter_model.safetensors")
    found = opened(make_base(weights), one)
    for holder, function in ((compared, "open_base"), (compared, "open_update"), (compared.modules, "match")):
        monkeypatch.setattr(holder, function, lambda *_: places.append(1))
    other = found.replace(module=name(2, "q"), factor="BA", side="left", first_i=2, last_i=3)
    assert (other.base, other.updates, places) == (found.base, found.updates, [])
    assert (other.module, other.first_i, other.last_i) == (name(2, "q"), 2, 3)
    left = [np.linalg.svd(m.astype(np.float32))[0] for m in (weights[name(2, "q")], other.here[0].delta())]
    expected = (np.cos(linalg.subspace_angles(left[0][:, :2], left[1][:, :2])) ** 2).mean()
    assert other.reading["phi"].item() == pytest.approx(expected, abs=1e-5)
    for wrong, message in (
        ({"module": "k_proj"}, "k_proj"),
        ({"last_i": 99}, "must lie within"),
        ({"side": "up"}, "side"),
    ):
        with pytest.raises(ValueError, match=message):
            found.replace(**wrong)


def test_what_does_not_apply_is_nothing_with_its_reason(make_base, make_adapter, rng):
    one = make_adapter(module=MODULE, directory="one")
    other = make_adapter(rng.standard_normal((2, D)), rng.standard_normal((D, 2)), "other", MODULE)
    alone = opened("", one, other, module=MODULE)
    for name_ in (
        "weight",
        "grids",
        "panels",
        "reading",
        "regions",
        "growth",
        "by_rank",
        "start",
        "amplified",
        "layers",
    ):
        assert getattr(alone, name_).reason == "no base is given", name_
    assert alone.between("runs").reason == "no two adapters have the same rank"
    assert alone.agreement["k"].tolist() == [1]
    with_base = opened(make_base(), one, module=MODULE)
    assert with_base.by_rank.reason == with_base.layers.by_rank.reason == "the adapters have one rank"
    assert with_base.start.reason.startswith("no adapter has its untrained A")
    assert with_base.layers.own.reason == "there is a single layer"
    assert with_base.replace(factor="BA").start.reason == "B A is zero before training"
    assert with_base.replace(first_i=3, last_i=3).growth.reason == "a single row is shown"
    assert with_base.query_lead.reason == with_base.agreement.reason == "there is one adapter"


def test_permuting_layers_against_brute_force(places):
    table = pairings(places[0], TOP, J)
    found = nulls.pairing_test(table, np.random.default_rng(0))
    assert found.keys() == {"q_proj", "v_proj"}
    for kind, p in found.items():
        part = table[table["projection"] == kind].set_index(["layer", "weight_layer"])["phi"]
        means = [np.mean([part[a, w] for a, w in zip(LAYERS, order, strict=True)]) for order in permutations(LAYERS)]
        assert p == pytest.approx(np.mean(np.array(means) >= means[0] - 1e-12))
    assert found["q_proj"] == pytest.approx(1 / 6)  # the planted one: no permutation reaches it


def test_permuting_layers_of_an_unrelated_adapter_gives_uniform_p_values(rng):
    index = pd.MultiIndex.from_product([range(5), range(5)], names=["layer", "weight_layer"]).to_frame(index=False)
    p = [
        nulls.pairing_test(index.assign(projection="q", adapter="a", phi=rng.uniform(size=25)), rng)["q"]
        for _ in range(200)
    ]
    assert np.mean(p) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / 200) + 1 / 120)


def test_a_single_layer_cannot_be_permuted(places):
    table = pairings(places[0], TOP, J)
    assert nulls.pairing_test(table[(table["layer"] == 0) & (table["weight_layer"] == 0)], None) == {}


def test_directions_may_be_put_in_the_place_of_a_weights(places):
    found, _, _ = places
    table = pairings({key: place._replace(top=place.found["r = 4"][0]) for key, place in found.items()}, J, J)
    assert table.loc[table["layer"] == table["weight_layer"], "phi"].to_numpy() == pytest.approx(1)


def test_how_much_the_layers_weights_share(places):
    found, weights, _ = places
    shared = nulls.shared_by_layers(found, TOP)
    assert shared.keys() == {"q_proj", "v_proj"}
    tops = [np.linalg.svd(weights[name(layer, "v")])[2][:TOP].T for layer in LAYERS]
    pairs = [(np.cos(linalg.subspace_angles(tops[m], tops[n])) ** 2).mean() for m, n in ((0, 1), (0, 2), (1, 2))]
    assert shared["v_proj"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert nulls.shared_by_layers({key: place for key, place in found.items() if key[1] == 0}, TOP) == {}


def test_turning_all_weights_together_gives_chance_and_keeps_what_they_share(places):
    found, _, _ = places
    same = {key: place._replace(top=found["q_proj", 0].top) for key, place in found.items()}
    table = pairings(found, TOP, J)
    own = (table["layer"] == table["weight_layer"]).to_numpy()
    spreads = []
    for weights in (found, same, nulls.before_training(found)):
        drawn = nulls.turned(weights, TOP, J, np.random.default_rng(0), 600)
        for draws in (drawn[:, own].mean(1), drawn[:, ~own].mean(1)):
            assert draws.mean() == pytest.approx(TOP / D, abs=4 * draws.std() / np.sqrt(600))
        spreads.append(drawn[:, own].mean(1).std())
    assert spreads[1] > spreads[0]  # the same W everywhere: its means scatter more


def test_before_training_an_adapter_is_its_untrained_a(places):
    found = places[0]
    trained, before = (pairings(each, TOP, J) for each in (found, nulls.before_training(found)))
    assert before["phi"].tolist() == trained["untrained"].tolist()
    assert before["untrained"].isna().all()


def mixed(places):
    """The same places, the projections of one layer after another."""
    return dict(sorted(places.items(), key=lambda place: place[0][1]))


@pytest.mark.parametrize("order", [dict, mixed])
def test_turned_by_nothing_the_table_is_what_it_was(places, monkeypatch, rng, order):
    """Column by column, in whatever order the places come; and a rotation in it is the same for all W."""
    found = order(places[0])
    frame = np.linalg.qr(np.hstack([place.top for place in found.values()]))[0]
    monkeypatch.setattr(haar, "random_directions", lambda *_: frame)
    table = pairings(found, TOP, J)
    np.testing.assert_allclose(nulls.turned(found, TOP, J, rng, 2), [table["phi"]] * 2, atol=1e-12)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    monkeypatch.setattr(haar, "random_directions", lambda *_: turn @ frame)
    by_hand = pairings({key: place._replace(top=turn @ place.top) for key, place in found.items()}, TOP, J)
    np.testing.assert_allclose(nulls.turned(found, TOP, J, rng, 1)[0], by_hand["phi"], atol=1e-12)
    np.testing.assert_allclose(
        nulls.turned(found, TOP, J - 1, rng, 1)[0],
        pairings({key: place._replace(top=turn @ place.top) for key, place in found.items()}, TOP, J - 1)["phi"],
        atol=1e-12,
    )


def test_an_adapters_own_layer_by_both_nulls(places):
    table = pairings(places[0], TOP, J)
    found = nulls.own_layer(table, nulls.turned(places[0], TOP, J, np.random.default_rng(0)), np.random.default_rng(0))
    assert found["projection"].tolist() == ["q_proj", "v_proj"]
    assert found["permutation"].tolist() == list(nulls.pairing_test(table, np.random.default_rng(0)).values())
    assert found["rotation"][0] < 0.02 < found["rotation"][1]
    assert found["p"].tolist() == found[["permutation", "rotation"]].max(axis=1).tolist()
    assert found["p_holm"].tolist() == nulls.holm(found["p"]).tolist()
    assert found["least"].tolist() == pytest.approx([1 / 6] * 2)  # three layers
    own = table[(table["layer"] == table["weight_layer"]) & (table["projection"] == "q_proj")]
    assert found["own"][0] == pytest.approx(own["phi"].mean())
    alone = {key: place for key, place in places[0].items() if key[1] == 0}
    table = pairings(alone, TOP, J)
    rng = np.random.default_rng(0)
    assert nulls.own_layer(table, nulls.turned(alone, TOP, J, rng, 2), rng).empty


def test_a_p_value_by_draws_counts_the_observed():
    drawn = np.array([[0.1, 3.0], [0.2, 1.0], [0.3, 2.0]])
    assert nulls.monte_carlo_p(np.array([0.2, 9.0]), drawn).tolist() == [0.75, 0.25]
    assert nulls.two_sided_p(np.array([0.2, 9.0]), drawn).tolist() == [1, 0.5]
    assert nulls.two_sided_p(0.05, drawn[:, 0]) == nulls.two_sided_p(0.35, drawn[:, 0]) == 0.5


def growing(by_rank):
    """A table of places with the φ of adapters of some ranks, {place: {rank: [φ]}}, and the ranks of its rows."""
    rows = [("q", place, phi, rank) for place, of in by_rank.items() for rank, many in of.items() for phi in many]
    table = pd.DataFrame(rows, columns=["projection", "layer", "phi", "rank"])
    return table.drop(columns="rank"), table["rank"].tolist()


def test_growth_with_rank_is_that_within_the_places(rng):
    """The lead is over the places that have both ends, whatever else a place has."""
    table, ranks = growing({0: {4: [0.1], 8: [0.2], 64: [0.3, 0.5]}, 1: {4: [0.2], 64: [0.3]}, 2: {8: [0.9]}})
    drawn = rng.uniform(size=(199, len(table)))
    by_hand = (drawn[:, [2, 3]].mean(1) - drawn[:, 0] + drawn[:, 5] - drawn[:, 4]) / 2
    growth = nulls.growth_with_rank(table, ranks, drawn)
    assert growth.p == (1 + (by_hand >= (0.3 + 0.1) / 2).sum()) / 200
    assert growth.means.to_dict() == pytest.approx({"r = 4": 0.15, "r = 8": 0.55, "r = 64": 0.35})
    table, ranks = growing({0: {4: [0.1], 8: [0.2]}, 1: {4: [0.2], 8: [0.4]}})
    assert nulls.growth_with_rank(table, ranks, drawn[:, :4] / 100).p < 0.05
    assert nulls.growth_with_rank(table, ranks, drawn[:, :4]).p > 0.05
    for apart in ({0: {4: [0.1]}, 1: {8: [0.2]}}, {0: {4: [0.1, 0.2]}}):
        table, ranks = growing(apart)
        assert np.isnan(nulls.growth_with_rank(table, ranks, drawn[:, :2]).p)


def test_rises_above_and_below_chance_are_corrected_together():
    first, last, d = 6, 18, 60
    found = nulls.rises([0.1, 0.1, 0.1], [0.55, 0.3, 0.11], first, last, 4, d)
    assert found["rise"].tolist() == pytest.approx([0.45, 0.2, 0.01])
    assert found["chance"].tolist() == [0.2] * 3
    p = chance.tail_probability(found["rise"].to_numpy(), last - first, 4, d)  # φ of the block: 4 directions in 12
    assert found["p above"].tolist() == pytest.approx(p.tolist())
    corrected = nulls.holm([*p, *(1 - p)])
    assert found[["above", "below"]].to_numpy().T.ravel().tolist() == pytest.approx(corrected.tolist())
    assert found["above"][0] < 0.05 < found["above"][1]
    assert found["below"][2] < 0.05 < found["below"][1]


def test_holms_correction():
    """Holm 1979: the k-th smallest of n times n − k + 1, never falling, at most 1."""
    assert nulls.holm([0.04, 0.001, 0.02, 0.9]) == pytest.approx([0.08, 0.004, 0.06, 0.9])
    assert nulls.holm([]).size == 0
    assert nulls.holm([0.0, 1.0]) == pytest.approx([0, 1])


def test_no_model_no_rows():
    table = pairings({}, TOP, J)
    assert own_layers(table, TOP, J, D).empty
    assert nulls.pairing_test(table, None) == {}


def refuses(message, *adapters, base, **asked):
    with pytest.raises(WeightsError, match=message):
        opened(base, *adapters, **asked)


def test_inputs_that_cannot_be_compared_are_refused(make_base, make_adapter, rng):
    query = "layers.0.q_proj"
    base = make_base({query: rng.standard_normal((D, D)), "layers.0.v_proj": rng.standard_normal((D, D))})
    one = make_adapter(module=query, directory="one")
    twin = make_adapter(*(load_file(one / "adapter_model.safetensors").values()), module=query, directory="twin")
    narrow = make_adapter(rng.standard_normal((4, 16)), module=query, directory="narrow")
    no_a = make_adapter(np.zeros((4, D)), module=query, directory="no_a")
    no_b = make_adapter(b=np.zeros((D, 4)), module=query, directory="no_b")
    elsewhere = make_adapter(module="layers.0.k_proj", directory="elsewhere")
    refuses("named twice", one, f"{one}/.", base=base)
    refuses("same numbers at layers.0.q_proj: one adapter given twice", one, twin, base=base)
    refuses("24 × 16 matrix .* 24 × 24", narrow, base=base)
    refuses("24 × 16 matrix .* 24 × 24", one, narrow, base="")
    refuses("A of layers.0.q_proj is zero", no_a, base=base)
    refuses("compare factor A", no_b, base=base, factor="BA")
    refuses("no module of elsewhere is one of base", elsewhere, base=base)
    refuses("'layers.0.v_proj' is not in one", one, base=base, module="v_proj")
    towers = make_base({f"{tower}.layers.0.q_proj": np.eye(D) for tower in ("encoder", "head")}, "towers")
    decoder = make_adapter(module="decoder.layers.0.q_proj", directory="decoder")
    also = load_file(decoder / "adapter_model.safetensors")
    also |= {key.replace("decoder", "head"): value.clone() for key, value in also.items()}
    save_file(also, decoder / "adapter_model.safetensors")
    refuses("'encoder.layers.0.q_proj' is not in decoder", decoder, base=towers, module="encoder.layers.0.q_proj")
    assert opened(base, no_b).factors == ["A", "BA"]
    assert opened(base, one).common == {query: [query]}


def test_a_module_may_be_called_as_the_base_or_as_the_adapter_has_it(make_base, make_adapter, rng):
    base = make_base({"encoder.layer.0.query": rng.standard_normal((D, D))})
    one = make_adapter(module="bert.encoder.layer.0.query", directory="one")
    other = make_adapter(module="encoder.layer.0.query", directory="other")
    for wanted in ("encoder.layer.0.query", "layer.0.query", "bert.encoder.layer.0.query"):
        study = opened(base, one, other, module=wanted)
        assert study.module == "encoder.layer.0.query"
        assert study.names == ["bert.encoder.layer.0.query", "encoder.layer.0.query"]
        alone = opened("", one, other, module=wanted)
        assert alone.module == "bert.encoder.layer.0.query"
        assert alone.names == study.names
    assert list(study.inputs["from"]) == ["base", "one", "other"]
    assert list(study.inputs["[out, in]"]) == [(D, D)] * 3


def test_a_rank_belongs_to_a_module(make_base, make_adapter, rng):
    names = [name(0, kind) for kind in "qv"]
    base = make_base({module: rng.standard_normal((D, D)) for module in names})
    place = make_adapter(config={"rank_pattern": {"v_proj": 6}}, module=names[0])
    tensors = load_file(place / "adapter_model.safetensors")
    tensors |= {f"base_model.model.{names[1]}.lora_A.weight": torch.randn(6, D)}
    tensors |= {f"base_model.model.{names[1]}.lora_B.weight": torch.randn(D, 6)}
    save_file(tensors, place / "adapter_model.safetensors")
    found = opened(base, place)
    assert [found.rank(module, 0) for module in names] == [4, 6]
    assert [found.directions(module, 0).vectors.shape[1] for module in names] == [4, 6]


def test_a_whole_fine_tune_is_an_update_without_factors(make_base, rng):
    weight = rng.standard_normal((D, D))
    base = make_base({MODULE: weight})
    left, right = (np.linalg.qr(rng.standard_normal((D, 3)))[0] for _ in range(2))
    tuned = make_base({MODULE: weight + left * [3.0, 2.0, 1.0] @ right.T}, "tuned")
    refuses("no factor A: use factor BA", tuned, base=base, module=MODULE)
    found = opened(base, tuned, module=MODULE, factor="BA")
    assert found.factors == ["BA"]
    assert found.rank(MODULE, 0) == 3
    for side, truth in (("right", right), ("left", left)):
        vectors = found.directions(MODULE, 0, "BA", side).vectors
        assert np.abs(np.diag(truth.T @ vectors)) == pytest.approx(1, abs=1e-5)


def test_every_matrix_is_decomposed_once(make_base, make_adapter, rng, monkeypatch):
    names = [name(layer, kind) for layer in LAYERS for kind in "qv"]
    base = make_base({module: rng.standard_normal((D, D)) for module in names})
    place = make_adapter(module=names[0])
    tensors = {}
    for module in names:
        tensors |= {f"base_model.model.{module}.lora_A.weight": torch.randn(4, D)}
        tensors |= {f"base_model.model.{module}.lora_B.weight": torch.randn(D, 4)}
    save_file(tensors, place / "adapter_model.safetensors")
    seen = []
    for function in ("_by_svd", "decompose_product"):
        plain = getattr(directions, function)
        monkeypatch.setattr(
            directions, function, lambda *given, plain=plain: seen.append(hash(given[0].tobytes())) or plain(*given)
        )
    found = opened(base, place)
    for factor, side in (("A", "right"), ("BA", "right"), ("BA", "left")):
        for module in names[:2]:
            collect(found, module, TOP, J, D, factor, side)
        for k in (1, TOP, D):
            found.top(names[0], k, side)
    assert len(seen) == 3 * len(names)  # W, A and BA of each
    assert len(set(seen)) == len(seen)


def drawn_diagonals(sizes, d, draws, rng):
    """φ(k, k) with the coordinate axes of random bases by QR: [draws, n]."""
    bases = np.linalg.qr(rng.standard_normal((draws, d, max(sizes))))[0]
    return np.stack([np.square(bases[:, :k, :k]).sum((1, 2)) / k for k in sizes], 1)


@pytest.mark.parametrize(("sizes", "d"), [([1, 4], 24), ([1, 4, 16], 64), ([2], 9)])
def test_of_random_pairs_one_in_twenty_leads_by_more_than_its_threshold(sizes, d, rng):
    """Normal only nearly, so to a fifth of the level besides the error of the draws; and a real lead is seen."""
    one, other = (drawn_diagonals(sizes, d, 20_000, rng) for _ in range(2))
    z = nulls.lead_z(one, other, sizes, d, 4_000, rng)
    assert z.shape == (20_000,)
    assert z.std() == pytest.approx(1, abs=0.06)
    rate = (z > 1.645).mean()
    assert abs(rate - 0.05) < 0.01 + 4 * np.sqrt(0.05 * 0.95 / 20_000)
    level = np.array([chance.mean(k, k, d) for k in sizes])
    assert nulls.lead_z(level + 0.5 * (1 - level), level, sizes, d, 4_000, rng) > 1.645


def test_a_lead_turns_its_sign_with_the_pairs(rng):
    one, other = drawn_diagonals([1, 3], 24, 2, rng)
    seeds = [np.random.default_rng(3) for _ in range(2)]
    assert nulls.lead_z(one, other, [1, 3], 24, 501, seeds[0]) == pytest.approx(
        -nulls.lead_z(other, one, [1, 3], 24, 501, seeds[1])
    )
    assert np.isnan(nulls.lead_z([1.0], [1.0], [3], 3, 9, rng))  # all of the space: every pair shares all


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([0.1], [0.1, 0.2], [1, 2], 24, 9), r"expected one at every k"),
        (([], [], [], 24, 9), "expected one at every k"),
        (([0.1], [0.2], [30], 24, 9), "above d = 24"),
    ],
)
def test_what_is_no_lead_is_refused(given, message, rng):
    with pytest.raises(ValueError, match=message):
        nulls.lead_z(*given, rng)


def test_an_a_that_was_made_from_the_weight_is_told_by_the_product(make_base, make_adapter, rng):
    """Synthetic: A's first rows are W's own directions, B hardly uses them; another A is at random."""
    weight, d = rng.standard_normal((48, 48)) * np.linspace(3, 1, 48), 48
    base = make_base({MODULE: weight})
    own = np.vstack([3 * np.linalg.svd(weight)[2][:4], rng.standard_normal((4, d)) / 7])
    b = np.hstack([1e-3 * rng.standard_normal((d, 4)), rng.standard_normal((d, 4))])
    made = make_adapter(own, b, "made")
    plain = make_adapter(rng.standard_normal((8, d)), rng.standard_normal((d, 8)), "plain")
    few = make_adapter(rng.standard_normal((4, d)), rng.standard_normal((d, 4)), "few")
    found = opened(base, made, plain, few, module=MODULE, first_i=4, last_i=6)
    table = found.factoring
    assert table.loc["r = 8", "A"] == pytest.approx(1, abs=0.01)
    top, of_ba = np.linalg.svd(weight)[2][:4].T, np.linalg.svd(b @ own)[2][:4].T
    angles = linalg.subspace_angles(top, of_ba)
    assert table.loc["r = 8", "BA"] == pytest.approx((np.cos(angles) ** 2).mean(), abs=1e-4)
    assert table.loc["r = 8", "z"] > 3 > abs(table.loc["r = 8′", "z"])
    assert np.isnan(table.loc["r = 4", "z"])  # its A and B A span one space
    (note,) = [note for note in found.notes if "use factor BA" in note]
    assert "made" in note
    assert "plain" not in note
    assert opened(base, made, module=MODULE, factor="BA").notes == []


def test_layers_that_were_frozen_and_packed_ones_are_left_out_of_the_table(make_base, rng):
    names = [name(layer, "q") for layer in LAYERS]
    weights = {module: rng.standard_normal((D, D)) for module in names}
    base = make_base(weights)
    held = load_file(base / "model.safetensors")
    tuned = make_base(
        {module: w + (module != names[1]) * rng.standard_normal((D, D)) for module, w in weights.items()}, "t"
    )
    found = opened(base, tuned, module=names[0], factor="BA")
    assert found.directions(names[1], 0, "BA").vectors.shape[1] == 0
    places, left_out = collect(found, names[0], TOP, J, D, "BA")
    assert left_out == [names[1]]
    assert len(places) == 2
    refuses("is what it is in base", tuned, base=base, module=names[1], factor="BA")
    held[f"{names[2]}.qweight"] = torch.zeros(D // 8, D, dtype=torch.int32)
    held.pop(f"{names[2]}.weight")
    save_file(held, base / "model.safetensors")
    found = opened(base, tuned, module=names[0], factor="BA")
    assert set(found.common) == set(names[:2])
    assert any("packed in base" in note and names[2] in note for note in found.notes)
    refuses("packed", tuned, base=base, module=names[2], factor="BA")


def test_a_change_below_the_rounding_of_the_files_is_refused(make_base, rng):
    weight = torch.tensor(rng.standard_normal((D, D)))
    base = make_base({MODULE: weight.bfloat16()})
    tuned = make_base({MODULE: (weight + 1e-3 * torch.ones(D, 1) @ torch.ones(1, D)).bfloat16()}, "tuned")
    refuses("does not rise above the rounding of its files", tuned, base=base, module=MODULE, factor="BA")


@pytest.mark.parametrize(
    ("pull", "word"),
    [(1, "Not detectably"), (1.2, "On average in q_proj, but in no single case"), (1.5, "In some cases")],
)
def test_the_answer_counts_cases_and_asks_their_average(make_base, make_adapter, pull, word):
    """A whose rows have `pull` times the spread along the leading directions of their own W."""
    rng, layers, tensors = np.random.default_rng(5), range(10), {}
    weights = {name(layer, "q"): rng.standard_normal((D, D)) for layer in layers}
    for module, weight in weights.items():
        turn = np.linalg.svd(weight)[2]
        a = rng.standard_normal((4, D)) @ turn.T @ np.diag([pull] * TOP + [1.0] * (D - TOP)) @ turn
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.tensor(a, dtype=torch.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.tensor(rng.standard_normal((D, 4)))
    place = make_adapter(module=name(0, "q"))
    save_file(tensors, place / "adapter_model.safetensors")
    found = opened(make_base(weights), place, first_i=TOP, last_i=TOP, last_j=J)
    summary, table = found.layers.summary, found.layers.table
    assert summary["word"] == word
    assert summary["beyond"] == (table["p_holm"] < 0.05).sum()
    pairs = found.layers.own_choice.pairings
    drawn = nulls.turned(found.layers.own_choice.places, TOP, found.j, found.rng(7))
    higher = drawn[:, [row.layer == row.weight_layer for row in pairs.itertuples()]].mean(1) >= table["phi"].mean()
    assert found.layers.averages["p_holm"].tolist() == [(1 + higher.sum()) / (1 + len(drawn))]


def test_queries_of_two_runs_are_held_against_their_values(make_base, make_adapter, rng):
    shared, places = rng.standard_normal((4, D)), []
    for run in ("one", "other"):
        tensors = {}
        for kind in "qv":
            a = shared if kind == "q" else rng.standard_normal((4, D))
            a = a + 0.01 * rng.standard_normal((4, D))
            tensors[f"base_model.model.{name(0, kind)}.lora_A.weight"] = torch.tensor(a, dtype=torch.float32)
            tensors[f"base_model.model.{name(0, kind)}.lora_B.weight"] = torch.tensor(rng.standard_normal((D, 4)))
        places.append(make_adapter(module=name(0, "q"), directory=run))
        save_file(tensors, places[-1] / "adapter_model.safetensors")
    base = make_base({name(0, kind): rng.standard_normal((D, D)) for kind in "qv"})
    found = opened(base, *places)
    phi = found.agreement.set_index(["projection", "k"])["phi"]
    lead = (phi["q_proj"] - phi["v_proj"]).mean()
    assert found.query_lead["difference"] == pytest.approx(lead)
    assert found.query_lead["z"] > 3


def test_a_weight_is_decomposed_three_times_at_most_however_many_directions_are_asked_for(make_base, rng, monkeypatch):
    weight, calls = rng.standard_normal((64, 72)), []
    base, decompose = open_base(make_base({MODULE: weight})), directions.decompose
    monkeypatch.setattr(inputs, "KEPT", 8)
    monkeypatch.setattr(directions, "decompose", lambda *given, **named: calls.append(1) or decompose(*given, **named))
    right = np.linalg.svd(weight.astype(np.float32))[2]
    for k, times in ((4, 1), (8, 1), (9, 2), (16, 2), (17, 3), (40, 3), (64, 3), (4, 3)):
        found = inputs.weight_directions(base, MODULE, k).vectors
        assert len(calls) == times, k
        assert abs(np.diag(right[:k] @ found)).min() > 1 - 1e-5
    with pytest.raises(ValueError, match="has rank 64"):
        inputs.weight_directions(base, MODULE, 65)
