"""Adapters of one model held against each other: dense matrices by hand, planted truths and simulation."""

from itertools import combinations

import distributed
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import linalg, stats

from helpers import parameters, subspaces, weights, workers
from helpers.subspaces import agreement, haar, measured, merging, nulls, paired, pooled
from helpers.values import Nothing
from tests.subspaces.test_atlas import name, random_factors, write_base, write_lora
from tests.weights import building

D, OUT = 36, 28
NONE = {"beside_base": "", "beside_adapters": [], "checkpoints": [], "two_seeds": [], "two_tasks": []}


def study(base, *adapters, **more):
    given = {"base": str(base), "adapters": [str(place) for place in adapters], **NONE, **more}
    return subspaces.AdaptersTogether(parameters.AdaptersTogether.parse(given))


def leading(delta, k, side):
    """The k leading directions, by a whole decomposition."""
    u, _, v = np.linalg.svd(delta)
    return u[:, :k] if side == "left" else v[:k].T


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """(place, {adapter: {module: ΔW}}) of two adapters by PEFT, one with a rank_pattern, one by MLX, a whole one."""
    torch.manual_seed(3)
    place, model = tmp_path_factory.mktemp("llama"), building.llama()
    model.save_pretrained(place / "base")
    targets = {"target_modules": ["q_proj", "o_proj", "down_proj"]}
    truth = {}
    for label, more in (("plain", {"r": 3}), ("patterned", {"r": 5, "rank_pattern": {"layers.1.self_attn.q_proj": 2}})):
        merged = building.merged(model, building.adapt(model, place / label, **targets, **more))
        truth[label] = {module: delta for module, (_, delta) in merged.items()}
    shapes = {
        module: delta.shape for module, delta in truth["plain"].items() if "q_proj" in module or "layers.0" in module
    }
    held, truth["mlx"] = {}, {}
    for module, (out, width) in shapes.items():
        a, b = torch.randn(width, 4), torch.randn(4, out)
        held |= {f"{module}.lora_a": a, f"{module}.lora_b": b}
        truth["mlx"][module] = 3 * (a.double() @ b.double()).T.numpy()
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 3.0, "dropout": 0.0}}
    building.write(place / "mlx", held, config, "adapters.safetensors")
    before = {module: model.get_submodule(module).weight.data.clone() for module in truth["plain"]}
    for module in before:
        out, width = before[module].shape
        added = 0.1 * torch.randn(out, 3) @ torch.randn(3, width) + 0.003 * torch.randn(out, width)
        model.get_submodule(module).weight.data += added
    model.save_pretrained(place / "full")
    truth["full"] = {
        module: (model.get_submodule(module).weight.data.double() - weight.double()).numpy()
        for module, weight in before.items()
    }
    return place, truth


@pytest.fixture(scope="module")
def together(llama):
    place, truth = llama
    return study(place / "base", *(place / label for label in truth))


def test_a_row_of_a_pair_is_what_dense_matrices_say(together, llama):
    _, truth = llama
    assert together.labels == [*truth] and together.whole == ["full"] and together.beside is together
    shared = {pair: truth[pair[0]].keys() & truth[pair[1]].keys() for pair in combinations(truth, 2)}
    rows = together.pairs
    assert len(rows) == sum(map(len, shared.values())) == 3 * 6 + 3 * 4 and rows["why"].eq("").all()
    ranks = {"plain": 3, "mlx": 4, "full": 32}
    for row in rows.itertuples():
        one, other = (truth[label][row.module] for label in (row.one, row.other))
        sizes = np.linalg.norm(one), np.linalg.norm(other)
        np.testing.assert_allclose([row.norm_one, row.norm_other], sizes, rtol=1e-5)
        assert row.cosine == pytest.approx(np.sum(one * other) / np.prod(sizes), abs=1e-5)
        assert row.cosine_sd == pytest.approx(one.size**-0.5) and not row.same_start
        patterned = 2 if "1.self_attn.q" in row.module else 5
        assert row.j == min(4, *(ranks.get(label, patterned) for label in (row.one, row.other)))
        for side in ("left", "right"):
            u, v = (leading(delta, row.j, side) for delta in (one, other))
            angles = linalg.subspace_angles(u, v)
            assert getattr(row, f"phi_{side}") == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-4)
            assert getattr(row, f"phi_{side}_chance") == pytest.approx(row.j / len(u))
            assert getattr(row, f"angle_{side}") == pytest.approx(np.degrees(angles.min()), abs=0.1)
    assert set(rows["layer"]) == {0, 1} == set(together.layers)
    assert together.projections == list(dict.fromkeys(rows["projection"])) and len(together.projections) == 3


