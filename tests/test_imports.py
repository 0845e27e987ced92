"""What importing `helpers` and drawing its first figure do to the process."""

import ast
import json
import os
import subprocess
import sys

import numpy as np
import torch

from helpers.paths import ROOT
from helpers.training import digit_models

STATE = """
import importlib, json, os, sys, warnings
import matplotlib, numpy, torch

def state():
    return {
        "rcParams": matplotlib.rcParams.copy(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "errors": numpy.geterr(),
        "filters": [*warnings.filters],
        "environ": dict(os.environ),
    }
"""
IMPORTS = """
others, ours = json.loads(sys.argv[1])
for module, names in others:
    found = importlib.import_module(module)
    for name in names:  # some packages import a part of theirs when it is asked for
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
assert not [name for name in sys.modules if name.partition(".")[0] == "helpers"]
before = state()
for module in ours:
    importlib.import_module(module)
after = state()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""
LOOKS = """
import numpy
from helpers import show

def drawn():
    figure = show.law_panels(numpy.arange(9.0), ([0, 9], {"one": [1, 2]}), numpy.arange(5.0), ([0, 5], {}), "A title")
    return FigureCanvasAgg(figure).print_to_buffer()[0]

from matplotlib.backends.backend_agg import FigureCanvasAgg
plain = state()
first, again = drawn(), drawn()
changed = [name for name in plain if plain[name] != state()[name]]
matplotlib.rcdefaults()
print(json.dumps([changed, first == again, first == drawn()]))
"""


def run(*words):
    # not what this process has made of it; and one thread would hide that somebody asks for one
    environment = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ} | {"OMP_NUM_THREADS": "3"}
    command = [sys.executable, "-c", STATE + "".join(words[:1]), *words[1:]]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


def test_importing_a_module_changes_nothing_for_others():
    """Against a process that has imported what our modules import of others."""
    files = sorted((ROOT / "helpers").rglob("*.py"))
    ours = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    others = []
    for node in (node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            others += [(name.name, []) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] != "helpers":
            others.append((node.module, [name.name for name in node.names]))
    assert "helpers.__main__" in ours
    assert ("seaborn", []) in others
    assert run(IMPORTS, json.dumps([others, ours])) == []


def test_the_first_figure_looks_as_the_next_and_only_the_look_has_changed():
    changed, as_the_next, as_by_default = run(LOOKS)
    assert changed == ["rcParams"]
    assert as_the_next
    assert not as_by_default


def test_training_takes_one_thread_and_gives_the_others_back(monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(digit_models, "train", lambda *_, **__: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        digit_models.fit("cnn", np.zeros((1, 8, 8)), [0], seed=0)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
