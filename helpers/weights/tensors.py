"""Named tensors on disk, read one at a time: safetensors (one file, or shards with an index) and GGUF.

Never unpickles anything, and opens nothing but the files that a directory, or an index in it, names.
"""

import fnmatch
import json
import math
import re
import shlex
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from helpers.paths import START, resolve
from helpers.values import Refused

BLOCK = 2**18  # numbers read at a time
# More than any real file has; what costs more than the square of a length, or memory, stays bounded by them.
NAME, MESSAGE, JSON_BYTES, JSON_DEPTH, GGUF_ITEMS = 500, 4000, 2**25, 100, 2**22
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OF_TRAINING = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")  # pickles that hold no weights
# Turns a state dict into safetensors; `weights_only` keeps it from running code.
CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "state = torch.load(sys.argv[1], weights_only=True); "
    "save_file({k: v.clone().contiguous() for k, v in state.items()}, sys.argv[2])"
)
INDEX = ".safetensors.index.json"
# What of a directory is read: the first of these that it holds. transformers takes a single file before an index, which
# is stale beside it; diffusers its index before a single file.
TAKEN = (
    *("model.safetensors", f"model{INDEX}", f"diffusion_pytorch_model{INDEX}", "diffusion_pytorch_model.safetensors"),
    "adapters.safetensors",
    *(f"*{INDEX}", "*.safetensors", "*.gguf"),
)
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# Of numbers that are stored by themselves: unit round-off (half a unit in the last place), and the least positive one.
PLAIN = {
    "F64": (2**-53, 0.0),
    "F32": (2**-24, 0.0),
    "F16": (2**-11, 2**-24),
    "BF16": (2**-8, 0.0),
    "F8_E4M3": (2**-4, 2**-9),
    "F8_E5M2": (2**-3, 2**-16),
}


class WeightsError(Refused):
    """A weight or an update that cannot be read, or cannot be read right: what was found, where, what to do."""

    def __init__(self, message):
        # Names come out of files: what could end the line or move a terminal's cursor becomes `·`.
        told, half = str(message), MESSAGE // 2
        told = told if len(told) <= MESSAGE else f"{told[:half]} … {told[-half:]}"
        super().__init__("".join(letter if letter.isprintable() else "·" for letter in told))


class NoSuchModule(WeightsError):
    """A name that fits no module, or several; the message lists candidates."""


class IsModel(WeightsError):
    """A whole model where what fine-tuning added was asked for, and no base to tell."""


@dataclass(frozen=True)
class Tensor:
    """One tensor in a file. shape: as NumPy has it. kind: its type as stored, such as "BF16" or "Q4_1"."""

    key: str
    file: Path
    shape: tuple
    kind: str
    reader: Callable

    @property
    def round_off(self):
        """Unit round-off of its numbers as stored; None for integers, and for those of blocks with a scale."""
        return PLAIN[self.kind][0] if self.kind in PLAIN else None

    def transposed(self):
        """The Tensor that reads as the transpose of this one."""
        return self.seen(self.shape[::-1], np.transpose)

    def seen(self, shape, turned):
        """The Tensor of this shape that reads as `turned(numbers)` of those of this one."""
        return replace(self, shape=shape, reader=lambda _: turned(self.reader(self)))

    def read(self):
        """The numbers, float32, or float64 if stored so. Raises WeightsError for NaN, Inf, and damaged files.

        Nor does it give what float32 has no room for, so that products of them have room in float64.
        """
        with _readable(f"{self.key} cannot be read from {self.file}"), np.errstate(all="ignore"):
            found = self.reader(self)
            whole = np.isfinite(found.astype(np.float32, copy=False)).all()
        if not whole:
            raise WeightsError(f"{self.key} in {self.file} holds NaN or Inf: training diverged, or the file is damaged")
        return found


