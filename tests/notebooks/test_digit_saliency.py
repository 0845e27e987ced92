"""Notebook 03 under papermill: its tables recomputed another way, both data sets, other networks, bad input."""

import html
import warnings

import captum.attr
import nbformat
import numpy as np
import papermill
import pytest
import torch
from scipy import stats

from helpers import digits, parameters
from helpers.digits import classifiers
from helpers.paths import ROOT
from helpers.show import explorers
from tests.notebooks import running
from tests.notebooks.running import claims, rows

NOTEBOOK = ROOT / "notebooks" / "03_digit_saliency.ipynb"
QUICK = {"null_networks": 0, "examples_per_digit": 5}
WITHOUT_SLOW_METHODS = """\
from helpers.digits import saliency
for name in ("smooth_grad", "occlusion", "deep_lift"):
    saliency.METHODS.pop(name)
"""


def execute(place, before="", **given):
    return running.execute(NOTEBOOK, place, before, **given)


@pytest.fixture(scope="module")
def default_place(tmp_path_factory):
    return tmp_path_factory.mktemp("default")


@pytest.fixture(scope="module")
def default(default_place):
    return execute(default_place)


@pytest.fixture(scope="module")
def plainly():
    return running.digits_plainly()


def deletion_by_hand(network, images, labels, maps, insertion=False):
    """Mean area under the probability of the label while pixels go black, or come in, one by one."""
    areas = []
    for image, label, found in zip(images, labels, maps, strict=True):
        steps = [image.ravel() * (not insertion)]
        for pixel in np.argsort(-found.ravel(), kind="stable"):
            steps.append(steps[-1].copy())
            steps[-1][pixel] = image.ravel()[pixel] * insertion
        curve = network(torch.from_numpy(np.array(steps)).view(-1, 1, 8, 8)).softmax(1)[:, label].numpy()
        areas.append((curve.sum() - (curve[0] + curve[-1]) / 2) / 64)
    return np.array(areas)


def test_it_knows_digits(default, plainly):
    _, _, network, _ = plainly
    data = digits.load("digits")
    _, held_out = digits.hold_out(data)
    right = network(torch.from_numpy(data.images[held_out])[:, None]).argmax(1).numpy() == data.labels[held_out]
    table = {row["network"]: row["accuracy"] for row in rows(default, "accuracy")}
    assert table["under study"] == pytest.approx(right.mean())
    assert table.keys() >= {"under study", "seed_1", "permuted_labels", "untrained", "transformer"}
    assert claims(default)["knows_digits"]["holds"] is True


def test_the_brightest_cell_is_that_of_one_joint_distribution(default, plainly):
    _, labels, _, maps = plainly
    means = np.stack([np.abs(maps)[labels == digit].mean(0) for digit in range(10)])
    table = {(row["method"], row["grid"]): row for row in rows(default, "peaks")}
    native, narrow = (table["integrated_gradients", grid] for grid in ("8 × 8", "7 × 6"))
    assert native["brightest cell"] == pytest.approx((means / means.sum()).max(), rel=1e-4)
    kept = np.abs(maps)[:, :, 1:7].sum() / np.abs(maps).sum()
    assert narrow["mass kept"] == pytest.approx(kept, rel=1e-5)
    fine = means[:, :, 1:7].repeat(7, 1).reshape(10, 7, 8, 6).sum(2)  # 8 rows cut into 56 strips, 8 to each of 7 rows
    assert narrow["brightest cell"] == pytest.approx((fine / fine.sum()).max(), rel=1e-4)
    assert claims(default)["bar_is_joint"]["holds"] is True


def test_deletion_is_measured_against_the_ink(default, plainly):
    images, labels, network, maps = plainly
    own, rng = deletion_by_hand(network, images, labels, maps), np.random.default_rng(0)
    ties = [images + 1e-4 * rng.random(images.shape) for _ in range(5)]  # equal ink falls at random
    ink = np.mean([deletion_by_hand(network, images, labels, by) for by in ties], axis=0)
    row = next(row for row in rows(default, "faithfulness") if row["method"] == "integrated_gradients")
    assert row["deletion"] == pytest.approx(own.mean(), abs=2e-4)
    assert row["deletion − ink"] == pytest.approx((own - ink).mean(), abs=4e-3)
    assert row["deletion ±"] == pytest.approx(stats.sem(own - ink), rel=0.1)
    assert row["deletion p"] < 1e-6


