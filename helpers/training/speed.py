"""How long leading singular directions take, and how far off they are: ours and others', on matrices that are known."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy
import sklearn
import torch
from scipy import fft
from scipy.sparse.linalg import svds
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from helpers import subspaces
from helpers.subspaces import chance, directions

OURS, FULL, DEFAULTS = "this project", "torch.linalg.svd, the whole", "randomized_svd, defaults"
ITERATED = {"randomized_svd": (1, 2, 4, 8, 12, 16, 24), "torch.svd_lowrank": (2, 4, 8, 12, 16, 24)}
SVDS = "scipy svds"
BESIDE = 64  # random directions that φ is taken with


class Known(NamedTuple):
    """A matrix [d, d] in float32, and its k leading left and right singular vectors."""

    matrix: np.ndarray
    left: np.ndarray
    right: np.ndarray


def spectrum(d: int) -> np.ndarray:
    """σ_k ∝ (k + 0.856)^−0.4755: about how the singular values of a large trained W fall."""
    return (np.arange(d) + 1.856) ** -0.4755


def known(d: int, k: int, seed: int) -> Known:
    """A synthetic matrix of that spectrum between two orthogonal matrices of signs, permutations and cosines."""
    matrix = _turned(_turned(np.diag(spectrum(d)), [seed, 0]).T, [seed, 1]).T
    return Known(np.ascontiguousarray(matrix, np.float32), *(_turned(np.eye(d, k), [seed, side]) for side in (0, 1)))


def _turned(columns, seed):
    """An orthogonal matrix times the columns."""
    rng = np.random.default_rng(seed)
    for _ in range(2):
        signs = rng.choice(np.array([-1, 1], columns.dtype), (len(columns), 1))
        columns = fft.dct(signs * columns, axis=0, norm="ortho")[rng.permutation(len(columns))]
    return columns


def find(method: str, matrix: np.ndarray, k: int, iterations: int = 0, seed: int = 0) -> tuple:
    """(left, right, bound or NaN) of a method. iterations: of those that take a number, with twice k columns."""
    if method == OURS:
        found = subspaces.decompose(matrix, k)
        return found.left[:, :k], found.right[:, :k], found.errors(k, directions.rounding(matrix).bound).max()
    if method == DEFAULTS:
        left, _, rows = randomized_svd(matrix, k, random_state=seed)
    elif method == "randomized_svd":
        left, _, rows = randomized_svd(matrix, k, n_oversamples=k, n_iter=iterations, random_state=seed)
    elif method == SVDS:
        start = np.random.default_rng(seed).standard_normal(len(matrix), dtype=np.float32)
        left, _, rows = (part[..., ::-1] if part.shape[-1] == k else part[::-1] for part in svds(matrix, k, v0=start))
    else:
        torch.manual_seed(seed)
        tensor = torch.from_numpy(matrix)
        whole = method == FULL
        left, _, right = (
            torch.linalg.svd(tensor, full_matrices=False) if whole else torch.svd_lowrank(tensor, 2 * k, iterations)
        )
        left, rows = left.numpy(), right.numpy() if whole else right.numpy().T
    return left[:, :k], rows[:k].T, np.nan


def measure(method: str, given: Known, iterations: int = 0, repeats: int = 1, seed: int = 0) -> dict:
    """A row: seconds, the least of some runs; error, the most that φ of the first k is off, with any other directions,
    which is the sine of the largest angle; beside: the same with random directions; bound, where the method gives one,
    the rounding to float32 included.
    """
    k, times = given.left.shape[1], []
    for _ in range(repeats):
        start = time.perf_counter()
        left, right, bound = find(method, given.matrix, k, iterations, seed)
        times.append(time.perf_counter() - start)
    others = chance.random_directions(len(given.matrix), min(BESIDE, k), np.random.default_rng(seed))
    errors, beside = [], []
    for found, true in ((left, given.left), (right, given.right)):
        found = found.astype(np.float64)
        errors.append(np.linalg.norm(found - true @ (true.T @ found), 2))
        grids = [subspaces.similarity_grid(each, others)[-1] for each in (found, true)]
        beside.append(np.abs(grids[0] - grids[1]).max())
    row = {"d": len(given.matrix), "k": k, "method": method, "iterations": iterations, "seconds": min(times)}
    return row | {"error": max(errors), "beside": max(beside), "bound": bound, "extrapolated": False}


def against_error(d: int, k: int, aim: float, repeats: int = 1, seed: int = 0) -> Iterator[dict]:
    """Rows of every method at one size; those that iterate take ever more iterations until the error is at most aim."""
    given = known(d, k, seed)
    for method in (OURS, FULL, DEFAULTS, SVDS):
        yield measure(method, given, 0, repeats, seed)
    for method, numbers in ITERATED.items():
        for iterations in numbers:
            row = measure(method, given, iterations, 1, seed)
            yield row
            if row["error"] <= aim:
                break


def against_size(dimensions: list, share: float, at: list, repeats: int = 1, seed: int = 0) -> Iterator[dict]:
    """Rows of every size. at: rows of `against_error`, whose iterations are taken at other sizes.

    Above that size only this project and the defaults are measured; of the others it is said what they would take if
    that grows with the cube of the size: extrapolated.
    """
    equal = {row["method"]: row for row in at}  # the last of each
    for d in dimensions:
        given = known(d, round(share * d), seed)
        for method, row in equal.items():
            if d <= row["d"] or method in (OURS, DEFAULTS):
                same = d == row["d"]
                yield row if same else measure(method, given, row["iterations"], repeats if d < row["d"] else 1, seed)
            else:
                yield row | {
                    "d": d,
                    "k": round(share * d),
                    "seconds": row["seconds"] * (d / row["d"]) ** 3,
                    "error": np.nan,
                    "beside": np.nan,
                    "bound": np.nan,
                    "extrapolated": True,
                }


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As many threads for numpy, scipy and torch, whatever the environment says, and those of before at the end."""
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def machine() -> str:
    """The processor by its name, and the versions of what is measured."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    versions = ", ".join(f"{each.__name__} {each.__version__}" for each in (np, scipy, sklearn, torch))
    return f"{name or platform.processor() or platform.machine()}; {versions}"
