"""Kernels for notebooks under test: behind sockets in the file system, and forked from a process that is warm."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

from jupyter_client import AsyncKernelManager

from helpers.paths import ROOT

FORKING = """
import atexit, json, os, sys
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel sets before it imports

import captum.attr, matplotlib.pyplot, matplotlib_inline.backend_inline, numpy
from ipykernel import kernelapp
from helpers import digits, parameters, show, subspaces
from helpers.press import report
from helpers.published import captions, paper
from helpers.show import explorers

for line in sys.stdin:
    token, words, environment, place = json.loads(line)
    if os.fork():  # a kernel that ended is never waited for: nothing else gets its number, and how it ended can be read
        continue
    os.setsid()
    print(token, os.getpid(), flush=True)
    os.dup2(2, 1)  # the answers alone go there
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # as there the requests of other kernels come in
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    numpy.random.seed()  # or all kernels would draw the same; `random` is seeded anew at each fork by Python
    sys.argv = ["ipykernel_launcher", *words, f"--IPKernelApp.parent_handle={os.getppid()}"]
    kernelapp.launch_new_instance()
    atexit._run_exitfuncs()
    os._exit(0)  # at once: to take all modules to pieces takes a second
"""


SECONDS = 300  # that a kernel may take to be forked, the imports before the first included
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def forked():
    """Kernels that are started within, in whatever thread, are forked as those of `Warm` are."""
    with mock.patch("jupyter_client.provisioning.local_provisioner.launch_kernel", _Forked):
        yield


class WithoutPorts(AsyncKernelManager):
    """A kernel behind sockets in the file system, with names of its own: kernels that start at once race for ports."""

    def __init__(self, **settings):
        place = Path(tempfile.gettempdir()) / f"kernel-{uuid.uuid4()}.json"
        super().__init__(transport="ipc", connection_file=str(place), **settings)


class Warm(WithoutPorts):
    """The same, forked from a process that has imported what notebooks import, which saves the time of that.

    Kernels so made share the order of sets of strings, and what libraries read of the environment when they are loaded,
    as OMP_NUM_THREADS: what a test sets for its kernel alone comes too late for those.
    """

    async def _async_launch_kernel(self, command, **given):
        with forked():
            await super()._async_launch_kernel(command, **given)


class _Forked:
    """What a provisioner asks of a `subprocess.Popen`, of a kernel that is another process's child."""

    stdin = stdout = stderr = None

    def __init__(self, command, env=None, cwd=None, **_):
        words, token = command[command.index("-m") + 2 :], uuid.uuid4().hex
        request = [token, words, dict(os.environ) if env is None else env, cwd or str(Path.cwd())]
        with _ONE_AT_A_TIME:
            self.pid = _fork(token, request)

    def poll(self):
        """None of a kernel that runs; else how it ended, as `subprocess.Popen` tells it."""
        try:
            state, *_, status = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 1  # the process that forked it is gone, and with that a kernel ends so
        return os.waitstatus_to_exitcode(int(status)) if state in "ZX" else None

    def wait(self):
        while (status := self.poll()) is None:
            time.sleep(0.05)
        return status

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


def _fork(token, request):
    forking = _forking()
    forking.stdin.write(json.dumps(request).encode() + b"\n")
    while True:  # past answers that an interrupted test did not wait for
        if not select.select([forking.stdout], [], [], SECONDS)[0]:
            raise TimeoutError(f"no kernel was forked within {SECONDS} s")
        line = forking.stdout.readline()
        if not line:
            raise ChildProcessError("the process that forks kernels has ended")
        told, _, pid = line.decode().partition(" ")
        if told == token:
            return int(pid)


def _forking():
    if _warm().poll() is not None:
        _warm.cache_clear()
    return _warm()


@cache
def _warm():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}  # `select` sees no buffer
    process = subprocess.Popen([sys.executable, "-c", FORKING], cwd=ROOT, **pipes)
    atexit.register(process.communicate)  # the end of what it reads ends it
    return process
