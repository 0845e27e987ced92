"""Digit classifiers: the bundled networks, and anyone's own as a saved program or a callable → one checked module."""

import importlib
import re
import warnings
from importlib.util import find_spec
from typing import NamedTuple
from zipfile import is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from helpers.digits import controls, saliency
from helpers.digits.images import SIZES
from helpers.digits.networks import ARCHITECTURES, untrained
from helpers.parameters import PERMUTED, TRAINED, BadParameter
from helpers.paths import resolve
from helpers.weights import WeightsError

BUNDLED = "data/digit_models"
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
PROGRAMS = (".pt", ".pth", ".pt2")


class Prepared(nn.Module):
    """A classifier behind its own preparation of images: resized to its input size, then (x − mean) / std.

    Maps of this module are maps of the pixels before the preparation.
    """

    def __init__(self, model, size, mean, std):
        super().__init__()
        self.model, self.size, self.mean, self.std = model, size, mean, std

    def forward(self, images):
        """Logits [n, 10] of images [n, 1, h, w] in [0, 1]."""
        if self.size != tuple(images.shape[-2:]):
            images = nn.functional.interpolate(images, self.size, mode="bilinear", align_corners=False)
        return self.model((images - self.mean) / self.std)


class Study(NamedTuple):
    """A network under study and what it is held against.

    name: as it stands in sentences. architecture: of the bundled networks, or "" for someone's own. subject: the
    network. peers: other trained networks, that nothing but the task connects with it. others: {condition: network} of
    the further networks it can be compared with. files: what was read.
    """

    name: str
    architecture: str
    subject: nn.Module
    peers: list
    others: dict
    files: list


def study(dataset, model="", size=(0, 0), mean=0.0, std=1.0):
    """The network under study and those beside it.

    model: "cnn" (or empty) or "transformer" for the bundled networks, of which seed 0 is under study; else as in
    `open_model`, with the bundled convolutional networks as peers. size: its input size; a 0 stands for the images'.
    """
    side = SIZES[dataset]
    architecture = model or "cnn"
    if architecture not in ARCHITECTURES:
        own, file = open_model(model, tuple(given or side for given in size), mean, std)
        peers = bundled(dataset, "cnn")
        files = [*([file] if file else []), *_files(dataset, "cnn")]
        return Study("your network", "", own, [peers[name] for name in TRAINED], {}, files)
    networks = bundled(dataset, architecture)
    other = next(name for name in ARCHITECTURES if name != architecture)
    others = {name: networks[name] for name in (*TRAINED[1:], PERMUTED)}
    others["untrained"] = untrained(architecture, side, seed=0).requires_grad_(False)
    others[architecture], others[other] = networks[TRAINED[0]], bundled(dataset, other)[TRAINED[0]]
    files = [*_files(dataset, architecture), *_files(dataset, other)]
    return Study(
        f"the {architecture} of seed 0",
        architecture,
        networks[TRAINED[0]],
        [networks[n] for n in TRAINED[1:]],
        others,
        files,
    )


def condition(study, name, method, seed):
    """(network, method) of one side of a comparison.

    name: `trained`, the network under study; `randomised`, the same with all its tensors drawn anew; the name of a
    method, the same network by that method; `untrained`, as it was before its training; `permuted_labels`, `seed_1` …
    `seed_4`; `cnn` or `transformer`, seed 0 of that architecture. Raises BadParameter for what this study has not, and
    for a method that is not defined for the network.
    """
    if name in saliency.METHODS:
        method, name = name, "trained"
    known = {"trained": study.subject, **study.others}
    if name not in known and name != "randomised":
        listed = ", ".join([*known, "randomised", *saliency.methods_for(study.subject)])
        raise BadParameter(f"condition {name!r} is not to be had for {study.name}: expected one of {listed}")
    network = controls.randomise(study.subject, seed) if name == "randomised" else known[name]
    saliency.check_defined(network, method)
    return network, method


def bundled_directory(dataset, architecture):
    """Where the networks of one data set and architecture lie."""
    return resolve(BUNDLED) / f"{dataset}-{architecture}"


def bundled(dataset, architecture):
    """{name: network} of one data set and architecture: seed_0 … seed_4, and permuted_labels.

    The last was trained on labels that were permuted among the training images. Raises WeightsError for a file that
    is missing, broken, or holds NaN.
    """
    size = SIZES[dataset]
    place = bundled_directory(dataset, architecture)
    return {name: _restored(architecture, size, place / f"{name}.safetensors") for name in (*TRAINED, PERMUTED)}


