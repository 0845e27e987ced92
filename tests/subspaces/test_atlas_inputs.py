"""Rows of an atlas on inputs that others bring: odd matrices, names and companies. Synthetic throughout."""

import json

import numpy as np
import pytest

from helpers import parameters, subspaces
from helpers.subspaces import haar, measured, nulls
from tests.subspaces.test_atlas import random_factors, study, write_base, write_lora

D = 40


def name(part="q", layer=0):
    return f"layers.{layer}.{part}_proj"


def counted(weight, delta):
    """Intruders by two whole decompositions, among W's own directions."""
    u, values, _ = np.linalg.svd(np.asarray(weight, float))
    own = u[:, : (values > 1e-5 * values[0]).sum()]
    return (np.abs(np.linalg.svd(weight + delta)[0][:, :10].T @ own).max(1) < 0.5).sum()


def test_what_storing_left_of_a_weight_of_low_rank_is_no_direction_of_it(tmp_path, rng):
    weight = (rng.standard_normal((D, 12)) @ rng.standard_normal((12, D))).astype(np.float32)
    base = write_base(tmp_path / "base", {name(): weight})
    pair = 6 * rng.standard_normal((D, 2)), rng.standard_normal((2, D))
    lora = write_lora(tmp_path / "lora", {name(): pair}, 1.0)
    row, delta = subspaces.atlas(base, [lora]).iloc[0], pair[0] @ pair[1]
    assert row["why"] == "" and row["intruders"] == counted(weight, delta) == 2
    assert study(tmp_path, name(), ["lora"], "A", "right", 0).contents.intruders["count"].item() == 2


def test_a_negative_scale_turns_the_update_round(tmp_path, rng):
    weight = rng.standard_normal((D, D)).astype(np.float32)
    base = write_base(tmp_path / "base", {name(): weight})
    pair = rng.standard_normal((D, 3)), rng.standard_normal((3, D))
    cosines = {}
    for sign in (1, -1):
        lora = write_lora(tmp_path / f"lora{sign}", {name(): pair}, 0.7 * sign)
        whole = np.linalg.svd(weight + sign * 0.7 * pair[0] @ pair[1])[0][:, :10]
        cosines[sign] = np.abs(whole.T @ np.linalg.svd(weight)[0]).max(1)
        given = {"base": str(base), "adapters": [str(lora)], "beside_base": "", "beside_adapters": []}
        atlas = subspaces.ModelAtlas(parameters.ModelAtlas.parse(given))
        np.testing.assert_allclose(atlas.details[name(), f"lora{sign}"].cosines, cosines[sign], atol=1e-5)
        own = study(tmp_path, name(), [f"lora{sign}"], "A", "right", 0).contents.cosines
        np.testing.assert_allclose(own["r = 3"], cosines[sign], atol=1e-5)
    assert np.abs(cosines[1] - cosines[-1]).max() > 0.01


def test_what_is_said_of_an_adapter_does_not_depend_on_its_company(tmp_path, rng):
    weights = {name(): rng.standard_normal((D, D)).astype(np.float32)}
    base = write_base(tmp_path / "base", weights)
    lora = write_lora(tmp_path / "lora", random_factors(rng, weights, 3))
    full = write_base(
        tmp_path / "full", {name(): weights[name()] + np.float32(0.1) * rng.standard_normal((D, D)).astype("f")}
    )
    alone, both = subspaces.atlas(base, [lora], i=5, j=2), subspaces.atlas(base, [lora, full], i=5, j=2)
    same = [column for column in alone if "holm" not in column and "rank_p" not in column and "random" not in column]
    assert alone[same].iloc[0].equals(both[same].iloc[0])


def test_a_module_that_was_pruned_to_zero_is_no_other_model(tmp_path, rng):
    weights = {name(part): rng.standard_normal((D, D)).astype(np.float32) for part in "qv"}
    base = write_base(tmp_path / "base", weights)
    full = write_base(tmp_path / "full", {name("q"): np.zeros((D, D), "f"), name("v"): 1.1 * weights[name("v")]})
    row = subspaces.atlas(base, [full]).set_index("projection").loc["q_proj"]
    assert row["ratio"] == pytest.approx(1) and row["k90"] > 1 and "common" not in row["why"]


