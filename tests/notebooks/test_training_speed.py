"""The notebook that measures speed, at small sizes: it runs through, and says what is measured and what is not."""

import numpy as np
import pytest

from helpers.paths import ROOT
from helpers.training import speed
from tests.notebooks import running

NOTEBOOK = ROOT / "notebooks" / "training" / "speed_of_directions.ipynb"
SMALL = {"dimensions": [60, 100, 160], "compared_at": 100, "repeats": 1, "threads": 1}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return running.execute(NOTEBOOK, tmp_path_factory.mktemp("speed"), **SMALL)


def test_every_method_is_measured_at_one_size_and_iterated_ones_until_they_are_as_accurate(result):
    rows = running.rows(result, "error")
    assert {row["method"] for row in rows} == {speed.OURS, speed.FULL, speed.DEFAULTS, speed.SVDS, *speed.ITERATED}
    for method in speed.ITERATED:
        errors = [row["error"] for row in rows if row["method"] == method]
        assert errors[-1] <= 1e-3
        assert min(errors[:-1]) > 1e-3
    assert all(row["seconds"] > 0 and row["d"] == 100 and row["k"] == 10 for row in rows)


def test_above_it_the_others_are_extrapolated_and_said_to_be(result):
    rows = running.rows(result, "sizes")
    assert [row["d"] for row in rows if row["method"] == speed.OURS] == [60, 100, 160]
    assert {row["method"] for row in rows if row["extrapolated"]} == {speed.FULL, speed.SVDS, *speed.ITERATED}
    assert all(row["d"] == 160 for row in rows if row["extrapolated"])
    whole = {row["d"]: row["seconds"] for row in rows if row["method"] == speed.FULL}
    assert whole[160] == pytest.approx(whole[100] * 1.6**3)


def test_its_claims(result):
    claims = running.claims(result)
    names = ["accurate", "faster_than_the_whole", "faster_than_every_peer", "defaults_mistake"]
    assert list(claims) == [*names, "within_the_bound", "accurate_at_every_size"]
    for name in ("accurate", "within_the_bound", "accurate_at_every_size"):
        assert claims[name]["holds"], claims[name]


def test_the_synthetic_matrix_has_the_directions_and_values_that_it_is_said_to_have():
    given = speed.known(90, 90, 4)
    assert given.matrix.dtype == np.float32
    for vectors in (given.left, given.right):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(90), atol=1e-12)
    np.testing.assert_allclose(given.left * speed.spectrum(90) @ given.right.T, given.matrix, atol=1e-6)
    assert abs(given.left.T @ given.right).max() < 0.6


def test_a_wrong_direction_is_an_error_of_1_whatever_else_is_right(monkeypatch):
    given = speed.known(60, 6, 0)
    left, right = speed.known(60, 7, 0)[1:]
    missed = [part[:, [0, 1, 2, 3, 4, 6]] for part in (left, right)]
    monkeypatch.setattr(speed, "find", lambda *_: (*missed, np.nan))
    row = speed.measure(speed.FULL, given)
    assert row["error"] == pytest.approx(1)
    assert 0 < row["beside"] < 0.2
