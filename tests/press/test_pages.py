import base64
import hashlib
import json
import re

import nbformat
import pytest
from bs4 import BeautifulSoup

from helpers import frames
from helpers.press import pages
from tests import public


def notebook(*cells):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=list(cells), metadata={"kernelspec": kernel})


def text(source):
    return nbformat.v4.new_markdown_cell(source)


def output(alt="", **data):
    cell = nbformat.v4.new_code_cell("1 < 2", execution_count=1)
    data = {name.replace("_", "/", 1): value for name, value in data.items()}
    metadata = {"image/png": {"alt": alt, "width": 10}} if alt else {}
    cell.outputs = [nbformat.v4.new_output("display_data", data=data, metadata=metadata)]
    return cell


def test_a_page_asks_nothing_of_the_network_and_sets_its_mathematics():
    page = pages.page(notebook(text("# Title & more\n\nInline $\\phi$ and\n\n$$\\frac{1}{2}$$")))
    assert "<title>Title &amp; more</title>" in page
    assert page.count("<math") == 2
    assert "<mfrac>" in page
    assert not re.search(r"""src=["'](?!data:)|url\(|@import|<script|<link|<iframe""", page)
    assert "default-src 'none'" in page


def test_links_lead_to_pages_that_are_there_and_nowhere_else():
    content = notebook(text("[next](02_other.ipynb) and [far](https://example.org/x.ipynb)"))
    assert '<a href="../02_other/report.html" rel="noopener noreferrer">next</a>' in pages.page(content, {"02_other"})
    deep = notebook(text("[next](02_other.ipynb#part)"))
    assert "../02_other/report.html" in pages.page(deep, {"02_other"})
    spaced = notebook(text("[next](my%20other%20%231.ipynb)"))
    assert "../my%20other%20%231/report.html" in pages.page(spaced, {"my other #1"})
    alone = pages.page(content)
    assert "next and" in alone
    assert 'href="https://example.org/x.ipynb"' in alone


def test_contents_list_the_sections_and_lead_to_them():
    report = "<h2>Claims</h2><dl class='provenance'><dt>Commit</dt><dd>abc</dd></dl>"
    page = pages.page(notebook(text("# T\n\n## One & *two*"), text("## One & two"), output(text_html=report)))
    soup = BeautifulSoup(page, "html.parser")
    links = [(link["href"], link.get_text()) for link in soup.nav.find_all("a")]
    assert [words for _, words in links] == ["One & two", "One & two", "Claims", "Provenance"]
    found = [soup.find(id=href.removeprefix("#")) for href, _ in links]
    assert [heading.get_text() for heading in found] == [words for _, words in links]
    assert len({id(heading) for heading in found}) == 4
    assert soup.footer.dl.dd.get_text() == "abc"
    assert soup.main.dl is None


def test_a_page_leads_to_the_index_that_it_is_told_of():
    told = BeautifulSoup(pages.page(notebook(text("# T")), index="../index.html"), "html.parser")
    assert told.nav.find("a", href="../index.html")
    assert not BeautifulSoup(pages.page(notebook(text("# T"))), "html.parser").nav


def test_figures_keep_their_text_and_code_is_folded():
    soup = BeautifulSoup(pages.page(notebook(output(alt='a "line" <b>', image_png="iVBORw0KGgo="))), "html.parser")
    assert soup.img["alt"] == 'a "line" <b>'
    assert soup.img["src"] == "data:image/png;base64,iVBORw0KGgo="
    assert soup.find("details", class_="code").pre.get_text().strip() == "1 < 2"
    assert "open" not in soup.find("details", class_="code").attrs


ACTIVE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src='https://example.org/x.png'>",
    "<img src='data:image/svg+xml,<svg onload=alert(1)>'>",
    "<svg onload=alert(1)></svg>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<iframe src='https://example.org'></iframe>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<base href='https://example.org'>",
    "<link rel=stylesheet href='https://example.org/x.css'>",
    "<style>@import 'https://example.org/x.css'</style>",
    "<form action='https://example.org'><button>x</button></form>",
    "<p style='background:url(https://example.org)'>x</p>",
    "<p onclick=alert(1)>x</p>",
    "<math><mtext></mtext><maction xlink:href='javascript:alert(1)'>x</maction></math>",
    "<object data='https://example.org'></object>",
    "<video src='https://example.org' autoplay></video>",
]


