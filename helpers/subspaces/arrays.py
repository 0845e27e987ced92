"""What may stand for a matrix: arrays and tensors, checked; their size and rounding, without a copy of the whole."""

from collections.abc import Iterator
from typing import Any
from typing import SupportsIndex as Index

import numpy as np
from jaxtyping import Float, Float64

EPS = np.finfo(float).eps
ROWS = 512  # of a matrix that are float64 at a time


def parts(matrix: Float[np.ndarray, "m n"], rows: Index = ROWS) -> Iterator[Float[np.ndarray, "some n"]]:
    """A matrix, some rows at a time."""
    return (matrix[start : start + rows] for start in range(0, len(matrix), rows))


def norm(matrix: Float[np.ndarray, "m n"]) -> float:
    """Frobenius norm, summed in float64 and right for large and small numbers, without a copy of the whole."""
    return float(np.linalg.norm([np.linalg.norm(rows.astype(np.float64)) for rows in parts(matrix)]))


def round_off(matrix: Any) -> float:
    """Unit round-off of an array's or a tensor's numbers: half the eps of its dtype; of others that of float64."""
    if str(getattr(matrix, "dtype", "")) == "torch.bfloat16":
        return 2.0**-8
    kind = as_array(matrix).dtype
    return float(np.finfo(kind).eps if kind.kind == "f" else EPS) / 2


def as_array(matrix: Any) -> np.ndarray:
    """What an array or a tensor of torch holds, not copied, but for bfloat16, which becomes float32."""
    if hasattr(matrix, "detach"):
        matrix = matrix.detach().cpu()
        matrix = matrix.float() if str(matrix.dtype) == "torch.bfloat16" else matrix
    return np.asarray(matrix)


def checked_matrix(matrix: Float[np.ndarray, "m n"], name: str) -> Float64[np.ndarray, "m n"]:
    """`matrix` as float64; ValueError, which calls it by `name`, unless it is 2-D, not empty and finite."""
    return finite(np.asarray(matrix), name).astype(np.float64, copy=False)


def finite(matrix: np.ndarray, name: str) -> np.ndarray:
    """`matrix`, of floats; ValueError as in `checked_matrix`."""
    if np.iscomplexobj(matrix):
        raise ValueError(f"{name} is complex: expected real numbers")
    matrix = matrix if matrix.dtype.kind == "f" else matrix.astype(np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} has shape {matrix.shape}: expected two dimensions, neither of them zero")
    if not all(np.isfinite(rows).all() for rows in parts(matrix)):
        raise ValueError(f"{name} holds NaN or Inf: singular directions need finite values")
    return matrix


def check_choice(name: str, value: str, choices: tuple) -> None:
    """ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: expected one of {', '.join(choices)}")
