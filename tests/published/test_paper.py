import numpy as np
import pytest
from scipy import stats

from helpers import subspaces
from helpers.published import paper


def test_the_spectrum_gives_the_published_column_of_table_7():
    values = paper.singular_values()
    assert len(values) == paper.D
    assert (np.diff(values) < 0).all()
    table = paper.norms()
    assert list(table.index) == list(paper.TABLE_7)
    for of in ("W_q", "random"):
        np.testing.assert_allclose(table[f"{of}, stand-in"], table[f"{of}, published"], atol=0.01)
    assert table["W_q, published"].tolist() == [21.67, 37.71]
    assert table["W_q, stand-in"].tolist() == pytest.approx([np.linalg.norm(values[:r]) for r in (4, 64)])


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


def flat(values):
    """Panels with the same φ in all of a row, by i."""
    return {name: np.repeat(np.asarray(column)[:, None], 4, 1) for name, column in values.items()}


def test_the_region_table_sets_panels_beside_the_readings():
    """Painted at the readings, or beyond a limit, nothing is off; short of a limit and beside a number it is."""
    panels = ["r = 4", "r = 8", "r = 64", "random"]
    at = {name: np.zeros(paper.TICKS[-1]) for name in panels}
    for row in paper.REGIONS.itertuples():
        at[row.panel if row.panel == "random" else f"r = {row.panel}"][row.i - 1] = row.phi
    assert (paper.regions(flat(at))["off by"] == 0).all()
    for shift in (0.01, -0.01):
        table = paper.regions(flat({name: each + shift for name, each in at.items()}))
        within = table["limit"].map({"at most": -1, "at least": 1}) == np.sign(shift)
        np.testing.assert_allclose(table["off by"], np.where(within, 0, 0.01), atol=1e-12)
        np.testing.assert_allclose(table["chance"], table["i"] / paper.D)


def test_along_the_ticks_phi_stands_beside_chance():
    grids = flat({name: np.linspace(0, 0.2, paper.TICKS[-1]) for name in ("r = 4", "random")})
    table = paper.along_ticks(grids, 4)
    assert table["i"].tolist() == paper.TICKS
    assert list(table.columns) == ["i", "chance", "r = 4", "random", "z (r = 4)"]
    np.testing.assert_allclose(table["r = 4"], grids["r = 4"][np.array(paper.TICKS) - 1, 3])
    np.testing.assert_allclose(table["chance"], np.array(paper.TICKS) / paper.D)


def test_the_band_holds_chance_in_99_of_100_draws(rng):
    """Held against the exact law where it is one Beta law: j = 1."""
    band = paper.chance_band(1)
    law = stats.beta(band["i"] / 2, (paper.D - band["i"]) / 2)
    np.testing.assert_allclose(law.cdf(band["high"]) - law.cdf(band["low"]), 0.99, atol=1e-6)
    np.testing.assert_allclose(band["mean"], law.mean())


def test_readings_at_an_end_of_the_bar_are_no_numbers_to_test():
    assert len(paper.certain(4)) == 6
    assert (paper.certain(1)["p"] > paper.certain(4)["p"]).all()  # of one direction chance has more spread


def test_a_rise_is_held_against_the_block_between_the_ticks():
    """Exact where j = 1: the share of a block of 725 directions is one Beta law."""
    table, block = paper.rises(1), paper.TICKS[-1] - paper.TICKS[0]
    np.testing.assert_allclose(table["rise as read"], [0.075, 0.09, 0.085])
    law = stats.beta(block / 2, (paper.D - block) / 2)
    np.testing.assert_allclose(table["p"], law.sf(table["rise as read"] - 0.01), rtol=1e-6)
    np.testing.assert_allclose(table["chance"], law.mean())
