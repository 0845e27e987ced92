"""Each format of each case: written, read, and held against the truth."""

import copy
import json
import re

import numpy as np
import peft
import torch
from transformers.pytorch_utils import Conv1D

from helpers import weights
from helpers.weights import WeightsError
from tests.weights.attention import ATTENTION, taken
from tests.weights.building import gguf_adapter, gguf_lora, gguf_model, write
from tests.weights.cases import ALPHA, IN_GGUF, IN_MLX, RANK, Inapplicable, Partly, Wrong

SCALE = 2.5


def base_safetensors(case):
    compare(case.held, lambda name: case.base.weight(case.where[name]))


def base_gguf(case):
    """As llama.cpp converts it: linear layers and embeddings; a tied output layer is read, though not in it."""
    stems, held = case.in_gguf, {}
    for name, stem in stems.items():
        if f"{case.where.get(name, name)}.weight" in case.stored:
            matrix = case.held[name] if name in case.held else case.base.weight(name)
            held[f"{stem}.weight"] = case.in_llama_cpp(name, matrix)
    fields = {"ARCH__attention__head_count_kv": case.heads[1]}
    gguf_model(case.place / "m.gguf", held, "F16", IN_GGUF[case.name], case.heads[0], **fields)
    found = weights.open_base(case.place / "m.gguf")
    pairs = weights.match(case.base, found)
    truth = {name: w.astype(np.float16).astype("f") for name, w in case.held.items() if name in case.kept}
    compare(truth, lambda name: found.weight(paired(case.where[name], pairs, found)))


def of_lora(case):
    judge(case, *case.lora)


def of_dora(case):
    judge(case, *case.of_peft("dora", peft.LoraConfig, case.names, r=RANK, lora_alpha=ALPHA, use_dora=True))


def of_loha(case):
    judge(case, *case.of_peft("loha", peft.LoHaConfig, case.layers, r=RANK, alpha=ALPHA))


def of_lokr(case):
    judge(case, *case.of_peft("lokr", peft.LoKrConfig, case.layers, r=RANK, alpha=ALPHA))


def of_ia3(case):
    judge(case, *case.of_peft("ia3", peft.IA3Config, case.names, feedforward_modules=case.names[::2]))


def of_kohya(case):
    begin, held = "lora_unet" if case.name == "unet" else "lycoris", {}
    factors = case.factors(case.layers) or _stop("not tried of Conv1D layers")
    for name, (a, b) in factors.items():
        flat = f"{begin}_{name.replace('.', '_')}"
        held |= {f"{flat}.lora_down.weight": a, f"{flat}.lora_up.weight": b, f"{flat}.alpha": np.float32(ALPHA)}
    place = write(case.place / "kohya", held, file="lora.safetensors")
    judge(case, place / "lora.safetensors", _multiplied(factors, ALPHA / RANK))


def of_diffusers(case):
    begin, held = "unet" if case.name == "unet" else "text_encoder", {}
    factors = case.factors(case.layers) or _stop("not tried of Conv1D layers")
    for name, (a, b) in factors.items():
        held |= {f"{begin}.{name}.lora_A.weight": a, f"{begin}.{name}.lora_B.weight": b}
    place = write(case.place / "diffusers", held, file="pytorch_lora_weights.safetensors")
    judge(case, place, _multiplied(factors, 1))


