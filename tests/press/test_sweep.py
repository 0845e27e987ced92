import json
import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from helpers import files
from helpers.__main__ import main
from helpers.parameters import BadParameter
from helpers.paths import ROOT
from helpers.press import run, sweep
from helpers.press.kernel import Outcome
from tests import small

FILES = ["notebook.ipynb", "report.html", "results.json", "run.json"]


@pytest.fixture
def notebook(tmp_path):
    return small.write(tmp_path / "small.ipynb", small.LIGHT)


def words(notebook, out, *more):
    return ["sweep", str(notebook), "--out", str(out), *more]


def points(notebook, **over):
    return sweep.grid(notebook, {}, over)


def runs(out):
    return sorted(place for place in (out / "small").iterdir() if place.is_dir())


def by_x(out):
    return {json.loads((place / "run.json").read_text(encoding="utf-8"))["given"]["x"]: place for place in runs(out)}


def test_every_combination_runs_once_and_ends_in_one_table_and_one_index(notebook, tmp_path, forked):
    out = tmp_path / "out"
    records = sweep.sweep(notebook, points(notebook, x=[1, 2], wait=[0.0, 0.1]), out, jobs=2)
    assert [record["outcome"] for record in records] == [Outcome.DONE] * 4
    assert [sorted(file.name for file in place.iterdir()) for place in runs(out)] == [FILES] * 4
    for frame in (pd.read_parquet(out / "small" / "runs.parquet"), pd.read_csv(out / "small" / "runs.csv")):
        found = frame[["x", "wait", "claim", "statistic", "holds", "outcome"]]  # in order of the parameters
        assert found.values.tolist() == [
            [x, wait, "square", x * x, x == 2, "done"] for x in (1, 2) for wait in (0.0, 0.1)
        ]
    index = (out / "small" / "index.html").read_text(encoding="utf-8")
    for place in runs(out):
        assert f'href="{place.name}/report.html"' in index
    assert "2 hold, 2 do not, 0 undecided" in index


def test_done_runs_are_kept_and_what_changed_runs_again(notebook, tmp_path, forked):
    out = tmp_path / "out"

    def again(*xs):
        """The x of the runs that a sweep over `xs` really did."""
        before = {place / "run.json": (place / "run.json").stat().st_mtime_ns for place in out.glob("small/*/")}
        sweep.sweep(notebook, points(notebook, x=list(xs)), out)
        files = {x: place / "run.json" for x, place in by_x(out).items()}
        return sorted(x for x, file in files.items() if file.stat().st_mtime_ns != before.get(file))

    assert again(1, 2) == [1, 2]
    assert again(1, 2, 3) == [3]
    assert set(pd.read_csv(out / "small" / "runs.csv")["x"]) == {1, 2, 3}
    (by_x(out)[2] / "results.json").unlink()
    assert again(1, 2, 3) == [2]
    small.write(notebook, small.LIGHT.replace("x * x", "x * x * x"))
    sweep.sweep(notebook, points(notebook, x=[2]), out)  # another notebook, so another run
    assert len(runs(out)) == 4
    assert pd.read_csv(out / "small" / "runs.csv")[["x", "statistic"]].values.tolist() == [[2, 8]]


def test_the_key_is_of_all_that_numbers_come_from(tmp_path, monkeypatch):
    notebook = ROOT / "notebooks" / "01_subspace_similarity.ipynb"
    content, name = run.load(notebook), notebook.stem
    weights, adapter = tmp_path / "base.safetensors", tmp_path / "adapter"
    adapter.mkdir()
    for file in (weights, adapter / "a.safetensors"):
        file.write_bytes(b"one")
    given = {"base": str(weights), "adapters": [str(adapter)]}
    keys = [sweep.key(content, name, given)]
    assert keys == [sweep.key(content, name, given | {"seed": 0})]  # the default, said or not
    keys.append(sweep.key(content, name, given | {"seed": 1}))
    (adapter / "a.safetensors").write_bytes(b"two")
    keys.append(sweep.key(content, name, given))
    weights.write_bytes(b"two")
    keys.append(sweep.key(content, name, given))
    content.cells[0].source += " more"
    keys.append(sweep.key(content, name, given))
    monkeypatch.setattr(sweep, "version", lambda package: "0")
    keys.append(sweep.key(content, name, given))
    content.cells[1].metadata["tags"] = []
    keys.append(sweep.key(content, name, given))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    keys.append(sweep.key(content, name, given))
    assert len(set(keys)) == len(keys)


