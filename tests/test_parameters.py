import ast
import string
import subprocess
import sys
from pathlib import PurePosixPath
from typing import get_args

import numpy as np
import pytest
from papermill.translators import PythonTranslator
from pydantic import Field

from helpers import digits, parameters
from helpers.parameters import (
    SCHEMAS,
    BadParameter,
    DigitModels,
    DigitSaliency,
    LanguageModelAdapters,
    LoraAdapters,
    ModelAtlas,
    Parameters,
    PlantedModels,
    PublishedPictures,
    RandomBaselines,
    SubspaceSimilarity,
    assigned,
    meaning,
    read,
)
from helpers.show import explorers, phi
from helpers.training import language_model


def test_defaults_are_valid_and_other_names_of_a_notebook_are_passed_over():
    assert SubspaceSimilarity.check({"__name__": "__main__", "seed": 3}).seed == 3
    assert LoraAdapters.check({}).schedule() == {
        "steps": 1500, "batch_size": 16, "evaluate_every": 125,
    }  # fmt: skip


def test_trainings_are_named_by_what_tells_them_apart():
    named = [run[0] for run in LoraAdapters.check({}).runs()]
    assert named == ["r4", "r8", "r64", "r64-seed1", "r8-lr0.0003", "full"]
    runs = list(LanguageModelAdapters.check({}).runs())
    assert [run[0] for run in runs] == ["r4", "r8", "r64", "r64-seed1", "r8-author"]
    assert [run[-1] for run in runs] == [[], [24, 80], [], [], []]


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (SubspaceSimilarity, {"factor": "B"}, "parameter factor is 'B': input should be 'A' or 'BA'"),
        (SubspaceSimilarity, {"side": "up"}, "parameter side is 'up'"),
        (SubspaceSimilarity, {"first_i": -1}, "parameter first_i is -1: input should be greater than or equal to 0"),
        (SubspaceSimilarity, {"last_j": 1.5}, "parameter last_j is 1.5: input should be a valid integer"),
        (
            SubspaceSimilarity,
            {"adapters": "data/adapters/r4"},
            "parameter adapters is 'data/adapters/r4': expected a list",
        ),
        (SubspaceSimilarity, {"adapters": []}, "parameter adapters is empty: expected at least one entry"),
        (SubspaceSimilarity, {"adapters": ["a", "a"]}, "adapters names one twice"),
        (SubspaceSimilarity, {"base": "", "adapters": ["a"]}, "give a base to compare it with, or a second adapter"),
        (SubspaceSimilarity, {"side": "left"}, 'use factor "BA", or side "right"'),
        (SubspaceSimilarity, {"first_i": 9, "last_i": 8}, "first_i is 9, above last_i, 8"),
        (SubspaceSimilarity, {"colour_low": 0.2, "colour_high": 0.1}, "the first below the second"),
        (SubspaceSimilarity, {"colour_high": 1.5}, "parameter colour_high is 1.5"),
        (RandomBaselines, {"dimension": 2}, "parameter dimension is 2: input should be greater than or equal to 3"),
        (RandomBaselines, {"dimension": 10.5}, "parameter dimension is 10.5: input should be a valid integer"),
        (RandomBaselines, {"rank_i": 0}, "parameter rank_i is 0: input should be greater than 0"),
        (RandomBaselines, {"rank_j": -1}, "parameter rank_j is -1: input should be greater than 0"),
        (RandomBaselines, {"dimension": 12, "rank_i": 12}, "rank_i is 12 and dimension is 12: .* must be 1 … 11"),
        (RandomBaselines, {"dimension": 384, "rank_j": 400}, "rank_j is 400 and dimension is 384"),
        (RandomBaselines, {"draws": 1}, "parameter draws is 1: input should be greater than or equal to 2"),
        (DigitSaliency, {"method": "grad_cam"}, "parameter method is 'grad_cam': input should be 'gradient'"),
        (DigitSaliency, {"dataset": "mnist"}, "parameter dataset is 'mnist': input should be 'digits' or 'mnist5k'"),
        (
            DigitSaliency,
            {"condition_b": "random"},
            "parameter condition_b is 'random': input should be 'trained'",
        ),
        (DigitSaliency, {"condition_b": "trained"}, "are both 'trained': give two to compare"),
        (DigitSaliency, {"rows": 9}, "rows is 9 and the images of digits have 8 × 8 pixels: .* rows must be 1 … 8"),
        (DigitSaliency, {"dataset": "mnist5k", "columns": 29}, "columns must be 1 … 28"),
        (DigitSaliency, {"columns": 0}, "parameter columns is 0: input should be greater than 0"),
        (DigitSaliency, {"null_networks": 20}, "no p-value can fall below 0.048, nor below 0.48 once corrected"),
        (DigitSaliency, {"examples_per_digit": 4}, "parameter examples_per_digit is 4"),
        (DigitSaliency, {"colour_map": "infern"}, "expected a colour map of matplotlib; did you mean 'inferno'"),
        (DigitSaliency, {"input_std": 0.0}, "parameter input_std is 0.0: input should be greater than 0"),
        (DigitSaliency, {"input_mean": 0.1}, "input_mean describes your own model, and model is '', a bundled one"),
        (DigitSaliency, {"explains": "probability", "model": "cnn"}, "explains describes your own model"),
        (DigitSaliency, {"channels": 2, "model": "x"}, "parameter channels is 2: input should be 1 or 3"),
        (DigitSaliency, {"target": 10}, "parameter target is 10: input should be 'label'"),
        (DigitSaliency, {"class_order": 1223334444, "model": "x"}, "class_order is 1223334444: expected each of the"),
        (DigitSaliency, {"class_order": "1234", "model": "x"}, "class_order is '1234': expected each of the ten"),
        (DigitSaliency, {"pad": True, "model": "x"}, "pad is true and your model takes 8 × 8 .* that leave a margin"),
        (DigitSaliency, {"pad": True, "model": "x", "input_rows": 9, "input_columns": 7}, "takes 9 × 7 pixels"),
        (PublishedPictures, {"figure": "8"}, "parameter figure is '8': input should be 'all', 'phi' or 'digits'"),
        (ModelAtlas, {"base": ""}, "parameter base is ''"),
        (ModelAtlas, {"factor": "A"}, 'use factor "BA", or side "right"'),
        (ModelAtlas, {"i": -1}, "parameter i is -1: input should be greater than or equal to 0"),
        (ModelAtlas, {"adapters": ["a", "a"]}, "adapters names one twice"),
        (ModelAtlas, {"beside_base": ""}, "beside_adapters is given and beside_base is empty: give both"),
        (ModelAtlas, {"beside_adapters": []}, "beside_base is given and beside_adapters is empty: give both"),
        (DigitModels, {"seeds": [0]}, "which other notebooks read, and seeds is another: give another output"),
        (PlantedModels, {"steps": 20}, "which other notebooks read, and steps is another: give another output"),
        (PlantedModels, {"tasks": ["xor"], "output": "build/x"}, "tasks.0 is 'xor': input should be 'linear'"),
        (LoraAdapters, {"ranks": [4, -1]}, "parameter ranks.1 is -1: input should be greater than or equal to 0"),
        (LoraAdapters, {"ranks": [4], "seeds": [0, 1], "learning_rates": [0.1, 0.2]}, "as many of each"),
        (LoraAdapters, {"ranks": [4, 4], "seeds": [0, 0], "learning_rates": [0.1, 0.1]}, "no adapter twice"),
        (LoraAdapters, {"learning_rates": [0.0]}, "greater than 0"),
        (LanguageModelAdapters, {"ranks": [4, 0]}, "parameter ranks.1 is 0: input should be greater than 0"),
        (LanguageModelAdapters, {"ranks": [4], "seeds": [0]}, "as many of each"),
        (LanguageModelAdapters, {"tasks": ["mood"]}, "sentiment"),
        (LanguageModelAdapters, {"steps": 501}, "less than or equal to 500"),
        (LanguageModelAdapters, {"steps": 20}, "fewer steps of warm-up"),
        (LanguageModelAdapters, {"steps": 60}, "before the last of 60 steps"),
        (LanguageModelAdapters, {"ranks": [8], "seeds": [0], "tasks": ["author"]}, "of the second adapter, of 1"),
        (LanguageModelAdapters, {"batch_size": 8}, "batch_size is another: give another output"),
        (LoraAdapters, {"ranks": [8], "seeds": [2], "learning_rates": [0.002]}, "r8-seed2 is another: give another"),
    ],
)
def test_a_bad_value_is_one_sentence(schema, values, message):
    with pytest.raises(BadParameter, match=message) as refusal:
        schema.check(values)
    assert "\n" not in str(refusal.value)


