"""The three lists of dependencies say the same, what is imported is in them, and make installs them where it is."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {
    "jupyter-client": "jupyter_client",
    "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base",
    "torch": "pytorch",
}
IMPORT_NAMES = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "IPython": "ipython",
    "bs4": "beautifulsoup4",
    "PIL": "pillow",
    "dask": "distributed",  # which is made for one version of it
}

TRAINING = set((ROOT / "helpers" / "training").glob("*.py"))
ORACLE = ROOT / "tests" / "digits" / "oracle.py"


def requirements(*extras):
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {requirement.name: requirement for requirement in map(Requirement, chain(*lists))}


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def source_of(file):
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


def test_conda_ranges_are_those_of_pyproject():
    packages = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert packages[-1] == {"pip": ["-e ."]}
    conda = {name: ranges for name, _, ranges in (line.partition(" ") for line in packages[:-1])}
    assert conda.pop("pip") == ""
    assert conda.pop("python").startswith(PROJECT["requires-python"])
    expected = {CONDA_NAMES.get(name, name): found.specifier for name, found in requirements().items()}
    assert {name: Requirement(f"{name}{ranges}").specifier for name, ranges in conda.items()} == expected


def test_every_requirement_is_pinned_within_its_range():
    for name, requirement in requirements("training", "test").items():
        assert Version(pins()[name]) in requirement.specifier, name


def test_every_line_says_why():
    for file in ("pyproject.toml", "environment.yml"):
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            if re.search(r"[\w-]+ ?>=\d", line) and "requires" not in line and not line.strip().startswith("- python "):
                assert re.search(r"# \w+", line), line


@pytest.mark.parametrize(
    ("files", "extras"),
    [
        (sorted(set((ROOT / "helpers").rglob("*.py")) - TRAINING), ()),
        (sorted(TRAINING), ("training",)),
        (sorted(set((ROOT / "tests").rglob("*.py")) - {ORACLE}), ("training", "test")),
        ([ORACLE], ("oracle",)),
        (sorted((ROOT / "notebooks").glob("*.ipynb")), ()),
        (sorted((ROOT / "notebooks").glob("*/*.ipynb")), ("training",)),
    ],
    ids=["helpers", "training", "tests", "oracle", "notebooks", "training notebooks"],
)
def test_what_is_imported_is_required(files, extras):
    """The default run needs neither peft nor transformers: only the training room may import them."""
    allowed = {name.lower().replace("-", "_") for name in requirements(*extras)} | {"helpers", "tests"}
    assert files
    for file in files:
        for node in ast.walk(ast.parse(source_of(file))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names):
                assert IMPORT_NAMES.get(name, name).lower().replace("-", "_") in allowed, f"{file.name}: {name}"


PYTHON = """\
#!/bin/sh
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


def test_in_a_clone_that_was_moved_everything_is_installed_anew(tmp_path):
    """With a Python that installs nothing, and spaces in the paths."""
    place, python = tmp_path / "a clone", tmp_path / "python"
    place.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, place)
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)

    def make(*words):
        words = ["make", "--silent", f"PYTHON={python}", *words]
        return subprocess.run(words, cwd=place, check=True, capture_output=True, encoding="utf-8").stdout

    assert make(".venv/report.stamp") == ""
    mark = place / ".venv" / "mark"
    mark.touch()
    assert make(".venv/report.stamp") == "" and mark.exists()
    place = place.rename(tmp_path / "moved to here")
    mark = place / ".venv" / "mark"
    told = f"this clone was moved from {tmp_path / 'a clone'}: .venv is made anew\n"
    assert make("-n", ".venv/report.stamp").startswith(told) and mark.exists()
    assert make("report", "NOTEBOOKS=") == told + "all of them: build/index.html\n" and not mark.exists()
    assert make(".venv/report.stamp") == ""
