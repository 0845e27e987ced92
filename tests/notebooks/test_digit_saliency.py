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
from torch import nn

from helpers import digits, parameters
from helpers.digits import bundled
from helpers.paths import ROOT
from helpers.show import explorers
from tests.notebooks import running
from tests.notebooks.running import claims, rows

NOTEBOOK = ROOT / "notebooks" / "03_digit_saliency.ipynb"
HERE = "tests.notebooks.test_digit_saliency"
QUICK = {"null_networks": 0, "examples_per_digit": 5}
METHODS = set(parameters.METHODS)
TESTS = ("deletion", "insertion", "deletion by images", "insertion by images")
# Section 3, in which the network under study has no part, of two networks a task and five images in place of 5 and 25;
# curves of 4 steps in place of 32 (of MNIST, 16); randomised copies are few, and what they see is coarse.
LITTLE = """\
from functools import partial
from helpers.digits import agreement, controls, study, truth
study.POINTS = dict.fromkeys(study.POINTS, 4)
truth.scores = partial(truth.scores, count=5)
truth.SEEDS, truth.BACKGROUND = truth.SEEDS[:2], 2
agreement.COPIES = 3
agreement.COARSE = {
    "integrated_gradients": {"steps": 4}, "expected_gradients": {"steps": 1}, "smooth_grad": {"samples": 2}
}
controls.layer_study = partial(controls.layer_study, draws=2)
controls.efficient_mprt = partial(controls.efficient_mprt, copies=2)
smooth_mprt = controls.smooth_mprt
controls.smooth_mprt = lambda *given, **_: smooth_mprt(*given, copies=2, samples=2)
"""
# Many randomised copies for the method of the pictures alone, and 19 for the others.
FEW_COPIES = """\
null_study = controls.null_study
def fewer(model, methods, *given):
    *given, networks, seed = given
    return null_study(model, methods, *given, networks if len(methods) == 1 else 19, seed)
controls.null_study = fewer
"""
WITHOUT_SLOW_METHODS = """\
from helpers.digits import saliency
for name in ("expected_gradients", "smooth_grad", "occlusion", "deep_lift"):
    saliency.METHODS[name] = lambda model, x, y, **_: saliency.METHODS["gradient"](model, x, y)
"""


def execute(place, before="", **given):
    """Of a run of other parameters the third section is small, and curves have few steps."""
    return running.execute(NOTEBOOK, place, LITTLE * bool(given) + before, **given)


@pytest.fixture(scope="module")
def default_place(tmp_path_factory):
    return tmp_path_factory.mktemp("default")


@pytest.fixture(scope="module")
def default(default_place):
    return execute(default_place)


@pytest.fixture(scope="module")
def plain():
    return running.digits_plainly()


@pytest.fixture(scope="module")
def maps(plain):
    return running.integrated_gradients(plain)


def areas_by_hand(networks, images, labels, orders, insertion=False):
    """Areas under the probability of the label while pixels go black, or come in, one by one."""
    areas = []
    for network, image, label, found in zip(networks, images, labels, orders, strict=True):
        steps = [image.ravel() * (not insertion)]
        for pixel in np.argsort(-found.ravel(), kind="stable"):
            steps.append(steps[-1].copy())
            steps[-1][pixel] = image.ravel()[pixel] * insertion
        curve = network(torch.from_numpy(np.array(steps)).view(-1, 1, 8, 8)).softmax(1)[:, label].numpy()
        areas.append((curve.sum() - (curve[0] + curve[-1]) / 2) / 64)
    return np.array(areas)


def of_writers(values, writers):
    return np.array([values[writers == writer].mean() for writer in np.unique(writers)])


def without_ties(images):
    return images + 1e-4 * np.random.default_rng(0).random(images.shape)  # equal ink falls at random


def test_it_knows_digits_of_writers_that_it_never_saw(default):
    data, right = digits.load("digits"), 0
    folds = bundled.by_fold("digits", "cnn", ["seed_0"])["seed_0"]
    for network, (_, held_out) in zip(folds, digits.folds(data, by_writer=True), strict=True):
        answers = network(torch.from_numpy(data.images[held_out])[:, None]).argmax(1).numpy()
        right += (answers == data.labels[held_out]).sum()
    table = {row["network"]: row["accuracy"] for row in rows(default, "accuracy")}
    assert table["under study"] == pytest.approx(right / 1797)
    assert table.keys() >= {"under study", "seed_1", "permuted_labels", "untrained", "transformer"}
    assert claims(default)["knows_digits"]["holds"] is True


