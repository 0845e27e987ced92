"""Networks and a few images that the tests of digits share."""

import pytest

from helpers import digits
from helpers.digits import bundled


@pytest.fixture(scope="module")
def data():
    found = digits.load("digits")
    return found.images[:23], found.labels[:23]


@pytest.fixture(scope="module")
def cnn():
    return digits.untrained("cnn", 8, 0).requires_grad_(False)


@pytest.fixture(scope="module")
def plain():
    return bundled.by_seed("digits", "cnn")["seed_0"]
