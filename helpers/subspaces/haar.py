"""Draws of uniform random subspaces (Haar), and of random matrices.

What is not positive integers with i, j ≤ d is refused with a ValueError, and so are fewer than 2 draws of cosines.
"""

from collections.abc import Sequence
from numbers import Real
from typing import SupportsIndex as Index

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Num
from numpy.random import Generator

Numbers = Real | Num[np.ndarray, "..."] | pd.Series | Sequence  # which broadcast
CHUNK = 2**22  # numbers drawn at once


def random_directions(d: Index, k: Index, rng: Generator) -> Float64[np.ndarray, "{d} {k}"]:
    """k ≤ d uniform random orthonormal directions of R^d: a Haar frame, and so a uniform subspace.

    The right singular directions of `gaussian_factor` span such a subspace as well, at any number of them. The signs
    that QR chooses are undone (Mezzadri 2007, arXiv:math-ph/0609050).
    """
    checked_dimensions(k, k, d)
    q, r = np.linalg.qr(rng.standard_normal((d, k)))
    return q * np.sign(np.diag(r))


def gaussian_factor(r: Index, d: Index, rng: Generator) -> Float64[np.ndarray, "{r} {d}"]:
    """A_rand of the paper's random panels: independent standard normal entries (Hu et al. 2021, appendix G)."""
    checked_dimensions(r, r, d)
    return rng.standard_normal((r, d))


def random_cosines(
    i: Index, j: Index, d: Index, draws: Index, rng: Generator
) -> Float64[np.ndarray, "{draws} {min(i,j)}"]:
    """Squared cosines of the principal angles of random pairs, falling.

    Two Wishart matrices of the smaller dimension stand for the subspaces, so the cost does not depend on d. Where
    i + j > d, i + j − d cosines are 1 and the others are those of the orthogonal complements. ValueError for draws
    below 2.
    """
    checked_dimensions(i, j, d)
    check_draws(draws)
    forced = max(i + j - d, 0)
    if forced:
        i, j = d - i, d - j
    smaller, larger = min(i, j), max(i, j)
    if not smaller:
        return np.ones((draws, forced))
    parts = []
    for n in chunks(draws, smaller**2):
        inside, outside = (_wishart(freedom, smaller, n, rng) for freedom in (larger, d - larger))
        root = np.linalg.cholesky(inside + outside)
        half = np.linalg.solve(root, inside)
        parts.append(np.linalg.eigvalsh(np.linalg.solve(root, half.swapaxes(1, 2)))[:, ::-1])
    return np.hstack([np.ones((draws, forced)), np.clip(np.concatenate(parts), 0.0, 1.0)])


def random_phi(i: Index, j: Index, d: Index, draws: Index, rng: Generator) -> Float64[np.ndarray, "{draws}"]:
    """φ of random pairs. As `random_cosines`."""
    return random_cosines(i, j, d, draws, rng).mean(axis=1)


def random_overlaps(
    i: Index, j: Index, d: Index, draws: Index, rng: Generator
) -> Float64[np.ndarray, "{draws} {i} {j}"]:
    """Uᵀ V of random pairs, U being i and V being j random directions in order.

    φ of the leading directions of one pair, over all of the grid, is `similarity.cumulative_phi` of its overlap. One
    side is fixed, by invariance, and of the other only the part inside it is drawn.
    """
    checked_dimensions(i, j, d)
    if j > i:
        return random_overlaps(j, i, d, draws, rng).swapaxes(1, 2)
    inside = rng.standard_normal((draws, i, j))
    if d - i >= j:
        outside = _wishart(d - i, j, draws, rng)
    else:
        rest = rng.standard_normal((draws, d - i, j))
        outside = rest.swapaxes(1, 2) @ rest
    root = np.linalg.cholesky(inside.swapaxes(1, 2) @ inside + outside)
    return np.linalg.solve(root, inside.swapaxes(1, 2)).swapaxes(1, 2)


def projection_norms(
    weight: Float[np.ndarray, "out in"], rank: Index, draws: Index, rng: Generator
) -> Float64[np.ndarray, "{draws}"]:
    """‖Uᵀ W V‖_F for uniform random U and V of `rank` directions each.

    Their root mean square is rank · ‖W‖_F / √(out · in), the random column of Table 7.
    """
    sides = [[random_directions(size, rank, rng) for size in weight.shape] for _ in range(draws)]
    return np.array([np.linalg.norm(u.T @ weight @ v) for u, v in sides])


def spectrum_matched(weight: Float[np.ndarray, "out in"], rng: Generator) -> Float64[np.ndarray, "out in"]:
    """A random matrix with the singular values of `weight` and uniform random singular directions."""
    values = np.linalg.svd(weight, compute_uv=False)
    left, right = (random_directions(size, len(values), rng) for size in weight.shape)
    return left * values @ right.T


def chunks(draws: Index, size: Index) -> list[int]:
    """Draws cut into parts of at most CHUNK numbers, `size` of them a draw."""
    most = max(1, CHUNK // size)
    return [most] * (draws // most) + [draws % most] * (draws % most > 0)


def check_draws(draws: Index) -> None:
    """ValueError unless it is an integer of at least 2."""
    if not isinstance(draws, int | np.integer) or draws < 2:
        raise ValueError(f"draws is {draws}: expected an integer of at least 2")


def checked_dimensions(i: Numbers, j: Numbers, d: Numbers) -> tuple:
    """i, j and d as float64 arrays; ValueError unless they are positive integers with i, j ≤ d."""
    i, j, d = (np.asarray(value) for value in (i, j, d))
    for name, value in (("i", i), ("j", j), ("d", d)):
        if value.dtype.kind not in "iu" or (value < 1).any():
            raise ValueError(f"{name} is {value}: expected positive integers")
    for name, value in (("i", i), ("j", j)):
        if (value > d).any():
            raise ValueError(
                f"{name} reaches {value.max()}, above d = {d.min()}: a subspace has at most the dimension of its space"
            )
    return i.astype(np.float64), j.astype(np.float64), d.astype(np.float64)


def bartlett(freedom: Index, size: Index, draws: Index, rng: Generator) -> Float64[np.ndarray, "{draws} {size} {size}"]:
    """Triangular factors of Wishart matrices with unit scale (Bartlett 1933), freedom ≥ size.

    They stand for normal matrices [size, freedom], but for a rotation on their right.
    """
    root, diagonal = np.tril(rng.standard_normal((draws, size, size)), -1), np.arange(size)
    root[:, diagonal, diagonal] = np.sqrt(rng.chisquare(freedom - diagonal, (draws, size)))
    return root


def _wishart(freedom, size, draws, rng):
    root = bartlett(freedom, size, draws, rng)
    return root @ root.swapaxes(1, 2)
