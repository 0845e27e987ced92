"""Valid files of every reader, damaged: only WeightsError comes out, in bounded time and memory.

A reader is added by a line of READERS: {name: (what writes a valid small directory, what to open in it)}.
"""

import json
import math
import os
import shutil
import struct
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import weights
from helpers.weights import WeightsError, modules, tensors
from tests.weights.building import adapter, bounded, refused, write

SIDE = 16
GRAPH = [f"model.layers.{n}.self_attn.{part}_proj" for n in (0, 1) for part in "qkv"]
CONFIG = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": SIDE}


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(place, seed=0):
    """Three projections in each of two layers, an embedding and a norm."""
    held = {f"{name}.weight": numbers(SIDE, SIDE, seed=seed + n) for n, name in enumerate(GRAPH)}
    held |= {"model.embed_tokens.weight": numbers(20, SIDE, seed=seed), "model.norm.weight": numbers(SIDE, seed=seed)}
    return write(place, held, {**CONFIG, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True})


def scaled(place):
    """8-bit floats beside a scale for each block, as a quantised model is saved."""
    held = {f"{name}.weight": numbers(SIDE, SIDE).to(torch.float8_e4m3fn) for name in GRAPH}
    held |= {f"{name}.weight_scale": numbers(2, 2).abs() for name in GRAPH}
    blocks = {"quant_method": "compressed-tensors", "weight_block_size": [8, 8]}
    return write(place, held, {**CONFIG, "quantization_config": blocks})


