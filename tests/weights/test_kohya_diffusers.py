"""Names in adapters of kohya's scripts, diffusers and ComfyUI, and which modules of a base they are."""

import numpy as np
import pytest
import torch
import transformers as tr

from helpers import weights
from helpers.weights import LowRank
from tests.weights.building import TEXT, llama, refused, write
from tests.weights.diffusion import CLIP, FLUX, IN, ONE, OUT, SINGLE, UNET, R, draw, flat, lora, model, pairs, same

# ------------------------------------------------------------------ names
KOHYA = {"unet": ("lora_unet_", UNET), "flux": ("lora_transformer_", FLUX), "flux, lycoris": ("lycoris_", FLUX)}
KOHYA |= {"cascade": ("lora_prior_unet_", UNET), "single file": ("lora_unet_", SINGLE)}


@pytest.mark.parametrize("kind", KOHYA)
def test_flattened_names_are_those_of_the_base(tmp_path, kind):
    prefix, names = KOHYA[kind]
    base = model(tmp_path / "base", names)
    held, truth = pairs(names, lambda name: prefix + flat(name), alpha=1)
    updates = lora(tmp_path / "adapter", held, base)
    same(updates, truth)
    assert weights.match(base, updates) == {name: name for name in names}
    assert isinstance(updates.update(names[0]), LowRank) and updates.notes == []
    told = updates.describe().set_index("module").loc[names[0]]
    assert told["in the base"] == names[0] and told["key"] == f"{prefix}{flat(names[0])}.lora_down.weight"
    assert told["how it is read"].endswith("r = 3, scale = 1/3")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "model."])
@pytest.mark.parametrize("rename", [lambda n: f"lora_unet_{flat(n)}", "diffusion_model.{}".format, "unet.{}".format])
def test_what_a_single_file_has_before_its_names(tmp_path, prefix, rename):
    base = model(tmp_path / "base", [prefix + name for name in SINGLE])
    held, truth = pairs(SINGLE, rename, alpha=3)
    same(lora(tmp_path / "adapter", held, base), {prefix + name: delta for name, delta in truth.items()})


@pytest.mark.parametrize("rename", ["lora_te_{}", "lora_te1_{}", "text_encoder.{}"])
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
def test_a_text_encoder_with_and_without_text_model(tmp_path, rename, ours, theirs):
    """transformers saves CLIP's text encoder with `text_model.` before its names, or without, by version."""
    clip = tr.CLIPTextModel(tr.CLIPTextConfig(**TEXT))
    clip.save_pretrained(tmp_path / "saved")
    saved = {name.removeprefix("text_model."): tensor for name, tensor in clip.state_dict().items()}
    held = {("text_model." if ours else "") + name: tensor for name, tensor in saved.items()}
    base = weights.open_base(write(tmp_path / "base", held, {"model_type": "clip_text_model"}))
    names = [name for name in CLIP if "self_attn" in name]
    told = {name: name if theirs else name.removeprefix("text_model.") for name in names}
    dotted = rename.startswith("text_encoder")
    adapter, truth = pairs(
        names, lambda name: rename.format(told[name] if dotted else flat(told[name])), alpha=1, shape=(32, 32)
    )
    expected = {name if ours else name.removeprefix("text_model."): delta for name, delta in truth.items()}
    same(lora(tmp_path / "adapter", adapter, base), expected)
    own = lora(tmp_path / "adapter", adapter, weights.open_base(tmp_path / "saved"))
    for name, delta in expected.items():
        np.testing.assert_array_equal(own.delta(name.removeprefix("text_model.")), delta.astype(np.float64))


def test_a_language_model(tmp_path):
    """Parts with underscores of their own, in a model as transformers saves it, with and without its first part."""
    llama().save_pretrained(tmp_path / "base")
    base = weights.open_base(tmp_path / "base")
    names = [name for name in base.modules() if name.endswith(("q_proj", "o_proj"))]
    for before in ("model.", ""):
        rename = lambda name, before=before: "lora_te_" + flat(name.replace("model.", before))  # noqa: E731
        held, truth = pairs(names, rename, alpha=1, shape=(32, 32))
        same(lora(tmp_path / "adapter", held, base), truth)


