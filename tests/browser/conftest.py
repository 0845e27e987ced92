"""A headless Chromium of the system, which records what pages ask of the network and lets none of it out."""

import json
import shutil

import pytest
from playwright.sync_api import sync_playwright

from helpers.paths import ROOT
from helpers.press import run
from tests import kernels

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.fail(
            "no browser: install Chromium (Debian: apt-get install chromium), whatever name of it is in the PATH"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a file: (page, requests). requests: addresses that it asked for, beside itself and what it holds in full."""
    contexts = []

    def open_it(file, **options):
        context = browser.new_context(offline=True, service_workers="block", **options)
        contexts.append(context)
        page, requests = context.new_page(), []

        def record(route):
            if route.request.url == file.as_uri():
                route.continue_()
            else:
                requests.append(route.request.url)
                route.abort()

        context.route(lambda address: not address.startswith("data:"), record)
        page.goto(file.as_uri())
        return page, requests

    yield open_it
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def run_on_the_encoder(tmp_path_factory):
    """Run a notebook on some of the encoder: (its page, {name of a table: rows as dicts})."""

    def run_it(notebook, **given):
        given |= {"base": "data/all-MiniLM-L6-v2", "beside_base": "", "beside_adapters": []}
        with kernels.forked():
            place = run.run(ROOT / "notebooks" / f"{notebook}.ipynb", given, tmp_path_factory.mktemp(notebook))
        tables = json.loads((place / "results.json").read_text(encoding="utf-8"))["tables"]
        rows = {
            name: [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
            for name, table in tables.items()
        }
        return place / "report.html", rows

    return run_it
