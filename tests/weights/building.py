"""Tiny models and adapters as real libraries write them, and what is true of them: shared by the tests beside it."""

import copy
import json
import resource
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import peft
import pytest
import torch
import transformers as tr
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from helpers.weights import WeightsError

tr.utils.logging.disable_progress_bar()
tr.logging.set_verbosity_error()
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**TINY, "vocab_size": 60}
EYES = {**TINY, "image_size": 16, "patch_size": 8}
SEQ = {f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in (("layers", 2), ("attention_heads", 4))}
SEQ |= {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 60}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
Q = "model.layers.0.self_attn.q_proj"


def llama(**more):
    return tr.LlamaForCausalLM(tr.LlamaConfig(**{**TEXT, "num_key_value_heads": 2, **more}))


def tiny(model, config, **options):
    return lambda: getattr(tr, model)(getattr(tr, config)(**options))


def composite(kind, config, *parts):
    """An encoder and a decoder, each (config, its options), in one model."""
    made = [getattr(tr, name)(**options) for name, options in parts]
    return lambda: getattr(tr, kind)(config=getattr(tr, config).from_encoder_decoder_configs(*made))


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 32, **IDS}
T5 = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2, "vocab_size": 60}
DECODES = {"is_decoder": True, "add_cross_attention": True}
SPEECH = {**SEQ, **IDS, "max_source_positions": 20, "max_target_positions": 20}
TURN = {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
BLOCKS = {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "patch_size": 8}
TOWERS = {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": {**EYES, "model_type": "clip_vision_model"}}
MODELS = {
    "llama": llama,
    "llama-tied": lambda: llama(tie_word_embeddings=True),
    "bert": tiny("BertForMaskedLM", "BertConfig", **TEXT),
    "bert-bare": tiny("BertModel", "BertConfig", **TEXT),
    "gpt2": tiny("GPT2LMHeadModel", "GPT2Config", **GPT2),
    "gpt2-bare": tiny("GPT2Model", "GPT2Config", **GPT2),
    "gpt-bigcode": tiny("GPTBigCodeForCausalLM", "GPTBigCodeConfig", **GPT2, multi_query=False),
    "gpt-neox": tiny("GPTNeoXForCausalLM", "GPTNeoXConfig", **TEXT),
    "t5": tiny("T5ForConditionalGeneration", "T5Config", **T5),
    "bart": tiny("BartForConditionalGeneration", "BartConfig", **SEQ),
    "marian": tiny("MarianMTModel", "MarianConfig", **SEQ, **IDS),
    "whisper": tiny("WhisperForConditionalGeneration", "WhisperConfig", **SPEECH),
    "vit": tiny("ViTModel", "ViTConfig", **EYES),
    "clip": tiny("CLIPModel", "CLIPConfig", text_config=TEXT, vision_config=EYES, projection_dim=32),
    "bert2bert": composite(
        "EncoderDecoderModel", "EncoderDecoderConfig", ("BertConfig", TEXT), ("BertConfig", {**TEXT, **DECODES})
    ),
    "vit-gpt2": composite(
        *("VisionEncoderDecoderModel", "VisionEncoderDecoderConfig"),
        *(("ViTConfig", EYES), ("GPT2Config", {**GPT2, **DECODES})),
    ),
    "llava": tiny("LlavaForConditionalGeneration", "LlavaConfig", **TOWERS, image_token_index=59),
    "qwen2-vl": tiny(
        *("Qwen2VLForConditionalGeneration", "Qwen2VLConfig"),
        text_config={**TEXT, **TURN, "num_key_value_heads": 2},
        vision_config=BLOCKS,
    ),
    "roberta": tiny("RobertaForMaskedLM", "RobertaConfig", **TEXT),
    "distilbert": tiny(
        "DistilBertForMaskedLM", "DistilBertConfig", dim=32, n_heads=4, n_layers=2, hidden_dim=48, vocab_size=60
    ),
    "modernbert": tiny("ModernBertForMaskedLM", "ModernBertConfig", **TEXT, **IDS),
    "gpt-bigcode-multi-query": tiny("GPTBigCodeForCausalLM", "GPTBigCodeConfig", **GPT2, multi_query=True),
    "gptj": tiny("GPTJForCausalLM", "GPTJConfig", **GPT2, rotary_dim=4),
    "opt": tiny("OPTForCausalLM", "OPTConfig", **TEXT, ffn_dim=48, word_embed_proj_dim=32),
    "bloom": tiny("BloomForCausalLM", "BloomConfig", hidden_size=32, n_layer=2, n_head=4, vocab_size=60),
    "falcon": tiny("FalconForCausalLM", "FalconConfig", **TEXT),
    "falcon-heads": tiny("FalconForCausalLM", "FalconConfig", **TEXT, multi_query=False),
    "falcon-new": tiny("FalconForCausalLM", "FalconConfig", **TEXT, new_decoder_architecture=True, num_kv_heads=2),
    "mpt": tiny("MptForCausalLM", "MptConfig", d_model=32, n_heads=4, n_layers=2, vocab_size=60, max_seq_len=32),
    "mistral": tiny("MistralForCausalLM", "MistralConfig", **TEXT, num_key_value_heads=2, head_dim=16),
    "qwen2": tiny("Qwen2ForCausalLM", "Qwen2Config", **TEXT, num_key_value_heads=2),
    "qwen3": tiny("Qwen3ForCausalLM", "Qwen3Config", **TEXT, num_key_value_heads=2, head_dim=16),
    "gemma2": tiny("Gemma2ForCausalLM", "Gemma2Config", **TEXT, num_key_value_heads=2, head_dim=16),
    "gemma3": tiny(
        *("Gemma3ForConditionalGeneration", "Gemma3Config"),
        text_config={**TEXT, "num_key_value_heads": 2, "head_dim": 16, "num_attention_heads": 8},
        **{"vision_config": EYES, "mm_tokens_per_image": 1},
    ),
    "phi": tiny("PhiForCausalLM", "PhiConfig", **TEXT, num_key_value_heads=2),
    "phi3": tiny("Phi3ForCausalLM", "Phi3Config", **TEXT, num_key_value_heads=2, pad_token_id=0),
    "mixtral": tiny("MixtralForCausalLM", "MixtralConfig", **TEXT, num_key_value_heads=2, num_local_experts=2),
    "qwen3-moe": tiny(
        *("Qwen3MoeForCausalLM", "Qwen3MoeConfig"),
        **{**TEXT, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 2, "moe_intermediate_size": 16},
    ),
    "swin": tiny(
        "SwinModel",
        "SwinConfig",
        image_size=16,
        patch_size=2,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
    ),
    "mllama": tiny(
        *("MllamaForConditionalGeneration", "MllamaConfig"),
        text_config={**TEXT, "num_key_value_heads": 2, "cross_attention_layers": [1], "pad_token_id": 0},
        vision_config={**EYES, "num_attention_heads": 2, "num_global_layers": 1, "vision_output_dim": 64}
        | {"intermediate_layers_indices": [0]},
    ),
}


def linears(model):
    """Names of a model's linear layers, as it calls them."""
    return sorted(name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear | Conv1D))


def adapt(model, place, config=None, **settings):
    """Attach an adapter to a copy of the model, move it away from its start, save it to `place`; the PEFT model.

    config: PEFT's own; without it, a LoRA of r = 3 and alpha = 5, but for these settings.
    """
    config = copy.deepcopy(config) or peft.LoraConfig(**{"r": 3, "lora_alpha": 5, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about tied layers
        adapted = peft.get_peft_model(copy.deepcopy(model), config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        adapted.save_pretrained(place, save_embedding_layers=False)
    return adapted


def merged(model, adapted):
    """{module, as the model calls it: (W, ΔW)}, [out, in] float64: what PEFT itself merges, less what was there.

    Of the modules that have an adapter: what is tied to one of them moves with it, and is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = dict(copy.deepcopy(adapted).double().merge_and_unload().named_parameters(remove_duplicate=False))
    layers, found = adapted.base_model.model.named_modules(), {}
    for name in [name for name, layer in layers if isinstance(layer, BaseTunerLayer)]:
        part = model.get_submodule(name)
        before, now = part.weight.double(), after[f"{name}.weight"]
        if not torch.equal(before, now):
            pair = (before.detach(), (now - before).detach())
            found[name] = [(each.T if isinstance(part, Conv1D) else each).numpy() for each in pair]
    return found


def write(place, tensors, config=None, file="model.safetensors"):
    """Save {name: tensor or array}, and the config beside them; the directory."""
    place.mkdir(parents=True, exist_ok=True)
    held = {name: t if isinstance(t, torch.Tensor) else torch.tensor(np.asarray(t)) for name, t in tensors.items()}
    save_file({name: tensor.clone().contiguous() for name, tensor in held.items()}, place / file)
    if config is not None:
        beside = "adapter_config.json" if file.startswith("adapter") else "config.json"
        (place / beside).write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return place


def adapter(place, *names, config=None, out=8, width=8, r=2, rename="base_model.model.{}.lora_{}.weight", more=None):
    """Save a PEFT adapter of r rows for modules of these names; the directory. more: other tensors of its file."""
    draw = torch.Generator().manual_seed(1)
    sizes = {"A": (r, width), "B": (out, r)}
    held = {rename.format(n, f): torch.randn(sizes[f], generator=draw) for n in names for f in "AB"}
    return write(
        place, {**held, **(more or {})}, {"r": r, "lora_alpha": 4, **(config or {})}, "adapter_model.safetensors"
    )


def gguf_model(path, tensors, kind="F32", arch="llama", heads=4, **fields):
    """Save {name in GGUF: matrix} as GGUF of one type; {name: what it reads as}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, kind, read = gguf.GGUFWriter(path, arch), gguf.GGMLQuantizationType[kind], {}
    writer.add_head_count(heads)
    for name, value in fields.items():
        add = {list: writer.add_array, str: writer.add_string, int: writer.add_uint32}[type(value)]
        add(name.replace("__", ".").replace("ARCH", arch), value)
    for name, matrix in tensors.items():
        stored = gguf.quants.quantize(np.asarray(matrix, np.float32), kind)
        read[name] = gguf.quants.dequantize(stored, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
    finish(writer)
    return read


def gguf_adapter(path, tensors, arch="llama", kind="F32", **header):
    """Save an adapter in GGUF as llama.cpp's converter does; its path. header: what it says besides, or instead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, kind = gguf.GGUFWriter(path, arch), gguf.GGMLQuantizationType[kind]
    for key, value in {"general.type": "adapter", "adapter.type": "lora", **header}.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}
        if value is not None:
            add[type(value)](key, value)
    for name, matrix in tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(np.asarray(matrix, np.float32), kind), raw_dtype=kind)
    finish(writer)
    return path


def gguf_lora(name, a, b):
    """The factors A [r, in] and B [out, r] of a module, by their names in a GGUF."""
    return {f"{name}.weight.lora_a": a, f"{name}.weight.lora_b": b}


def finish(writer):
    """Write a GGUF of which all fields and tensors are told."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(rows, heads):
    """Rows of a query or key projection as llama.cpp keeps them: the halves of each head interleaved."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def stacked(rows, heads, shared):
    """Rows of a fused projection, [q … k v] of each head or group, as llama.cpp keeps them: all q, all k, all v."""
    of = rows.reshape(shared, heads // shared + 2, -1, rows.shape[1])
    return np.concatenate([part.reshape(-1, rows.shape[1]) for part in (of[:, :-2], of[:, -2], of[:, -1])])


def refused(action, *words):
    """`action` ends in a WeightsError: one line that has each of the words."""
    with pytest.raises(WeightsError) as caught:
        action()
    said = str(caught.value)
    assert said.isprintable()
    missing = [word for word in words if word.lower() not in said.lower()]
    assert not missing, f"{missing} missing in: {said}"
    return said


@contextmanager
def bounded(seconds=10, memory=2**29):
    """Fails where what it holds takes more than so many seconds of a processor, or bytes, or waits and never ends."""

    def stop(*_):
        raise AssertionError(f"it takes more than {seconds} s of a processor, or {12 * seconds} s with waiting")

    had = resource.getrlimit(resource.RLIMIT_AS)
    limits = {signal.ITIMER_PROF: seconds, signal.ITIMER_REAL: 12 * seconds}
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    now = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, had[1]))
    timers = {timer: signal.setitimer(timer, limit) for timer, limit in limits.items()}
    try:
        yield
    finally:
        for timer, before in timers.items():  # among them pytest's limit for the test
            signal.setitimer(timer, *before)
        for number, before in handlers.items():
            signal.signal(number, before)
        resource.setrlimit(resource.RLIMIT_AS, had)
