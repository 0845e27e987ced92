"""Explorers where people meet them: a page from disk without network, JupyterLab, Voilà; by mouse and by keyboard."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe

from helpers.paths import ROOT
from helpers.press import run
from tests import kernels
from tests.notebooks.running import FEW_ROTATIONS, MINILM

NAME = "01_subspace_similarity"
NOTEBOOK = ROOT / "notebooks" / f"{NAME}.ipynb"
FEW = MINILM | {"adapters": MINILM["adapters"][:2]}
LINE = re.compile(r"layers?\.(\d+)\.(?:attention\.self|self_attn)\.(\w+), factor (\w+).* φ = ([\d.]+) \(r = 4\)")


def read(page, line="[role=status]"):
    """(layer, projection, factor, φ) as the line of numbers has them."""
    return LINE.search(page.locator(line).first.inner_text()).groups()


def drag(page, handle, across):
    """Take a slider's handle with the mouse and move it by some pixels."""
    before, box = None, {}
    while before != box:  # cells above it are laid out when they come near the window, and move it out of view
        handle.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        before, box = box, handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + across, y, steps=10)
    page.mouse.up()


def written(place, **given):
    """A copy of notebook 01 that draws few rotations and directions, and has these parameters written into it."""
    content = nbformat.read(NOTEBOOK, as_version=4)
    content.cells[1].source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    content.cells.insert(3, nbformat.v4.new_code_cell(FEW_ROTATIONS))
    nbformat.write(content, place)
    return place


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a run of notebook 01 with few rows, which keeps the frames small, and few draws."""
    place = tmp_path_factory.mktemp("out")
    notebook = written(place / NOTEBOOK.name)
    with kernels.forked():
        return run.run(notebook, FEW, place)


@pytest.fixture
def page_of_report(report, visit):
    page, requests = visit(report / "report.html")
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert (requests, errors) == ([], [])


def shown(page):
    return page.locator(".explorer img").get_attribute("src"), read(page, ".explorer .line")


def test_a_page_from_disk_answers_the_keyboard(page_of_report):
    page = page_of_report
    page.locator(".explorer").scroll_into_view_if_needed()
    at_rest = shown(page)
    assert at_rest[1][:3] == ("5", "query", "A")
    slider = page.get_by_role("slider", name="layer")
    assert slider.get_attribute("aria-valuetext") == "5"
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    moved = shown(page)
    assert moved[1][:3] == ("2", "query", "A")
    assert slider.get_attribute("aria-valuetext") == "2"
    assert moved[0].startswith("data:image/webp;base64,")
    assert moved[0] != at_rest[0]
    page.keyboard.press("End")
    assert shown(page)[1] == at_rest[1]
    page.get_by_role("radio", name="query").focus()
    page.keyboard.press("ArrowRight")
    assert shown(page)[1][:3] == ("5", "value", "A")
    assert page.get_by_role("radio", name="left").is_disabled()
    page.get_by_role("radio", name="BA").check()
    assert not page.get_by_role("radio", name="left").is_disabled()
    assert page.locator(".explorer .line").get_attribute("aria-live") == "polite"
    assert page.evaluate("document.querySelector('.explorer img').naturalWidth") > 300


def test_a_page_from_disk_answers_the_mouse(page_of_report):
    page = page_of_report
    slider = page.get_by_role("slider", name="layer")
    slider.scroll_into_view_if_needed()
    box, before = slider.bounding_box(), shown(page)
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2, steps=12)
    page.mouse.up()
    assert shown(page)[1][0] == "0"
    assert shown(page)[0] != before[0]
    pictures = set()
    for word in ("φ − chance", "z", "φ"):
        page.get_by_role("radio", name=word, exact=True).check()
        pictures.add(shown(page)[0])
    assert len(pictures) == 3


def test_pointer_and_arrow_keys_read_single_cells(page_of_report):
    """The cell of the line of numbers, i = 14 and j = 4, by mouse; then its neighbours by keyboard; then elsewhere."""
    page = page_of_report
    figure = page.locator(".explorer")
    figure.scroll_into_view_if_needed()
    word, picture = figure.locator(".cell"), figure.locator("img")
    assert word.inner_text().startswith("Point at a cell")
    cells = page.evaluate("JSON.parse(document.querySelector('.explorer > script').textContent).cells[0]")
    left, top, width, height = cells["panels"][0]["box"]
    box = picture.bounding_box()
    x, y = left + width * 3.5 / 4, top + height / 25 / 2
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    found = re.search(r"r = 4, i = 14, j = 4: φ ([\d.]+), chance ([\d.]+), z (−?[\d.]+)$", word.inner_text())
    phi, level, z = found.groups()
    line = figure.locator(".line").inner_text()
    assert f"φ = {phi} (r = 4)" in line
    assert f"chance {level} ±" in line
    assert f"z = {z} (r = 4)" in line
    ring = figure.locator(".ring").bounding_box()
    assert ring["x"] < box["x"] + x * box["width"] < ring["x"] + ring["width"]
    assert ring["y"] < box["y"] + y * box["height"] < ring["y"] + ring["height"]
    figure.locator(".output_png").focus()
    page.keyboard.press("ArrowDown")
    assert word.inner_text().startswith("r = 4, i = 15, j = 4: φ")
    page.keyboard.press("ArrowRight")
    assert word.inner_text().startswith("r = 8, i = 15, j = 1: φ")
    page.keyboard.press("ArrowLeft")
    assert word.inner_text().startswith("r = 4, i = 15, j = 4: φ")
    before = word.inner_text()
    page.get_by_role("slider", name="layer").focus()
    page.keyboard.press("Home")
    assert word.inner_text().startswith("r = 4, i = 15, j = 4: φ")
    assert word.inner_text() != before


def test_axe_finds_nothing_in_an_explorer(page_of_report):
    found = Axe().run(page_of_report, context=".explorer", options={"resultTypes": ["violations"]})
    assert [each["id"] for each in found.response["violations"]] == []


def test_without_script_and_on_paper_the_figure_stands_alone(report, browser):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((report / "report.html").as_uri())
    assert not page.locator(".controls").is_visible()
    assert page.locator(".explorer img").get_attribute("src").startswith("data:image/png;base64,")
    assert "chance" in page.locator(".explorer .line").inner_text()
    context.close()


@pytest.fixture
def serve(tmp_path):
    """Start a server on loopback, of a command with {port} in it: the address that it answers at."""
    started = []

    def start(*words, path="/", place=ROOT):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
        own |= {f"JUPYTERLAB_{kind}_DIR": str(tmp_path / kind) for kind in ("SETTINGS", "WORKSPACES")}
        command = [sys.executable, "-m", *(word.format(port=port) for word in words)]
        options = {"cwd": place, "env": os.environ | own, "stderr": subprocess.STDOUT, "start_new_session": True}
        with (tmp_path / "log").open("w", encoding="utf-8") as log:
            started.append(subprocess.Popen(command, stdout=log, **options))
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).close()
                return f"http://127.0.0.1:{port}"
            except urllib.error.HTTPError:  # it wants a token
                return f"http://127.0.0.1:{port}"
            except OSError:
                assert started[-1].poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
                time.sleep(0.2)
        raise AssertionError((tmp_path / "log").read_text(encoding="utf-8"))

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def window(browser):
    """A page that may ask loopback and nothing else, and the errors in its console."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.route(lambda address: "://127.0.0.1" not in address, lambda route: route.abort())
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page, errors
    context.close()