def test_a_style_changes_no_number_and_no_key(tmp_path, monkeypatch):
    page = tmp_path / "helpers" / "press" / "page"
    page.mkdir(parents=True)
    monkeypatch.setattr(sweep, "ROOT", tmp_path)
    content = run.load(small.write(tmp_path / "small.ipynb", small.LIGHT))
    keys = []
    for file in ("page.css", "report.html.j2", "explorer.js", "sums.py"):
        (page / file).write_text("", encoding="utf-8")
        keys.append(sweep.key(content, "small", {}))
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_a_large_file_is_known_by_its_size_and_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HASHED_UP_TO", 2**21)
    file, seen = tmp_path / "large", set()
    for first, last, size in ((b"a", b"z", 3), (b"b", b"z", 3), (b"b", b"y", 3), (b"b", b"y", 4)):
        file.write_bytes(first + bytes(size * 2**20) + last)
        seen.add(sweep._hash(file)[1])
    assert len(seen) == 4


def test_sources_of_a_callable_count_as_input(tmp_path, monkeypatch):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    (tmp_path / "ours" / "net.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert [file.name for file in sweep._files("ours.net:Net")] == ["__init__.py", "net.py"]
    (tmp_path / "ours" / "__init__.py").unlink()
    assert [file.name for file in sweep._files("ours.net:Net")] == ["net.py"]
    for path in ("not.there:Net", "./at 1:30.pt"):
        assert sweep._files(path)[0].name == Path(path).name


def test_failures_are_listed_with_their_cause_and_tried_again(tmp_path, capfd, monkeypatch, forked):
    source = "import os\nif x == 2:\n    os.kill(os.getpid(), 9)\nif x == 3:\n    1 / 0\n" + small.LIGHT
    notebook, out = small.write(tmp_path / "small.ipynb", source), tmp_path / "out"
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    status = main(words(notebook, out, "--over", "x=1,2,3,4"))
    assert status == Outcome.DEAD_KERNEL
    said = capfd.readouterr().err
    assert "2 of 4 runs failed" in said
    assert "SIGKILL" in said
    assert "ZeroDivisionError" in said
    frame = pd.read_csv(out / "small" / "runs.csv").sort_values("x")
    assert frame["outcome"].tolist() == ["done", "dead kernel", "failed cell", "done"]
    index = (out / "small" / "index.html").read_text(encoding="utf-8")
    assert "division by zero" in index
    assert index.count("failed.ipynb") == 2
    small.write(notebook, small.LIGHT)
    repaired = sweep.sweep(notebook, points(notebook, x=[1, 2, 3, 4]), out)
    assert [record["outcome"] for record in repaired] == [0] * 4


def test_inputs_that_change_while_a_run_is_on_its_way_give_no_result(notebook, tmp_path, monkeypatch, forked):
    keys = iter(["a" * 16, "b" * 16, *["a" * 16] * 9])
    monkeypatch.setattr(sweep, "key", lambda *_: next(keys))
    (record,) = sweep.sweep(notebook, [{"x": 1}], tmp_path)
    assert record["outcome"] == Outcome.UNREADABLE_FILE
    assert "changed while it ran" in record["message"]
    assert not (tmp_path / "small" / ("a" * 16) / "results.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "x"], "expected NAME=VALUE,VALUE"),
        (["--over", "x="], "expected NAME=VALUE,VALUE"),
        (["--over", "x=[1"], "expected NAME=VALUE,VALUE"),
        (["--over", "x=1,0x10"], "parameter x: '0x10' is no decimal number"),
        (["--over", "x=1,2", "-p", "wait", "1:30"], "parameter wait: '1:30' is no decimal number"),
        (["--over", "x=1", "--over", "x=2"], "--over names a parameter twice"),
        (["--over", "x=1,2", "-p", "x", "3"], "parameter x is given and swept over"),
        (["--over", "x=1,2", "--scheduler", "nowhere"], "no Dask scheduler answers at 'nowhere'"),
    ],
)
def test_a_bad_command_line_runs_nothing(words, message, notebook, tmp_path, call):
    status, _, said = call("sweep", notebook, "--out", tmp_path, *words)
    assert status == Outcome.BAD_PARAMETER
    assert message in said
    assert not list(tmp_path.glob("*/*/run.json"))