def of_mlx(case):
    if case.name not in IN_MLX:
        _stop("mlx-lm is not known to have such a model")
    inner, held = [each for each in case.names if re.search(r"\.h\.|^h\.|(?<!visual)\.layers\.", each)], {}
    factors = case.factors([each for each in inner if not re.search("vision|visual", each)])
    for name, (a, b) in factors.items():
        theirs = re.sub(*IN_MLX[case.name], name)
        held |= {f"{theirs}.lora_a": a.T, f"{theirs}.lora_b": b.T}
    settings = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
    place = write(case.place / "mlx", held, file="adapters.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": settings}
    (place / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    judge(case, place, _multiplied(factors, SCALE))


def of_gguf(case):
    held = {}
    factors = case.factors([name for name in case.in_gguf if name in case.held])
    for name, (a, b) in factors.items():
        b = case.in_llama_cpp(name, b)
        turned = isinstance(case.model.get_submodule(name), Conv1D)  # which the converter turns over, like W
        held |= gguf_lora(case.in_gguf[name], *((b.T, a.T) if turned else (a, b)))
    gguf_adapter(case.place / "a.gguf", held, IN_GGUF[case.name], **{"adapter.lora.alpha": ALPHA})
    judge(case, case.place / "a.gguf", _multiplied(factors, ALPHA / RANK))


def of_whole(case):
    tuned = copy.deepcopy(case.model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    tuned.save_pretrained(case.place / "tuned")
    truth = {}
    for name, before in case.held.items():
        part = tuned.get_submodule(name)
        after = (part.weight.T if isinstance(part, Conv1D) else part.weight).detach().numpy()
        truth[name] = after.astype(np.float64) - before
    judge(case, case.place / "tuned", truth, others=True)


def of_parts(case):
    """Parts and heads of W and of a LoRA's ΔW: those rows by which the model's own attention moves."""
    entries = [each[1:] for each in ATTENTION if each[0] == case.name.removesuffix("-tied").removesuffix("-bare")]
    if not entries:
        _stop("no attention of it is computed")
    place, truth = case.lora
    updates, model = weights.open_update(place, case.base), copy.deepcopy(case.model).double()
    for projections, heads, shared in entries:
        if case.name.endswith("-bare"):
            projections = [each.removeprefix("bert.").removeprefix("transformer.") for each in projections]
        parts = [
            (case.where[name] + text, name, cut)
            for name, text, cut in taken(model, case.name, projections, heads, shared)
        ]
        compare({asked: cut(case.held[name]) for asked, name, cut in parts}, case.base.weight)
        compare({asked: cut(truth[name]) for asked, name, cut in parts}, updates.delta)


COLUMNS = {
    **{"safetensors": base_safetensors, "GGUF": base_gguf},
    **{"LoRA": of_lora, "DoRA": of_dora, "LoHa": of_loha, "LoKr": of_lokr, "IA3": of_ia3},
    **{"kohya": of_kohya, "diffusers": of_diffusers, "mlx": of_mlx, "llama.cpp": of_gguf, "whole": of_whole},
    "parts": of_parts,
}


def judge(case, path, truth, others=False):
    """Every module's ΔW within 1e-5 of its largest number, and each paired with its own; else Wrong, or WeightsError.

    truth: {name in the model: ΔW}. others: whether modules besides may be paired, as embeddings of a whole model are.
    """
    updates = weights.open_update(path, case.base)
    pairs = weights.match(case.base, updates)
    more = pairs.keys() - {case.where[name] for name in truth}
    if more and not others:
        raise Wrong(f"paired besides: {sorted(more)}")
    compare(truth, lambda name: updates.delta(paired(case.where[name], pairs, updates)))


def paired(ours, pairs, holder):
    """Another holder's name of the base's module. Raises its refusal of that name; Wrong where it has it."""
    if ours not in pairs:
        raise Wrong(f"{ours} is not paired with {holder.find(ours)}")
    return pairs[ours]


def compare(truth, read):
    """Hold what is read of each name against the truth. Raises Wrong; the refusal of all, or Partly that of some."""
    if not truth:
        raise Wrong("there is nothing to compare")
    refusals = []
    for name, right in truth.items():
        try:
            found = read(name)
        except WeightsError as refusal:
            refusals.append(refusal)
            continue
        if found.shape != right.shape or not np.abs(found - right).max() <= 1e-5 * np.abs(right).max():
            raise Wrong(f"{name} is read as another matrix {found.shape}, where one of {right.shape} is right")
    if refusals:
        raise refusals[0] if len(refusals) == len(truth) else Partly(refusals[0])


def _stop(reason):
    raise Inapplicable(reason)


def _multiplied(factors, scale):
    return {name: scale * b.astype(np.float64) @ a for name, (a, b) in factors.items()}
