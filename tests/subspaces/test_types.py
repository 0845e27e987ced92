"""The public functions of the floor say what they take, and are held to it while the tests run."""

import importlib
import inspect

import jaxtyping
import numpy as np
import pytest

from helpers import subspaces
from helpers.subspaces import chance, haar, inputs, nulls

NAMES = "agreement arrays atlas chance directions haar inputs intruders krylov layers measured merging nulls"
NAMES += " similarity spectra study"
FUNCTIONS = [
    function
    for module in [importlib.import_module(f"helpers.subspaces.{name}") for name in NAMES.split()]
    for name, function in vars(module).items()
    if inspect.isroutine(function) and function.__module__ == module.__name__ and not name.startswith("_")
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: f"{function.__module__}.{function.__name__}")
def test_every_public_function_says_what_it_takes_and_returns(function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(each.annotation is not inspect.Parameter.empty for each in signature.parameters.values())


def test_there_are_some():
    assert {subspaces.phi, chance.mean, nulls.holm, inputs.random_adapter} <= set(FUNCTIONS)


def test_what_has_another_shape_is_refused_here():
    u = np.eye(4)[:, :2]
    with pytest.raises(jaxtyping.TypeCheckError, match="similarity_grid"):
        subspaces.similarity_grid(u, np.eye(5)[:, :2])
    with pytest.raises(jaxtyping.TypeCheckError, match="random_directions"):
        haar.random_directions(4, 2.0, np.random.default_rng(0))


def test_and_elsewhere_by_the_function_itself(unchecked):
    with pytest.raises(ValueError, match="the same d"):
        subspaces.similarity_grid(np.eye(4)[:, :2], np.eye(5)[:, :2])