def test_interference_is_what_dense_projections_say(together, llama):
    _, truth = llama
    rows = together.interference
    assert len(rows) == 2 * len(together.pairs)
    for row in rows.itertuples():
        one, other = (truth[label][row.module] for label in (row.one, row.other))
        energy = np.cumsum(np.linalg.svd(other, compute_uv=False) ** 2) / np.sum(other**2)
        assert row.k == 1 + np.sum(energy < 0.9)
        u, v = (leading(other, row.k, side) for side in ("left", "right"))
        shares = [np.linalg.norm(part) ** 2 / np.sum(one**2) for part in (u.T @ one, one @ v, u.T @ one @ v)]
        np.testing.assert_allclose([row.output, row.input, row.both], shares, atol=1e-4)
        np.testing.assert_allclose([row.output_chance, row.input_chance], [row.k / len(one), row.k / one.shape[1]])


def kept(merged, delta):
    """along, cosine and off, by projection."""
    along = np.vdot(merged, delta) / np.vdot(delta, delta)
    sizes = np.linalg.norm(merged), np.linalg.norm(delta)
    return along, along * sizes[1] / sizes[0], np.linalg.norm(merged - along * delta) / sizes[1]


def whole(deltas, modules):
    return np.concatenate([np.ravel(deltas[module]) for module in modules])[None]


def test_merges_keep_of_each_what_dense_merges_say(together, llama):
    """An adapter without a module adds nothing to it, and an average still counts it."""
    _, truth = llama
    for row in together.kept.itertuples():
        absent = np.zeros_like(truth["plain"][row.module])
        deltas = {label: truth[label].get(row.module, absent) for label in truth}
        merged = merging.merge([*deltas.values()], row.method, 0.2)
        found = kept(merged, deltas[row.adapter])
        np.testing.assert_allclose([row.along, row.cosine, row.off], found, rtol=1e-3, atol=1e-4)
        expected = {"sum": 1, "average": 1 / 4, "ties": np.nan}[row.method]
        np.testing.assert_equal(row.along_independent, expected)
        others = np.linalg.norm([np.linalg.norm(deltas[label]) for label in deltas if label != row.adapter])
        np.testing.assert_allclose(row.off_independent, expected * others / row.norm, rtol=1e-4)
    assert len(together.kept) == 3 * (3 * 6 + 4)
    for row in together.kept_of_pairs.itertuples():
        shared = sorted(truth[row.one].keys() & truth[row.other].keys())
        each = {module: [truth[label][module] for label in (row.one, row.other)] for module in shared}
        merged = {module: merging.merge(deltas, row.method, 0.2) for module, deltas in each.items()}
        found = kept(whole(merged, shared), whole(truth[row.adapter], shared))
        np.testing.assert_allclose([row.along, row.cosine, row.off], found, rtol=1e-3, atol=1e-4)


def test_pairs_are_pooled_over_their_common_modules(together, llama):
    _, truth = llama
    verdicts = {"apart": "apart", "agree": "agree", "against": "against", "share a place": "share_a_place"}
    for row in together.by_pair.itertuples():
        shared = sorted(truth[row.one].keys() & truth[row.other].keys())
        one, other = (whole(truth[label], shared) for label in (row.one, row.other))
        assert row.modules == len(shared)
        assert row.cosine == pytest.approx(np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other), abs=1e-5)
        assert together.agreement.loc[row.other, row.one] == row.cosine
        part = together.pairs.query("one == @row.one and other == @row.other")
        assert (row.least, row.most) == (part["cosine"].min(), part["cosine"].max())
        counts = [getattr(row, column) for column in verdicts.values()]
        assert counts == [(part["verdict"] == verdict).sum() for verdict in verdicts] and sum(counts) == row.modules
        assert row.no_conflict == (row.against + row.share_a_place == 0)
        assert row.sum_along_one == pytest.approx(1 + np.vdot(one, other) / np.sum(one**2), rel=1e-4)
    assert np.diag(together.agreement).tolist() == [1.0] * 4