def transposed(place):
    sides = {"c_attn": 3 * SIDE, "c_proj": SIDE}
    held = {f"h.{n}.attn.{part}.weight": numbers(SIDE, side) for n in (0, 1) for part, side in sides.items()}
    return write(place, held, {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_head": 4})


def sharded(place):
    held = {f"{name}.weight": numbers(SIDE, SIDE) for name in GRAPH}
    places = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(held)}
    for file in sorted(set(places.values())):
        write(place, {name: held[name] for name in held if places[name] == file}, CONFIG, file)
    (place / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8"
    )
    return place


def peft(**config):
    return lambda place: adapter(place, *GRAPH, out=SIDE, width=SIDE, config=config)


def dora(place):
    more = {f"base_model.model.{name}.lora_magnitude_vector": numbers(SIDE).abs() for name in GRAPH}
    return adapter(place, *GRAPH, out=SIDE, width=SIDE, config={"use_dora": True}, more=more)


def other_peft(kind, shapes, **config):
    """An adapter of PEFT that is no LoRA. shapes: {end of a tensor's name: its shape}."""

    def made(place):
        held = {f"base_model.model.{name}.{end}": numbers(*shape) for name in GRAPH for end, shape in shapes.items()}
        return write(place, held, {"peft_type": kind, "r": 2, "alpha": 4, **config}, "adapter_model.safetensors")

    return made


def kohya(place):
    held = {}
    for name in GRAPH:
        flat = "lora_unet_" + name.replace(".", "_")
        held |= {f"{flat}.lora_down.weight": numbers(2, SIDE), f"{flat}.lora_up.weight": numbers(SIDE, 2)}
        held[f"{flat}.alpha"] = torch.tensor(1.0)
    return write(place, held, file="style.safetensors")


def diffusers(place):
    shapes = {"A": (2, SIDE), "B": (SIDE, 2)}
    held = {f"unet.{name}.lora_{x}.weight": numbers(*shape) for name in GRAPH for x, shape in shapes.items()}
    return write(place, held, file="pytorch_lora_weights.safetensors")


def mlx(kind):
    def made(place):
        shapes = {"a": (SIDE, 2), "b": (2, SIDE)}
        held = {f"{name}.lora_{x}": numbers(*shape) for name in GRAPH for x, shape in shapes.items()}
        held |= {f"{name}.m": numbers(SIDE).abs() for name in GRAPH if kind == "dora"}
        told = {"rank": 2, "scale": 20.0, "dropout": 0.0}
        return write(
            place, held, {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": told}, "adapters.safetensors"
        )

    return made


def text(string):
    data = string if isinstance(string, bytes) else string.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def field(key, kind, value):
    """A key and its value as in a GGUF. kind: 4 uint32, 6 float32, 8 text, 9 array of uint32, 10 uint64, …."""
    forms = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    if kind == 8:
        value = text(value)
    elif kind == 9:
        value = struct.pack("<IQ", 4, len(value)) + b"".join(struct.pack("<I", each) for each in value)
    elif isinstance(value, int | float):
        value = struct.pack("<" + forms[kind], value)
    return text(key) + struct.pack("<I", kind) + value  # bytes are taken as they are


class Gguf:
    """A GGUF in its parts, each of which can be exchanged."""

    def __init__(self, fields, tensors, kind="F32"):
        self.fields = [field(*each) for each in fields]
        self.tensors, self.data, self.padding = [], b"", 0
        for name, matrix in tensors.items():
            stored = gguf.quants.quantize(matrix.numpy(), gguf.GGMLQuantizationType[kind]).tobytes()
            self.tensors.append((name, matrix.shape[::-1], int(gguf.GGMLQuantizationType[kind]), len(self.data)))
            self.data += stored + bytes(-len(stored) % 32)
        self.start, self.counts = b"GGUF" + struct.pack("<I", 3), {}

    def but(self, **parts):
        other = object.__new__(Gguf)
        other.__dict__ = {**self.__dict__, **parts}
        return other

    def written(self):
        counts = [self.counts.get(part, len(getattr(self, part))) for part in ("tensors", "fields")]
        told = [
            text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
            for name, shape, kind, offset in self.tensors
        ]
        header = self.start + struct.pack("<QQ", *counts) + b"".join([*self.fields, *told])
        return header + bytes(-len(header) % 32 + self.padding) + self.data


NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v"}
HEADER = [("general.architecture", 8, "llama"), ("llama.attention.head_count", 4, 4), ("general.name", 8, "tiny")]


def in_gguf(name):
    _, _, number, _, part = name.split(".")
    return f"blk.{number}.{NAMES[part]}.weight"


def gguf_model(kind):
    side = 32
    fields = [*HEADER, ("llama.attention.head_count_kv", 9, [4, 4]), ("tokenizer.ggml.scores", 9, [1, 2, 3])]
    return Gguf(fields, {in_gguf(name): numbers(side, side, seed=n) for n, name in enumerate(GRAPH)}, kind)


def gguf_adapter():
    fields = [*HEADER, ("general.type", 8, "adapter"), ("adapter.type", 8, "lora"), ("adapter.lora.alpha", 6, 4.0)]
    shapes = {"a": (2, SIDE), "b": (SIDE, 2)}
    return Gguf(fields, {f"{in_gguf(n)}.lora_{x}": numbers(*shape) for n in GRAPH for x, shape in shapes.items()})


def base(path):
    return weights.open_base(path)


def update(path):
    return weights.open_update(path, weights.open_base(BASE[0]))


def lone(path):
    return weights.open_update(path)


LOHA = {f"hada_w{n}_{x}": shape for n in "12" for x, shape in (("a", (SIDE, 2)), ("b", (2, SIDE)))}
LOKR = {"lokr_w1": (4, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4)}
READERS = {
    "one file": (model, base),
    "scales": (scaled, base),
    "transposed": (transposed, base),
    "shards": (sharded, base),
    "GGUF, F32": (lambda place: {"model.gguf": gguf_model("F32")}, base),
    "GGUF, Q8_0": (lambda place: {"model.gguf": gguf_model("Q8_0")}, base),
    "PEFT": (peft(rank_pattern={"q_proj": 2}, alpha_pattern={r"layers\.0": 3}), update),
    "PEFT without a base": (peft(use_rslora=True, target_parameters=["mlp.experts"]), lone),
    "DoRA": (dora, update),
    "whole model": (lambda place: model(place, seed=50), update),
    "kohya": (kohya, update),
    "diffusers": (diffusers, update),
    "mlx": (mlx("lora"), update),
    "mlx, DoRA": (mlx("dora"), update),
    "GGUF adapter": (lambda place: {"adapter.gguf": gguf_adapter()}, update),
    "LoHa": (other_peft("LOHA", LOHA), update),
    "LoKr": (other_peft("LOKR", LOKR), update),
    "IA3": (other_peft("IA3", {"ia3_l": (SIDE, 1)}, feedforward_modules=[]), update),
}


def files_of(reader):
    """{file's name: its bytes, or a Gguf} of a reader's valid directory."""
    with tempfile.TemporaryDirectory() as place:
        written = READERS[reader][0](Path(place))
        if isinstance(written, dict):
            return written
        return {file.name: file.read_bytes() for file in sorted(Path(place).iterdir())}


BASE, VALID = [], {}


@pytest.fixture(scope="module", autouse=True)
def valid(tmp_path_factory):
    BASE.append(model(tmp_path_factory.mktemp("base")))
    VALID.update({reader: files_of(reader) for reader in READERS})


# What a directory may hold in the place of a file.
THINGS = {
    "nothing": lambda file: None,
    "a directory": lambda file: file.mkdir(),
    "a loop of links": lambda file: file.symlink_to(file.name),
    "a link to nowhere": lambda file: file.symlink_to("nowhere"),
    "a link to all zeros": lambda file: file.symlink_to("/dev/zero"),
    "a pipe": lambda file: os.mkfifo(file),
    "an empty file": lambda file: file.touch(),
}


def put(files, place):
    for name, content in files.items():
        if isinstance(content, str):
            THINGS[content](place / name)
        else:
            (place / name).write_bytes(content.written() if isinstance(content, Gguf) else content)


def finite(found):
    assert np.isfinite(found).all()


def each_right_or_refused(holder):
    """Ask for all that can be asked of a `Base` or `Updates`; what else than WeightsError comes out is a failure."""
    names = holder.modules()
    holder.describe().to_csv()
    modules.by_layer(names)
    for name in [*names[:4], *names[-2:]]:
        modules.every_layer(name, names)
        for ask in ("shape", "weight", "kind", "round_off", "rounding", "steps", "untrained_a", "delta"):
            with suppress(WeightsError):
                found = getattr(holder, ask)(name) if hasattr(holder, ask) else None
                if ask in ("weight", "delta") and found is not None:
                    finite(found)
                    assert found.shape == holder.shape(name) or holder.shape(name) is None
    for wanted in ("q_proj", "no such module"):
        with suppress(WeightsError):
            holder.find(wanted)
    if getattr(holder, "base", None):
        with suppress(WeightsError):
            weights.match(holder.base, holder)


def survives(reader, files):
    """Open files in a fresh directory, whole and one by one, and ask for everything."""
    place = Path(tempfile.mkdtemp())
    try:
        put(files, place)
        with bounded():
            for path in (place, *(place / name for name in files)):
                try:
                    each_right_or_refused(READERS[reader][1](path))
                except WeightsError as error:
                    assert str(error).isprintable()
                    assert len(str(error)) < 10_000
    finally:
        shutil.rmtree(place)


# Mutations. Each takes `draw` and a file's content and returns another.

LARGE = [2**16, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64 - 1]
U64 = st.sampled_from([0, 1, 2, 3, 4, 5, 31, *LARGE]) | st.integers(0, 2**64 - 1)
LONG = ["a" * 10**6, "a." * 500_000, "1." * 500_000 + "\n", ".lora_A" * 150_000, "scale" * 200_000 + "\n", "9" * 5000]
STRANGE = ["", ".", "..", "\n", "\0", "\u202e", "x", "weight", ".weight", "layers.٣.q", "../x", "/etc/passwd", "\ud800"]
ENDS = [
    *("weight", "bias", "weight_scale", "weight_scale_inv", "scale_weight", "input_scale", "qweight", "W_q", "SCB"),
    *("lora_A.weight", "lora_B.weight", "lora_A.other.weight", "lora_magnitude_vector", "lora_embedding_A", "m"),
    *("lora_a", "lora_b", "lora_up.weight", "lora_down.weight", "alpha", "dora_scale", "diff", "hada_w1_a", "lokr_w1"),
    *("base_layer.weight", "lora_mid.weight", "hada_t1", "lokr_t2", "ia3_l", "weight.absmax", "weight.lora_a"),
]
NUMBERS = {
    **{"F64": "<d", "F32": "<f", "F16": "<e", "BF16": "<H", "F8_E4M3": "B", "F8_E5M2": "B", "I8": "b", "U8": "B"},
    **{"BOOL": "B", "I16": "<h", "U16": "<H", "I32": "<i", "U32": "<I", "I64": "<q", "U64": "<Q"},
}
SIZES = st.sampled_from([0, 1, 2, 3, 4, 8, SIDE, 48, 2**31, 2**63])
NESTED = [f"{a * n}1{b * n}" for a, b in ("[]", ('{"a":', "}")) for n in (90, 400, 900, 960, 985)]
ENDLESS = ["(a+)+$", "(.*)*(.*)*(.*)*y", "(?:[a-z._]+)+!", "a{99999999999999999999}", "(" * 900 + ")" * 900, "[[a]"]
VALUES = ["LORA", "pissa", "lora", "dora", "full", "gpt2", "F32", "I8", "\ud800", "\0", "a\nb", ".", "../x", "a" * 300]
VALUES += ["model.safetensors", "../model.safetensors", "/dev/zero", "x" * 10**6, [0, 4], {"": 1}, {"q_proj": []}]
VALUES += [
    {"model_type": "gpt2"},
    {"quant_method": []},
    *({"weight_block_size": sizes} for sizes in ([0, -1], [4, 16])),
]
# JSON as it is written, so that it may be what no library would write.
RAW = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "0.5", "1e-320", "true", "null", '""', "[]", "{}", "[[]]"),
    *("9" * 4000, "9" * 5000, "1" + "0" * 400, "18446744073709551616", "[" * 10**5, *NESTED),
    *('{"q_proj": NaN}', '{"q_proj": 1e400}', '{"(?i)q": 1, "\\\\Z": 1}', '{"q_proj": ' + "9" * 400 + "}"),
    *(json.dumps(value) for value in [*VALUES, *({key: 2} for key in ["(", *ENDLESS])]),
]
ANY = st.sampled_from(RAW) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(ENDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
).map(json.dumps)
KEYS = [
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "peft_type"),
    *("init_lora_weights", "target_parameters", "base_model_name_or_path", "kasa_config", "modules_to_save"),
    *("weight_map", "architectures", "model_type", "text_config", "decoder", "quantization_config", "_name_or_path"),
    *("tie_word_embeddings", "num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim", "d_kv"),
    *("n_head", "n_embd", "multi_query", "new_decoder_architecture", "lora_parameters", "fine_tune_type", "num_layers"),
    *("alpha", "feedforward_modules", "decompose_both", "decompose_factor", "rank_dropout", "use_effective_conv2d"),
]
PLACES = ["__metadata__", "dtype", "shape", "data_offsets", "rank", "scale", "keys"]


