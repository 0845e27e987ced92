"""A small notebook that writes a result file like ours: for tests of what runs and shows notebooks."""

import time
from pathlib import Path

import nbformat

REPORT = """\
from helpers.press import Report
report = Report("small", {"x": x, "fail": fail}, results)
report.claim("c", x * x, says="So.", above=0, source="here")
if fail:
    raise RuntimeError("as asked")
report.finish()"""
LIGHT = """\
import json, pathlib, time
time.sleep(wait)
claims = [{"name": "square", "statement": "", "statistic": x * x, "threshold": 0, "holds": x % 2 == 0, "source": "t"}]
content = {"notebook": "small", "parameters": {"x": x}, "claims": claims, "tables": {}, "complete": True}
pathlib.Path(results).write_text(json.dumps(content))"""
PARAMETERS = 'x: int = 1\nwait: float = 0.0\nfail: bool = False\nresults: str = ""'


def write(place, *sources, text="# Title & more"):
    """Write a notebook: a title, a parameters cell, and the sources as its other code cells."""
    cells = [
        nbformat.v4.new_markdown_cell(text),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, sources),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), place)
    return place


def processes(mark):
    """Numbers of the processes that have the text `mark`, such as MARK=1, in the environment they were started with."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [int(place.parent.name)] if mark.encode() in place.read_bytes() else []
        except OSError:  # gone, or another user's
            continue
    return found


def gone(mark):
    """Whether the processes with this mark end within ten seconds: a kernel looks every second whether it is alone."""
    deadline = time.monotonic() + 10
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes(mark)
