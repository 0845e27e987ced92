"""Digit classifiers: the bundled networks, and anyone's own as a saved program or a callable → one proven module."""

import io
import pickletools
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, is_zipfile

import torch
from torch import nn

from helpers.digits import bundled, images
from helpers.digits.behaviour import KNOWS, check_numbers, line, precision, prove
from helpers.digits.feeding import DIGITS, Prepared, check_fed, check_taken, taken
from helpers.digits.images import SIZES
from helpers.digits.networks import ARCHITECTURES
from helpers.parameters import TRAINED, DigitSaliency
from helpers.paths import import_from_here, resolve, spec_from_here
from helpers.weights import WeightsError

PROGRAMS = torch.jit.ScriptModule, torch.fx.GraphModule
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
WEIGHTS_ALONE = re.compile(r"(collections|torch|torch\._utils|torch\.storage|numpy\S*) ")  # what they are pickled from


class Opened(NamedTuple):
    """A network and what is known of it.

    name: as it stands in sentences. architecture: of the bundled networks, or "" for one's own. file: that one's own
    was read from, of a callable that of its module, or None. read: {what: how the network is fed and what it gives, in
    words}. lacking: {digit: why its output has no gradient}. notes: whole sentences that a reader must see. accuracy:
    on the held-out images.
    """

    network: nn.Module
    name: str
    architecture: str
    file: Path | None
    read: dict
    lacking: dict
    notes: list
    accuracy: float


def open_classifier(source, dataset="digits", **feeding):
    """A network that takes images [n, 1, h, w] in [0, 1], 1 being ink, and gives outputs [n, 10] float32, proven.

    source: "cnn" or "transformer", the bundled ones; a file saved by `torch.export.save` (with a dynamic batch size) or
    `torch.jit.save`; or `package.module:callable`, where the callable gives an `nn.Module`. Opening either runs its
    program: give only what you trust. A package is looked for among those installed, then in the current directory;
    modules beside it there can be had while it is imported, not later (`paths.import_from_here`). feeding: parameters
    of notebook 03 that say how it is fed, by name: input_rows, input_columns, pad, invert, input_range, input_mean,
    input_std, channels, class_order, explains; and baseline. Raises WeightsError, or BadParameter for a parameter, in
    one sentence; warns of what a reader must know, such as a low accuracy.
    """
    found = opened(DigitSaliency.parse({"model": source, "dataset": dataset, **feeding}))
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return found.network


def opened(p: DigitSaliency, data: images.Digits | None = None) -> Opened:
    """The network that parameters of notebook 03 name, opened and proven on the held-out images (`behaviour`).

    data: the images of its dataset, if they are at hand. Raises WeightsError and BadParameter.
    """
    data = images.load(p.dataset) if data is None else data
    _, held = images.hold_out(data)
    x, labels = torch.from_numpy(data.images[held])[:, None], data.labels[held]
    architecture, file = p.model or "cnn", None
    if architecture in ARCHITECTURES:
        name = f"the {architecture} of seed 0"
        network = bundled.by_seed(p.dataset, architecture)[TRAINED[0]]
        check_numbers(network, name)
        read = {"source": f"bundled, {architecture}", "outputs": "logits", "explains": "logit"}
    else:
        name, architecture = "your network", ""
        model, file, kind = _loaded(p.model)
        read, network = _prepared(model, p, name, x)
        read = {"source": kind} | read
    found = prove(network, name, x, labels, images.baselines(data), p.baseline)
    if isinstance(network, Prepared):
        found.notes.extend(check_fed(network, name, x, labels, found.accuracy))
    elif found.accuracy < KNOWS:
        found.notes.append(f"{name} reads only {found.accuracy:.0%} of the held-out digits")
    notes = [f"{note[0].upper()}{note[1:]}." for note in found.notes]
    return Opened(network, name, architecture, file, read, found.lacking, notes, found.accuracy)


def _prepared(model, p, name, x):
    """({what: how it is fed, in words}, network) of someone's own, which takes the images."""
    network, side = Prepared(model, p).requires_grad_(False), SIZES[p.dataset]
    kept = precision(network)
    if kept in (torch.float16, torch.bfloat16) and not any(isinstance(each, PROGRAMS) for each in model.modules()):
        model.float()
        if not taken(network, network.prepare(x[:2])):  # it asks for half precision by itself
            model.to(kept)
    check_numbers(network, name)  # first, since asking a norm in training mode changes them
    check_taken(network, name, x)
    how = "as they are" if network.size == (side, side) else "in a margin without ink" if p.pad else "resized"
    scaled = f", less {p.input_mean:g}, over {p.input_std:g}" if (p.input_mean, p.input_std) != (0, 1) else ""
    types = dict.fromkeys(str(each).removeprefix("torch.") for each in (kept, precision(network)))
    read = {
        "input": f"{' × '.join(map(str, network.size))}, images {how}",
        "ink": f"{'1 − ink' if p.invert else 'ink'}, {p.input_range.replace('-', ' to ')}{scaled}",
        "channels": "1" if p.channels == 1 else "3, all equal",
        "precision": ", computed in ".join(types),
        "outputs": network.gives,
        "order of classes": p.class_order or DIGITS,
        "explains": p.explains.replace("_", "-"),
    }
    return read, network


