"""Which reader the files at a path ask for."""

import re

from helpers.weights import tensors
from helpers.weights.formats.full import Full
from helpers.weights.formats.gguf import Gguf
from helpers.weights.formats.kohya_diffusers import KohyaDiffusers
from helpers.weights.formats.mlx import MARKS, Mlx
from helpers.weights.formats.peft import CONFIG, FILE, Peft
from helpers.weights.tensors import WeightsError

OF_PEFT = "PEFT's format without its adapter_config.json, which belongs beside it"
# What the name of any tensor tells, the first that fits: its reader, or what it is, of formats that are not read.
FORMATS = {
    r"\.weight\.lora_[ab]$": Gguf,
    r"\.lora_[ab]$": Mlx,
    r"\.lora_[ab]\.weight$": "torchtune's LoRA, without alpha, which its checkpointer for Hugging Face saves with it",
    r"adapter(_\w{1,4})?\.linear_(in|out)\.weight$": "NeMo's LoRA, which NeMo itself exports to PEFT's format",
    r"lora_latent_mapping": "LoRA-XS",
    r"(^|\.)p?vera_(lambda|[AB])": "VeRA",
    r"^(\w+\.)?base_model\.model\..*\.(lora|hada|lokr|ia3)_": OF_PEFT,
    r"\.lora_[AB]\.\w+\.weight$": OF_PEFT,
    r"\.lora_(down|up|[AB])\.weight$|[._]lora(_linear_layer)?\.(down|up)\.|\.(hada|lokr)_w[12]": KohyaDiffusers,
    r"^(lora_(unet|te\d?|transformer)|lycoris)_\w+\.": KohyaDiffusers,
    r"\.b?oft_": "OFT or BOFT, which multiply W",
    r"prompt_embeddings|prefix_(encoder|embed)": "a prompt or prefix, which changes no weights",
    r"adaption_(prompt|gate)|adapter_query": "a LLaMA-Adapter, which changes no weights",
    r"\.adapter_(down|up)\.": "a bottleneck adapter, layers of its own, which changes no weights",
    r"^direction\.\d+$": "a control vector of llama.cpp, which changes no weights",
    r"\.lora_[AB]$": "loralib's format, without alpha, where q and v may share one A and B",
    r"\.ia3_l$": OF_PEFT,
}
WAY_OUT = "give a LoRA as PEFT saves it, or a whole fine-tuned model"


def open_update(path, base=None):
    """Open what fine-tuning added: an adapter in any format that is read, or a whole fine-tuned model.

    path: a directory, or a file. base: the `Base` that it was trained on, needed for whole models and DoRA; with it,
    shapes are held against its weights. Returns `Updates`. Raises WeightsError, which names a format that is known and
    not read.
    """
    path = tensors.existing(path)
    if path.name in (FILE, CONFIG) and path.with_name(CONFIG).exists():
        path = path.parent
    place, kinds = (path, {file.suffix for file in path.iterdir()}) if path.is_dir() else (path.parent, {path.suffix})
    if ".nemo" in kinds and not kinds & {".safetensors", ".gguf"}:
        raise WeightsError(f"{path} is an archive of NeMo, which NeMo itself exports to PEFT's format: {WAY_OUT}")
    of_mlx = (place / CONFIG).is_file() and not (place / FILE).exists()
    of_mlx = of_mlx and ((place / "adapters.safetensors").exists() or MARKS & tensors.read_json(place / CONFIG).keys())
    if path.is_dir() and (path / CONFIG).is_file() and not of_mlx:
        return Peft(path, base)
    store = tensors.open_model(path)
    if store.fields.get("general.type") == "adapter":
        return Gguf(path, base, store)
    for pattern, reader in FORMATS.items():
        if key := next((key for key in store if re.search(pattern, key)), None):
            if isinstance(reader, str):
                raise WeightsError(f"{path} is {reader} ({key}), and not read: {WAY_OUT}")
            return reader(path, base, store)
    whole = store.files[0].name.startswith("model") or not of_mlx
    return Full(path, base) if whole else Mlx(path, base, store)
