"""Whose commit a run names, and what is told of a notebook that makes no report."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.press import provenance

ASK = "from helpers.press.provenance import commit; print(commit())"


def python(source, at, *options, **environment):
    """What code prints that sees the copy of helpers/ in a directory first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | environment
    command = [sys.executable, *options, "-c", f"import sys; sys.path.insert(0, {str(at)!r}); {source}"]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, encoding="utf-8", check=True)
    return done.stdout.strip()


def git(at, *words):
    """What git prints there; it reads nobody's settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(at), "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, "-C", str(at), *words]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout.strip()


def repository(place):
    """Make a repository of what lies there, with one commit: its short name."""
    git(place, "init", "-q")
    git(place, "add", "--all")
    git(place, "commit", "-q", "--allow-empty", "-m", "all")
    return git(place, "rev-parse", "--short", "HEAD")


@pytest.fixture
def copy(tmp_path):
    """The code in a directory of its own, as from an unpacked archive, within a directory of other things."""
    place = tmp_path / "of: others" / "phi-and-pixels"
    for name in ("__init__.py", "files.py", "paths.py", "press"):
        source, target = ROOT / "helpers" / name, place / "helpers" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (place / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    return place


def test_the_commit_is_that_of_the_repository_and_says_what_changed(copy):
    made = repository(copy)
    assert python(ASK, copy) == made
    (copy / "helpers" / "__init__.py").write_text("# changed\n", encoding="utf-8")
    assert python(ASK, copy) == f"{made} with changes"


def test_a_repository_around_it_is_not_meant(copy):
    repository(copy.parent)
    assert python(ASK, copy) == "unknown"


def test_nor_is_one_that_the_environment_names(copy, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    others = repository(other)
    given = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / "index")}
    assert python(ASK, copy, **given) == "unknown"
    made = repository(copy)
    assert others != made
    assert python(ASK, copy, **given) == made


def test_a_linked_worktree_has_the_commit(copy):
    made = repository(copy)
    linked = copy.with_name("linked")
    git(copy, "worktree", "add", "-q", str(linked))
    assert (linked / ".git").is_file()
    assert python(ASK, linked) == made


@pytest.mark.parametrize("broken", ["", "gitdir: /nowhere\n"])
def test_what_is_no_repository_has_none(copy, broken):
    repository(copy.parent)
    (copy / ".git").write_text(broken, encoding="utf-8")
    assert python(ASK, copy) == "unknown"


def test_without_git_it_is_unknown(copy, tmp_path):
    repository(copy)
    assert python(ASK, copy, PATH=str(tmp_path)) == "unknown"


def test_a_notebook_of_others_ends_with_its_provenance_and_a_result_file(tmp_path):
    source = """
import json, sys, time
time.sleep(0.5)
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
InteractiveShell.instance()
before = set(sys.modules)
from helpers.press.provenance import conclude
with capture_output() as shown:
    conclude("theirs", {"x": 1, "names": ["<a>"]}, sys.argv[1])
(output,) = shown.outputs
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = loaded & {"pandas", "numpy", "scipy", "matplotlib", "torch", "pydantic", "seaborn"}
print(json.dumps([output.data["text/html"], sorted(heavy)]))
"""
    place = tmp_path / "new" / "results.json"
    command = [sys.executable, "-c", source, str(place)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    took = time.monotonic() - started
    page, heavy = json.loads(done.stdout)
    assert heavy == []
    found = json.loads(place.read_text(encoding="utf-8"))
    told = found.pop("provenance")
    assert found == {
        "notebook": "theirs", "parameters": {"x": 1, "names": ["<a>"]}, "claims": [], "tables": {}, "complete": True,
    }  # fmt: skip
    assert 0.5 <= told["seconds"] <= took + 1.1  # the system knows its own start to a second
    assert 5 < told["peak_memory_mb"] < 5000  # a child starts with the peak of its parent
    assert (told["commit"], told["inputs"], told["threads"]) == (provenance.commit(), {}, 1)
    assert told["version"] == version("phi-and-pixels")
    assert told["versions"]["torch"] == version("torch")
    assert page.startswith("<dl class='provenance'><dt>Parameters</dt><dd>x = 1, names = [&#x27;&lt;a&gt;&#x27;]</dd>")
    assert f"<dd>{told['commit']} (phi-and-pixels {told['version']})</dd>" in page
    assert f"seconds: {told['seconds']}, peak memory: {told['peak_memory_mb']} MB" in page
    assert "Inputs" not in page


def test_where_the_package_is_not_installed_its_version_is_unknown(copy, tmp_path):
    """As where papermill runs a notebook of a clone that is on PYTHONPATH alone."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for place in Path(sysconfig.get_path("purelib")).iterdir():
        if not place.name.startswith(("phi_and_pixels", "torch", "__editable__")):
            (libraries / place.name).symlink_to(place)
    source = (
        "from helpers.press.provenance import *; print(json.dumps(provenance(time.monotonic() - 2, {'file': 'a'})))"
    )
    found = json.loads(python(f"import json, time; {source}", copy, "-S", PYTHONPATH=str(libraries)))
    assert (found["commit"], found["version"]) == ("unknown", "unknown")
    assert list(found["versions"]) == [name for name in provenance.PACKAGES if name != "torch"]
    assert (found["threads"], found["inputs"]) == (1, {"file": "a"})
    assert 2 <= found["seconds"] < 10


def test_a_library_that_does_not_tell_its_threads_counts_as_one(monkeypatch):
    monkeypatch.setattr(provenance, "threadpool_info", lambda: [{"num_threads": None}, {"num_threads": 3}])
    assert provenance.provenance(time.monotonic(), {})["threads"] == 3
    monkeypatch.setattr(provenance, "threadpool_info", lambda: [{"num_threads": None}])
    assert provenance.provenance(time.monotonic(), {})["threads"] == 1
