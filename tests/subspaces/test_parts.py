"""Parts of fused projections and single heads, asked as modules are: synthetic models, whose truth is a plain twin."""

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tr
from safetensors.torch import load_file

from helpers import subspaces, weights
from helpers.parameters import SubspaceSimilarity
from helpers.weights import modules
from tests.weights import building

HEADS, SIZE = 4, 16
FUSED = "gpt_neox.layers.{}.attention.query_key_value"
PLAIN = "layers.{}.self_attn.{}_proj"
WIDE = {**building.TEXT, "hidden_size": HEADS * SIZE, "num_hidden_layers": 3}


def study(base, adapters, module, **more):
    asked = {"base": str(base), "adapters": [str(place) for place in adapters], "module": module, **more}
    return subspaces.Similarity(SubspaceSimilarity.parse(asked))


def rows_of(part, head=None):
    """Rows of a part of NeoX' query_key_value: of each head 16 of the query, 16 of the key, 16 of the value."""
    by_head = np.arange(3 * HEADS * SIZE).reshape(HEADS, 3, SIZE)[:, "qkv".index(part)]
    return by_head.ravel() if head is None else by_head[head]


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    """A NeoX with two adapters on its fused projection."""
    torch.manual_seed(5)
    place, model = tmp_path_factory.mktemp("neox"), tr.GPTNeoXForCausalLM(tr.GPTNeoXConfig(**WIDE))
    model.save_pretrained(place / "base")
    for r in (4, 8):
        building.adapt(model, place / f"r{r}", target_modules=["query_key_value"], r=r, lora_alpha=2 * r)
    return place


def twin(place, neox, head):
    """The same model and adapters as files in which query and value, or a head of each, are modules of their own."""
    held = load_file(neox / "base" / "model.safetensors")
    cut = {
        PLAIN.format(n, part): held[f"{FUSED.format(n)}.weight"][rows_of(part, head)] for n in range(3) for part in "qv"
    }
    base = building.write(place / "base", {f"{name}.weight": weight for name, weight in cut.items()})
    places = []
    for r in (4, 8):
        own = load_file(neox / f"r{r}" / "adapter_model.safetensors")
        factors = {
            (n, factor): own[f"base_model.model.{FUSED.format(n)}.lora_{factor}.weight"]
            for n in range(3)
            for factor in "AB"
        }
        tensors = {
            f"base_model.model.{PLAIN.format(n, part)}.lora_{factor}.weight": (
                tensor if factor == "A" else tensor[rows_of(part, head)]
            )
            for (n, factor), tensor in factors.items()
            for part in "qv"
        }
        config = {"r": r, "lora_alpha": 2 * r}
        places.append(building.write(place / f"r{r}", tensors, config, "adapter_model.safetensors"))
    return base, places


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("head", [None, 2])
def test_a_part_is_what_a_module_of_its_own_would_be(tmp_path, neox, head, side):
    """Every table of the study, with chance of the part's own dimensions and rank."""
    asked = {"factor": "BA", "side": side, "first_i": 3, "last_i": 7}
    bracketed = "[{}]" if head is None else f"[{{}}, head {head}]"
    part = study(neox / "base", [neox / "r4", neox / "r8"], FUSED.format(1) + bracketed.format("q"), **asked)
    base, adapters = twin(tmp_path, neox, head)
    alone = study(base, adapters, PLAIN.format(1, "q"), **asked)
    assert part.module == FUSED.format(1) + bracketed.format("q")
    assert (part.d, part.available) == (alone.d, alone.available)
    named = {name.format(which): f"{which}_proj" for which in "qv" for name in [f"query_key_value{bracketed}"]}
    assert [named[short] for short in part.projections] == list(alone.projections)
    for one, other in zip(part.grids.values(), alone.grids.values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    for table in ("reading", "growth", "by_rank", "amplified", "agreement"):
        one, other = getattr(part, table), getattr(alone, table)
        one, other = (each if isinstance(each, pd.DataFrame) else pd.DataFrame([each]) for each in (one, other))
        one = one.replace(named) if "projection" in one else one
        assert one.to_string(float_format="{:.6g}".format) == other.to_string(float_format="{:.6g}".format)
    one, other = (each.layers.table.replace(named) for each in (part, alone))
    pd.testing.assert_frame_equal(one, other, atol=1e-9)


def test_all_heads_can_be_asked_and_each_has_its_rows(neox):
    every = study(neox / "base", [neox / "r4"], "layers.0.attention.query_key_value[k,head  1]", factor="BA")
    assert every.module == FUSED.format(0) + "[k, head 1]"
    assert set(every.common) == {
        f"{FUSED.format(n)}[{part}, head {head}]" for n in range(3) for part in "qkv" for head in range(HEADS)
    }
    whole = every.updates[0].delta(FUSED.format(2))
    for name, (theirs,) in every.common.items():
        if name.startswith(FUSED.format(2)):
            part, head = modules.split_part(name)[1].split(", head ")
            np.testing.assert_array_equal(every.updates[0].delta(theirs), whole[rows_of(part, int(head))])
    other = every.replace(module=f"{FUSED.format(1)}[v, head 3]")
    assert other.module == f"{FUSED.format(1)}[v, head 3]" and other.base is every.base
    parts = study(neox / "base", [neox / "r4"], f"{FUSED.format(0)}[v]").common
    assert set(parts) == {f"{FUSED.format(n)}[{part}]" for n in range(3) for part in "qkv"}


def test_a_query_head_stands_beside_the_value_head_of_its_group(tmp_path):
    model = building.llama(hidden_size=HEADS * SIZE)
    model.save_pretrained(tmp_path / "base")
    building.adapt(model, tmp_path / "lora", target_modules=["q_proj", "v_proj", "o_proj"])
    found = {head: study(tmp_path / "base", [tmp_path / "lora"], f"{building.Q}[head {head}]") for head in range(HEADS)}
    assert [list(each.projections)[1] for each in found.values()] == [f"v_proj[head {n}]" for n in (0, 0, 1, 1)]
    assert found[3].module == f"{building.Q}[head 3]" and found[3].d == HEADS * SIZE and found[3].available == SIZE
    assert "A is that of the whole" in " ".join(found[3].notes)
    output = study(tmp_path / "base", [tmp_path / "lora"], "layers.0.self_attn.o_proj[head 2]", factor="BA")
    np.testing.assert_array_equal(
        output.updates[0].delta("model.layers.0.self_attn.o_proj[head 2]"),
        output.updates[0].delta("model.layers.0.self_attn.o_proj")[:, 2 * SIZE : 3 * SIZE],
    )
    assert output.d == SIZE and not any("A is that" in note for note in output.notes)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("[z]", ["has no part [z]", "'q', 'k', 'v'", "head 0 … 3"]),
        ("[q, head 4]", ["[q, head 4]", "'q, head 0 … 3'"]),
        ("[head 1]", ["[head 1]", "'q, head 0 … 3'"]),
        ("[q, head -1]", ["[q, head -1]"]),
        ("[]x", ["is not in"]),
    ],
)
def test_a_part_that_does_not_exist_lists_those_that_do(neox, asked, words):
    building.refused(lambda: study(neox / "base", [neox / "r4"], FUSED.format(0) + asked), *words)


