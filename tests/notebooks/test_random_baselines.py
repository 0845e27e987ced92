"""Notebook 02 under papermill, held against draws made here another way."""

import re

import nbformat
import numpy as np
import papermill
import pytest
from scipy import stats

from helpers import parameters, subspaces
from helpers.paths import ROOT
from helpers.show import explorers
from helpers.subspaces import chance, haar
from tests.notebooks import running
from tests.notebooks.running import claims, rows

NOTEBOOK = ROOT / "notebooks" / "02_random_baselines.ipynb"


CLAIMS = [  # of every run
    "mean_formula",
    "variance_formula",
    "law_differs_from_beta",
    "tail_is_known",
    "grid_is_few_looks",
    "own_differs_from_rotations",
    "untrained_differs_from_rotations",
    "elsewhere_differs_from_rotations",
    "own_layer_is_special",
    "one_adapter_is_enough",
]

# Section 5 of six layers in place of thirty, where a test is about the other sections.
FEW_LAYERS = f"""
from functools import partial
parameters.SubspaceSimilarity = partial(parameters.SubspaceSimilarity, **{running.MINILM})
"""


def execute(place, before="", **given):
    return running.execute(NOTEBOOK, place, before, **given)


def drawn_phi(d, i, j, draws, seed):
    """φ of random pairs by QR of whole Gaussian matrices."""
    rng = np.random.default_rng(seed)
    bases = np.concatenate([np.linalg.qr(rng.standard_normal((500, d, j)))[0][:, :i] for _ in range(draws // 500)])
    return (bases**2).sum((1, 2)) / min(i, j)


@pytest.fixture(scope="module")
def default_place(tmp_path_factory):
    return tmp_path_factory.mktemp("default")


@pytest.fixture(scope="module")
def default(default_place):
    return execute(default_place)


def test_the_moments_are_those_of_whole_random_matrices(default):
    for row in rows(default, "moments"):
        if row["j"] <= 38:
            phi = drawn_phi(576, row["i"], row["j"], 2000, [1, row["i"], row["j"]])
            assert row["mean"] == pytest.approx(phi.mean(), abs=4 * phi.std() / np.sqrt(2000))
            assert row["sd"] == pytest.approx(phi.std(), rel=0.1)
    for name in ("mean_formula", "variance_formula", "tail_is_known"):
        assert claims(default)[name]["holds"] is True, name
    assert claims(default)["law_differs_from_beta"]["holds"] is False


def test_the_most_surprising_cell_of_whole_random_grids(default):
    """Grids of pairs drawn by QR fall below the level in 5 % of cases."""
    (row,) = rows(default, "grid")
    rng = np.random.default_rng(4)
    i, j = np.ogrid[1:39, 1:9]
    bases = np.linalg.qr(rng.standard_normal((400, 576, 8)))[0][:, :38]
    tails = chance.log_tail_probability(subspaces.cumulative_phi(bases), i, j, 576).min((1, 2))
    assert np.mean(tails < np.log(row["p"])) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 * (1 / 400 + 1 / 3000)))
    assert 1 < row["looks"] < row["cells"] / 2
    assert claims(default)["grid_is_few_looks"]["statistic"] == row["looks"] / row["cells"]


def test_the_near_tail_is_what_draws_count(default):
    phi = drawn_phi(576, 38, 8, 20000, 2)
    for row in rows(default, "tail")[:3]:
        share = np.mean(phi >= row["phi"])
        error = 4 * np.sqrt(share / 20000)
        assert 10 ** row["sampled"] == pytest.approx(share, abs=error + 4 * row["standard error"] * 2.3 * share)
        assert 10 ** row["matched Beta"] == pytest.approx(share, abs=error)
        assert 10 ** row["counted"] == pytest.approx(share, abs=error + 4 * np.sqrt(share / 4000))
        assert row["normal"] == pytest.approx(stats.norm.logsf(row["z"]) / np.log(10))
    assert rows(default, "tail")[-1]["counted"] is None  # of 4,000 pairs none lies there


def test_the_nulls_of_the_bundled_model(default):
    table = {row["pairing"]: row for row in rows(default, "nulls")}
    trained, untrained, elsewhere, swapped, matched = table.values()
    assert [row["pairs"] for row in table.values()] == [240, 240, 6960, 240, 7200]
    assert abs(untrained["mean z"]) < 0.3
    assert matched["mean z"] == pytest.approx(0, abs=0.2)  # 60 random W: the pairs are not independent
    assert matched["sd of z"] == pytest.approx(1, abs=0.1)
    assert trained["mean z"] > elsewhere["mean z"] > untrained["mean z"]
    assert swapped["sd of z"] > 1.5  # a query's A and its layer's value have something in common in some layers
    found = claims(default)
    assert found["own_differs_from_rotations"]["holds"] is True
    assert found["untrained_differs_from_rotations"]["holds"] is False
    assert found["elsewhere_differs_from_rotations"]["holds"] is True
    query, value = rows(default, "own")
    assert query["p_holm"] < 0.05 < value["p_holm"]
    assert query["p"] == max(query["permutation"], query["rotation"])
    assert found["own_layer_is_special"]["statistic"] == value["p_holm"]
    assert found["own_layer_is_special"]["holds"] is False
    assert found["one_adapter_is_enough"]["statistic"] == trained["phi / chance"]
    assert found["one_adapter_is_enough"]["holds"] is False


def test_both_notebooks_agree_on_the_layers(default):
    text = running.shown(ROOT / "notebooks" / "01_subspace_similarity.ipynb")
    table = {row["pairing"]: row["phi / chance"] for row in rows(default, "nulls")}
    told = r"own layer's W an adapter has ([\d.]+) times chance, with that of the other layers ([\d.]+)"
    found = re.search(told, text)
    own, elsewhere = map(float, found.groups())
    assert table["trained A, its own W"] == pytest.approx(own, abs=0.005)
    assert table["trained A, another layer's W"] == pytest.approx(elsewhere, abs=0.005)


def test_planted_pairs_are_found_and_what_is_detectable_falls_with_d_and_j(default):
    for row in rows(default, "planted"):
        assert row["φ found"] == pytest.approx(row["planted φ"])
    table = {(row["d"], row["j"]): row["among n / chance"] for row in rows(default, "power") if row["i"] != 21}
    assert table[128, 4] > table[576, 4] > table[4096, 4] > table[12288, 4] > 1
    assert table[576, 1] > table[576, 4] > table[576, 8] > 1


def test_the_pattern_of_a_notebook(default):
    """Half of the cells have six lines at most, and one sentence stands at the top, the others below its picture."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert np.median([len(source.splitlines()) for source in code]) <= 6
    assert list(claims(default)) == CLAIMS
    answer, picture, rest = (output.data for output in cells[3].outputs)
    assert answer["text/markdown"].startswith("**Chance is not zero.**")
    assert "image/png" in picture
    assert rest["text/markdown"].count("\n- ") == 2
    exercises = next(cell.source for cell in cells if cell.source.startswith("## Exercises"))
    for given in re.findall(r"`((?:-p \w+ \d+ ?)+)`", exercises):
        parameters.RandomBaselines.parse(dict(re.findall(r"-p (\w+) (\d+)", given)))
    assert len(re.findall(r"^\d\. ", exercises, re.MULTILINE)) == 3


def test_the_committed_outputs_are_those_of_a_run_now(default, default_place):
    running.assert_same_outputs(NOTEBOOK, default_place / "out.ipynb")


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(tmp_path):
    small = {"dimension": 60, "rank_i": 14, "rank_j": 4, "draws": 200}
    before = running.FEW_ROTATIONS + FEW_LAYERS
    one, again = (execute(tmp_path / str(n), before, warm=n > 0, **small, seed=3) for n in range(2))
    assert one["tables"] == again["tables"]
    assert one["claims"] == again["claims"]
    means = {(row["i"], row["j"]): row for row in rows(one, "moments")}
    for seed in (3, 4):  # the draws are those of the seed that was given
        rng = subspaces.Similarity(parameters.SubspaceSimilarity(seed=seed)).rng(2, 14, 4)
        drawn = haar.random_phi(14, 4, 60, 200, rng)
        same = (means[14, 4]["drawn mean"], means[14, 4]["drawn sd"]) == pytest.approx((drawn.mean(), drawn.std()))
        assert same is (seed == 3)
    assert means[14, 4]["mean"] == pytest.approx(14 / 60)
    assert means[4, 14]["mean"] == pytest.approx(14 / 60)
    # and so do sliders that are moved to these parameters
    explorer = explorers.random_baselines(parameters.RandomBaselines(seed=3))
    picture, line = explorer.picture(**small)
    pixels, alt = running.picture(tmp_path / "0" / "out.ipynb")
    np.testing.assert_array_equal(np.asarray(picture), pixels)
    assert line in alt
    assert f"200 draws {means[14, 4]['drawn mean']:.4g} ± {means[14, 4]['drawn sd']:.2g}" in line


@pytest.mark.parametrize(
    "given",
    [
        {"dimension": 3, "rank_i": 1, "rank_j": 1, "draws": 2},
        {"dimension": 6, "rank_i": 4, "rank_j": 5, "draws": 50},
        {"dimension": 300, "rank_i": 299, "rank_j": 3, "draws": 50},
    ],
    ids=str,
)
def test_unusual_but_legal_parameters(tmp_path, given):
    result = execute(tmp_path, running.FEW_ROTATIONS + FEW_LAYERS, **given)
    assert result["complete"] is True
    assert all(row["drawn mean"] <= 1 + 1e-12 for row in rows(result, "moments"))
    assert list(claims(result)) == CLAIMS
    assert ("planted" in result["tables"]) is (given["rank_i"] + given["rank_j"] <= given["dimension"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dimension": 0}, "parameter dimension is 0"),
        ({"rank_i": 576}, "rank_i must be 1 … 575"),
        ({"draws": 1}, "parameter draws is 1"),
        ({"rank": 4}, "there is no parameter 'rank'; did you mean 'rank_j'"),
    ],
)
def test_bad_parameters_end_the_run_before_any_compute(tmp_path, given, message):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        execute(tmp_path, **given)
    assert message in error.value.evalue
    assert "\n" not in error.value.evalue
    assert not (tmp_path / "results.json").exists()
    executed = [
        cell for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells if cell.get("execution_count")
    ]
    assert executed[-1].id == "check"
