"""By what kohya's and diffusers' adapters multiply B A: their alpha, or the config in a header."""

import json

import numpy as np
import pytest
import torch

from helpers import weights
from tests.weights.building import refused
from tests.weights.diffusion import AB, CLIP, FLUX, ONE, UNET, flat, lora, model, pairs, same


@pytest.mark.parametrize(
    ("alpha", "scale", "formula"),
    [
        (torch.tensor(4.5), 1.5, "4.5/3"),
        (torch.tensor([4.5]), 1.5, "4.5/3"),
        (torch.tensor(6), 2, "6/3"),
        (torch.tensor(6, dtype=torch.int32), 2, "6/3"),
        (torch.tensor(1.5, dtype=torch.bfloat16), 0.5, "1.5/3"),
        (torch.tensor(-3.0), -1, "-3/3"),
        (torch.tensor(0.0), 1, "1, as alpha is 0"),
        (None, 1, "1, as no alpha is given"),
    ],
)
def test_alpha(tmp_path, alpha, scale, formula):
    """sd-scripts and LyCORIS take r for an alpha that is missing or 0."""
    held, truth = pairs([ONE], flat)
    held |= {} if alpha is None else {f"{flat(ONE)}.alpha": alpha}
    updates = lora(tmp_path, held)
    assert updates.update(flat(ONE)).scale == scale
    np.testing.assert_allclose(updates.delta(flat(ONE)), scale * truth[ONE], atol=1e-6)
    assert formula in updates.describe().to_string()
    assert [("no alpha" in note and flat(ONE) in note) for note in updates.notes] == [True] * (alpha is None)


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (torch.tensor([1.0, 2.0]), ["alpha", "shape (2,)"]),
        (torch.zeros(0), ["alpha", "shape (0,)"]),
        (torch.tensor(torch.nan), ["alpha", "NaN"]),
        (torch.tensor(torch.inf), ["alpha", "Inf"]),
    ],
)
def test_an_alpha_that_is_no_number_is_refused(tmp_path, alpha, words):
    held = {**pairs([ONE], flat)[0], f"{flat(ONE)}.alpha": alpha}
    refused(lambda: lora(tmp_path, held).update(flat(ONE)), *words)


@pytest.mark.parametrize("rename", ["transformer.{}".format, "diffusion_model.{}".format, "{}".format])
def test_without_alpha_every_scale_is_1_whatever_the_rank(tmp_path, rename):
    ends, base = ("lora_A.weight", "lora_B.weight"), model(tmp_path / "base", FLUX)
    few, of_few = pairs(FLUX[:4], rename, ends, r=1)
    many, of_many = pairs(FLUX[4:], rename, ends, r=5)
    updates = lora(tmp_path / "adapter", {**few, **many}, base, file="pytorch_lora_weights.safetensors")
    same(updates, {**of_few, **of_many})
    assert {len(updates.update(name).a) for name in FLUX} == {1, 5}
    assert len(updates.notes) == 1 and "no alpha" in updates.notes[0] and "scale 1" in updates.notes[0]
    same(weights.open_update(tmp_path / "adapter", base), {**of_few, **of_many})
    with_alpha, truth = pairs(FLUX, rename, ends, alpha=2)
    updates = lora(tmp_path / "alpha", with_alpha, base)
    same(updates, truth)
    assert updates.notes == []


HEADER = {
    "unet.r": 3,
    "unet.lora_alpha": 5,
    "unet.peft_type": "LORA",
    "text_encoder.r": 3,
    "text_encoder.lora_alpha": 7,
}


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, [5 / 3, 5 / 3]),
        ({"unet.use_rslora": True}, [5 / 3**0.5] * 2),
        ({"unet.alpha_pattern": {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 9}}, [3, 5 / 3]),
        ({"unet.r": 8, "unet.rank_pattern": {"to_q": 3, "to_k": 3}}, [5 / 3] * 2),
    ],
)
def test_the_config_in_a_header_of_diffusers(tmp_path, config, scales):
    names = [ONE, ONE.replace("to_q", "to_k")]
    held, truth = pairs(names, "unet.{}".format, AB)
    text, of_text = pairs(CLIP, "text_encoder.{}".format, AB)
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps({**HEADER, **config})}
    for base, names_in_file in ((model(tmp_path / "base", UNET), "{}"), (None, "unet.{}")):
        updates = lora(tmp_path / "adapter", {**held, **text}, base, metadata)
        for name, scale in zip(names, scales, strict=True):
            np.testing.assert_allclose(updates.delta(names_in_file.format(name)), scale * truth[name], atol=1e-5)
    np.testing.assert_allclose(updates.delta(f"text_encoder.{CLIP[0]}"), 7 / 3 * of_text[CLIP[0]], atol=1e-5)
    assert updates.notes == []
    alone = {"lora_adapter_metadata": json.dumps({"r": 3, "lora_alpha": 6})}  # of one model, saved by itself
    bare, truth = pairs(names, "{}".format, AB)
    same(lora(tmp_path / "bare", bare, metadata=alone), {name: 2 * delta for name, delta in truth.items()})


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{", ["header", "not readable JSON"]),
        ("[" * 100_000, ["header", "not readable JSON"]),
        ("[1]", ["JSON list"]),
        ({"unet.r": "3"}, ["r of", "'3'"]),
        ({"unet.r": 0}, ["at odds"]),
        ({"unet.r": 4}, ["at odds"]),
        ({"unet.lora_alpha": None}, ["lora_alpha of", "None"]),
        ({"unet.rank_pattern": [["to_q", 2]]}, ["rank_pattern"]),
        ({"unet.init_lora_weights": "pissa"}, ["'pissa'", "changes the base"]),
        ({"unet.peft_type": "OFT"}, ["OFT adapter"]),
        ({"unet.use_dora": True}, ["at odds"]),
        ({"unet.use_rslora": "yes"}, ["use_rslora", "'yes'"]),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(tmp_path, header, words):
    held, _ = pairs([ONE], "unet.{}".format, AB)
    text = header if isinstance(header, str) else json.dumps({**HEADER, **header})
    refused(lambda: lora(tmp_path, held, metadata={"lora_adapter_metadata": text}).update("to_q"), *words)


def test_a_header_without_the_component_or_beside_an_alpha_is_refused(tmp_path):
    metadata = {"lora_adapter_metadata": json.dumps({"text_encoder.r": 3})}
    held, _ = pairs([ONE], "unet.{}".format, AB)
    refused(lambda: lora(tmp_path, held, metadata=metadata).update("to_q"), "at odds")
    held, _ = pairs([ONE], "unet.{}".format, AB, alpha=1)
    metadata = {"lora_adapter_metadata": json.dumps(HEADER)}
    refused(lambda: lora(tmp_path, held, metadata=metadata).update("to_q"), "at odds")
