"""Notebooks that are not ours, in the style of public ones: no schema, no claims, no result file of their own."""

import base64
import json

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.parameters import BadParameter
from helpers.press import run, sweep
from helpers.press.kernel import Outcome, RunFailed

KERNEL = {"name": "py39-env", "display_name": "Python (py39)", "language": "python"}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def markdown(text, **attachments):
    cell = new_markdown_cell(text)
    if attachments:
        cell.attachments = {
            f"{name}.png": {"image/png": base64.b64encode(data).decode()} for name, data in attachments.items()
        }
    return cell


# A first look at data: no parameters, no title of the first level, magics, a bash line, warnings, a figure, a table.
EXPLORING = [
    markdown("## Iris: a first look\n![setting](attachment:setting.png)", setting=PIXEL),
    new_code_cell(
        "%matplotlib inline\nimport warnings\nimport matplotlib.pyplot as plt\nimport pandas as pd\n"
        "from sklearn.datasets import load_iris"
    ),
    new_code_cell("iris = load_iris(as_frame=True)\ndf = iris.frame\ndf.head()"),
    new_code_cell("!echo from a shell\nwarnings.warn('the old way')"),
    new_code_cell("%%time\ndf.plot.scatter('petal length (cm)', 'petal width (cm)', c='target', colormap='viridis');"),
    markdown("The **mean** is $\\bar{x} = \\frac{1}{n}\\sum_i x_i$."),
    new_code_cell("df.describe().style.background_gradient()"),
]
# A template for papermill: a cell of parameters with a list over several lines and a comment, a fit, a sentence.
TEMPLATE = [
    markdown("# Which model?"),
    new_code_cell(
        "# parameters\nC = 1.0\nfeatures = [\n    'petal length (cm)',  # the usual ones\n    'petal width (cm)',\n]\n"
        "seed: int = 0\n%config InlineBackend.figure_format = 'svg'",
        metadata={"tags": ["parameters"]},
    ),
    new_code_cell(
        "from sklearn.datasets import load_iris\nfrom sklearn.linear_model import LogisticRegression\n"
        "from sklearn.model_selection import cross_val_score\nx, y = load_iris(as_frame=True, return_X_y=True)\n"
        "score = cross_val_score(LogisticRegression(C=C, random_state=seed), x[features], y).mean()\n"
        "print(f'C = {C}: {score:.3f} from {len(features)} features')"
    ),
    new_code_cell("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"),
]
# A lesson: an error that is meant, top-level await, widgets, mathematics and scripts in outputs.
LESSON = [
    markdown("Lesson 3\n========\n\nErrors are *values*."),
    new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
    new_code_cell("import asyncio\nawait asyncio.sleep(0)\nx = 3\nx"),
    new_code_cell(
        "from IPython.display import HTML, Javascript, Math, display\nimport ipywidgets as widgets\n"
        "display(HTML('<script>alert(1)</script><b>bold</b>'), Javascript('alert(2)'), Math('x^2'))\n"
        "widgets.IntSlider(description='n')"
    ),
    new_code_cell("from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass"),
]


@pytest.fixture
def write(tmp_path):
    def write_it(name, cells):
        place = tmp_path / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), place)
        return place

    return write_it


def read(place, name):
    return (place / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "cells", "given", "shown"),
    [
        ("exploring", EXPLORING, {}, ["sepal length (cm)", "from a shell", "the old way", "<mover", "data:image/png"]),
        ("template", TEMPLATE, {"C": 0.01, "seed": 2}, ["Which model?</h1>", "C = 0.01: 0.8", "from 2 features"]),
        ("lesson", LESSON, {}, ["Lesson 3</h1>", "ZeroDivisionError", "<b>bold</b>"]),
    ],
    ids=["exploring", "template", "lesson"],
)
def test_it_gets_page_outcome_and_provenance_like_ours(name, cells, given, shown, write, tmp_path, forked):
    place = run.run(write(name, cells), given, tmp_path / "out")
    assert sorted(file.name for file in place.iterdir()) == ["notebook.ipynb", "report.html", "results.json"]
    page, result = read(place, "report.html"), json.loads(read(place, "results.json"))
    assert [each for each in shown if each not in page] == []
    assert "<script" not in page
    assert (result["notebook"], result["parameters"], result["claims"]) == (name, given, [])
    assert result["complete"] is True
    assert {"commit", "python", "versions", "seconds", "peak_memory_mb"} <= result["provenance"].keys()
    assert '<h2 id="provenance">' in page
    assert str(result["provenance"]["seconds"]) in page
    assert f'href="{name}/report.html"' in read(tmp_path / "out", "index.html")


def test_a_failure_in_it_is_told_like_one_in_ours(write, tmp_path, forked):
    notebook = write("broken", [*TEMPLATE[:2], new_code_cell("features.index('gone')")])
    with pytest.raises(
        RunFailed, match=r"broken: ValueError: 'gone' is not in list, in cell \d of section “Which"
    ) as f:
        run.run(notebook, {}, tmp_path / "out")
    assert f.value.outcome is Outcome.FAILED_CELL


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (TEMPLATE, r"no parameter 'c' in n; there are C, features, seed$"),
        (EXPLORING, "no parameter 'c' in n; there are none in a cell with the tag parameters$"),
    ],
    ids=["template", "without"],
)
def test_a_parameter_that_it_does_not_have_is_refused_before_it_runs(cells, said, write, tmp_path):
    with pytest.raises(BadParameter, match=said):
        run.run(write("n", cells), {"c": 1}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_can_be_swept(write, tmp_path, forked):
    notebook = write("template", TEMPLATE)
    points = sweep.grid(notebook, {"seed": 1}, {"C": [0.01, 1.0]})
    records = sweep.sweep(notebook, points, tmp_path / "out")
    assert [record["outcome"] for record in records] == [Outcome.DONE] * 2
    found = pd.read_csv(tmp_path / "out" / "template" / "runs.csv")
    assert found[["C", "seed", "outcome"]].values.tolist() == [[0.01, 1, "done"], [1.0, 1, "done"]]


def test_its_cells_stand_in_the_copy_as_they_were(write, tmp_path, forked):
    place = run.run(write("lesson", LESSON), {}, tmp_path / "out")
    content = nbformat.reads(read(place, "notebook.ipynb"), as_version=4)
    assert [cell.source for cell in content.cells[: len(LESSON)]] == [cell.source for cell in LESSON]
    (added,) = content.cells[len(LESSON) :]
    assert added.metadata.tags == ["provenance"]
