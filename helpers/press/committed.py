"""The notebooks as they are committed: with outputs, without times, paths and machine names."""

import ast
import base64
import hashlib
from pathlib import Path

import nbformat

from helpers.files import write_whole
from helpers.parameters import SCHEMAS
from helpers.press.kernel import RunFailed, execute
from helpers.press.run import kept, load, wait

NOT_PART_OF_A_NOTEBOOK = ("papermill", "execution", "widgets")  # metadata with times, paths and machine names


def refresh(notebook, **options):
    """Run a notebook with its defaults and put the outputs into it. Raises RunFailed.

    Its cell of parameters is written anew before, as by `write_parameters`. Its first figure is written beside it, as a
    PNG for the README. A run that fails leaves both. options: of `execute`.
    """
    notebook = Path(notebook)
    content, failed = load(notebook), notebook.with_suffix(".failed.ipynb")
    _put_parameters(content, notebook)
    try:
        wait(execute(content, name=notebook.stem, **options))
    except RunFailed as failure:
        raise kept(failure, failed) from failure
    if figure := first_figure(content):
        write_whole(notebook.with_suffix(".png"), figure)
    write_whole(notebook, clean(content))
    failed.unlink(missing_ok=True)


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
    """SHA-256 over what a notebook's code cells do, comments and layout apart; another one: the outputs are stale."""
    told = [_tree(cell.source) for cell in content.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _tree(source):
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:  # of a cell with magics
        return source
