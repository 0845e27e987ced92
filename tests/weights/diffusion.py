"""Adapters of diffusion models as kohya's scripts, LyCORIS, diffusers and ComfyUI save them, and their ΔW by hand."""

import numpy as np
import torch
from safetensors.torch import save_file

from helpers import weights
from tests.weights.building import write

UNET_FILE = "diffusion_pytorch_model.safetensors"
BLOCKS = ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.1", "up_blocks.2")
PARTS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "ff.net.0.proj", "ff.net.2")
UNET = [f"{block}.attentions.{n}.transformer_blocks.0.{part}" for block in BLOCKS for n in (0, 1) for part in PARTS]
UNET += ["time_embedding.linear_1", "down_blocks.0.resnets.0.time_emb_proj", "add_embedding.linear_2"]
FLUX = [f"transformer_blocks.{n}.attn.{part}" for n in (0, 1, 11) for part in ("to_q", "add_q_proj", "to_out.0")]
FLUX += ["single_transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_out", "x_embedder", "proj_out"]
SINGLE = [f"double_blocks.{n}.img_attn.qkv" for n in (0, 1)] + ["single_blocks.0.linear1", "time_in.in_layer"]
CLIP = [
    f"text_model.encoder.layers.{n}.{part}"
    for n in (0, 1)
    for part in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
]
ONE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
OUT, IN, R = 8, 6, 3
AB = ("lora_A.weight", "lora_B.weight")


def flat(name):
    return name.replace(".", "_")


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(place, names, shape=(OUT, IN), convs=(), file=UNET_FILE):
    """Save a model of these modules; its Base. convs: modules whose weight is a 1 × 1 convolution."""
    held = {f"{name}.weight": draw(*shape, seed=n) for n, name in enumerate(names)}
    held |= {f"{name}.weight": draw(*shape, 1, 1) for name in convs}
    return weights.open_base(write(place, held, {"_class_name": "UNet2DConditionModel"}, file))


def pairs(names, rename, ends=("lora_down.weight", "lora_up.weight"), alpha=None, shape=(OUT, IN), r=R):
    """({name in the file: tensor}, {module: ΔW}) of LoRA; rename: of a module. alpha: of the first; one more each."""
    held, truth = {}, {}
    for n, name in enumerate(names):
        a, b = draw(r, shape[1], seed=n), draw(shape[0], r, seed=n + 1)
        held |= {f"{rename(name)}.{end}": tensor for end, tensor in zip(ends, (a, b), strict=True)}
        if alpha is not None:
            held[f"{rename(name)}.alpha"] = torch.tensor(float(alpha + n))
        truth[name] = (1 if alpha is None else (alpha + n) / r) * (b.double() @ a.double()).numpy()
    return held, truth


def lora(place, held, base=None, metadata=None, file="style.safetensors"):
    """Save an adapter's tensors, and open it."""
    place.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in held.items()}, place / file, metadata)
    return weights.open_update(place / file, base)


def same(updates, truth):
    assert updates.modules() == sorted(truth)
    for name, delta in truth.items():
        assert updates.shape(name) == delta.shape
        np.testing.assert_allclose(updates.delta(name), delta, atol=1e-6 * np.abs(delta).max())
