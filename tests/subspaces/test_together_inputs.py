"""Adapters together on inputs that others bring: what is refused before anything is computed, and what is a reason."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from helpers import parameters, weights
from helpers.parameters import BadParameter
from helpers.subspaces import haar, paired
from helpers.values import Nothing
from helpers.weights import NoSuchModule, WeightsError
from tests.subspaces.test_atlas import NEOX, name, random_factors, write_base, write_lora
from tests.subspaces.test_together import NONE, study

D = 24


def weights_of(rng, *modules, d=D):
    return {module: rng.standard_normal((d, d)).astype(np.float32) for module in modules}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base of two layers; adapters on q and v, on q alone, on v alone, a copy, and those of other models."""
    rng, place = np.random.default_rng(3), tmp_path_factory.mktemp("inputs")
    both = weights_of(rng, *(name(n, kind) for n in range(2) for kind in "qv"))
    q, v = ({module: weight for module, weight in both.items() if f"{kind}_proj" in module} for kind in "qv")
    write_base(place / "base", both)
    for label, on in (("both", both), ("other", both), ("q", q), ("v", v)):
        write_lora(place / label, random_factors(rng, on, 3))
    shutil.copytree(place / "both", place / "copy")
    write_lora(place / "wide", random_factors(rng, weights_of(rng, *both, d=D + 1), 3))
    write_lora(place / "alien", random_factors(rng, weights_of(rng, "blocks.0.mlp.w"), 3))
    write_base(place / "full", {module: weight + 0.1 for module, weight in both.items()})
    return place


def at(place, *labels):
    return [str(place / label) for label in labels]


@pytest.mark.parametrize(
    ("base", "adapters", "more", "error", "match"),
    [
        ("base", ["both", "base/../both"], {}, WeightsError, "named twice"),
        ("base", ["both", "copy"], {}, WeightsError, "hold the same numbers at .* one adapter given twice"),
        ("base", ["q", "v"], {}, WeightsError, r"no two of the adapters change one module \(q: .*q_proj.*; v: "),
        ("", ["q", "v"], {}, WeightsError, "no module of v is one of q"),
        ("base", ["both", "wide"], {}, WeightsError, "wide adds a 25 × 25 matrix to .*, but in base it is 24 × 24"),
        ("", ["both", "wide"], {}, WeightsError, "wide adds a 25 × 25 matrix to .*, but in both it is 24 × 24"),
        ("base", ["both", "alien"], {}, WeightsError, "no module of alien is one of base"),
        ("base", ["both", "nowhere"], {}, WeightsError, "nowhere does not exist"),
        ("base", ["both", "nowhere/at/all"], {}, WeightsError, "nowhere/at/all does not exist"),
        ("base", ["both", "base"], {}, WeightsError, "is the base itself"),
        ("", ["both", "full"], {}, WeightsError, "is a whole model, .* give the base"),
        ("base", ["both", "q"], {"modules": "q_prj"}, NoSuchModule, "parameter modules: .*q_prj.*; did you mean"),
        ("", ["both", "q"], {"modules": "q_proj[head *]"}, WeightsError, "only the base tells: give it"),
        ("base", ["both", "q"], {"checkpoints": ["other", "nowhere"]}, WeightsError, "nowhere does not exist"),
        ("base", ["both", "q"], {"checkpoints": ["other", "alien"]}, WeightsError, "no module of alien is one of"),
        ("base", ["both", "q"], {"checkpoints": ["wide", "both"]}, WeightsError, "wide adds a 25 × 25"),
        ("base", ["q", "other"], {"checkpoints": ["both", "copy"]}, WeightsError, "hold the same numbers"),
        (
            "base",
            ["both", "q"],
            {"two_seeds": ["both", "other"]},
            BadParameter,
            "two_seeds names .*other', which is no",
        ),
        ("base", ["both", "q"], {"two_tasks": ["both", "base/../both"]}, BadParameter, "two_tasks names both twice"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is(place, monkeypatch, base, adapters, more, error, match):
    monkeypatch.setattr(paired, "compare", None)
    more = {key: at(place, *value) if isinstance(value, list) else value for key, value in more.items()}
    with pytest.raises(error, match=match) as refusal:
        study(base and place / base, *at(place, *adapters), **more)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"adapters": []}, "adapters is empty: give two or more"),
        ({"adapters": ["a"]}, r"adapters is \['a'\]: give two or more to compare"),
        ({"adapters": ["a", "b", "a"]}, "adapters names one twice"),
        ({"density": 0.0}, "parameter density is 0.0: input should be greater than 0"),
        ({"density": 1.5}, "parameter density is 1.5: input should be less than or equal to 1"),
        ({"checkpoints": ["a"]}, r"checkpoints is \['a'\]: give two or more"),
        ({"two_seeds": ["a", "b", "c"]}, "two_seeds is .*: give two, or none"),
        ({"beside_base": ""}, "beside_adapters is given and beside_base is empty"),
        ({"beside_adapters": ["a"]}, r"beside_adapters is \['a'\]: give two or more"),
    ],
)
def test_parameters_that_cannot_be_are_refused(given, match):
    with pytest.raises(BadParameter, match=match):
        parameters.AdaptersTogether.parse(given)


