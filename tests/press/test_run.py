import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial

import nbformat
import numpy as np
import pytest
from click.testing import CliRunner
from papermill import cli

from helpers import digits, frames
from helpers.parameters import BadParameter
from helpers.paths import ROOT
from helpers.press import kernel, run, sweep
from helpers.press.kernel import Outcome, RunFailed
from tests import kernels, small

FILES = ["notebook.ipynb", "report.html", "results.json"]


@pytest.fixture
def notebook(tmp_path):
    return small.write(tmp_path / "small.ipynb", small.REPORT)


@pytest.fixture
def papermill(tmp_path, forked, monkeypatch):
    """The command line of papermill in this process, on cells: (what it raised as text or "", its output's text)."""
    execute = partial(cli.execute_notebook, kernel_manager_class=kernels.WithoutPorts)
    monkeypatch.setattr(cli, "execute_notebook", execute)

    def run_it(cells, *words):
        source, out = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
        nbformat.write(cells, source)
        words = [str(source), str(out), *words, "--cwd", str(ROOT), "--no-progress-bar"]
        return str(CliRunner().invoke(cli.papermill, words).exception or ""), out.read_text(encoding="utf-8")

    return run_it


def names(place):
    return sorted(file.name for file in place.iterdir())


def contents(place):
    return {file.name: file.read_bytes() for file in place.iterdir()}


def test_run_writes_all_three_or_keeps_the_old_ones(notebook, tmp_path, forked):
    place = run.run(notebook, {}, tmp_path / "out")
    assert names(place) == FILES
    assert json.loads((place / "results.json").read_text(encoding="utf-8"))["complete"] is True
    good = contents(place)
    with pytest.raises(RunFailed, match=r"small: RuntimeError: as asked") as failure:
        run.run(notebook, {"fail": True}, tmp_path / "out")
    assert failure.value.outcome is Outcome.FAILED_CELL
    assert "the report beside it is an earlier run's" in str(failure.value)
    assert "as asked" in (place / "failed.ipynb").read_text(encoding="utf-8")
    assert good.items() <= contents(place).items()
    (place / ".new-x").mkdir()  # of a run that was killed while it wrote
    (place / ".new-x" / "report.html").touch()
    run.run(notebook, {}, tmp_path / "out")
    assert names(place) == FILES


@pytest.mark.parametrize(
    ("source", "limit", "outcome", "message"),
    [
        ("import os\nos._exit(3)", None, Outcome.DEAD_KERNEL, r"the kernel of small died \(exit status 3\)"),
        ("import os\nos.kill(os.getpid(), 9)", None, Outcome.DEAD_KERNEL, r"died \(SIGKILL, out of memory\?\)"),
        ("import time\ntime.sleep(60)", 3, Outcome.TIMED_OUT, "took longer than 3 s and was stopped"),
        ("import sys\nsys.exit(0)", None, Outcome.FAILED_CELL, "a cell ended the run"),
        ("1 / 0", None, Outcome.FAILED_CELL, "small: ZeroDivisionError: division by zero, in cell 4 of"),
        ("int('x')", None, Outcome.FAILED_CELL, "small: ValueError: invalid literal .* 'x', in cell 4 of"),
        ("len(1)", None, Outcome.FAILED_CELL, "small: TypeError: object of type 'int' has no len.*, in cell 4 of"),
        ("{}['x']", None, Outcome.FAILED_CELL, "small: KeyError: 'x', in cell 4 of section “Title & more”"),
        (
            "pass",
            None,
            Outcome.FAILED_CELL,
            "ended without writing a result file, of notebook and claims, to `results`",
        ),
        (
            "from helpers.weights import WeightsError as E\nraise E('torn')",
            None,
            Outcome.UNREADABLE_FILE,
            "torn",
        ),
        (
            "from helpers.weights import NoSuchModule as E\nraise E('none')",
            None,
            Outcome.BAD_PARAMETER,
            r"^small: none \(the notebook so far",
        ),
        (
            "from helpers.parameters import BadParameter as E\nraise E('x is 3: give 2')",
            None,
            Outcome.BAD_PARAMETER,
            r"^small: x is 3: give 2 \(the notebook so far",
        ),
        (
            "from helpers.parameters import RandomBaselines as R\nR.check({'dimension': 2})",
            None,
            Outcome.BAD_PARAMETER,
            r"^small: parameter dimension is 2: .* 3 \(the notebook so far",
        ),
    ],
    ids=lambda value: value.splitlines()[-1] if isinstance(value, str) and "\n" in value else None,
)
def test_how_a_run_ended_is_told_and_what_was_there_stays(source, limit, outcome, message, tmp_path):
    rest = [] if source == "pass" else ["raise KeyError('never run')"]
    notebook = small.write(tmp_path / "small.ipynb", "print('so far')", source, *rest)
    place = tmp_path / "out" / "small"
    place.mkdir(parents=True)
    old = dict.fromkeys(FILES, '{"notebook": "old", "claims": []}')
    for name, text in old.items():
        (place / name).write_text(text, encoding="utf-8")
    started = nullcontext() if outcome is Outcome.DEAD_KERNEL else kernels.forked()
    with started, pytest.raises(RunFailed, match=message) as failure:
        run.run(notebook, {}, tmp_path / "out", limit=limit)
    assert failure.value.outcome is outcome
    assert str(place / "failed.ipynb") in str(failure.value)
    assert {name: (place / name).read_text(encoding="utf-8") for name in FILES} == old
    cells = [cell for cell in nbformat.read(place / "failed.ipynb", as_version=4).cells if cell.cell_type == "code"]
    outputs = [[output.output_type for output in cell.outputs] for cell in cells]
    assert outputs[:3] == [[], [], ["stream"]]
    assert ("error" in outputs[3]) == bool(rest)
    assert not any(outputs[4:])


