"""Fine-tuned weights on their way to data/: as stored, with what their training reached, whole or not at all."""

import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from helpers import weights
from helpers.subspaces.directions import decompose_update
from helpers.training.cards import whole_directory, write_card

RECORD = "training.json"


def untrained_a(model):
    """Copies of every A of a PEFT model, under the names PEFT saves them by."""
    return {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items() if ".lora_A." in name}


@contextmanager
def as_stored(model, dtype):
    """Inside, the parameters of `model` that are trained hold the numbers that a file of `dtype` would."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter in trained:
            parameter.copy_(parameter.to(dtype))
        yield model
        for parameter, values in zip(trained, kept, strict=True):
            parameter.copy_(values)


def save_adapter(model, untrained, directory, card, record, dtype=torch.float32):
    """Save a PEFT model's adapter as PEFT does, its untrained A, the record of its training and a card.

    untrained: as `untrained_a` gave it before training. card: text of the README; `{hashes}` in it stands for the
    files' SHA-256. record: what `curve` reads again. The directory appears whole or stays as it was; it is returned.
    """
    with whole_directory(directory) as partial:
        model.save_pretrained(partial, save_embedding_layers=False)
        file = partial / "adapter_model.safetensors"
        _save(load_file(file), file, dtype)
        _save(untrained, partial / "untrained_A.safetensors", dtype)
        save_record(partial, record)
        write_card(partial, card)
    return directory


def _save(tensors, file, dtype):
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})


def save_record(directory, record):
    """Write the record of a training, {"settings": {…}, "curve": [{"step": …, …}, …]}, beside its weights."""
    (directory / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def curve(directory, settings):
    """What a finished training of these settings measured, [{"step": …, …}, …]; None where there is none such.

    Directories appear whole, so one that is there is finished; one that was made with other settings, that lacks its
    weights, or whose record cannot be read, is made again. The number of threads, which moves the last digits only,
    may be another.
    """
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        same = record["settings"] | {"threads": settings["threads"]} == settings
        return record["curve"] if same and any(directory.glob("*model.safetensors")) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def standard_error(accuracy, texts):
    """Binomial standard error of an accuracy measured on `texts` texts."""
    return (accuracy * (1 - accuracy) / texts) ** 0.5


def size_table(base, directories):
    """‖ΔW‖/‖W‖ of each directory's weights against the model in `base`, in both norms: median and largest module."""
    model, rows, sizes = weights.open_base(base), {}, {}
    for directory in directories:
        updates, ratios = weights.open_update(directory, model), []
        for module, name in weights.match(model, updates).items():
            if module not in sizes:
                weight = model.weight(module).astype(float)
                sizes[module] = np.array([np.linalg.norm(weight), np.linalg.norm(weight, 2)])
            delta = decompose_update(updates.update(name))
            ratios.append([delta.size, delta.values[0]] / sizes[module])
        found = pd.DataFrame(ratios, columns=["Frobenius norm", "spectral norm"])
        rows[directory.name] = {
            f"{norm}, {what}": float(value)
            for norm in found
            for what, value in (("median", found[norm].median()), ("most", found[norm].max()))
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("adapter")
