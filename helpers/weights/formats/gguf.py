"""As llama.cpp keeps adapters, in GGUF: tensors NAME.weight.lora_a [r, in] and NAME.weight.lora_b [out, r]."""

import re

from helpers.weights.architectures import architecture, gguf_module, gguf_order
from helpers.weights.formats.factors import Adapter
from helpers.weights.tensors import WeightsError

FACTOR = re.compile(r"(?P<stem>.+)\.weight\.lora_(?P<factor>[ab])")
WAY_OUT = "give the adapter as PEFT saved it, before it was converted"


class Gguf(Adapter):
    """LoRA. The rows of B that llama.cpp reorders are put back, for which it needs the numbers of heads of its base."""

    def __init__(self, path, base, store):
        self.label, self._alpha = path.name, store.fields.get("adapter.lora.alpha", 0)
        self._arch = str(store.fields.get("general.architecture"))
        kind, row = store.fields.get("adapter.type"), architecture(self._arch)
        if kind != "lora" or store.fields.get("general.type") != "adapter":
            raise self.wrong(f"it is a GGUF adapter of type {kind!r}: of llama.cpp's only lora is read; {WAY_OUT}")
        if "adapter.alora.invocation_tokens" in store.fields:
            raise self.wrong("it is an aLoRA, which acts only after certain tokens: train a plain LoRA to compare")
        if not row.get("gguf"):
            raise self.wrong(f"its architecture is {self._arch!r}, which has no row in architectures.toml: {WAY_OUT}")
        if row.get("transposed"):
            turned = "of which llama.cpp's converter swaps A and B, and its loader does not"
            raise self.wrong(f"its architecture is {self._arch!r}, {turned}: {WAY_OUT}")
        if type(self._alpha) not in (int, float) or not abs(self._alpha) < 1e9:
            raise self.wrong(f"adapter.lora.alpha is {self._alpha!r}: expected a number; {WAY_OUT}")
        super().__init__(path, base, store.files, store)

    def sort(self, key, tensor):
        """(module, factor, tensor), or (name, "", why it is left out)."""
        match = FACTOR.fullmatch(key)
        stem, factor = (match["stem"], match["factor"].upper()) if match else (key, "")
        name = gguf_module(self._arch, stem)
        if not match or not name:
            return stem, "", "no row of architectures.toml says what it is" if match else "no factor, but saved whole"
        if stem == "token_embd":  # llama.cpp looks up rows of lora_a [rows, r]; lora_b is [columns, r]
            return (name, "B", tensor) if factor == "A" else (name, "A", tensor.transposed())
        if factor == "A" or len(tensor.shape) != 2 or 0 in tensor.shape:
            return name, factor, tensor
        try:
            rows = gguf_order(self._arch, name, self._heads, tensor.shape[0])
        except WeightsError as error:
            return name, "", str(error)
        return name, factor, tensor if rows is None else tensor.seen(tensor.shape, lambda stored: stored[rows])

    def scale(self, name):
        """(α/r, or 1 where the file has no α or 0, as in llama.cpp; the same in words)."""
        rank = self.rank(name)
        return (self._alpha / rank, f"{self._alpha:g}/{rank}") if self._alpha else (1.0, "1, without alpha")

    def _heads(self, module):
        """See `Layout.heads`."""
        if not self.base:
            raise WeightsError("llama.cpp reorders its rows by heads, which its base tells: give its base")
        return self.base.layout.heads(module)