def test_what_is_by_default_of_other_adapters_is_not_given():
    own = parameters.AdaptersTogether.parse({"base": "mine", "adapters": ["a", "b"]})
    assert own.checkpoints == own.two_seeds == own.two_tasks == []
    defaults = parameters.AdaptersTogether.parse({})
    assert len(defaults.checkpoints) == 3 and len(defaults.two_seeds) == len(defaults.two_tasks) == 2
    fewer = parameters.AdaptersTogether.parse({"adapters": defaults.two_seeds})
    assert (fewer.two_seeds, fewer.two_tasks) == (defaults.two_seeds, []) and len(fewer.checkpoints) == 3
    wrong = parameters.AdaptersTogether.parse({"adapters": ["a", "b"], "two_seeds": ["a", "c"]})
    assert wrong.two_seeds == ["a", "c"]  # which the study refuses


@pytest.mark.parametrize("base", ["base", ""])
def test_adapters_without_a_common_module_are_named(place, base):
    """Whatever their order, and whether their base is known."""
    found = study(base and place / base, *at(place, "q", "v", "both"))
    assert found.notes == ["q and v change no module in common"]
    rows = found.by_pair.set_index(["one", "other"])
    assert rows["modules"].to_dict() == {("q", "v"): 0, ("q", "both"): 2, ("v", "both"): 2}
    assert rows.loc[("q", "v")].drop("modules").isna().all() and np.isnan(found.agreement.loc["q", "v"])
    assert isinstance(found.map, Nothing) and "no module in common" in found.map.reason
    seeds = study(base and place / base, *at(place, "q", "v", "both"), two_seeds=["q", "v"]).of_yardstick("two seeds")
    assert seeds.reason == "the two seeds change no module in common"
    assert found.of_yardstick("two seeds").reason == "two_seeds is not given"
    average = found.kept.query("method == 'average'")
    assert average["along_independent"].eq(1 / 3).all() and len(average) == 8


def test_adapters_that_name_other_models_are_noted(place, tmp_path):
    for label in ("both", "other"):
        shutil.copytree(place / label, tmp_path / label)
        config = json.loads((tmp_path / label / "adapter_config.json").read_text(encoding="utf-8"))
        given = {"base_model_name_or_path": f"someone/model-of-{label}"}
        (tmp_path / label / "adapter_config.json").write_text(json.dumps(config | given), encoding="utf-8")
    (note,) = study("", tmp_path / "both", tmp_path / "other").notes
    assert note.startswith("the adapters say that they were trained on different models") and "model-of-both" in note


