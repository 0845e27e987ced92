"""Run notebooks, each in a kernel of its own; tell how a run ended; refresh the committed copies."""

import ast
import asyncio
import base64
import enum
import hashlib
import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers.files import write_whole
from helpers.parameters import SCHEMAS, BadParameter
from helpers.paths import ROOT
from helpers.press import pages
from helpers.press.report import write_together
from helpers.show import explore

RESULT = "results.json"
STARTS = 3  # tries to start a kernel; nothing else is tried again
NOT_PART_OF_A_NOTEBOOK = ("papermill", "execution", "widgets")  # metadata with times, paths and machine names


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


def find(name):
    """The path of a notebook given by its path, or by the name of one in notebooks/. Raises BadParameter."""
    known = {path.stem: path for path in (ROOT / "notebooks").rglob("*.ipynb")}
    path = Path(name)
    if path.is_file() or str(name) not in known:
        path = path if path.suffix else path.with_suffix(".ipynb")
        if path.is_file():
            return path
        near = get_close_matches(path.stem, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"or the name of one of ours: {', '.join(sorted(known))}"
        raise BadParameter(f"{name} is not a file: expected a notebook, {hint}")
    return known[str(name)]


def load(notebook):
    """An unexecuted notebook from its path. Raises RunFailed for a file that is none."""
    try:
        return load_notebook_node(str(notebook))
    except (OSError, ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        problem = str(error).splitlines()[0]
        raise RunFailed(Outcome.UNREADABLE_FILE, f"{notebook} cannot be read as a notebook: {problem}") from error


def check(notebook, given):
    """The parameters `given` of a notebook, as its schema reads them. Raises BadParameter."""
    if "results" in given:
        raise BadParameter("results is where the runner has the result file put: leave it out, and give --out")
    schema = SCHEMAS.get(Path(notebook).stem)
    return schema.parse(given).model_dump(include=set(given)) if schema else dict(given)


def run(notebook, given, out, **options):
    """Run one notebook; see `run_all`. Returns its directory. Raises BadParameter, RunFailed."""
    (result,) = run_all([notebook], given, out, **options)
    if isinstance(result, RunFailed):
        raise result
    return result


def run_all(notebooks, given, out, *, jobs=1, limit=None, progress=None):
    """Run notebooks with the parameters `given` into OUT/NAME/{notebook.ipynb, report.html, results.json}.

    The three appear together when the last cell has written its result file, and replace an earlier run's; a run that
    fails leaves those alone and its own remains in OUT/NAME/failed.ipynb. OUT/index.html links all that are there.
    jobs: kernels at once. limit: seconds that a run may take. progress: see `execute`; called with the name first.
    Returns a directory or a RunFailed for each. Raises, before a kernel starts, BadParameter, and RunFailed for a file
    that is no notebook.
    """
    contents = {Path(notebook).stem: load(notebook) for notebook in notebooks}
    if len(contents) < len(notebooks):
        raise BadParameter(f"two of the notebooks have one name, and so one directory in {out}: run them apart")
    parameters, jobs = {name: check(name, given) for name in contents}, min(jobs, len(contents))

    async def one(name, content, free):
        async with free:
            shown = (lambda *step: progress(name, *step)) if progress else None
            return await _into(Path(out, name), content, parameters[name], contents, limit, jobs, shown)

    async def everything():
        free = asyncio.Semaphore(jobs)
        return await asyncio.gather(*(one(*item, free) for item in contents.items()))

    results = _wait(everything())
    pages.write_index(Path(out))
    return results


async def produce(content, given, *, name, beside=(), sliders=False, limit=None, jobs=1, progress=None):
    """Run a notebook and render its page: {file name: text} of the three files. Raises RunFailed.

    beside: names of notebooks whose pages will stand beside it, for links between them. sliders: whether the page's
    explorers can be moved, which takes seconds and megabytes. The rest: see `run_all`.
    """
    with tempfile.TemporaryDirectory(prefix="phi-and-pixels-") as scratch:
        result = Path(scratch, RESULT)
        given = {**given, "results": str(result)}
        content.cells = parameterize_notebook(content, given, kernel_name="python3", language="python").cells
        await execute(content, name=name, sliders=sliders, limit=limit, jobs=jobs, progress=progress)
        if not result.is_file():
            message = f"{name} ended without its result file: a cell stopped the run early"
            raise RunFailed(Outcome.FAILED_CELL, message, content)
        if not pages.read_result(result):
            message = f"{name} wrote a result file without notebook and claims, or one that is no JSON"
            raise RunFailed(Outcome.FAILED_CELL, message, content)
        try:
            page = await asyncio.to_thread(pages.page, content, beside, "../index.html")
        except Exception as error:
            message = f"{name} ran, but its page cannot be made: {type(error).__name__}: {error}"
            raise RunFailed(Outcome.NOT_WRITTEN, message, content) from error
        return {"notebook.ipynb": nbformat.writes(content), "report.html": page, RESULT: result.read_text()}


async def execute(content, *, name, sliders=False, limit=None, jobs=1, progress=None):
    """Run all cells of a notebook in a new kernel and put their outputs into it. Raises RunFailed.

    name: for messages. limit: seconds from now. jobs: how many kernels share the machine's cores; a kernel's threads
    are capped to its share, unless OMP_NUM_THREADS says otherwise. progress: called with (cells done, cells, heading).
    sliders: as in `produce`.
    """
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    progress = progress or (lambda *_: None)
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
        # nbclient takes our cancelling for the kernel's death
        if interrupted := asyncio.current_task().cancelling() > 0:
            outcome, message = Outcome.INTERRUPTED, f"{name} was interrupted"
        elif deadline.expired():
            outcome, message = Outcome.TIMED_OUT, f"{name} took longer than {limit:g} s and was stopped"
        else:
            outcome, message = Outcome.DEAD_KERNEL, f"the kernel of {name} died ({error})"
        message += f" in section “{heading}”" * bool(heading)
        if cell and cell.cell_type == "code":
            cell.outputs.append(nbformat.v4.new_output("error", ename="RunFailed", evalue=message, traceback=[message]))
        if interrupted:
            raise asyncio.CancelledError(message) from error
        raise RunFailed(outcome, message, content) from error
    progress(len(content.cells), len(content.cells), "")
    drop_blank_streams(content)


def drop_blank_streams(content):
    """Take the spaces that finished progress bars leave out of a notebook."""
    for cell in content.cells:
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text.strip()]


def refresh(notebook, progress=None):
    """Run a notebook with its defaults and put the outputs into it, without times, paths or machine names.

    Its cell of parameters is written anew before, as by `write_parameters`. Its first figure is written beside it, as a
    PNG for the README. A run that fails leaves both. Raises RunFailed.
    """
    notebook = Path(notebook)
    try:
        content = load(notebook)
        _put_parameters(content, notebook)
        _wait(execute(content, name=notebook.stem, progress=progress))
    except RunFailed as failure:
        raise _kept(failure, notebook.with_suffix(".failed.ipynb")) from failure
    if figure := first_figure(content):
        write_whole(notebook.with_suffix(".png"), figure)
    write_whole(notebook, clean(content))


def write_parameters(notebook):
    """Write a notebook's cell of parameters as its schema has it, and leave the rest, outputs included, as it is.

    Help may change so, as no output depends on it; where a default does, the outputs are stale: see `source_digest`.
    """
    content = nbformat.read(notebook, as_version=4)
    _put_parameters(content, notebook)
    write_whole(notebook, nbformat.writes(content) + "\n")


def _put_parameters(content, notebook):
    if schema := SCHEMAS.get(Path(notebook).stem):
        for cell in content.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = schema.cell()


def clean(content):
    """Text of an executed notebook, fit to be committed: see `refresh`. Its metadata records the `source_digest`."""
    content.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in content.cells:
        cell.metadata = {
            key: value for key, value in cell.metadata.items() if key not in NOT_PART_OF_A_NOTEBOOK and value
        }
    content.metadata["source_digest"] = source_digest(content)
    return nbformat.writes(content) + "\n"


def first_figure(content):
    """PNG bytes of the first figure of an executed notebook, or of its cell with the tag `picture`; or None."""
    cells = sorted(content.cells, key=lambda cell: "picture" not in cell.metadata.get("tags", []))
    outputs = (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    return next((base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data), None)


def source_digest(content):
    """SHA-256 over what a notebook's code cells do; not the recorded one when the outputs are stale.

    Where helpers/ keeps what they call does not count, nor do comments and layout.
    """
    trees = [ast.parse(cell.source) for cell in content.cells if cell.cell_type == "code"]
    of_ours = [node for tree in trees for node in ast.walk(tree) if _imports_ours(node)]
    places = _Places({name.asname or name.name for node in of_ours for name in node.names})
    return hashlib.sha256("\n".join(ast.dump(places.visit(tree)) for tree in trees).encode()).hexdigest()


class _Places(ast.NodeTransformer):
    """Takes the imports from helpers/ out of code, and reads `module.function` as `function` for these modules."""

    def __init__(self, modules):
        self.modules = modules

    def visit_ImportFrom(self, node):
        return None if _imports_ours(node) else node

    def visit_Attribute(self, node):
        self.generic_visit(node)
        ours = isinstance(node.value, ast.Name) and node.value.id in self.modules
        return ast.Name(node.attr, node.ctx) if ours else node


def _imports_ours(node):
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "helpers"


def _wait(work):
    """Run a coroutine to its end; within Jupyter, whose loop is running already, in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, work).result()


async def _into(place, content, given, names, limit, jobs, progress):
    """Produce the three files in a directory; a RunFailed is returned, so that it does not stop the other runs."""
    beside = {*names, *(other.parent.name for other in place.parent.glob(f"*/{RESULT}"))}
    options = {"beside": beside, "sliders": True, "limit": limit, "jobs": jobs, "progress": progress}
    try:
        files = await produce(content, given, name=place.name, **options)
    except RunFailed as failure:
        return _kept(failure, place / "failed.ipynb")
    except OSError as error:  # of the place for temporary files
        return RunFailed(Outcome.NOT_WRITTEN, f"{place.name}: {error}")
    except asyncio.CancelledError:
        _kept(RunFailed(Outcome.INTERRUPTED, "", content), place / "failed.ipynb")
        raise
    try:
        write_together(place, files)
        (place / "failed.ipynb").unlink(missing_ok=True)
    except OSError as error:
        return RunFailed(Outcome.NOT_WRITTEN, f"{place.name} ran, but {place} cannot be written: {error.strerror}")
    return place


def _kept(failure, place):
    """The failure, its message saying where the notebook so far lies."""
    if failure.content is None:
        return failure
    older = "; the report beside it is an earlier run's" if place.with_name("report.html").exists() else ""
    try:
        write_whole(place, nbformat.writes(failure.content))
        rest = f"the notebook so far: {place}{older}"
    except OSError as error:
        rest = f"the notebook so far could not be written to {place}: {error.strerror}"
    return RunFailed(failure.outcome, f"{failure} ({rest})")


def _blame(name, error, cell, heading):
    value = " ".join(error.evalue.split())
    if error.ename in BLAME:
        return BLAME[error.ename], f"{name}: {value}"
    what = f"a cell ended the run (SystemExit: {value})" if error.ename == "SystemExit" else f"{error.ename}: {value}"
    place = f"in cell {cell.execution_count}" + f" of section “{heading}”" * bool(heading)
    return Outcome.FAILED_CELL, f"{name}: {what}, {place}"


@asynccontextmanager
async def _kernel(content, name, jobs, sliders):
    """A client of a new kernel, which is gone afterwards with all that it started."""
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)), **os.environ}
    environment |= {explore.FRAMES: "1" if sliders else ""}
    with tempfile.TemporaryDirectory(prefix="phi-and-pixels-") as scratch:
        client = await _start(content, name, environment, scratch)
        try:
            yield client
        except DeadKernelError as error:
            raise DeadKernelError(_last_word(await client.km.provisioner.poll())) from error
        finally:
            await _stop(client)


async def _start(content, name, environment, scratch):
    for left in reversed(range(STARTS)):
        # sockets in the file system: processes that start kernels at the same time race for ports
        file = str(Path(scratch, f"{left}.json"))
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=file)
        client = NotebookClient(content, km=kernel, coalesce_streams=True)
        client.reset_execution_trackers()
        try:
            await client.async_start_new_kernel(env=environment)
            await client.async_start_new_kernel_client()
            return client
        except Exception as error:
            await _stop(client)
            if not left:
                message = f"the kernel of {name} did not start, {STARTS} times over: {error}"
                raise RunFailed(Outcome.KERNEL_NOT_STARTED, message) from error
        except asyncio.CancelledError:
            await _stop(client)
            raise


async def _stop(client):
    if client.kc:
        client.kc.stop_channels()
    if client.km and client.km.has_kernel:
        await client.km.shutdown_kernel(now=True)


def _last_word(status):
    if status is None or status >= 0:
        return f"exit status {status}"
    return f"{signal.Signals(-status).name}{', out of memory?' if -status == signal.SIGKILL else ''}"
