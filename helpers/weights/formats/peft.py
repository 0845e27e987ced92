"""LoRA as PEFT saves it: adapter_config.json, and tensors ….lora_A.weight [r, in] and ….lora_B.weight [out, r]."""

import re
from functools import cached_property

import numpy as np

from helpers.weights import modules, tensors
from helpers.weights.tensors import WeightsError, listed
from helpers.weights.updates import Dense, LowRank, Updates

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
UNTRAINED = "untrained_A.safetensors"  # beside an adapter: its A before training
# Settings of PEFT under which ΔW of a module is something else than its own B A.
NOT_BA = (
    *("arrow_config", "kasa_config", "layer_replication", "monteclora_config", "use_bdlora", "use_qalora"),
    "velora_config",
)
FLAGS = ("use_rslora", "use_dora", "fan_in_fan_out")
# The initialisations of PEFT that leave the base weight as it was.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
LORA = re.compile(
    r"(?P<module>.+?)\.lora_(?P<factor>A|B|magnitude_vector)(?:\.(?P<adapter>(?!bias$)\w+))??(?:\.weight)?"
)
# What else stands in an adapter's file, by its name.
BESIDE = {
    r"\.lora_embedding_": "LoRA of an embedding",
    r"\.bias$": "a bias",
    r"\.base_layer\.": "a whole weight of the base: its vocabulary was resized, or its head adapted",
    r"\.trainable_tokens_": "single tokens' embeddings",
    r"\.lora_": "not of plain LoRA",
    "": "a module that was trained and saved whole",
}
HALVES = 0.5  # φ of the two halves of A's rows above chance from which on they are taken for trained and initial ones