def cut(draw, content):
    return content[: draw(st.integers(0, len(content)))]


def patched(draw, content):
    """Some bytes are others, most likely near the beginning."""
    size = min(len(content), draw(st.sampled_from([16, 64, 512, 4096])))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, size - 1)))
        new = draw(st.binary(min_size=1, max_size=2) | U64.map(lambda n: struct.pack("<Q", n)))
        content = content[:at] + new + content[at + len(new) :]
    return content


def replaced(draw, content):
    return draw(st.sampled_from(sorted(THINGS)))


def some_name(draw, known):
    """A module that there is with another tensor, or a strange name."""
    names = st.sampled_from(sorted(known) or [""]).map(lambda name: name.removesuffix(".weight"))
    stems = names.map(lambda name: name.rpartition(".lora_")[0] or name)
    ends = st.sampled_from(ENDS) | st.text(max_size=3)
    made = st.builds("{}.{}".format, stems, ends)
    odd = st.sampled_from(STRANGE + LONG)
    return draw(made | made | odd | st.builds("{}.{}".format, odd, ends) | st.builds("{1}{0}".format, stems, odd))


def edited(draw, content):
    """JSON with a value replaced, taken away or added somewhere, the text of it whatever it may be."""
    holders, raw = [content], {}
    for holder in holders:
        inside = holder.values() if isinstance(holder, dict) else holder
        holders += [each for each in inside if isinstance(each, dict | list)]
    for n in range(draw(st.integers(1, 2))):
        holder, mark = draw(st.sampled_from(holders)), f"<{n}>"
        raw[json.dumps(mark)] = draw(ANY)
        places = [*holder] if isinstance(holder, dict) else [*range(len(holder))]
        act = draw(st.sampled_from(["set", "set", "drop", "add"])) if places else "add"
        if act == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(KEYS + PLACES)) if draw(st.booleans()) else some_name(draw, GRAPH)] = mark
        elif act == "add":
            holder.append(mark)
        elif act == "set":
            holder[draw(st.sampled_from(places))] = mark
        else:
            del holder[draw(st.sampled_from(places))]
    written = json.dumps(content)
    for mark, value in raw.items():
        written = written.replace(mark, value)
    return written


