"""The result file of a run, `results.json`: its claims, tables and provenance as data."""

import json
from collections import Counter

from helpers.files import write_whole

RESULT = "results.json"


def verdict(holds):
    """A claim's `holds` in words."""
    return {True: "holds", False: "does not hold", None: "undecided"}[holds]


def tally(claims):
    """How many of a list of claims hold, in words."""
    counts = Counter(claim["holds"] for claim in claims)
    do = "does" if counts[False] == 1 else "do"
    return f"{counts[True]} hold, {counts[False]} {do} not, {counts[None]} undecided"


def write_result(place, notebook, parameters, claims, tables, provenance):
    """Write a result file, whole or not at all. Numbers that are not finite become null.

    place: the file. notebook: its name. parameters: {name: value}. claims, tables: as a `Report` has them.
    """
    content = {"notebook": notebook, "parameters": parameters, "claims": claims, "tables": tables}
    content |= {"provenance": provenance, "complete": True}
    text = json.dumps(content, default=lambda value: value.item() if hasattr(value, "item") else str(value))
    finite = json.loads(text, parse_constant=lambda _: None)
    write_whole(place, json.dumps(finite, indent=1) + "\n")


def read_result(file):
    """The content of a result file; None for a file that is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        tally(found["claims"])
        return found if isinstance(found["notebook"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