class Peft(Updates):
    """The LoRA factors of an adapter; of DoRA, the whole difference, for which it needs its base."""

    def __init__(self, path, base=None):
        super().__init__(path, base)
        self.config = tensors.read_json(path / CONFIG)
        self._refuse_what_is_not_read_right()
        file = next((path / name for name in (FILE, "adapter_model.bin") if (path / name).is_file()), None)
        if not file:
            raise WeightsError(f"{path} holds {CONFIG} and no {FILE}: download or save the adapter again")
        self.store = tensors.open_file(file)
        self.files = [file, path / CONFIG, *([path / UNTRAINED] if (path / UNTRAINED).exists() else [])]
        self._factors = self._sorted()
        if not self._factors:
            why = "".join(f"; {name}: {why}" for name, why in list(self.left_out.items())[:3])
            raise WeightsError(f"{path} holds no LoRA factors (….lora_A.weight, ….lora_B.weight) of linear layers{why}")
        self.shapes = {name: (of["B"].shape[0], of["A"].shape[1]) for name, of in self._factors.items()}
        self._note_its_base()
        self._note_converted()

    def read(self, name, of_base=None):
        """The LowRank of a module, or the Dense of a DoRA one.

        scale = α/r, or α/√r with rsLoRA (Kalajdzievski 2023); the config's rank and alpha patterns apply, and PEFT's
        defaults where it has none. Raises WeightsError for factors that are not finite, or at odds with the config.
        """
        (rank, scale, _), a, b = self._scale(name), self._factors[name]["A"], self._factors[name]["B"]
        if not a.shape[0] == b.shape[1] == rank:
            raise self._wrong(
                f"{name} has A {a.shape} and B {b.shape}, and its config says r = {rank}: expected A [r, in] and B "
                "[out, r]; the config belongs to another adapter, or the factors are stacked over experts"
            )
        square = a.shape[1] == b.shape[0]
        if of_base and self.config.get("fan_in_fan_out") and square and not self.base.has_transposed():
            raise self._wrong(f"its base leaves fan_in_fan_out of {name} open: put the model's config.json beside it")
        found = LowRank(a.read(), b.read(), scale, max(a.round_off, b.round_off))
        dora = "magnitude_vector" in self._factors[name] or self.config.get("use_dora")
        return self._rescaled(name, of_base, found) if dora else found

    def untrained_a(self, module):
        """A of `module` before its training, [r, in], if `untrained_A.safetensors` in the directory has it; else None.

        Raises WeightsError when it has another shape than A.
        """
        name = self.find(module)
        own, first = self._factors[name]["A"], self._untrained.get(name)
        if first and own.shape != first.shape:
            raise self._wrong(
                f"untrained A of {name} is {first.shape}, but the trained one is {own.shape}: save it anew"
            )
        return first and first.read()

    @cached_property
    def _untrained(self):
        """{module: the tensor of its A before training}."""
        store = tensors.open_file(self.path / UNTRAINED) if (self.path / UNTRAINED).exists() else {}
        found = [(LORA.fullmatch(key), tensor) for key, tensor in store.items()]
        return {modules.plain(match["module"]): tensor for match, tensor in found if match and match["factor"] == "A"}

    def row(self, name):
        """How a module is read, for `describe`."""
        (rank, _, formula), of = self._scale(name), self._factors[name]
        how = f"scale · B A, r = {rank}, scale = {formula}"
        how = f"DoRA: m (W + {how}) / ‖ ‖ − W" if "magnitude_vector" in of else how
        kinds = ", ".join(dict.fromkeys((of["A"].kind, of["B"].kind)))
        return [how, FILE, of["A"].key, self.shapes[name], kinds]

    def _sorted(self):
        """{module: {factor: Tensor}} of linear layers; what else is in the file goes to `left_out`."""
        found, adapters = {}, set()
        for key, tensor in self.store.items():
            match = LORA.fullmatch(key)
            name = modules.plain(match["module"] if match else key)
            if why := self._why_left_out(name, key, match, tensor):
                self.left_out[name] = why
            elif twin := found.setdefault(name, {}).get(match["factor"]):
                raise self._wrong(f"it holds {twin.key} and {key}, one module: remove one")
            else:
                found[name][match["factor"]] = tensor
                adapters.add(match["adapter"])
        for name, factors in found.items():
            if missing := sorted({"A", "B"} - factors.keys()):
                self.left_out.setdefault(name, f"it has no lora_{missing[0]}; the adapter file is incomplete")
        if len(adapters - {None, "default"}) > 1:
            raise self._wrong(f"{FILE} holds several adapters, {listed(adapters)}: save each by itself")
        return {name: factors for name, factors in found.items() if name not in self.left_out}

    def _why_left_out(self, name, key, match, tensor):
        """Why a tensor is no factor of a linear layer, or an empty string."""
        if not match:
            return next(why for mark, why in BESIDE.items() if re.search(mark, key))
        factor, shape, targets = match["factor"], tensor.shape, self.config.get("target_parameters") or []
        if tensor.kind not in tensors.PLAIN:
            return f"lora_{factor} is stored as {tensor.kind}, quantised"
        if factor == "magnitude_vector":
            return ""
        if 0 in shape or len(shape) < 2:
            return f"lora_{factor} of shape {shape}: parts of a distributed run were saved before they were gathered"
        if len(shape) > 2:
            return f"factors of {len(shape)} dimensions: a convolution, or stacked over experts"
        parents = tuple(f".{target}".rpartition(".")[0] for target in targets)
        rank = shape[0 if factor == "A" else 1]
        if targets and (f".{name}".endswith(tuple(filter(None, parents))) or rank != self._scale(name)[0]):
            return "target_parameters: factors of parameters, stacked over experts"
        return ""

    def _scale(self, name):
        """(r, scale, its formula) of a module."""
        rank, alpha = self._setting(name, "r", "rank_pattern"), self._setting(name, "lora_alpha", "alpha_pattern")
        if rank < 1 or alpha == 0:
            raise self._wrong(f"{name} has r = {rank} and lora_alpha = {alpha}, so ΔW is zero: train it anew")
        root = self.config.get("use_rslora")
        return rank, alpha / (rank**0.5 if root else rank), f"{alpha:g}/{'√' if root else ''}{rank}"

    def _setting(self, name, setting, pattern):
        """A number of the config (PEFT's default for both: 8), or what `pattern` has for this module, as in PEFT."""
        try:
            overrides = (self.config.get(pattern) or {}).items()
            found = (value for key, value in overrides if re.match(rf"(.*\.)?({key})$", name))
            value = next(found, self.config.get(setting, 8))
        except (re.error, AttributeError) as error:
            raise self._wrong(f"{pattern} in its config cannot be applied ({error}): save it again") from error
        if type(value) not in (int, float) or not abs(value) < 1e9:
            raise self._wrong(f"{setting} of {name} is {value!r} in its config: expected a number")
        return value

    def _rescaled(self, name, of_base, found):
        """DoRA (Liu et al. 2024): every row of W + ΔW is scaled to the length that the magnitude vector has for it."""
        if of_base is None:
            if self.base:
                modules.match(self.base, self)  # may say why
            raise self._wrong(f"DoRA rescales the whole W, so ΔW of {name} is not B A: give its base, which has it")
        magnitude = self._factors[name].get("magnitude_vector")
        if magnitude is None:
            raise self._wrong(f"{name} has no lora_magnitude_vector, which DoRA needs: save it again")
        before, length = self.base.weight(of_base).astype(np.float64), magnitude.read().astype(np.float64).reshape(-1)
        moved = before + found.delta()
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        if len(length) != len(moved) or not norms.all():
            raise self._wrong(f"{len(length)} magnitudes of {name} do not fit {len(moved)} rows: save it again")
        after = length[:, None] / norms * moved
        precision = max(found.stored_precision, magnitude.round_off or 1.0)
        size = np.linalg.norm(after - before) or 1.0
        return Dense(after - before, float(precision * np.linalg.norm(after) / size))

    def _note_its_base(self):
        given, own = str(self.config.get("base_model_name_or_path") or ""), self.base.name() if self.base else ""
        if own and _bare(given) not in ("", _bare(own), _bare(self.base.label)):
            self.notes.append(f"{self.label} says that it was trained on {given!r}; the base given is {own!r}")

    def _note_converted(self):
        """PiSSA, OLoRA and their like, converted to plain LoRA, have [trained; initial] rows as A."""
        for name in self.modules()[:4]:
            a = self._factors[name]["A"]
            rank, width = a.shape
            if rank % 2 or rank >= width:
                continue
            frames = [np.linalg.qr(half.T)[0] for half in np.split(a.read().astype(np.float64), 2)]
            shared, chance = np.square(frames[0].T @ frames[1]).sum() / (rank / 2), rank / 2 / width
            if shared - chance > HALVES * (1 - chance):
                self.notes.append(
                    f"the two halves of A's rows of {name} span nearly the same (φ = {shared:.2f}), as after a "
                    "conversion of PiSSA, OLoRA or the like: one half is then made from W itself, so use factor BA"
                )
                return

    def _refuse_what_is_not_read_right(self):
        kind, init = self.config.get("peft_type", "LORA"), self.config.get("init_lora_weights", True)
        if kind != "LORA":
            raise self._wrong(f"it is a {kind} adapter: only LORA adapters of PEFT are read")
        if init not in PLAIN_INITS:
            way_out = "train without it to compare"
            if str(init).startswith(("pissa", "olora", "corda", "lora_ga")):
                way_out = "save it with path_initial_model_for_weight_conversion, then compare factor BA"
            raise self._wrong(f"its start, {init!r}, changes the base, so ΔW is not B A: {way_out}")
        if used := [name for name in NOT_BA if self.config.get(name)]:
            raise self._wrong(f"it uses {used[0]}, so ΔW of a module is not its B A: train without it to compare")
        odd = [name for name in FLAGS if self.config.get(name) not in (None, True, False)]
        targets = self.config.get("target_parameters") or []
        if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
            odd.append("target_parameters")
        if odd:
            raise self._wrong(f"{odd[0]} is {self.config[odd[0]]!r} in its config: save the adapter again")

    def _wrong(self, said):
        return WeightsError(f"{self.label}: {said}")


def _bare(name):
    """The last part of a path or of a name on a hub, as far as all spellings share it."""
    return re.sub(r"[\W_]", "", re.split(r"[/\\]", name.rstrip("/\\"))[-1]).lower()