def test_the_brightest_cell_is_that_of_one_joint_distribution(default, plain, maps):
    means = np.stack([np.abs(maps)[plain.labels == digit].mean(0) for digit in range(10)])
    table = {(row["method"], row["grid"]): row for row in rows(default, "peaks")}
    native, narrow = (table["integrated_gradients", grid] for grid in ("8 × 8", "7 × 6"))
    assert native["brightest cell"] == pytest.approx((means / means.sum()).max(), rel=0.01)
    kept = np.abs(maps)[:, :, 1:7].sum() / np.abs(maps).sum()
    assert narrow["mass kept"] == pytest.approx(kept, rel=1e-4)
    fine = means[:, :, 1:7].repeat(7, 1).reshape(10, 7, 8, 6).sum(2)  # 8 rows cut into 56 strips, 8 to each of 7 rows
    assert narrow["brightest cell"] == pytest.approx((fine / fine.sum()).max(), rel=0.01)
    off = min(
        abs(table["integrated_gradients", grid]["brightest cell"] / 0.014 - 1) for grid in ("8 × 8", "7 × 7", "7 × 6")
    )
    assert claims(default)["bar_is_joint"]["statistic"] == pytest.approx(off)


def test_deletion_and_insertion_are_tested_over_writers_against_the_ink(default, plain, maps):
    row = next(row for row in rows(default, "faithfulness") if row["method"] == "integrated_gradients")
    for name, insertion in (("deletion", False), ("insertion", True)):
        own, ink = (
            areas_by_hand(plain.networks[0], plain.images, plain.labels, order, insertion)
            for order in (maps, without_ties(plain.images))
        )
        gaps = of_writers(own - ink, plain.writers)
        assert row[name] == pytest.approx(own.mean(), abs=4e-3)
        assert row[f"{name} − ink"] == pytest.approx(gaps.mean(), abs=6e-3)
        assert row[f"{name} ±"] == pytest.approx(stats.sem(gaps), rel=0.2)
        better = {"deletion": "less", "insertion": "greater"}[name]
        one, p = stats.ttest_1samp(gaps, 0, alternative=better).pvalue, row[f"{name} p"]
        assert (p < 0.05) == (one < 0.05 / 8)
    assert row["deletion p"] < 1e-4
    assert len(gaps) == 14


def test_the_seeds_are_counted(default, plain):
    """Holm's p lies between the p of one test and the sum over eight; so do the counts of what falls below 0.05."""
    x, y = torch.from_numpy(plain.images)[:, None], torch.from_numpy(plain.labels)
    found = []
    for networks in plain.networks:
        own = np.empty_like(plain.images)
        for network, read in running.by_network(networks):
            found_here = captum.attr.Occlusion(network).attribute(x[read], (1, 1, 1), target=y[read], baselines=0)
            own[read] = found_here[:, 0].numpy()
        gaps = [
            areas_by_hand(networks, plain.images, plain.labels, own, way)
            - areas_by_hand(networks, plain.images, plain.labels, without_ties(plain.images), way)
            for way in (False, True)
        ]
        less = [of_writers(gap, plain.writers) for gap in (gaps[0], -gaps[1])]
        found.append([stats.ttest_1samp(gap, 0, alternative="less").pvalue for gap in less])
    row = next(row for row in rows(default, "seeds") if row["method"] == "occlusion")
    for name, p in zip(("deletion", "insertion"), np.transpose(found), strict=True):
        assert (8 * p < 0.05).sum() <= row[name] <= (p < 0.05).sum()
    assert {row["method"] for row in rows(default, "seeds")} == METHODS - {"attention_rollout"} | {"noise"}


def test_signs_tell_trained_from_randomised_and_absolute_values_do_not(default, plain, maps):
    table = {(row["method"], row["with"]): row for row in rows(default, "similarity")}
    row = table["integrated_gradients", "the ink"]
    for name, f in (("signed", np.asarray), ("absolute", np.abs)):
        pairs = [(f(one).ravel(), two.ravel()) for one, two in zip(maps, plain.images, strict=True)]
        assert row[name] == pytest.approx(np.mean([stats.spearmanr(*pair).statistic for pair in pairs]), abs=0.01)
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


