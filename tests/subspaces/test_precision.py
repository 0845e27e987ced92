"""Numbers in a file are rounded: how many directions they still determine, and how far φ of these may be off."""

import numpy as np
import pytest

from helpers import subspaces
from helpers.subspaces import directions

UNITS = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}


def stored(matrix, unit):
    """The nearest numbers with this unit round-off, in float64."""
    grid = 2 * unit * 2.0 ** np.floor(np.log2(np.abs(matrix)))
    return np.round(matrix / grid) * grid


def moved(matrix, unit, signs):
    """Every number half a unit in the last place away."""
    return matrix + signs * unit * 2.0 ** np.floor(np.log2(np.abs(matrix)))


def signs_of(kind, shape, rng):
    return rng.choice([-1.0, 1.0], shape) if kind == "random" else np.ones(shape)


def signs_that_turn(b, a, k):
    """Signs of the changes of a that turn the k-th right singular direction of b @ a most towards the next."""
    left, _, right = np.linalg.svd(b @ a, full_matrices=False)
    return np.sign(np.outer(b.T @ left[:, k], right[k + 1]))


def with_values(values, d, rng):
    """[len(values), d] with these singular values in random directions."""
    left = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return left * values @ np.linalg.qr(rng.standard_normal((d, len(values))))[0].T


SPECTRA = {
    "falling": np.logspace(0, -3, 8),
    "flat": np.linspace(1.1, 1.0, 8),
    "ties": np.array([2.0, 1.0, 1.0 - 1e-5, 0.5, 0.5, 0.5, 0.1, 0.01]),
}


@pytest.mark.parametrize("signs", ["random", "equal", "turning"])
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("factor", ["A", "BA"])
def test_no_phi_moves_by_more_than_its_error_when_stored_numbers_move(rng, factor, spectrum, unit, signs):
    d = 120
    a, b = (stored(with_values(SPECTRA[spectrum], d, rng), unit) for _ in range(2))
    b = b.T
    right = np.linalg.svd(a if factor == "A" else b @ a)[2]
    u = np.linalg.qr(np.column_stack([right[1] + right[2], rng.standard_normal((d, 29))]))[0]  # it tells them apart
    if signs == "turning":
        a2, b2 = moved(a, unit, signs_that_turn(np.eye(8) if factor == "A" else b, a, 1)), b
    else:
        a2, b2 = (moved(matrix, unit, signs_of(signs, matrix.shape, rng)) for matrix in (a, b))

    def every(a, b, precision):
        if factor == "A":
            return subspaces.top_directions(a, None, precision=precision)
        return subspaces.low_rank_directions(b, a, precision=precision)

    one = every(a, b, unit)
    count = one.vectors.shape[1]
    other = every(a2, b2, 0.0)
    rounding = directions.rounding(a, unit) if factor == "A" else directions.rounding_of_product(b, a, unit)
    values = np.linalg.svd(a2 if factor == "A" else b2 @ a2)[1][:count]
    assert np.abs(values - one.singular_values).max() <= rounding.bound * (1 + 1e-6)
    off = np.abs(
        subspaces.similarity_grid(u, one.vectors) - subspaces.similarity_grid(u, other.vectors[:, :count])
    ).max(axis=0)
    assert (off <= one.errors + 1e-12).all()
    assert one.phi_error == one.errors.max()


@pytest.mark.parametrize("signs", ["random", "equal"])
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_difference_is_as_precise_as_the_two_models_it_is_of(rng, unit, signs):
    """Rank of W′ − W counts what rounding both cannot have made, and φ of it moves by no more than its error."""
    d, rank = 80, 4
    before = stored(rng.standard_normal((d, d)) / d**0.5, unit)
    change = with_values(np.array([5.0, 4.0, 3.0, 2.0]), d, rng)
    after = stored(before + np.linalg.qr(rng.standard_normal((d, rank)))[0] @ change, unit)
    difference = after - before
    sizes = [np.linalg.norm(matrix) for matrix in (before, after, difference)]
    precision = unit * (sizes[0] + sizes[1]) / sizes[2]
    found = subspaces.top_directions(difference, rank, precision=precision)
    with pytest.raises(ValueError, match=f"rank {rank}"):
        subspaces.top_directions(difference, rank + 1, precision=precision)
    again = moved(after, unit, signs_of(signs, after.shape, rng)) - moved(before, unit, signs_of(signs, (d, d), rng))
    u = np.linalg.qr(rng.standard_normal((d, 20)))[0]
    other = subspaces.top_directions(again, rank, precision=0.0)
    off = np.abs(subspaces.similarity_grid(u, found.vectors) - subspaces.similarity_grid(u, other.vectors)).max(axis=0)
    assert (off <= found.errors).all()


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_equal_singular_values_determine_no_direction_but_all_of_them(rng, unit):
    a = stored(np.linalg.qr(rng.standard_normal((384, 8)))[0].T, unit)
    found = subspaces.top_directions(a, None, precision=unit)
    assert found.vectors.shape == (384, 8)
    assert (found.errors[:7] > 0.1).all()
    assert found.errors[7] < 10 * unit
    assert found.phi_error == 1


