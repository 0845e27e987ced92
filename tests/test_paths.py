"""Where relative paths start: in a clone at its root; of an installed package, at the current directory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.paths import CLONE, ROOT, of_repository, resolve

CODE = """
import json, sys
from helpers import paths
try:
    own = str(paths.of_repository(sys.argv[2]))
except FileNotFoundError as error:
    own = str(error)
print(json.dumps([paths.CLONE, str(paths.resolve(sys.argv[1])), own]))
"""


def installed(place, cwd, *paths):
    """What a package that lies in a directory, and in no clone, says of two paths."""
    environment = os.environ | {"PYTHONPATH": str(place)}
    words = [sys.executable, "-P", "-c", CODE, *paths]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


def test_in_a_clone_relative_paths_start_at_its_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CLONE and resolve("data/../x") == ROOT / "x"
    assert resolve("~/x") == Path.home() / "x" and resolve(tmp_path / "x") == tmp_path / "x"
    (tmp_path / "link").symlink_to(ROOT)
    assert resolve(tmp_path / "link" / "x") == tmp_path / "link" / "x"
    assert of_repository("data/published/lora_numbers.csv") == ROOT / "data/published/lora_numbers.csv"
    assert of_repository("data/none") == ROOT / "data/none"


def test_of_an_installed_package_they_start_at_the_current_directory(tmp_path):
    package, here = tmp_path / "site" / "helpers", tmp_path / "a place"
    shutil.copytree(ROOT / "helpers", package, ignore=shutil.ignore_patterns("__pycache__"))
    here.mkdir()
    held = package / "data" / "published" / "lora_numbers.csv"
    found = installed(package.parent, here, "x", "data/published/lora_numbers.csv")
    assert found == [False, str(here / "x"), str(held)]
    *_, told = installed(package.parent, here, "x", "data/digit_models")
    assert told == (
        f"data/digit_models is not in {here}, "
        "and data/ comes with the repository only: clone that, and run from its root"
    )
    (here / "data" / "digit_models").mkdir(parents=True)
    *_, own = installed(package.parent, here, "x", "data/digit_models")
    assert own == str(here / "data" / "digit_models")


def test_what_is_missing_there_is_said_in_one_sentence(tmp_path):
    shutil.copytree(ROOT / "helpers", tmp_path / "site" / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    words = [sys.executable, "-P", "-m", "helpers", "inspect", "data/adapters/r8"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False)
    start = "relative paths start at the current directory; data/ comes with the repository only"
    assert done.returncode == 5 and start in done.stderr and len(done.stderr.splitlines()) == 1