def edited_json(draw, content):
    content = edited(draw, json.loads(content))
    if draw(st.integers(0, 9)) == 0:  # a key twice
        content = content.rpartition("}")[0] + f', "{draw(st.sampled_from(KEYS))}": {draw(ANY)}' + "}"
    return content.encode() + draw(st.sampled_from([b"", b"", b"", b"\xff", b"\0", b"{}"]))


def whole_json(draw, content):
    return draw(ANY).encode()


def parts_of(content):
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def headed(header, data):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def edited_header(draw, content):
    header, data = parts_of(content)
    return headed(edited(draw, header).encode(), data)


def twice(draw, content):
    """A name stands twice in the header, the second time as another tensor."""
    header, data = parts_of(content)
    one, other = (draw(st.sampled_from(sorted(header))) for _ in range(2))
    return headed(f"{json.dumps(header)[:-1]}, {json.dumps(one)}: {json.dumps(header[other])}}}".encode(), data)


def renamed(draw, content):
    header, data = parts_of(content)
    old, new = draw(st.sampled_from(sorted(header))), some_name(draw, header)
    return headed({new if name == old else name: entry for name, entry in header.items()}, data)


def with_a_tensor(draw, content):
    """Another tensor, or another in the place of one: of any type, shape and numbers, and as such rightly stored."""
    header, data = parts_of(content)
    name = draw(st.sampled_from(sorted(header))) if draw(st.booleans()) else some_name(draw, header)
    kind = draw(st.sampled_from(sorted(NUMBERS)))
    shape = draw(st.lists(SIZES, max_size=4))
    count, width = math.prod(shape), struct.calcsize(NUMBERS[kind])
    if count > 10_000:
        shape, count = [4, 4], 16
    if kind in ("F64", "F32", "F16"):
        number = draw(st.sampled_from([0, 1, {"F64": 1e308, "F32": 3e38, "F16": 6e4}[kind], math.nan, math.inf]))
    else:
        number = draw(st.sampled_from([0, 1]))
    one = draw(st.just(struct.pack(NUMBERS[kind], number)) | st.binary(min_size=width, max_size=width))
    if gone := header.pop(name, None):
        start, end = gone["data_offsets"]
        data = data[:start] + data[end:]
        for entry in header.values():
            entry["data_offsets"] = [n - (end - start) * (n > start) for n in entry["data_offsets"]]
    header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + count * width]}
    return headed(header, data + one * count)


