"""The rows of architectures.toml, held against models that compute: what moves when the rows of a head do."""

import contextlib
from functools import partial

import gguf
import numpy as np
import pytest
import torch
import transformers as tr
from transformers.pytorch_utils import Conv1D

from helpers import weights
from helpers.weights import architectures
from helpers.weights.architectures import Layout
from tests.weights.attention import ATTENTION, RELATIVES, Named, Seen, run
from tests.weights.building import MODELS, refused


def seen_by(output, name, model, module="", place=0, change=None):
    """What reaches an output projection [..., sequence, in]; change: [out], added to what a module gives at a place."""
    found = []

    def stop(_, given):
        found.append(given[0].clone())
        raise Seen

    def moved(_, __, given):
        given = given.clone()
        given[..., place, :] += change
        return given

    hooks = [model.get_submodule(output).register_forward_pre_hook(stop)]
    hooks += [model.get_submodule(module).register_forward_hook(moved)] if change is not None else []
    with torch.no_grad(), contextlib.suppress(Seen):
        run(name, model, output)
    for hook in hooks:
        hook.remove()
    return found[0].numpy()


@pytest.mark.parametrize(("name", "projections", "heads", "shared"), ATTENTION)
def test_parts_and_heads_are_those_that_attention_takes(tmp_path, name, projections, heads, shared):
    """Rows of one query head move what that head sees, at its own place; of a key or value its group, elsewhere too.

    What is seen is linear in a value, and in nothing else. All in float64, where what does not move stays equal.
    """
    torch.manual_seed(1)
    model = {**MODELS, **RELATIVES}[name]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    base = weights.open_base(tmp_path)
    saved = {ours: name for name, ours in weights.match(base, Named(model)).items()}
    *inputs, output = projections
    before, place = seen_by(output, name, model), 2
    group, width = heads // shared, before.shape[-1] // heads
    assert base.layout.heads(saved[output]) == (heads, shared)
    for part, asked in zip("qkv", inputs, strict=True):
        module, fused, _ = asked.partition("[")
        weight = model.get_submodule(module).weight.detach().numpy()
        weight = weight.T if isinstance(model.get_submodule(module), Conv1D) else weight
        gathered = []
        for head in range(heads if part == "q" else shared):
            text = f"[{part}, head {head}]"
            cut = base.layout.cut(saved[module], base.shape(saved[module]), text.strip("[]"))
            rows = np.arange(len(weight))[cut.index]
            gathered.extend(rows)
            np.testing.assert_array_equal(base.weight(saved[module] + text), weight[rows])
            assert base.shape(saved[module] + text) == (width, weight.shape[1]) == cut.shape(weight.shape)
            assert base.find(saved[module] + text) == saved[module] + (text if fused else f"[head {head}]")
            change = np.zeros(len(weight))
            change[rows] = np.random.default_rng(head).standard_normal(len(rows))
            one, two = (seen_by(output, name, model, module, place, torch.tensor(change * k)) for k in (1, 2))
            moved = (one != before).reshape(-1, *before.shape[-2:]).any(0)  # [place, column]
            columns = (
                slice(head * width, head * width + width)
                if part == "q"
                else slice(head * group * width, (head + 1) * group * width)
            )
            assert moved[:, columns].any(0).all() and not np.delete(moved, columns, 1).any()
            places = np.flatnonzero(moved.any(1))
            assert list(places) == [place] if part == "q" else len(places) > 1
            bent = np.abs(two - 2 * one + before).max() / np.abs(one - before).max()
            assert bent < 1e-9 if part == "v" else bent > 1e-6
        np.testing.assert_array_equal(base.weight(f"{saved[module]}[{part}]"), weight[sorted(gathered)])
        if not fused:
            assert len(gathered) == len(weight)
    whole = base.weight(saved[output])
    for head in range(heads):
        columns = slice(head * width, head * width + width)
        np.testing.assert_array_equal(base.weight(f"{saved[output]}[head {head}]"), whole[:, columns])
        assert base.shape(f"{saved[output]}[o,head {head}]") == (len(whole), width)


@pytest.mark.parametrize(
    ("name", "module", "output", "bent", "linear"),
    [
        ("phi3", "model.layers.1.mlp.gate_up_proj", "model.layers.1.mlp.down_proj", "gate", "up"),
        ("modernbert", "model.layers.1.mlp.Wi", "model.layers.1.mlp.Wo", "input", "gate"),
    ],
)
def test_parts_of_a_gated_layer(tmp_path, name, module, output, bent, linear):
    """What a gated layer gives is linear in one part, and not in the one that its activation takes."""
    torch.manual_seed(1)
    model = MODELS[name]().double().eval()
    model.save_pretrained(tmp_path)
    base, before = weights.open_base(tmp_path), seen_by(output, name, model)
    whole = base.weight(module)
    for part in (bent, linear):
        cut = base.layout.cut(module, whole.shape, part)
        change = torch.zeros(len(whole), dtype=torch.float64)
        change[cut.index] = torch.randn(len(whole) // 2, dtype=torch.float64)
        one, two = (seen_by(output, name, model, module, 2, change * k) for k in (1, 2))
        off = np.abs(two - 2 * one + before).max() / np.abs(one - before).max()
        assert off < 1e-9 if part == linear else off > 1e-4
        np.testing.assert_array_equal(base.weight(f"{module}[{part}]"), whole[cut.index])
    refused(lambda: base.weight(f"{module}[{linear}, head 0]"), f"'{bent}', '{linear}'")


# ------------------------------------------------------------------ numbers of heads that a config leaves out
def test_every_row_is_of_a_model_type_or_of_a_gguf():
    assert set(architectures.ROWS) <= set(tr.CONFIG_MAPPING) | set(gguf.MODEL_ARCH_NAMES.values())


@pytest.mark.parametrize("kind", sorted(set(architectures.ROWS) & set(tr.CONFIG_MAPPING)))
def test_numbers_that_a_nested_config_leaves_out_are_the_librarys(kind):
    """transformers leaves out of a nested config what is its class's default."""
    config, module = tr.CONFIG_MAPPING[kind](), "language_model.{}.0.self_attn.k_proj"
    layout = Layout({"model_type": "llava", "text_config": {"model_type": kind}})
    for tower in ("encoder", "decoder"):
        heads = getattr(config, f"{tower}_attention_heads", getattr(config, "num_attention_heads", None))
        heads = heads[0] if isinstance(heads, list | tuple) else heads
        shared = getattr(config, "num_key_value_heads", None) or heads
        if getattr(config, "multi_query", False):
            shared = 1
        if heads is None or (kind, tower) in (("trocr", "encoder"), ("vit_mae", "decoder")):
            refused(partial(layout.heads, module.format(tower)), "how many heads", "config.json")
        else:
            assert layout.heads(module.format(tower)) == (heads, shared)
    top = Layout({"model_type": kind})  # which says them always
    refused(lambda: top.heads(module.format("encoder")), "how many heads", "config.json")
