"""Run notebooks of ours and others', and keep of each the executed copy, the page and the result file."""

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers.files import turn, write_together, write_whole
from helpers.parameters import SCHEMAS, BadParameter, assigned
from helpers.paths import ROOT
from helpers.press import pages
from helpers.press.kernel import Outcome, RunFailed, execute
from helpers.press.results import RESULT, read_result

FAILED = "failed.ipynb"
CONCLUDE = "from helpers.press.provenance import conclude\n\nconclude({name!r}, {given!r}, {result!r})"


def find(name):
    """The path of a notebook given by its path, or by the name of one in notebooks/. Raises BadParameter."""
    known = {path.stem: path for path in (ROOT / "notebooks").rglob("*.ipynb")}
    path = Path(name)
    for place in (path, known.get(str(name), path), Path(f"{name}.ipynb")):
        if place.is_file():
            return place
    near = get_close_matches(path.stem, known, 1)
    ours = f", or the name of one of ours: {', '.join(sorted(known))}" if known else ""
    hint = f", did you mean {near[0]}?" if near else ours
    raise BadParameter(f"{name or 'an empty text'} is not a file: expected a notebook{hint}")


def load(notebook, to_run=True):
    """A notebook from its path. Raises RunFailed for a file that is none and, where it is to be run, not in Python."""
    try:
        content = load_notebook_node(nbformat.read(notebook, as_version=4))
        about = content.metadata
        language = about.get("kernelspec", {}).get("language") or about.get("language_info", {}).get("name", "python")
    except (OSError, ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        problem = str(error).splitlines()[0]
        raise RunFailed(Outcome.UNREADABLE_FILE, f"{notebook} cannot be read as a notebook: {problem}") from error
    if to_run and str(language).lower() not in ("python", "ipython"):
        raise RunFailed(Outcome.UNREADABLE_FILE, f"{notebook} is written in {language}: expected a notebook in Python")
    return content


def check(name, given, content):
    """The parameters `given` of a notebook, as its schema reads them, or its cell of parameters. Raises BadParameter.

    name: without directory and suffix. content: the notebook.
    """
    if "results" in given:
        raise BadParameter("results is where the runner has the result file put: leave it out, and give --out")
    if schema := SCHEMAS.get(name):
        return schema.parse(given).model_dump(include=set(given))
    known = _parameters(content)
    if unknown := [each for each in given if each not in known]:
        listed = ", ".join(sorted(known - {"results"})) or "none in a cell with the tag parameters"
        raise BadParameter(f"there is no parameter {unknown[0]!r} in {name}; there are {listed}")
    return dict(given)


def run(notebook, given, out, **options):
    """Run one notebook; see `run_all`. Returns its directory. Raises BadParameter, RunFailed."""
    (result,) = run_all([notebook], given, out, **options)
    if isinstance(result, RunFailed):
        raise result
    return result


def run_all(notebooks, given, out, *, jobs=1, limit=None, progress=lambda *_: None):
    """Run notebooks with the parameters `given` into OUT/NAME/{notebook.ipynb, report.html, results.json}.

    The three appear together when the last cell has run, and replace an earlier run's; a run that fails leaves those
    alone and its own remains in OUT/NAME/failed.ipynb. OUT/index.html links all that are there. Of a notebook that is
    not ours, and writes no result file itself, that has the provenance only.
    jobs: kernels at once. limit: seconds that a run may take. progress: as of `execute`; called with the name first.
    Returns a directory or a RunFailed for each. Raises, before a kernel starts, BadParameter, OSError where OUT cannot
    be written, and RunFailed for a file that is no notebook.
    """
    contents = {Path(notebook).stem: load(notebook) for notebook in notebooks}
    if len(contents) < len(notebooks):
        raise BadParameter(f"two of the notebooks have one name, and so one directory in {out}: run them apart")
    parameters = {name: check(name, given, content) for name, content in contents.items()}
    out, jobs = Path(out), min(jobs, len(contents))
    with turn(out):
        beside = {*contents, *(file.parent.name for file in out.glob(f"*/{RESULT}"))}

    async def one(name, content):
        options = {"sliders": True, "limit": limit, "jobs": jobs, "progress": partial(progress, name)}
        try:
            files = await produce(content, parameters[name], name=name, beside=beside, **options)
        except RunFailed as failure:
            return kept(failure, out / name / FAILED)
        return _put(out / name, files)

    results = wait(at_once(one, contents.items(), jobs))
    with turn(out):
        pages.write_index(out)
    return results


async def at_once(work, items, jobs):
    """What a coroutine function returns for each of some items, in order, with so many under way at once."""
    free = asyncio.Semaphore(jobs)

    async def one(item):
        async with free:
            return await work(*item)

    return await asyncio.gather(*map(one, items))


def wait(work):
    """Run a coroutine to its end; within Jupyter, whose loop is running already, in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, work).result()


async def produce(content, given, *, name, beside=(), **options):
    """Run a notebook and render its page: {file name: text} of the three files. Raises RunFailed.

    beside: names of notebooks whose pages will stand beside it, for links between them. options: of `execute`.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="phi-and-pixels-") as scratch:
            result = Path(scratch, RESULT)
            if "results" in _parameters(content):
                given = {**given, "results": str(result)}
            else:
                source = CONCLUDE.format(name=name, given=given, result=str(result))
                content.cells.append(new_code_cell(source, metadata={"tags": ["provenance"]}))
            if given:
                content.cells = parameterize_notebook(content, given, kernel_name="python3", language="python").cells
            await execute(content, name=name, **options)
            if not read_result(result):
                message = f"{name} ended without writing a result file, of notebook and claims, to `results`"
                raise RunFailed(Outcome.FAILED_CELL, message, content)
            text = result.read_text(encoding="utf-8")
    except OSError as error:  # of the place for temporary files
        raise RunFailed(Outcome.NOT_WRITTEN, f"{name}: {error}") from error
    try:
        page = await asyncio.to_thread(pages.page, content, beside, "../index.html", name)
    except Exception as error:
        message = f"{name} ran, but its page cannot be made: {type(error).__name__}: {error}"
        raise RunFailed(Outcome.NOT_WRITTEN, message, content) from error
    return {"notebook.ipynb": nbformat.writes(content), "report.html": page, RESULT: text}


def _parameters(content):
    """Names that a notebook's cells with the tag `parameters` assign to."""
    cells = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", [])]
    return {name for cell in cells for name in assigned(cell.source)}


def _put(place, files):
    """Write what a run made into its directory, and return that; or a RunFailed."""
    try:
        with turn(place.parent):
            write_together(place, files)
            (place / FAILED).unlink(missing_ok=True)
    except OSError as error:
        return RunFailed(Outcome.NOT_WRITTEN, f"{place.name} ran, but {place} cannot be written: {error.strerror}")
    return place


def kept(failure, place):
    """Write the notebook so far of a RunFailed to a place, and return the failure, its message saying where it lies."""
    if failure.content is None:
        return failure
    older = "; the report beside it is an earlier run's" if place.with_name("report.html").exists() else ""
    try:
        write_whole(place, nbformat.writes(failure.content))
        rest = f"the notebook so far: {place}{older}"
    except OSError as error:
        rest = f"the notebook so far could not be written to {place}: {error.strerror}"
    return RunFailed(failure.outcome, f"{failure} ({rest})")
