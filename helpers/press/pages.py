"""Executed notebook → one HTML file that asks nothing of the network; an index of the pages in a directory."""

import base64
import hashlib
import html
import json
import re
import secrets
from copy import copy
from pathlib import Path
from urllib.parse import quote

import latex2mathml.converter
import nh3
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.v4 import new_output
from traitlets.config import Config

from helpers.files import write_whole
from helpers.press.report import tally
from helpers.show.explore import FEW, LINE, MIME, Frozen

TEMPLATES = Path(__file__).with_name("page")
SHOWN = ["text/html", "text/markdown", "image/png", "image/jpeg", "text/plain"]  # of an output, the first that it has
MATHML = {
    "math",
    "menclose",
    "mfrac",
    "mi",
    "mn",
    "mo",
    "mover",
    "mpadded",
    "mphantom",
    "mroot",
    "mrow",
    "mspace",
    "msqrt",
    "mstyle",
    "msub",
    "msubsup",
    "msup",
    "mtable",
    "mtd",
    "mtext",
    "mtr",
    "munder",
    "munderover",
}
MATHML_ATTRIBUTES = {
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"fence", "form", "lspace", "maxsize", "minsize", "rspace", "stretchy"},
    "mspace": {"width"},
    "mover": {"accent"},
    "mtable": {"columnalign", "columnspacing", "rowspacing"},
}


