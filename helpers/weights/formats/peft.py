"""As PEFT saves adapters: adapter_config.json, and tensors ….lora_A.weight [r, in] and ….lora_B.weight [out, r]."""

import re
from functools import cached_property

from helpers.weights import modules, tensors
from helpers.weights.formats.factors import VECTORS, Adapter
from helpers.weights.tensors import WeightsError, listed

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
UNTRAINED = "untrained_A.safetensors"  # beside an adapter: its A before training
READ = ("LORA", "LOHA", "LOKR", "IA3")
# Settings of PEFT under which ΔW of a module is something else than its own B A.
NOT_BA = (
    *("arrow_config", "kasa_config", "layer_replication", "monteclora_config", "use_bdlora", "use_qalora"),
    *("velora_config", "alora_invocation_tokens"),
)
FLAGS = ("use_rslora", "use_dora", "fan_in_fan_out")
# The initialisations of PEFT that leave the base weight as it was.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
FACTOR = re.compile(
    r"(?P<module>.+?)\.(?:lora_(?P<lora>A|B|magnitude_vector|embedding_A|embedding_B)|(?P<other>(?:hada|lokr|ia3)_\w+))"
    r"(?:\.(?P<adapter>(?!bias$)\w+))??(?:\.weight)?"
)
# What else stands in an adapter's file, by its name.
BESIDE = {
    r"\.bias$": "a bias",
    r"\.base_layer\.": "a whole weight of the base: its vocabulary was resized, or its head adapted",
    r"\.trainable_tokens_": "single tokens' embeddings",
    r"\.lora_": "not of plain LoRA",
    "": "a module that was trained and saved whole",
}
WRAPPED = re.compile(rf"(?<!\w)({'|'.join(modules.WRAPPERS)})\\?\.")  # in a pattern, which names what the model had
# Of a pattern in a config: what can take a time that grows exponentially with a name, or means a set of sets.
ENDLESS = re.compile(r"\)[*+{]|\[\[|--|&&|~~|\|\|", re.DOTALL)
STEPS = 10**9  # that a pattern may take on a name: its letters to the power of what repeats


class Settings:
    """PEFT's config of an adapter or, as diffusers writes it into a file's header, of one component of it.

    wrong: what makes a WeightsError, which is raised for one under which ΔW is not what the factors say.
    """

    def __init__(self, wrong, config):
        self.wrong, self.config = wrong, config
        kind, init = config.get("peft_type", "LORA"), config.get("init_lora_weights", True)
        if kind not in READ:
            raise self.wrong(f"it is a {kind} adapter: of PEFT's only {listed(READ)} are read")
        if init not in PLAIN_INITS:
            way_out = "train without it to compare"
            if str(init).startswith(("pissa", "olora", "corda", "lora_ga")):
                way_out = "save it with path_initial_model_for_weight_conversion, then compare factor BA"
            raise self.wrong(f"its start, {init!r}, changes the base, so ΔW is not B A: {way_out}")
        if used := [name for name in NOT_BA if config.get(name)]:
            raise self.wrong(f"it uses {used[0]}, so ΔW of a module is not its B A: train without it to compare")
        odd = [name for name in FLAGS if config.get(name) not in (None, True, False)]
        targets = config.get("target_parameters") or []
        if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
            odd.append("target_parameters")
        if odd:
            raise self.wrong(f"{odd[0]} is {config[odd[0]]!r} in its config: save the adapter again")

    def rank(self, name):
        """r of a module."""
        return self._number(name, "r", "rank_pattern")

    def scale(self, name):
        """(α/r, or α/√r with rsLoRA (Kalajdzievski 2023), its formula); the config's patterns apply."""
        given = "lora_alpha" if self.config.get("peft_type", "LORA") == "LORA" else "alpha"
        rank, alpha = self.rank(name), self._number(name, given, "alpha_pattern")
        if rank < 1 or alpha == 0:
            raise self.wrong(f"{name} has r = {rank} and {given} = {alpha}, so ΔW is zero: train it anew")
        root = self.config.get("use_rslora")
        return alpha / (rank**0.5 if root else rank), f"{alpha:g}/{'√' if root else ''}{rank}"

    def check(self, name, of, rank):
        """Raise WeightsError where the factors of a module, {factor: Tensor}, of this rank, are not of this config."""
        way_out = "at odds: the config belongs to another adapter, or experts are stacked; save it again"
        if rank not in (None, self.rank(name)):
            told = " and ".join(f"{factor} {of[factor].shape}" for factor in of if factor not in VECTORS)
            raise self.wrong(f"{name} has {told}, and the config says r = {self.rank(name)}, {way_out}")
        if self.config.get("use_dora") and "M" not in of:
            raise self.wrong(f"{name} has no lora_magnitude_vector, and the config says use_dora, {way_out}")

    def _number(self, name, setting, pattern):
        """A number of the config (PEFT's default for both: 8), or what `pattern` has for this module, as in PEFT."""
        try:
            overrides = (self.config.get(pattern) or {}).items()
            for key, _ in overrides:
                repeats = len(re.findall(r"[*+{]", key[: tensors.NAME + 1]))
                if len(key) > tensors.NAME or ENDLESS.search(key) or len(name) ** repeats > STEPS:
                    raise re.error(f"{key[:60]!r} repeats groups, or too much")
            found = (value for key, value in overrides if re.match(rf"(.*\.)?({WRAPPED.sub('', key)})$", name))
            value = next(found, self.config.get(setting, 8))
        except (re.error, AttributeError, OverflowError, RecursionError) as error:
            raise self.wrong(f"{pattern} in its config cannot be applied ({error}): save it again") from error
        if type(value) not in (int, float) or not abs(value) < 1e9:
            raise self.wrong(f"{setting} of {name} is {value!r} in its config: expected a number")
        return value


