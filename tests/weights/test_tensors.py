import json
import shlex
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import weights
from helpers.weights import WeightsError, tensors
from tests.weights.building import bounded, gguf_model, refused, write

KINDS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def marked(place, file, mark):
    return write(place, {"x.weight": torch.full((2, 2), float(mark))}, file=file)


def index(place, weight_map, file="model.safetensors.index.json"):
    place.mkdir(exist_ok=True)
    (place / file).write_text(
        weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map}), encoding="utf-8"
    )
    return place


def value(path):
    return weights.open_base(path).weight("x")[0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_plain_number_is_read_as_torch_reads_it(tmp_path, rng, kind):
    weight = torch.tensor(rng.standard_normal((700, 600))).to(getattr(torch, kind))  # more than one block
    read = weights.open_base(write(tmp_path, {"x.weight": weight})).weight("x")
    assert read.dtype == (np.float64 if kind == "float64" else np.float32)
    np.testing.assert_array_equal(read, weight.double().numpy())


@pytest.mark.parametrize(
    ("files", "stale"),
    [
        (["model.safetensors", "model-00001-of-00002.safetensors"], "model.safetensors.index.json"),
        (["model.safetensors", "model.fp16.safetensors"], ""),
        (["model.safetensors", "consolidated.safetensors"], ""),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"], ""),
        (["diffusion_pytorch_model.fp16.safetensors"], ""),
        (["pytorch_lora_free.safetensors"], ""),
    ],
)
def test_the_file_that_loaders_take_is_taken(tmp_path, files, stale):
    """Beside a model.safetensors an index is stale, and its shards may be gone."""
    for mark, file in enumerate(files, 1):
        marked(tmp_path, file, mark)
    if stale:
        index(tmp_path, {"x.weight": "model-00009-of-00009.safetensors"}, stale)
    assert value(tmp_path) == 1


@pytest.mark.parametrize("name", ["model", "diffusion_pytorch_model", "pytorch_model"])
def test_shards_are_read_by_an_index_of_any_name(tmp_path, name):
    places = {f"layer.{n}.q.weight": f"{name}-0000{n}-of-00002.safetensors" for n in (1, 2)}
    for n, (key, file) in enumerate(places.items()):
        write(tmp_path, {key: torch.full((2, 2), float(n))}, file=file)
    index(tmp_path, places, f"{name}.safetensors.index.json")
    if name.startswith("diff"):  # whose index counts before a single file, unlike transformers'
        marked(tmp_path, "diffusion_pytorch_model.safetensors", 9)
    base = weights.open_base(tmp_path)
    assert [base.weight(f"layer.{n}.q")[0, 0] for n in (1, 2)] == [0, 1]
    assert len(base.files) == 3
    assert weights.open_base(tmp_path / places["layer.2.q.weight"]).modules() == ["layer.2.q"]


def test_links_into_a_hubs_cache_are_read_with_what_lies_beside_the_link(tmp_path):
    blobs, place = tmp_path / "models--some--gpt2/blobs", tmp_path / "models--some--gpt2/snapshots/0f"
    write(blobs, {"h.0.attn.c_proj.weight": torch.arange(16.0).reshape(4, 4)}, file="ab12")
    (blobs / "cd34").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    place.mkdir(parents=True)
    for link, blob in (("model.safetensors", "ab12"), ("config.json", "cd34")):
        (place / link).symlink_to(f"../../blobs/{blob}")
    for path in (place, place / "model.safetensors"):
        assert weights.open_base(path).weight("c_proj")[1, 0] == 1
        assert weights.open_base(path).name() == "some/gpt2"
    (blobs / "ab12").unlink()
    marked(place, "other.safetensors", 1)
    refused(lambda: weights.open_base(place), "model.safetensors", "download")


ELSEWHERE = ("../secret.safetensors", "/etc/secret.safetensors", "..", "sub/model.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, []),
        *(({"x.weight": shard}, ["not beside it"]) for shard in ELSEWHERE),
        ({"x.weight": "a.safetensors", "y.weight": "gone\n.safetensors"}, ["gone", "not beside it"]),
        ({"z.weight": "a.safetensors"}, ["a.safetensors holds z.weight, which it does not"]),
        ({"x.weight": "a.bin"}, ["a.bin", "not a readable safetensors"]),
        ({"x.weight": 1}, ["no weight_map"]),
        (["x.weight"], ["no weight_map"]),
        ("[]", ["JSON list", "expected an object"]),
        ("{", ["not readable JSON"]),
        ("[" * 10**5, ["not readable JSON"]),
        ('{"a": ' + "9" * 5000 + "}", ["not readable JSON"]),
    ],
)
def test_an_index_that_is_damaged_or_points_elsewhere_is_refused(tmp_path, content, words):
    marked(tmp_path, "secret.safetensors", 1)
    (tmp_path / "model" / "sub").mkdir(parents=True)
    marked(tmp_path / "model" / "sub", "model.safetensors", 1)
    place = marked(tmp_path / "model", "a.safetensors", 1)
    (place / "a.bin").write_bytes(b"\x80\x04")
    refused(lambda: weights.open_base(index(place, content)), *words)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.safetensors", "b.safetensors"], ["'a.safetensors', 'b.safetensors'", "name one"]),
        (["model-00001-of-00002.safetensors"], ["model-00001-of-00002", "index"]),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], ["download its index"]),
        (["a.safetensors.index.json", "b.safetensors.index.json"], ["'a.safetensors.index.json', 'b", "name one"]),
        (["a.gguf", "b.gguf"], ["'a.gguf', 'b.gguf'", "name one"]),
        (["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"], ["merge"]),
        (["a-00001-of-00002.gguf"], ["merge"]),
        (["checkpoint-1/model.safetensors", "checkpoint-2/x.gguf"], ["'checkpoint-1', 'checkpoint-2'", "name one"]),
        (["model.safetensors"], ["not a readable safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "2_Dense/model.safetensors"], ["pytorch_model.bin is a pickle"]),
        (["pytorch_model-00001-of-00002.bin"], ["is a pickle"]),
        (["readme.txt", "training_args.bin"], ["holds no weights: expected model.safetensors"]),
        (["adapter_config.json", "adapter_model.bin"], ["is an adapter, not a model"]),
    ],
)
def test_directories_that_do_not_say_what_to_read_are_refused(tmp_path, files, words):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    refused(lambda: weights.open_base(tmp_path), *words)


