"""Adapters of diffusion models: as kohya's scripts, LyCORIS, diffusers, OneTrainer and ComfyUI have them."""

import re

from helpers.weights import modules, tensors
from helpers.weights.formats.factors import Adapter
from helpers.weights.formats.peft import Settings
from helpers.weights.tensors import WeightsError, listed

FACTOR = re.compile(
    r"(?P<module>.+?)(?:\.lora_(down|up|A|B)\.weight|[._]lora(?:_linear_layer)?\.(down|up)\.weight"
    r"|(?:[._]lora(?:_linear_layer)?)?\.(alpha)|\.(?:lora_(magnitude)_vector|(dora)_scale)(?:\.weight)?"
    r"|\.(hada_w[12]_[ab]|lokr_w[12](?:_[ab])?))"
)
SHORT = {"down": "A", "up": "B", "magnitude": "M", "dora": "M"}
# The part of a pipeline that a module belongs to: it begins the flattened names of kohya, the dotted ones of diffusers.
COMPONENT = re.compile(
    r"(?:(lora_(?:prior_)?(?:unet|te\d?|transformer)|lycoris)_"
    r"|(unet|prior|controlnet|diffusion_model|(?:transformer|text_encoder)(?:_\d)?)\.)(.+)"
)
# What is no factor of a linear layer, and keeps its module from being read.
NOT_READ = {
    r"\.(hada_t[12]|lokr_t[12]|lora_mid\.weight)$": "Tucker's factors of a convolution",
    r"\.(oft_\w+|rescale|(a[12]|b[12m])\.weight|on_input)$": "OFT, GLoRA or LyCORIS' (IA)^3, which work on W",
    r"\.(diff|set_weight|w_norm)$": "a whole weight or difference",
    r"\.(reshape_weight|row_offset)$": "it changes the shape of the base's weight",
}
INNER = ("", "text_model.", "model.")  # may begin a name, and not that in the base
DEPTH = 5  # parts of a name in the base that a file's may lack


class KohyaDiffusers(Adapter):
    """LoRA, LoHa and LoKr, with DoRA. With a base, modules bear its names; else those of the file."""

    def __init__(self, path, base, store):
        self._parts, configs = {}, {}  # {module: (component, its name there)}
        super().__init__(path, base, store.files, store)
        stated = tensors.parse_json(store.metadata.get("lora_adapter_metadata") or "{}", f"the header of {path}")
        for key, value in stated.items():
            component, _, setting = key.rpartition(".")
            configs.setdefault(component, {})[setting] = value
        self._headers = {component: Settings(self.wrong, config) for component, config in configs.items()}
        if base:
            self._name_as_in_base()
        bare = [name for name in self.modules() if "alpha" not in self.held[name] and self.rank(name)]
        if bare and not self._headers:
            self.notes.append(f"{self.label} has no alpha of {listed(bare)}: scale 1, as in diffusers and ComfyUI")

    def sort(self, key, tensor):
        """(module, factor, tensor), or (name, "", why it is left out)."""
        if not (match := FACTOR.fullmatch(key)):
            found = ((re.search(end, key), why) for end, why in NOT_READ.items())
            name, why = next(((key[: end.start()], why) for end, why in found if end), ("", "no factor of those read"))
            return (self._named(name) if name else key), "", why
        factor = next(filter(None, match.groups()[1:]))
        name, factor, shape = self._named(match["module"]), SHORT.get(factor, factor), tensor.shape
        if factor == "alpha" and shape not in ((), (1,)):
            return name, "", f"its alpha has shape {shape}: expected one number"
        if self.base and len(shape) > 2 and set(shape[2:]) == {1}:  # 1 × 1: the base tells if it is a convolution
            tensor = tensor.seen(shape[:2], lambda stored: stored.reshape(shape[:2]))
        return name, factor, tensor

    def scale(self, name):
        """(α/r, its formula): 1 without α or where it is 0, as in kohya. A config in the header goes first."""
        (component, inside), of, rank = self._parts[name], self.held[name], self.rank(name)
        if self._headers:
            header = self._headers.get(component)
            if not header or "alpha" in of:
                raise self.wrong(f"{name} is at odds with the config in the file's header: save it again")
            header.check(inside, of, rank)
            return header.scale(inside)
        alpha = float(of["alpha"].read().item()) if "alpha" in of else None
        if alpha and rank:
            return alpha / rank, f"{alpha:g}/{rank}"
        why = "no alpha is given" if alpha is None else "alpha is 0" if rank else "both matrices are whole"
        return 1.0, f"1, as {why}"

    def _named(self, module):
        """A module by the name of today: older files of diffusers name an attention's processor."""
        name = modules.plain(module.replace(".processor.", "."))
        name += ".0" * (".processor." in module and name.endswith(".to_out"))
        if name.startswith("text_"):
            name = re.sub(r"(?<=\.self_attn\.)to_(q|k|v|out)$", r"\1_proj", name)
        found = COMPONENT.fullmatch(name)
        self._parts[name] = (found[1] or found[2], found[3]) if found else ("", name)
        return name

    def _name_as_in_base(self):
        """Call each module as its counterpart in the base; those that have none are left out."""
        ends = {}
        names = {each for name in self.base.modules() for each in (name, self.base.layout.renamed(name))}
        for parts in (name.split(".") for name in sorted(names)):
            for cut in range(min(len(parts), DEPTH)):
                for name in (inner + ".".join(parts[cut:]) for inner in INNER):
                    ends.setdefault(name.replace(".", "_"), set()).add(name)
        in_file = {self._dotted(name, ends): name for name in self.shapes}
        if len(in_file) < len(self.shapes):
            raise self.wrong("it holds a module under two names: remove one")
        self._rename(in_file)
        try:
            pairs = modules.match(self.base, self)
        except WeightsError as error:
            way_out = "single-file checkpoints and diffusers name modules differently: give the base that it names"
            raise WeightsError(f"{error} ({way_out})") from error
        read = {self._parts[name][0] for name in pairs.values()}
        for name in sorted(self.shapes.keys() - pairs.values()):
            component = self._parts[name][0]
            more = "" if component in read else f", nor for any other of {component}"
            self.left_out[in_file[name]] = f"the base has no matrix for it{more}"
        self._rename(pairs)

    def _dotted(self, name, ends):
        """(component).name, with the dots that a flattened name has in the base."""
        component, inside = self._parts[name]
        found = ends.get(inside, {inside})
        if len(found) > 1:
            raise self.wrong(f"{name} could be {listed(sorted(found))} of {self.base.label}: give it unflattened")
        return f"({component}).{next(iter(found))}"

    def _rename(self, names):
        """names: {new: old}; a module without a new name goes."""
        self.held, self.shapes, self._parts = (
            {new: of[old] for new, old in names.items()} for of in (self.held, self.shapes, self._parts)
        )