FIELDS = [key for key, *_ in HEADER] + [
    *("general.alignment", "general.type", "adapter.lora.alpha", "adapter.type", "GGUF.version"),
    *("llama.attention.head_count_kv", "tokenizer.ggml.tokens"),
]
TEXTS = ["", "llama", "qwen2", "gpt2", "adapter", "lora", "4", b"\xff", *LONG[:2], *STRANGE]
LISTS = [struct.pack("<IQ", 9, 1) * n + struct.pack("<IQ", 4, 0) for n in (1, 300, 50_000)]
LISTS += [struct.pack("<IQ", 4, n) + struct.pack("<I", 4) * n for n in (0, 1, 2, 3)]


def typed(kind, value):
    return field("", kind, value)[8:]


def listed(kind, count, data):
    return struct.pack("<IIQ", 9, kind, count) + data


# What may stand behind a key: its type and the value, in bytes.
VALUES_OF_FIELDS = [
    st.builds(typed, st.sampled_from([0, 1, 2, 3, 4, 5, 10, 11]), st.integers(0, 127) | st.sampled_from([32, 64])),
    st.builds(typed, st.sampled_from([1, 3, 5, 11]), st.integers(-128, 127)),
    st.builds(typed, st.sampled_from([6, 12]), st.sampled_from([math.nan, math.inf, -1.5, 1e-30, 4.0])),
    st.builds(typed, st.just(7), st.booleans()),
    st.builds(typed, st.just(8), st.sampled_from(TEXTS)),
    st.sampled_from(LISTS).map(lambda items: struct.pack("<I", 9) + items),
    st.builds(listed, st.integers(0, 14), U64, st.binary(max_size=40)),
    st.builds(lambda length: struct.pack("<IQ", 8, length), U64),
    st.integers(13, 2**32 - 1).map(lambda kind: struct.pack("<I", kind)),
]


