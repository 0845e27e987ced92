"""Runs come out right wherever and however they are started."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup

from helpers.files import turn
from helpers.paths import ROOT
from helpers.press import kernel, run
from helpers.press.kernel import Outcome, RunFailed
from tests import small

FILES = ["notebook.ipynb", "report.html", "results.json"]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SCRIPT = Path(sys.executable).with_name("phi-and-pixels")


def command(*words, cwd, **environment):
    """The console script, in a process of its own: (exit status, all that it said)."""
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    done = subprocess.run([SCRIPT, *words], cwd=cwd, env=os.environ | environment, check=False, **told)
    return done.returncode, done.stdout


def names(place):
    return sorted(file.name for file in place.iterdir())


def test_signs_and_names_survive_a_locale_that_has_none_of_them(tmp_path):
    place = tmp_path / "φ → ü"
    place.mkdir()
    small.write(place / "größe.ipynb", "print(f'‖ΔW‖ → {chr(8242)}')\n" + small.REPORT, text="# φ of ΔW ″")
    status, said = command("run", "größe.ipynb", "--out", "out", cwd=place, **ASCII)
    assert (status, said.splitlines()[-1]) == (0, f"report: {Path('out', 'größe', 'report.html')}")
    page = (place / "out" / "größe" / "report.html").read_text(encoding="utf-8")
    assert "φ of ΔW ″</h1>" in page
    assert "‖ΔW‖ → ′" in page
    status, said = command("run", "größe.ipynb", "-p", "φ", "1", cwd=place, **ASCII)
    assert (status, said) == (2, "error: there is no parameter 'φ' in größe; there are fail, wait, x\n")


def test_the_core_of_the_suite_passes_in_a_locale_without_signs():
    core = ["tests/test_inspect.py", "tests/press/test_report.py", "tests/press/test_refresh.py"]
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *core]
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    done = subprocess.run(words, cwd=ROOT, env=os.environ | ASCII, check=False, **told)
    assert done.returncode == 0, done.stdout[-3000:]


def test_nothing_in_the_current_directory_replaces_the_product_or_a_library(tmp_path):
    for name in ("helpers", "numpy", "nbclient", "ipykernel", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger')", encoding="utf-8")
    small.write(tmp_path / "small.ipynb", "import numpy, random, helpers\nprint(helpers.__file__)\n" + small.REPORT)
    status, said = command("run", "small", "--out", "out", cwd=tmp_path)
    assert status == 0, said
    assert str(ROOT / "helpers") in (tmp_path / "out" / "small" / "notebook.ipynb").read_text(encoding="utf-8")


def test_modules_beside_a_notebook_are_found_where_the_user_says_so(tmp_path):
    (tmp_path / "beside.py").write_text("said = 'I am beside'", encoding="utf-8")
    small.write(tmp_path / "small.ipynb", "import beside\nprint(beside.said)\n" + small.LIGHT)
    status, said = command("run", "small", "--out", "out", cwd=tmp_path)
    assert (status, "ModuleNotFoundError: No module named 'beside'" in said) == (Outcome.FAILED_CELL, True)
    status, said = command("run", "small", "--out", "out", cwd=tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert status == 0, said


def test_a_kernel_has_the_modules_of_what_started_it(tmp_path, monkeypatch):
    """Also in the directory that its path begins with, and where this package is installed elsewhere."""
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("here = True", encoding="utf-8")
    monkeypatch.setattr(kernel, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import helpers\nhelpers.here")])
    asyncio.run(kernel.execute(content, name="small"))
    assert content.cells[0].outputs[0].data["text/plain"] == "True"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("name", ["run", "sweep", "refresh"])
def test_a_signal_ends_it_though_it_was_born_to_ignore_that(name, number, tmp_path, fork):
    here, mark, said = tmp_path / "here", f"MARK={tmp_path}", tmp_path / "said"
    source = f"open({str(here)!r}, 'w').close()\nimport subprocess, time\nsubprocess.Popen(['sleep', '99']).wait()"
    notebook = small.write(tmp_path / "small.ipynb", source)
    place = tmp_path / "out" / "small"
    place.mkdir(parents=True)
    old = {place / file: f"old {file}" for file in FILES} | {notebook: notebook.read_text(encoding="utf-8")}
    for file, text in old.items():
        file.write_text(text, encoding="utf-8")
    words = {"sweep": ["--over", "x=1,2"]}.get(name, [])
    words += [] if name == "refresh" else ["--out", tmp_path / "out"]
    child = fork(name, notebook, *words, mark=tmp_path, said=said, ignored=[signal.SIGINT, signal.SIGTERM])
    while not here.exists():
        assert Path(f"/proc/{child}/exe").exists(), said.read_text(encoding="utf-8")
        time.sleep(0.02)
    os.kill(child, number)
    ended = {signal.SIGINT: Outcome.INTERRUPTED, signal.SIGTERM: Outcome.TERMINATED}[number]
    assert fork.wait(child) == ended == 128 + number
    assert re.match("error: .*interrupted", said.read_text(encoding="utf-8").splitlines()[-1])
    assert small.gone(mark)
    assert {file: file.read_text(encoding="utf-8") for file in old} == old


def test_a_long_place_for_temporary_files_leaves_room_for_sockets(tmp_path, monkeypatch):
    place = tmp_path / ("long" * 30) / ("er" * 40)
    place.mkdir(parents=True)
    notebook = small.write(tmp_path / "small.ipynb", "import tempfile\nprint(tempfile.gettempdir())\n" + small.LIGHT)
    monkeypatch.setattr(run.tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    assert names(run.run(notebook, {}, tmp_path / "out")) == FILES
    assert str(place) in (tmp_path / "out" / "small" / "notebook.ipynb").read_text(encoding="utf-8")
    assert names(place) == []


def test_kernels_of_a_users_own_are_neither_needed_nor_taken(tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text('{"argv": ["false"], "display_name": "mine", "language": "python"}', encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = small.write(tmp_path / "small.ipynb", "import sys\nprint(sys.executable)\n" + small.LIGHT)
    content = nbformat.read(notebook, as_version=4)
    for about in ({"name": "conda-env-mine-py", "display_name": "Mine", "language": "python"}, {}):
        content.metadata = {"kernelspec": about} if about else {}
        nbformat.write(content, notebook)
        place = run.run(notebook, {}, tmp_path / "out")
        assert sys.executable in (place / "notebook.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "about", [{"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}, {"language_info": {"name": "R"}}]
)
def test_a_notebook_in_another_language_has_a_page_but_is_refused_before_a_kernel_starts(about, tmp_path, call):
    content = nbformat.v4.new_notebook(metadata=about, cells=[nbformat.v4.new_code_cell("x <- 1")])
    nbformat.write(content, tmp_path / "r.ipynb")
    with pytest.raises(RunFailed, match=r"r\.ipynb is written in R: expected a notebook in Python$") as failure:
        run.run(tmp_path / "r.ipynb", {}, tmp_path / "out")
    assert failure.value.outcome is Outcome.UNREADABLE_FILE
    assert not (tmp_path / "out").exists()
    assert call("render", tmp_path / "r.ipynb")[0] == Outcome.DONE
    page = BeautifulSoup((tmp_path / "r.html").read_text(encoding="utf-8"), "html.parser")
    assert page.pre.get_text() == "x <- 1\n"


def test_spaces_and_signs_in_paths_are_right_in_links(tmp_path, forked):
    place = tmp_path / "a b" / "50 % #1"
    place.mkdir(parents=True)
    notebook = small.write(place / "my 'notebook' (1) & #2?.ipynb", small.LIGHT)
    made = run.run(notebook, {}, place / "the out")
    assert names(made) == FILES
    index = (place / "the out" / "index.html").read_text(encoding="utf-8")
    (link,) = (part.partition('"')[0] for part in index.split('href="')[1:] if part.startswith("my"))
    assert (place / "the out" / unquote(link)).samefile(made / "report.html")


def test_two_runs_into_one_place_leave_the_files_of_one(tmp_path, fork):
    source = "while not pathlib.Path(gate).exists():\n    time.sleep(0.01)\nprint('x =', x)\n"
    gate = str(tmp_path / "gate")
    source = f"import pathlib, time\ngate = {gate!r}\n{source}" + small.LIGHT
    notebook, out = small.write(tmp_path / "small.ipynb", source), tmp_path / "out"
    both = [fork("run", notebook, "--out", out, "-p", "x", x, said=tmp_path / f"said {x}") for x in (3, 5)]
    with turn(out):  # neither can write until both have run
        Path(gate).touch()
        time.sleep(2)
        assert not (out / "small" / "results.json").exists()
    assert [fork.wait(child) for child in both] == [0, 0]
    x = json.loads((out / "small" / "results.json").read_text(encoding="utf-8"))["parameters"]["x"]
    for file in ("notebook.ipynb", "report.html"):
        assert f"x = {x}\n" in (out / "small" / file).read_text(encoding="utf-8").replace("\\n", "\n")


def test_a_place_that_cannot_be_written_is_told_before_a_kernel_starts(tmp_path, call):
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    notebook = small.write(tmp_path / "small.ipynb", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    for words in (["run", notebook], ["sweep", notebook, "--over", "x=1"]):
        status, _, said = call(*words, "--out", tmp_path / "out")
        assert status == Outcome.NOT_WRITTEN
        assert str(tmp_path / "out") in said
    assert not (tmp_path / "ran").exists()