def test_the_other_seeds_are_counted(default, plainly):
    """Holm's p lies between the p of one test and the sum over seven; so do the counts of what falls below 0.05."""
    images, labels, _, _ = plainly
    x, y, rng = torch.from_numpy(images)[:, None], torch.from_numpy(labels), np.random.default_rng(0)
    ties = images + 1e-4 * rng.random(images.shape)  # equal ink falls at random
    found = []
    for seed in range(1, 5):
        network = classifiers.bundled("digits", "cnn")[f"seed_{seed}"]
        maps = captum.attr.Occlusion(network).attribute(x, (1, 1, 1), target=y, baselines=0)[:, 0].numpy()
        gaps = [
            deletion_by_hand(network, images, labels, maps, way) - deletion_by_hand(network, images, labels, ties, way)
            for way in (False, True)
        ]
        less = [gaps[0], -gaps[1]]  # deletion should cost sooner, insertion bring back sooner
        found.append([stats.ttest_1samp(gap, 0, alternative="less").pvalue for gap in less])
    row = next(row for row in rows(default, "peers") if row["method"] == "occlusion")
    for name, p in zip(("deletion", "insertion", "both"), [*np.transpose(found), np.max(found, axis=1)], strict=True):
        assert (7 * p < 0.05).sum() <= row[name] <= (p < 0.05).sum()
    assert all(
        max(0, r["deletion"] + r["insertion"] - 4) <= r["both"] <= r["insertion"] for r in rows(default, "peers")
    )


def test_signs_tell_trained_from_randomised_and_absolute_values_do_not(default, plainly):
    images, _, _, maps = plainly
    table = {(row["method"], row["with"]): row for row in rows(default, "similarity")}
    row = table["integrated_gradients", "the ink"]
    for name, f in (("signed", np.asarray), ("absolute", np.abs)):
        pairs = [(f(one).ravel(), two.ravel()) for one, two in zip(maps, images, strict=True)]
        assert row[name] == pytest.approx(np.mean([stats.spearmanr(*pair).statistic for pair in pairs]), abs=1e-3)
    for method in ("input_x_gradient", "integrated_gradients", "occlusion", "deep_lift"):
        assert abs(table[method, "randomised copies"]["signed"]) < 0.15
        assert table[method, "randomised copies"]["absolute"] > 0.8
        assert table[method, "other trained networks"]["signed"] > 0.4


def test_p_values_are_those_of_219_copies(default):
    table = rows(default, "by_digit")
    p = np.array([row["p"] for row in table])
    np.testing.assert_allclose(p * 220, np.round(p * 220), atol=1e-9)
    assert p.min() >= 1 / 220
    assert max(row["p_holm"] for row in table) == pytest.approx(claims(default)["every_digit_is_learnt"]["statistic"])
    assert all(row["agreement"] > row["randomised"] for row in table)


def test_every_method_gets_a_verdict(default):
    table = {row["method"]: row for row in rows(default, "verdicts")}
    assert list(table) == [row["method"] for row in rows(default, "faithfulness")]
    assert set(table) == set(parameters.METHODS)
    for method, row in table.items():
        claim = claims(default)[f"{method}_is_about_the_model"]
        largest = max(row["learnt p"], row["deletion p"], row["insertion p"])
        assert claim["statistic"] == pytest.approx(largest)
        assert claim["holds"] is (largest < 0.05)
    assert table["occlusion"]["about"] == "the model"
    assert table["attention_rollout"]["about"] == "learnt, but not shown to be better than the ink"