class Store(dict):
    """{name: Tensor} of a model or adapter. files: what was opened. fields: of a GGUF, {key: value}; else empty.

    ends: {module: the last parts of the names of its tensors}. metadata: {key: text} of a safetensors file's header.
    """

    def __init__(self, tensors=(), files=(), fields=None, metadata=None):
        super().__init__(tensors)
        self.files, self.fields, self.ends, self.metadata = list(files), fields or {}, {}, metadata or {}
        if long := next((name for name in self if len(name) > NAME), None):
            told = f"has a name of {len(long)} characters, {long[:50]!r} …, where {NAME} are the most that is read"
            raise WeightsError(f"{self.files[0]} {told}: it is damaged, download it again")
        for module, _, end in (name.rpartition(".") for name in self):
            self.ends.setdefault(module, []).append(end)


def existing(path):
    """A path that a user gave, absolute. Raises WeightsError where nothing is there."""
    with _readable(f"{path} cannot be looked for"):
        place = resolve(path)
        there = place.exists()
        if place.is_dir():
            list(place.iterdir())  # which may not be allowed
    if not there:
        raise WeightsError(
            f"{place} does not exist: expected weights, or a directory with them (relative paths start at "
            f"{START}; nothing is downloaded, so download a model from a hub first)"
        )
    return place


def open_model(path):
    """The Store of a model: a safetensors or GGUF file, or a directory with one, as loaders expect it."""
    if not path.is_dir():
        return open_file(path)
    with _readable(f"{path} cannot be looked into"):
        names = sorted(file.name for file in path.iterdir())
    found = next(filter(None, (fnmatch.filter(names, form) for form in TAKEN)), [])
    if len(found) == 1 and not SHARD.search(Path(found[0]).stem):
        return open_file(path / found[0])
    if found:
        way_out = "name one, or of a split model download its index (of a GGUF: llama-gguf-split --merge)"
        raise WeightsError(f"{path} holds {listed(found)}, and nothing says which: {way_out}")
    if pickles := [name for name in names if name.endswith(PICKLES) and not name.startswith(OF_TRAINING)]:
        return open_file(path / pickles[0])  # which says how to convert it
    forms = [depth + form for depth in ("*/", "*/*/") for form in ("*.safetensors", "*.gguf", "adapter_config.json")]
    if inside := sorted({str(file.parent.relative_to(path)) for form in forms for file in path.glob(form)}):
        raise WeightsError(f"{path} holds no weights that are read, but directories in it, {listed(inside)}: name one")
    raise WeightsError(f"{path} holds no weights: expected model.safetensors, shards with their index, or a GGUF")


def open_file(file):
    """The Store of one safetensors or GGUF file, or of the shards of an index."""
    if file.suffix in PICKLES:
        places = shlex.join([str(file), str(file.with_suffix(".safetensors"))])
        raise WeightsError(
            f"{file} is a pickle, which can run code, so it is never opened: have its library save the model anew, or "
            f'of a single file convert it with python -c "{CONVERT}" {places}'
        )
    if file.name.endswith(INDEX):
        return _open_shards(file)
    return _open_gguf(file) if file.suffix == ".gguf" else _open_safetensors(file)


def read_json(file):
    """The object in a JSON file. Raises WeightsError for what is none."""
    with _readable(f"{file} is not readable JSON", file):
        if file.stat().st_size > JSON_BYTES:
            raise ValueError(f"it has more than {JSON_BYTES} bytes")
        text = file.read_text(encoding="utf-8")
    return parse_json(text, file)


def parse_json(text, where):
    """The object in a text of JSON. Raises WeightsError for what is none."""
    with _readable(f"{where} is not readable JSON"):
        content = json.loads(text)
        if _depth(content) > JSON_DEPTH:
            raise ValueError(f"it is nested more than {JSON_DEPTH} deep")
    if not isinstance(content, dict):
        raise WeightsError(f"{where} holds a JSON {type(content).__name__}: expected an object; save it again")
    return content


def listed(names):
    """Some names in words, the first six of many."""
    names = names if isinstance(names, list) else list(names)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(repr(name) for name in names[:6]) + more


@contextmanager
def _readable(what, file=None):
    """Whatever a library raises over a file that is damaged, or is a pipe or a device, as one sentence."""
    try:
        if file and not file.is_file():
            raise OSError("it is no file, or a link to none")
        yield
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(f"{what} ({error}): download or save it again") from error


def _depth(content):
    """How deep lists and objects stand in each other."""
    inside = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return 1 + max(map(_depth, inside), default=0)