def with_a_field(draw, file):
    """A GGUF with another field, or another in the place of one."""
    key = text(draw(st.sampled_from([*FIELDS, *STRANGE[:5], *LONG[:2]])))
    fields = [each for each in file.fields if not (each.startswith(key) and draw(st.booleans()))]
    fields.insert(draw(st.integers(0, len(fields))), key + draw(st.one_of(VALUES_OF_FIELDS)))
    return file.but(fields=fields)


def with_other_tensors(draw, file):
    """A GGUF whose tensors are said to be others; one may be gone, or stand twice."""
    tensors, sizes = list(file.tensors), st.sampled_from([0, 1, 2, 4, 16, 32, 256, *LARGE])
    at = draw(st.integers(0, len(tensors) - 1))
    name, shape, kind, offset = tensors[at]
    name = name if draw(st.booleans()) else some_name(draw, [each[0] for each in tensors])
    shape = draw(st.just(shape) | st.lists(sizes, max_size=6))
    kind = draw(st.just(kind) | st.integers(0, 45) | st.integers(0, 2**32 - 1))
    tensors[at : at + draw(st.integers(0, 2))] = [(name, shape, kind, draw(st.just(offset) | U64))]
    return file.but(tensors=tensors)


def with_another_start(draw, file):
    """A GGUF of another version, other counts or another alignment, or with bytes exchanged."""
    version = draw(st.integers(0, 4)) << draw(st.sampled_from([0, 24]))
    start = draw(st.sampled_from([b"GGUF", b"GGML"])) + struct.pack("<I", version)
    counts = {draw(st.sampled_from(["tensors", "fields"])): draw(U64)}
    other = draw(st.sampled_from([{"start": start}, {"counts": counts}, {"padding": draw(st.integers(0, 64))}, {}]))
    return file.but(**other) if other else draw(st.sampled_from([cut, patched]))(draw, file.written())


def edited_gguf(draw, file):
    return draw(st.sampled_from([with_a_field, with_other_tensors, with_another_start]))(draw, file)


MUTATIONS = {
    ".json": [edited_json, edited_json, edited_json, whole_json],
    ".safetensors": [edited_header, twice, renamed, with_a_tensor, with_a_tensor],
}


