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


def packed(key, store, method):
    """(module, why it is not read) where the tensor under `key` is of a packed weight; else None."""
    tensor, stem = store[key], re.sub(r"\.weight$", "", key.rpartition(".")[0])
    if tensor.kind not in PACKS or len(tensor.shape) < 2 or NO_WEIGHTS.search(key) or not stem:
        return None
    if key == f"{stem}.weight" and tensor.kind == "I8" and not unreadable(key, store, method):
        return None
    if (whole := store.get(f"{stem}.weight")) and whole.kind in PLAIN:
        return None
    by = method or next((by for mark, by in MARKS.items() if f"{stem}.{mark}" in store), "")
    return (
        stem,
        f"not read: it is packed{by and ' by '}{by} (as {key.removeprefix(f'{stem}.')}, {tensor.kind}); {WAY_OUT}",
    )


def unreadable(key, store, method):
    """Why the matrix under `key` is no weight, or an empty string."""
    kind, own, ends = store[key].kind, scales(key, store), store.ends.get(key.removesuffix(".weight"), ())
    odd = [end for end in ends if end not in SCALES and CHANGES.fullmatch(end) and not OF_ACTIVATIONS.fullmatch(end)]
    odd += own[1:] + [scale for scale in own if store[scale].kind not in PLAIN]
    by = f" by {method}" if method else ""
    if odd:
        return (
            f"not read: it is quantised{by}, stored as {kind} beside {listed(odd)}, which is not understood; {WAY_OUT}"
        )
    if kind not in PLAIN and not (kind == "I8" and own):
        return f"not read: it is quantised{by}, stored as {kind} and no scale is beside it; {WAY_OUT}"
    if kind.startswith("F8") and not own and method:
        return f"not read: it is stored as {kind} (float8){by} and no scale is beside it; {WAY_OUT}"
    return ""


def scales(key, store):
    """The keys of the scales beside a weight."""
    stem = key.removesuffix("weight")
    return [stem + end for end in SCALES if stem + end in store]


def scale_of(key, store, settings):
    """The scale of every number of the weight under `key`, broadcastable to it; 1.0 where it has none.

    settings: the quantization_config; its weight_block_size says how many rows and columns share a scale.
    """
    own = scales(key, store)
    if not own:
        return 1.0
    shape, scale = store[key].shape, store[own[0]].read()
    if scale.size == 1:
        return scale.reshape(())
    if scale.shape == shape[:1]:
        return scale[:, None]
    blocks = _blocks(settings.get("weight_block_size"), shape, scale.shape)
    if len(blocks) != 1:
        raise WeightsError(
            f"{own[0]} in {store[key].file} has shape {scale.shape}, and no weight_block_size in the config says how "
            f"it divides a weight of {shape}: {WAY_OUT}"
        )
    rows, columns = blocks.pop()
    return np.repeat(np.repeat(scale, rows, 0), columns, 1)[: shape[0], : shape[1]]


def _blocks(given, shape, counts):
    """{(rows, columns)} that may share one of `counts` scales: as given, else by division, and as is usual."""
    tried, found = [given], set()
    if given is None and len(counts) == 2:
        tried = [[size // max(1, n) for size, n in zip(shape, counts, strict=True)], [BLOCK, BLOCK]]
    for sizes in tried:
        known = isinstance(sizes, list) and len(sizes) == len(counts) == 2 and all(type(n) is int for n in sizes)
        if known and min(sizes) > 0 and [-(-size // n) for size, n in zip(shape, sizes, strict=True)] == list(counts):
            found.add(tuple(map(min, sizes, shape)))
    return found
