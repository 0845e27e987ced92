"""Executed notebook → one HTML file that asks nothing of the network; an index of the pages in a directory."""

import base64
import hashlib
import html
import re
import secrets
from copy import deepcopy
from pathlib import Path
from urllib.parse import quote, unquote

import latex2mathml.converter
import nh3
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from helpers.files import write_whole
from helpers.frames import FEW, LINE, MIME, Frozen
from helpers.press.results import RESULT, read_result, tally

PLACE = Path(__file__).with_name("page")
PICTURES = ["image/png", "image/jpeg"]
SHOWN = ["text/html", "text/markdown", "text/latex", *PICTURES, "text/plain"]  # of an output, the first that it has
OBJECT = re.compile(r"(<.*|[\w.]+\(.*\))?\s*", re.DOTALL)  # a text that says no more than what class something is of
WIDE = {  # what may scroll: its label, where it has no caption; of several the last
    ".output_html, pre": "Output",
    ".output_png, .output_jpeg": "Figure",
    ".formula": "Formula",
    "details pre": "Code",
}
MATHML = {"math", "mi", "mn", "mo", "mspace", "mtext", "mfrac", "mroot", "msqrt", "mtable", "mtd", "mtr"}
MATHML |= {"msub", "msubsup", "msup", "mover", "munder", "munderover"}
MATHML |= {"menclose", "mpadded", "mphantom", "mrow", "mstyle"}
ATTRIBUTES = {"class", "accent", "display", "displaystyle", "fence", "form", "mathvariant", "stretchy"}
ATTRIBUTES |= {"lspace", "rspace", "maxsize", "minsize", "width", "columnalign", "columnspacing", "rowspacing"}


def page(content, beside=(), index="", title="Report"):
    """The page of an executed notebook, as text. Markup in it is cleaned: no script, style or form gets through.

    The one script, which the page's policy names by its hash, is ours and moves the sliders of explorers. In the place
    of an output of which a page can show nothing, one that needs a script for example, a sentence says so.

    beside: names of the notebooks to whose pages, in directories beside its own, it may link; links to others become
    plain text. index: where the index of the reports is, from the page; empty: nowhere. title: where no heading of the
    first level says it.
    """
    content, explorers = _prepared(content)
    shown = Config({"NbConvertBase": {"display_data_priority": SHOWN}})
    exporter = _CellsExporter(shown, template_name=PLACE.name, extra_template_basedirs=[str(PLACE.parent)])
    soup = BeautifulSoup(clean(exporter.from_notebook_node(content)[0]), "html.parser")
    for link in soup.find_all("a", href=re.compile(r"^(?!\w+:)[^#]+\.ipynb(#|$)")):
        name = Path(unquote(link["href"].partition("#")[0])).stem
        if name in beside:
            link["href"] = f"../{quote(name)}/report.html"
        else:
            link.unwrap()
    for picture in soup.find_all("img", src=False):
        picture.replace_with(f"[picture: {picture.get('alt') or 'not in the notebook'}]")
    for table in soup.select("table:not(.output_html table)"):
        table.wrap(soup.new_tag("div", attrs={"class": "output_html"}))
    for selector, label in WIDE.items():
        for box in soup.select(selector):  # the keyboard must reach it
            caption = box.figcaption.get_text() if box.figcaption else label
            box.attrs |= {"tabindex": "0", "role": "group", "aria-label": caption}
    if not soup.h1:
        soup.insert(0, soup.new_tag("h1"))
        soup.h1.string = title
    headings = [heading for heading in soup.find_all(["h1", "h2"]) if heading is not soup.h1]
    for number, heading in enumerate(headings, 1):
        slug = re.sub(r"\W+", "-", heading.get_text().lower()).strip("-")
        heading["id"] = f"{number}-{slug}"
    provenance = [part.extract() for part in soup.find_all("dl", class_="provenance")]
    parts = {"title": soup.h1.get_text(), "headings": headings, "index": index, "provenance": provenance}
    body = str(soup)
    for place, explorer in explorers.items():
        body = body.replace(f"<p>{place}</p>", explorer)
    return _TEMPLATES.get_template("report.html.j2").render(body=body, script=bool(explorers), **parts)


def write_index(out):
    """Write OUT/index.html, which links the reports in the directories of `out` and tallies their claims."""
    results = {file.parent.name: read_result(file) for file in sorted(out.glob(f"*/{RESULT}"))}
    rows = [
        [(result["notebook"], f"{quote(name)}/report.html"), tally(result["claims"])]
        for name, result in results.items()
        if result
    ]
    _write_tables(out, "Reports", ("Reports", ["Report", "Claims"], rows))


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
    every_run = ("Runs", ["Run", *varied, "Claims, or what failed"], rows)
    _write_tables(place, f"Sweep of {place.name}", every_run, ("Claims", ["Claim", "Source", "Runs"], claims))