def test_whatever_stops_a_sweep_stops_its_kernels(notebook, tmp_path, monkeypatch):
    def fail(done, total, record):
        if record:
            raise OSError("disk full")

    monkeypatch.setenv("MARK", str(tmp_path))
    wanted = points(notebook, x=[1]) + points(notebook, x=[2], wait=[60.0])
    with pytest.raises(OSError, match="disk full"):
        sweep.sweep(notebook, wanted, tmp_path, jobs=2, progress=fail)
    assert small.gone(f"MARK={tmp_path}")
    assert pd.read_csv(tmp_path / "small" / "runs.csv")["x"].tolist() == [1]


def test_records_that_are_none_or_of_another_schema_are_passed_over(tmp_path):
    notebook = ROOT / "notebooks" / "02_random_baselines.ipynb"
    content, place = run.load(notebook), tmp_path / notebook.stem
    records = [
        "[]",
        "{",
        '{"outcome": 1}',
        json.dumps({"key": "2", "given": {"renamed": 1}, "parameters": {}, "outcome": 1}),
    ]
    for n, text in enumerate(records):
        (place / str(n)).mkdir(parents=True)
        (place / str(n) / "run.json").write_text(text, encoding="utf-8")
    assert sweep.runs_in(place, content) == []


def test_a_bad_combination_is_named_before_anything_runs():
    notebook = run.find("01_subspace_similarity")
    with pytest.raises(BadParameter, match=r'^factor = A, side = left: side is "left" with factor "A"'):
        sweep.grid(notebook, {}, {"factor": ["BA", "A"], "side": ["right", "left"]})


@pytest.mark.parametrize("typed", [False, True])
def test_values_to_sweep_over(typed):
    assert sweep.values("adapters=[a, b],[c]", typed) == ("adapters", [["a", "b"], ["c"]])
    assert sweep.values("factor=A,BA", typed) == ("factor", ["A", "BA"])
    heads = ["h.0.c_attn[q, head 1]", "h.1.c_attn[v]", "q_proj[head 3]", "q_proj"]
    assert sweep.values("module=" + ",".join(heads), typed) == ("module", heads)
    assert sweep.values("module=" + ",".join(f'"{head}"' for head in heads), typed) == ("module", heads)
    assert sweep.values("module=my-x.h.0.c_attn[q], q_proj", typed) == ("module", ["my-x.h.0.c_attn[q]", "q_proj"])
    assert sweep.values("base='a/b[1]',c d[2]", typed) == ("base", ["a/b[1]", "c d[2]"])
    name, found = sweep.values("seed=010,-4.2e1,'3'", typed)
    assert found == ([10, -42.0, "3"] if typed else ["010", "-4.2e1", "3"])
    if not typed:
        assert sweep.grid(run.find("01_subspace_similarity"), {}, {name: ["010", "3"]}) == [{"seed": 10}, {"seed": 3}]


def test_two_sweeps_into_one_directory_take_turns(notebook, tmp_path, fork):
    out = tmp_path / "out"
    both = [
        fork(*words(notebook, out, "--over", f"x={xs}", "-p", "wait", "0.3"), said=tmp_path / f"said {xs}")
        for xs in ("1,2,3", "3,4,5")
    ]
    assert [fork.wait(child) for child in both] == [0, 0]
    assert sum("waiting for it to end" in file.read_text(encoding="utf-8") for file in tmp_path.glob("said *")) == 1
    assert len(runs(out)) == 5
    assert sorted(pd.read_csv(out / "small" / "runs.csv")["x"]) == [1, 2, 3, 4, 5]


