"""The committed notebooks: how they are made."""

import base64
import re

import nbformat
import pytest

from helpers.parameters import RandomBaselines
from helpers.press import committed
from helpers.press.kernel import Outcome, RunFailed
from tests import small


@pytest.fixture
def notebook(tmp_path):
    return small.write(tmp_path / "small.ipynb", small.REPORT)


def test_the_cell_of_parameters_is_kept_as_the_schema_has_it(tmp_path, call, forked):
    notebook = small.write(tmp_path / "02_random_baselines.ipynb", "print(rank_i)")
    small_cell, cell = small.PARAMETERS, RandomBaselines.cell()
    committed.refresh(notebook)
    fresh = notebook.read_text(encoding="utf-8")
    content = nbformat.reads(fresh, as_version=4)
    assert content.cells[1].source == cell != small_cell
    assert content.cells[2].outputs[0].text == f"{RandomBaselines.model_fields['rank_i'].default}\n"
    # another word of its help makes no output stale, another default does; neither is run
    for old, new, stale in (("first subspace", "one subspace", False), ("rank_i: int = 38", "rank_i: int = 37", True)):
        assert old in cell
        content.cells[1].source = cell.replace(old, new)
        content.metadata["source_digest"] = committed.source_digest(content)
        nbformat.write(content, notebook)
        assert call("refresh", "--parameters", notebook)[0] == Outcome.DONE
        found = nbformat.read(notebook, as_version=4)
        assert (notebook.read_text(encoding="utf-8") == fresh) is not stale
        assert (found.metadata["source_digest"] == committed.source_digest(found)) is not stale
        assert found.cells[1].source == cell
        assert found.cells[2] == content.cells[2]


def test_a_failed_refresh_leaves_the_notebook(tmp_path, forked):
    notebook = small.write(tmp_path / "small.ipynb", "1 / 0")
    before = notebook.read_text(encoding="utf-8")
    with pytest.raises(RunFailed, match="ZeroDivisionError") as failure:
        committed.refresh(notebook)
    assert notebook.read_text(encoding="utf-8") == before
    assert "ZeroDivisionError" in notebook.with_suffix(".failed.ipynb").read_text(encoding="utf-8")
    assert str(notebook.with_suffix(".failed.ipynb")) in str(failure.value)
    committed.refresh(small.write(notebook, "1 / 1"))
    assert not notebook.with_suffix(".failed.ipynb").exists()


def test_refresh_puts_outputs_in_and_nothing_of_the_machine(notebook, forked):
    committed.refresh(notebook)
    text, content = notebook.read_text(encoding="utf-8"), nbformat.read(notebook, as_version=4)
    assert "So." in text
    assert "papermill" not in text
    assert str(notebook.parent) not in text
    assert not re.search(r"\d{4}-\d\d-\d\dT", text)
    assert content.metadata["source_digest"] == committed.source_digest(content)
    content.cells[0].source += "prose may change"
    assert content.metadata["source_digest"] == committed.source_digest(content)
    content.cells[1].source += "\nchanged = 1"
    assert content.metadata["source_digest"] != committed.source_digest(content)
    ids = [cell.id for cell in content.cells]
    committed.refresh(notebook)
    assert [cell.id for cell in nbformat.read(notebook, as_version=4).cells] == ids


def test_a_notebook_with_magics_can_be_refreshed(tmp_path, forked):
    notebook = small.write(
        tmp_path / "small.ipynb", "%matplotlib inline\n!echo a shell", "import asyncio\nawait asyncio.sleep(0)"
    )
    committed.refresh(notebook)
    content = nbformat.read(notebook, as_version=4)
    assert content.cells[2].outputs[0].text.strip() == "a shell"
    content.cells[2].source += " that says more"
    assert content.metadata["source_digest"] != committed.source_digest(content)


def test_the_picture_is_that_of_the_cell_with_the_tag():
    def cell(*outputs, tags=()):
        found = nbformat.v4.new_code_cell(metadata={"tags": list(tags)})
        found.outputs = [nbformat.from_dict(output) for output in outputs]
        return found

    def png(text):
        return {"output_type": "display_data", "metadata": {}, "data": {"image/png": base64.b64encode(text).decode()}}

    content = nbformat.v4.new_notebook(cells=[cell(png(b"one")), cell(png(b"two"), tags=["picture"])])
    assert committed.first_figure(content) == b"two"
    content.cells[1].metadata["tags"] = []
    assert committed.first_figure(content) == b"one"


def test_a_digest_passes_over_comments_and_layout_and_over_nothing_else():
    def digest(source):
        return committed.source_digest(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]))

    old = digest("import numpy as np\nnp.ones(2)  # as it was")
    assert digest("import numpy as np\n\nnp.ones( 2 )") == old
    for source in (
        "import numpy as np\nnp.ones(3)",
        "import numpy as np\nnp.zeros(2)",
        "import scipy as np\nnp.ones(2)",
    ):
        assert digest(source) != old