@pytest.mark.parametrize("content", [b"", b"no header", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 9) + b"{"])
@pytest.mark.parametrize("file", ["model.safetensors", "model.gguf"])
def test_damaged_files_are_refused(tmp_path, content, file):
    (tmp_path / file).write_bytes(content)
    refused(lambda: weights.open_base(tmp_path / file), file, "not a readable", "download")
    refused(lambda: weights.open_base(tmp_path / "nowhere"), "does not exist", "relative paths")


def test_a_pickle_is_never_opened_and_the_command_in_the_message_converts_it(tmp_path):
    state = {"x.weight": torch.arange(4.0).reshape(2, 2)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    refused(lambda: weights.open_base(tmp_path / "pytorch_model.bin"), "is a pickle, which can run code")
    said = refused(lambda: weights.open_base(tmp_path), "convert it with")
    _, *command = shlex.split(said.partition("convert it with ")[2])
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    np.testing.assert_array_equal(weights.open_base(tmp_path).weight("x"), state["x.weight"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused_and_names_cannot_break_the_line(tmp_path, bad):
    """Nor move the cursor of a terminal: `refused` asks for a printable line."""
    name = "a\n\x1b[31m\u202e<b>.q"
    base = weights.open_base(write(tmp_path, {f"{name}.weight": torch.tensor([[1.0, bad]])}))
    assert "\x1b" not in refused(lambda: base.weight(name), "<b>.q.weight in", "NaN or Inf")
    assert issubclass(WeightsError, ValueError)


def test_a_damaged_gguf_is_refused_at_once_wherever_it_is_damaged(tmp_path, rng):
    """Cut anywhere, or with a huge number anywhere in its header: a WeightsError, or still readable."""
    file = tmp_path / "m.gguf"
    gguf_model(file, {"blk.0.attn_q.weight": rng.standard_normal((8, 32))}, "Q8_0", ARCH__list=[1, 2, 3], name="tiny")
    whole, refusals = file.read_bytes(), 0
    header = whole.index(b"blk.0") + 64
    cut = [whole[:size] for size in range(0, len(whole) - 1, 7)]
    huge = [struct.pack("<Q", number) for number in (2**40, 2**64 - 1)]
    patched = [whole[:n] + number + whole[n + 8 :] for n in range(4, header) for number in huge]
    for content in cut + patched:
        file.write_bytes(content)
        try:
            with bounded():
                {name: tensor.read() for name, tensor in tensors.open_file(file).items()}
        except WeightsError:
            refusals += 1
    assert refusals > len(cut) + len(patched) // 2


def test_importing_the_floor_does_not_import_torch():
    code = "import sys, helpers.weights; sys.exit(any(name in sys.modules for name in ('torch', 'gguf')))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("open_", [weights.open_base, weights.open_update])
@pytest.mark.parametrize("path", ["nowhere", "a" * 300, "a/" * 3000, "x\0y"])
def test_a_path_where_nothing_can_be_is_refused(open_, path):
    refused(lambda: open_(path), path[:20].replace("\0", "·"))