def test_the_preset_that_notebook_01_had_is_refused_with_the_notebook_that_took_its_place():
    message = "there is no parameter 'preset'; the published figure has a report of its own: run 04_published_pictures"
    with pytest.raises(BadParameter, match=message):
        SubspaceSimilarity.parse({"preset": "paper", "seed": 1})
    with pytest.raises(ValueError, match=message):
        SubspaceSimilarity.check({"preset": "paper", "In": ['# Parameters\npreset = "paper"\n']})
    with pytest.raises(ValueError, match="there is no parameter 'preset'; did you mean"):
        RandomBaselines.parse({"preset": "paper"})


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(BadParameter, match="there is no parameter 'modul'; did you mean 'module'"):
        SubspaceSimilarity.parse({"modul": "x"})
    with pytest.raises(ValueError, match="there is no parameter 'qqq'; there are base, adapters, module"):
        SubspaceSimilarity.parse({"qqq": 1})


def test_what_papermill_injects_is_held_against_the_schema_and_other_globals_are_not():
    """papermill only warns of a parameter that a notebook lacks; re-run in JupyterLab, a cell sees many names."""
    names = {
        "module": "x.query",
        "modul": "y",
        "factors": [],
        "In": ["", "first", "# Parameters\nmodule = 'x.query'\n"],
    }
    assert SubspaceSimilarity.check(names).module == "x.query"
    names["In"].append('# Parameters\nseed = 1\nmodul = "y"\n')
    with pytest.raises(ValueError, match="no parameter 'modul'"):
        SubspaceSimilarity.check(names)