def test_every_method_gets_a_verdict_and_noise_passes_nothing(default):
    table = {row["method"]: row for row in rows(default, "verdicts")}
    faithful = {row["method"]: row for row in rows(default, "faithfulness")}
    assert table.keys() == faithful.keys() == METHODS - {"attention_rollout"} | {"noise"}
    found = claims(default)
    for method in METHODS:
        claim = found[f"{method}_is_about_the_model"]
        if method == "attention_rollout":
            assert claim["holds"] is None
            assert claim["found"] == "attention_rollout needs the attention of the bundled transformer"
            continue
        p = [table[method]["learnt p"], *(faithful[method][f"{name} p"] for name in TESTS)]
        assert claim["statistic"] == pytest.approx(max(p))
        assert claim["holds"] is (max(p) < 0.05)
        assert found[f"{method}_over_seeds"]["holds"] is not None
    p = [table["noise"][f"{name} p"] for name in ("learnt", *TESTS)]
    p += [row["eMPRT p"] for row in rows(default, "mprt") if row["method"] == "noise"]
    assert min(p) == found["noise_passes_nothing"]["statistic"]
    assert found["noise_passes_nothing"]["holds"] is True


def test_pixels_of_other_images_are_seen_by_what_compares_with_other_images(default, plain):
    """Expected gradients, whose absence is other images, against the ink; donors and curves by hand."""
    study = digits.Study(parameters.DigitSaliency())
    donors, maps = study.donors, study.maps["expected_gradients"]
    data, folds = digits.load("digits"), digits.folds(digits.load("digits"), by_writer=True)
    places = [np.flatnonzero((data.images == donor).all((1, 2)))[0] for donor in donors]
    assert not (data.labels[places] == plain.labels).any()
    for donor, writer in zip(places, plain.writers, strict=True):  # held out with the image that it replaces
        assert any(donor in held_out and writer in data.writers[held_out] for _, held_out in folds)
    areas = []
    for order in (maps, without_ties(plain.images)):
        own = []
        for network, image, donor, label, found in zip(
            plain.networks[0], plain.images, donors, plain.labels, order, strict=True
        ):
            steps = [image.ravel()]
            for pixel in np.argsort(-found.ravel(), kind="stable"):
                steps.append(steps[-1].copy())
                steps[-1][pixel] = donor.ravel()[pixel]
            curve = network(torch.from_numpy(np.array(steps)).view(-1, 1, 8, 8)).softmax(1)[:, label].numpy()
            own.append((curve.sum() - (curve[0] + curve[-1]) / 2) / 64)
        areas.append(np.array(own))
    row = next(row for row in rows(default, "faithfulness") if row["method"] == "expected_gradients")
    assert row["deletion by images"] == pytest.approx(areas[0].mean(), abs=4e-3)
    gaps = of_writers(areas[0] - areas[1], plain.writers)
    assert row["deletion by images − ink"] == pytest.approx(gaps.mean(), abs=0.02)
    assert row["deletion by images p"] < 1e-6


def test_the_two_conditions_differ_by_digit(default):
    table = rows(default, "comparison")
    assert [row["digit"] for row in table] == list(range(10))
    assert all(row["largest difference"] > row["its half-width"] for row in table if row["cells that differ"] > 5)


def test_planted_truth_is_found_where_it_is_added_and_missed_among_distractors(default):
    table = {(row["method"], row["task"]): row for row in rows(default, "truth")}
    assert table["input_x_gradient", "linear"]["precision"] > 0.9
    assert table["ink", "multiplicative"]["precision"] < 0.2
    missed = claims(default)["some_method_finds_the_truth"]
    p = {row.pop("method"): row for row in rows(default, "truth_tests")}
    assert missed["statistic"] == min(sum(value >= 0.05 for value in row.values()) for row in p.values())