def test_p_values_are_corrected_over_all_rows_and_sides(together):
    for rows, families in (
        (together.pairs, (["cosine"], ["phi_left", "phi_right"])),
        (together.interference, (["output", "input"],)),
    ):
        for family in families:
            expected = nulls.holm(np.concatenate([rows[f"{one}_p"] for one in family]))
            np.testing.assert_array_equal(np.concatenate([rows[f"{one}_p_holm"] for one in family]), expected)


def test_a_map_holds_the_distances_of_three(llama):
    place, _ = llama
    three = study(place / "base", *(place / label for label in ("plain", "patterned", "mlx")), modules="q_proj")
    assert three.map_error < 1e-6
    tetrahedron = pd.DataFrame(np.eye(4), index=[*"abcd"], columns=[*"abcd"])  # which no plane holds
    places, error = pooled.scaled(tetrahedron)
    apart = [np.linalg.norm(places.loc[one] - places.loc[other]) for one, other in combinations("abcd", 2)]
    assert error == pytest.approx(np.abs(np.divide(apart, 2**0.5) - 1).max()) and 0.1 < error < 0.3
    for one, other in combinations(three.labels, 2):
        distance = np.linalg.norm(three.map.loc[one] - three.map.loc[other])
        assert distance**2 == pytest.approx(2 - 2 * three.agreement.loc[one, other])
    np.testing.assert_allclose(three.map.mean(), 0, atol=1e-12)
    assert (three.map.max() >= -three.map.min()).all()  # of either mirror image always the same one


@pytest.fixture(scope="module")
def alone(llama):
    """Two adapters without their base."""
    return study("", llama[0] / "mlx", llama[0] / "patterned")


def test_two_adapters_have_no_map_and_no_need_of_their_base(llama, alone):
    based = study(llama[0] / "base", *alone.parameters.adapters)
    assert isinstance(alone.map, Nothing) and "three adapters" in alone.map.reason and alone.map_error is alone.map
    assert alone.base is None and alone.notes == [] and isinstance(alone.beside, Nothing)
    assert isinstance(alone.drift, Nothing) and isinstance(alone.yardsticks, Nothing)
    for table in ("pairs", "interference", "kept"):
        pd.testing.assert_frame_equal(getattr(alone, table), getattr(based, table))


def test_workers_elsewhere_find_the_same(alone):
    kinds = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "protocol": "tcp", "memory_limit": 0}
    own = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**kinds, **own) as cluster:
        elsewhere = study("", *alone.parameters.adapters, scheduler=cluster.scheduler_address)
        for table in ("pairs", "interference", "kept", "kept_of_pairs", "by_pair"):
            pd.testing.assert_frame_equal(getattr(elsewhere, table), getattr(alone, table), check_exact=True)


def orthonormal(rng, d, k):
    return haar.random_directions(d, k, rng)


def test_what_is_planted_comes_back_as_a_verdict(tmp_path, rng):
    """Beside one: the same turned a little, its negative, another action in its place, and one of its own."""
    kinds = ("agree", "against", "share a place", "apart")
    weights_of = {name(n, "v"): rng.standard_normal((OUT, D)) for n in range(8)}
    one, other, expected = {}, {}, {}
    for n, module in enumerate(weights_of):
        kind = expected[module] = kinds[n % 4]
        left, right = orthonormal(rng, OUT, 4), orthonormal(rng, D, 4)
        one[module] = left, right.T
        turned = orthonormal(rng, 4, 4)
        second = (left @ turned, turned.T @ right.T)  # the same ΔW in another gauge
        if kind == "against":
            second = (-second[0], second[1])
        elif kind == "share a place":
            second = (left[:, [1, 2, 3, 0]], right.T)  # the trace of a cyclic permutation is zero: so is the cosine
        elif kind == "apart":
            second = (orthonormal(rng, OUT, 4), orthonormal(rng, D, 4).T)
        noise = 0.05 * orthonormal(rng, OUT, 2), orthonormal(rng, D, 2).T
        other[module] = np.hstack([second[0], noise[0]]), np.vstack([second[1], noise[1]])
    base = write_base(tmp_path / "base", weights_of)
    found = study(base, write_lora(tmp_path / "one", one), write_lora(tmp_path / "other", other))
    assert dict(zip(found.pairs["module"], found.pairs["verdict"], strict=True)) == expected
    counts = found.by_pair.iloc[0]
    assert counts[["apart", "agree", "against", "share_a_place"]].tolist() == [2, 2, 2, 2] and not counts["no_conflict"]
    cosine = found.pairs.groupby("verdict")["cosine"].mean()
    np.testing.assert_allclose(cosine[["agree", "against", "share a place"]], [1, -1, 0], atol=0.02)
    shares = found.interference[found.interference["module"].map(expected) == "share a place"]
    assert shares[["output", "input"]].gt(0.95).all().all()