def test_nothing_of_a_kernel_is_left(tmp_path):
    mark = f"MARK={tmp_path}"
    source = f"import subprocess, time\nsubprocess.Popen(['env', {mark!r}, 'sleep', '300'])\ntime.sleep(60)"
    notebook = small.write(tmp_path / "small.ipynb", source)
    with pytest.raises(RunFailed, match="took longer"):
        run.run(notebook, {}, tmp_path / "out", limit=4)
    assert small.processes(mark) == []


def test_a_kernel_that_does_not_start_is_told(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel.sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(RunFailed, match=r"the kernel of small did not start: .*gone") as failure:
        run.run(notebook, {}, tmp_path)
    assert failure.value.outcome is Outcome.KERNEL_NOT_STARTED


def test_bars_that_are_done_leave_nothing(forked):
    sources = ["print('   ', end='\\r')", "print('said')"]
    content = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    asyncio.run(kernel.execute(content, name="small"))
    assert [len(cell.outputs) for cell in content.cells] == [0, 1]


def test_a_full_disk_leaves_the_old_report_whole(notebook, tmp_path, forked):
    """Files may not grow beyond a size here: writing fails as on a full disk, in a process that really writes."""
    place = run.run(notebook, {}, tmp_path / "out")
    good = contents(place)
    (tmp_path / "more").mkdir()
    padded = small.write(tmp_path / "more" / "small.ipynb", "print(('x' * 99 + '\\n') * 3000)", small.LIGHT)
    words = [sys.executable, "-m", "helpers", "run", str(padded), "--out", str(tmp_path / "out")]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # noqa: E731
    limited = subprocess.run(words, cwd=ROOT, preexec_fn=limit, capture_output=True, encoding="utf-8", check=False)
    assert limited.returncode == Outcome.NOT_WRITTEN
    assert limited.stderr.splitlines()[-1].startswith(
        f"error: small ran, but {place} cannot be written: File too large"
    )
    assert contents(place) == good


def test_no_place_for_temporary_files_ends_a_run_and_leaves_the_old_report(notebook, tmp_path, monkeypatch, forked):
    place = run.run(notebook, {}, tmp_path / "out")
    good = contents(place)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    (failure,) = run.run_all([notebook], {}, tmp_path / "out")
    assert failure.outcome is Outcome.NOT_WRITTEN
    assert "small: " in str(failure)
    assert contents(place) == good


def test_a_kernel_is_told_whether_its_page_has_sliders(tmp_path, forked):
    """`run` makes pages with sliders, a refreshed notebook has the figures at rest."""
    asked = f"os.environ[{frames.ASKED!r}]"
    source = "import os\n" + small.LIGHT.replace('"tables": {}', f'"tables": {{"t": {asked}}}')
    place = run.run(small.write(tmp_path / "small.ipynb", source), {}, tmp_path / "out")
    assert json.loads((place / "results.json").read_text(encoding="utf-8"))["tables"]["t"] == "1"
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"import os; print(repr({asked}))")])
    asyncio.run(kernel.execute(content, name="small"))
    assert content.cells[0].outputs[0].text == "''\n"