def test_the_readme_says_what_came_out(default):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
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
    tests = rows(default, "truth_tests")
    found = {task: sum(row[task] < 0.05 for row in tests) for task in tests[0] if task != "method"}
    assert [found[task] for task in ("linear", "multiplicative", "translated")] == [len(tests), len(tests), 0]
    assert len(tests) == 7  # all seven methods
    assert f"among distractors {found['distractors']} of 7 beat the edges" in text
    seeds = {row["method"]: row for row in rows(default, "seeds")}
    for end, method in (("", "occlusion"), (" by images", "expected_gradients")):
        both = [f"deletion{end}", f"insertion{end}"]
        faithful = {row["method"]: max(row[f"{name} p"] for name in both) for row in rows(default, "faithfulness")}
        assert [name for name, p in faithful.items() if p < 0.05] == [method]
        assert [seeds[method][name] for name in both] == [5, 5]
    assert all(row["deletion"] == 5 for name, row in seeds.items() if name != "noise")  # so that insertion decides
    several = {name: seeds[name]["insertion"] for name in ("smooth_grad", "integrated_gradients", "deep_lift")}
    assert several["integrated_gradients"] == several["deep_lift"]
    told = f"SmoothGrad on {several['smooth_grad']}, integrated gradients and DeepLift on {several['deep_lift']}."
    assert told in text
    assert seeds["input_x_gradient"]["insertion"] == seeds["gradient"]["insertion"] == 0
    assert "No method does all four" in text
    assert not [row for row in rows(default, "verdicts") if row["about"] == "the model"]


def test_the_committed_outputs_are_those_of_a_run_now(default, default_place):
    running.assert_same_outputs(NOTEBOOK, default_place / "out.ipynb")


def test_the_answer_is_one_sentence_and_three_bullets_under_which_the_picture_stands(default_place):
    cell = next(c for c in nbformat.read(default_place / "out.ipynb", as_version=4).cells if c.id == "report")
    answer, picture, rest = cell.outputs
    assert sum(line.startswith("- ") for line in rest["data"]["text/markdown"].splitlines()) == 3
    assert answer["data"]["text/markdown"].startswith(
        "**In short**, the cnn of seed 0 reads 98.0% of 1,797 digits right"
    )
    assert picture["metadata"]["image/png"]["alt"].startswith("Ten heatmaps of 7 × 6 cells.")


def test_mnist(tmp_path):
    """28 × 28 falls into 7 × 6 and 7 × 7 whole blocks; almost nothing is cut off; its images count, not its writers."""
    result = execute(tmp_path, before=WITHOUT_SLOW_METHODS, dataset="mnist5k", columns=7, method="gradient", **QUICK)
    table = {(row["method"], row["grid"]): row for row in rows(result, "peaks")}
    assert table["integrated_gradients", "7 × 7"]["mass kept"] == 1
    assert table["integrated_gradients", "7 × 6"]["mass kept"] > 0.998
    assert claims(result)["knows_digits"]["holds"] is True
    for name in ("every_digit_is_learnt", "gradient_is_about_the_model", "gradient_over_seeds"):
        assert claims(result)[name]["holds"] is None
        assert claims(result)[name]["found"] == "no p-values were asked for: null_networks is 0"
    text = running.shown(tmp_path / "out.ipynb")
    assert "7 × 7 cells" in text
    assert "of 50 images" in text


def test_ones_own_saved_program_is_read_by_one_network(tmp_path, plain):
    """The bundled network of the first fold as someone else's file, whose maps are those of Captum."""
    network = plain.networks[0][int(np.flatnonzero([n is not plain.networks[0][0] for n in plain.networks[0]])[0])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network, torch.rand(2, 1, 8, 8)).save(tmp_path / "own.pt")
    result = execute(tmp_path, model=str(tmp_path / "own.pt"), **QUICK)
    data = digits.load("digits")
    chosen = digits.examples(data.labels, np.arange(1797), 5, np.random.default_rng([0, 1]), data.writers)
    x, y = torch.from_numpy(data.images[chosen])[:, None], torch.from_numpy(data.labels[chosen])
    maps = captum.attr.Saliency(network).attribute(x.requires_grad_(), target=y, abs=False)[:, 0].abs().detach().numpy()
    means = np.stack([maps[data.labels[chosen] == digit].mean(0) for digit in range(10)])
    peaks = {(row["method"], row["grid"]): row["brightest cell"] for row in rows(result, "peaks")}
    assert peaks["gradient", "8 × 8"] == pytest.approx((means / means.sum()).max(), rel=1e-3)
    assert {row["method"] for row in rows(result, "withheld")} == {"deep_lift", "attention_rollout"}
    assert str(tmp_path / "own.pt") in result["provenance"]["inputs"]
    claim = claims(result)["occlusion_over_seeds"]
    assert (claim["holds"], claim["found"]) == (None, "your network is one network")