def clean(markup):
    """HTML without anything that acts, loads or navigates by itself; mathematics and pictures given in full remain."""
    return nh3.clean(
        markup,
        tags=nh3.ALLOWED_TAGS | MATHML,
        clean_content_tags={"audio", "object", "script", "style", "svg", "video"},
        attributes={**nh3.ALLOWED_ATTRIBUTES, "*": ATTRIBUTES},
        attribute_filter=_harmless,
        url_schemes={"http", "https", "mailto", "data"},
    )


def _harmless(tag, attribute, value):
    """Pictures are given in full, links are not; what is embedded is no SVG, which could hold a script."""
    embedded = re.match(r"\s*data:", value, re.IGNORECASE)
    if attribute == "src":
        return value if re.match(r"data:image/(png|jpeg);base64,", value) else None
    return None if attribute in ("href", "cite") and embedded else value


def _prepared(content):
    """A copy of a notebook, its outputs as a page shows them, and {place: HTML} of its explorers.

    A place, which no notebook can know, is what a copy has for an explorer: what comes out of a notebook is cleaned.
    """
    content, explorers = deepcopy(content), {}
    content.cells = [cell for cell in content.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in content.cells:
        before = len(explorers)
        for output in cell.get("outputs", []):
            if explorer := _explorer(output, len(explorers)):
                explorers[place := secrets.token_hex()] = explorer
                output.data, output.metadata = {"text/markdown": place}, {}
            elif "data" in output:
                output.data = _shown(output.data)
        if len(explorers) > before:  # they have their lines
            cell.outputs = [output for output in cell.outputs if LINE not in output.get("metadata", {})]
    return content, explorers


def _explorer(output, number):
    """The HTML of an explorer; None for data that are not of its form, of which the figure is shown then."""
    try:
        frozen, figure = Frozen.model_validate(output.data[MIME]), output.metadata["image/png"]
        parts = {"figure": figure, "picture": output.data["image/png"], "line": output.data["text/plain"]}
    except (AttributeError, KeyError, ValueError):
        return None
    parts |= {"id": f"explorer-{number}", "few": FEW, "frozen": frozen.model_dump()}
    return _TEMPLATES.get_template("explorer.html.j2").render(parts)


def _shown(data):
    """What a page can show of an output's data; a sentence where that is nothing."""
    says = {kind: text for kind, text in data.items() if kind in SHOWN and _says(kind, text)}
    silent = [kind for kind in data if kind not in says and kind != "text/plain"]
    if says or not silent:
        return says or data
    return {"text/html": f"<p>Here is an output that a page cannot show: {html.escape(', '.join(silent))}.</p>"}


def _says(kind, text):
    if kind == "text/html":
        soup = BeautifulSoup(clean(text), "html.parser")
        return not text or bool(soup.get_text(strip=True) or soup.find("img", src=True))
    return kind != "text/plain" or not OBJECT.fullmatch(text)


def _write_tables(place, title, *tables):
    write_whole(place / "index.html", _TEMPLATES.get_template("tables.html.j2").render(title=title, tables=tables))


def _digest(text):
    """As a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_TEMPLATES = Environment(loader=FileSystemLoader(PLACE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
_TEMPLATES.filters["digest"] = _digest


def _mathml(formula, **options):
    try:
        return latex2mathml.converter.convert(formula, **options)
    except Exception:  # of many kinds: a formula that it cannot read is shown as it was written
        return f"<code>{html.escape(formula)}</code>"


class _Renderer(IPythonRenderer):
    def block_math(self, body):
        return f'<div class="formula">{_mathml(body, display="block")}</div>'

    def latex_environment(self, name, body):
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def inline_math(self, body):
        return _mathml(body)

    def image(self, text, url, title=None):
        if url.startswith("attachment:"):
            held = self.attachments.get(url.removeprefix("attachment:"), {})
            url = next((f"data:{kind};base64,{held[kind]}" for kind in PICTURES if kind in held), "")
        return super().image(text, url, title)


class _CellsExporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source):
        attachments = context["cell"].get("attachments", {})
        renderer = _Renderer(escape=False, exclude_anchor_links=True, attachments=attachments)
        return MarkdownWithMath(renderer=renderer).render(source)
