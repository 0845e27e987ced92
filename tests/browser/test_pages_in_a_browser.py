"""Pages as a browser has them: hostile names, accessibility, widths, colour schemes, keyboard, print."""

import json
from itertools import pairwise

import nbformat
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from safetensors.numpy import save_file

from helpers.paths import ROOT
from helpers.press import pages, run
from tests import kernels, public, small
from tests.notebooks.running import FEW_ROTATIONS

# Slashes make directories when these are paths. `hacked` is what a script that ran would leave behind.
HOSTILE = [
    "<script>window.hacked=1</script>",
    '"><script>window.hacked=2</script>',
    "<img src=x onerror=window.hacked=3>",
    "<svg onload=window.hacked=4>",
    "' onmouseover='window.hacked=5",
    '" autofocus onfocus="window.hacked=6',
    "[x](javascript:window.hacked=7)",
    "![x](http://evil.test/8.png)",
    "<iframe srcdoc='<script>parent.hacked=9</script>'>",
    "<style>@import 'http://evil.test/10.css';</style>",
    "<link rel=stylesheet href=http://evil.test/11.css>",
    "<meta http-equiv=refresh content=0;url=http://evil.test/12>",
    "`a`<b onclick=window.hacked=13>x",
    r"$\text{<img src=x onerror=window.hacked=14>}$",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt;window.hacked=16&lt;/script&gt;",
    "<math><mtext><img src=x onerror=window.hacked=17></mtext></math>",
    "<a href=data:text/html,<script>window.hacked=18</script>>x</a>",
    '"\nopen("/hacked")\n"',
    "<!-- --!><body onload=window.hacked=20>",
]
PROVOKE = """() => {
    for (const element of document.querySelectorAll('*'))
        for (const kind of ['mouseover', 'focus', 'click', 'error', 'load', 'toggle'])
            if (!element.closest('a')) element.dispatchEvent(new Event(kind, {bubbles: true}));
}"""
# Words of code, and rows of one table, that are like three before them but for their text: axe would say the same.
CUT = """() => {
    const seen = {};
    const cut = (element, kind) => (seen[kind] = (seen[kind] ?? 0) + 1) > 3 && element.remove();
    document.querySelectorAll('.highlight span[class]').forEach(each => cut(each, each.className));
    document.querySelectorAll('main table').forEach((table, n) =>
        table.querySelectorAll('tbody tr').forEach(row => cut(row, n + row.outerHTML.replace(/>[^<]+/g, '>'))));
}"""
WHOLE = ("01_subspace_similarity", "04_published_pictures")  # are shown to axe as they are
REPORTS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def hostile_pages(tmp_path_factory):
    """Reports and an index of synthetic inputs whose names are hostile: (file, text that it must show) of each."""
    place = tmp_path_factory.mktemp("hostile")
    rng, module = np.random.default_rng(0), f"layers.0.{''.join(HOSTILE[:3])}".replace(".", "·")
    save_file({f"{module}.weight": rng.standard_normal((24, 24))}, place / "model.safetensors")
    adapters = []
    for n, name in enumerate(HOSTILE):
        adapter = place / f"{n} {name}"
        adapter.mkdir(parents=True)
        tensors = {"A": rng.standard_normal((2, 24)), "B": rng.standard_normal((24, 2))}
        save_file(
            {f"base_model.model.{module}.lora_{factor}.weight": tensor for factor, tensor in tensors.items()},
            adapter / "adapter_model.safetensors",
        )
        (adapter / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}), encoding="utf-8"
        )
        adapters.append(str(adapter))
    content = nbformat.read(REPORTS[0], as_version=4)
    content.cells.insert(3, nbformat.v4.new_code_cell(FEW_ROTATIONS))
    nbformat.write(content, place / REPORTS[0].name)
    given = {"base": str(place / "model.safetensors"), "adapters": adapters, "module": module}
    with kernels.forked():
        report = run.run(place / REPORTS[0].name, given, place / "out") / "report.html"
    records = [
        ({"key": "k", "parameters": {"x": name, "y": name[::-1]}, "outcome": 1, "message": name}, [])
        for name in HOSTILE
    ] + [
        ({"key": "k", "parameters": {"x": "", "y": ""}, "outcome": 0}, [{"name": n, "source": n, "holds": True}])
        for n in HOSTILE
    ]
    pages.write_sweep_index(place, records)
    return [(report, [repr(name)[1:-1] for name in adapters]), (place / "index.html", HOSTILE)]


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["with its policy", "by cleaning alone"])
def test_no_script_of_a_hostile_name_runs_and_no_request_leaves(hostile_pages, visit, bypass_csp):
    for file, shown in hostile_pages:
        page, requests = visit(file, bypass_csp=bypass_csp)
        dialogs = []
        page.on("dialog", lambda dialog, seen=dialogs: seen.append(dialog.message))
        page.evaluate(PROVOKE)
        page.wait_for_timeout(300)
        assert page.evaluate("window.hacked") is None
        assert (requests, dialogs) == ([], [])
        assert page.url == file.as_uri()
        text = " ".join(page.evaluate("document.body.textContent").split())
        for name in shown:  # or else nothing would have been tested
            assert " ".join(name.split()) in text