def ends_in_log_softmax():
    return nn.Sequential(bundled.by_seed("digits", "cnn")["seed_0"], nn.LogSoftmax(1))


def with_a_dead_digit():
    network = bundled.by_seed("digits", "cnn")["seed_0"]
    with torch.no_grad():
        network[-1].weight[4], network[-1].bias[4] = 0, -30.0
    return network


def test_log_probabilities_are_explained_as_such(tmp_path):
    given = {"model": f"{HERE}:ends_in_log_softmax", "explains": "log_probability"}
    result = execute(tmp_path, **given, **QUICK)
    text = running.shown(tmp_path / "out.ipynb")
    assert "the log-probability of the image's label" in text
    assert "change of the log-probability" in text
    assert "logit" not in text.replace("the logit of the image's label)", "")
    assert claims(result)["knows_digits"]["holds"] is True


def test_a_digit_without_a_gradient_is_undecided_and_the_rest_goes_on(tmp_path):
    result = execute(tmp_path, FEW_COPIES, model=f"{HERE}:with_a_dead_digit", null_networks=219, examples_per_digit=5)
    table = {row["digit"]: row for row in rows(result, "by_digit")}
    assert table[4]["p"] is None
    assert all(table[digit]["p"] is not None for digit in range(10) if digit != 4)
    claim = claims(result)["every_digit_is_learnt"]
    assert claim["holds"] is None
    assert claim["found"].startswith("4: ")
    assert "digit 4" in str(rows(result, "read"))


def test_a_callable_that_knows_nothing_is_said_to_know_nothing(tmp_path):
    own = {"model": "tests.digits.test_classifiers:mine", "input_rows": 12, "input_columns": 10, "input_mean": 0.1}
    result = execute(tmp_path, **own, **QUICK, input_std=0.5, condition_b="occlusion", rows=8, columns=8)
    assert claims(result)["knows_digits"]["holds"] is False
    assert {row["network"] for row in rows(result, "accuracy")} >= {"under study", "seed_0", "seed_4"}


def test_the_transformer_and_its_attention(tmp_path):
    given = {"model": "transformer", "method": "attention_rollout", "condition_b": "gradient"}
    result = execute(tmp_path, **given, **QUICK)
    assert {row["method"] for row in rows(result, "verdicts")} == METHODS - {"deep_lift"} | {"noise"}
    assert claims(result)["deep_lift_is_about_the_model"]["found"].startswith("deep_lift has no rule for LayerNorm")
    assert claims(result)["gradient_is_about_the_model"]["holds"] is None


def test_other_parameters_twice_give_the_same_numbers(tmp_path):
    given = {"method": "occlusion", "baseline": "mean", "condition_a": "seed_1", "condition_b": "permuted_labels"}
    given |= {"rows": 8, "columns": 8, "normalisation": "panel", "colour_map": "hot", "colour_high": 0.05, "seed": 3}
    given |= {"digit": 7, "example": 2, "randomised_layers": 3, "target": "predicted"}
    one, again = (execute(tmp_path / str(n), warm=n == 1, **QUICK, **given) for n in range(2))
    assert one["tables"] == again["tables"]
    assert one["claims"] == again["claims"]
    # and so do sliders that are moved to these parameters
    live = explorers.digit_saliency(digits.Study(parameters.DigitSaliency(**QUICK, seed=3, colour_high=0.05))).live()
    for name in live.controls.keys() & given.keys():
        live.controls[name].value = given[name]
    pixels, alt = running.picture(tmp_path / "0" / "out.ipynb")
    np.testing.assert_array_equal(running.pixels(live.image.value), pixels)
    assert alt.partition(". ")[2] in html.unescape(live.line.value)


@pytest.mark.parametrize(
    ("given", "message", "cell"),
    [
        ({"null_networks": 20}, "no p-value can fall below 0.048", "check"),
        ({"examples_per_digit": 500}, "examples_per_digit is 500: expected at most", "imports"),
        ({"method": "attention_rollout"}, "needs the attention of the bundled transformer", "imports"),
        ({"model": "tests.digits.test_classifiers:mine"}, "input_rows", "imports"),
        ({"model": f"{HERE}:ends_in_log_softmax"}, "set explains to log_probability", "imports"),
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