@pytest.mark.parametrize("markup", ACTIVE)
@pytest.mark.parametrize("make", [lambda m: text(m), lambda m: output(text_html=m), lambda m: output(text_markdown=m)])
def test_markup_that_acts_or_loads_does_not_reach_the_page(markup, make):
    quiet = BeautifulSoup(pages.page(notebook(text("# T"))), "html.parser")
    soup = BeautifulSoup(pages.page(notebook(text("# T"), make(markup))), "html.parser")
    for name in ("script", "iframe", "base", "link", "form", "object", "video", "svg", "button"):
        assert not soup.find(name)
    for name in ("meta", "style"):
        assert soup.find_all(name) == quiet.find_all(name)
    attributes = [item for tag in soup.main.find_all(True) for item in tag.attrs.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]
    assert not re.search(r"example\.org|javascript:|data:", str(attributes))


@pytest.mark.parametrize("formula", ["x^", r"\left( x", "x_1_2", r"\sqrt[3", "x_1_2<script>"])
def test_a_formula_that_cannot_be_read_is_shown_as_it_was_written(formula):
    soup = BeautifulSoup(pages.page(notebook(text(f"Here: ${formula}$ it is"))), "html.parser")
    assert soup.main.code.get_text() == formula
    assert not soup.script


def test_text_in_a_formula_cannot_become_markup():
    """The converter to MathML passes on what stands in \\text."""
    soup = BeautifulSoup(
        pages.page(notebook(text(r"$\text{<script>alert(1)</script><img src=x onerror=y>}$"))), "html.parser"
    )
    assert not soup.find("script")
    assert not soup.find(onerror=True)


