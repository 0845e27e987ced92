"""Attention of the models of `building.py` and their relatives: what its rows move, by computing with the models."""

import contextlib
import inspect
import re

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from tests.weights.building import DECODES, EYES, SEQ, TEXT, TINY, TURN, tiny

# Relatives of those in MODELS: rows that are `like` another, and numbers that are counted under other names.
RELATIVES = {
    "deberta": tiny("DebertaModel", "DebertaConfig", **TEXT),
    "deberta-v2": tiny("DebertaV2Model", "DebertaV2Config", **TEXT),
    "albert": tiny("AlbertModel", "AlbertConfig", **TEXT, embedding_size=16),
    "electra": tiny("ElectraModel", "ElectraConfig", **TEXT),
    "mpnet": tiny("MPNetModel", "MPNetConfig", **TEXT),
    "camembert": tiny("CamembertModel", "CamembertConfig", **TEXT),
    "xlm-roberta": tiny("XLMRobertaModel", "XLMRobertaConfig", **TEXT),
    "bert-decoder": tiny("BertModel", "BertConfig", **TEXT, **DECODES),
    "gpt2-decoder": tiny("GPT2Model", "GPT2Config", n_embd=32, n_layer=2, n_head=4, vocab_size=60, **DECODES),
    "openai-gpt": tiny("OpenAIGPTModel", "OpenAIGPTConfig", n_embd=32, n_layer=2, n_head=4, vocab_size=60),
    "gpt-neo": tiny(
        *("GPTNeoModel", "GPTNeoConfig"),
        **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        vocab_size=60,
    ),
    "mbart": tiny("MBartModel", "MBartConfig", **{**SEQ, "encoder_attention_heads": 2}),
    "pegasus": tiny("PegasusModel", "PegasusConfig", **{**SEQ, "encoder_attention_heads": 2}),
    "m2m_100": tiny("M2M100Model", "M2M100Config", **{**SEQ, "encoder_attention_heads": 2}),
    "trocr": tiny(
        "TrOCRForCausalLM", "TrOCRConfig", d_model=32, decoder_layers=2, decoder_attention_heads=4, vocab_size=60
    ),
    "mt5": tiny("MT5Model", "MT5Config", d_model=32, d_kv=16, num_heads=4, d_ff=48, num_layers=2, vocab_size=60),
    "umt5": tiny("UMT5Model", "UMT5Config", d_model=32, d_kv=16, num_heads=4, d_ff=48, num_layers=2, vocab_size=60),
    "deit": tiny("DeiTModel", "DeiTConfig", **EYES),
    "beit": tiny("BeitModel", "BeitConfig", **EYES),
    "data2vec-vision": tiny("Data2VecVisionModel", "Data2VecVisionConfig", **EYES),
    "dinov2": tiny("Dinov2Model", "Dinov2Config", **EYES),
    "dinov2_with_registers": tiny("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **EYES),
    "ijepa": tiny("IJepaModel", "IJepaConfig", **EYES),
    "vit_msn": tiny("ViTMSNModel", "ViTMSNConfig", **EYES),
    "vit_mae": tiny(
        *("ViTMAEForPreTraining", "ViTMAEConfig"),
        **{**EYES, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_intermediate_size": 24},
        **{"decoder_num_attention_heads": 2, "mask_ratio": 0.0},
    ),
    "vivit": tiny("VivitModel", "VivitConfig", **TINY, image_size=16, num_frames=4, tubelet_size=[2, 8, 8]),
    "audio-spectrogram-transformer": tiny("ASTModel", "ASTConfig", **TINY, max_length=40, num_mel_bins=32),
    "imagegpt": tiny("ImageGPTModel", "ImageGPTConfig", n_embd=32, n_layer=2, n_head=4, vocab_size=60),
    "siglip-text": tiny("SiglipTextModel", "SiglipTextConfig", **TEXT),
    "qwen2.5-vl": tiny(
        *("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig"),
        text_config={**TEXT, **TURN, "num_key_value_heads": 2},
        vision_config={**TINY, "depth": 2, "num_heads": 4, "out_hidden_size": 32, "patch_size": 8, "window_size": 32},
    ),
    "siglip": tiny("SiglipVisionModel", "SiglipVisionConfig", **EYES),
    "qwen2-moe": tiny(
        *("Qwen2MoeForCausalLM", "Qwen2MoeConfig"),
        **TEXT,
        num_key_value_heads=2,
        num_experts=2,
        moe_intermediate_size=16,
    ),
    "gemma": tiny("GemmaForCausalLM", "GemmaConfig", **TEXT, num_key_value_heads=2, head_dim=16),
    "starcoder2": tiny("Starcoder2ForCausalLM", "Starcoder2Config", **TEXT, num_key_value_heads=2),
}
SPLIT = "{}.q_proj {}.k_proj {}.v_proj {}.o_proj"
ELSE = "{}.q_proj {}.k_proj {}.v_proj {}.out_proj"
BERT = "{0}.self.query {0}.self.key {0}.self.value {0}.output.dense"
T5 = "{0}.q {0}.k {0}.v {0}.o"
FUSED = "{0}.{1}[q] {0}.{1}[k] {0}.{1}[v] {0}.{2}"


def of(form, *words):
    """Names of the projections q, k, v and o from one form."""
    return form.replace("{}", "{0}").format(*words).split()


# (model, its projections as it calls them and the part that each is taken from, heads, key and value heads)
ATTENTION = [
    *((name, of(SPLIT, "model.layers.1.self_attn"), 4, 2) for name in ("llama", "mistral", "qwen2", "qwen3", "gemma2")),
    *((name, of(SPLIT, "model.layers.0.self_attn"), 4, 2) for name in ("mixtral", "qwen3-moe", "qwen2-moe")),
    ("starcoder2", of(SPLIT, "model.layers.1.self_attn"), 4, 2),
    ("gemma", of(SPLIT, "model.layers.0.self_attn"), 4, 2),
    ("phi", [*of(SPLIT, "model.layers.1.self_attn")[:3], "model.layers.1.self_attn.dense"], 4, 2),
    ("phi3", of(FUSED, "model.layers.1.self_attn", "qkv_proj", "o_proj"), 4, 2),
    ("gemma3", of(SPLIT, "model.language_model.layers.1.self_attn"), 8, 2),
    ("gemma3", of(ELSE, "model.vision_tower.encoder.layers.0.self_attn"), 4, 4),
    ("llava", of(SPLIT, "model.language_model.layers.0.self_attn"), 4, 4),
    ("llava", of(ELSE, "model.vision_tower.encoder.layers.0.self_attn"), 4, 4),
    ("mllama", of(SPLIT, "model.language_model.layers.0.self_attn"), 4, 2),
    ("mllama", of(SPLIT, "model.language_model.layers.1.cross_attn"), 4, 2),
    ("mllama", of(SPLIT, "model.vision_model.global_transformer.layers.0.self_attn"), 2, 2),
    ("qwen2-vl", of(SPLIT, "model.language_model.layers.1.self_attn"), 4, 2),
    ("qwen2-vl", of(FUSED, "model.visual.blocks.1.attn", "qkv", "proj"), 4, 4),
    ("opt", of(ELSE, "model.decoder.layers.1.self_attn"), 4, 4),
    ("gptj", of(ELSE, "transformer.h.1.attn"), 4, 4),
    ("gpt-neo", of(ELSE, "h.1.attn.attention"), 4, 4),
    ("gpt2", of(FUSED, "transformer.h.1.attn", "c_attn", "c_proj"), 4, 4),
    ("openai-gpt", of(FUSED, "h.1.attn", "c_attn", "c_proj"), 4, 4),
    ("gpt2-decoder", of("{0}.q_attn {0}.c_attn[k] {0}.c_attn[v] {0}.c_proj", "h.1.crossattention"), 4, 4),
    (
        "vit-gpt2",
        of("{0}.q_attn {0}.c_attn[k] {0}.c_attn[v] {0}.c_proj", "decoder.transformer.h.0.crossattention"),
        4,
        4,
    ),
    ("vit-gpt2", of(FUSED, "decoder.transformer.h.0.attn", "c_attn", "c_proj"), 4, 4),
    ("vit-gpt2", of(SPLIT, "encoder.layers.0.attention"), 4, 4),
    ("gpt-bigcode", of(FUSED, "transformer.h.1.attn", "c_attn", "c_proj"), 4, 4),
    ("gpt-bigcode-multi-query", of(FUSED, "transformer.h.1.attn", "c_attn", "c_proj"), 4, 1),
    ("gpt-neox", of(FUSED, "gpt_neox.layers.1.attention", "query_key_value", "dense"), 4, 4),
    ("bloom", of(FUSED, "transformer.h.1.self_attention", "query_key_value", "dense"), 4, 4),
    ("falcon", of(FUSED, "transformer.h.1.self_attention", "query_key_value", "dense"), 4, 1),
    ("falcon-heads", of(FUSED, "transformer.h.1.self_attention", "query_key_value", "dense"), 4, 4),
    ("falcon-new", of(FUSED, "transformer.h.1.self_attention", "query_key_value", "dense"), 4, 2),
    ("mpt", of(FUSED, "transformer.blocks.1.attn", "Wqkv", "out_proj"), 4, 4),
    ("modernbert", of(FUSED, "model.layers.1.attn", "Wqkv", "Wo"), 4, 4),
    ("bert", of(BERT, "bert.encoder.layer.1.attention"), 4, 4),
    ("bert2bert", of(BERT, "decoder.bert.encoder.layer.1.crossattention"), 4, 4),
    ("bert-decoder", of(BERT, "encoder.layer.0.crossattention"), 4, 4),
    *((name, of(BERT, "encoder.layer.1.attention"), 4, 4) for name in ("electra", "camembert", "xlm-roberta")),
    ("roberta", of(BERT, "roberta.encoder.layer.1.attention"), 4, 4),
    ("mpnet", of(T5, "encoder.layer.1.attention.attn"), 4, 4),
    (
        "albert",
        of("{0}.query {0}.key {0}.value {0}.dense", "encoder.albert_layer_groups.0.albert_layers.0.attention"),
        *(4, 4),
    ),
    ("deberta", of(FUSED, "encoder.layer.1.attention", "self.in_proj", "output.dense"), 4, 4),
    (
        "deberta-v2",
        of("{0}.self.query_proj {0}.self.key_proj {0}.self.value_proj {0}.output.dense", "encoder.layer.1.attention"),
        *(4, 4),
    ),
    ("distilbert", of("{0}.q_lin {0}.k_lin {0}.v_lin {0}.out_lin", "distilbert.transformer.layer.1.attention"), 4, 4),
    *(
        (name, of(T5, f"{tower}.block.1.layer.0.SelfAttention"), 4, 4)
        for name in ("t5", "mt5", "umt5")
        for tower in ("encoder", "decoder")
    ),
    ("t5", of(T5, "decoder.block.0.layer.1.EncDecAttention"), 4, 4),
    *((name, of(ELSE, "encoder.layers.1.self_attn"), 2, 2) for name in ("mbart", "pegasus", "m2m_100")),
    *((name, of(ELSE, "decoder.layers.1.encoder_attn"), 4, 4) for name in ("mbart", "pegasus", "m2m_100")),
    *(
        (name, of(ELSE, f"model.{tower}.layers.1.self_attn"), 4, 4)
        for name in ("bart", "marian", "whisper")
        for tower in ("encoder", "decoder")
    ),
    ("trocr", of(ELSE, "model.decoder.layers.1.self_attn"), 4, 4),
    ("clip", of(ELSE, "text_model.encoder.layers.1.self_attn"), 4, 4),
    ("clip", of(ELSE, "vision_model.encoder.layers.1.self_attn"), 4, 4),
    *((name, of(ELSE, "encoder.layers.1.self_attn"), 4, 4) for name in ("siglip", "siglip-text")),
    *((name, of(SPLIT, "layers.1.attention"), 4, 4) for name in ("vivit", "audio-spectrogram-transformer")),
    ("imagegpt", of(FUSED, "h.1.attn", "c_attn", "c_proj"), 4, 4),
    ("qwen2.5-vl", of(SPLIT, "model.language_model.layers.1.self_attn"), 4, 2),
    ("qwen2.5-vl", of(FUSED, "model.visual.blocks.1.attn", "qkv", "proj"), 4, 4),
    *((name, of(SPLIT, "layers.1.attention"), 4, 4) for name in ("vit", "deit", "ijepa", "vit_msn", "beit")),
    *((name, of(SPLIT, "encoder.layer.1.attention"), 4, 4) for name in ("dinov2", "dinov2_with_registers")),
    (
        "data2vec-vision",
        of("{0}.attention.query {0}.attention.key {0}.attention.value {0}.output.dense", "encoder.layer.1.attention"),
        *(4, 4),
    ),
    ("vit_mae", of(SPLIT, "vit.layers.1.attention"), 4, 4),
    ("vit_mae", of(SPLIT, "decoder.decoder_layers.1.attention"), 2, 2),
    ("swin", of(SPLIT, "encoder.layers.0.blocks.0.attention"), 2, 2),
    ("swin", of(SPLIT, "encoder.layers.1.blocks.0.attention"), 4, 4),
]
IDS = torch.tensor([[5, 9, 13, 7, 22, 31]])
SEEN = torch.randn(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
GIVEN = {
    "input_ids": IDS,
    "decoder_input_ids": IDS,
    "pixel_values": SEEN,
    "input_values": torch.randn(1, 40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
    "input_features": torch.randn(1, 80, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
}
PLACE = 2
ENCODED = torch.randn(1, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
SIGHT = {
    "gemma3": lambda model: model(pixel_values=SEEN),
    "llava": lambda model: model(pixel_values=SEEN),
    "mllama": lambda model: model(
        SEEN.expand(1, 1, 4, 3, 16, 16), torch.tensor([[8]]), torch.ones(1, 1, 4, dtype=torch.long)
    ),
    **dict.fromkeys(
        ("qwen2-vl", "qwen2.5-vl"),
        lambda model: model(torch.randn(16, 3 * 2 * 8 * 8, dtype=torch.float64), torch.tensor([[1, 4, 4]])),
    ),
}


class Seen(Exception):
    """What was looked for has been seen; what follows in the model needs no computing."""


class Named:
    """What a model in memory calls its modules, for `match`."""

    label = "the model in memory"

    def __init__(self, model):
        kinds = torch.nn.Linear | Conv1D | torch.nn.Embedding
        parts = {name: part for name, part in model.named_modules() if isinstance(part, kinds)}
        flip = {name: part.weight.T if isinstance(part, Conv1D) else part.weight for name, part in parts.items()}
        self.sizes = {name: tuple(weight.shape) for name, weight in flip.items()}

    def modules(self):
        return list(self.sizes)

    def shape(self, module):
        return self.sizes[module]


def run(name, model, module):
    """The part of a model that a module is in, on words, pictures or sound."""
    torch.manual_seed(0)
    if name in SIGHT and (tower := re.match(r"model\.(vision_tower|vision_model|visual)", module)):
        return SIGHT[name](model.get_submodule(tower[0]))
    if "language_model" in module:
        seen = {"cross_attention_states": ENCODED} if name == "mllama" else {}
        return model.model.language_model(IDS, **seen)
    known = inspect.signature(model.forward).parameters
    if name == "vivit":
        return model(SEEN.expand(1, 4, 3, 16, 16))
    encoded = {"encoder_hidden_states": ENCODED} if name.endswith("-decoder") else {}
    return model(**{key: value for key, value in GIVEN.items() if key in known}, **encoded)


def taken(model, name, projections, heads, shared):
    """(module, what stands in brackets, how it is cut) of every part and head of one attention.

    Read off gradients of what reaches the output projection at one place: a query moves it from that place only; of
    all others, a row of a value moves one column of it, a row of a key all columns of its head.
    """
    *inputs, output = projections
    modules, seen, given = [each.partition("[")[0] for each in inputs], {}, []

    def stop(_, arguments):
        given.append(arguments[0])
        raise Seen

    hooks = [model.get_submodule(output).register_forward_pre_hook(stop)]
    for module in set(modules):
        keep = lambda _, __, out, module=module: seen.setdefault(module, out)  # noqa: E731
        hooks.append(model.get_submodule(module).register_forward_hook(keep))
    with contextlib.suppress(Seen):
        run(name, model, output)
    for hook in hooks:
        hook.remove()
    width, asked = given[0].shape[-1] // heads, list(seen)

    def moved_by(columns):
        """{module: (rows that move the columns from the place, from elsewhere)}."""
        one = (given[0][..., PLACE, columns] * torch.arange(1.0, 1 + len(columns), dtype=torch.float64)).sum()
        found = torch.autograd.grad(one, [seen[module] for module in asked], retain_graph=True)
        moves = [(each != 0).reshape(-1, *each.shape[-2:]).any(0).numpy() for each in found]
        return {m: (of[PLACE], np.delete(of, PLACE, 0).any(0)) for m, of in zip(asked, moves, strict=True)}

    rows = {}
    for head in range(heads):
        first = head * width
        every, one, two = (moved_by(c) for c in (list(range(first, first + width)), [first], [first + 1]))
        for part, module in zip("qkv", modules, strict=True):
            here, elsewhere = every[module]
            key = one[module][1] & two[module][1]
            found = {"q": here & ~elsewhere, "k": key, "v": elsewhere & ~key}[part]
            number = head if part == "q" else head // (heads // shared)
            rows.setdefault((part, module), {})[number] = np.flatnonzero(found)
    for (part, module), of in rows.items():
        for head, index in of.items():
            yield module, f"[{part}, head {head}]", lambda matrix, index=index: matrix[index]
        whole = np.sort(np.concatenate(list(of.values())))
        yield module, f"[{part}]", lambda matrix, index=whole: matrix[index]
    for head in range(heads):
        columns = slice(head * width, head * width + width)
        yield output, f"[head {head}]", lambda matrix, columns=columns: matrix[:, columns]
