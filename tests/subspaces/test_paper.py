import numpy as np
import pytest

from helpers import subspaces
from helpers.subspaces import paper


def test_the_spectrum_gives_the_published_column_of_table_7():
    values = paper.singular_values()
    assert len(values) == paper.D
    assert (np.diff(values) < 0).all()
    for r, (_, _, of_weight, random) in paper.TABLE_7.items():
        assert np.linalg.norm(values[:r]) == pytest.approx(of_weight, abs=0.01)
        assert r * np.linalg.norm(values) / paper.D == pytest.approx(random, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_stand_in_lies_within_the_readings_whatever_the_seed(seed):
    for r, v in paper.stand_in(np.random.default_rng(seed)).items():
        np.testing.assert_allclose(v.T @ v, np.eye(r), atol=1e-12)
        grid = subspaces.cumulative_phi(v[: paper.TICKS[-1]])
        for i, read in paper.READINGS[r].items():
            np.testing.assert_allclose(grid[i - 1], read, atol=0.005)
    assert grid[-1, -1] > 0.2  # "> 0.200"


def test_the_ticks_are_evenly_spaced():
    assert np.array_equal(paper.TICKS, np.linspace(451, 1176, 8).round())
    assert paper.COLOURS == (0.1, 0.2)


def test_what_a_reader_took_from_the_colours():
    """By rows of the region table; at the ends of the bar a colour is a limit."""
    table = paper.REGIONS.pivot(index="i", columns="panel", values="phi")[["4", "8", "64", "random"]]
    assert table.to_numpy().tolist() == [[0.1, 0.1, 0.115, 0.1], [0.14, 0.155, 0.17, 0.1], [0.175, 0.19, 0.2, 0.1]]
    at_ends = paper.REGIONS["phi"].isin(paper.COLOURS)
    assert paper.REGIONS["limit"].notna().equals(at_ends)
    assert paper.READINGS[64] == {451: 0.115, 865: 0.17, 1176: 0.2}
    assert paper.TOP_TENTH == 1229
