"""The pattern of a notebook: short cells without branches; the same claims whatever it is given."""

import statistics

import nbformat
import pytest

from helpers.paths import ROOT
from tests.notebooks import running
from tests.notebooks.running import claims, rows

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIRST = ROOT / "notebooks" / "01_subspace_similarity.ipynb"


def code(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_begins_with_if(path):
    assert [source for source in code(path) if source.startswith("if ")] == []


def test_the_first_notebook_is_short():
    lengths = [len(source.splitlines()) for source in code(FIRST)]
    assert statistics.median(lengths) <= 7
    assert sum(lengths) <= 280


def test_without_a_base_adapters_are_compared_with_each_other(tmp_path):
    pair = ["data/adapters/r64", "data/adapters/r64-seed1"]
    result = running.execute(FIRST, tmp_path, **running.MINILM | {"base": "", "adapters": pair})
    running.assert_the_claims_of_01(result)
    assert {row["pair"] for row in rows(result, "agreement")} == {"r = 64 and r = 64′"}
    assert result["tables"].keys() == {"inputs", "agreement", "rank_use"}
    found = claims(result)
    decided = {name for name, claim in found.items() if claim["holds"] is not None}
    assert decided == {"runs_share_first", "runs_agree", "query_shares_more", "uses_less_than_random"}
    assert found["ranks_agree"]["found"] == "the adapters have one rank"
    others = {claim["found"] for name, claim in found.items() if name not in decided and not name.startswith("r")}
    assert others == {"no base is given"}


def test_of_a_whole_fine_tune_what_asks_for_a_is_undecided(tmp_path):
    given = running.MINILM | {"adapters": ["data/adapters/full"], "factor": "BA"}
    result = running.execute(FIRST, tmp_path, running.FEW_DIRECTIONS, **given)
    running.assert_the_claims_of_01(result)
    found = claims(result)
    assert found["above_chance"]["holds"] is not None
    assert found["comes_from_training"]["found"] == "B A is zero before training"
    assert {found[name]["found"] for name in ("runs_agree", "ranks_agree")} == {"there is one adapter"}
    for name in ("grows_with_rank", "grows_with_rank_over_layers", "amplifies_less_with_rank"):
        assert found[name]["found"] == "the adapters have one rank"
    assert [row["choice"] for row in rows(result, "choices")] == ["BA right"] * 2 + ["BA left"] * 2
