"""Data sets, splits and training of the digit classifiers, on the real images."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from helpers import digits
from helpers.digits import networks


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
        if by_writer:
            assert not set(small.writers[train]) & set(small.writers[test])


def test_the_bundled_split(small, large):
    for data in (small, large):
        train, held_out = digits.hold_out(data)
        assert len(train) + len(held_out) == len(data.labels)
        assert not set(train) & set(held_out)
        assert set(data.labels[held_out]) == set(range(10))
        assert len(held_out) / len(data.labels) == pytest.approx(0.2, abs=0.03)
    train, held_out = digits.hold_out(small)
    assert not set(small.writers[train]) & set(small.writers[held_out])


def test_examples_come_digit_by_digit_from_those_allowed(small, rng):
    _, held_out = digits.hold_out(small)
    chosen = digits.examples(small.labels, held_out, 4, rng)
    assert small.labels[chosen].tolist() == np.repeat(range(10), 4).tolist()
    assert set(chosen) <= set(held_out)
    assert len(set(chosen)) == 40
    with pytest.raises(ValueError, match=r"examples_per_digit is 1000: expected at most \d+"):
        digits.examples(small.labels, held_out, 1000, rng)


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
def test_training_learns_and_repeats_itself(small, architecture):
    images, labels = small.images[:600], small.labels[:600]
    schedule = {"seed": 1, "epochs": 12, "jitter": 0.05, "batch_size": 32, "learning_rate": 3e-3}
    one, history = digits.fit(architecture, images, labels, **schedule)
    again, _ = digits.fit(architecture, images, labels, **schedule)
    assert len(history) == 12
    assert history[-1][1] < history[0][1] / 2
    assert digits.accuracy(one, small.images[600:], small.labels[600:]) > 0.5
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_training_stops_early_and_keeps_the_best_epoch(small):
    """Labels that mean nothing: the validation loss rises soon, and the epoch before that is kept."""
    images, labels = small.images[:300], np.random.default_rng(0).integers(0, 10, 300)
    labels[:10] = range(10)
    model, history = digits.fit("cnn", images, labels, seed=0, epochs=200, patience=5, dropout=0.0)
    held = [loss for *_, loss in history]
    assert len(history) == int(np.argmin(held)) + 1 + 5 < 200
    _, kept = train_test_split(np.arange(300), test_size=0.1, stratify=labels, random_state=0)
    loss = torch.nn.functional.cross_entropy(digits.logits(model, images[kept]), torch.from_numpy(labels[kept]))
    assert float(loss) == pytest.approx(min(held), rel=1e-5)


def test_jitter_moves_ink_and_none_moves_nothing(small):
    x = torch.from_numpy(small.images[:50])[:, None]
    assert networks._jittered(x, 0) is x
    torch.manual_seed(0)
    moved = networks._jittered(x, 0.1)
    assert not torch.equal(moved, x)
    assert float(moved.sum() / x.sum()) == pytest.approx(1, abs=0.1)
