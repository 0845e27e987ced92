"""`make release`: the wheel, and whether it does what it is for in empty environments, of a newer Python as well.

It is built into build/release/, installed where nothing else is, and asked from another directory to read weights and
to run a user's notebooks. Progress goes to standard output; the exit status is 1 where anything is wrong.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

import gguf
import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from safetensors.numpy import save_file

from helpers.paths import ROOT

RELEASE = ROOT / "build" / "release"
NEWER = ["python3.14", "python3.13", "python3.12"]
MODULE, SIZE, RANKS = "model.layers.1.self_attn.q_proj", 32, (2, 4)
THEIRS = """\
import pandas as pd

pd.DataFrame({"n": range(n), "square": [k * k for k in range(n)]})"""
ABSENT = "data/ comes with the repository"
OF_ADAPTERS = ("-p", "adapters", "[adapters/r2, adapters/r4]", "-p", "module", MODULE)
# What is asked of the wheel: the words, the exit status, and what is said.
ASKED = [
    (["--help"], 0, "inspect"),
    (["inspect", "adapters/r2", "--base", "base"], 0, "scale · B A, r = 2"),
    (["inspect", "base.gguf"], 0, MODULE),
    (["run", "theirs.ipynb", "-p", "n", "5"], 0, "build/theirs/report.html"),
    (["sweep", "theirs.ipynb", "--over", "n=2,3"], 0, "build/sweeps/theirs/index.html"),
    (["run", "a copy.ipynb", "-p", "base", "base", *OF_ADAPTERS], 0, "build/a copy/report.html"),
    (["run", "a copy.ipynb", "-p", "base", "base.gguf", *OF_ADAPTERS, "--out", "of a GGUF"], 0, "report.html"),
    (["run", "a copy.ipynb"], 5, ABSENT),
    (["run", "03_digit_saliency.ipynb"], 1, ABSENT),
]


class Wrong(Exception):
    """A process did not do what is expected of it."""


class NotInstalled(Exception):
    """What the wheel needs cannot be installed for a Python."""


def main():
    """Returns the exit status."""
    try:
        with tempfile.TemporaryDirectory(prefix="release of phi-and-pixels ") as place:
            wheel = build(Path(place, "source"))
            tried = [attempt(sys.executable, wheel, Path(place, "own"))]
            for name in NEWER:
                try:
                    tried.append(attempt(name, wheel, Path(place, name)))
                    break
                except NotInstalled as error:
                    print(f"not with {name}: {error}", flush=True)
    except Wrong as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{wheel.relative_to(ROOT)} does what is asked of it in Python {' and '.join(tried)}")
    return 0


def build(source):
    """The wheel, from a copy, as setuptools keeps files of its own in build/ and packs what it left there."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("helpers", "data/published"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.rmtree(RELEASE, ignore_errors=True)
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", RELEASE, source)
    (wheel,) = RELEASE.glob("*.whl")
    with ZipFile(wheel) as content:
        held = {name for name in content.namelist() if ".dist-info/" not in name}
    ours = {file.relative_to(ROOT).as_posix() for file in (ROOT / "helpers").rglob("*.*") if file.is_file()}
    ours |= {f"helpers/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "data" / "published").iterdir()}
    if wrong := [name for name in sorted(held ^ ours) if not name.endswith((".pyc", "README.md"))]:
        raise Wrong(f"{wheel.name} and the repository differ in {', '.join(wrong)}")
    print(f"built {wheel.relative_to(ROOT)}: {len(held)} files, {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
    return wheel


def attempt(python, wheel, place):
    """The version of a Python in an empty environment of which the wheel did all that is asked of it.

    place: a directory to make for that. Raises NotInstalled, and Wrong.
    """
    try:
        code = "import ensurepip, platform, sys; print(platform.python_version(), *sys.version_info[:2])"
        version, *numbers = call(python, "-c", code).split()
        if python != sys.executable and tuple(map(int, numbers)) <= sys.version_info[:2]:
            raise NotInstalled("it is not newer")
        print(f"Python {version}: installing", flush=True)
        call(python, "-m", "venv", place / "environment")
        pip = [place / "environment" / "bin" / "python", "-m", "pip", "install", "--quiet"]
        call(*pip, "--constraint", ROOT / "constraints.txt", wheel)
    except FileNotFoundError:
        raise NotInstalled("it is not here") from None
    except Wrong as error:
        if python == sys.executable:
            raise
        raise NotInstalled(error) from None
    work = place / "elsewhere"
    write_inputs(work)
    for words, status, said in ASKED:
        print(f"Python {version}: phi-and-pixels {shlex.join(words)}", flush=True)
        told = call(place / "environment" / "bin" / "phi-and-pixels", *words, cwd=work, status=status)
        if said not in told:
            raise Wrong(f"phi-and-pixels {shlex.join(words)}: {said!r} is not in what it says: {told}")
    check_results(work)
    shutil.rmtree(place)
    return version


def call(*words, cwd=None, status=0):
    """What a process says. Raises Wrong, with its end, for another exit status. It knows nothing of this Python's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    done = subprocess.run(words, cwd=cwd, env=environment, check=False, **pipes)
    if done.returncode != status:
        end = " ".join(done.stdout.split()[-60:])
        raise Wrong(f"{shlex.join(map(str, words))} ended with {done.returncode}, not {status}: {end}")
    return done.stdout


def write_inputs(place):
    """A user's directory: a model in two formats, adapters, notebooks, and a file that bears our package's name."""
    rng = np.random.default_rng(0)
    names = [f"model.layers.{n}.self_attn.{x}_proj" for n in (0, 1) for x in "qv"]
    weights = {name: rng.standard_normal((SIZE, SIZE)).astype("f") for name in names}
    (place / "base").mkdir(parents=True)
    save_file({f"{name}.weight": weight for name, weight in weights.items()}, place / "base" / "model.safetensors")
    writer = gguf.GGUFWriter(place / "base.gguf", "llama")
    writer.add_head_count(4)
    for n in (0, 1):
        for x in "qv":
            writer.add_tensor(f"blk.{n}.attn_{x}.weight", weights[f"model.layers.{n}.self_attn.{x}_proj"])
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    for r in RANKS:
        adapter, factors = place / "adapters" / f"r{r}", {}
        for name in names:
            factors[f"base_model.model.{name}.lora_A.weight"] = rng.standard_normal((r, SIZE)).astype("f")
            factors[f"base_model.model.{name}.lora_B.weight"] = rng.standard_normal((SIZE, r)).astype("f")
        adapter.mkdir(parents=True)
        save_file(factors, adapter / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": r, "lora_alpha": r}
        (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    cells = [new_markdown_cell("# Squares"), new_code_cell("n = 3", metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=[*cells, new_code_cell(THEIRS)]), place / "theirs.ipynb")
    shutil.copy(ROOT / "notebooks" / "01_subspace_similarity.ipynb", place / "a copy.ipynb")
    shutil.copy(ROOT / "notebooks" / "03_digit_saliency.ipynb", place)
    (place / "helpers.py").write_text("raise ImportError('this is the user’s')", encoding="utf-8")


def check_results(place):
    """Raise Wrong where result files and pages do not hold what the runs must have given."""
    theirs = json.loads((place / "build" / "theirs" / "results.json").read_text(encoding="utf-8"))
    copied = json.loads((place / "build" / "a copy" / "results.json").read_text(encoding="utf-8"))
    page = (place / "build" / "theirs" / "report.html").read_text(encoding="utf-8")
    sweep = (place / "build" / "sweeps" / "theirs" / "runs.csv").read_text(encoding="utf-8")
    expected = {
        "a notebook of others has a result without claims": theirs["claims"] == [] and theirs["parameters"] == {"n": 5},
        "and a page with its table": "<td>16</td>" in page,
        "a sweep of two has two rows": len(sweep.splitlines()) == 3,
        "a copy of ours has claims on both adapters": len(copied["claims"]) > 1 and "r = 4" in str(copied["tables"]),
    }
    if wrong := [what for what, holds in expected.items() if not holds]:
        raise Wrong(f"not so: {', '.join(wrong)}")


if __name__ == "__main__":
    sys.exit(main())
