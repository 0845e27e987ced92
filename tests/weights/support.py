"""Writes helpers/weights/README.md, whose tables are what happened: `python -m tests.weights.support`."""

import re
import string
import tempfile
from functools import cache
from pathlib import Path

from helpers import weights
from helpers.weights import WeightsError
from tests.weights.building import Q, adapter, write
from tests.weights.cases import ARCHITECTURES, Case, Inapplicable, Partly, Wrong
from tests.weights.matrix import COLUMNS
from tests.weights.test_recognised import KINDS

README = Path(weights.__file__).with_name("README.md")
RIGHT = "right"
# Files of formats that are known and not read: {format: what writes one to a directory}.
KNOWN = {
    label: lambda path, held=held: write(path, held, file="adapter_model.safetensors")
    for label, (held, _) in KINDS.items()
}
KNOWN |= {
    label: lambda path, config=config: adapter(path, Q, config=config)
    for label, config in {
        "PEFT's AdaLoRA": {"peft_type": "ADALORA"},
        "PEFT's PiSSA": {"init_lora_weights": "pissa"},
        "PEFT's LoftQ": {"init_lora_weights": "loftq"},
        "PEFT's aLoRA": {"alora_invocation_tokens": [1]},
        "PEFT's replicated layers": {"layer_replication": [[0, 2], [1, 3]]},
    }.items()
}


@cache
def row(name):
    """{column: (what happened, why)}: RIGHT, "refused", "some" (refused, the others right), "–" or "wrong"."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        case = Case(name, Path(place))
        for column, measure in COLUMNS.items():
            found[column] = happened(case, measure)
    return found


def happened(case, measure):
    """What becomes of one format of one architecture."""
    try:
        measure(case)
    except Inapplicable as reason:
        return "–", str(reason)
    except WeightsError as refusal:
        return "refused", spoken(str(refusal), case.place, {*case.names, *case.base.modules()})
    except Partly as refusal:
        return "some", spoken(str(refusal), case.place, {*case.names, *case.base.modules()})
    except Wrong as what:
        return "wrong", str(what)
    return RIGHT, ""


def spoken(sentence, place, names=()):
    """A sentence without paths, and without what differs from module to module."""
    sentence = sentence.replace(f"{place}/", "")
    sentence = re.sub(r"(?<= is not in )[\w.]+|(?<=no module of )[\w.]+|^[\w.]+(?=: )", "…", sentence)
    for name in sorted(names, key=len, reverse=True):
        sentence = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.])", "…", sentence)
    sentence = re.sub(r"(?<!\w)'[^'\s]*[._…][^'\s]*'", "'…'", re.sub(r"\d+ modules", "… modules", sentence))
    return re.sub(r"('…'(?: \([^()]*\))?)(?:, \1)*(?: and \d+ more)?", r"\1", sentence)


def refusals():
    """{formats: what is said of their files, without the names of tensors}, of those that are known and not read."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for number, (label, write_it) in enumerate(KNOWN.items()):
            path = Path(place) / str(number) / "adapter"
            try:
                weights.open_update(write_it(path))
            except WeightsError as refusal:
                said = re.sub(r" \((\S+[._]\S+)\)", "", str(refusal).replace(str(path), "adapter"))
                found[said] = [*found.get(said, []), label]
            else:
                raise Wrong(f"{label} is not refused")
    return {", ".join(labels): said for said, labels in found.items()}


def noted(cells, marks):
    """({sentence: its mark}, the marks from `marks` in the order of the sentences)."""
    return dict(zip(dict.fromkeys(cells), marks, strict=False))


def readme():
    """The text of helpers/weights/README.md. Raises Wrong where anything was read wrong."""
    rows = {name: row(name) for name in sorted(ARCHITECTURES)}
    if wrong := [
        (name, column, why) for name, of in rows.items() for column, (what, why) in of.items() if what == "wrong"
    ]:
        raise Wrong("\n".join(map(str, wrong)))
    cells = [cell for of in rows.values() for cell in of.values()]
    letters = noted([why for what, why in cells if what in ("refused", "some")], string.ascii_lowercase)
    digits = noted([why for what, why in cells if what == "–"], range(1, 100))
    marks = {**letters, **digits, "": ""}
    words = {"refused": "", "some": "some "}
    lines = [
        [name, *(f"{words.get(what, what + ' ')}{marks[why]}".strip() for what, why in of.values())]
        for name, of in rows.items()
    ]
    return TEXT.format(
        table=_table(["", *COLUMNS], lines),
        notes="\n".join(f"- {mark}: {sentence}" for sentence, mark in marks.items() if sentence),
        refused=_table(["format", "what is said"], refusals().items()),
    )


def _table(head, lines):
    lines = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


TEXT = """\
<!-- Written by `python -m tests.weights.support`, which reads and compares what it says; do not edit. -->
# What `helpers/weights` reads

This floor opens files on disk and gives the weights W [out, in] of a model, and what fine-tuning added to them, ΔW
[out, in]: `open_base(path)`, `open_update(path, base)`, and `match(base, updates)`, which pairs the modules of the two
one to one. What it does not read right it refuses with a `WeightsError`: one sentence that says what was found, where,
and what to do. Nothing is ever unpickled.

A module is named in full or by an end of its name that fits only one: `layers.0.self_attn.q_proj`. A part of a fused
projection stands in brackets, `c_attn[q]`; so does a head, `c_attn[q, head 3]` or `q_proj[head 3]`, counted from 0.
Heads of keys and values that queries share have numbers of their own. Of rows of a module, the factor A of ΔW = B A is
that of the whole module, and B has those rows.

## What was read

A tiny model of each architecture was saved, adapted, and read. *right*: W of all its linear layers, or ΔW of all that
the format adapts, is the truth to within 1e-5 of its largest number, and each is paired with its own module. The truth
is what PEFT itself merges in float64; of kohya, diffusers, mlx and llama.cpp the product of the factors by hand; of a
whole model W′ − W; of parts and heads the rows by which the model's own attention moves. A letter: refused, with the
sentence below. *some* and a letter: some modules are refused so, all others right. – and a number: there is no such
file, and why.

The first two columns are the model itself, as safetensors and as llama.cpp's GGUF (in its own order of rows, F16). The
next five are PEFT's; then LyCORIS' or kohya's flattened names, diffusers' dotted names without a config, mlx-lm's and
llama.cpp's adapters, a whole fine-tuned model, and parts and heads of W and of ΔW. GGUF and llama.cpp: of the layers
that its converter keeps under a name of their own, so without vision towers, poolers, experts, or the head of a BERT.

{table}

{notes}

## What is known, and refused

{refused}

## Adding an architecture

1. Rows in `architectures.toml`: what a file's names and shapes do not tell. Its comments say which.
2. A tiny model in `MODELS` of `tests/weights/building.py`, and its projections in `ATTENTION` of
   `tests/weights/attention.py`; `test_architectures.py` holds the rows against what the model computes.
3. Where llama.cpp or mlx-lm have it, its name in `IN_GGUF` and `IN_MLX` of `tests/weights/cases.py`.

## Adding a format

1. A reader in `formats/`: a subclass of `factors.Adapter` that says in `sort(key, tensor)` which module and factor a
   tensor is, and in `scale(name)` by what the product of factors is multiplied; and a line in `formats/recognise.py`.
2. A writer in `tests/weights/matrix.py`, from factors of random numbers, as a column of `COLUMNS`.
3. `python -m tests.weights.support` writes this page anew.
"""


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