def _loaded(source):
    """(module, file or None, what it is) of a file or a callable."""
    if CALLABLE.fullmatch(source):
        model, file = _from_callable(source)
        kind = f"callable {source}, from {file}"
    else:
        file = resolve(source)
        model, kind = _from_file(file)
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if not isinstance(model, nn.Module):
        raise WeightsError(f"model {source} gives a {type(model).__name__}: expected a torch.nn.Module")
    with suppress(NotImplementedError):  # an exported program keeps the mode that it was exported in
        model.eval()
    if isinstance(model, torch.fx.GraphModule):  # its constants are weights, where a list held the layers
        for key, tensor in [*vars(model).items()]:
            if isinstance(tensor, torch.Tensor):
                delattr(model, key)
                model.register_buffer(key, tensor)
    return model, file, kind


def _from_callable(source):
    """(what a callable gives, file of the module that it is in)."""
    module, name = source.split(":")
    package, place = module.partition(".")[0], f"neither installed nor in {Path.cwd()}"
    try:
        if spec := spec_from_here(package):
            place = f"of {spec.origin or spec.submodule_search_locations[0]}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what someone's own code warns is not the report's
            program = import_from_here(module)
            found = getattr(program, name)
            return found if isinstance(found, nn.Module) else found(), Path(program.__file__)
    except Exception as error:
        said = f"{type(error).__name__}: {line(error)}"
        raise WeightsError(f"model {source} ({place}) cannot be called: {said}") from error


def _from_file(file):
    """(module, what it is); told by what the file holds, not by its name."""
    if not file.is_file():
        raise WeightsError(
            f"model {file} is not a file: expected a saved program (.pt2, .pt), package.module:callable, or one of the "
            f"bundled {', '.join(ARCHITECTURES)}"
        )
    names = ZipFile(file).namelist() if is_zipfile(file) else []
    scripted = any("/code/" in name for name in names)
    exported = any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names)
    if not (scripted or exported):
        raise WeightsError(f"model {file} {_no_program(file, names)}")
    try:
        with warnings.catch_warnings():  # TorchScript is on its way out, but read while it lasts
            warnings.simplefilter("ignore", DeprecationWarning)
            if scripted:
                return torch.jit.load(file, map_location="cpu"), "TorchScript program"
            return torch.export.load(file).module(), "exported program"
    except Exception as error:
        raise WeightsError(f"model {file} cannot be opened as a saved program ({line(error)})") from error


def _no_program(file, names):
    """What a file is that is no program, and what to do: the end of a sentence. It is looked at, never unpickled."""
    with file.open("rb") as opened_file:
        start = opened_file.read(16)
    give = "save the network by torch.export.save, or give package.module:callable"
    if file.suffix == ".onnx" or start[:1] == b"\x08":
        return (
            "is an ONNX file: save the network that it was made from by torch.export.save, or give a "
            "package.module:callable that reads it by onnx2torch"
        )
    if file.suffix in (".keras", ".h5", ".tflite") or start[:4] == b"\x89HDF" or start[4:8] == b"TFL3":
        return f"is a file of Keras or TensorFlow, which are not read: {give}"
    pickled = [name for name in names if name.endswith("data.pkl")]
    found = _pickled(ZipFile(file).read(pickled[0]) if pickled else file.read_bytes())
    alone = found and all(map(WEIGHTS_ALONE.match, found))
    if alone or file.suffix in (".safetensors", ".gguf", ".npz", ".npy") or start[8:10] == b'{"':
        return f"holds weights alone, which do not say what to compute: {give} that loads them"
    if found:
        return f"is a pickle, which may run anything when it is read, and is not read: {give} that gives the module"
    return f"is no program that torch.export.save or torch.jit.save wrote: {give}"


def _pickled(content):
    """Names of what a pickle would import, of the four that torch once wrote one after another."""
    found, stream = [], io.BytesIO(content)
    try:
        for _ in range(4):
            for code, argument, _ in pickletools.genops(stream):
                if "GLOBAL" in code.name:
                    found.append(argument or "?")
    except ValueError:
        pass
    return found
