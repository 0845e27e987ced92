"""As mlx-lm saves adapters: adapter_config.json, and tensors ….lora_a [in, r], ….lora_b [r, out], of DoRA ….m [out]."""

import re

from helpers.weights import modules, tensors
from helpers.weights.formats.factors import Adapter
from helpers.weights.tensors import WeightsError

CONFIG = "adapter_config.json"
MARKS = {"fine_tune_type", "lora_parameters", "lora_layers", "rank"}  # settings by which it is told from PEFT's
FACTOR = re.compile(r"(?P<module>.+)\.(?P<factor>lora_a|lora_b|m)")
# What mlx-lm's models call their embeddings, of which lora_a is [rows, r] and lora_b [r, columns].
EMBEDDINGS = {
    *("embed_tokens", "embed_tokens_per_layer", "embed_in", "embed", "embedding", "embeddings", "word_embeddings"),
    *("token_embeddings", "tok_embeddings", "position_embedding_table", "wte", "wpe"),
}


class Mlx(Adapter):
    """LoRA, of embeddings too; of DoRA the whole difference. `scale` is the whole factor of B A, whatever the rank."""

    def __init__(self, path, base, store):
        self.label, beside = path.name, store.files[0].with_name(CONFIG)
        if not beside.is_file():
            raise WeightsError(
                f"{path} holds mlx-lm's factors, without the {CONFIG} that has their scale: add that file"
            )
        config = tensors.read_json(beside)
        self._scale = self._scale_in(config)
        super().__init__(path, base, [*store.files, beside], store)
        dora = config.get("fine_tune_type") == "dora" or config.get("use_dora") is True
        if odd := [name for name, of in self.held.items() if ("M" in of) != dora]:
            does = "does" if dora else "does not"
            raise self.wrong(f"its {CONFIG} {does} speak of DoRA, at odds with {odd[0]}: they belong to two adapters")

    def sort(self, key, tensor):
        """(module, factor, tensor), or (name, "", why it is left out)."""
        match = FACTOR.fullmatch(key)
        name, factor = modules.plain(match["module"] if match else key), match and match["factor"]
        if not match:
            return name, "", "no factor of LoRA: trained and saved whole"
        if factor == "m":
            return name, "M", tensor
        if name.rpartition(".")[2] in EMBEDDINGS:
            return name, "B" if factor == "lora_a" else "A", tensor
        return name, "A" if factor == "lora_a" else "B", tensor.transposed()

    def scale(self, name):
        """(what B A is multiplied by, the same in words)."""
        return self._scale, f"{self._scale:g}"

    def _scale_in(self, config):
        """The scale that a config gives. Raises WeightsError where it gives none, or does not tell which."""
        kind, given = config.get("fine_tune_type") or "lora", config.get("lora_parameters")
        if kind not in ("lora", "dora"):
            merge = "merge it with mlx_lm.fuse, and give the whole model"
            raise self.wrong(f"its fine_tune_type is {kind!r}, and of mlx-lm's lora and dora are read: {merge}")
        if given is None and "rank" in config:
            # Its releases before and after 2026-03 read the same file in two ways.
            how = "which multiplied by alpha, later by alpha / rank, and does not say by which"
            raise self.wrong(f"it is in mlx-vlm's older format, {how}: merge it, and give the whole model")
        given = given if isinstance(given, dict) else {}
        scale, alpha = given.get("scale"), given.get("alpha")
        if alpha not in (None, given.get("rank")) and not config.keys() & {"fine_tune_type", "num_layers"}:
            # mlx-lm 0.14.0 multiplies by scale · alpha / rank, 0.14.3 by scale; their configs look the same.
            how = f"and mlx-lm before 0.19 multiplied by {scale!r} · {alpha!r} / rank or by {scale!r} alone"
            raise self.wrong(f"its {CONFIG} has scale and alpha, {how}: set scale to what it was, and take alpha out")
        if type(scale) not in (int, float) or not 0 < abs(scale) < 1e9:
            raise self.wrong(f"scale is {scale!r} in lora_parameters of its {CONFIG}: expected a number other than 0")
        return scale