class Peft(Adapter):
    """LoRA, of embeddings too, LoHa, LoKr, IA3; of DoRA and IA3 the whole difference, for which it needs its base."""

    def __init__(self, path, base=None):
        self.label = path.name
        self.settings = Settings(self.wrong, tensors.read_json(path / CONFIG))
        self.config, self.scale = self.settings.config, self.settings.scale
        file = next((path / name for name in (FILE, "adapter_model.bin") if (path / name).is_file()), None)
        if not file:
            raise WeightsError(f"{path} holds {CONFIG} and no {FILE}: download or save the adapter again")
        beside = [place for place in (path / CONFIG, path / UNTRAINED) if place.exists()]
        self._adapters = set()
        super().__init__(path, base, [file, *beside], tensors.open_file(file))
        if len(self._adapters - {None, "default"}) > 1:
            raise self.wrong(
                f"{FILE} holds several adapters, {listed(sorted(filter(None, self._adapters)))}: save each by itself"
            )
        given, own = str(self.config.get("base_model_name_or_path") or ""), base.name() if base else ""
        if own and _bare(given) not in ("", _bare(own), _bare(base.label)):
            self.notes.append(f"{self.label} says that it was trained on {given!r}; the base given is {own!r}")

    def sort(self, key, tensor):
        """(module, factor, tensor), or (name, "", why it is left out)."""
        match = FACTOR.fullmatch(key)
        name = modules.plain(match["module"] if match else key)
        if not match:
            return name, "", next(why for mark, why in BESIDE.items() if re.search(mark, key))
        factor = match["other"] or match["lora"].replace("magnitude_vector", "M")
        if factor.startswith("embedding_"):  # A [r, rows] and B [columns, r] of the weight's transpose
            factor, tensor = {"A": "B", "B": "A"}[factor[-1]], tensor.transposed()
        elif factor in ("A", "B") and (why := self._of_parameters(name, factor, tensor.shape)):
            return name, "", why
        self._adapters.add(match["adapter"])
        return name, factor, tensor

    def read(self, name, of_base, cut):
        """The LowRank or Dense of a module. Raises WeightsError for factors that are at odds with the config."""
        self.settings.check(name, self.held[name], self.rank(name))
        square = self.shapes[name] and self.shapes[name][0] == self.shapes[name][1]
        if of_base and self.config.get("fan_in_fan_out") and square and not self.base.layout.known:
            way_out = "put the model's config.json beside it, of an architecture that has a row in architectures.toml"
            raise self.wrong(
                f"{name} is square, and its base does not tell whether W is stored as [in, out]: {way_out}"
            )
        return super().read(name, of_base, cut)

    def untrained_a(self, module):
        """A of `module` before its training, [r, in], if `untrained_A.safetensors` in the directory has it; else None.

        Raises WeightsError when it has another shape than A.
        """
        name, cut = self._place(module)
        own, first = self.held[name].get("A"), self._untrained.get(name)
        if first and own and own.shape != first.shape:
            raise self.wrong(f"untrained A of {name} is {first.shape}, but the trained is {own.shape}: save it anew")
        return (cut(first.read()) if cut.axis else first.read()) if first else None

    @cached_property
    def _untrained(self):
        """{module: the tensor of its A before training}."""
        store = tensors.open_file(self.path / UNTRAINED) if (self.path / UNTRAINED).exists() else {}
        found = [(FACTOR.fullmatch(key), tensor) for key, tensor in store.items()]
        return {modules.plain(match["module"]): tensor for match, tensor in found if match and match["lora"] == "A"}

    def _rescaled(self, name, moved, magnitude):
        """Of an embedding, PEFT keeps the lengths of the columns."""
        embedded = any(".lora_embedding_" in tensor.key for tensor in self.held[name].values())
        return super()._rescaled(name, moved, magnitude.reshape(1, -1) if embedded else magnitude)

    def _of_parameters(self, name, factor, shape):
        """Why a factor beside target_parameters is none of a linear layer, or an empty string."""
        targets = self.config.get("target_parameters") or []
        if not targets or len(shape) != 2:
            return ""
        parents = tuple(f".{target}".rpartition(".")[0] for target in targets)
        other = shape[0 if factor == "A" else 1] != self.settings.rank(name)
        stacked = other or f".{name}".endswith(tuple(filter(None, parents)))
        return "target_parameters: factors of parameters, stacked over experts" * stacked


def _bare(name):
    """The last part of a path or of a name on a hub, as far as all spellings share it."""
    return re.sub(r"[\W_]", "", re.split(r"[/\\]", name.rstrip("/\\"))[-1]).lower()