@pytest.mark.parametrize(
    ("schema", "given", "read"),
    [
        (SubspaceSimilarity, {"adapters": "[a, 'b c']"}, ["a", "b c"]),
        (SubspaceSimilarity, {"adapters": "('a', 'b')"}, ["a", "b"]),
        (SubspaceSimilarity, {"adapters": ("a", PurePosixPath("b/c"))}, ["a", "b/c"]),
        (SubspaceSimilarity, {"base": PurePosixPath("b/c")}, "b/c"),
        (SubspaceSimilarity, {"base": "[x]"}, "[x]"),
        (SubspaceSimilarity, {"base": "true"}, "true"),
        (SubspaceSimilarity, {"seed": "3"}, 3),
        (SubspaceSimilarity, {"seed": 3.0}, 3),
        (SubspaceSimilarity, {"seed": np.int64(3)}, 3),
        (DigitSaliency, {"input_mean": "1e-3", "model": "x"}, 0.001),
        (DigitSaliency, {"input_mean": np.float32(0.5), "model": "x"}, 0.5),
        (SubspaceSimilarity, {"seed": "010"}, 10),
        (SubspaceSimilarity, {"seed": "1e3"}, 1000),
        (SubspaceSimilarity, {"adapters": "[010, 1:30, true]"}, ["010", "1:30", "true"]),
        (SubspaceSimilarity, {"module": "1_000"}, "1_000"),
        (DigitSaliency, {"input_mean": "-4.2e-1", "model": "x"}, -0.42),
        (DigitSaliency, {"input_mean": "010", "model": "x"}, 10.0),
        (DigitSaliency, {"class_order": 1234567890, "model": "x"}, "1234567890"),
        (DigitSaliency, {"class_order": 123456789, "model": "x"}, "0123456789"),
        (DigitSaliency, {"target": 3}, "3"),
        (DigitSaliency, {"target": np.int64(0)}, "0"),
        (DigitSaliency, {"channels": "3", "model": "x"}, 3),
        (DigitSaliency, {"channels": 3.0, "model": "x"}, 3),
        (LoraAdapters, {"ranks": "[1, 2]", "seeds": [0, 0], "output": "build", "learning_rates": [0.1, 0.1]}, [1, 2]),
        (
            LoraAdapters,
            {"ranks": "[4, 010]", "seeds": [0, 0], "output": "build", "learning_rates": "[0.1, 1e-3]"},
            [4, 10],
        ),
        (
            LoraAdapters,
            {"ranks": "(4, 010)", "seeds": "[0, 0]", "output": "build", "learning_rates": [0.1, 0.1]},
            [4, 10],
        ),
        (
            LoraAdapters,
            {"ranks": np.array([1, 2]), "seeds": [0, 0], "output": "build", "learning_rates": [0.1, 0.1]},
            [1, 2],
        ),
    ],
)
def test_what_became_text_or_another_type_on_its_way_is_read_as_meant(schema, given, read):
    (name, *_) = given
    found = getattr(schema.parse(given), name)
    assert found == read
    assert type(found) is type(read)


