"""Weights stored as something else than their numbers: which are numbers times a scale, and which are packed."""

import re

import numpy as np

from helpers.weights.tensors import PLAIN, WeightsError, listed

WAY_OUT = "give the original, unquantised model, or dequantise this one first"
SCALES = ("weight_scale", "weight_scale_inv", "scale_weight")  # beside a weight that is their product
PACKS = ("U8", "I8", "U16", "I16", "U32", "I32", "F4", "F8_E8M0")  # whole numbers that several others may be packed in
NO_WEIGHTS = re.compile(r"(_ids|_index|mask|\.bias)$")  # of whole numbers that are none of a weight's
# Ends of tensors by which to know what packed a weight, where the config does not say.
MARKS = {
    "qweight": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors",
    "W_q": "HQQ",
    "codes": "AQLM",
    "weight_blocks": "MXFP4",
    "SCB": "bitsandbytes",
    "weight.absmax": "bitsandbytes",
    "weight._data": "quanto",
    "weight_scales": "EETQ",
    "weight_scale_2": "ModelOpt",
}
# What beside a weight changes its meaning, unless it is known to be of activations.
CHANGES = re.compile(r"weight_.+|.*(scale|zero).*")
OF_ACTIVATIONS = re.compile(r"(input|output|act|[kqv])_.*|.*_(input|output)")
BLOCK = 128  # rows and columns that share a scale, where neither config nor division says another number


def refusal(key, store, settings):
    """(module, why its weight is not read) where the tensor under `key` is not its numbers as they are; else None.

    settings: the quantization_config.
    """
    tensor, (owner, _, end) = store[key], key.rpartition(".")
    module, method = owner.removesuffix(".weight"), settings.get("quant_method")
    if not module or len(tensor.shape) < 2:
        return None
    weight = f"{module}.weight"
    if store.fields:  # a GGUF is read by its library, whatever the type
        beside = key == weight and f"{module}.scale" in store
        return (module, f"not read: {module}.scale stands beside it; {WAY_OUT}") if beside else None
    if key == weight:
        plain = _understood(weight, store, method)
    else:
        plain = tensor.kind not in PACKS or NO_WEIGHTS.search(key) or (weight in store and store[weight].kind in PLAIN)
    if plain:
        return None
    method = method or next((by for mark, by in MARKS.items() if f"{module}.{mark}" in store), "")
    ends = store.ends[owner]
    beside = f"among {listed(ends)}" if len(ends) > 1 else "beside no scale"
    by = f" by {method}" if method else ""
    return module, f"not read: it is quantised or packed{by}, {end} is {tensor.kind}, {beside}; {WAY_OUT}"


def _understood(weight, store, method):
    """Whether a weight is the numbers under its key, times a scale if there is one."""
    kind, own, beside = store[weight].kind, scales(weight, store), store.ends[weight.removesuffix(".weight")]
    unknown = [end for end in beside if end not in SCALES and CHANGES.fullmatch(end)]
    if not all(OF_ACTIVATIONS.fullmatch(end) for end in unknown) or not all(store[key].kind in PLAIN for key in own):
        return False
    if own:
        return len(own) == 1 and kind in (*PLAIN, "I8")
    return kind in PLAIN and not (kind.startswith("F8") and method)


def scales(key, store):
    """The keys of the scales beside a weight."""
    stem = key.removesuffix("weight")
    return [stem + end for end in SCALES if stem + end in store]


def scale_of(tensor, store, settings):
    """The scale of every number of a weight, broadcastable to it; 1.0 where it has none.

    settings: the quantization_config; its weight_block_size says how many rows and columns share a scale.
    """
    own = scales(tensor.key, store)
    if not own:
        return 1.0
    shape, scale = tensor.shape, store[own[0]].read()
    if scale.size == 1 or scale.shape == shape[:1]:
        return scale.reshape(-1, 1)
    given = settings.get("weight_block_size")
    usual = [[size // max(1, count) for size, count in zip(shape, scale.shape, strict=False)], [BLOCK, BLOCK]]
    tried = usual if given is None else [given]
    blocks = {tuple(map(min, sizes, shape)) for sizes in tried if _divide(sizes, shape, scale.shape)}
    if len(blocks) != 1:
        unclear = f"has shape {scale.shape}, and no weight_block_size in the config says how it divides {shape}"
        raise WeightsError(f"{own[0]} in {tensor.file} {unclear}: {WAY_OUT}")
    rows, columns = blocks.pop()
    return np.repeat(np.repeat(scale, rows, 0), columns, 1)[: shape[0], : shape[1]]


def _divide(sizes, shape, counts):
    """Whether blocks of these sizes, which may be anything, divide a matrix into so many."""
    known = isinstance(sizes, list) and len(sizes) == len(counts) == 2 and all(type(n) is int and n > 0 for n in sizes)
    return known and all(-(-size // n) == count for size, n, count in zip(shape, sizes, counts, strict=True))