def test_several_run_at_once_and_one_that_fails_does_not_stop_the_others(tmp_path, forked):
    source = "import os, time\nstarted = time.time()\ntime.sleep(1.5)\n" + small.LIGHT
    source = source.replace('"tables": {}', '"tables": {"t": [started, time.time(), os.environ["OMP_NUM_THREADS"]]}')
    notebooks = [small.write(tmp_path / f"{name}.ipynb", source) for name in ("one", "two")]
    bad = small.write(tmp_path / "bad.ipynb", "1 / 0")
    one, failure, two = run.run_all([notebooks[0], bad, notebooks[1]], {}, tmp_path / "out", jobs=3)
    assert failure.outcome is Outcome.FAILED_CELL
    (a, b, threads), (c, d, _) = (
        json.loads((x / "results.json").read_text(encoding="utf-8"))["tables"]["t"] for x in (one, two)
    )
    assert max(a, c) < min(b, d)
    assert threads == os.environ.get("OMP_NUM_THREADS", str(max(1, os.cpu_count() // 3)))
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert index.count("/report.html") == 2
    assert "0 hold, 1 does not, 0 undecided" in index


def test_a_page_or_a_result_that_is_none_keeps_the_notebook(notebook, tmp_path, monkeypatch, forked):
    other = small.write(tmp_path / "other.ipynb", "open(results, 'w').write('{}')")
    with pytest.raises(RunFailed, match="ended without writing a result file"):
        run.run(other, {}, tmp_path / "out")
    monkeypatch.setattr(run.pages, "page", lambda *_: 1 / 0)
    with pytest.raises(RunFailed, match="its page cannot be made: ZeroDivisionError") as failure:
        run.run(notebook, {}, tmp_path / "out")
    assert failure.value.outcome is Outcome.NOT_WRITTEN
    assert names(tmp_path / "out" / "small") == ["failed.ipynb"]


def test_notebooks_of_one_name_are_refused(notebook, tmp_path):
    (tmp_path / "other").mkdir()
    other = small.write(tmp_path / "other" / "small.ipynb", small.LIGHT)
    with pytest.raises(BadParameter, match="have one name"):
        run.run_all([notebook, other], {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_threads_are_shared_among_the_kernels_unless_the_user_says(tmp_path, monkeypatch, forked):
    notebook = small.write(tmp_path / "n.ipynb", "import os\nprint(os.environ['OMP_NUM_THREADS'])")
    monkeypatch.setattr(kernel.os, "cpu_count", lambda: 8)
    for variable, jobs, expected in ((None, 2, "4"), (None, 16, "1"), ("3", 2, "3")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if variable:
            monkeypatch.setenv("OMP_NUM_THREADS", variable)
        content = run.load(notebook)
        asyncio.run(kernel.execute(content, name="n", jobs=jobs))
        assert content.cells[-1].outputs[0].text == expected + "\n"


def test_it_runs_where_a_loop_is_running_already_as_in_jupyter(tmp_path):
    async def cell():
        return run.run(small.write(tmp_path / "n.ipynb", small.LIGHT), {}, tmp_path)

    assert names(asyncio.run(cell())) == FILES


def test_progress_names_cells_and_sections(tmp_path, forked):
    steps = []
    notebook = small.write(tmp_path / "n.ipynb", small.LIGHT)
    run.run(notebook, {}, tmp_path, progress=lambda *step: steps.append(step))
    assert steps[0] == ("n", 0, 4, "Title & more")
    assert steps[-1][:3] == ("n", 4, 4)


def test_an_interrupted_run_keeps_what_it_had_and_its_kernel_goes(tmp_path):
    source = f"import time\nopen({str(tmp_path / 'here')!r}, 'w').close()\ntime.sleep(60)"
    notebook = small.write(tmp_path / "small.ipynb", "print('so far')", source)
    words = [sys.executable, "-m", "helpers", "run", str(notebook), "--out", str(tmp_path)]
    mark = f"MARK={tmp_path}"
    environment = {"MARK": str(tmp_path), **os.environ}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, encoding="utf-8")
    while not (tmp_path / "here").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert len(small.processes(mark)) >= 2  # it and its kernel
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1].splitlines()[-1].startswith("error: interrupted")
    assert process.returncode == Outcome.TERMINATED
    assert small.processes(mark) == []
    assert "small was interrupted in section" in (tmp_path / "small" / "failed.ipynb").read_text(encoding="utf-8")


def test_command_line_tells_a_bad_parameter_from_a_failed_notebook(notebook, tmp_path, call, forked):
    status, out, _ = call("run", notebook, "--out", tmp_path)
    assert (status, out) == (0, f"report: {tmp_path / 'small' / 'report.html'}\n")
    status, _, said = call("run", notebook, "--out", tmp_path, "-p", "fail", "true")
    assert status == 1
    assert said.startswith("error: small: RuntimeError: as asked")
    bad = call("run", "01_subspace_similarity", "--out", tmp_path, "-p", "modul", "x")
    assert bad == (2, "", "error: there is no parameter 'modul'; did you mean 'module'?")
    torn = call("run", notebook, "-p", "x", "[a")
    assert torn[2] == "error: parameter x is '[a', which is not YAML: a list is \"[DIR, DIR]\""
    several = call("run", "02_random_baselines", "03_digit_saliency", "--out", tmp_path, "-p", "draws", "9")
    assert several[:2] == (2, "")  # refused for the second before the first runs
    assert "there is no parameter 'draws'" in several[2]
    (tmp_path / "torn.ipynb").write_text('{"cells": [', encoding="utf-8")
    unreadable = call("run", tmp_path / "torn.ipynb")
    assert unreadable[0] == Outcome.UNREADABLE_FILE
    assert "cannot be read as a notebook" in unreadable[2]
    for option, value, expected in (
        ("--jobs", "0", "0 is not in the range x>=1"),
        ("--limit", "-3", "-3 is not in the range x>=0"),
        ("--limit", "1:30", "'1:30' is not a valid integer"),
    ):
        status, _, said = call("run", notebook, f"{option}={value}")
        assert status == Outcome.BAD_PARAMETER
        assert expected in said
    for words in ([], ["run"], ["walk"], ["run", notebook, "-p", "x"], ["sweep", notebook], ["run", "--jobs"]):
        status, _, said = call(*words)
        assert status == Outcome.BAD_PARAMETER
        assert re.search(r"^error: .* \(see phi-and-pixels.* --help\)$", said), words
    status, told, _ = call("run", "--help")
    assert status == Outcome.DONE
    assert "a list is" in told
    assert re.search(r"3\s+timed out;\s+4\s+dead\s+kernel", told)


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10.0), ("-4.2e-1", -0.42), ("-1", -1.0), ("1:30", None), ("0o10", None), ("0x10", None), ("1_0", None)],
)
def test_numbers_are_decimal_whichever_way_they_come(text, value, tmp_path, call, monkeypatch):
    """`run`, `sweep -p`, `sweep --over`, each on a notebook with a schema and on one without, and papermill."""
    seen = []

    def keep(notebooks, given, *_, **__):
        seen.append(run.check(notebooks[0].stem, given, run.load(notebooks[0])))
        return [RunFailed(Outcome.DEAD_KERNEL, "here")]

    monkeypatch.setattr(run, "run_all", keep)
    monkeypatch.setattr(sweep, "sweep", lambda _, points, *__, **___: seen.extend(points) or [{"outcome": 4}])
    notebook = small.write(tmp_path / "small.ipynb", small.LIGHT)
    for path, name, more in ((notebook, "wait", {}), ("03_digit_saliency", "input_mean", {"model": "a:b"})):
        rest = [word for pair in more.items() for word in ("-p", *pair)]
        for words in (
            ["run", path, "-p", name, text, *rest],
            ["sweep", path, "-p", name, text, *rest, "--over", "seed=010" if more else "x=010"],
            ["sweep", path, "--over", f"{name}={text}", *rest],
        ):
            seen.clear()
            status, _, said = call(*words, "--out", tmp_path / "out")
            assert (status == Outcome.BAD_PARAMETER) == (value is None), said
            assert [point[name] for point in seen] == [value] * (value is not None)
            assert all(point.get("seed", 10) == point.get("x", 10) == 10 for point in seen)


@pytest.mark.parametrize(
    ("text", "said"), [("-4.2e-1", ""), ("1:30", "input_mean is '1:30': input"), ("0x10", "input_mean is '0x10'")]
)
def test_papermill_reads_them_alike(text, said, papermill):
    """Up to the cell that checks them: papermill makes numbers of what it takes for one, the schema reads the rest."""
    content = nbformat.read(ROOT / "notebooks" / "03_digit_saliency.ipynb", as_version=4)
    content.cells = [*content.cells[:3], nbformat.v4.new_code_cell("print(p.input_mean == -0.42)")]
    error, out = papermill(content, "-p", "input_mean", text, "-p", "model", "a:b")
    assert bool(error) == bool(said)
    assert said in error
    assert said or "True" in out


def test_the_published_figure_is_refused_in_01_and_its_notebook_named(tmp_path, call):
    said = "the published figure has a report of its own: run 04_published_pictures"
    place = "01_subspace_similarity", "-p", "preset", "paper", "--out", tmp_path / "out"
    for words in (["run", *place], ["sweep", *place, "--over", "seed=0,1"]):
        status, _, error = call(*words)
        assert status == Outcome.BAD_PARAMETER
        assert said in error
    assert not (tmp_path / "out").exists()
    content = nbformat.read(ROOT / "notebooks" / "01_subspace_similarity.ipynb", as_version=4)
    content.cells = content.cells[:3]
    nbformat.write(content, tmp_path / "in.ipynb")
    words = ["-p", "preset", "paper", "--cwd", str(ROOT), "--no-progress-bar"]
    command = [sys.executable, "-m", "papermill", str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode
    assert said in done.stderr


def test_a_parameter_that_only_the_inputs_refuse_is_one_sentence_from_run_sweep_and_papermill(
    tmp_path, call, papermill
):
    notebook, out = ROOT / "notebooks" / "03_digit_saliency.ipynb", tmp_path / "out"
    most = np.bincount(digits.load("digits").labels).min()
    said = f"examples_per_digit is 500: expected at most {most}, which is all that one digit has"
    given = "-p", "examples_per_digit", "500"
    status, _, error = call("run", notebook, *given, "--out", out)
    assert status == Outcome.BAD_PARAMETER
    assert error.startswith(f"error: 03_digit_saliency: {said} (the notebook so far")
    status, _, error = call("sweep", notebook, *given, "--over", "seed=1", "--out", out / "sweeps")
    assert status == Outcome.BAD_PARAMETER
    assert error.startswith("error: 1 of 1 runs failed")
    (record,) = (json.loads(file.read_text(encoding="utf-8")) for file in (out / "sweeps").glob("*/*/run.json"))
    assert (record["outcome"], record["message"]) == (Outcome.BAD_PARAMETER, f"03_digit_saliency: {said}")
    error, _ = papermill(nbformat.read(notebook, as_version=4), *given)
    assert error.rstrip().endswith(f"BadParameter: {said}")


def test_a_fault_of_ours_is_no_bad_parameter(notebook, tmp_path, call, monkeypatch, forked):
    monkeypatch.setattr(run.pages, "write_index", lambda place: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        call("run", notebook, "--out", tmp_path / "out")


def test_a_page_can_be_rendered_again(notebook, tmp_path, call):
    place = run.run(notebook, {}, tmp_path / "out")
    again = call("render", place / "notebook.ipynb", "--out", tmp_path / "page.html")
    assert again[:2] == (0, f"page: {tmp_path / 'page.html'}\n")
    page, report = (
        (tmp_path / "page.html").read_text(encoding="utf-8"),
        (place / "report.html").read_text(encoding="utf-8"),
    )
    assert page == report.replace('<p><a href="../index.html">All reports</a></p>\n', "") != report


def test_notebooks_are_found_by_name_and_a_wrong_one_is_told(tmp_path):
    assert run.find("01_subspace_similarity") == ROOT / "notebooks" / "01_subspace_similarity.ipynb"
    assert run.find("lora_adapters") == ROOT / "notebooks" / "training" / "lora_adapters.ipynb"
    with pytest.raises(BadParameter, match="did you mean 03_digit_saliency"):
        run.find("03_digit_salience")
    with pytest.raises(BadParameter, match="is not a file"):
        run.find(str(tmp_path / "none.ipynb"))
    with pytest.raises(BadParameter, match="an empty text is not a file"):
        run.find("")
    with pytest.raises(BadParameter, match="leave it out, and give --out"):
        run.check("01_subspace_similarity", {"results": "x"}, None)


def test_parameters_reach_the_kernel_as_the_schema_reads_them():
    given = {"seed": "3", "adapters": "[a, b]", "module": "query"}
    assert run.check("01_subspace_similarity", given, None) == {"seed": 3, "adapters": ["a", "b"], "module": "query"}