def test_a_sweep_killed_at_any_moment_loses_only_what_was_running(notebook, tmp_path, fork):
    """Killed 6 times and resumed; in the end every run is there once, with the right numbers.

    Two kills in each third of a second: one after the first kernel started, one after a run ended.
    """
    out, mark, rng = tmp_path / "out", f"MARK={tmp_path}", random.Random(5)
    over = f"x={','.join(map(str, range(16)))}"
    command = words(notebook, out, "--over", over, "-p", "wait", "0.2", "--jobs", "2")
    kept = {}
    for n in range(6):
        child = fork(*command, mark=tmp_path)
        while len(small.processes(mark)) == 0:  # no kernel yet
            time.sleep(0.02)
        while n % 2 and len(list(out.glob("small/*/run.json"))) == len(kept):  # every other time a run may end first
            time.sleep(0.02)
        time.sleep((n // 2 + rng.random()) / 3)
        os.kill(child, signal.SIGKILL)
        assert fork.wait(child) == -signal.SIGKILL, "it ended first: too few runs for so many kills"
        now = {file.parent.name: (file.parent / "results.json").read_bytes() for file in out.glob("small/*/run.json")}
        assert kept.items() <= now.items()  # nothing done is lost or done again
        kept = now
        assert small.gone(mark), "a kernel outlived its sweep"
    assert len(kept) >= 3
    assert fork.wait(fork(*command, mark=tmp_path)) == 0
    assert {place.name: (place / "results.json").read_bytes() for place in runs(out)}.items() >= kept.items()
    assert sorted(by_x(out)) == list(range(16))
    frame = pd.read_parquet(out / "small" / "runs.parquet").sort_values("x")
    assert frame["x"].tolist() == list(range(16))
    assert frame["statistic"].tolist() == [x * x for x in range(16)]
    assert [sorted(file.name for file in place.iterdir()) for place in runs(out)] == [FILES] * 16
    assert small.processes(mark) == []


def test_a_killed_worker_of_a_cluster_costs_only_its_runs(notebook, tmp_path, fork):
    """A scheduler and two workers in processes of their own; the one that has work is killed."""
    mark, address, said = f"MARK={tmp_path}", tmp_path / "scheduler.json", tmp_path / "said"
    started = [fork("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", address, mark=tmp_path)]
    worker = ["worker", "--scheduler-file", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker += ["--local-directory", tmp_path]
    try:
        started += [fork(*worker, mark=tmp_path) for _ in range(2)]
        while not address.exists():
            time.sleep(0.05)
        place = json.loads(address.read_text(encoding="utf-8"))["address"]
        over = ("--over", "x=1,2,3,4", "-p", "wait", "0.5", "--scheduler", place)
        swept = fork(*words(notebook, tmp_path / "out", *over), said=said)
        alive = Path(f"/proc/{swept}/exe").exists  # it is gone from a process that has ended
        while not list(tmp_path.glob("out/small/*/run.json")):
            assert alive()
            time.sleep(0.05)
        tasks = Path(f"/proc/{started[1]}/task")
        while not any(
            file.read_text(encoding="utf-8").strip() for file in tasks.glob("*/children")
        ):  # until it has a kernel
            assert alive()
        os.kill(started[1], signal.SIGKILL)
        assert fork.wait(swept) == 0
        assert "lost" not in said.read_text(encoding="utf-8")
        frame = pd.read_csv(tmp_path / "out" / "small" / "runs.csv").sort_values("x")
        assert frame[["x", "statistic"]].values.tolist() == [[x, x * x] for x in range(1, 5)]
    finally:
        for each in started:
            os.kill(each, signal.SIGKILL)
            fork.wait(each)
    assert small.gone(mark)


def test_an_interrupted_sweep_stops_its_kernels(notebook, tmp_path, fork):
    mark, said = f"MARK={tmp_path}", tmp_path / "said"
    swept = fork(*words(notebook, tmp_path / "out", "--over", "x=1,2", "-p", "wait", "60"), mark=tmp_path, said=said)
    while not small.processes(mark):
        assert Path(f"/proc/{swept}/exe").exists()
        time.sleep(0.05)
    os.kill(swept, signal.SIGTERM)
    assert fork.wait(swept) == Outcome.TERMINATED
    assert "error: interrupted" in said.read_text(encoding="utf-8")
    assert small.gone(mark)
    assert (tmp_path / "out" / "small" / "index.html").is_file()
