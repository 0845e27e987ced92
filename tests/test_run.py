import base64
import json
import re
import subprocess
import sys

import nbformat
import pytest

from helpers import run
from helpers.checkpoints import ROOT

REPORT = """\
from helpers.report import Report
report = Report("small", {"fail": fail, "stop": stop}, results)
report.claim("c", "So.", statistic=1, threshold=0, holds=True, source="here")
if fail:
    raise RuntimeError("as asked")
if not stop:
    report.finish()"""


@pytest.fixture
def notebook(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# Title & more\n\nInline $\\phi$ and\n\n$$\\frac{1}{2}$$"),
        nbformat.v4.new_code_cell(
            'fail: bool = False\nstop: bool = False\nresults: str = ""', metadata={"tags": ["parameters"]}
        ),
        nbformat.v4.new_code_cell(REPORT),
    ]
    place = tmp_path / "small.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
        ),
        place,
    )
    return place


def test_run_writes_all_three_or_keeps_the_old_ones(notebook, tmp_path):
    place = run.run(notebook, {}, tmp_path / "out")
    assert sorted(file.name for file in place.iterdir()) == ["notebook.ipynb", "report.html", "results.json"]
    assert json.loads((place / "results.json").read_text())["complete"] is True
    good = {file.name: file.read_bytes() for file in place.iterdir()}
    with pytest.raises(run.RunFailed, match=r"small\.ipynb: RuntimeError: as asked"):
        run.run(notebook, {"fail": True}, tmp_path / "out")
    assert "as asked" in (place / "failed.ipynb").read_text()
    with pytest.raises(run.RunFailed, match="without its result file"):
        run.run(notebook, {"stop": True}, tmp_path / "out")
    assert good.items() <= {file.name: file.read_bytes() for file in place.iterdir()}.items()
    run.run(notebook, {}, tmp_path / "out")
    assert sorted(file.name for file in place.iterdir()) == ["notebook.ipynb", "report.html", "results.json"]


def test_a_dead_kernel_is_a_failed_run_and_a_failed_refresh_leaves_the_notebook(notebook, tmp_path):
    content = nbformat.read(notebook, as_version=4)
    content.cells[2].source = "import os\nos._exit(3)"
    nbformat.write(content, notebook)
    with pytest.raises(run.RunFailed, match="its kernel died"):
        run.run(notebook, {}, tmp_path / "out")
    content.cells[2].source = "1 / 0"
    nbformat.write(content, notebook)
    before = notebook.read_text()
    with pytest.raises(run.RunFailed, match="ZeroDivisionError") as failure:
        run.refresh(notebook)
    assert notebook.read_text() == before
    assert "ZeroDivisionError" in notebook.with_suffix(".failed.ipynb").read_text()
    assert str(notebook.with_suffix(".failed.ipynb")) in str(failure.value)


def test_a_page_asks_nothing_of_the_network_and_sets_its_mathematics(notebook, tmp_path):
    page = (run.run(notebook, {}, tmp_path / "out") / "report.html").read_text()
    assert "<title>Title &amp; more</title>" in page
    assert page.count("<math") == 2
    assert "<mfrac>" in page
    assert not re.search(r"""src=["'](?!data:)|url\(|@import|<script|<link|<iframe""", page)
    assert "default-src 'none'" in page


def test_links_lead_to_pages_that_are_there_and_nowhere_else(notebook, tmp_path):
    content = nbformat.read(notebook, as_version=4)
    content.cells[0].source += "\n\n[next](02_other.ipynb) and [far](https://example.org/x.ipynb)"
    nbformat.write(content, notebook)
    assert 'href="../02_other/report.html">next</a>' in run.page(notebook, {"02_other"})
    alone = (run.run(notebook, {}, tmp_path / "out") / "report.html").read_text()
    assert "next and" in alone
    assert 'href="https://example.org/x.ipynb"' in alone
    (tmp_path / "out" / "02_other").mkdir()
    (tmp_path / "out" / "02_other" / "report.html").touch()
    assert "../02_other/report.html" in (run.run(notebook, {}, tmp_path / "out") / "report.html").read_text()


def test_command_line_tells_a_bad_parameter_from_a_failed_notebook(notebook, tmp_path):
    def call(*words):
        command = [sys.executable, "-m", "helpers", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    done = call("run", str(notebook), "--out", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"report: {tmp_path / 'small' / 'report.html'}\n")
    failed = call("run", str(notebook), "--out", str(tmp_path), "-p", "fail", "true")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: small.ipynb: RuntimeError: as asked")
    assert failed.stderr.splitlines()[-1].endswith("the report beside it is an earlier run's)")
    bad = call("run", "notebooks/01_subspace_similarity.ipynb", "--out", str(tmp_path), "-p", "modul", "x")
    assert bad.returncode == 2
    assert bad.stderr == "error: there is no parameter 'modul'; did you mean 'module'?\n"
    torn = call("run", "notebooks/01_subspace_similarity.ipynb", "--out", str(tmp_path), "-p", "adapters", "[a")
    assert torn.stderr == "error: parameter adapters is '[a', which is not YAML: a list is \"[DIR, DIR]\"\n"
    assert call("run", str(tmp_path / "none.ipynb")).returncode == 2
    several = call(
        "run", str(notebook), "notebooks/02_random_baselines.ipynb", "--out", str(tmp_path), "-p", "fail", "0"
    )
    assert (several.returncode, several.stdout) == (2, "")  # refused for the second before the first runs
    assert "there is no parameter 'fail'" in several.stderr
    assert "a list is" in call("run", "--help").stdout


def test_the_picture_is_that_of_the_cell_with_the_tag_and_bars_that_are_done_leave_nothing():
    def cell(*outputs, tags=()):
        found = nbformat.v4.new_code_cell(metadata={"tags": list(tags)})
        found.outputs = [nbformat.from_dict(output) for output in outputs]
        return found

    def png(text):
        return {"output_type": "display_data", "metadata": {}, "data": {"image/png": base64.b64encode(text).decode()}}

    def stream(text):
        return {"output_type": "stream", "name": "stdout", "text": text}

    cells = [cell(png(b"one"), stream("   \r")), cell(stream("said\n"), png(b"two"), tags=["picture"])]
    content = nbformat.v4.new_notebook(cells=cells)
    assert run.first_figure(content) == b"two"
    run.clean(content)
    assert [[output.output_type for output in each.outputs] for each in cells] == [
        ["display_data"],
        ["stream", "display_data"],
    ]
    content.cells[1].metadata["tags"] = []
    assert run.first_figure(content) == b"one"


def test_refresh_puts_outputs_in_and_nothing_of_the_machine(notebook):
    run.refresh(notebook)
    text, content = notebook.read_text(), nbformat.read(notebook, as_version=4)
    assert "So." in text
    assert "papermill" not in text
    assert str(notebook.parent) not in text
    assert not re.search(r"\d{4}-\d\d-\d\dT", text)
    assert content.metadata["source_digest"] == run.source_digest(content)
    content.cells[0].source += "prose may change"
    assert content.metadata["source_digest"] == run.source_digest(content)
    content.cells[1].source += "\nchanged = 1"
    assert content.metadata["source_digest"] != run.source_digest(content)
    ids = [cell.id for cell in content.cells]
    run.refresh(notebook)
    assert [cell.id for cell in nbformat.read(notebook, as_version=4).cells] == ids