@st.composite
def damaged(draw, reader):
    files = dict(VALID[reader])
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(files)))
        content = files[name]
        if isinstance(content, Gguf):
            files[name] = draw(st.sampled_from([edited_gguf] * 9 + [replaced]))(draw, content)
        elif isinstance(content, bytes):
            known = MUTATIONS.get(Path(name).suffix, []) if content == VALID[reader][name] else []
            files[name] = draw(st.sampled_from([*known * 3, cut, patched, patched, replaced]))(draw, content)
    return files


# What was found: {what is damaged: (reader, {file: its content, made of the valid one})}.


def packed(content):
    """Whole numbers beside each other, each of which a sentence could list."""
    count = 20_000
    header = {f"m.a{n}": {"dtype": "U8", "shape": [1, 1], "data_offsets": [n, n + 1]} for n in range(count)}
    return headed(header, bytes(count))


def named(name):
    """The first tensor is called otherwise."""

    def made(content):
        header, data = parts_of(content)
        old = min(header)
        return headed({name if key == old else key: entry for key, entry in header.items()}, data)

    return made


def empty_and_long(content):
    """One factor after another claims no columns, and more rows than there is memory, or a number of 64 bits, for."""
    if isinstance(content, Gguf):
        return content.but(tensors=[(name, (0, 2**31), *rest) for name, _, *rest in content.tensors])
    header, data = parts_of(content)
    empty = {"shape": [0, 2**63], "data_offsets": [0, 0]}
    first = min(key for key in header if "ia3_l" in key)
    moved = {key: {**entry, **empty} if key == first else entry for key, entry in header.items()}
    start = moved[first]["data_offsets"][1] - header[first]["data_offsets"][1]
    for key in moved.keys() - {first}:
        moved[key] = {**moved[key], "data_offsets": [at + start for at in moved[key]["data_offsets"]]}
    return headed(moved, data[-start:])


def filled(kind, number, end):
    """All tensors of that end of a name are of one number."""

    def made(content):
        header, written = {}, b""
        old, data = parts_of(content)
        for name, entry in old.items():
            start, stop = entry["data_offsets"]
            count, part = math.prod(entry["shape"]), data[start:stop]
            if name.endswith(end):
                entry, part = {**entry, "dtype": kind}, struct.pack(NUMBERS[kind], number) * count
            header[name] = {**entry, "data_offsets": [len(written), len(written) + len(part)]}
            written += part
        return headed(header, written)

    return made


def setting(key, raw):
    return lambda content: (content.decode().rpartition("}")[0] + f', "{key}": {raw}' + "}").encode()


def with_list(items):
    """A GGUF with another list in its header: bytes from its type on."""
    return lambda file: file.but(fields=[*file.fields, text("x") + struct.pack("<I", 9) + items])


def indexed(raw):
    return lambda _: b'{"weight_map": %s}' % raw.encode()


def numbered(file):
    """A GGUF with a layer of so many digits that Python makes no number of them."""
    return file.but(tensors=[(f"blk.{'9' * 5000}.attn_q.weight", *file.tensors[0][1:])])


def headless(file):
    """A GGUF that says `true` where it should say how many heads there are."""
    key = "llama.attention.head_count"
    return file.but(fields=[each for each in file.fields if text(key) not in each] + [field(key, 7, True)])