NOT_DECIMAL = ["1:30", "0o10", "0x10", "0b10", "1_000", "1_0.5", "1e1_0", "-0x1F", "1:30:15.5"]


@pytest.mark.parametrize("text", [*NOT_DECIMAL, "1.5", "nan", "inf", "1e999", "½", "１０", "--1", "1e", ".", ""])
def test_a_whole_number_is_written_in_decimal_digits(text):
    for given in ({"seed": text}, {"seeds": f"[0, {text or '~'}]"}):
        schema = SubspaceSimilarity if "seed" in given else LoraAdapters
        with pytest.raises(ValueError, match=r"parameter seeds?(\.1)? is") as refusal:
            schema.parse(given)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", [*NOT_DECIMAL, "nan", ".inf", "1e999", "1,5"])
def test_a_fraction_is_written_in_decimal_digits(text):
    with pytest.raises(ValueError, match="parameter input_mean is"):
        DigitSaliency.parse({"input_mean": text, "model": "x"})


def test_a_decimal_number_means_what_python_says_and_anything_else_is_a_text(rng):
    """Random words of the letters that numbers are made of: none raises, none means anything but what Python says."""
    for _ in range(20_000):
        word = "".join(rng.choice(list("0123456789.eE+-_:x"), rng.integers(1, 7)))
        try:
            number = float(word)
        except ValueError:
            number = None
        found = meaning(word)
        if isinstance(found, str):
            assert found == word
            assert number is None or "_" in word
        else:
            assert found == number
            assert isinstance(found, int) == (set(word) <= set(string.digits + "+-"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("-4.2e-1", -0.42), ("[4, 010, [a, 'x y']]", [4, 10, ["a", "x y"]]), ("True", True), ("null", None),
     ("'0x10'", "0x10"), ("2024-01-01", "2024-01-01"), ("{a: 010}", {"a": 10}), ("a:b_1", "a:b_1"), ("8x8", "8x8")],
)  # fmt: skip
def test_without_a_schema_a_text_is_read_by_the_same_rule(text, value):
    assert read(text) == value
    assert type(read(text)) is type(value)


@pytest.mark.parametrize("text", NOT_DECIMAL)
def test_without_a_schema_a_number_that_is_not_decimal_is_refused(text):
    for whole in (text, f"[1, {text}]"):
        with pytest.raises(BadParameter, match=r"is no decimal number: write 16, -0\.5 or 1e-3, or quote it"):
            read(whole)


class Switch(Parameters):
    """A schema with what the notebooks have not: a truth value, and lists that go beyond a line."""

    on: bool = False
    """a truth value"""
    said: str = "φ's \\"
    """what a text may hold"""
    rates: list[float] = Field([0.1, 5e-05])
    """a list that fits"""
    many: list[int] = Field([*range(40)])
    """a list that does not"""
    nearly: list[str] = Field(["a list", "that would fit"])
    """but for the last letter of its help, which is the hundred and twenty-first"""