def test_the_style_is_the_only_one_that_the_policy_lets_through():
    page = pages.page(notebook(text("# T")))
    style = page[page.index("<style>") + 7 : page.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page


def test_an_index_links_what_is_there_and_escapes_it(tmp_path):
    claims = [{"holds": True}, {"holds": True}, {"holds": False}, {"holds": None}]
    for name in ("a b", "<i>&"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(
            json.dumps({"notebook": name, "claims": claims}), encoding="utf-8"
        )
    for name, content in (("torn", "{"), ("another", '{"x": 1}'), ("list", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(content, encoding="utf-8")
    pages.write_index(tmp_path)
    soup = BeautifulSoup((tmp_path / "index.html").read_text(encoding="utf-8"), "html.parser")
    links = {link.get_text(): link["href"] for link in soup.main.find_all("a")}
    assert links == {"a b": "a%20b/report.html", "<i>&": "%3Ci%3E%26/report.html"}
    assert "2 hold, 1 does not, 1 undecided" in soup.main.get_text()


@pytest.fixture(scope="module")
def others():
    """The page of a notebook that is not ours."""
    content = public.notebook()
    before = nbformat.writes(content)
    page = BeautifulSoup(pages.page(content, title="x"), "html.parser")
    assert nbformat.writes(content) == before
    return page


def test_the_text_of_any_notebook_is_there_with_its_attachments_and_mathematics(others):
    assert others.title.get_text() == others.h1.get_text() == 'Growth of a colony, r & "more"'
    assert [link.get_text() for link in others.nav.find_all("a")] == ["Second part", "Outputs"]
    pasted = others.find("img", alt="what was pasted")
    assert pasted["src"] == f"data:image/png;base64,{public.picture()}"
    for lost in ("what was lost", "the pipeline", "the logo"):
        assert f"[picture: {lost}]" in others.main.get_text()
    assert len(others.find_all("math")) == 3
    assert others.math.find("msub")
    assert "mtable" in str(others.find(class_="formula"))
    assert "\\" not in others.main.get_text()
    for table in others.find_all("table"):
        assert table.find_parent(tabindex="0")  # which may be wider than the window


def test_outputs_of_any_notebook_are_shown_or_said_not_to_be(others):
    assert [cell.get_text() for cell in others.find_all("table")[1].find_all("td")] == ["one", "1.5", "<two>", "2.5"]
    assert others.find("img", src=f"data:image/png;base64,{public.picture('teal')}")
    text = others.main.get_text()
    for kind in ("image/svg+xml", "application/javascript"):
        assert f"Here is an output that a page cannot show: {kind}." in text
    assert public.FIGURE not in text
    assert "Javascript object" not in text
    assert not others.find(["svg", "script"])
    assert "a title in the SVG" not in text
    assert others.find(class_="output_stderr").pre.get_text() == public.WARNING
    assert others.find(class_="output_stdout").pre.get_text() == "done <b>\n"
    assert others.find(class_="output_stdout").find(class_="ansi-green-intense-fg").get_text() == "done"
    error = others.find(class_="output_error").pre.get_text()
    assert "----> 1 1 / 0" in error
    assert "ZeroDivisionError: division by <zero>" in error
    assert "\x1b" not in str(others)


WIDGET, PLOTLY = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"
PLOT = "<div><script>Plotly.newPlot()</script><div style='height:1px'></div></div>"
BAR = "100%|██████| 10/10"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({WIDGET: {"model_id": "x"}, "text/plain": "IntSlider(value=3,\n description='x')"}, f"cannot show: {WIDGET}."),
        ({WIDGET: {"model_id": "x"}, "text/plain": BAR}, BAR),
        ({PLOTLY: {"data": []}, "text/html": PLOT}, f"cannot show: {PLOTLY}, text/html."),
        ({PLOTLY: {"data": []}, "text/html": PLOT, "text/markdown": "*said* otherwise"}, "said otherwise"),
        ({"text/html": "<svg><text>in it</text></svg>", "text/plain": ""}, "cannot show: text/html."),
        ({"text/html": "<video controls>no video</video>", "text/plain": "<Video object>"}, "cannot show: text/html."),
        ({"text/html": "<img src='x.svg' alt='a'>", "text/plain": "a plot"}, "a plot"),
        ({"text/html": "", "text/plain": "<IPython.core.display.HTML object>"}, ""),
        ({"text/markdown": "", "text/plain": "<IPython.core.display.Markdown object>"}, ""),
        ({"text/plain": "<function f at 0x1>"}, "<function f at 0x1>"),
        ({"application/x-<b>": "x"}, "cannot show: application/x-<b>."),
    ],
    ids=str,
)
def test_a_sentence_stands_only_where_nothing_else_is_said(data, expected):
    cell = nbformat.v4.new_code_cell("1 < 2", outputs=[nbformat.v4.new_output("display_data", data=data)])
    main = BeautifulSoup(pages.page(notebook(cell)), "html.parser").main
    main.find("details").extract()
    main.h1.extract()
    said = " ".join(main.get_text().split())
    assert said.endswith(expected)
    assert bool(said) == bool(expected)
    assert ("cannot show" in said) == ("cannot show" in expected)
    assert not main.find("b")


@pytest.mark.parametrize("name", ['"><script>x</script>', "a" * 500, "<i>'&amp;", ""])
def test_a_notebook_without_a_heading_has_the_title_that_is_given(name):
    soup = BeautifulSoup(pages.page(notebook(text("## Part")), title=name), "html.parser")
    assert soup.title.get_text() == soup.h1.get_text() == name
    assert not soup.find(["script", "i"])
    assert soup.main.find().name == "h1"


FROZEN = {
    "title": "T <b>",
    "axes": [
        {"label": "a </script>", "help": "h", "words": ["x", "<i>"], "start": 1, "kinds": False},
        {"label": "b", "help": "", "words": ["1", "2"], "start": 0, "kinds": True},
        {"label": "c", "help": "", "words": list("12345"), "start": 4, "kinds": True},
    ],
    "note": "n",
    "frames": ["AAAA", ""],
    "lines": ["one", "</script><script>two"],
    "cells": [None],
    "positions": [[0, 0, 0]] * 19 + [[1, 1, 0]],
}


def frozen(**changes):
    data = {"image_png": "iVBORw0KGgo=", "text_plain": "at <rest>", frames.MIME: FROZEN | changes}
    return output(alt="the alt", **data)


def test_an_explorer_becomes_controls_with_labels_and_its_data():
    content = notebook(text("# T"), frozen())
    before = nbformat.writes(content)
    page = pages.page(content)
    assert nbformat.writes(content) == before
    soup = BeautifulSoup(page, "html.parser")
    figure = soup.find(class_="explorer")
    assert json.loads(figure.script.string) == FROZEN
    slider = figure.find("input", type="range")
    assert (slider["max"], slider["value"], slider["aria-valuetext"]) == ("1", "1", "<i>")
    assert slider.find_parent("label").get_text().split() == ["a", "</script>", "<i>"]
    group = figure.find(role="radiogroup", attrs={"aria-label": "b"})
    assert [radio["value"] for radio in group.find_all("input", type="radio")] == ["0", "1"]
    assert [option.get_text() for option in figure.find("select").find_all("option")] == list("12345")
    assert figure.find("option", selected=True).get_text() == "5"
    assert "hidden" in figure.find(class_="controls").attrs  # until the script shows them
    assert (figure.img["alt"], figure.find(class_="line").get_text()) == ("the alt", "at <rest>")


def test_the_one_script_of_a_page_is_named_by_its_hash():
    page = pages.page(notebook(frozen()))
    soup = BeautifulSoup(page, "html.parser")
    (script,) = [each for each in soup.find_all("script") if each.get("type") != "application/json"]
    digest = base64.b64encode(hashlib.sha256(script.string.encode()).digest()).decode()
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert f"script-src 'sha256-{digest}';" in policy
    assert "script-src" not in pages.page(notebook(text("# T")))


@pytest.mark.parametrize("changes", [{"positions": []}, {"frames": ["<b>", ""]}, {"axes": 3}], ids=str)
def test_frames_that_do_not_fit_leave_the_figure(changes):
    soup = BeautifulSoup(pages.page(notebook(frozen(**changes))), "html.parser")
    assert soup.img["src"] == "data:image/png;base64,iVBORw0KGgo="
    assert not soup.script
    assert not soup.find(class_="explorer")


def test_without_the_metadata_of_its_figure_an_explorer_is_that_figure():
    cell = frozen()
    cell.outputs[0].metadata = {}
    soup = BeautifulSoup(pages.page(notebook(cell)), "html.parser")
    assert soup.img["src"].endswith("iVBORw0KGgo=")
    assert not soup.script


def test_the_line_of_an_explorer_stands_once():
    cell = frozen()
    line = nbformat.v4.new_output("display_data", data={"text/html": "<p>at &lt;rest></p>"}, metadata={frames.LINE: 1})
    cell.outputs.append(line)
    assert pages.page(notebook(cell)).count("at &lt;rest") == 1
    cell.outputs[0].data[frames.MIME] = {}
    assert pages.page(notebook(cell)).count("at &lt;rest") == 1


def test_a_cell_may_have_several_explorers_each_with_its_line():
    cell, line = frozen(), nbformat.v4.new_output("display_data", data={"text/html": "l"}, metadata={frames.LINE: 1})
    cell.outputs = [cell.outputs[0], line, frozen().outputs[0], line, nbformat.v4.new_output("stream", text="after")]
    cell.outputs[2].metadata[frames.LINE] = 1  # what it claims besides does not take it away
    soup = BeautifulSoup(pages.page(notebook(cell)), "html.parser")
    names = [
        {radio["name"] for radio in each.find_all("input", type="radio")} for each in soup.find_all(class_="explorer")
    ]
    assert len(names) == 2
    assert not names[0] & names[1]
    assert "after" in soup.get_text()


def test_a_picture_that_is_none_does_not_leave_its_attribute():
    cell = frozen()
    cell.outputs[0].data["image/png"] = '"><script>x</script>'
    soup = BeautifulSoup(pages.page(notebook(cell)), "html.parser")
    assert len(soup.find_all("script")) <= 2
    assert not soup.find("script", string="x")
