import copy

import numpy as np
import pytest
import torch

from helpers import weights
from tests.weights.building import MODELS, Q, llama, refused, write


def tuned(model, size=0.1):
    """A copy of a model, every matrix of it moved."""
    moved = copy.deepcopy(model)
    for parameter in moved.parameters():
        parameter.data += size * torch.randn_like(parameter) * (parameter.ndim == 2)
    return moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", ["50GB", "20KB"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_delta_is_the_difference_of_two_models(tmp_path, name, dtype, shards):
    torch.manual_seed(0)
    model = MODELS[name]()
    moved = tuned(model).to(dtype)
    model.save_pretrained(tmp_path / "base")
    moved.save_pretrained(tmp_path / "tuned", max_shard_size=shards)
    base = weights.open_base(tmp_path / "base")
    updates = weights.open_update(tmp_path / "tuned", base)
    pairs = weights.match(base, updates)
    assert set(pairs) == set(base.modules())
    for module in ("model.layers.1.mlp.up_proj", "transformer.h.1.attn.c_proj", "bert.encoder.layer.1.output.dense"):
        if module in pairs:
            before, after = (each.get_submodule(module).weight.detach().double() for each in (model, moved))
            delta = (after - before).T if name == "gpt2" else after - before
            np.testing.assert_allclose(updates.delta(module), delta, atol=1e-12)
            unit = torch.finfo(dtype).eps / 2
            bound = (unit * after.norm() + 2**-24 * before.norm()) / delta.norm()
            assert updates.update(module).stored_precision == pytest.approx(float(bound), rel=1e-4)
    assert "W′ − W" in updates.describe().to_string()


def test_a_tuned_file_without_its_config_is_read_as_its_base_is(tmp_path):
    """Square and stored as [in, out]: nothing in the file says so, but the base does."""
    weight = torch.randn(4, 4)
    base = write(tmp_path / "base", {"h.0.attn.c_proj.weight": weight}, {"model_type": "gpt2"})
    file = write(tmp_path / "tuned", {"h.0.attn.c_proj.weight": weight + torch.eye(4)}) / "model.safetensors"
    delta = weights.open_update(file, weights.open_base(base)).delta("c_proj")
    np.testing.assert_allclose(delta, np.eye(4), atol=1e-6)


def test_a_classifier_tuned_from_a_bare_encoder(tmp_path):
    """Another prefix, a head of its own, and what the base alone has."""
    torch.manual_seed(0)
    bare = MODELS["bert-bare"]()
    bare.save_pretrained(tmp_path / "base")
    held = {f"bert.{name}": tensor + 1 for name, tensor in bare.state_dict().items() if "pooler" not in name}
    write(tmp_path / "tuned", {**held, "classifier.weight": torch.ones(2, 32)}, {"model_type": "bert"})
    updates = weights.open_update(tmp_path / "tuned", weights.open_base(tmp_path / "base"))
    np.testing.assert_allclose(updates.delta("bert.encoder.layer.0.output.dense"), 1, atol=1e-6)
    assert "no such module" in updates.left_out["classifier"]
    refused(lambda: updates.delta("classifier"), "no such module")
    refused(lambda: updates.delta("pooler.dense"), "pooler.dense", "not in tuned")


def test_a_resized_vocabulary_is_refused_at_the_embedding_alone(tmp_path):
    model = llama(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    moved = tuned(model)
    moved.resize_token_embeddings(64)
    moved.save_pretrained(tmp_path / "tuned")
    updates = weights.open_update(tmp_path / "tuned", weights.open_base(tmp_path / "base"))
    assert updates.delta(Q).any()
    for name in ("embed_tokens", "lm_head"):
        refused(lambda name=name: updates.update(name), "64 × 32", "60 × 32", "resized")


def test_what_has_no_difference_is_zero_and_the_base_itself_is_refused(tmp_path):
    held = {f"{Q}.weight": torch.ones(4, 4), "x.0.q.weight": torch.ones(4, 4)}
    base = weights.open_base(write(tmp_path / "base", held))
    copied = write(tmp_path / "copied", {**held, "x.0.q.weight": torch.zeros(4, 4)})
    (tmp_path / "link").symlink_to(tmp_path / "base")
    refused(lambda: weights.open_update(copied), "is a whole model", "give the base")
    assert not weights.open_update(copied, base).delta(Q).any()
    assert weights.open_update(copied, base).delta("x.0.q").any()
    for path in ("base", "link"):
        refused(lambda path=path: weights.open_update(tmp_path / path, base), "is the base itself")
    other = weights.open_base(write(tmp_path / "other", {"h.0.attn.weight": torch.ones(4, 4)}))
    refused(lambda: weights.open_update(copied, other), "no module of copied is one of other")


def test_a_quantised_side_is_refused_or_counts_in_the_precision(tmp_path):
    plain = write(tmp_path / "plain", {f"{Q}.weight": torch.randn(8, 32)})
    packed = write(tmp_path / "packed", {f"{Q}.qweight": torch.ones(4, 8, dtype=torch.int32)})
    scaled = {f"{Q}.weight": torch.randint(-99, 99, (8, 32), dtype=torch.int8), f"{Q}.weight_scale": torch.ones(8, 1)}
    for one, two in ((plain, packed), (packed, plain)):
        refused(lambda one=one, two=two: weights.open_update(two, weights.open_base(one)).update(Q), "packed by GPTQ")
    found = weights.open_update(write(tmp_path / "scaled", scaled), weights.open_base(plain)).update(Q)
    assert found.stored_precision == pytest.approx(16**0.5 * 2 / np.linalg.norm(found.difference), rel=1e-3)
