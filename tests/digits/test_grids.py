"""Grids and normalisation against their definitions."""

import numpy as np
import pytest

from helpers import digits
from helpers.digits import grids


@pytest.mark.parametrize(
    "shape", [(8, 8, 7, 6), (28, 28, 7, 7), (28, 24, 7, 6), (28, 28, 5, 3), (9, 7, 1, 1), (8, 8, 8, 8)]
)
def test_regrid_keeps_the_sum(rng, shape):
    height, width, rows, columns = shape
    maps = rng.standard_normal((4, height, width))
    laid = grids.regrid(maps, rows, columns)
    assert laid.shape == (4, rows, columns)
    np.testing.assert_allclose(laid.sum((1, 2)), maps.sum((1, 2)), rtol=1e-6, atol=1e-9)


def test_regrid_sums_whole_blocks_and_shares_the_others_by_area(rng):
    maps = rng.random((3, 28, 24))
    np.testing.assert_allclose(grids.regrid(maps, 7, 6), maps.reshape(3, 7, 4, 6, 4).sum((2, 4)), rtol=1e-12)
    np.testing.assert_allclose(grids.regrid(maps, 28, 24), maps)
    fine = rng.random((3, 8, 6)).repeat(7, 1) / 7  # every pixel as 7 thin ones
    np.testing.assert_allclose(grids.regrid(fine, 7, 6), grids.regrid(fine.reshape(3, 8, 7, 6).sum(2), 7, 6))
    np.testing.assert_allclose(grids.regrid(np.eye(3), 2, 3), [[1, 0.5, 0], [0, 0.5, 1]], atol=1e-12)


@pytest.mark.parametrize("grid", [(0, 3), (3, 0), (9, 3), (3, 9)])
def test_a_grid_finer_than_the_image_or_empty_is_refused(grid):
    with pytest.raises(ValueError, match=f"a grid of {grid[0]} × {grid[1]} for maps of 8 × 8: expected 1 … 8 × 1 … 8"):
        grids.regrid(np.zeros((1, 8, 8)), *grid)


@pytest.mark.parametrize(
    ("shape", "grid", "kept"),
    [
        ((28, 28), (7, 6), (28, 24)),
        ((8, 8), (7, 6), (8, 6)),
        ((8, 8), (6, 7), (6, 8)),
        ((28, 28), (7, 7), (28, 28)),
        ((8, 8), (8, 1), (8, 8)),
    ],
)
def test_crop_takes_thin_margins_only(shape, grid, kept):
    assert grids.crop(np.zeros(shape), *grid).shape == kept


def test_mnist_falls_into_blocks_and_loses_almost_no_ink():
    images = digits.load("mnist5k").images
    laid, kept = grids.on_grid(images, 7, 6)
    assert kept == pytest.approx(1 - 0.00018, abs=5e-6)
    np.testing.assert_allclose(laid, images[:, :, 2:26].reshape(-1, 7, 4, 6, 4).sum((2, 4)), rtol=1e-5)


def test_joint_maps_sum_to_one_over_all(rng):
    maps = rng.standard_normal((10, 7, 6))
    joint = grids.joint_normalise(maps)
    assert joint.sum() == pytest.approx(1)
    assert (joint >= 0).all()
    np.testing.assert_allclose(joint / joint[0, 0, 0], np.abs(maps) / np.abs(maps[0, 0, 0]))
    assert (grids.joint_normalise(np.zeros((10, 7, 6))) == 0).all()


def test_class_means(rng):
    labels = np.tile(range(10), 3)
    maps = rng.random((30, 2, 2))
    np.testing.assert_allclose(grids.class_means(maps, labels)[4], (maps[4] + maps[14] + maps[24]) / 3)
