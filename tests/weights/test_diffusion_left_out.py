"""What in kohya's and diffusers' adapters is no factor, or none that can be right: left out by name, or refused."""

import numpy as np
import pytest
import torch

from helpers import weights
from tests.weights.building import refused
from tests.weights.diffusion import AB, FLAT, IN, ONE, OUT, R, draw, flat, lora, model, pairs, same

LEFT_OUT = {
    "conv.lora_down.weight": (draw(R, IN, 3, 3), "a convolution"),
    "conv.lora_mid.weight": (draw(R, R, 3, 3), "convolution"),
    "conv.hada_t1": (draw(R, R, 3, 3), "convolution"),
    "conv.lokr_t2": (draw(R, R, 3, 3), "convolution"),
    "conv.lokr_w2": (draw(R, R, 3, 3), "convolution"),
    "linear.diff": (draw(OUT, IN), "a whole weight or difference"),
    "linear.set_weight": (draw(OUT, IN), "a whole weight or difference"),
    "norm.w_norm": (draw(OUT), "a whole weight or difference"),
    "linear.diff_b": (draw(OUT), "no factor"),
    "norm.b_norm": (draw(OUT), "no factor"),
    "linear.bias": (draw(OUT), "no factor"),
    "linear.on_input": (torch.tensor(0), "(IA)^3"),
    "linear.oft_blocks": (draw(2, 3, 3), "OFT"),
    "linear.a1.weight": (draw(R, IN), "GLoRA"),
    "linear.reshape_weight": (torch.tensor([8, 6]), "shape of the base"),
    "half.lora_down.weight": (draw(R, IN), "no lora_B"),
    "half.lora_up.weight": (draw(OUT, R), "no lora_A"),
    "half.hada_w1_a": (draw(OUT, R), "incomplete"),
    "whole.lora_down.weight": (torch.ones(R, IN, dtype=torch.int8), "stored as I8"),
    "flat.lora_down.weight": (torch.ones(0, IN), "gathered"),
}


@pytest.mark.parametrize("key", LEFT_OUT)
def test_what_is_no_factor_is_left_out_by_name_and_the_rest_read(tmp_path, key):
    tensor, why = LEFT_OUT[key]
    more = {f"lora_unet_{key}": tensor, f"lora_unet_{key.partition('.')[0]}.alpha": torch.tensor(1.0)}
    held, truth = pairs([ONE], lambda name: f"lora_unet_{flat(name)}", alpha=1)
    updates = lora(tmp_path / "both", {**held, **more}, model(tmp_path / "base", [ONE, "linear", "half"]))
    same(updates, truth)
    assert any(why in each for each in updates.left_out.values()), updates.left_out
    refused(lambda: updates.update("nowhere"), "not read in it", why)
    refused(lambda: lora(tmp_path / "alone", more), "no LoRA factors", why)


@pytest.mark.parametrize("ends", [("lora_down.weight", "lora_up.weight"), AB])
def test_a_reshaped_module_is_not_read_though_its_factors_are_there(tmp_path, ends):
    held, _ = pairs([ONE], "unet.{}".format, ends)
    held[f"unet.{ONE}.reshape_weight"] = torch.tensor([8, 6])
    refused(lambda: lora(tmp_path, held), "no LoRA factors", "shape of the base's weight")


def test_factors_of_1_by_1_are_read_where_the_base_has_a_linear_layer(tmp_path):
    """SD 1.5 projects by 1 × 1 convolutions, SD 2 and SDXL by linear layers; kohya's factors may be [r, in, 1, 1]."""
    proj, rename = "down_blocks.0.attentions.0.proj_in", lambda name: f"lora_unet_{flat(name)}"
    held, truth = pairs([proj, ONE], rename, alpha=1)
    tall = {
        name: tensor[..., None, None] if tensor.ndim and "proj_in" in name else tensor for name, tensor in held.items()
    }
    same(lora(tmp_path / "adapter", tall, model(tmp_path / "linear", [proj, ONE])), truth)
    truth.pop(proj)
    conv = model(tmp_path / "conv", [ONE], convs=[proj])
    for each in (tall, held):
        updates = lora(tmp_path / "adapter", each, conv)
        same(updates, truth)
        refused(lambda updates=updates: updates.update("proj_in"), "no matrix", flat(proj))
    bare = lora(tmp_path / "adapter", tall)
    assert bare.modules() == [rename(ONE)] and "convolution" in bare.left_out[rename(proj)]
    tall[f"{rename(proj)}.dora_scale"] = torch.ones(1, IN, 1, 1)
    linear = weights.open_base(tmp_path / "linear")
    after = linear.weight(proj).astype(float) + pairs([proj], flat, alpha=1)[1][proj]
    expected = after / np.linalg.norm(after, axis=0) - linear.weight(proj)
    np.testing.assert_allclose(lora(tmp_path / "adapter", tall, linear).delta(proj), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_down.weight": torch.full((R, IN), torch.nan)}, ["lora_down.weight", "NaN"]),
        ({"lora_up.weight": torch.full((OUT, R), torch.inf)}, ["lora_up.weight", "Inf"]),
        ({"lora_up.weight": draw(OUT, R + 1)}, ["A (3, 6) and B (8, 4)", "do not fit"]),
        ({"lora_up.weight": draw(R, OUT)}, ["do not fit"]),
        ({"hada_w1_a": draw(OUT, R)}, ["factors of a single kind"]),
    ],
)
def test_factors_that_cannot_be_right_are_refused(tmp_path, change, words):
    held, _ = pairs([ONE], lambda name: f"lora_unet_{flat(name)}", alpha=1)
    held |= {f"{FLAT}.{end}": tensor for end, tensor in change.items()}
    refused(lambda: lora(tmp_path, held).update(FLAT), *words)


@pytest.mark.parametrize("key", ["base_model.model.x.lora_A.weight", "unet.base_model.model.x.lora_A.weight"])
def test_pefts_file_without_its_config_stays_refused(tmp_path, key):
    held = {key: draw(R, IN), key.replace("lora_A", "lora_B"): draw(OUT, R)}
    refused(lambda: lora(tmp_path, held), "without its adapter_config.json", key)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_stored_precision_is_that_of_the_factors(tmp_path, dtype):
    held, _ = pairs([ONE], lambda name: f"lora_unet_{flat(name)}")
    held = {name: tensor.to(dtype) for name, tensor in held.items()} | {f"{FLAT}.alpha": torch.tensor(1.0)}
    updates = lora(tmp_path, held)
    a, b = (held[f"{FLAT}.lora_{end}.weight"].double().numpy() for end in ("down", "up"))
    np.testing.assert_allclose(updates.delta(FLAT), b @ a / 3, atol=1e-6)
    assert updates.update(FLAT).stored_precision == torch.finfo(dtype).eps / 2


NO_MODULE = "no module of style.safetensors is one of base"
ODD_NAMES = dict.fromkeys(["." * 400, "_" * 400, "a_b." * 100, "lora_unet_", "(x).0.y", "é_ü"], NO_MODULE)


@pytest.mark.parametrize(("name", "words"), [*ODD_NAMES.items(), ("\n", "holds no LoRA factors")])
def test_names_may_be_anything(tmp_path, name, words):
    held = {f"{name}.lora_down.weight": draw(R, IN), f"{name}.lora_up.weight": draw(OUT, R)}
    base = model(tmp_path / "base", [ONE])
    refused(lambda: lora(tmp_path / "alone", held, base), words)
    known, truth = pairs([ONE], lambda each: f"lora_unet_{flat(each)}", alpha=1)
    same(lora(tmp_path / "both", {**held, **known}, base), truth)