def test_what_lies_beyond_chance_but_is_little_is_apart(tmp_path, rng):
    """A cosine of 0.06 among 128 dimensions, beside one of 0.3."""
    on = {name(n): rng.standard_normal((128, 128)) for n in range(2)}
    one, other = {}, {}
    for module, share in zip(on, (0.06, 0.3), strict=True):
        one[module], own = ((orthonormal(rng, 128, 4), orthonormal(rng, 128, 4).T) for _ in range(2))
        other[module] = np.hstack([own[0], share * one[module][0]]), np.vstack([own[1], one[module][1]])
    labelled = [write_lora(tmp_path / label, factors) for label, factors in (("one", one), ("other", other))]
    rows = study(write_base(tmp_path / "base", on), *labelled).pairs
    assert rows["cosine_p_holm"].max() < 1e-6
    assert rows["verdict"].tolist() == ["apart", "agree"]


@pytest.fixture(scope="module")
def independent(tmp_path_factory):
    """80 modules with two adapters without relation, and one that began with the A of the first."""
    rng, place = np.random.default_rng(11), tmp_path_factory.mktemp("independent")
    weights_of = {name(n): rng.standard_normal((OUT, D)).astype(np.float32) for n in range(80)}
    first, second = random_factors(rng, weights_of, 4), random_factors(rng, weights_of, 3)
    same = {module: (rng.standard_normal(b.shape) / 9, a) for module, (b, a) in first.items()}
    base = write_base(place / "base", weights_of)
    named = {"first": first, "second": second, "same": same}
    return study(base, *(write_lora(place / label, factors) for label, factors in named.items()))


@pytest.mark.parametrize("other", ["second", "same"])
def test_independent_adapters_are_at_chance(independent, other):
    """Those that began with one A too, as far as their outputs go."""
    rows = independent.pairs.query("one == 'first' and other == @other")
    assert rows["same_start"].eq(other == "same").all()
    into = independent.interference.query("one == 'first' and other == @other")
    tests = {"cosine": rows["cosine_p"], "left": rows["phi_left_p"], "output": into["output_p"]}
    if other == "second":
        tests |= {"right": rows["phi_right_p"], "input": into["input_p"]}
    for what, p in tests.items():
        assert stats.kstest(p.astype(float), "uniform").pvalue > 0.001, what
        families = p.to_numpy(float).reshape(20, 4)
        rejected = sum(nulls.holm(family).min() < 0.05 for family in families)
        assert stats.binomtest(rejected, 20, 0.05, "greater").pvalue > 0.005, what


@pytest.mark.parametrize("method", ["sum", "average"])
def test_merges_of_independent_adapters_keep_what_is_stated(independent, method):
    """The means of along and of off² over modules; first and second have another start."""
    rows = independent.kept.query("method == @method and adapter == 'second'")
    for column, power in (("along", 1), ("off", 2)):
        beyond = rows[column] ** power - rows[f"{column}_independent"] ** power
        assert abs(beyond.mean()) < 4 * beyond.std() / np.sqrt(len(beyond)), column
        assert (rows[f"{column}_independent"] ** power / beyond.std()).mean() > 5