def assert_it_answers(page, start):
    """Drag the layer slider from the start to the left end; the picture and the line follow."""
    picture = page.locator(".widget-image").first
    before = picture.get_attribute("src")
    layer, projection, factor, _ = read(page)
    assert (layer, projection, factor) == start
    drag(page, page.locator(".noUi-handle").first, -300)
    page.wait_for_function("document.querySelector('p[role=status]').textContent.includes('layer.0.')")
    assert read(page)[:3] == ("0", projection, factor)
    assert picture.get_attribute("src") != before
    handle = page.locator(".noUi-handle").first
    assert handle.get_attribute("aria-valuetext") == "0"
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('p[role=status]').textContent.includes('layer.1.')")
    assert picture.evaluate("each => each.naturalWidth") > 300


def test_jupyterlab_runs_the_notebook_and_its_sliders_move_the_figure(serve, window, tmp_path):
    """A copy whose parameters are others, as one would write them into it."""
    written(tmp_path / "copy.ipynb", **FEW)
    quiet = ["--IdentityProvider.token=", "--LabApp.news_url=None", "--ServerApp.allow_root=True"]
    words = ["jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port={port}", *quiet]
    address = serve(*words, f"--ServerApp.root_dir={tmp_path}", path="/lab")
    page, errors = window
    page.goto(f"{address}/lab/tree/copy.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)  # before, it takes no cells to run
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector("dl.provenance", timeout=120_000)
    for _ in range(60):  # cells that are far from the window are not in the document
        if page.locator(".widget-image").is_visible():
            break
        page.locator(".jp-WindowedPanel-outer").evaluate("box => box.scrollBy(0, -500)")
        page.wait_for_timeout(200)
    assert_it_answers(page, ("5", "query", "A"))
    assert page.locator(".jp-OutputArea-output:has(.widget-image)").count() == 1
    assert errors == []


def test_make_app_serves_the_sliders_with_the_code_hidden(serve, window, tmp_path):
    """To whoever has the token of the address that it prints: another page in the browser can start nothing.

    Copies of the notebooks, of which that which runs is of the small encoder and draws few rotations.
    """
    shutil.copytree(NOTEBOOK.parent, tmp_path / "notebooks")
    written(tmp_path / "notebooks" / NOTEBOOK.name, **FEW)
    made = subprocess.run(
        ["make", "-n", "-o", ".venv/report.stamp", "app"], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    (words,) = [line.split("-m voila ")[1].split() for line in made.stdout.splitlines() if "-m voila" in line]
    assert "--Voila.ip=127.0.0.1" in words
    address = serve("voila", *words, "--no-browser", "--port={port}", place=tmp_path)
    try:
        told = urllib.request.urlopen(f"{address}/voila/render/training/lora_adapters.ipynb", timeout=60)
    except urllib.error.HTTPError as error:
        told = error
    with told:
        assert "/login?" in told.url  # and not the notebook
    token = re.search(r"\?token=\w+", (tmp_path / "log").read_text(encoding="utf-8"))[0]
    page, errors = window
    page.goto(f"{address}/voila/render/{NAME}.ipynb{token}", timeout=120_000)
    page.wait_for_selector(".widget-image", timeout=120_000)
    assert_it_answers(page, ("5", "query", "A"))
    assert "similarity_grid" not in page.locator("body").inner_text()
    assert [error for error in errors if "ERR_FAILED" not in error] == []