@pytest.mark.parametrize(("text", "read"), [("true", True), ("False", False), (np.bool_(True), True)])
def test_truth_values_are_read_and_numbers_are_none(text, read):
    assert Switch.parse({"on": text}).on is read
    for wrong in ("1", "maybe", 0):
        with pytest.raises(ValueError, match="parameter on is"):
            Switch.parse({"on": wrong})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": "true"}, "seed is True: input should be a valid integer"),
        ({"seed": "[1]"}, r"seed is '\[1\]': input should be a valid integer"),
        ({"seed": "three"}, "seed is 'three'"),
        ({"seed": None}, "seed is None"),
        ({"adapters": "[a"}, r"adapters is '\[a': expected a list, such as"),
        ({"adapters": [1, "b"]}, r"adapters.0 is 1: input should be a valid string \(with papermill: -r instead of -p"),
        ({"base": 2024}, "base is 2024: input should be a valid string"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SubspaceSimilarity.parse(given)


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_what_papermill_makes_of_a_value_is_read_as_the_value(schema):
    """Numbers of numpy and tuples become text in the cell that papermill injects."""
    disguises = {int: (int, np.int64, str, float), float: (float, np.float32, str), list: (list, tuple, str)}
    whole = {name: field.default for name, field in schema.model_fields.items()}
    whole |= {name: "build" for name in whole if name == "output"}  # float32's 0.0005 is another than ours
    for name, value in whole.items():
        for disguise in disguises.get(type(value), (str,)):
            injected = {}
            exec(PythonTranslator.codify({name: disguise(value)}, "Parameters"), injected)
            read = getattr(schema.parse(whole | {name: injected[name]}), name)
            assert read == pytest.approx(value, rel=1e-6) if isinstance(value, float) else read == value, name
            assert type(read) is type(value), name


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), Switch])
def test_a_cell_of_parameters_gives_the_defaults_and_is_laid_out_as_ruff_would(schema):
    cell, found = schema.cell(), {}
    exec(cell, found)
    assert {name: found[name] for name in schema.model_fields} == schema.model_construct().model_dump()
    lines = ast.parse(cell).body
    assert [line.target.id for line in lines] == list(schema.model_fields)
    assert [line.annotation.id for line in lines] == [type(found[line.target.id]).__name__ for line in lines]
    assert max(map(len, cell.splitlines())) <= 120
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=120", "-"]
    assert (
        subprocess.run(ruff, input=cell + "\n", capture_output=True, encoding="utf-8", check=True).stdout == cell + "\n"
    )


def test_what_is_done_for_each_choice_is_done_for_all_of_a_schemas_choices():
    assert tuple(digits.ARCHITECTURES) == parameters.ARCHITECTURES
    assert tuple(explorers.SHORT) == tuple(phi.QUANTITIES) == SubspaceSimilarity.choices("quantity")
    (task,) = LanguageModelAdapters.choices("tasks")
    assert tuple(language_model.TASKS) == get_args(task)


def test_the_names_a_cell_assigns_to_are_found_among_magics_and_other_statements():
    assert assigned("%matplotlib inline\nx = 1\ny: int = 2\n(a, *b), c.d = 1, 2\ne[0] = 1\nfiles = !ls\n") == {
        "x", "y", "a", "b", "files",
    }  # fmt: skip
    assert assigned("import os\ndef f():\n    inner = 1\nprint(kept := [i for i in 'ab'])\nawait f()\nf += 1") == {"f"}
    for nothing in ("", "x = (", "x = 1\0", "%%bash\nx=1", "seed?", "x == 1"):
        assert assigned(nothing) == set()


def test_the_schemas_are_there_without_what_is_slow_to_import():
    source = "import sys\nfrom helpers.parameters import SCHEMAS\nprint(*{'matplotlib', 'IPython'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", source], capture_output=True, encoding="utf-8", check=True).stdout
    assert told.split() == []