def test_chance_of_a_common_start_is_that_of_outputs_alone(rng):
    """p of the cosine of B₁ A and B₂ A with independent B is uniform, where that against all directions is not."""
    p, whole = [], []
    for _ in range(250):
        a = rng.standard_normal((4, D))
        states = []
        for _ in range(2):
            found = subspaces.directions.decompose_update((rng.standard_normal((OUT, 4)), a))
            delta = (found.left * found.values) @ found.right.T
            states.append(paired.State(measured.Added(found, None, 4, 4, 0.0), delta, None, a, None))
        cosine = subspaces.cosine(*(each.delta for each in states))
        p.append(paired._chance_of(*states, cosine)["cosine_p"])
        whole.append(paired._chance_of(states[0], states[1]._replace(a=None), cosine)["cosine_p"])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert stats.binomtest(sum(np.array(p) < 0.05), 250, 0.05).pvalue > 0.01
    assert np.mean(np.array(whole) < 0.05) > 0.2


def test_of_one_start_that_training_left_behind_rounding_is_no_agreement(rng):
    """Inputs that share nothing now: the cosine is 0 whatever the outputs are."""
    untrained, a = rng.standard_normal((2, D)), np.eye(4, D)
    states = []
    for rows in (a[:2], a[2:]):
        found = subspaces.directions.decompose_update((rng.standard_normal((OUT, 2)), rows))
        delta = (found.left * found.values) @ found.right.T
        states.append(paired.State(measured.Added(found, None, 2, 2, 0.0), delta, None, rows, untrained))
    found = paired._chance_of(*states, 0.0)
    assert found["same_start"] and found["cosine_sd"] == pytest.approx(0, abs=1e-15)
    assert found["cosine_p"] == 1 == pytest.approx(paired._chance_of(*states, 1e-16)["cosine_p"])


def test_whole_families_of_independent_adapters_are_apart(independent):
    rows = independent.by_pair.set_index(["one", "other"])
    assert rows.loc[("first", "second"), "apart"] >= 79
    assert rows.loc[("first", "same"), ["agree", "against"]].sum() <= 1
    assert (rows["cosine"].abs() < 3.5 * rows["cosine_sd"]).all()
    assert independent.notes == ["first and same began with one A, so that their inputs are alike without any training"]