def test_weak_directions_of_wide_factors_are_real(rng):
    """The last of 64 singular values is a thousandth of the first, in 4,096 dimensions: float32 tells it from none."""
    a = (rng.standard_normal((64, 4096)) / 64).astype(np.float32)
    b = with_values(np.logspace(0, -3, 64), 256, rng).T.astype(np.float32)
    assert subspaces.low_rank_directions(b, a).vectors.shape == (4096, 64)
    nearly = np.linalg.qr(rng.standard_normal((64, 64)))[0][:, :40]
    assert subspaces.low_rank_directions((b @ nearly @ nearly.T).astype(np.float32), a).vectors.shape[1] == 40


def test_the_precision_of_an_array_is_that_of_its_dtype(rng):
    a = with_values(np.array([1.0, 1e-5, 1e-9]), 50, rng)
    assert subspaces.top_directions(a, None).vectors.shape[1] == 3
    assert subspaces.top_directions(a.astype(np.float32), None).vectors.shape[1] == 2
    assert subspaces.top_directions(a.astype(np.float16), None).vectors.shape[1] == 1


def test_both_sides_of_one_decomposition(rng):
    matrix = rng.standard_normal((30, 50)) * np.linspace(2, 1, 50)
    for method in ("svd", "gram"):
        found = subspaces.decompose(matrix, 5, method)
        rebuilt = found.left[:, :5] * found.values[:5] @ found.right[:, :5].T
        assert np.linalg.norm(matrix - rebuilt, 2) == pytest.approx(np.linalg.svd(matrix)[1][5])


@pytest.mark.parametrize("shape", [(64, 64), (30, 400), (8, 384)])
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_what_rounding_usually_comes_to_covers_it_and_not_by_much(rng, unit, shape):
    """A matrix less what is stored of it; the bound for the worst case would be many times larger."""
    exact = rng.standard_normal(shape)
    noise = np.linalg.norm(stored(exact, unit) - exact, 2)
    usual = directions.rounding(exact, unit).usual
    assert noise < usual < 4 * noise
    b, a = rng.standard_normal((shape[0], 6)), rng.standard_normal((6, shape[1]))
    noise = np.linalg.norm(stored(b, unit) @ stored(a, unit) - b @ a, 2)
    assert noise < directions.rounding_of_product(b, a, unit).usual < 8 * noise


def test_weak_directions_of_a_bfloat16_adapter_are_counted(rng):
    """Of 64 directions that fall to a hundredth, rounding both factors to bfloat16 hides none."""
    unit = UNITS["bfloat16"]
    a = with_values(np.linspace(1, 0.5, 64), 384, rng)
    b = with_values(np.geomspace(1, 0.03, 64), 384, rng).T
    assert subspaces.low_rank_directions(stored(b, unit), stored(a, unit), precision=unit).vectors.shape[1] == 64


def test_a_merged_update_is_told_from_the_rounding_of_the_merge(rng):
    unit, d = UNITS["bfloat16"], 256
    before = stored(rng.standard_normal((d, d)) / 20, unit)
    change = np.linalg.qr(rng.standard_normal((d, 4)))[0] @ with_values(np.array([1.5, 0.5, 0.2, 0.1]), d, rng)
    after = stored(before + change, unit)
    sizes = [np.linalg.norm(matrix) for matrix in (before, after, after - before)]
    precision = unit * (sizes[0] + sizes[1]) / sizes[2]
    found = subspaces.top_directions(after - before, 4, precision=precision)
    assert np.square(found.vectors.T @ np.linalg.svd(change)[2][:4].T).sum() / 4 > 0.95
    with pytest.raises(ValueError, match="rank 4"):
        subspaces.top_directions(after - before, 5, precision=precision)