def open_model(source, size, mean=0.0, std=1.0):
    """Someone's own classifier, ready for images [n, 1, h, w] in [0, 1]; and the file it came from, or None.

    source: a file saved by `torch.jit.save` (.pt, .pth) or `torch.export.save` (.pt2, with a dynamic batch size), or
    `package.module:callable`, where the callable gives an `nn.Module`. Opening either runs its program: give only what
    you trust. size: (rows, columns) of its input, to which images are resized. mean, std: it takes (x − mean) / std.
    Raises WeightsError for what cannot be opened.
    """
    model, file = (_from_callable(source), None) if CALLABLE.fullmatch(source) else _from_file(resolve(source))
    if not isinstance(model, nn.Module):
        raise WeightsError(f"model {source} gives a {type(model).__name__}: expected a torch.nn.Module")
    if not isinstance(model, torch.fx.GraphModule):  # an exported program keeps the mode that it was exported in
        model.eval()
    return Prepared(model, tuple(size), mean, std).requires_grad_(False), file


def check(model, name, images):
    """Raise WeightsError unless a network turns images [n, 1, h, w] into finite logits [n, 10] with gradients.

    name: for the message.
    """
    for tensor_name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(f"{name}: {tensor_name} holds NaN or infinite numbers: save the network again")
    if not controls.layers(model):
        raise WeightsError(f"{name} has no parameters to randomise: save it without freezing it")
    for count in (2, 3):
        x = torch.as_tensor(images[:count])[:, None].requires_grad_()
        try:
            logits, again = model(x), model(x)
        except Exception as error:
            raise WeightsError(
                f"{name} does not take {count} images of {x.shape[2]} × {x.shape[3]} ({_line(error)}): set input_rows "
                "and input_columns to its size, and export with a dynamic batch size"
            ) from error
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (count, 10):
            shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise WeightsError(f"{name} gives {shape} for {count} images: expected logits [{count}, 10]")
        if not torch.isfinite(logits).all():
            raise WeightsError(f"{name} gives NaN or infinite logits: check input_mean and input_std")
        if not torch.allclose(logits, again, rtol=1e-4, atol=1e-5):
            raise WeightsError(f"{name} gives other logits each time: call eval() before exporting it")
        if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(count), atol=1e-4):
            raise WeightsError(f"{name} gives probabilities: expected logits, without the softmax at its end")
    if not logits.requires_grad or not torch.autograd.grad(logits[:, 0].sum(), x)[0].any():
        raise WeightsError(f"{name} has no gradient with respect to its input: save it without torch.no_grad")


def check_labels(labels):
    """Raise ValueError unless labels are whole numbers from 0 to 9, every digit among them."""
    found = np.unique(labels)
    if not np.array_equal(found, np.arange(10)):
        raise ValueError(f"the labels are {found.tolist()}: expected the digits 0 to 9, each at least once")


def sides(study, names, method, seed):
    """The two `condition`s of a comparison. Raises BadParameter if they are one network by one method."""
    one, other = (condition(study, name, method, seed) for name in names)
    if one[0] is other[0] and one[1] == other[1]:
        raise BadParameter(
            f"conditions {names[0]!r} and {names[1]!r} are the same network by the same method: give two"
        )
    return one, other


def _files(dataset, architecture):
    return [bundled_directory(dataset, architecture) / f"{name}.safetensors" for name in (*TRAINED, PERMUTED)]


def _restored(architecture, size, file):
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is not a readable safetensors file ({error})") from error
    network = untrained(architecture, size, seed=0)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{file} does not hold the {architecture} of this data set: {_line(error)}") from error
    return network.requires_grad_(False)


def _from_callable(source):
    module, name = source.split(":")
    try:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"no module named {module!r}")
        return getattr(importlib.import_module(module), name)()
    except Exception as error:
        raise WeightsError(f"model {source} cannot be called: {type(error).__name__}: {_line(error)}") from error


def _from_file(file):
    if not file.is_file():
        raise WeightsError(
            f"model {file} is not a file: expected a saved program ({', '.join(PROGRAMS)}), "
            f"package.module:callable, or one of the bundled {', '.join(ARCHITECTURES)}"
        )
    if file.suffix not in PROGRAMS or not is_zipfile(file):
        raise WeightsError(
            f"model {file} is no program that torch.jit.save or torch.export.save wrote: weights alone say not what to "
            "compute, and pickled modules are not read; save a program, or give package.module:callable"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # TorchScript is on its way out, but read while it lasts
            if file.suffix == ".pt2":
                return torch.export.load(file).module(), file
            return torch.jit.load(file, map_location="cpu"), file
    except Exception as error:
        raise WeightsError(f"model {file} cannot be opened as a saved program ({_line(error)})") from error


def _line(error):
    """The last line of an error's message, for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
