"""Data sets, splits, training and the bundled networks of the digit classifiers, on the real images."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from helpers import digits
from helpers.digits import bundled, images, networks
from helpers.training import digit_models
from helpers.weights import WeightsError


@pytest.fixture(scope="module")
def small():
    return digits.load("digits")


@pytest.fixture(scope="module")
def large():
    return digits.load("mnist5k")


def test_the_data_sets_are_what_they_are_said_to_be(small, large):
    """Published counts of either set, and shares of ink that were measured apart from this code."""
    assert small.images.shape == (1797, 8, 8)
    assert large.images.shape == (5000, 28, 28)
    for data in (small, large):
        assert data.images.dtype == np.float32
        assert data.images.min() == 0
        assert data.images.max() == 1
        assert np.bincount(data.labels).size == 10
        assert data.file.is_file()
    assert np.bincount(large.labels).tolist() == [500] * 10
    assert np.mean(small.images == 0) == pytest.approx(0.49, abs=0.005)
    assert small.images[:, :, [0, 7]].sum() / small.images.sum() == pytest.approx(0.0029, abs=5e-5)
    assert large.images[:, :, [0, 1, 26, 27]].sum() / large.images.sum() == pytest.approx(0.00018, abs=5e-6)


def test_an_unknown_data_set_lists_those_that_there_are():
    with pytest.raises(ValueError, match="dataset is 'mnist': expected one of digits, mnist5k"):
        digits.load("mnist")


def test_writers_begin_where_the_sequence_of_digits_begins_again(small):
    starts = np.flatnonzero(np.diff(small.writers, prepend=-1))
    assert len(starts) == 14
    for start in starts:
        assert small.labels[start : start + 10].tolist() == list(range(10))
    lengths = np.diff([*starts, len(small.labels)])
    assert lengths.max() <= 139
    assert lengths.min() >= 114


@pytest.mark.parametrize("by_writer", [False, True])
def test_folds_hold_every_image_out_once_and_no_writer_on_both_sides(small, by_writer):
    pairs = digits.folds(small, by_writer)
    assert sorted(np.concatenate([test for _, test in pairs])) == list(range(1797))
    for train, test in pairs:
        assert not set(train) & set(test)
        assert np.bincount(small.labels[test]).min() >= 0.08 * len(test)
        if by_writer:
            assert not set(small.writers[train]) & set(small.writers[test])
    if by_writer:
        held_out = [writer for _, test in pairs for writer in set(small.writers[test])]
        assert sorted(held_out) == list(range(14))


def test_the_bundled_split(small, large):
    for data in (small, large):
        train, held_out = digits.hold_out(data)
        assert len(train) + len(held_out) == len(data.labels)
        assert not set(train) & set(held_out)
        assert set(data.labels[held_out]) == set(range(10))
        assert len(held_out) / len(data.labels) == pytest.approx(0.2, abs=0.03)
    train, held_out = digits.hold_out(small)
    assert not set(small.writers[train]) & set(small.writers[held_out])
    plainly = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(small.images, small.labels, small.writers)
    assert all(np.array_equal(*pair) for pair in zip((train, held_out), next(plainly), strict=True))


def test_the_fold_of_an_image_is_the_one_that_holds_it_out(small, large):
    for data in (small, large):
        fold = images.fold_of(data)
        for number, (train, held_out) in enumerate(images.folds(data, data.writers is not None)):
            assert np.array_equal(np.flatnonzero(fold == number), held_out)
            assert not (fold[train] == number).any()
    assert all(len(set(images.fold_of(small)[small.writers == writer])) == 1 for writer in range(14))


def test_examples_come_digit_by_digit_from_those_allowed(small, rng):
    _, held_out = digits.hold_out(small)
    chosen = digits.examples(small.labels, held_out, 4, rng)
    assert small.labels[chosen].tolist() == np.repeat(range(10), 4).tolist()
    assert set(chosen) <= set(held_out)
    assert len(set(chosen)) == 40
    with pytest.raises(ValueError, match=r"examples_per_digit is 1000: expected at most \d+"):
        digits.examples(small.labels, held_out, 1000, rng)


@pytest.mark.parametrize("per_digit", [1, 9, 15, 30])
def test_examples_spread_over_the_writers(small, rng, per_digit):
    """No writer has two images of a digit more than another who has any left."""
    everywhere = np.arange(len(small.labels))
    chosen = digits.examples(small.labels, everywhere, per_digit, rng, small.writers)
    assert small.labels[chosen].tolist() == np.repeat(range(10), per_digit).tolist()
    assert len(set(chosen)) == 10 * per_digit
    for digit, own in enumerate(chosen.reshape(10, per_digit)):
        taken = np.bincount(small.writers[own], minlength=14)
        there = np.bincount(small.writers[small.labels == digit], minlength=14)
        assert taken.max() - taken[taken < there].min(initial=taken.max()) <= 1
    with pytest.raises(ValueError, match=r"examples_per_digit is 1000: expected at most \d+"):
        digits.examples(small.labels, everywhere, 1000, rng, small.writers)


def test_which_writers_and_which_of_their_images_is_drawn(small):
    """Of nine examples of a digit among fourteen writers each writer has 9/14, each image of a writer its share."""
    everywhere, rng = np.arange(len(small.labels)), np.random.default_rng(0)
    draws = np.array([digits.examples(small.labels, everywhere, 9, rng, small.writers) for _ in range(200)])
    writers = np.bincount(small.writers[draws].ravel(), minlength=14) / draws.size
    assert abs(writers - 1 / 14).max() < 0.02
    assert len(np.unique(draws)) > 0.95 * len(small.labels)


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("architecture", digits.ARCHITECTURES)
def test_a_seed_decides_the_start_and_nothing_else_of_the_random_state(architecture, size):
    before = torch.get_rng_state()
    one, same, other = (digits.untrained(architecture, size, seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    x = torch.rand(2, 1, size, size)
    assert one(x).shape == (2, 10)
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))


def test_the_attention_of_the_transformer_is_a_distribution():
    model = digits.untrained("transformer", 8, 0)
    model(torch.rand(3, 1, 8, 8))
    for block in model.blocks:
        assert block.attention.shape == (3, 4, 17, 17)
        torch.testing.assert_close(block.attention.sum(-1), torch.ones(3, 4, 17))


@pytest.mark.parametrize("architecture", digits.ARCHITECTURES)
def test_logits_do_not_depend_on_how_many_images_a_pass_takes(small, monkeypatch, architecture):
    model, seen = digits.untrained(architecture, 8, 0), []
    whole = model(torch.from_numpy(small.images)[:, None]).detach()
    model.register_forward_hook(lambda _, given, __: seen.append(given[0].nbytes))
    for size in (networks.BYTES, 10_000, 1):
        monkeypatch.setattr(networks, "BYTES", size)
        torch.testing.assert_close(digits.logits(model, small.images), whole, atol=1e-5, rtol=1e-4)
        assert max(seen) <= max(size, small.images[0].nbytes)
        seen.clear()


@pytest.mark.parametrize("explains", ["logit", "log_probability", "probability"])
def test_probabilities_whatever_the_outputs_are(small, explains):
    model = digits.untrained("cnn", 8, 0)
    expected = digits.logits(model, small.images[:20]).softmax(1)
    ending = {"logit": [], "log_probability": [torch.nn.LogSoftmax(1)], "probability": [torch.nn.Softmax(1)]}
    own = torch.nn.Sequential(model, *ending[explains])
    own.explains = explains
    torch.testing.assert_close(networks.probabilities(own, small.images[:20]), expected)


@pytest.mark.parametrize("architecture", digits.ARCHITECTURES)
def test_training_learns_and_repeats_itself(small, architecture):
    images, labels = small.images[:600], small.labels[:600]
    schedule = {"seed": 1, "epochs": 12, "jitter": 0.05, "batch_size": 32, "learning_rate": 3e-3}
    one, history = digit_models.fit(architecture, images, labels, **schedule)
    again, _ = digit_models.fit(architecture, images, labels, **schedule)
    assert len(history) == 12
    assert history[-1][1] < history[0][1] / 2
    assert digits.accuracy(one, small.images[600:], small.labels[600:]) > 0.5
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_training_stops_early_and_keeps_the_best_epoch(small):
    """Labels that mean nothing: the validation loss rises soon, and the epoch before that is kept."""
    images, labels = small.images[:300], np.random.default_rng(0).integers(0, 10, 300)
    labels[:10] = range(10)
    model, history = digit_models.fit("cnn", images, labels, seed=0, epochs=200, patience=5, dropout=0.0)
    held = [loss for *_, loss in history]
    assert len(history) == int(np.argmin(held)) + 1 + 5 < 200
    _, kept = train_test_split(np.arange(300), test_size=0.1, stratify=labels, random_state=0)
    loss = torch.nn.functional.cross_entropy(digits.logits(model, images[kept]), torch.from_numpy(labels[kept]))
    assert float(loss) == pytest.approx(min(held), rel=1e-5)


def test_jitter_moves_ink_and_none_moves_nothing(small):
    x = torch.from_numpy(small.images[:50])[:, None]
    assert digit_models._jittered(x, 0) is x
    torch.manual_seed(0)
    moved = digit_models._jittered(x, 0.1)
    assert not torch.equal(moved, x)
    assert float(moved.sum() / x.sum()) == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module", params=digits.ARCHITECTURES)
def of_folds(request):
    return request.param, bundled.by_fold("digits", request.param)


def test_every_fold_has_a_network_of_every_seed(of_folds):
    architecture, by_fold = of_folds
    assert list(by_fold) == [f"seed_{seed}" for seed in range(5)]
    assert {len(networks) for networks in by_fold.values()} == {5}
    of_mnist = bundled.by_fold("mnist5k", architecture, ["seed_2"])
    assert {seed: len(networks) for seed, networks in of_mnist.items()} == {"seed_2": 1}
    starts = [next(network.parameters()) for networks in by_fold.values() for network in networks]
    assert not any(torch.equal(one, other) for n, one in enumerate(starts) for other in starts[:n])
    for seed, network in bundled.by_seed("digits", architecture).items():
        first = by_fold[seed][0] if seed in by_fold else network
        assert all(torch.equal(one, other) for one, other in zip(network.parameters(), first.parameters(), strict=True))


def test_a_network_is_read_as_it_is_stored(of_folds):
    architecture, by_fold = of_folds
    for seed, of_seed in by_fold.items():
        for fold, network in enumerate(of_seed):
            stored = load_file(bundled.directory("digits", architecture) / f"{bundled.name(seed, fold)}.safetensors")
            assert {tensor.dtype for tensor in stored.values()} == {torch.float16 if fold else torch.float32}
            for name, tensor in network.state_dict().items():
                assert tensor.dtype == torch.float32
                assert torch.equal(tensor.to(stored[name].dtype), stored[name])
            assert not any(parameter.requires_grad for parameter in network.parameters())
            assert not network.training


def test_no_network_saw_the_writers_that_it_is_to_read(of_folds, small):
    """By the folds that its training recorded; and of five networks it reads those writers worst, over the seeds."""
    architecture, by_fold = of_folds
    record = json.loads((bundled.directory("digits", architecture) / "training.json").read_text(encoding="utf-8"))
    fold, right = np.array([*map(int, record["fold_of"])]), np.zeros((5, 5))
    assert np.array_equal(fold, images.fold_of(small))
    assert [len({*fold[small.writers == writer]}) for writer in range(14)] == [1] * 14
    for of_seed in by_fold.values():
        for number, network in enumerate(of_seed):
            read = digits.logits(network, small.images).argmax(1).numpy() == small.labels
            right[number] += [read[fold == other].mean() / 5 for other in range(5)]
    assert right.argmin(0).tolist() == list(range(5))
    assert right.diagonal().min() > 0.9


def test_all_files_are_listed():
    for dataset, count in {"digits": 26, "mnist5k": 6}.items():
        files = bundled.files(dataset, "cnn")
        assert sorted(files) == sorted(bundled.directory(dataset, "cnn").glob("*.safetensors"))
        assert len(files) == count


def test_a_network_with_nan_is_named(tmp_path):
    tensors = digits.untrained("cnn", 8, 0).state_dict()
    tensors["0.bias"][3] = np.nan
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=r"broken\.safetensors holds NaN or infinite numbers: restore it"):
        bundled.read(tmp_path / "broken.safetensors", "digits", "cnn")
