"""The committed notebooks read as reports: executed, not stale, and free of this or that machine."""

import re

import nbformat
import papermill.cli
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner

from helpers.files import file_hash
from helpers.parameters import SCHEMAS
from helpers.paths import ROOT
from helpers.press import committed

WANTED = ["SmolLM2-135M-Instruct/*.gguf", *(f"language_model_adapters/{r}/*.safetensors" for r in ("r4", "r8", "r64*"))]
PAIRED = ("r8", "r64", "r64-seed1", "r8-author")
TOGETHER = [f"language_model_adapters/{name}/*.safetensors" for name in (*PAIRED, "r8-step*")]
MERGED = ["merged_adapters/merges.csv"]
LORA = ["published/lora_*.csv", "published/figure_8_*.csv"]
DIGITS = ["published/digit_*.csv"]
ENCODER = [f"adapters/{name}/*.safetensors" for name in ("r8-lr0.0003", "r8", "r64", "full")]
INPUTS = {
    "01_subspace_similarity": WANTED + LORA,
    "02_random_baselines": WANTED,
    "03_digit_saliency": [*DIGITS, "digit_models/digits-*/*.safetensors", "planted_models/*/*.safetensors"],
    "04_published_pictures": [*LORA, *DIGITS, "digit_models/digits-cnn/*.safetensors"],
    "05_model_atlas": [*WANTED, "all-MiniLM-L6-v2/*.safetensors", *ENCODER],
    "06_adapters_together": [*WANTED[:1], *TOGETHER, *MERGED, "all-MiniLM-L6-v2/*.safetensors", *ENCODER],
    "digit_models": ["digit_models/*/*.safetensors"],
    "planted_models": ["planted_models/*/*.safetensors"],
    "lora_adapters": ["all-MiniLM-L6-v2/*.safetensors", "adapters/*/*.safetensors"],
    "language_model_adapters": ["SmolLM2-135M-Instruct/*.gguf", "language_model_adapters/*/*.safetensors"],
    "merged_adapters": [*(f"language_model_adapters/{name}/adapter_model.safetensors" for name in PAIRED), *MERGED],
    "speed_of_directions": [],
}
COUNTS = {
    "01_subspace_similarity": 13,
    "02_random_baselines": 9,
    "03_digit_saliency": 84,
    "04_published_pictures": 32,
    "05_model_atlas": 17,
    "06_adapters_together": 22,
    "digit_models": 64,
    "planted_models": 30,
    "lora_adapters": 12,
    "language_model_adapters": 15,
    "merged_adapters": 5,
    "speed_of_directions": 0,
}
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def text_of(content):
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    return " ".join(str(output.get("data", output.get("text", ""))) for output in outputs)


def test_outputs_belong_to_the_source(path):
    content = nbformat.read(path, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert content.metadata["source_digest"] == committed.source_digest(content), (
        f"stale: make notebooks NOTEBOOKS={path}"
    )
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds <= {"display_data", "stream"}
    assert not [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]


def test_outputs_belong_to_the_inputs(path):
    """The provenance names every file of data/ it came from with its hash; a training notebook, those it wrote."""
    shown = text_of(nbformat.read(path, as_version=4))
    files = [file for place in INPUTS[path.stem] for file in (ROOT / "data").glob(place)]
    assert len(files) == COUNTS[path.stem]
    for file in files:
        assert file_hash(file)[:12] in shown, f"stale: {file.name} is not what {path.name} saw"


def test_nothing_of_a_machine_is_left(path):
    text = path.read_text(encoding="utf-8")
    content = nbformat.read(path, as_version=4)
    assert content.metadata["kernelspec"]["name"] == "python3"
    assert set(content.metadata) == {"kernelspec", "source_digest"}
    assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp|Users)/\w", text)
    assert not re.search(r"\d{4}-\d\d-\d\dT\d\d:", text)


def test_every_figure_has_alternative_text(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                assert re.search(r"\d", output.metadata["image/png"]["alt"]), cell.id


def test_anatomy(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].source.startswith("# ")
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "**Question.**" in prose.partition("\n## ")[0]
    assert cells[1].metadata["tags"] == ["parameters"]
    assert ".check(globals())" in cells[2].source
    assert cells[-1].source == "report.finish()"
    headings = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert "## What this does not show" in headings
    assert "## References" in headings
    assert "training" in path.parts or prose.partition("## Exercises\n")[2].partition("\n## ")[0].count("\n1. ") == 1
    code = [cell for cell in cells if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])]
    assert not [cell.id for cell in code if cell.source.count("\n") >= 20]


def test_the_cell_of_parameters_is_what_the_schema_writes(path):
    cell = nbformat.read(path, as_version=4).cells[1]
    assert cell.source == SCHEMAS[path.stem].cell(), f"python -m helpers refresh --parameters {path}"


def test_papermill_sees_every_parameter_with_its_help_and_the_schemas_default(path):
    found = papermill.inspect_notebook(path)
    schema = SCHEMAS[path.stem]
    assert found.keys() == schema.model_fields.keys()
    for name, parameter in found.items():
        assert parameter["help"], name
        assert eval(parameter["default"]) == schema.model_fields[name].default, name
        assert parameter["help"] == schema.model_fields[name].description, name
    told = CliRunner().invoke(papermill.cli.papermill, ["--help-notebook", str(path)], catch_exceptions=False)
    assert told.exit_code == 0
    shown = re.sub(r"\s+", " ", told.output)
    for parameter in found.values():
        line = "{name}: {inferred_type_name} (default {default}) {help}".format(**parameter)
        assert line in shown


def test_the_picture_beside_a_notebook_is_its_first_figure(path):
    assert path.with_suffix(".png").read_bytes() == committed.first_figure(nbformat.read(path, as_version=4))


def test_no_p_value_reads_as_zero(path):
    """Not in sentences, nor in the columns of tables that are p-values by their heads."""
    for cell in nbformat.read(path, as_version=4).cells:
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            assert not re.search(r"\bp\)? ?(?:=|is|<|&lt;) ?0\.0+(?!\d)", str(data.get("text/markdown", "")))
            for table in BeautifulSoup(data.get("text/html", ""), "html.parser").find_all("table"):
                heads = [head.get_text() for head in table.thead.find_all("th")]
                for row in table.tbody.find_all("tr"):
                    for head, entry in zip(heads, row.find_all(["td", "th"]), strict=True):
                        if re.search(r"(^|\s)p($|[_\s](holm|above|below))", head):
                            assert not re.fullmatch(r"0\.0+", entry.get_text()), (cell.id, head)
