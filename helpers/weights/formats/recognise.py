"""Which reader the files at a path ask for."""

import re

from helpers.paths import resolve
from helpers.weights import tensors
from helpers.weights.formats.full import Full
from helpers.weights.formats.peft import CONFIG, FILE, Peft
from helpers.weights.tensors import WeightsError

# How a tensor's name tells who wrote it, of formats that are known and not read.
OTHERS = {
    r"\.lora_(down|up)\.|\.lora\.(down|up)\.": "kohya's or diffusers' older format",
    r"\.hada_w[12]_[ab]$": "LyCORIS' LoHa",
    r"\.lokr_w[12]": "LyCORIS' LoKr",
    r"\.lora_[ab](\.|$)": "mlx-lm's format or that of a GGUF adapter",
    r"\.lora_[AB](\.\w+)?\.weight$": "diffusers' format, or PEFT's without its adapter_config.json",
    r"\.lora_[AB]$": "loralib's format",
    r"\.ia3_l": "IA3",
    r"\.(linear_in|linear_out)\.weight$": "NeMo's format",
}


def open_update(path, base=None):
    """Open what fine-tuning added: an adapter as PEFT saves it, or a whole model fine-tuned from the base.

    path: a directory, or a file. base: the `Base` that it was trained on, needed for whole models and DoRA; with it,
    shapes are held against its weights. Returns `Updates`. Raises WeightsError, which names a format that is known and
    not read.
    """
    path = resolve(path)
    if path.name in (FILE, CONFIG) and path.with_name(CONFIG).exists():
        path = path.parent
    if (path / CONFIG).is_file() and ((path / FILE).exists() or not (path / "adapters.safetensors").exists()):
        return Peft(path, base)
    store = tensors.open_model(path)
    for pattern, name in OTHERS.items():
        if key := next((key for key in store if re.search(pattern, key)), None):
            raise WeightsError(f"{path} is in {name} ({key}), which is not read: give the adapter as PEFT saves it")
    return Full(path, base)
