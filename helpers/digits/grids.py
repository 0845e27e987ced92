"""Maps on other grids, their means by digit, and the joint normalisation of the pictures."""

import numpy as np

from helpers.parameters import BadParameter

CROPPED = 1 / 8  # the most of a side that `crop` may take off at each end


def crop(maps, rows, columns):
    """Maps [..., h, w] without the margins that keep them from the proportions of rows × columns.

    The same number of pixels goes from both ends of the longer side: two columns of 28 × 28 for 7 × 6, so that the rest
    falls into blocks of 4 × 4; one of 8 × 8. Where more than an eighth of the side would go at each end, nothing goes.
    """
    height, width = maps.shape[-2:]
    down = _margin(height, width * rows / columns)
    across = _margin(width, height * columns / rows)
    return maps[..., down : height - down, across : width - across]


def regrid(maps, rows, columns):
    """Maps [..., h, w] on a grid of rows × columns; every pixel's value is shared by the area that falls in each cell.

    Sums are kept. Where cells are whole blocks of pixels it is their sum. Raises BadParameter for a grid that is larger
    than the maps or below 1.
    """
    height, width = np.shape(maps)[-2:]
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise BadParameter(
            f"a grid of {rows} × {columns} for maps of {height} × {width}: expected 1 … {height} × 1 … {width}"
        )
    return _shares(height, rows) @ np.asarray(maps, dtype=np.float64) @ _shares(width, columns).T


def on_grid(maps, rows, columns):
    """(maps on the grid, share of the absolute mass that `crop` kept): `crop`, then `regrid` of the absolute values."""
    size = np.abs(maps)
    kept = crop(size, rows, columns)
    return regrid(kept, rows, columns), float(kept.sum() / size.sum()) if size.any() else 1.0


def joint_normalise(maps):
    """Absolute values of the maps, of any shape, divided by their sum over all maps: one distribution.

    Of all-zero maps: zeros.
    """
    size = np.abs(np.asarray(maps, dtype=np.float64))
    return size / (size.sum() or 1.0)


def class_means(maps, labels):
    """Mean map of every digit: [10, h, w]."""
    return np.stack([maps[labels == digit].mean(0) for digit in range(10)])


def _margin(side, wanted):
    margin = int(np.ceil(max(side - wanted, 0) / 2 - 1e-9))
    return margin if margin <= CROPPED * side else 0


def _shares(pixels, cells):
    """Share of every pixel that lies in every cell, both laid over the same length: [cells, pixels]."""
    ends = np.arange(pixels + 1) * cells / pixels
    lower = np.maximum(ends[:-1], np.arange(cells)[:, None])
    upper = np.minimum(ends[1:], np.arange(1, cells + 1)[:, None])
    return np.clip(upper - lower, 0, None) * pixels / cells