MODEL, ADAPTER, SETTINGS, HELD = "model.safetensors", "adapter_model.safetensors", "adapter_config.json", "model.gguf"
INDEX, DEEP = "model.safetensors.index.json", struct.pack("<IQ", 9, 1) * 300 + struct.pack("<IQ", 8, 10**5)
FOUND = {
    "a pipe for a config": ("one file", {"config.json": lambda _: "a pipe"}),
    "a pipe for a model": ("one file", {MODEL: lambda _: "a pipe"}),
    "a pipe for a GGUF": ("GGUF, F32", {HELD: lambda _: "a pipe"}),
    "an endless config": ("one file", {"config.json": lambda _: "a link to all zeros"}),
    "a long shard": ("shards", {INDEX: indexed(json.dumps({"x": "a" * 300}))}),
    "a long number": ("GGUF, F32", {HELD: numbered}),
    "a truth for a number": ("GGUF, F32", {HELD: headless}),
    "20,000 packed tensors": ("one file", {MODEL: packed}),
    "a scale too large": ("scales", {MODEL: filled("F32", 3e38, "_scale")}),
    "weights too large": ("one file", {MODEL: filled("F32", 3e38, "weight")}),
    "factors too large": ("PEFT", {ADAPTER: filled("F64", 1e200, "weight")}),
    "differences too large": ("whole model", {MODEL: filled("F64", 1e308, "weight")}),
    "an empty factor of GGUF": ("GGUF adapter", {"adapter.gguf": empty_and_long}),
    "an empty factor of IA3": ("IA3", {ADAPTER: empty_and_long}),
    "lists in lists": ("GGUF, F32", {HELD: with_list(DEEP + bytes(8 * 10**5))}),
    "many texts": ("GGUF, F32", {HELD: with_list(struct.pack("<IQ", 8, 300_000) + bytes(8 * 300_000))}),
    "many numbers": ("GGUF, F32", {HELD: with_list(struct.pack("<IQ", 0, 10**7) + bytes(10**7))}),
}
for name in LONG:
    FOUND[f"a weight called {name[:8]!r}"] = ("one file", {MODEL: named(name + ".weight")})
    FOUND[f"a factor called {name[:8]!r}"] = ("PEFT", {ADAPTER: named(name + ".lora_A.weight")})
for key in ENDLESS:
    FOUND[f"a pattern {key[:8]}"] = ("PEFT", {SETTINGS: setting("rank_pattern", json.dumps({key: 2}))})


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_stays_mended(case):
    reader, changes = FOUND[case]
    survives(reader, {**VALID[reader], **{file: change(VALID[reader][file]) for file, change in changes.items()}})


def test_a_config_that_can_be_read_can_be_asked_from_further_down(tmp_path):
    """Lists in lists as deep as they may be are shown where half of the frames that Python has are in use."""

    def deeper(action, frames):
        return deeper(action, frames - 1) if frames else action()

    def nested(depth):
        (tmp_path / "config.json").write_text('{"_name_or_path": ' + "[" * depth + "]" * depth + "}", encoding="utf-8")
        return weights.open_base(tmp_path)

    put(VALID["one file"], tmp_path)
    for depth in range(tensors.JSON_DEPTH - 5, tensors.JSON_DEPTH - 1):  # the object and what is in the last list count
        base = nested(depth)
        assert deeper(base.name, sys.getrecursionlimit() // 2) == "[" * depth + "]" * depth
        assert len(deeper(base.describe, sys.getrecursionlimit() // 2)) >= len(GRAPH)
    refused(lambda: nested(tensors.JSON_DEPTH), "config.json", f"nested more than {tensors.JSON_DEPTH} deep")


class Named:
    """A holder of modules each of which has a name of its own."""

    def __init__(self, label):
        self.label = label

    def modules(self):
        return [f"{self.label}{n}.y" for n in range(3000)]

    def shape(self, module):
        return 1, 1


def test_many_names_that_have_nothing_in_common_are_refused_at_once():
    with bounded():
        refused(lambda: weights.match(Named("one"), Named("other")), "one", "other", "own base")


@pytest.mark.parametrize("reader", READERS)
def test_undamaged_files_are_read_whole(reader, tmp_path):
    """Or damage would not be what they are refused for."""
    put(VALID[reader], tmp_path)
    holder = READERS[reader][1](tmp_path)
    numbers = holder.weight if READERS[reader][1] is base else holder.delta
    assert len(holder.modules()) >= (4 if reader == "transposed" else len(GRAPH))
    assert all(numbers(name).any() for name in holder.modules())


def test_a_gguf_of_the_other_byte_order_is_refused(tmp_path):
    """Its numbers would be read as others."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("blk.0.attn_v.weight", np.arange(64, dtype=np.float32).reshape(8, 8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(lambda: weights.open_base(tmp_path), "byte order")


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_refused_or_read(reader):
    @settings(max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(files=damaged(reader))
    def tried(files):
        survives(reader, files)

    tried()