def test_a_module_that_cannot_be_compared_is_a_row_with_its_reason(tmp_path, rng):
    kinds = ("good", "untrained", "broken", "misfit", "tiny")
    on = weights_of(rng, *(f"layers.0.{kind}" for kind in kinds))
    base = write_base(tmp_path / "base", on)
    one, other = random_factors(rng, on, 3), random_factors(rng, on, 4)
    one["layers.0.untrained"][0][:] = 0
    one["layers.0.broken"][0][0] = np.inf
    other["layers.0.misfit"] = rng.standard_normal((D + 1, 4)), rng.standard_normal((4, D))
    b, a = one["layers.0.tiny"]
    one["layers.0.tiny"] = np.hstack([1e4 * b, -1e4 * b * (1 + 1e-9)]), np.vstack([a, a])  # lost in float32
    adapters = [write_lora(tmp_path / label, factors) for label, factors in (("one", one), ("other", other))]
    found = study(base, *adapters)
    rows = found.pairs.set_index("projection")
    assert rows.loc["good", "why"] == "" and rows.loc["good", "verdict"] == "apart"
    assert "B of layers.0.untrained is zero" in rows.loc["untrained", "why"]
    assert rows.loc["untrained", "norm_one"] == 0 and rows.loc["untrained", "norm_other"] > 0
    assert "NaN or Inf" in rows.loc["broken", "why"] and np.isnan(rows.loc["broken", "norm_one"])
    assert "25 × 24" in rows.loc["misfit", "why"]
    assert "does not rise above the rounding" in rows.loc["tiny", "why"]
    bad = rows.drop("good")
    assert bad[["cosine", "cosine_p", "cosine_p_holm", "phi_left", "angle_right"]].isna().all().all()
    assert bad["verdict"].eq("").all() and set(found.interference["projection"]) == {"good"}
    assert found.by_pair["modules"].tolist() == [1] and found.by_pair["cosine"].item() == rows.loc["good", "cosine"]
    assert set(found.kept["projection"]) == {"good", "untrained", "tiny"}
    assert set(found.kept.query("projection == 'untrained'")["adapter"]) == {"other"}
    assert set(found.kept_of_pairs["adapter"]) == {"one", "other"}


def test_directions_that_an_adapter_does_not_determine_are_named(tmp_path, rng):
    """Of six equal singular values any four may come first; of four all do."""
    on = weights_of(rng, "layers.0.a", "layers.1.a")
    tied = {
        module: (haar.random_directions(D, r, rng), haar.random_directions(D, r, rng).T)
        for module, r in zip(on, (6, 4), strict=True)
    }
    lora, other = write_lora(tmp_path / "tied", tied), write_lora(tmp_path / "other", random_factors(rng, on, 3))
    six, four = study("", lora, write_lora(tmp_path / "more", random_factors(rng, on, 5))).pairs.itertuples()
    assert six.why.startswith("φ at j = 4: directions of tied are not determined, as singular values agree to within")
    assert six.phi_error == 1 and four.why == "" and four.phi_error < 1e-4
    assert study("", lora, other).pairs["j"].tolist() == [3, 3]


@pytest.mark.parametrize("base", ["base", ""])
def test_one_change_by_other_factors_is_one_adapter_given_twice(place, rng, tmp_path, base):
    """(B Qᵀ, Q A) is the same ΔW; twice it is not, and no two untrained adapters are."""
    on = weights_of(rng, *(name(n, kind) for n in range(2) for kind in "qv"))
    factors, turn = random_factors(rng, on, 3), haar.random_directions(3, 3, rng)
    turned = {module: (b @ turn.T, turn @ a) for module, (b, a) in factors.items()}
    empty = [{module: (0 * b, a) for module, (b, a) in each.items()} for each in (factors, random_factors(rng, on, 3))]
    write_lora(tmp_path / "one", factors)
    write_lora(tmp_path / "twice", factors, scale=4.0)
    for label, each in zip(("turned", "zero", "also-zero"), (turned, *empty), strict=True):
        write_lora(tmp_path / label, each)
    base = base and place / base
    with pytest.raises(WeightsError, match=r"one and .*turned hold the same numbers at .*: one adapter given twice"):
        study(base, *at(tmp_path, "twice", "one", "turned"))
    study(base, *at(tmp_path, "one", "twice", "zero", "also-zero"), checkpoints=at(tmp_path, "turned", "one"))


