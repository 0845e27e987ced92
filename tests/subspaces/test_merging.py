import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from helpers.subspaces import merging

SHAPE = (12, 9)


@pytest.fixture
def deltas(rng):
    return [size * rng.standard_normal(SHAPE) for size in (1.0, 0.3, 2.0, 1.0)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("density", [0.01, 0.2, 0.499, 0.77, 0.999])
def test_ties_is_what_peft_computes(deltas, density, count):
    chosen = deltas[:count]
    expected = merge_utils.ties([torch.tensor(each) for each in chosen], torch.ones(count), density, "total")
    np.testing.assert_allclose(merging.merge(chosen, "ties", density), expected.numpy(), rtol=1e-12)


def test_all_is_kept_at_density_one(deltas):
    """Where nothing is pruned, the mean of those that have the elected sign; of one ΔW it is that ΔW."""
    np.testing.assert_array_equal(merging.merge(deltas[:1], "ties", 1), deltas[0])
    np.testing.assert_allclose(merging.merge([deltas[0]] * 3, "ties", 1), deltas[0])
    found, stacked = merging.merge(deltas, "ties", 1), np.stack(deltas)
    agreeing = np.sign(stacked) == np.sign(stacked.sum(axis=0))
    np.testing.assert_allclose(found, np.where(agreeing, stacked, 0).sum(axis=0) / agreeing.sum(axis=0))


@pytest.mark.parametrize("method", merging.METHODS)
def test_of_opposites_nothing_is_left(deltas, method):
    np.testing.assert_array_equal(merging.merge([deltas[0], -deltas[0]], method, 0.5), 0)


def test_sum_and_average_are_linear(deltas):
    np.testing.assert_allclose(merging.merge(deltas, "sum"), np.sum(deltas, axis=0))
    np.testing.assert_allclose(merging.merge(deltas, "average"), np.mean(deltas, axis=0))
    assert merging.merge([np.float32(each) for each in deltas], "sum").dtype == np.float64


def test_what_is_given_stays_as_it_was(deltas):
    before = [each.copy() for each in deltas]
    for method in merging.METHODS:
        merging.merge(deltas, method)
    np.testing.assert_array_equal(deltas, before)


def test_of_equal_magnitudes_the_first_stay():
    signs = np.array([[1.0, -1, 1], [-1, 1, -1]])
    np.testing.assert_array_equal(merging.merge([signs], "ties", 0.5), [[1, -1, 1], [0, 0, 0]])
    uneven = np.array([[1.0, 2, 1], [1, 3, 1]])
    np.testing.assert_array_equal(merging.merge([uneven], "ties", 0.5), [[1, 2, 0], [0, 3, 0]])


def keeps(merged, delta):
    """From inner products alone."""
    return merging.keeps(np.vdot(merged, delta), np.vdot(merged, merged), np.linalg.norm(delta))


def test_keeps_is_the_projection_onto_each(deltas):
    merged = merging.merge(deltas, "ties")
    for delta in deltas:
        kept, basis = keeps(merged, delta), delta.ravel() / np.linalg.norm(delta)
        beside = np.linalg.norm(merged.ravel() - (merged.ravel() @ basis) * basis)
        assert kept.along == pytest.approx(merged.ravel() @ basis / np.linalg.norm(delta))
        assert kept.off == pytest.approx(beside / np.linalg.norm(delta))
        assert kept.cosine == pytest.approx(merged.ravel() @ basis / np.linalg.norm(merged))


def test_a_merge_keeps_all_of_one_alone_and_nothing_where_it_is_zero(deltas):
    one, *_ = deltas
    assert keeps(one, one) == pytest.approx((1, 1, 0), abs=1e-7)
    assert keeps(-2 * one, one) == pytest.approx((-2, -1, 0), abs=1e-7)
    for square in (0.0, -1e-17):  # as a sum of opposites may leave
        assert merging.keeps(0.0, square, 2.0) == pytest.approx((0, np.nan, 0), nan_ok=True)
    merged = merging.merge(deltas, "sum")
    assert keeps(1e-100 * merged, 1e-100 * one) == pytest.approx(keeps(merged, one))


def test_what_cannot_be_merged_is_refused(deltas, unchecked):
    for given, method, density, message in (
        ([], "sum", 0.2, "no ΔW is given"),
        (deltas, "dare", 0.2, "method is 'dare': expected one of sum, average, ties"),
        ([deltas[0], deltas[1].T], "sum", 0.2, r"ΔW number 2 is \(9, 12\) and the first \(12, 9\)"),
        ([deltas[0], deltas[1] * np.nan], "sum", 0.2, "ΔW number 2 holds NaN"),
        ([deltas[0][0]], "sum", 0.2, "two dimensions"),
        (deltas, "ties", 0.0, "density is 0.0"),
        (deltas, "ties", 1.1, "density is 1.1"),
        (deltas, "ties", np.nan, "density is nan"),
        (deltas, "ties", 0.009, "of 108 entries it keeps none"),
    ):
        with pytest.raises(ValueError, match=message):
            merging.merge(given, method, density)
