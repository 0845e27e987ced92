"""LoHa, LoKr and DoRA as LyCORIS and diffusers save them; the truth is each paper's formula by hand."""

import numpy as np
import pytest
import torch

from helpers.weights import Dense, LowRank
from tests.weights.building import refused
from tests.weights.diffusion import AB, FLAT, IN, ONE, OUT, UNET, R, draw, flat, lora, model, pairs


def other_factors(kind, out=OUT):
    """({factor: tensor}, ΔW without its scale, r) of a layer of [out, IN], by the formulas of the papers."""
    w = [draw(*shape, seed=5 + n) for n, shape in enumerate(((out, R), (R, IN), (out, R), (R, IN)))]
    a, b, c, d = (each.double().numpy() for each in w)
    if kind == "loha":
        factors = dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), w, strict=True))
        delta = [[sum(a[i] * b[:, j]) * sum(c[i] * d[:, j]) for j in range(IN)] for i in range(out)]
        return factors, np.array(delta), R
    if kind == "lora":
        return {"lora_up.weight": w[0], "lora_down.weight": w[1]}, a @ b, R
    one, other, tall = draw(2, 3, seed=5), draw(out // 2, 2, seed=6), out // 2
    halves, r = {"lokr_w1": {"lokr_w1": one}, "lokr_w2": {"lokr_w2": other}}, None
    if "w1 in two" in kind:
        up, down, r = draw(2, 1, seed=7), draw(1, 3, seed=8), 1
        halves["lokr_w1"], one = {"lokr_w1_a": up, "lokr_w1_b": down}, up @ down
    if "w2 in two" in kind:
        up, down, r = draw(tall, 1, seed=3), draw(1, 2, seed=4), 1
        halves["lokr_w2"], other = {"lokr_w2_a": up, "lokr_w2_b": down}, up @ down
    delta = [[float(one[i // tall, j // 2] * other[i % tall, j % 2]) for j in range(IN)] for i in range(out)]
    return halves["lokr_w1"] | halves["lokr_w2"], np.array(delta), r


OF_LYCORIS = ["lora", "loha", "lokr", "lokr, w2 in two", "lokr, w1 in two", "lokr, w1 in two, w2 in two"]


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.0, 4.0])
@pytest.mark.parametrize("kind", OF_LYCORIS)
def test_lycoris(tmp_path, kind, alpha, dotted):
    """Both matrices of LoKr whole: alpha is not used."""
    factors, delta, r = other_factors(kind)
    name = f"diffusion_model.{ONE}" if dotted else f"lycoris_{flat(ONE)}"
    held = {f"{name}.{factor}": tensor for factor, tensor in factors.items()}
    held |= {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
    scale = alpha / r if alpha and r else 1
    for base, called in ((model(tmp_path / "base", UNET), ONE), (None, name)):
        updates = lora(tmp_path / "adapter", held, base)
        found = updates.update(called)
        np.testing.assert_allclose(found.delta(), scale * delta, rtol=1e-5, atol=1e-6)
        assert isinstance(found, LowRank if kind == "lora" else Dense)
        assert bool(updates.notes) == (alpha is None and r is not None)


@pytest.mark.parametrize("out", [OUT, IN])
@pytest.mark.parametrize("over", ["rows", "columns"])
@pytest.mark.parametrize("kind", ["lora", "loha", "lokr, w2 in two"])
def test_dora_of_lycoris(tmp_path, kind, over, out):
    """Each row of W + ΔW, or in its older files each column, gets the length that dora_scale holds."""
    factors, delta, r = other_factors(kind, out)
    base = model(tmp_path / "base", [ONE], (out, IN))
    magnitude = (draw(out, 1) if over == "rows" else draw(1, IN)).abs() + 0.5
    held = {f"{FLAT}.{factor}": tensor for factor, tensor in factors.items()}
    held |= {f"{FLAT}.dora_scale": magnitude, f"{FLAT}.alpha": torch.tensor(2.0)}
    before = base.weight(ONE).astype(float)
    after = before + 2 / r * delta
    lengths = np.sqrt((after**2).sum(1, keepdims=True) if over == "rows" else (after**2).sum(0, keepdims=True))
    found = lora(tmp_path / "adapter", held, base).update(ONE)
    np.testing.assert_allclose(found.delta(), magnitude.numpy() * after / lengths - before, atol=1e-5)
    refused(lambda: lora(tmp_path / "adapter", held).update(FLAT), "DoRA", "give its base")
    held[f"{FLAT}.dora_scale"] = draw(out - 1, 1)
    refused(lambda: lora(tmp_path / "short", held, base).update(ONE), "magnitudes", "do not fit")


def test_dora_of_diffusers(tmp_path):
    for key in ("unet.{}.lora_magnitude_vector.weight", "unet.{}.lora_magnitude_vector"):
        base, (held, truth) = model(tmp_path / "base", [ONE]), pairs([ONE], "unet.{}".format, AB)
        held[key.format(ONE)] = magnitude = draw(OUT).abs() + 0.5
        before = base.weight(ONE).astype(float)
        after = before + truth[ONE]
        expected = magnitude.numpy()[:, None] * after / np.linalg.norm(after, axis=1, keepdims=True) - before
        np.testing.assert_allclose(lora(tmp_path / "adapter", held, base).delta(ONE), expected, atol=1e-5)