def page(content, beside=(), index=""):
    """The page of an executed notebook, as text. Markup in it is cleaned: no script, style or form gets through.

    The one script, which the page's policy names by its hash, is ours and moves the sliders of explorers.

    beside: names of the notebooks to whose pages, in directories beside its own, it may link; links to others become
    plain text. index: where the index of the reports is, from the page; empty: nowhere.
    """
    content = copy(content)
    content.cells = [cell for cell in content.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    explorers = _take_explorers(content)
    shown = Config({"NbConvertBase": {"display_data_priority": SHOWN}})
    exporter = _CellsExporter(shown, template_name=TEMPLATES.name, extra_template_basedirs=[str(TEMPLATES.parent)])
    soup = BeautifulSoup(clean(exporter.from_notebook_node(content)[0]), "html.parser")
    for link in soup.find_all("a", href=re.compile(r"^(?!\w+:)[^#]+\.ipynb(#|$)")):
        name = Path(link["href"].partition("#")[0]).stem
        if name in beside:
            link["href"] = f"../{name}/report.html"
        else:
            link.unwrap()
    for place in explorers:  # they bring boxes of their own
        del soup.find("p", string=place).find_parent(class_="output_html")["class"]
    for box in soup.find_all(_may_scroll):
        box.attrs |= {"tabindex": "0", "role": "group", "aria-label": _label(box)}
    for cell in soup.find_all("th"):
        cell["scope"] = "row" if cell.find_parent("tbody") else "col"
    title = soup.h1.get_text() if soup.h1 else "Report"
    headings = []
    for heading in soup.find_all("h2"):
        slug = re.sub(r"\W+", "-", heading.get_text().lower()).strip("-")
        heading["id"] = f"{len(headings) + 1}-{slug}"
        headings.append((heading["id"], heading.get_text()))
    provenance = [part.extract() for part in soup.find_all("dl", class_="provenance")]
    body = str(soup)
    for place, explorer in explorers.items():
        body = body.replace(f"<p>{place}</p>", explorer)
    parts = {"headings": headings, "index": index, "body": body, "provenance": provenance}
    return _framed("report.html.j2", title=title, script=explorers and _read("explorer.js"), **parts)


def read_result(file):
    """The content of a result file; None for a file that is none."""
    try:
        found = json.loads(file.read_text())
        return found if isinstance(found["notebook"], str) and isinstance(tally(found["claims"]), str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_index(out):
    """Write OUT/index.html, which links the reports in the directories of `out` and tallies their claims."""
    rows = []
    for file in sorted(out.glob("*/results.json")):
        if not (found := read_result(file)):
            continue
        rows.append([(found["notebook"], f"{quote(file.parent.name)}/report.html"), tally(found["claims"])])
    tables = [("Reports", ["Report", "Claims"], rows)]
    write_whole(out / "index.html", _framed("tables.html.j2", title="Reports", tables=tables))


def write_sweep_index(place, runs):
    """Write PLACE/index.html, which links the report of each run of a sweep and tallies each claim over the runs.

    runs: (record, claims) of each, as `sweep.runs_in` gives them.
    """
    parameters = [record["parameters"] for record, _ in runs]
    varied = [name for name in (parameters or [{}])[0] if len({str(each.get(name)) for each in parameters}) > 1]
    rows, verdicts = [], {}
    for record, claims in runs:
        file, found = ("failed.ipynb", record["message"]) if record["outcome"] else ("report.html", tally(claims))
        link = (record["key"], f"{record['key']}/{file}") if (place / record["key"] / file).is_file() else record["key"]
        rows.append([link, *(str(record["parameters"].get(name)) for name in varied), found])
        for claim in claims:
            verdicts.setdefault((claim["name"], claim["source"]), []).append(claim)
    claims = [[name, source, tally(found)] for (name, source), found in verdicts.items()]
    tables = [
        ("Runs", ["Run", *varied, "Claims, or what failed"], rows),
        ("Claims", ["Claim", "Source", "Runs"], claims),
    ]
    write_whole(place / "index.html", _framed("tables.html.j2", title=f"Sweep of {place.name}", tables=tables))


def clean(markup):
    """HTML without anything that acts, loads or navigates by itself; mathematics and pictures given in full remain."""
    return nh3.clean(
        markup,
        tags=nh3.ALLOWED_TAGS | MATHML,
        attributes={**nh3.ALLOWED_ATTRIBUTES, **MATHML_ATTRIBUTES, "*": {"class"}},
        attribute_filter=_harmless,
        url_schemes={"http", "https", "mailto", "data"},
    )


def _harmless(tag, attribute, value):
    """Pictures are given in full, links are not; what is embedded is no SVG, which could hold a script."""
    embedded = re.match(r"\s*data:", value, re.IGNORECASE)
    if attribute == "src":
        return value if re.match(r"data:image/(png|jpeg);base64,", value) else None
    return None if attribute in ("href", "cite") and embedded else value


def _may_scroll(tag):
    """Whether a box can be wider than the window, so that the keyboard must reach it."""
    return tag.name == "pre" or bool(
        {"output_html", "output_png", "output_jpeg", "formula"} & set(tag.get("class", ()))
    )


def _label(box):
    if box.find("img"):
        return "Figure"
    if box.figcaption:
        return box.figcaption.get_text()
    if box.math:
        return "Formula"
    return "Code" if box.find_parent("details") else "Output"


def _take_explorers(content):
    """Put a place, which no notebook can know, where an output has frames of an explorer: {place: its HTML}."""
    content.cells, explorers = list(content.cells), {}
    for index, cell in enumerate(content.cells):
        outputs, before = [], len(explorers)
        for output in cell.get("outputs", []):
            if MIME in output.get("data", {}) and (explorer := _explorer(output, len(explorers))):
                explorers[place := secrets.token_hex()] = explorer
                outputs.append(new_output("display_data", data={"text/html": f"<p>{place}</p>"}))
            elif len(explorers) == before or not output.get("metadata", {}).get(LINE):
                outputs.append(output)
        if len(explorers) > before:
            content.cells[index] = cell = copy(cell)
            cell.outputs = outputs
    return explorers


def _explorer(output, number):
    """The HTML of an explorer; None for data that are not of its form, of which the figure is shown then."""
    try:
        frozen = Frozen.model_validate(output.data[MIME]).model_dump()
        about = dict(output.metadata["image/png"])
        parts = {"picture": str(output.data["image/png"]), "line": output.data["text/plain"]}
    except (KeyError, TypeError, ValueError):
        return None
    parts |= {"alt": about.get("alt", ""), "width": about.get("width", ""), "frozen": frozen, "few": FEW}
    return _rendered("explorer.html.j2", id=f"explorer-{number}", **parts)


def _framed(template, **content):
    return _rendered(template, style=_read("page.css"), **content)


def _rendered(template, **content):
    templates = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["digest"] = _digest
    return templates.get_template(template).render(**content)


def _read(name):
    return (TEMPLATES / name).read_text()


def _digest(text):
    """As a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _mathml(formula, **options):
    try:
        return latex2mathml.converter.convert(formula, **options)
    except Exception:  # of many kinds: a formula that it cannot read is shown as it was written
        return f"<code>{html.escape(formula)}</code>"


class _MathRenderer(IPythonRenderer):
    def block_math(self, body):
        return f'<div class="formula">{_mathml(body, display="block")}</div>'

    def inline_math(self, body):
        return _mathml(body)


class _CellsExporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source):
        return MarkdownWithMath(renderer=_MathRenderer(escape=False, exclude_anchor_links=True)).render(source)
