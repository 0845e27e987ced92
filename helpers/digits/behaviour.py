"""What a classifier is, by what it does: proofs on held-out images, each of which refuses in one sentence.

`network` is a module that takes images [n, 1, h, w] and gives outputs [n, 10], `name` what it is called in a sentence.
"""

from collections.abc import Mapping
from functools import partial
from types import FunctionType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import nn

from helpers.digits import controls
from helpers.weights import WeightsError

KNOWS = 0.9  # share of right answers of a network that there is something to explain of
FORGOTTEN = 0.35  # the largest share of answers that randomised copies may keep
FLAT = 0.05  # share of images without a gradient from which on it is said

Images = Float32[torch.Tensor, "n 1 h w"]
Outputs = Float[torch.Tensor, "n 10"]


class Found(NamedTuple):
    """What the proofs found. lacking: {digit: why its output has no gradient}. notes: sentences a reader must see.

    accuracy: share of right answers on the held-out images.
    """

    accuracy: float
    lacking: dict
    notes: list


def prove(
    network: nn.Module, name: str, images: Images, labels: Int[np.ndarray, " n"], baselines: dict, baseline: str
) -> Found:
    """All proofs. baselines: {name: image [h, w]}, of which `baseline` is in use.

    Raises WeightsError: in words, what the network does that maps of it, or their controls, would not survive.
    """
    own = check_finite(network, name, images)
    check_steady(network, name, images)
    check_rows(network, name, images)
    check_baseline(network, name, baselines, baseline)
    some = slice(None, None, max(1, len(images) // 128))
    lacking, flat = check_gradients(network, name, images[some], labels[some])
    check_copies(network, name, images[some], labels[some], own[some])
    notes = []
    if flat >= FLAT:
        notes.append(
            f"{name} is saturated: at {flat:.0%} of the held-out images the gradient of the label's output is exactly "
            "zero, and so are the maps that are made of it"
        )
    return Found(float((own.argmax(1).numpy() == labels).mean()), lacking, notes)


@torch.no_grad()
def ask(network, images: Images, rows: int = 64) -> Outputs:
    """Outputs of any number of images, in parts of at most `rows`."""
    return torch.cat([network(part) for part in images.split(rows)])


def check_numbers(network: nn.Module, name: str):
    """Raise WeightsError for NaN among the tensors (an infinite mask is fine), and where there is none to randomise."""
    for tensor_name, tensor in _state(network).items():
        if tensor.is_floating_point() and tensor.isnan().any():
            raise WeightsError(f"{name}: {_short(tensor_name)} holds NaN: save the network again")
    if not controls.layers(network):
        raise WeightsError(
            f"{name} has no parameters to randomise (frozen or quantised to integers, its weights are constants): save "
            "it without freezing it, in float32"
        )


def check_finite(network: nn.Module, name: str, images: Images) -> Outputs:
    """The outputs; raises WeightsError unless all are finite, with the digits whose are not."""
    outputs = ask(network, images)
    if not (finite := outputs.isfinite().all(0)).all():
        digits = ", ".join(map(str, (~finite).nonzero()[:, 0].tolist()))
        share = (~outputs.isfinite()).any(1).float().mean()
        raise WeightsError(
            f"{name} gives outputs that are not finite, at {share:.0%} of the held-out images (digits {digits}, of "
            "which there is no gradient): check input_mean and input_std, and give finite outputs for every digit"
        )
    return outputs


def check_steady(network: nn.Module, name: str, images: Images, calls: int = 25):
    """Raise WeightsError unless the same images get the same outputs, at once and after many calls with others.

    A tensor that moved in these calls is moved a thousand times as far: that must change nothing either.
    """
    images, close = images[:16], _closeness(network)
    own, before = ask(network, images), {key: each.clone() for key, each in _state(network).items()}
    if not close(ask(network, images), own):
        raise WeightsError(
            f"{name} gives other outputs each time (dropout or noise is on, or it keeps a state between calls): call "
            "eval() before exporting it, and let an answer depend on nothing but its image"
        )
    for shade in (1.0, 0.0):
        others = torch.full_like(images[:2], shade)
        steady = [ask(network, others) for _ in range(calls)] and close(ask(network, images), own)
        if not steady:
            break
    now = _state(network)
    moved = [key for key in now if not torch.equal(now[key], before[key])]
    if steady and moved:
        for key in moved:
            now[key].copy_(before[key] + 1000 * (now[key] - before[key]))
        steady = close(ask(network, images), own)
    for key in moved:
        _state(network)[key].copy_(before[key])
    if not steady:
        what = f"{_short(moved[0])} moves whenever it is asked" if moved else "it keeps a state that is no buffer"
        raise WeightsError(
            f"{name} changes between calls ({what}): call eval() before exporting it, or let its forward change nothing"
        )


def check_rows(network: nn.Module, name: str, images: Images):
    """Raise WeightsError if an image's outputs depend on the others of its batch, their number, or its place there."""
    images, close = images[:64], _closeness(network)
    few, own = images[:3], ask(network, images[:6])
    beside = [torch.full_like(few, shade) for shade in (0.0, 1.0)] + [images[-3:]]
    answers = [ask(network, torch.cat([few, others]))[:3] for others in beside]
    answers += [ask(network, images)[:3], ask(network, images[:6].flip(0)).flip(0)[:3], ask(network, few, 1)]
    if not all(close(found, own[:3]) for found in answers):
        raise WeightsError(
            f"the answer of {name} to an image depends on the other images of its batch (batch norm in training mode, "
            "or a mean or scale over the batch): call eval() before exporting it, and let norms use running statistics"
        )


def check_baseline(network: nn.Module, name: str, baselines: dict, baseline: str):
    """Raise WeightsError unless the outputs at the baseline in use are finite, with one at which they are."""
    defined = {}
    for key, image in baselines.items():
        defined[key] = bool(ask(network, torch.as_tensor(image)[None, None].repeat(2, 1, 1, 1)).isfinite().all())
    if not defined[baseline]:
        told = {"black": "a black image", "mean": "the mean training image"}[baseline]
        other = next((key for key, fine in defined.items() if fine), None)
        way = f"set baseline to {other}" if other else "give a network that is defined there"
        raise WeightsError(
            f"the outputs of {name} are not finite at {told}, which is the baseline (0 / 0, where an image is scaled "
            f"by its own deviation): {way}"
        )


def check_gradients(network: nn.Module, name: str, images: Images, labels: Int[np.ndarray, " n"]) -> tuple[dict, float]:
    """({digit: why its output has no gradient}, share of the images at which the label's gradient is exactly zero).

    Raises WeightsError where there is no gradient at all, or one that is not finite.
    """
    x = images.clone().requires_grad_()
    try:
        outputs = network(x)
        if outputs.requires_grad:
            slopes = torch.stack([torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in outputs.T])
    except Exception as error:
        told = f"cannot be computed ({line(error)}): compute it all by torch"
        if "use_reentrant" in str(error):
            told = "cannot pass its reentrant checkpointing: call checkpoint with use_reentrant=False"
        raise WeightsError(f"the gradient of {name} {told}") from error
    if not outputs.requires_grad:
        raise WeightsError(f"{name} {_why_no_gradient(network, images)}")
    if not (finite := slopes.isfinite().flatten(2).all(2).all(0)).all():
        raise WeightsError(
            f"the gradient of {name} is not finite at {(~finite).float().mean():.0%} of the held-out images (a root, "
            "power or logarithm of a pixel that is 0, or a division by its deviation): add a small number there"
        )
    flat = (slopes == 0).flatten(2).all(2)  # [10, n]
    if flat.all():
        raise WeightsError(f"{name} {_why_no_gradient(network, images)}")
    lacking = {}
    for digit in flat.all(1).nonzero()[:, 0].tolist():
        span = outputs[:, digit].detach()
        lacking[digit] = (
            f"its output is constant ({span[0]:.3g} for every image), so there is no gradient"
            if span.max() == span.min()
            else f"its output is flat: there is no gradient at any of {len(images)} images"
        )
    known = [n for n, label in enumerate(labels) if label not in lacking]
    return lacking, float(flat[labels[known], known].float().mean())


def check_copies(network: nn.Module, name: str, images: Images, labels: Int[np.ndarray, " n"], own: Outputs):
    """Raise WeightsError unless five randomised copies move the outputs and lose the answers, with what escapes.

    Of their answers at most FORGOTTEN may be right, and as many the network's own, digit by digit of those that it
    answers (if it answers more than one).
    """
    answers, kept = own.argmax(1).numpy(), []
    for seed in range(5):
        try:
            outputs = ask(controls.randomise(network, seed), images)
        except Exception as error:
            raise WeightsError(f"{name} cannot be randomised ({line(error)}): {_escaping(network)}") from error
        found, answered = outputs.argmax(1).numpy(), np.unique(answers)
        alike = np.mean([(found[answers == digit] == digit).mean() for digit in answered]) if len(answered) > 1 else 0
        stays = (outputs - own).abs().mean() <= 1e-3 * own.std(0).mean()
        kept.append((max(alike, (found == labels).mean()), bool(stays)))
    share, stays = np.mean(kept, 0)
    if share > FORGOTTEN or stays:
        raise WeightsError(
            f"copies of {name} whose parameters are randomised still give {share:.0%} of its answers: "
            f"{_escaping(network)}"
        )


def precision(network: nn.Module) -> torch.dtype:
    """Type of a network's first tensor of fractions."""
    return next((t.dtype for t in _state(network).values() if t.is_floating_point()), torch.float32)


def rounding(network: nn.Module) -> float:
    """How far, relatively, outputs may differ by rounding."""
    return max(1e-4, 16 * torch.finfo(precision(network)).eps)


def line(error: Exception) -> str:
    """The last line of an error's message, for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".")


def _why_no_gradient(network, images):
    """Why outputs have no gradient, told by what a very small change of the images does: the end of a sentence."""
    between = 0.9 * images + 0.037  # at no value where a step is likely to be
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    still = (ask(network, between) == ask(network, between + 1e-6 * noise)).all(1).float().mean()
    if packed := [type(each).__name__ for each in network.modules() if "quantized" in type(each).__module__]:
        return f"is quantised ({packed[0]}), which has no gradient: give the network in float32"
    if still > 0.5:
        return (
            "has a gradient of zero everywhere: its outputs move in steps (an image that is rounded, quantised or "
            "compared with a threshold), or they are flat: leave that step out"
        )
    return "has no gradient with respect to its input: save it without torch.no_grad and detach"


def _escaping(network):
    """What of a network its randomised copies may share with it, and what to do: the end of a sentence."""
    usual, found = vars(nn.Module()), []
    for path, module in network.named_modules():
        where = path.removeprefix("model").lstrip(".")
        own = f"{where}." if where else ""
        for key, tensor in module.named_buffers(recurse=False):
            if not tensor.is_floating_point() and tensor.numel() > 1:
                found.append(f"{own}{key} holds integers ({str(tensor.dtype).removeprefix('torch.')})")
        if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
            found.append("weights of a saved program may be constants of it")
            continue
        if "forward" in vars(module):
            found.append(f"forward of {where or 'the network'} was replaced by a closure, which a copy shares")
        if module._forward_hooks or module._forward_pre_hooks:
            found.append(f"{where or 'the network'} has hooks, which a copy shares")
        for key, value in vars(module).items():
            if key not in usual and key != "forward" and _holds(value):
                found.append(f"{own}{key} is a plain {type(value).__name__}, not registered")
    told = "; ".join([*dict.fromkeys(found)][:3]) or "what it computes does not hang on its registered parameters"
    return f"{told}; register all weights as float parameters (nn.Parameter, nn.ModuleList), with forward in the class"


def _holds(value):
    """Whether tensors or modules are in a value: in lists, dicts, partials and closures as well."""
    if isinstance(value, Mapping | list | tuple | set):
        return any(map(_holds, value.values() if isinstance(value, Mapping) else value))
    if isinstance(value, partial):
        return _holds([value.func, *value.args, *value.keywords.values()])
    if isinstance(value, FunctionType):
        return _holds([cell.cell_contents for cell in value.__closure__ or ()])
    return isinstance(value, torch.Tensor | np.ndarray | nn.Module)


def _closeness(network):
    """close(outputs, others): whether they are the same but for rounding in the network's precision."""
    near = rounding(network)
    return lambda found, own: bool((found - own).abs().max() <= near * own.abs().max())


def _state(network):
    """Its parameters and buffers by name; a quantised module has more in its state than tensors."""
    return {key: each for key, each in network.state_dict().items() if isinstance(each, torch.Tensor)}


def _short(tensor):
    return tensor.removeprefix("model.")
