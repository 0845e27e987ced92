"""Small adapters and models on disk, made for a test: synthetic, unless a test reads `data/`."""

import json
import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: tests ask nothing of the network

import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

# before helpers is imported: the types of its functions are checked, here though not in the kernels of notebooks
jaxtyping.install_import_hook(["helpers.subspaces", "helpers.digits"], "beartype.beartype")

from helpers.__main__ import main
from helpers.paths import ROOT

MODULE = "encoder.layer.0.attention.self.query"


def pytest_collection_modifyitems(items):
    """Files that run whole notebooks come first: of two processes none has a long one left at the end.

    Those of the press come before the browser, whose loop goes on running in its process.
    """
    first = ["notebooks", "press", "browser"]
    items.sort(key=lambda item: (*first, item.path.parent.name).index(item.path.parent.name))


@pytest.fixture
def rng():
    return np.random.default_rng(20211016)


@pytest.fixture
def unchecked():
    """No types are checked, as outside of tests: to see what a function itself says to what it is not meant for."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def data():
    return ROOT / "data"


@pytest.fixture
def make_base(tmp_path, rng):
    """Write a model of named [out, in] weights, and return its directory."""

    def make(weights=None, directory="base", config=None):
        place = tmp_path / directory
        place.mkdir()
        weights = {MODULE: rng.standard_normal((24, 24))} if weights is None else weights
        save_file({f"{name}.weight": _tensor(weight) for name, weight in weights.items()}, place / "model.safetensors")
        if config is not None:
            (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return place

    return make


@pytest.fixture
def make_adapter(tmp_path, rng):
    """Write a PEFT adapter for one module, and return its directory. config: on top of r and lora_alpha."""

    def make(a=None, b=None, directory="adapter", module=MODULE, config=None, prefix="base_model.model."):
        place = tmp_path / directory
        place.mkdir()
        a = rng.standard_normal((4, 24)) if a is None else a
        b = rng.standard_normal((24, 4)) if b is None else b
        tensors = {f"{prefix}{module}.lora_A.weight": _tensor(a), f"{prefix}{module}.lora_B.weight": _tensor(b)}
        save_file(tensors, place / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": len(a), "lora_alpha": 8, **(config or {})}
        (place / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return place

    return make


@pytest.fixture
def call(capsys, monkeypatch):
    """Run the command line in this process: (exit status, standard output, the last line of standard error)."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run_it(*words):
        status = main(list(map(str, words)))
        shown = capsys.readouterr()
        return status, shown.out, shown.err.splitlines()[-1] if shown.err else ""

    return run_it


def _tensor(array):
    return array if isinstance(array, torch.Tensor) else torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
