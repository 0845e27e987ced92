"""The study of notebook 03: who reads what, what is asked, and that a verdict is what its tests say."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests

from helpers.digits import bundled, controls, faithful, images, inputs, networks, saliency
from helpers.digits.agreement import NOISE
from helpers.digits.study import INK, TESTS, Study, about
from helpers.parameters import TRAINED, BadParameter, DigitSaliency
from helpers.values import Nothing
from tests.digits.test_behaviour import OWN, silent

THREE = "gradient", "input_x_gradient", "occlusion", "attention_rollout"
SMALL = {"examples_per_digit": 5, "null_networks": 0, "method": "gradient"}


def make(**changes):
    return Study(DigitSaliency.parse({**SMALL, **changes}))


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patched:
        yield patched


@pytest.fixture(scope="module", autouse=True)
def three(patch):
    """Three quick methods and one that the CNN has no place for."""
    patch.setattr(inputs, "METHODS", THREE)


@pytest.fixture(scope="module")
def study(three):
    return make()


@pytest.fixture(scope="module")
def tested(study):
    """With enough copies for p-values of three methods and noise."""
    found = study.replace(null_networks=99)
    vars(found).update(maps=study.maps, peer_maps=study.peer_maps, tried=study.tried)  # copies have no part in these
    return found


@pytest.fixture(scope="module")
def someones(three, patch):
    """A network that never answers 3, and has no gradient for it."""
    network = copy.deepcopy(bundled.by_seed("digits", "cnn")["seed_1"])
    patch.setattr("tests.digits.test_behaviour.given", lambda: silent(network, 3))
    return make(**OWN, null_networks=99)


@pytest.mark.parametrize("seed", TRAINED)
def test_no_image_is_read_by_a_network_that_learnt_its_writer(study, seed):
    data, readers = study.data, study.others.get(seed, study.readers)
    read, maps = study.read(readers, study.seen), study.attributed(readers, "gradient")
    for fold, (train, held_out) in enumerate(images.folds(data, by_writer=True)):
        assert not np.isin(data.writers[held_out], data.writers[train]).any()
        (network,) = bundled.by_fold("digits", "cnn", [seed])[seed][fold : fold + 1]
        np.testing.assert_allclose(read[held_out], networks.probabilities(network, data.images[held_out]), atol=1e-5)
        own = np.isin(study.chosen, held_out)
        alone = saliency.attribute(network, study.images[own], study.targets[own], "gradient")
        np.testing.assert_allclose(maps[own], alone, atol=1e-4 * np.abs(alone).max())


def test_what_many_networks_are_asked_is_held_out_from_all(study):
    train, _ = images.folds(study.data, by_writer=True)[0]
    assert not np.isin(study.data.writers[study.few], study.data.writers[train]).any()
    assert (study.data.labels[study.few] == np.arange(10)[:, None]).all()


def test_together_puts_parts_back_in_order(rng):
    for _ in range(20):
        values = rng.random((17, 3))
        parts = np.split(rng.permutation(17), np.sort(rng.choice(17, 4)))
        np.testing.assert_array_equal(inputs.together([(part, values[part]) for part in parts]), values)


@pytest.mark.parametrize("target", ["label", "predicted", "3"])
def test_what_is_explained_is_what_every_table_asks(target, monkeypatch):
    """Every image that any network is given a map of, or loses pixels of, comes with its own target."""
    data, asked = images.load("digits"), set()
    readers = bundled.by_fold("digits", "cnn", ["seed_0"])["seed_0"]
    answers = np.empty_like(data.labels)
    for network, (_, held_out) in zip(readers, images.folds(data, by_writer=True), strict=True):
        answers[held_out] = networks.probabilities(network, data.images[held_out]).argmax(1)
    wanted = {"label": data.labels, "predicted": answers, "3": np.full(len(answers), 3)}[target]
    by_image = {image.tobytes(): n for image, n in zip(data.images, wanted, strict=True)}

    def spied(module, name):
        function = getattr(module, name)

        def spy(network, x, targets, *rest, **options):
            assert [by_image[image.tobytes()] for image in x] == targets.tolist()
            asked.add(table)
            return function(network, x, targets, *rest, **options)

        monkeypatch.setattr(module, name, spy)

    table = "construction"
    for module, name in ((saliency, "attribute"), (saliency, "explain"), (faithful, "areas")):
        spied(module, name)
    study = make(target=target)
    tables = ["maps", "peer_maps", "compared", "null", "tried", "layers", "overlap"]
    for table in tables:
        getattr(study, table)
    assert asked == {"construction", *tables}
    rows = np.arange(len(study.chosen))
    begin = study.curves["deletion"][NOISE][:, 0]
    given = study.read(study.readers, study.chosen)[rows, wanted[study.chosen]]
    np.testing.assert_allclose(begin, pd.Series(given).groupby(study.units).mean(), atol=1e-5)
    if target == "3":
        for own, network in ((study.fold == k, network) for k, network in enumerate(readers)):
            third = saliency.attribute(network, study.images[own], np.full(own.sum(), 3), "gradient")
            np.testing.assert_allclose(study.maps["gradient"][own], third, atol=1e-4 * np.abs(third).max())


def test_a_method_that_is_withheld_is_its_reason_everywhere(study):
    for found in (study.maps, {"attention_rollout": study.verdict("attention_rollout")}):
        assert isinstance(found["attention_rollout"], Nothing)
        assert "needs the attention" in found["attention_rollout"].reason
    assert study.over_seeds("attention_rollout").reason == study.maps["attention_rollout"].reason
    assert study.withheld.method.tolist() == ["attention_rollout"]
    assert study.offered == [*THREE[:3]]
    for table in (study.faithful, study.verdicts, study.seeds, study.mprt):
        assert table.index.tolist() == [*THREE[:3], NOISE]
    with pytest.raises(BadParameter, match="attention_rollout needs the attention"):
        make(method="attention_rollout")


def test_verdicts_in_words_for_every_outcome():
    for learnt, *tests in itertools.product((0.01, 0.5, np.nan), repeat=5):
        said, passed = about(learnt, *tests), [p < 0.05 for p in tests]
        assert (said == "the model") == (all(passed) and learnt < 0.05)
        if said != "the model":
            known, order = said.split("; ")
            assert known == {0.01: "learnt", 0.5: "not shown to be learnt"}.get(learnt, "not tested whether learnt")
            untested = [name for name, p in zip(TESTS, tests, strict=True) if np.isnan(p)]
            if len(untested) == len(TESTS):
                assert order == "not tested against the ink"
                continue
            order, _, rest = order.partition(" (not tested: ")
            assert rest == (f"{', '.join(untested)})" if untested else "")
            if all(passed):
                assert order == "better than the ink"
            elif any(passed):
                names = [name for name, fine in zip(TESTS, passed, strict=True) if fine]
                assert order == f"better than the ink by {', '.join(names)}"
            else:
                assert order == "not shown to be better than the ink"


@pytest.mark.parametrize("seeds", [(0,), (2,), range(5)])
def test_against_the_ink_writers_are_tested_by_their_mean_over_seeds(study, seeds):
    found = study.beating(*seeds)
    for name, (curve, end) in TESTS.items():
        p, alternative = [], {"deletion": "less", "insertion": "greater"}[curve]
        for method in found.index:
            areas = [study.tried[n][curve][end] for n in seeds]
            gaps = np.mean([each[method] - each[INK] for each in areas], axis=0)
            of_writers = pd.Series(gaps).groupby(study.units).mean()
            p.append(stats.ttest_1samp(of_writers, 0, alternative=alternative).pvalue)
            assert found.loc[method, f"{name} − ink"] == pytest.approx(of_writers.mean())
            assert found.loc[method, f"{name} ±"] == pytest.approx(stats.sem(of_writers))
        np.testing.assert_allclose(found[f"{name} p"], multipletests(p, method="holm")[1], rtol=1e-6)


def test_the_areas_are_those_of_the_curves(study):
    for name, (curve, end) in TESTS.items():
        for order in ("gradient", INK, NOISE):
            drawn = faithful.area(study.curves[name][order])
            areas = study.tried[0][curve, end, order].groupby(study.units).mean()
            if order == INK:  # whose ties fall anew
                drawn, areas = drawn.mean(), areas.mean()
            np.testing.assert_allclose(drawn, areas, atol=0.05 if order == INK else 1e-5)
        assert study.orders[name].to_dict() == {o: faithful.area(c).mean() for o, c in study.curves[name].items()}


def test_five_seeds_are_counted_and_tested_together(tested):
    table, single = tested.seeds, [tested._verdicts(n) for n in range(5)]
    for method in table.index:
        for name in ("learnt", *TESTS):
            assert table.loc[method, name] == sum(each.loc[method, f"{name} p"] < 0.05 for each in single)
        alike = sum(each.about[method] == single[0].about[method] for each in single[1:])
        assert table.loc[method, "others alike"] == alike
        of_each = max(each.loc[method, "learnt p"] for each in single)  # learnt by every seed
        together = [tested.beating(*range(5)).loc[method, f"{name} p"] for name in TESTS]
        assert table.loc[method, "p"] == pytest.approx(max(of_each, *together))
    assert tested.over_seeds("gradient").alike == table.loc["gradient", "others alike"]
    passed = [(each.loc[NOISE, [f"{name} p" for name in ("learnt", *TESTS)]] < 0.05).sum() for each in single]
    assert tested.noise_over_seeds.to_dict() == {"passed": sum(passed), "tests": 25}


def test_several_threads_give_the_same_numbers_as_one(study):
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            again = study.replace()
            found.append((again.null[0], *again.tried, *map(pd.Series, map(np.ravel, again.peer_maps.values()))))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*found, strict=True):
        numbers = [each.select_dtypes("number") if each.ndim == 2 else each for each in (one, other)]
        np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-5)


def agreement(networks, n, x, targets, labels):
    """Mean over digits of the rank correlation of a network's gradients with the mean of the others'."""
    maps = [saliency.attribute(network, x, targets, "gradient") for network in networks]
    shares = [each / np.abs(each).sum((1, 2), keepdims=True) for each in maps]
    others = np.mean(shares[:n] + shares[n + 1 :], axis=0)
    found = [stats.spearmanr(one.ravel(), other.ravel()).statistic for one, other in zip(maps[n], others, strict=True)]
    return pd.Series(found).groupby(labels).mean().mean()


@pytest.mark.parametrize("seeds", [(0,), (3,), (0, 1, 2, 3, 4)])
def test_learnt_is_the_share_of_copies_that_agree_as_much(tested, seeds):
    x, labels = (each[tested.few.ravel()] for each in (tested.data.images, tested.data.labels))
    firsts = [by_fold[0] for by_fold in bundled.by_fold("digits", "cnn").values()]
    own = np.mean([agreement(firsts, n, x, labels, labels) for n in seeds])
    found = tested.learnt(*seeds).loc["gradient"]
    assert found.agreement == pytest.approx(own, abs=1e-6)
    null = tested.null[0].query("method == 'gradient' and network >= 0")
    copies = null.groupby("network")[[f"agreement_{n}" for n in seeds]].mean().mean(axis=1)
    assert len(copies) == 99
    assert found.p == (1 + sum(copies >= own)) / 100
    if seeds == (0,):
        itself = tested.null[0].query("method == 'gradient' and network == -1").agreement_0
        np.testing.assert_allclose(tested.by_digit.agreement, itself)
        assert itself.mean() == pytest.approx(own, abs=1e-6)


def test_p_by_digit_is_a_count_too(tested):
    reach = (tested.copies >= tested.by_digit.agreement.to_numpy()).sum(0)
    np.testing.assert_allclose(tested.by_digit.p, (1 + reach) / 100)
    np.testing.assert_allclose(tested.by_digit.p_holm, multipletests(tested.by_digit.p, method="holm")[1])
    assert tested.undecided_digits == "with 99 copies no corrected p can be below 0.10"


def test_noise_passes_nothing(tested):
    assert set(tested.noise.test) == {"learnt", "eMPRT", *TESTS}
    assert (tested.noise.p > 0.05).all()
    assert tested.verdicts.about[NOISE] == "not shown to be learnt; not shown to be better than the ink"


def test_a_rule_that_knows_which_networks_are_copies_would_pass(tested):
    """So the control can fail; and no copy gets the draw that a trained network got."""
    study, draws = tested.replace(), {True: [], False: []}
    trained = {id(study.readers[0]), *(id(peer[0]) for peer in study.peers.values())}

    def rigged(network, asked, targets, seed):
        draws[id(network) in trained].append(seed)
        return controls.noise(asked, 0 if id(network) in trained else seed)

    vars(study)["rules"] = study.rules | {NOISE: rigged}
    assert study.learnt(0).p[NOISE] == 1 / 100
    copies = draws[False]
    assert len(set(copies)) == 99
    assert not set(copies) & set(draws[True][:5])


def test_without_enough_copies_nothing_is_said_of_learnt(study, tested):
    assert study.unlearnt == "no p-values were asked for: null_networks is 0"
    assert not tested.unlearnt
    few = tested.replace()
    vars(few)["maps"] = tested.maps | {"more": tested.maps["gradient"]}  # a method more is a test more
    vars(few)["null"] = tested.null[0], tested.null[1] | {"more": tested.null[1]["gradient"]}
    assert few.unlearnt == "with 99 copies no corrected p can be below 0.05"
    assert few.learnt(0).p.isna().all()
    for each in (study.verdicts, study.seeds):
        assert each.p.isna().all()
    assert study.verdicts.about.str.startswith("not tested whether learnt").all()
    assert study.seeds.together.str.startswith("not tested whether learnt").all()
    assert study.seeds.learnt.isna().all()
    assert study.mprt["eMPRT p"].isna().all()
    assert study.by_digit.p.isna().all()


def test_a_class_without_a_gradient_is_left_out_and_named(someones):
    assert list(someones.opened.lacking) == [3]
    assert someones.by_digit.digit[someones.by_digit.agreement.isna()].tolist() == [3]
    assert np.isnan(someones.by_digit.p[3])
    assert "digit 3" in someones.reading.what.tolist()
    there, areas = someones.labels != 3, someones.tried[0]["deletion"]["absence"]
    gaps = (areas["occlusion"] - areas[INK])[there].groupby(someones.units[there]).mean()
    assert someones.faithful.loc["occlusion", "deletion − ink"] == pytest.approx(gaps.mean())
    assert np.isfinite([someones.like_ink, someones.compared.alike]).all()
    with pytest.raises(BadParameter, match=r"target is '3': of digit 3 its output is constant .*; explain another"):
        someones.replace(target="3")


def test_copies_are_held_against_a_network_by_the_digits_that_it_has(someones):
    null = someones.null[0].query("digit != 3")
    for method in someones.offered:
        of_one = null[null.method == method].groupby("network")[["agreement_0", "complexity"]].mean()
        own, copies = of_one.loc[-1], of_one.drop(-1)
        assert someones.learnt(0).p[method] == (1 + (copies.agreement_0 >= own.agreement_0).sum()) / 100
    p = {}
    for method in [*someones.offered, NOISE]:  # noise has maps of every digit
        kept = someones.null[0] if method == NOISE else null
        means = kept[kept.method == method].groupby("network").complexity.mean()
        p[method] = (1 + (means.drop(-1) <= means[-1]).sum()) / 100
    np.testing.assert_allclose(someones.mprt["eMPRT p"], multipletests([*p.values()], method="holm")[1])


def test_someones_network_has_no_seeds_and_other_conditions(someones):
    assert someones.seeds.reason == someones.over_seeds("gradient").reason == "your network is one network"
    assert [*someones.peers] == [*TRAINED]
    assert len(someones.parts(someones.readers)) == 1
    with pytest.raises(BadParameter, match=r"'transformer' is not to be had for your .* trained, randomised, gr"):
        someones.replace(condition_b="transformer")


@pytest.mark.parametrize("sides", [("trained", "gradient"), ("cnn", "trained"), ("gradient", "cnn")])
def test_nothing_is_compared_with_itself(study, sides):
    with pytest.raises(BadParameter, match="are the same network by the same method: give two"):
        study.replace(condition_a=sides[0], condition_b=sides[1])


def test_other_parameters_need_no_file_again_and_give_the_numbers_of_a_fresh_study(study, monkeypatch):
    assert {*study.peers} < {*study.others}
    changes = {"target": "predicted", "method": "occlusion", "baseline": "mean", "rows": 8, "columns": 8}
    fresh, reads = make(**changes), []
    picture, widths, accuracy = fresh.picture, fresh.compared.widths, fresh.accuracy
    for module, name in ((bundled, "read"), (images, "load")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, f=function: (reads.append(given), f(*given))[1])
    replaced = study.replace(**changes)
    np.testing.assert_array_equal(replaced.picture, picture)
    np.testing.assert_array_equal(replaced.compared.widths, widths)
    pd.testing.assert_frame_equal(replaced.accuracy, accuracy)
    assert not reads
    other = study.replace(model="transformer", method="attention_rollout")
    assert reads
    assert other.architecture == "transformer"
    assert "attention_rollout" in other.offered


def test_the_same_parameters_give_the_same_tables(study):
    again = make()
    tables = "verdicts", "faithful", "seeds", "by_digit", "similarity", "mprt", "compared_by_digit", "peaks", "orders"
    for name in tables:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(study, name))
    assert not np.array_equal(make(seed=1).chosen, study.chosen)


def test_pictures_are_shares_and_answers_are_counted(study):
    assert study.picture.sum() == pytest.approx(1)
    np.testing.assert_allclose(study.replace(normalisation="panel").shown.sum((1, 2)), 1)
    assert study.nearest["7 × 6"] == pytest.approx(study.picture.max())
    labels, writers = study.data.labels, study.data.writers
    np.testing.assert_array_equal(study.confusion.sum(1), np.bincount(labels))
    assert study.right.share == study.confusion.trace() / len(labels) == study.accuracy.accuracy[0]
    right = pd.Series(study.scores.argmax(1) == labels).groupby(writers).mean()
    assert study.right.error == pytest.approx(stats.sem(right))
    assert study.worst.given.is_monotonic_increasing
    assert study.worst.given.iloc[0] == study.scores[np.arange(len(labels)), labels].min()
    assert study.replace(method="occlusion").completeness.promise == "does not promise"


def test_where_writers_are_unknown_images_are_the_units_and_one_network_a_seed_reads_them():
    study = make(dataset="mnist5k")
    assert study.unit == "images"
    np.testing.assert_array_equal(study.units, np.arange(50))
    assert {len(study.readers), *map(len, study.others.values())} == {1}
    _, held_out = images.folds(study.data, by_writer=False)[0]
    assert set(study.chosen) <= set(study.seen) == set(held_out)
    assert study.right["images"] == 1000