def _open_safetensors(file):
    with _readable(f"{file} is not a readable safetensors file", file), safe_open(file, framework="pt") as handle:
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118, no dict
        told = {name: (tuple(each.get_shape()), each.get_dtype()) for name, each in slices.items()}
        metadata = handle.metadata()
    held = {name: Tensor(name, file, *each, _read_safetensors) for name, each in told.items()}
    return Store(held, [file], metadata=metadata)


def _open_shards(index):
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise WeightsError(f"{index} has no weight_map from tensors to files: download it again")
    shards, beside = {}, {file.name for file in index.parent.iterdir()}
    for name, shard in places.items():
        if shard not in beside:
            raise WeightsError(f"{index} names the shard {shard!r}, which is not beside it: download the missing shard")
        if shard not in shards:
            shards[shard] = _open_safetensors(index.parent / shard)
        if name not in shards[shard]:
            raise WeightsError(f"{index} says that {shard} holds {name}, which it does not: download both again")
    tensors = {name: shards[shard][name] for name, shard in places.items()}
    return Store(tensors, [index, *(index.parent / shard for shard in shards)])


def _read_safetensors(tensor):
    """In blocks of rows: the file's pages are let go of after each, so that little more than the result is held."""
    if tensor.kind not in (*PLAIN, "I8") and math.prod(tensor.shape) != 1:  # one number, such as an alpha, may be whole
        raise ValueError(f"numbers stored as {tensor.kind} are not read")
    whole = np.empty(tensor.shape, np.float64 if tensor.kind == "F64" else np.float32)
    flat, step = np.atleast_1d(whole), max(1, BLOCK // max(1, whole[:1].size if whole.ndim else 1))
    for start in range(0, len(flat), step):
        with safe_open(tensor.file, framework="pt") as handle:
            part = handle.get_slice(tensor.key)[start : start + step] if whole.ndim else handle.get_tensor(tensor.key)
            flat[start : start + step] = (part.double() if tensor.kind == "F64" else part.float()).numpy()
    return whole


def _open_gguf(file):
    """GGUF, by the library of that name."""
    from gguf import GGUFReader, GGUFValueType, dequantize  # takes a moment, which other files need not

    class Bounded(GGUFReader):
        """Ends where the file ends: the library goes on in empty arrays for as long as a header's counts say."""

        def _get(self, offset, dtype, count=1, override_order=None):
            if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends before what its header promises")
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs, raw_type):
            """A list of numbers is one part, not one for each; a list of texts, as of a vocabulary, is passed over."""
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, count = self._get(orig_offs, np.uint32)[0], int(self._get(orig_offs + 4, np.uint64)[0])
            start, plain = orig_offs + 12, self.gguf_scalar_to_np.get(kind)
            if count > GGUF_ITEMS or not (plain or kind == GGUFValueType.STRING):
                raise ValueError(f"its header has a list of {count} items of type {kind}, which is not read")
            if plain:
                numbers = self._get(start, plain, count)
                return 12 + numbers.nbytes, [numbers], [0], [GGUFValueType.ARRAY, GGUFValueType(kind)]
            for _ in range(count):
                start += 8 + int.from_bytes(self.data[start : start + 8].tobytes(), "little")
            self._get(start, np.uint8, 0)
            return start - orig_offs, [], [], []

    def read(tensor):
        data, kind = held[tensor.key].data, held[tensor.key].tensor_type
        return np.array(data if data.dtype == np.float64 else dequantize(data, kind)).reshape(tensor.shape)

    with _readable(f"{file} is not a readable GGUF file", file), np.errstate(over="raise"):
        reader = Bounded(file)
        if reader.byte_order == "S":
            raise ValueError("its numbers are in the byte order of other machines, which is not read")
        told = {name: field for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
        fields = {name: field.contents() for name, field in told.items() if field.types}
    held = {tensor.name: tensor for tensor in reader.tensors}
    told = {name: (tuple(each.shape[::-1].tolist()), each.tensor_type.name) for name, each in held.items()}
    return Store({name: Tensor(name, file, *each, read) for name, each in told.items()}, [file], fields)
