"""Weights and LoRA adapters on disk → matrices. Reads safetensors tensor by tensor; never unpickles anything."""

import json
import re
import shlex
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from helpers.paths import resolve
from helpers.weights import modules

UNTRAINED = "untrained_A.safetensors"  # beside an adapter: its A before training
READABLE = ("F64", "F32", "F16", "BF16")
BLOCK = 2**18  # numbers read at a time
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Architectures whose Conv1D layers store W as [in, out], and those layers.
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D_LAYERS = ("c_attn", "q_attn", "c_proj", "c_fc")
# Settings of PEFT under which ΔW of a module is something else than its own B A.
NOT_BA = (
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# The initialisations of PEFT that leave the base weight as it was.
PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")
LORA_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight")
KNOWN_TENSOR = re.compile(r"\.lora_(A|B|embedding_[AB])\b")


class CheckpointError(ValueError):
    """A weight or adapter that cannot be read, or cannot be read right; the message says what to do."""


def open_base(path):
    """Open a model's weights: a safetensors file, or a directory that holds one or an index with its shards."""
    return Base(resolve(path))


def open_adapter(path):
    """Open a LoRA adapter: a directory as saved by PEFT."""
    return Adapter(resolve(path))


class Base:
    """The linear weights of a model, read one at a time."""

    def __init__(self, path):
        self.path = path
        if (path / "adapter_config.json").exists():
            raise CheckpointError(
                f"{path} is an adapter, not a model: give it among the adapters, and its model as base"
            )
        self.files = _tensor_files(path)
        config = (path if path.is_dir() else path.parent) / "config.json"
        self.model_type = _read_json(config).get("model_type", "") if config.exists() else ""
        self._modules = sorted(name.removesuffix(".weight") for name in self.files if name.endswith(".weight"))

    def modules(self):
        """Names of the modules that own a `weight` tensor, sorted."""
        return list(self._modules)

    def find(self, module):
        """Full name of `module`, a full name or an unambiguous suffix; see `modules.find`."""
        return modules.find(module, self._modules, self.path.name)

    def shape(self, module):
        """(out, in) of the weight of `module`, without reading it."""
        name = self.find(module)
        shape = _matrix_shape(self.files[name + ".weight"], name + ".weight")
        return shape[::-1] if self.stores_transposed(name) else shape

    def weight(self, module):
        """Weight of `module` (a full name or an unambiguous suffix), [out, in], float32, or float64 if stored so.

        Takes little more memory than the result, however large the file. Raises NoSuchModule; CheckpointError for a
        weight that is quantised, not a matrix, or not finite.
        """
        name = self.find(module)
        weight = _read_matrix(self.files[name + ".weight"], name + ".weight")
        return weight.T if self.stores_transposed(name) else weight

    def stores_transposed(self, module):
        """Whether this architecture keeps the weight of `module` as [in, out] (GPT-2's Conv1D)."""
        return self.model_type in CONV1D_MODELS and module.rpartition(".")[2] in CONV1D_LAYERS


class Adapter:
    """The LoRA factors of an adapter, read one module at a time."""

    def __init__(self, path):
        self.path = path
        self.label = path.name
        self.untrained_file = path / UNTRAINED
        if not (path / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{path} {'holds no adapter_config.json' if path.is_dir() else 'is not a directory'}: "
                "expected a directory that PEFT saved an adapter to (relative paths start at the repository's root)"
            )
        self.config = _read_json(path / "adapter_config.json")
        self.files = _tensor_files(path, "adapter_model")
        self._refuse_what_is_not_plain_lora()
        self._keys = {}
        for key in self.files:
            if match := LORA_KEY.fullmatch(key):
                found = self._keys.setdefault(match["module"], {})
                if match["factor"] in found:
                    raise CheckpointError(
                        f"{self.label} holds {key} twice, with and without an adapter's name: remove one"
                    )
                found[match["factor"]] = key
        if not self._keys:
            raise CheckpointError(f"{path} holds no LoRA factors: expected tensors ….lora_A.weight, ….lora_B.weight")

    def modules(self):
        """Names of the adapted linear modules, as in the adapter, sorted; embeddings and full modules are left out."""
        return sorted(self._keys)

    def find(self, module):
        """Full name of `module`, a full name or an unambiguous suffix; see `modules.find`."""
        return modules.find(module, self._keys, self.label)

    def factors(self, module):
        """(A [r, in], B [out, r], scale) of `module`, a full name or an unambiguous suffix; A and B as float32.

        ΔW = scale · B @ A, with scale = α/r, or α/√r with rsLoRA (Kalajdzievski 2023); the config's rank and alpha
        patterns apply. Raises NoSuchModule; CheckpointError for factors that are missing, not finite, not matrices,
        or at odds with the config.
        """
        name = self.find(module)
        keys = self._keys[name]
        if missing := {"A", "B"} - keys.keys():
            raise CheckpointError(f"{self.label}: {name} has no lora_{missing.pop()}; the adapter file is incomplete")
        rank, alpha = self._setting(name, "r", "rank_pattern"), self._setting(name, "lora_alpha", "alpha_pattern")
        if alpha == 0:
            raise CheckpointError(f"{self.label}: lora_alpha of {name} is 0, so ΔW is zero: expected another number")
        if rank < 1:
            raise CheckpointError(
                f"{self.label}: {name} has rank {rank}, which adds nothing: expected a rank of 1 or more"
            )
        a, b = (_read_matrix(self.files[keys[factor]], keys[factor]) for factor in "AB")
        if not len(a) == b.shape[1] == rank:
            raise CheckpointError(
                f"{self.label}: {name} has A {a.shape} and B {b.shape}, and its config says r = {rank}: "
                "expected A [r, in] and B [out, r]; adapter_config.json belongs to another adapter"
            )
        return a, b, alpha / (rank**0.5 if self.config.get("use_rslora") else rank)

    def delta(self, module):
        """ΔW = scale · B @ A of `module`, [out, in] float64: what the adapter adds to the weight."""
        a, b, scale = self.factors(module)
        return scale * (b.astype(np.float64) @ a)

    def untrained_a(self, module):
        """A of `module` before its training, [r, in], if `untrained_A.safetensors` in the directory has it; else None.

        Raises CheckpointError when it has another shape than A.
        """
        key = self._keys[self.find(module)]["A"]
        if not self.untrained_file.exists() or key not in _names_in(self.untrained_file):
            return None
        shapes = [_matrix_shape(file, key) for file in (self.untrained_file, self.files[key])]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{self.untrained_file}: {key} is {shapes[0]}, but A is {shapes[1]}: save it anew")
        return _read_matrix(self.untrained_file, key)

    def _setting(self, name, setting, pattern):
        """A number of the config (PEFT's default for both: 8), or what `pattern` has for this module, as in PEFT."""
        try:
            overrides = dict(self.config.get(pattern) or {}).items()
            found = (value for key, value in overrides if re.match(rf"(.*\.)?({key})$", name))
            value = next(found, self.config.get(setting, 8))
        except (re.error, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.label}: {pattern} in its config cannot be applied ({error})") from error
        if not isinstance(value, int | float) or not np.isfinite(value):
            raise CheckpointError(f"{self.label}: {setting} of {name} is {value!r} in its config: expected a number")
        return value

    def _refuse_what_is_not_plain_lora(self):
        kind, init = self.config.get("peft_type", "LORA"), self.config.get("init_lora_weights", True)
        if kind != "LORA":
            raise CheckpointError(f"{self.label} is a {kind} adapter: only LORA adapters are read")
        if self.config.get("use_dora") or any("lora_magnitude_vector" in key for key in self.files):
            raise CheckpointError(
                f"{self.label} is a DoRA adapter, which rescales the whole weight, so ΔW is not B A: "
                "it is not read; train with use_dora=False to compare"
            )
        if init not in PLAIN_INITS:
            way_out = "train without it to compare"
            if str(init).startswith(("pissa", "olora", "corda", "lora_ga")):
                way_out = "save it with path_initial_model_for_weight_conversion, then compare factor BA"
            raise CheckpointError(
                f"{self.label} was initialised with {init!r}, which changes the base, so ΔW is not B A: {way_out}"
            )
        if used := [name for name in NOT_BA if self.config.get(name)]:
            raise CheckpointError(
                f"{self.label} uses {used[0]}, with which ΔW of a module is not its B A: it is not read"
            )
        if any(".lora_down." in key or ".lora_up." in key for key in self.files):
            raise CheckpointError(f"{self.label} is in the kohya format (lora_down, lora_up): convert it to PEFT's")
        others = [key for key in self.files if ".lora_" in key and not KNOWN_TENSOR.search(key)]
        if others:
            raise CheckpointError(f"{self.label} holds {others[0]}, which plain LoRA has not: ΔW may not be B A")


def check_fit(adapters, module, factor="A", base=None):
    """Raise CheckpointError unless what each adapter adds to `module` has the shape and orientation of its weight.

    Without a base the adapters are held against the first. With factor "BA" no B may be zero. None may come twice.
    """
    shapes = {}
    if len({adapter.path.resolve() for adapter in adapters}) < len(adapters):
        raise CheckpointError(
            f"an adapter is named twice: {[str(adapter.path) for adapter in adapters]}; name each once"
        )
    for adapter in adapters:
        a, b, _ = adapter.factors(module)
        shapes[adapter] = (b.shape[0], a.shape[1])
        adapter.untrained_a(module)
        if not a.any():
            raise CheckpointError(
                f"{adapter.label}: A of {module} is zero and has no directions: give a trained adapter"
            )
        if factor == "BA" and not b.any():
            raise CheckpointError(
                f"{adapter.label}: B of {module} is zero, so ΔW = B A is zero and has no directions: compare factor A"
            )
        if base and adapter.config.get("fan_in_fan_out") and not base.stores_transposed(base.find(module)):
            raise CheckpointError(
                f"{adapter.label} says that {module} is stored as [in, out] (fan_in_fan_out), which the base does not "
                "confirm: put the model's config.json beside its weights"
            )
    expected, owner = (base.shape(module), "its weight") if base else (shapes[adapters[0]], adapters[0].label)
    for adapter, shape in shapes.items():
        if shape != expected:
            raise CheckpointError(
                f"{adapter.label} adds a {shape[0]} × {shape[1]} matrix to {module}, but {owner} has "
                f"{expected[0]} × {expected[1]}: they belong to different models; give adapters trained on this one"
            )


def input_files(adapters, base=None):
    """The files that hold the tensors of the adapters and of the base, and their configurations, sorted."""
    holders = [*adapters, *([base] if base else [])]
    held = {file for holder in holders for file in holder.files.values()}
    beside = {file.with_name(name) for file in held for name in ("adapter_config.json", "config.json", UNTRAINED)}
    return sorted(held | {file for file in beside if file.exists()})


def _tensor_files(path, stem="model"):
    """{tensor name: its file} of a safetensors file, or of a directory that holds one or an index of shards."""
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist: expected a safetensors file or a directory with one (relative paths start at the "
            "repository's root; nothing is downloaded, so download a model from a hub first)"
        )
    if path.is_file():
        if path.suffix in PICKLES:
            raise CheckpointError(_pickle_message(path))
        return _names_in(path)
    if (index := path / f"{stem}.safetensors.index.json").exists():
        return _names_in_shards(index)
    if (file := path / f"{stem}.safetensors").exists():
        return _names_in(file)
    files = sorted(path.glob("*.safetensors")) if stem == "model" else []
    if len(files) == 1:
        return _names_in(files[0])
    if files:
        raise CheckpointError(
            f"{path} holds {len(files)} safetensors files and no {index.name}: name one, or add the index"
        )
    if pickles := [file for file in sorted(path.iterdir()) if file.suffix in PICKLES]:
        raise CheckpointError(_pickle_message(pickles[0]))
    raise CheckpointError(
        f"{path} holds no safetensors file: expected {stem}.safetensors, or {index.name} and its shards"
    )


def _names_in(file):
    try:
        with safe_open(file, framework="pt") as handle:
            return dict.fromkeys(handle.keys(), file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a readable safetensors file ({error}): download or save it again"
        ) from error


def _names_in_shards(index):
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files: download it again")
    for shard in set(shards.values()):
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise CheckpointError(
                f"{index} names the shard {shard!r}, which is not beside it: download the missing shard"
            )
    return {name: index.parent / shard for name, shard in shards.items()}


def _matrix_shape(file, name):
    """(rows, columns) of a tensor that is a matrix of plain numbers, without reading it."""
    with _opened(file, name) as tensor:
        shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
    if kind not in READABLE:
        raise CheckpointError(f"{name} is stored as {kind}: quantised weights are not read; give the unquantised model")
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(
            f"{name} has shape {shape}: only matrices are read; choose a linear layer (no convolution, no experts)"
        )
    return shape


def _read_matrix(file, name):
    """A tensor as an array, float32 or float64, in blocks of rows: the file's pages are let go of after each."""
    rows, columns = _matrix_shape(file, name)
    step, matrix = max(1, BLOCK // columns), None
    for start in range(0, rows, step):
        with _opened(file, name) as tensor:
            block = tensor[start : start + step]
            block = (block if block.dtype == torch.float64 else block.float()).numpy()
            if not np.isfinite(block).all():
                raise CheckpointError(
                    f"{name} in {file} holds NaN or Inf: the file is damaged, or its training diverged"
                )
            matrix = np.empty((rows, columns), block.dtype) if matrix is None else matrix
            matrix[start : start + step] = block
    return matrix


@contextmanager
def _opened(file, name):
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle.get_slice(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{name} cannot be read from {file} ({error}): download or save it again") from error


def _read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}): download or save it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}: expected an object")
    return content


def _pickle_message(file):
    """Refusal with the command that converts a state dict; `weights_only` keeps the conversion from running code."""
    convert = (
        "import sys, torch; from safetensors.torch import save_file; "
        "state = torch.load(sys.argv[1], weights_only=True); "
        "save_file({k: v.clone().contiguous() for k, v in state.items()}, sys.argv[2])"
    )
    return (
        f"{file} is a pickle, which can run code when loaded, so it is never opened here: convert it with "
        f'python -c "{convert}" {shlex.quote(str(file))} {shlex.quote(str(file.with_suffix(".safetensors")))}'
    )
