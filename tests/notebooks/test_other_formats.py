"""Notebook 01 under papermill on what other trainers write, and on single heads: φ over all layers against SciPy's."""

import numpy as np
import pytest
import torch
import transformers as tr
from safetensors.torch import load_file
from scipy import linalg

from helpers.paths import ROOT
from tests.notebooks import running
from tests.notebooks.running import rows
from tests.weights import building

NOTEBOOK = ROOT / "notebooks" / "01_subspace_similarity.ipynb"
HEADS, SIZE = 4, 16
D = HEADS * SIZE
LLAMA = "model.layers.{}.self_attn.{}_proj"
UNET = "down_blocks.{}.attentions.0.transformer_blocks.0.attn1.to_{}"
NEOX = "gpt_neox.layers.{}.attention.query_key_value"


def factors(out, r):
    """A [r, 64] and B [out, r], drawn from torch's generator."""
    return torch.randn(r, D), torch.randn(out, r)


def kohya(place):
    """Synthetic: a diffusion model of three blocks, and two files with names flattened by underscores."""
    names = [(n, part) for n in range(3) for part in "qv"]
    weights = {UNET.format(*name): torch.randn(D, D) for name in names}
    config, file = {"_class_name": "UNet2DConditionModel"}, "diffusion_pytorch_model.safetensors"
    building.write(place / "unet", {f"{name}.weight": w for name, w in weights.items()}, config, file)
    truth = {(f"to_{part}", n): (weights[UNET.format(n, part)], []) for n, part in names}
    for r in (4, 8):
        held = {}
        for n, part in names:
            (a, b), flat = factors(D, r), "lora_unet_" + UNET.format(n, part).replace(".", "_")
            held |= {f"{flat}.lora_down.weight": a, f"{flat}.lora_up.weight": b, f"{flat}.alpha": torch.tensor(2.0)}
            truth[f"to_{part}", n][1].append(2 / r * b @ a)
        building.write(place / "loras", held, file=f"style-{r}.safetensors")
    adapters = [str(place / "loras" / f"style-{r}.safetensors") for r in (4, 8)]
    return {"base": str(place / "unet"), "adapters": adapters, "module": UNET.format(1, "q")}, truth


def mlx(place):
    """Synthetic: a small Llama, and an adapter of mlx-lm beside one of PEFT."""
    model = building.llama(hidden_size=D)
    model.save_pretrained(place / "base")
    building.adapt(model, place / "peft", target_modules=["q_proj", "v_proj"], r=4, lora_alpha=8)
    own, held, truth = load_file(place / "peft" / "adapter_model.safetensors"), {}, {}
    for n, part in [(n, part) for n in range(2) for part in "qv"]:
        name = LLAMA.format(n, part)
        weight = model.get_parameter(f"{name}.weight").detach()
        first = [own[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "BA"]
        a, b = factors(len(weight), 8)
        held |= {f"{name}.lora_a": a.T, f"{name}.lora_b": b.T}
        truth[f"{part}_proj", n] = weight, [2 * first[0] @ first[1], 20 * b @ a]
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}}
    building.write(place / "mlx", held, config, "adapters.safetensors")
    adapters = [str(place / "peft"), str(place / "mlx")]
    return {"base": str(place / "base"), "adapters": adapters, "module": "layers.1.self_attn.q_proj"}, truth


def head_of_neox(place):
    """Synthetic: head 2 of the queries of a fused projection that interleaves by head, and the same of the values."""
    sizes = {**building.TEXT, "hidden_size": D, "num_hidden_layers": 2}
    model = tr.GPTNeoXForCausalLM(tr.GPTNeoXConfig(**sizes))
    model.save_pretrained(place / "base")
    adapted = building.adapt(model, place / "lora", target_modules=["query_key_value"], r=8)
    deltas, truth = building.merged(model, adapted), {}
    for n, part in [(n, part) for n in range(2) for part in "qv"]:
        start = 2 * 3 * SIZE + "qkv".index(part) * SIZE
        weight, delta = (each[start : start + SIZE] for each in deltas[NEOX.format(n)])
        truth[f"query_key_value[{part}, head 2]", n] = weight, [delta]
    module = NEOX.format(0) + "[q, head 2]"
    return {"base": str(place / "base"), "adapters": [str(place / "lora")], "module": module}, truth


def grouped_head(place):
    """The bundled SmolLM2: query head 4, which is served by value head 1 of three; every layer of two adapters."""
    from helpers import weights

    base, truth = weights.open_base(ROOT / "data/SmolLM2-135M-Instruct"), {}
    adapters = [f"data/language_model_adapters/{name}" for name in ("r4", "r8")]
    files = [load_file(ROOT / path / "adapter_model.safetensors") for path in adapters]
    for n, (part, head) in [(n, each) for n in range(30) for each in (("q", 4), ("v", 1))]:
        name, own = LLAMA.format(n, part), slice(64 * head, 64 * head + 64)
        pairs = [[held[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "BA"] for held in files]
        deltas = [16 / len(a) * (b.double() @ a.double())[own] for b, a in pairs]
        truth[f"{part}_proj[head {head}]", n] = base.weight(name)[own], deltas
    return {"base": str(base.path), "adapters": adapters, "module": f"{LLAMA.format(14, 'q')}[head 4]"}, truth


@pytest.mark.parametrize("make", [kohya, mlx, head_of_neox, grouped_head])
def test_phi_in_every_layer_is_that_of_the_files(tmp_path, make):
    torch.manual_seed(3)
    given, truth = make(tmp_path)
    result = running.execute(NOTEBOOK, tmp_path / "out", running.FEW_ROTATIONS, factor="BA", **given)
    running.assert_the_claims_of_01(result)
    sizes = {row["projection"]: row for row in rows(result, "choices") if row["choice"] == "BA right"}
    table, seen = rows(result, "layers"), {}
    for row in table:
        place = row["projection"], row["layer"]
        number = seen[place] = seen.get(place, -1) + 1  # of the adapter
        weight, deltas = truth[place]
        i, j = (int(sizes[row["projection"]][name]) for name in "ij")
        (u, v) = (np.linalg.svd(np.asarray(m, np.float64))[2][:k].T for m, k in ((weight, i), (deltas[number], j)))
        assert row["phi"] == pytest.approx((np.cos(linalg.subspace_angles(u, v)) ** 2).mean(), abs=1e-5), place
    assert set(seen) == set(truth) and len(table) == sum(len(deltas) for _, deltas in truth.values())
