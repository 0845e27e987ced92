import gguf
import numpy as np
import pytest
import torch

from helpers import weights
from tests.weights.building import Q, bounded, llama, refused, write

TWO, WIDE = torch.ones(2, 8), torch.ones(8, 2)
MERGED = ["whole fine-tuned model"]
KINDS = {
    "NeMo": ({"decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight": TWO}, ["NeMo", "PEFT"]),
    "NeMo 1": (
        {"model.layers.0.self_attention.adapter_layer.lora_kqv_adapter.linear_out.weight": WIDE},
        ["NeMo", "PEFT"],
    ),
    "NeMo, canonical": ({"decoder.layers.0.linear_qkv.adapter.adapter_q.linear_in.weight": TWO}, ["NeMo", "PEFT"]),
    "torchtune": (
        {"layers.0.attn.q_proj.lora_a.weight": TWO, "layers.0.attn.q_proj.lora_b.weight": WIDE},
        ["torchtune", "alpha", "checkpointer"],
    ),
    "loralib": (
        {
            "transformer.h.0.attn.c_attn.lora_A": torch.ones(4, 8),
            "transformer.h.0.attn.c_attn.lora_B": torch.ones(16, 2),
        },
        ["loralib", "alpha", *MERGED],
    ),
    "PEFT without its config": (
        {f"base_model.model.{Q}.lora_A.weight": TWO, f"base_model.model.{Q}.lora_B.weight": WIDE},
        ["PEFT", "adapter_config.json"],
    ),
    "PEFT's LoHa without its config": (
        {f"base_model.model.{Q}.hada_w1_a": WIDE, f"base_model.model.{Q}.hada_w1_b": TWO},
        ["PEFT", "adapter_config.json"],
    ),
    "VeRA": (
        {f"base_model.model.{Q}.vera_lambda_b": torch.ones(8), "base_model.vera_A": TWO, "base_model.vera_B": WIDE},
        ["VeRA", *MERGED],
    ),
    "LoRA-XS": (
        {f"base_model.model.{Q}.lora_A.weight": TWO, f"base_model.model.{Q}.default_lora_latent_mapping.weight": TWO},
        ["LoRA-XS", *MERGED],
    ),
    "OFT": ({f"base_model.model.{Q}.oft_R.weight": torch.ones(4, 3)}, ["OFT", *MERGED]),
    "BOFT": ({f"base_model.model.{Q}.boft_R": torch.ones(1, 2, 4, 4)}, ["BOFT", *MERGED]),
    "prompt tuning": ({"prompt_embeddings": torch.ones(4, 8)}, ["prompt", "no weights"]),
    "LLaMA-Adapter of PEFT": ({"base_model.model.layers.0.self_attn.adaption_prompt": TWO}, ["LLaMA-Adapter"]),
    "LLaMA-Adapter": ({"adapter_query.weight": TWO, "layers.0.attention.gate": torch.ones(1)}, ["LLaMA-Adapter"]),
    "P-tuning": ({"transformer.prefix_encoder.embedding.weight": TWO}, ["prefix", "no weights"]),
    "bottleneck": ({"bert.encoder.layer.0.output.adapters.x.adapter_down.0.weight": TWO}, ["bottleneck", "LoRA"]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "model.safetensors", "weights.safetensors"])
def test_a_known_format_that_is_not_read_is_named_with_what_to_do(tmp_path, kind, file):
    """As a directory and as a file, whatever it is called, with a base and without."""
    held, words = KINDS[kind]
    torch.manual_seed(0)
    llama().save_pretrained(tmp_path / "base")
    base, place = weights.open_base(tmp_path / "base"), write(tmp_path / "adapter", held, file=file)
    for path in (place, place / file):
        for given in (None, base):
            said = refused(lambda path=path, given=given: weights.open_update(path, given), *words)
            assert any(key in said for key in held)


@pytest.mark.parametrize("given", ["", "lora.nemo"])
def test_an_archive_of_nemo_is_named(tmp_path, given):
    (tmp_path / "lora.nemo").write_bytes(b"archive")
    refused(lambda: weights.open_update(tmp_path / given), "NeMo", "exports", "as PEFT saves it")


def test_a_control_vector_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "vector.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_tensor("direction.1", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(lambda: weights.open_update(tmp_path / "vector.gguf"), "control vector", "no weights")


def test_long_names_are_sorted_in_no_time(tmp_path):
    """Names in files may be anything: a pattern that tries every way to read them would never end."""
    parts = (
        "adapter_",
        "base_model.model.",
        ".lora_",
        "lora_a.",
        "prefix_",
        "vera_",
        ".oft",
        ".linear_in",
        "direction.1",
    )
    held = {part * (480 // len(part)): torch.ones(2, 2) for part in parts}
    place = write(tmp_path / "adapter", held)
    with bounded():
        refused(lambda: weights.open_update(place), "a whole model")


@pytest.mark.parametrize(
    "extra", ["lora_post.weight", "adapter_norm.weight", "encoder.linear_in.weight", "soft_max.weight"]
)
def test_a_whole_model_with_a_similar_name_is_no_adapter(tmp_path, extra):
    torch.manual_seed(0)
    model = llama()
    model.save_pretrained(tmp_path / "base")
    whole = {**model.state_dict(), extra: torch.ones(4, 4)}
    updates = weights.open_update(write(tmp_path / "tuned", whole), weights.open_base(tmp_path / "base"))
    assert Q in updates.modules()
    assert not updates.delta(Q).any()
