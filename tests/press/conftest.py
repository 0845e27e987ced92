"""Kernels that are forked, for tests that are not about how a kernel starts or dies."""

import pytest

from tests import kernels


@pytest.fixture
def forked():
    with kernels.forked():
        yield
