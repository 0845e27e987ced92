"""Kernels and command lines that are forked, for tests that are not about how they start."""

import json
import os
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from tests import kernels

# Command lines are forked from a process that has imported everything, which saves the time of that.
FORKING = """
import json, os, signal, sys

from distributed.cli import dask_scheduler, dask_worker
from helpers.__main__ import main

dask = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
for line in sys.stdin:
    words, mark, said, ignored = json.loads(line)
    if isinstance(words, int):
        print(os.waitstatus_to_exitcode(os.waitpid(words, 0)[1]), flush=True)
        continue
    child = os.fork()
    if not child:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        os.environ["MARK"] = mark  # on kernels alone: they are started with it
        name, *rest = words
        status = 1
        try:
            status = dask[name](rest, standalone_mode=False) if name in dask else main(words)
        finally:
            sys.stdout.flush()
            os._exit(status or 0)
    print(child, flush=True)
"""


@pytest.fixture(scope="session")
def fork():
    """Start a command line, ours or one of Dask: its process's number, whose exit status `fork.wait` has.

    mark: of its kernels, see `small.processes`. said: file that gets what it prints. ignored: signals that it is born
    to ignore, as the children of nohup and of a shell's `&` are.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", FORKING], cwd=ROOT, **pipes)

    def ask(words, mark="", said=os.devnull, ignored=()):
        process.stdin.write(json.dumps([words, str(mark), str(said), [*ignored]]) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    def start(*words, **given):
        return ask([*map(str, words)], **given)

    start.wait = ask
    yield start
    process.communicate()


@pytest.fixture
def forked():
    """Kernels are forked, for tests that are not about how a kernel starts or dies."""
    with kernels.forked():
        yield