def test_a_text_adapter_is_not_one_of_the_vision_tower(tmp_path):
    layers = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.1.self_attn.q_proj"]
    towers = [f"{tower}.{name}" for tower in ("text_model", "vision_model") for name in layers]
    held, truth = pairs([f"text_model.{name}" for name in layers], lambda name: f"lora_te_{flat(name)}", alpha=1)
    same(lora(tmp_path / "both", held, model(tmp_path / "clip", towers)), truth)
    vision = model(tmp_path / "vision", towers[2:])
    refused(lambda: lora(tmp_path / "vision", held, vision), "no module of", "text_model", "vision_model")
    bare = pairs(layers, lambda name: f"lora_te_{flat(name)}", alpha=1)[0]
    refused(lambda: lora(tmp_path / "bare", bare, model(tmp_path / "clip", towers)), "more than one way")


# ------------------------------------------------------------------ several components
def both(shape=(OUT, IN)):
    """(an adapter of a UNet and of its text encoder, ΔW of the one, of the other)."""
    unet, of_unet = pairs(UNET, lambda name: f"lora_unet_{flat(name)}", alpha=1)
    text, of_text = pairs(CLIP, lambda name: f"lora_te_{flat(name)}", alpha=1, shape=shape)
    return {**unet, **text}, of_unet, of_text


def test_modules_of_another_component_are_left_out_by_name(tmp_path):
    held, of_unet, of_text = both()
    for names, truth, other in ((UNET, of_unet, "lora_te"), (CLIP, of_text, "lora_unet")):
        updates = lora(tmp_path / other, held, model(tmp_path / f"base {other}", names))
        same(updates, truth)
        assert len(updates.left_out) == len(held) // 3 - len(names)
        assert all(name.startswith(other) and other in why for name, why in updates.left_out.items())
        refused(lambda updates=updates: updates.update("nowhere"), f"any other of {other}")


def test_a_single_file_holds_both(tmp_path):
    held, of_unet, of_text = both()
    truth = {f"model.diffusion_model.{name}": delta for name, delta in of_unet.items()}
    truth |= {f"cond_stage_model.transformer.{name}": delta for name, delta in of_text.items()}
    same(lora(tmp_path / "adapter", held, model(tmp_path / "base", truth)), truth)


def test_the_text_encoder_of_two_that_the_base_is(tmp_path):
    """SDXL's two text encoders bear the same names; their shapes tell them apart, or nothing does."""
    one, of_one = pairs(CLIP, lambda name: f"lora_te1_{flat(name)}", alpha=1)
    two, of_two = pairs(CLIP, lambda name: f"lora_te2_{flat(name)}", alpha=5, shape=(12, 10))
    for shape, truth, other in (((OUT, IN), of_one, "lora_te2"), ((12, 10), of_two, "lora_te1")):
        updates = lora(tmp_path / "adapter", {**one, **two}, model(tmp_path / f"base{shape}", CLIP, shape))
        same(updates, truth)
        assert len(updates.left_out) == len(CLIP) and all(name.startswith(other) for name in updates.left_out)
    alike = {name.replace("te1", "te2"): tensor for name, tensor in one.items()}
    base = model(tmp_path / "base", CLIP)
    refused(lambda: lora(tmp_path / "alike", {**one, **alike}, base), "more than one way", "lora_te1", "lora_te2")
    same(lora(tmp_path / "one", one, base), of_one)


# ------------------------------------------------------------------ names that fit none, or several
def test_a_base_in_the_other_naming_is_refused(tmp_path):
    original = ["input_blocks.4.1.transformer_blocks.0.attn1.to_q", "middle_block.1.transformer_blocks.0.attn1.to_q"]
    held, truth = pairs(original, lambda name: f"lora_unet_{flat(name)}", alpha=1)
    base = model(tmp_path / "base", UNET)
    refused(lambda: lora(tmp_path / "sdxl", held, base), "input_blocks_4_1", "single-file", "give the base")
    same(lora(tmp_path / "sdxl", held, model(tmp_path / "single", original)), truth)


@pytest.mark.parametrize("twins", [("a.b_c.q", "a_b.c.q"), ("a.b.0", "a.b_0"), ("x.to_out.0", "x.to_out_0")])
def test_names_that_are_one_when_flattened_are_refused(tmp_path, twins):
    base = model(tmp_path / "base", [*twins, ONE])
    held, _ = pairs(twins[:1], lambda name: f"lora_unet_{flat(name)}", alpha=1)
    refused(lambda: lora(tmp_path / "adapter", held, base), flat(twins[0]), *map(repr, twins))
    dotted, truth = pairs(twins, "unet.{}".format, alpha=1)
    same(lora(tmp_path / "dotted", dotted, base), truth)