def test_the_two_conditions_differ_by_digit(default):
    table = rows(default, "comparison")
    assert [row["digit"] for row in table] == list(range(10))
    assert all(row["largest difference"] > row["its half-width"] for row in table if row["cells that differ"] > 5)


def test_the_readme_says_what_came_out(default):
    text = (ROOT / "README.md").read_text()
    share = {"randomised copies": [], "other trained networks": []}
    for row in rows(default, "overlap"):
        share[row["with"]].append(100 * row["share"])
    copies, peers = (f"{min(values):.0f} % to {max(values):.0f} %" for values in share.values())
    assert f"copies with shuffled weights have {copies} of the picture in common with it" in text
    assert f"other trained networks {peers}" in text
    similar = {(row["method"], row["with"]): row for row in rows(default, "similarity")}
    copies, peers = (similar["integrated_gradients", name]["signed"] for name in share)
    assert f"by {copies:.2f} and {peers:.2f}".replace("-", "−") in text
    assert claims(default)["every_digit_is_learnt"]["holds"] is True
    areas = {row["order"]: row["deletion"] for row in rows(default, "orders")}
    assert f"(area {areas['integrated_gradients']:.2f})" in text
    assert f"the absolute values ({areas['absolute']:.2f}) or of the ink ({areas['ink']:.2f})" in text
    assert [row["method"] for row in rows(default, "verdicts") if row["about"] == "the model"] == ["occlusion"]
    both = {row["method"]: row["both"] for row in rows(default, "peers")}
    assert "of four that differ from it by their seed alone, occlusion does both" in text
    assert len(both) == 7
    several = {both[name] for name in ("integrated_gradients", "smooth_grad", "deep_lift")}
    assert f"occlusion does both on {both['occlusion']}, integrated gradients, SmoothGrad and DeepLift on " in text
    assert f"SmoothGrad and DeepLift on {several.pop()}, input × gradient on {both['input_x_gradient']}." in text
    assert not several
    assert both["gradient"] == both["attention_rollout"] == 0


def test_the_committed_outputs_are_those_of_a_run_now(default, default_place):
    running.assert_same_outputs(NOTEBOOK, default_place / "out.ipynb")


def test_the_answer_is_one_sentence_and_three_bullets_under_which_the_picture_stands(default_place):
    cell = next(c for c in nbformat.read(default_place / "out.ipynb", as_version=4).cells if c.id == "report")
    answer, picture, rest = cell.outputs
    assert sum(line.startswith("- ") for line in rest["data"]["text/markdown"].splitlines()) == 3
    assert answer["data"]["text/markdown"].startswith("**Is it the model or the ink?**")
    assert picture["metadata"]["image/png"]["alt"].startswith("Ten heatmaps of 7 × 6 cells.")


def test_no_cell_begins_with_if():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert not [cell.id for cell in cells if cell.source.startswith("if ")]


def test_mnist(tmp_path):
    """28 × 28 falls into 7 × 6 and 7 × 7 whole blocks; almost nothing is cut off."""
    result = execute(tmp_path, before=WITHOUT_SLOW_METHODS, dataset="mnist5k", columns=7, method="gradient", **QUICK)
    table = {(row["method"], row["grid"]): row for row in rows(result, "peaks")}
    assert table["integrated_gradients", "7 × 7"]["mass kept"] == 1
    assert table["integrated_gradients", "7 × 6"]["mass kept"] > 0.998
    assert claims(result)["knows_digits"]["holds"] is True
    assert claims(result)["every_digit_is_learnt"]["holds"] is None
    assert claims(result)["every_digit_is_learnt"]["found"] == "no p-values were asked for: null_networks is 0"
    assert claims(result)["gradient_is_about_the_model"]["holds"] is None
    assert "7 × 7 cells" in running.shown(tmp_path / "out.ipynb")


