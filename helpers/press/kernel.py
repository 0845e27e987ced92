"""Run the cells of a notebook in a kernel of its own, and tell how that ended."""

import asyncio
import enum
import os
import signal
import sys
import tempfile
from contextlib import asynccontextmanager

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from helpers import frames
from helpers.paths import CLONE, ROOT

SHORT = 60  # bytes of a directory; the path of a socket in it may have some hundred


class Outcome(enum.IntEnum):
    """How a run ended; the value is the exit status of the command line."""

    DONE = 0
    FAILED_CELL = 1
    BAD_PARAMETER = 2
    TIMED_OUT = 3
    DEAD_KERNEL = 4
    UNREADABLE_FILE = 5
    KERNEL_NOT_STARTED = 6
    NOT_WRITTEN = 7
    INTERRUPTED = 130
    TERMINATED = 143

    def __str__(self):
        return self.name.lower().replace("_", " ")


# Errors of ours, by the name that a kernel tells; their messages are whole sentences.
BLAME = {
    "BadParameter": Outcome.BAD_PARAMETER,
    "NoSuchModule": Outcome.BAD_PARAMETER,
    "WeightsError": Outcome.UNREADABLE_FILE,
    "IsModel": Outcome.UNREADABLE_FILE,
}


class RunFailed(Exception):
    """A run without result. outcome: how it ended; content: the notebook so far, or None."""

    def __init__(self, outcome, message, content=None):
        super().__init__(message)
        self.outcome, self.content = outcome, content


async def execute(content, *, name, sliders=False, limit=None, jobs=1, progress=lambda *_: None):
    """Run all cells of a notebook in a new kernel and put their outputs into it. Raises RunFailed, also when cancelled.

    name: for messages. sliders: whether explorers put what a page needs into the outputs. limit: seconds from now.
    jobs: how many kernels share the machine's cores; a kernel's threads are capped to its share, unless OMP_NUM_THREADS
    says otherwise. progress: called with (cells done, cells, heading).
    """
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    deadline, heading, cell = asyncio.timeout(limit), "", None
    try:
        async with deadline, _kernel(content, name, jobs, sliders) as client:
            for index, cell in enumerate(content.cells):
                if cell.cell_type == "markdown" and cell.source.startswith("#"):
                    heading = cell.source.splitlines()[0].lstrip("# ")
                progress(index, len(content.cells), heading)
                await client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
    except CellExecutionError as error:
        raise RunFailed(*_blame(name, error, cell, heading), content) from error
    except (DeadKernelError, TimeoutError, asyncio.CancelledError) as error:
        if asyncio.current_task().cancelling():  # which nbclient takes for the kernel's death
            outcome, message = Outcome.INTERRUPTED, f"{name} was interrupted"
        elif deadline.expired():
            outcome, message = Outcome.TIMED_OUT, f"{name} took longer than {limit:g} s and was stopped"
        else:
            outcome, message = Outcome.DEAD_KERNEL, f"the kernel of {name} died ({error})"
        message += f" in section “{heading}”" * bool(heading)
        if cell and cell.cell_type == "code":
            cell.outputs.append(nbformat.v4.new_output("error", ename="RunFailed", evalue=message, traceback=[message]))
        raise RunFailed(outcome, message, content) from error
    progress(len(content.cells), len(content.cells), "")
    for cell in content.cells:  # bars that are done leave spaces
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text.strip()]


def _blame(name, error, cell, heading):
    value = " ".join(error.evalue.split())
    if error.ename in BLAME:
        return BLAME[error.ename], f"{name}: {value}"
    what = f"a cell ended the run (SystemExit: {value})" if error.ename == "SystemExit" else f"{error.ename}: {value}"
    place = f"in cell {cell.execution_count}" + f" of section “{heading}”" * bool(heading)
    return Outcome.FAILED_CELL, f"{name}: {what}, {place}"


class _OwnPython(KernelSpecManager):
    """The Python that runs this, whatever kernels a user has; without modules of the current directory."""

    def get_kernel_spec(self, kernel_name):
        # not `ipykernel_launcher`, which takes the current directory out of the path even where PYTHONPATH has it
        words = [sys.executable, "-P", "-m", "ipykernel", "-f", "{connection_file}"]
        return KernelSpec(argv=[*words, "--IPKernelApp.ignore_cwd=True"], display_name="Python 3", language="python")


@asynccontextmanager
async def _kernel(content, name, jobs, sliders):
    """A client of a new kernel, which is gone afterwards with all that it started."""
    place = tempfile.gettempdir()
    place = place if len(os.fsencode(place)) <= SHORT else "/tmp"
    with tempfile.TemporaryDirectory(prefix="phi-and-pixels-", dir=place) as scratch:
        # sockets in the file system: processes that start kernels at the same time race for ports
        of_ours = {"kernel_spec_manager": _OwnPython(), "transport": "ipc", "connection_file": f"{scratch}/k.json"}
        client = NotebookClient(content, km=AsyncKernelManager(**of_ours), coalesce_streams=True)
        client.reset_execution_trackers()
        try:
            try:
                await client.async_start_new_kernel(env=_environment(jobs, sliders))
                await client.async_start_new_kernel_client()
            except Exception as error:
                raise RunFailed(Outcome.KERNEL_NOT_STARTED, f"the kernel of {name} did not start: {error}") from error
            yield client
        except DeadKernelError as error:
            raise DeadKernelError(_last_word(await client.km.provisioner.poll())) from error
        finally:
            if client.kc:
                client.kc.stop_channels()
            if client.km.has_kernel:
                await client.km.shutdown_kernel(now=True)


def _environment(jobs, sliders):
    """Of a kernel: the modules, the texts and the figures that are expected of it, whatever this process was given."""
    places = [str(ROOT)] * CLONE + [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    return {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONUTF8": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        frames.ASKED: "1" if sliders else "",
    }


def _last_word(status):
    if status is None or status >= 0:
        return f"exit status {status}"
    return f"{signal.Signals(-status).name}{', out of memory?' if -status == signal.SIGKILL else ''}"
