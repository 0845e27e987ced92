"""What a run's numbers come from: commit, versions, input files, threads, time and memory. Light to import."""

import html
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

import psutil
from IPython.display import HTML, display
from threadpoolctl import threadpool_info

from helpers.paths import ROOT
from helpers.press.results import write_result

PACKAGES = ["numpy", "scipy", "scikit-learn", "torch", "captum", "mlxtend", "safetensors", "pandas", "matplotlib"]


def provenance(started, hashes):
    """Commit, versions, input hashes, threads, seconds and peak memory of this process, as data.

    started: when the run began, by `time.monotonic`. hashes: {path: SHA-256} of its inputs.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "commit": commit(),
        "version": _version("phi-and-pixels") or "unknown",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "inputs": hashes,
        "threads": max((pool["num_threads"] or 1 for pool in threadpool_info()), default=1),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
    }


def commit():
    """The commit of this repository, `… with changes` where files differ from it; `unknown` outside of one."""
    # Neither a repository around ours nor one that the environment names is meant.
    git = ["git", "--git-dir=.git", "describe", "--always", "--dirty= with changes", "--exclude=*"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "check": True, "timeout": 10}
    try:
        return subprocess.run(git, encoding="utf-8", **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def show(parameters, found):
    """Show parameters {name: value} and a `provenance` as a list."""
    versions = {"python": found["python"], **found["versions"]}
    hashes = {path: told if " " in told else told[:12] for path, told in found["inputs"].items()}
    rows = {
        "Parameters": ", ".join(f"{name} = {value!r}" for name, value in parameters.items()),
        "Commit": f"{found['commit']} (phi-and-pixels {found['version']})",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "Inputs (SHA-256)": ", ".join(f"{path} {hashed}" for path, hashed in hashes.items()),
        "Run": "threads: {threads}, seconds: {seconds}, peak memory: {peak_memory_mb} MB".format(**found),
    }
    listed = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items() if text)
    display(HTML(f"<dl class='provenance'>{''.join(listed)}</dl>"))


def conclude(notebook, parameters, results):
    """Show the provenance of a notebook that makes no `Report`, and write its result file, without claims and tables.

    notebook: its name. parameters: {name: value} that were given. results: path of the file. Seconds count from the
    start of the process, a kernel's, which the system knows to within one.
    """
    running = time.time() - psutil.Process().create_time()
    found = provenance(time.monotonic() - running, {})
    show(parameters, found)
    write_result(Path(results), notebook, parameters, [], {}, found)


def _version(package):
    return next((found.version for found in distributions(name=package)), None)