def test_parts_of_an_adapter_alone_need_its_base(neox):
    updates = weights.open_update(neox / "r4")
    building.refused(lambda: updates.update(f"{FUSED.format(0)}[q]"), "[q]", "give its base")


def test_a_part_may_be_asked_by_the_name_that_an_adapter_has(tmp_path):
    torch.manual_seed(6)
    model = building.MODELS["vit"]()
    model.save_pretrained(tmp_path / "base")
    building.adapt(model, tmp_path / "adapter", target_modules=["q_proj"])
    theirs, ours = "layers.1.attention.q_proj", "encoder.layer.1.attention.attention.query"
    for part in ("", "[head 2]"):
        assert study(tmp_path / "base", [tmp_path / "adapter"], theirs + part).module == ours + part
    building.refused(lambda: study(tmp_path / "base", [tmp_path / "adapter"], f"{theirs}[head 4]"), "head 0 … 3", ours)


def test_a_model_that_was_not_trained_from_the_base_is_refused(tmp_path):
    """Synthetic: another start of the same architecture, whole and by head; a fine-tune as large as W is none."""
    for name, seed in (("base", 1), ("stranger", 2)):
        torch.manual_seed(seed)
        model = building.llama(hidden_size=HEADS * SIZE)
        model.save_pretrained(tmp_path / name)
    torch.manual_seed(1)
    tuned = building.llama(hidden_size=HEADS * SIZE)
    weight = tuned.get_parameter(f"{building.Q}.weight").data
    weight += weight.norm() * torch.nn.functional.normalize(torch.randn(weight.shape).flatten(), dim=0).view(
        weight.shape
    )
    tuned.save_pretrained(tmp_path / "tuned")
    for module in (building.Q, f"{building.Q}[head 1]"):
        asked = tmp_path / "base", [tmp_path / "stranger"], module
        building.refused(lambda asked=asked: study(*asked, factor="BA"), "nothing in common", "trained from")
        assert study(tmp_path / "base", [tmp_path / "tuned"], module, factor="BA").d == HEADS * SIZE