def test_the_browser_would_tell_of_a_script_and_of_a_request(visit, tmp_path):
    """What the other tests look for is there to be seen when a page is not clean."""
    for name, markup in (
        ("script", HOSTILE[0]),
        ("image", "<img src='http://evil.test/x.png'>"),
        ("event", HOSTILE[3]),
    ):
        file = tmp_path / f"{name}.html"
        file.write_text(f"<!DOCTYPE html><title>x</title>{markup}", encoding="utf-8")
        page, requests = visit(file)
        page.evaluate(PROVOKE)
        assert requests == (["http://evil.test/x.png"] if name == "image" else [])
        assert (page.evaluate("window.hacked") is None) == (name == "image")
    framed = tmp_path / "framed.html"
    framed.write_text(pages.page(nbformat.v4.new_notebook()).replace("<main", HOSTILE[0] + "<main"), encoding="utf-8")
    assert visit(framed)[0].evaluate("window.hacked") is None  # stopped by the policy
    assert visit(framed, bypass_csp=True)[0].evaluate("window.hacked") == 1


@pytest.fixture(scope="module", params=REPORTS, ids=lambda path: path.stem)
def report(request, tmp_path_factory):
    """The page of a committed notebook."""
    file = tmp_path_factory.mktemp("page") / f"{request.param.stem}.html"
    file.write_text(pages.page(nbformat.read(request.param, as_version=4)), encoding="utf-8")
    return file


def violations(page):
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (each["id"], each["nodes"][0]["html"][:200], each["nodes"][0].get("failureSummary"))
        for each in found
        if each["impact"] in ("serious", "critical", "moderate")
    ]


def test_axe_finds_no_serious_violation_in_a_report(report, visit):
    page, requests = visit(report)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    if report.stem not in WHOLE:
        page.evaluate(CUT)
    assert page.locator(".highlight span").count() > 50
    assert page.locator("main table tbody tr").count() >= 3
    assert violations(page) == []
    assert requests == []


def test_axe_finds_no_serious_violation_in_the_dark(visit, tmp_path):
    cells = nbformat.read(REPORTS[1], as_version=4).cells
    (tmp_path / "part.html").write_text(
        pages.page(nbformat.v4.new_notebook(cells=cells[:12] + cells[-1:])), encoding="utf-8"
    )
    page, _ = visit(tmp_path / "part.html", color_scheme="dark")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.locator(".highlight span").count() > 50
    assert page.locator("table").count() >= 1
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_notebook_of_others_is_accessible_and_fits_its_window(visit, tmp_path, scheme):
    content = public.notebook()
    content.cells[0].source += "\n\n| " + " | ".join(["a wide column"] * 20) + " |\n" + "|---" * 20 + "|\n"
    content.cells[0].source = content.cells[0].source.replace("# Growth", "# " + "long" * 40 + " growth")
    (tmp_path / "x.html").write_text(pages.page(content), encoding="utf-8")
    page, requests = visit(tmp_path / "x.html", color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert violations(page) == []
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(each => each.naturalWidth === 200)")
    assert requests == []


def test_axe_finds_no_serious_violation_in_an_index(visit, tmp_path):
    for name, holds in (("one", True), ("two", None)):
        (tmp_path / name).mkdir()
        claims = [{"name": "c", "source": "s", "holds": holds}]
        (tmp_path / name / "results.json").write_text(
            json.dumps({"notebook": name, "claims": claims}), encoding="utf-8"
        )
    pages.write_index(tmp_path)
    assert violations(visit(tmp_path / "index.html")[0]) == []
    records = [({"key": "k", "parameters": {"x": x}, "outcome": x, "message": "why"}, claims * (1 - x)) for x in (0, 1)]
    pages.write_sweep_index(tmp_path, records)
    assert violations(visit(tmp_path / "index.html")[0]) == []


def test_a_report_fits_its_window_and_only_wide_boxes_scroll(report, visit):
    page, _ = visit(report)
    overlap = """() => {
        const [nav, main] = ['nav', 'main h1'].map(name => document.querySelector(name).getBoundingClientRect());
        return nav.right > main.left && nav.bottom > main.top;
    }"""
    for width in (360, 800, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not page.evaluate(overlap)


def test_headings_are_in_order_and_the_landmarks_are_there(report, visit):
    page, _ = visit(report)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for name in ("nav", "main", "footer"):
        assert page.locator(name).count() == 1
    assert page.locator("footer dl dt").first.inner_text() == "Parameters"
    assert page.evaluate("[...document.images].every(each => each.alt.length > 20 && each.naturalWidth > 0)")


def test_keyboard_reaches_content_contents_code_and_wide_tables(report, visit):
    page, _ = visit(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash == '#content'")
    page.locator("nav a").last.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('provenance').getBoundingClientRect().top < 800")
    code = page.locator("details.code").first
    assert code.get_attribute("open") is None
    code.locator("summary").focus()
    page.keyboard.press("Enter")
    assert code.get_attribute("open") is not None
    page.locator(".output_html").first.focus()
    assert page.evaluate("document.activeElement.className").startswith("output_html")


def test_dark_is_dark_and_print_leaves_out_what_paper_cannot_use(report, visit):
    page, _ = visit(report, color_scheme="dark")
    colours = "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    dark = page.evaluate(colours)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(colours) != dark
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("details.code").first.is_visible()
    assert page.locator("footer").is_visible()
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_a_run_of_now_makes_such_a_page(visit, tmp_path):
    notebook = small.write(tmp_path / "small.ipynb", small.REPORT, text="# T\n\nThe value $x_1$")
    page, requests = visit(run.run(notebook, {}, tmp_path) / "report.html")
    assert page.locator("math").count() == 1
    assert page.get_by_role("table").count() == 1
    assert requests == []
