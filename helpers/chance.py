"""What φ is when the two subspaces have nothing to do with each other.

U and V are independent and uniform (Haar) among the subspaces of dimension i and j of R^d.
"""

import numpy as np


def mean(i, j, d):
    """E φ = max(i, j) / d. i, j, d: positive integers or arrays of them that broadcast; i, j ≤ d."""
    i, j, d = _checked_dimensions(i, j, d)
    return np.maximum(i, j) / d


def variance(i, j, d):
    """Var φ = 2 i j (d-i)(d-j) / [d² (d-1)(d+2) min(i, j)²], exact for every i, j ≤ d; d = 1 gives 0.

    From the second moments of a uniform projector; the law is the Pillai-Bartlett trace of the Jacobi ensemble.
    """
    i, j, d = _checked_dimensions(i, j, d)
    smaller = np.minimum(i, j)
    spread = 2.0 * i * j * (d - i) * (d - j)
    return spread / (d**2 * np.maximum(d - 1.0, 1.0) * (d + 2.0) * smaller**2)


def rise_z_score(rise, first, last, j, d):
    """Standard deviations by which the rise φ(last, j) − φ(first, j) exceeds chance's own, for j ≤ first < last ≤ d.

    The rise is (1/j) ‖·‖² of j random directions on a block of last − first fixed ones, which is φ of that block
    but for its divisor min(block, j); the nesting of the two φ needs no other account.
    """
    block = last - first
    return z_score(np.asarray(rise) * j / np.minimum(block, j), block, j, d)


def mean_grid(rows, columns, d):
    """E φ for every i ≤ rows and j ≤ columns: [rows, columns], as `subspace.similarity_grid` lays φ out."""
    return mean(*np.ogrid[1 : rows + 1, 1 : columns + 1], d)


def z_score(phi, i, j, d):
    """Standard deviations by which φ lies above chance; broadcasts. NaN where chance has no spread (i or j = d)."""
    spread = np.sqrt(variance(i, j, d))
    return (phi - mean(i, j, d)) / np.where(spread > 0, spread, np.nan)


def random_directions(d, k, rng):
    """Orthonormal basis [d, k] of a uniform random k-dimensional subspace of R^d.

    The right singular directions of the paper's A_rand (Gaussian entries) have this law.
    rng: numpy Generator. Raises ValueError unless 1 ≤ k ≤ d.
    """
    _checked_dimensions(k, k, d)
    return np.linalg.qr(rng.standard_normal((d, k)))[0]


def projection_norms(weight, rank, draws, rng):
    """‖Uᵀ W V‖_F for uniform random U and V of `rank` directions each: [draws].

    weight: [out, in]. Their root mean square is rank · ‖W‖_F / √(out · in), the random column of Table 7.
    """
    sides = [[random_directions(size, rank, rng) for size in weight.shape] for _ in range(draws)]
    return np.array([np.linalg.norm(u.T @ weight @ v) for u, v in sides])


def _checked_dimensions(i, j, d):
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