def test_directions_that_a_weight_does_not_determine_are_named(tmp_path, rng):
    weights = {name(): haar.random_directions(D, D, rng).astype(np.float32)}
    base = write_base(tmp_path / "base", weights)
    why = subspaces.atlas(base, [write_lora(tmp_path / "lora", random_factors(rng, weights, 3))]).iloc[0]["why"]
    assert "of W agree to within rounding" in why


def test_modules_of_one_place_are_called_by_their_whole_names(tmp_path, rng):
    weights = {module: rng.standard_normal((D, D)).astype(np.float32) for module in ("layers.0.q", "layers.q", "0")}
    base = write_base(tmp_path / "base", weights)
    table = subspaces.atlas(base, [write_lora(tmp_path / "lora", random_factors(rng, weights, 3))], i=500)
    assert sorted(table["module"]) == sorted(weights) and len(set(table["projection"])) == 3
    given = {"base": str(base), "adapters": [str(tmp_path / "lora")], "i": 500}
    atlas = subspaces.ModelAtlas(parameters.ModelAtlas.parse(given | {"beside_base": "", "beside_adapters": []}))
    assert set(atlas.left_out["reason"]) == {"W has 40 directions above rounding, fewer than i = 500"}


def test_names_of_adapters_cannot_act_as_markup(tmp_path, rng):
    weights = {name(): rng.standard_normal((D, D)).astype(np.float32)}
    base = write_base(tmp_path / "base", weights)
    for place in ("<b>x$1$`", "<b>x$1$&"):
        write_lora(tmp_path / place, random_factors(rng, weights, 3))
    table = subspaces.atlas(base, [tmp_path / "<b>x$1$`", tmp_path / "<b>x$1$&"])
    assert len(set(table["adapter"])) == 2 and not set("<>$`&") & set("".join(table["adapter"]))


def test_a_config_beside_a_file_counts_when_it_has_changed(tmp_path, rng):
    weights = {name(): rng.standard_normal((D, D)).astype(np.float32)}
    base = write_base(tmp_path / "base", weights)
    file = write_lora(tmp_path / "lora", random_factors(rng, weights, 3), 1.0) / "adapter_model.safetensors"
    before = subspaces.atlas(base, [file])["norm"].item()
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text(encoding="utf-8"))
    config["alpha_pattern"] = {key: 10 * alpha for key, alpha in config["alpha_pattern"].items()}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert subspaces.atlas(base, [file])["norm"].item() == pytest.approx(10 * before)


def test_a_module_that_cannot_be_tested_is_a_row_with_its_reason(tmp_path, rng):
    weights = {name("q"): rng.standard_normal((D, D)).astype(np.float32), name("v"): np.zeros((D, D), np.float32)}
    weights[name("v")][:5] = rng.standard_normal((5, D))
    base = write_base(tmp_path / "base", weights)
    lora = write_lora(tmp_path / "lora", random_factors(rng, weights, 2))
    given = {"base": str(base), "adapters": [str(lora)], "tested": [name("q"), name("v")]}
    atlas = subspaces.ModelAtlas(parameters.ModelAtlas.parse(given | {"beside_base": "", "beside_adapters": []}))
    table = atlas.tested.set_index("module")
    assert table.loc[name("q"), "why"] == "" and table.loc[name("q"), "p"] > 0
    assert "which has rank 7" in table.loc[name("v"), "why"] and np.isnan(table.loc[name("v"), "p"])
    made = study(tmp_path, name("v"), ["lora"], "A", "right", 3).contents
    assert "which has rank 7" in made.intruders.reason and made.rank_use["k90"].item() <= 2


def test_a_constant_has_no_slope_and_what_is_odd_is_refused():
    for n in (5, 28, 30):
        assert tuple(nulls.depth_trend([1.0] * n, range(n))) == (0, 0, 0)
    assert nulls.depth_trend([1, 2, np.inf, 4, 5, 6, 7], range(7)).low > 0
    with pytest.raises(ValueError, match="expected one of each"):
        nulls.depth_trend([1.0, 2.0], [1])


def test_any_error_of_arithmetic_ends_in_a_reason():
    why = []
    with measured.noted(why):
        raise ZeroDivisionError("float division by zero")
    assert why == ["float division by zero"]