def test_a_common_start_is_seen_in_what_training_left_of_a(data):
    """r8 of two tasks began with one A, r64 of two seeds did not; the untrained A is not asked."""
    places = (data / "language_model_adapters" / label for label in ("r8", "r8-author", "r64", "r64-seed1"))
    module = "model.layers.14.self_attn.q_proj"
    r8, author, r64, seed = (weights.open_update(place).update(module).a for place in places)
    assert paired.same_start(r8, author) and not paired.same_start(r64, seed)
    assert not paired.same_start(r8, r64) and not paired.same_start(r8[:1], author[:1])
    assert not paired.same_start(r8, None) and not paired.same_start(r8, np.roll(author, 1, axis=0))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps, of which the last alone holds A before training, and one adapter of other texts."""
    rng, place = np.random.default_rng(5), tmp_path_factory.mktemp("run")
    weights_of = {name(n, kind): rng.standard_normal((OUT, D)).astype(np.float32) for n in range(2) for kind in "qv"}
    start = {module: rng.standard_normal((4, D)) for module in weights_of}
    ends = random_factors(rng, weights_of, 4)
    states = {}
    for step, share in (("step0", 0.0), ("step1", 0.5), ("end", 1.0)):
        states[step] = {
            module: (share * ends[module][0], start[module] + 0.3 * share * ends[module][1]) for module in weights_of
        }
        write_lora(place / step, states[step])
    held = {f"base_model.model.{module}.lora_A.weight": a for module, a in start.items()}
    building.write(
        place / "end", {key: torch.tensor(a).float() for key, a in held.items()}, None, "untrained_A.safetensors"
    )
    write_lora(place / "other", random_factors(rng, weights_of, 3))
    write_base(place / "base", weights_of)
    return place, start, states


def test_a_run_drifts_as_dense_matrices_say(run):
    place, start, states = run
    steps = [str(place / step) for step in states]
    found = study(place / "base", place / "end", place / "other", checkpoints=steps)
    assert found.checkpoints == [*states] and found.labels == ["end", "other"]
    rows = found.drift.set_index(["checkpoint", "module"])
    assert list(dict.fromkeys(found.drift["checkpoint"])) == [*states] and len(rows) == 12
    for (step, module), row in rows.iterrows():
        (b, a), (end_b, end_a) = states[step][module], states["end"][module]
        delta, end = 2 * b @ a, 2 * end_b @ end_a
        angles = linalg.subspace_angles(a.T, start[module].T)
        assert row["kept_a"] == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-5)
        assert row["kept_a_chance"] == pytest.approx(4 / D)
        assert row["norm"] == pytest.approx(np.linalg.norm(delta), rel=1e-5)
        if step == "step0":
            assert np.isnan(row["cosine_end"]) and "ΔW = B A is zero" in row["why"]
            continue
        assert row["cosine_end"] == pytest.approx(
            np.vdot(delta, end) / np.linalg.norm(delta) / np.linalg.norm(end), abs=1e-5
        )
        for side in ("left", "right"):
            angles = linalg.subspace_angles(leading(delta, 4, side), leading(end, 4, side))
            assert row[f"phi_{side}_end"] == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-4)
    pooled = found.drift_pooled.set_index("checkpoint")
    assert pooled.loc["end", "cosine_end"] == pytest.approx(1) and np.isnan(pooled.loc["step0", "cosine_end"])
    deltas = {step: whole({m: b @ a for m, (b, a) in states[step].items()}, start) for step in ("step1", "end")}
    expected = np.vdot(*deltas.values()) / np.prod([np.linalg.norm(each) for each in deltas.values()])
    assert pooled.loc["step1", "cosine_end"] == pytest.approx(expected, abs=1e-5)
    assert pooled.loc["step1", "norm"] == pytest.approx(2 * np.linalg.norm(deltas["step1"]), rel=1e-5)
    assert pooled.loc["step1", "kept_a"] == rows.loc["step1"]["kept_a"].median()
    without = study(place / "base", place / "end", place / "other", checkpoints=steps[:2])
    assert without.drift["kept_a"].isna().all() and without.checkpoints == ["step0", "step1"]


def test_a_module_whose_workers_died_is_rows_with_the_reason(run, monkeypatch):
    place, _, states = run
    lost, real = workers.Lost("all 4 workers died"), workers.results

    def results(at, function, tasks):
        for n, found in real(at, function, tasks):
            yield n, lost if tasks[n].module == name(1) else found

    monkeypatch.setattr(workers, "results", results)
    steps = [str(place / step) for step in states]
    found = study(place / "base", place / "end", place / "other", checkpoints=steps)
    for rows, many in ((found.pairs, 1), (found.drift, 3)):
        without = rows["module"] == name(1)
        assert without.sum() == many and rows.loc[without, "why"].eq(lost.why).all()
        assert len(rows) == 4 * many and rows.loc[without, "layer"].eq(1).all()
    assert found.pairs["cosine"].notna().sum() == 3 == found.by_pair["modules"].item()


def test_yardsticks_are_pairs_of_the_adapters(run):
    place, *_ = run
    three = [place / label for label in ("step1", "end", "other")]
    found = study(place / "base", *three, two_seeds=["end", str(place / "step1")], two_tasks=["other", "end"])
    seeds, tasks = (row for _, row in found.yardsticks.iterrows())
    assert (seeds["yardstick"], seeds["one"], seeds["other"]) == ("two seeds", "step1", "end")
    assert seeds["cosine"] == found.agreement.loc["step1", "end"] > 0.9
    assert tasks["cosine"] == found.agreement.loc["other", "end"] and tasks["modules"] == 4
    part = found.pairs.query("one == 'end' and other == 'other'")
    assert tasks["phi_left"] == part["phi_left"].median() and tasks["phi_left_chance"] == pytest.approx(3 / OUT)
    assert found.pairs.query("other == 'end'")["same_start"].all()


def test_verdicts_need_both_sides_of_an_interference(together):
    """What the table says is what `agreement.verdict` says of its corrected p-values."""
    into = together.interference.set_index(["module", "one", "other"])[["output_p_holm", "input_p_holm"]]
    for row in together.pairs.itertuples():
        sides = [tuple(into.loc[key]) for key in ((row.module, row.one, row.other), (row.module, row.other, row.one))]
        assert row.verdict == agreement.verdict(row.cosine, row.cosine_p_holm, *sides)
