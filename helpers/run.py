"""Run a notebook without a screen, render its page, refresh the committed copy."""

import base64
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

import latex2mathml.converter
import nbformat
import papermill
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from helpers.parameters import SCHEMAS
from helpers.report import write_whole

PAGE = Path(__file__).with_name("page")
BAD_INPUT = ("ValueError", "CheckpointError", "NoSuchModule")  # their messages are whole sentences
NOT_PART_OF_A_NOTEBOOK = ("papermill", "execution", "widgets")  # metadata with times, paths and machine names


class RunFailed(Exception):
    """A notebook did not run to its end; the message says where and what is left."""


def check(notebook, given):
    """Raise ValueError unless `notebook` is a file and the parameters `given` are among its own and valid."""
    notebook = Path(notebook)
    if not notebook.is_file():
        raise ValueError(
            f"{notebook} is not a file: expected a notebook, such as notebooks/01_subspace_similarity.ipynb"
        )
    if schema := SCHEMAS.get(notebook.stem):
        schema.parse(given)


def run(notebook, given, out, beside=()):
    """Run `notebook` with the parameters `given` into OUT/NAME/{notebook.ipynb, report.html, results.json}.

    The three appear together when the last cell has written its result file, and replace an earlier run's; a run that
    fails leaves those alone and its own remains in OUT/NAME/failed.ipynb. Returns OUT/NAME.
    beside: names of notebooks whose pages will stand in OUT, too; the page links to these and to those there already.
    Raises ValueError for a bad parameter, before a kernel starts, and RunFailed.
    """
    check(notebook, given)
    notebook, place = Path(notebook), Path(out) / Path(notebook).stem
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".run-", dir=place) as scratch:
        executed, results = Path(scratch, "notebook.ipynb"), Path(scratch, "results.json").resolve()
        _execute(notebook, executed, {**given, "results": str(results)}, place / "failed.ipynb")
        if not results.is_file():
            raise RunFailed(f"{notebook.name} ended without its result file: a cell stopped the run early")
        pages = {*beside, *(other.parent.name for other in Path(out).glob("*/report.html"))}
        write_whole(Path(scratch, "report.html"), page(executed, pages))
        for name in ("notebook.ipynb", "report.html", "results.json"):
            Path(scratch, name).replace(place / name)
    (place / "failed.ipynb").unlink(missing_ok=True)
    return place


def page(notebook, pages=()):
    """The HTML page of an executed notebook: one file that asks nothing of the network; its mathematics is MathML.

    pages: names of the notebooks to whose pages it may link, where `run` puts them; links to others become plain text.
    """
    exporter = _PageExporter(template_name=PAGE.name, extra_template_basedirs=[str(PAGE.parent)])
    content = nbformat.read(notebook, as_version=4)
    content.cells = [cell for cell in content.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    title = next(
        (line[2:] for cell in content.cells for line in cell.source.splitlines() if line.startswith("# ")),
        Path(notebook).stem,
    )
    html = exporter.from_notebook_node(content, {"title": title})[0]

    def link(found):
        path, text = found.groups()
        return f'<a href="../{path}/report.html">{text}</a>' if path in pages else text

    return re.sub(r'<a href="(?!\w+:)([^"]+)\.ipynb">(.*?)</a>', link, html)


def refresh(notebook):
    """Run a notebook with its own parameters and put the outputs into it, without times, paths or machine names.

    Its first figure is written beside it, as a PNG for the README.
    """
    with tempfile.TemporaryDirectory() as scratch:
        executed = Path(scratch, "notebook.ipynb")
        _execute(Path(notebook), executed, {}, Path(notebook).with_suffix(".failed.ipynb"))
        content = nbformat.read(executed, as_version=4)
    if figure := first_figure(content):
        write_whole(Path(notebook).with_suffix(".png"), figure)
    write_whole(notebook, clean(content))


def clean(content):
    """Text of an executed notebook, fit to be committed: see `refresh`. Its metadata records the `source_digest`."""
    content.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in content.cells:
        if "outputs" in cell:  # a progress bar that is done leaves spaces
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text.strip()]
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
    """SHA-256 over the sources of a notebook's code cells; not the recorded one when the outputs are stale."""
    sources = [cell.source for cell in content.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _execute(notebook, executed, given, remains):
    try:
        papermill.execute_notebook(notebook, executed, given, kernel_name="python3", coalesce_streams=True)
    except papermill.PapermillExecutionError as error:
        shutil.copyfile(executed, remains)
        kind = "" if error.ename in BAD_INPUT else f"{error.ename}: "
        older = "; the report beside it is an earlier run's" if remains.with_name("report.html").exists() else ""
        raise RunFailed(f"{notebook.name}: {kind}{error.evalue} (the notebook so far: {remains}{older})") from error
    except RuntimeError as error:
        raise RunFailed(f"{notebook.name}: its kernel died ({error})") from error


class _MathRenderer(IPythonRenderer):
    def block_math(self, body):
        return latex2mathml.converter.convert(body, display="block")

    def inline_math(self, body):
        return latex2mathml.converter.convert(body)


class _PageExporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source):
        return MarkdownWithMath(renderer=_MathRenderer(escape=False)).render(source)