def test_one_module_under_two_names_is_refused(tmp_path):
    base, (held, _) = model(tmp_path / "base", UNET), pairs([ONE], lambda name: f"lora_unet_{flat(name)}", alpha=1)
    for rename in ("unet.{}".format, "{}".format, lambda name: "unet." + flat(name)):
        more, _ = pairs([ONE], rename, alpha=1)
        refused(lambda more=more: lora(tmp_path / "adapter", {**held, **more}, base), "way")
    a = {f"unet.{ONE}.lora_A.weight": draw(R, IN), f"unet.{ONE}.lora.down.weight": draw(R, IN)}
    refused(lambda: lora(tmp_path / "a", a, base), "lora_A.weight", "lora.down.weight", "remove one")


def test_another_shape_than_the_bases_is_refused(tmp_path):
    held, _ = pairs([ONE], lambda name: f"lora_unet_{flat(name)}", alpha=1, shape=(OUT, IN + 1))
    updates = lora(tmp_path / "adapter", held, model(tmp_path / "base", UNET))
    refused(lambda: updates.update(ONE), "8 × 7", "8 × 6")


def test_without_a_base_the_names_are_those_of_the_file(tmp_path):
    held, truth = pairs(UNET, lambda name: f"lora_unet_{flat(name)}", alpha=1)
    same(lora(tmp_path / "adapter", held), {f"lora_unet_{flat(name)}": delta for name, delta in truth.items()})
    dotted, truth = pairs(FLUX, "transformer.{}".format, ("lora_A.weight", "lora_B.weight"))
    same(lora(tmp_path / "dotted", dotted), {f"transformer.{name}": delta for name, delta in truth.items()})
    two = lora(tmp_path / "other", {name: tensor + 1 for name, tensor in held.items()})
    assert two.modules() == lora(tmp_path / "adapter", held).modules()


# ------------------------------------------------------------------ how diffusers and ComfyUI call factors
MID, TEXT_LAYER = "mid_block.attentions.0.transformer_blocks.0", "text_model.encoder.layers.0"
CALLED = {
    f"unet.{MID}.attn1.processor.to_q_lora.{{}}.weight": f"{MID}.attn1.to_q",
    f"unet.{MID}.attn1.processor.to_out_lora.{{}}.weight": f"{MID}.attn1.to_out.0",
    f"{MID}.attn1.processor.to_out_lora.{{}}.weight": f"{MID}.attn1.to_out.0",
    f"unet.{MID}.attn1.to_out.0.lora.{{}}.weight": f"{MID}.attn1.to_out.0",
    f"unet.{MID}.ff.net.0.proj.lora.{{}}.weight": f"{MID}.ff.net.0.proj",
    f"unet.{MID}.attn1.to_q.lora_{{}}.weight": f"{MID}.attn1.to_q",
    f"diffusion_model.{MID}.attn1.to_q.lora_{{}}.weight": f"{MID}.attn1.to_q",
    f"text_encoder.{TEXT_LAYER}.self_attn.to_q_lora.{{}}.weight": f"{TEXT_LAYER}.self_attn.q_proj",
    f"text_encoder.{TEXT_LAYER}.self_attn.to_out_lora.{{}}.weight": f"{TEXT_LAYER}.self_attn.out_proj",
    f"text_encoder.{TEXT_LAYER}.self_attn.q_proj.lora_linear_layer.{{}}.weight": f"{TEXT_LAYER}.self_attn.q_proj",
    f"text_encoder_2.{TEXT_LAYER}.mlp.fc1.lora_linear_layer.{{}}.weight": f"{TEXT_LAYER}.mlp.fc1",
}


@pytest.mark.parametrize("form", CALLED)
def test_older_names_of_diffusers_and_comfyui(tmp_path, form):
    a, b = draw(R, IN), draw(OUT, R, seed=1)
    name, delta = CALLED[form], (b.double() @ a.double()).numpy()
    base = model(tmp_path / "base", UNET + CLIP)
    same(lora(tmp_path / "adapter", {form.format("down"): a, form.format("up"): b}, base), {name: delta})
    alpha = form.partition("_lora." if "_lora." in form else ".lora")[0] + ".alpha"
    updates = lora(tmp_path / "alpha", {form.format("down"): a, form.format("up"): b, alpha: torch.tensor(6.0)}, base)
    same(updates, {name: 2 * delta})