def test_a_density_that_keeps_nothing_of_a_module_costs_ties_alone(place):
    found = study(place / "base", *at(place, "both", "other"), density=0.001)
    told = "density is 0.001: of 576 entries it keeps none"
    assert found.pairs["cosine"].notna().all() and found.pairs["why"].eq(told).all()
    for table in (found.kept, found.kept_pooled, found.kept_of_pairs):
        assert set(table["method"]) == {"sum", "average", "ties"}
        assert table[["along", "cosine", "off"]].isna().all(axis=1).eq(table["method"] == "ties").all()


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ("one,other,method\n", "columns .*: it has no 'task', 'accuracy', 'alone'$"),
        (
            "one,other,method,task,accuracy,alone\nboth,other,sum,t,0.5,0.6\nboth,both,sum,t,0.5,0.6\n",
            "row 2 merges one",
        ),
        ("one,other,method,task,accuracy,alone\nboth,other,sum,t,50,60\n", "row 1 has a share outside 0 … 1"),
        ("one,other,method,task,accuracy,alone\nboth,other,sum,t,,0.6\n", "row 1 has a share outside 0 … 1"),
        ("one,other,method,task,accuracy,alone\nboth,other,sum,t,high,0.6\n", "could not convert string to float"),
        ("one,other,method,task,texts,accuracy,alone\nboth,other,sum,t,0,1,0.6\n", "row 1 was measured on no text"),
    ],
)
def test_a_table_of_what_merges_answer_that_cannot_be_one_is_refused(place, tmp_path, rows, match):
    (tmp_path / "answers.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(BadParameter, match=match):
        study(place / "base", *at(place, "both", "other"), measured=str(tmp_path / "answers.csv"))


def test_ties_answers_at_the_density_that_is_asked_for(place, tmp_path):
    file, found = tmp_path / "answers.csv", {}
    table = pd.DataFrame({"one": "both", "other": "other", "method": ["sum", "ties", "ties"], "density": [1, 0.2, 0.5]})
    table = table.assign(task="t", accuracy=[0.5, 0.4, 0.3], alone=0.6)
    for told in (table, table.drop(columns="density")):
        told.to_csv(file, index=False)
        of = study(place / "base", *at(place, "both", "other"), measured=str(file), density=0.2)
        found["density" in told] = of.answers["accuracy"].tolist()
    assert found == {True: [0.5, 0.4], False: [0.5, 0.4, 0.3]}


def test_an_untrained_adapter_has_no_place_in_a_map(place, tmp_path, rng):
    on = weights_of(rng, *(name(n, kind) for n in range(2) for kind in "qv"))
    zero = write_lora(tmp_path / "zero", {module: (0 * b, a) for module, (b, a) in random_factors(rng, on, 3).items()})
    found = study(place / "base", *at(place, "both", "other"), zero)
    assert found.notes == [] and found.map.reason == "two of the adapters have no module in common that can be compared"


def test_nothing_that_can_be_compared_is_no_error(tmp_path, rng):
    on = weights_of(rng, "layers.0.a")
    base, labels = write_base(tmp_path / "base", on), ("one", "other", "third")
    factors = {label: random_factors(rng, on, 3) for label in labels}
    for pair in factors.values():
        pair["layers.0.a"][0][0] = np.inf
    found = study(base, *(write_lora(tmp_path / label, pair) for label, pair in factors.items()))
    assert found.pairs["why"].str.contains("NaN or Inf").all() and found.interference.empty and found.kept.empty
    assert found.by_pair["modules"].eq(0).all() and isinstance(found.map, Nothing) and found.kept_of_pairs.empty


def test_a_foreign_whole_model_is_a_row_with_its_reason(place, tmp_path, rng):
    alien = write_base(tmp_path / "alien", weights_of(rng, *(name(n, kind) for n in range(2) for kind in "qv")))
    found = study(place / "base", place / "both", alien)
    assert found.pairs["why"].str.contains("nothing in common").all() and found.pairs["cosine"].isna().all()


def test_parts_are_modules_of_their_own(tmp_path, rng):
    on = {NEOX.format(n): rng.standard_normal((3 * 48, 48)).astype(np.float32) for n in range(2)}
    base = write_base(tmp_path / "base", on, {"model_type": "gpt_neox", "num_attention_heads": 2})
    adapters = [write_lora(tmp_path / label, random_factors(rng, on, 3)) for label in ("one", "other")]
    for pattern, count in (("[*]", 3), ("layers.1.*[q, head *]", 2)):
        rows = study(base, *adapters, modules=pattern).pairs
        opened = [weights.open_update(path, weights.open_base(base)) for path in adapters]
        assert len(set(rows["projection"])) == count and rows["why"].eq("").all()
        for row in rows.itertuples():
            one, other = (updates.delta(row.module) for updates in opened)
            assert len(one) in (24, 48) and row.norm_one == pytest.approx(np.linalg.norm(one))
            expected = np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
            assert row.cosine == pytest.approx(expected, abs=1e-9)


def test_the_second_model_is_a_study_of_its_own(place):
    found = study(
        place / "base", *at(place, "both", "q"), beside_base=str(place / "base"), beside_adapters=at(place, "full", "v")
    )
    assert found.beside.labels == ["full", "v"] and found.beside.whole == ["full"] and found.whole == []
    assert found.beside.beside is found.beside and isinstance(found.beside.drift, Nothing)
    assert {file.parent.name for file in found.files} == {"base", "both", "q"}
    assert NONE.keys() < type(found.parameters).model_fields.keys()