def test_ones_own_saved_program_gives_the_same_report(tmp_path, default):
    """The bundled network as someone else's file: the same maps, other networks to agree with."""
    network = classifiers.bundled("digits", "cnn")["seed_0"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network, torch.rand(2, 1, 8, 8)).save(tmp_path / "own.pt")
    result = execute(tmp_path, model=str(tmp_path / "own.pt"), null_networks=0)
    peaks, expected = (
        {(r["method"], r["grid"]): r["brightest cell"] for r in rows(x, "peaks")} for x in (result, default)
    )
    assert peaks.keys() == {key for key in expected if key[0] not in ("deep_lift", "attention_rollout")}
    for key, value in peaks.items():
        assert value == pytest.approx(expected[key], rel=1e-3), key
    assert str(tmp_path / "own.pt") in result["provenance"]["inputs"]


def test_a_callable_that_knows_nothing_is_said_to_know_nothing(tmp_path):
    own = {"model": "tests.digits.test_classifiers:mine", "input_rows": 12, "input_columns": 10, "input_mean": 0.1}
    result = execute(tmp_path, **own, **QUICK, input_std=0.5, condition_b="occlusion", rows=8, columns=8)
    assert claims(result)["knows_digits"]["holds"] is False
    assert {row["network"] for row in rows(result, "accuracy")} >= {"under study", "seed_0", "seed_4"}


def test_the_transformer_and_its_attention(tmp_path):
    given = {"model": "transformer", "method": "attention_rollout", "condition_b": "gradient"}
    result = execute(tmp_path, **given, null_networks=99, examples_per_digit=5)
    assert rows(result, "verdicts")[0]["method"] == "attention_rollout"
    assert {row["method"] for row in rows(result, "verdicts")} == set(parameters.METHODS) - {"deep_lift"}
    claim = claims(result)["every_digit_is_learnt"]
    assert claim["holds"] is None  # 99 copies cannot reach 0.05 after the correction
    assert claim["statistic"] >= 0.1
    assert claims(result)["gradient_is_about_the_model"]["holds"] is None


def test_other_parameters_twice_give_the_same_numbers(tmp_path):
    given = {"method": "occlusion", "baseline": "mean", "condition_a": "seed_1", "condition_b": "permuted_labels"}
    given |= {"rows": 8, "columns": 8, "normalisation": "panel", "colour_map": "hot", "colour_high": 0.05, "seed": 3}
    given |= {"digit": 7, "example": 2, "randomised_layers": 3}
    one, again = (execute(tmp_path / str(n), **QUICK, **given) for n in range(2))
    assert one["tables"] == again["tables"]
    assert one["claims"] == again["claims"]
    # and so do sliders that are moved to these parameters
    p = parameters.DigitSaliency(**QUICK, seed=3, colour_high=0.05)
    data = digits.load("digits")
    train, held_out = digits.hold_out(data)
    chosen = digits.examples(data.labels, held_out, 5, np.random.default_rng([3, 1]))
    baselines = {"black": np.zeros((8, 8), dtype=np.float32), "mean": data.images[train].mean(0)}
    examples = data.images[chosen], data.labels[chosen]
    live = explorers.digit_saliency(p, classifiers.study("digits"), *examples, baselines).live()
    for name in live.controls.keys() & given.keys():
        live.controls[name].value = given[name]
    pixels, alt = running.picture(tmp_path / "0" / "out.ipynb")
    np.testing.assert_array_equal(running.pixels(live.image.value), pixels)
    assert alt.partition(". ")[2] in html.unescape(live.line.value)


@pytest.mark.parametrize(
    ("given", "message", "cell"),
    [
        ({"null_networks": 20}, "no p-value can fall below 0.048", "check"),
        ({"examples_per_digit": 500}, "examples_per_digit is 500: expected at most", "load"),
        ({"method": "attention_rollout"}, "needs the attention of the bundled transformer", "load"),
        ({"model": "tests.digits.test_classifiers:mine"}, "set input_rows and input_columns", "load"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_parameters_end_the_run_before_any_compute(tmp_path, given, message, cell):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        execute(tmp_path, **given)
    assert message in error.value.evalue
    assert "\n" not in error.value.evalue
    assert not (tmp_path / "results.json").exists()
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert [found for found in cells if found.get("execution_count")][-1].id == cell
