"""Attributions by Captum → signed maps, and which methods keep on a network what they promise.

Maps are [n, h, w], one value for every pixel of every image, of one sign or the other. They are attributions to the
output of the target class: a logit, a log-probability or a probability, whichever the network gives.
"""

import inspect
import warnings
from contextlib import contextmanager

import numpy as np
import torch
from captum.attr import DeepLift, InputXGradient, IntegratedGradients, Occlusion, Saliency
from jaxtyping import Float, Int
from torch import nn

from helpers.digits import rescale
from helpers.digits.batches import SILENCED, pairs, rows
from helpers.digits.networks import Transformer
from helpers.parameters import BadParameter

TOLERANCE = 0.01  # of a map's mass, the sum of its absolute values: by so much it may be wrong
ROUNDING = 1e-5  # of the outputs that a change is the difference of
DOUBLINGS = 3  # of the steps along a path while a sum misses by more
NON_LINEAR = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d)
DEEP_LIFT_MODULES = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.Flatten, nn.Unflatten, nn.Identity, nn.ZeroPad2d),
    *(nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample, nn.Dropout, nn.Dropout2d, *NON_LINEAR),
)


def attribute(
    model, images: Float[np.ndarray, "n h w"], targets: Int[np.ndarray, " n"], method: str, **options
) -> Float[np.ndarray, "n h w"]:
    """Signed maps, float32, of the output of each image's target class.

    model: takes [n, 1, h, w] and gives [n, classes], in evaluation mode. method and its options:

    - `gradient`: the partial derivatives (Simonyan et al. 2014).
    - `input_x_gradient`: times the pixel's ink (Shrikumar et al. 2016).
    - `integrated_gradients`: baseline, steps by Gauss and Legendre (Sundararajan et al. 2017): 32, and 64, 128 or 256
      for an image whose sum misses the change of the output by more than 1 % of the map's mass.
    - `expected_gradients`: background [m, h, w], images that stand for absence; the exact mean over them of integrated
      gradients (of which Erion et al. 2021 draw a sample), by 8 steps for each of them, or 16, 32 or 64. The sum is
      the output less its mean over the background, missed as little as by integrated gradients.
    - `smooth_grad`: the mean gradient over samples=50 noisy images, sigma=0.15 of the range from black to ink, seed=0
      (Smilkov et al. 2017, who advise 10 to 20 % and about 50).
    - `occlusion`: baseline, window=max(1, h // 7): what the output loses when a window is replaced by the baseline
      (Zeiler & Fergus 2014).
    - `deep_lift`: baseline; the rescale rule (Shrikumar et al. 2017) as Captum has it, for networks made of modules. Of
      a maximum, what it rises goes to the image's largest input, what it falls to the baseline's.
    - `attention_rollout`: attention to the class token through all blocks, half of each being the skip (Abnar &
      Zuidema 2020); one value for a patch, spread over its pixels, never negative, the same for every target. For
      `digits.Transformer`.

    baseline: [h, w], what counts as absence; black (0) by default. Raises ValueError for an unknown method, and
    BadParameter for one that the network has no place for; whether maps keep what they promise is for `explain`.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: expected one of {', '.join(METHODS)}")
    if reason := obstacle(model, method):
        raise BadParameter(f"{reason}; choose another method")
    return METHODS[method](model, *_tensors(images, targets), **options)[:, 0].numpy()


def explain(model, images: Float[np.ndarray, "n h w"], targets: Int[np.ndarray, " n"], methods, options=None):
    """({method: maps [n, h, w]}, {method: reason}): each of the methods has its maps or the reason why they are wrong.

    options: {method: options of `attribute`}. Maps are withheld unless they are finite; unless their sums are those
    that the method promises (`COMPLETE`) up to 1 % of a map's mass; and DeepLift's unless they are within 1 % of the
    rescale rule that sees functions too, the sums of all classes on two images being right as well. A reason is a
    clause: "its sums miss …", "deep_lift has no rule for …".
    """
    found, reasons = {}, {}
    for method in methods:
        given = (options or {}).get(method, {})
        if not (reason := obstacle(model, method)):
            try:
                found[method] = attribute(model, images, targets, method, **given)
                reason = _fault(model, images, targets, method, found[method], given)
            except (AssertionError, RuntimeError):  # what Captum raises of a module that is used twice
                if method != "deep_lift":
                    raise
                reason = f"{OWN_MODULES}, and this one does not"
        if reason:
            reasons[method] = reason
            found.pop(method, None)
    return found, reasons


def check_defined(model, method, images, targets, **options):
    """Raise BadParameter unless `explain` gives the method's maps of these images."""
    if reason := explain(model, images, targets, [method], {method: options})[1].get(method):
        told = reason if reason.startswith(method) else f"{method} is withheld: {reason}"
        raise BadParameter(f"{told}; choose another method")


def completeness_residual(
    model,
    images: Float[np.ndarray, "n h w"],
    targets: Int[np.ndarray, " n"],
    maps: Float[np.ndarray, "n h w"],
    baseline=0.0,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """How far the sum of each map is from the change of the output between baseline and image; and this change.

    baseline: [h, w], or a background [m, h, w], over which the output is averaged. An integrated or expected gradient
    or DeepLift that is computed without error has residual 0.
    """
    x, y = _tensors(images, targets)
    residual, change, _ = _residual(model, x, y, torch.as_tensor(maps)[:, None], baseline)
    return residual.numpy(), change.numpy()


def _tensors(images, targets):
    return torch.as_tensor(images, dtype=torch.float32)[:, None], torch.as_tensor(targets, dtype=torch.int64)


def _absence(given, x):
    """A number, an image [h, w] or a background [m, h, w], as [m, 1, h, w]."""
    given = torch.as_tensor(given, dtype=torch.float32)
    return given.expand(*given.shape[:-2], *x.shape[-2:]).reshape(-1, *x.shape[1:])


@torch.no_grad()
def _outputs(model, x):
    return torch.cat([model(part) for part in x.split(rows(model, x))])


def _evidence(model):
    """The sum of all rows' target outputs. Rows do not depend on each other, so its gradient holds that of each row.

    Captum differentiates every output by itself; with one output instead of many it takes half the time.
    """
    return lambda x, y: model(x).gather(1, y[:, None]).sum(0)


def _leaf(x):
    """A tensor that a gradient can be asked of, which Captum warns of else."""
    return x.detach().clone().requires_grad_()


def _in_parts(model, x, y, passes, attribute):
    """attribute(x, y) of parts of the images, each of which takes so many passes at once."""
    step = max(1, rows(model, x) // passes)
    return torch.cat([attribute(*part).detach() for part in zip(x.split(step), y.split(step), strict=True)])


def _gradient(model, x, y):
    rule = Saliency(_evidence(model))
    return _in_parts(model, x, y, 1, lambda x, y: rule.attribute(_leaf(x), additional_forward_args=y, abs=False))


def _input_x_gradient(model, x, y):
    rule = InputXGradient(_evidence(model))
    return _in_parts(model, x, y, 1, lambda x, y: rule.attribute(_leaf(x), additional_forward_args=y))


def _integrated_gradients(model, x, y, baseline=0.0, steps=None):
    return _along_paths(model, x, y, _absence(baseline, x), steps, 32)


def _expected_gradients(model, x, y, background, steps=None):
    return _along_paths(model, x, y, _absence(background, x), steps, 8)


def _along_paths(model, x, y, absence, steps, fewest):
    """The mean of the integrated gradients from absence [m, 1, h, w]; steps: None for as many as an image needs."""
    if steps:
        return _integral(model, x, y, absence, steps)
    maps, left, steps = _integral(model, x, y, absence, fewest), torch.arange(len(x)), fewest
    for _ in range(DOUBLINGS):
        residual, _, rounding = _residual(model, x[left], y[left], maps[left], absence)
        left, steps = left[residual > TOLERANCE * _mass(maps[left]) + rounding], 2 * steps
        if not len(left):
            break
        maps[left] = _integral(model, x[left], y[left], absence, steps)
    return maps


def _integral(model, x, y, absence, steps):
    rule, maps = IntegratedGradients(_evidence(model)), torch.zeros_like(x)
    for i, k in pairs(len(x), len(absence), max(1, rows(model, x) // steps)):
        path = {"baselines": absence[k], "n_steps": steps, "method": "gausslegendre"}
        maps.index_add_(0, i, rule.attribute(x[i], **path, additional_forward_args=y[i]).detach())
    return maps / len(absence)


def _smooth_grad(model, x, y, samples=50, sigma=0.15, seed=0):
    rule, maps, rng = Saliency(_evidence(model)), torch.zeros_like(x), np.random.default_rng(seed)
    for i, _ in pairs(len(x), samples, rows(model, x)):  # Captum's NoiseTunnel draws from torch's one generator
        noisy = x[i] + sigma * torch.from_numpy(rng.standard_normal(x[i].shape, dtype=np.float32))
        maps.index_add_(0, i, rule.attribute(noisy.requires_grad_(), additional_forward_args=y[i], abs=False))
    return maps / samples


def _occlusion(model, x, y, baseline=0.0, window=0):
    window = window or max(1, min(x.shape[-2:]) // 7)
    places = int(np.prod([-(-side // window) for side in x.shape[-2:]]))
    hide = {"sliding_window_shapes": (1, window, window), "strides": (1, window, window)}
    hide |= {"baselines": _absence(baseline, x), "perturbations_per_eval": places}
    return _in_parts(model, x, y, places, lambda x, y: Occlusion(model).attribute(x, **hide, target=y))


def _deep_lift(model, x, y, baseline=0.0):
    base, rule = _absence(baseline, x), DeepLift(model)
    with SILENCED, _inputs_of_their_own(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Setting forward, backward hooks")
        return _in_parts(model, x, y, 2, lambda x, y: rule.attribute(_leaf(x), base.expand_as(x), target=y))


@contextmanager
def _inputs_of_their_own(model):
    """Within the block every non-linear module takes a tensor that no other module gives or takes.

    Captum applies a module's rule to the gradient of the tensor that goes into it. Where another non-linear module gave
    this tensor, or something else takes it too, that is the wrong gradient: the sums may stay right, the maps do not.
    Nothing stays on the network, not even what Captum leaves there of a pass that it refuses.
    """
    modules = [module for module in model.modules() if isinstance(module, NON_LINEAR)]
    handles = [module.register_forward_pre_hook(lambda _, inputs: tuple(x * 1.0 for x in inputs)) for module in modules]
    try:
        yield
    finally:
        for module, handle in zip(modules, handles, strict=True):
            handle.remove()
            for left in ("input", "output"):
                vars(module).pop(left, None)


@torch.no_grad()
def _attention_rollout(model, x, y):
    maps = []
    for part in x.split(rows(model, x)):
        model(part)
        flow = torch.eye(Transformer.PATCHES**2 + 1)
        for block in model.blocks:
            flow = (block.attention.mean(1) + torch.eye(flow.shape[-1])) / 2 @ flow
        maps.append(flow[:, 0, 1:].unflatten(1, (1, Transformer.PATCHES, Transformer.PATCHES)))
    height, width = (side // Transformer.PATCHES for side in x.shape[-2:])
    return torch.cat(maps).repeat_interleave(height, 2).repeat_interleave(width, 3) / (height * width)


METHODS = {
    "gradient": _gradient,
    "input_x_gradient": _input_x_gradient,
    "integrated_gradients": _integrated_gradients,
    "expected_gradients": _expected_gradients,
    "smooth_grad": _smooth_grad,
    "occlusion": _occlusion,
    "deep_lift": _deep_lift,
    "attention_rollout": _attention_rollout,
}
OPTIONS = {method: tuple(inspect.signature(rule).parameters)[3:] for method, rule in METHODS.items()}
COMPLETE = ("integrated_gradients", "expected_gradients", "deep_lift")
OWN_MODULES = "deep_lift needs a network with a module of its own for every non-linear step, ReLU included"


def obstacle(model, method):
    """Why the method has no place on this network, as far as can be told without trying."""
    if method == "attention_rollout" and not isinstance(model, Transformer):
        return "attention_rollout needs the attention of the bundled transformer"
    if method != "deep_lift":
        return ""
    if any(isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule) for module in model.modules()):
        return "deep_lift needs modules, which a saved program no longer has"
    leaves = [module for module in model.modules() if not list(module.children())]
    torchs = [type(leaf) for leaf in leaves if type(leaf).__module__.startswith("torch.")]
    unknown = [kind.__name__ for kind in torchs if not issubclass(kind, DEEP_LIFT_MODULES)]
    return f"deep_lift has no rule for {unknown[0]}, which this network uses" if unknown else ""


def _fault(model, images, targets, method, maps, options):
    """What is wrong with these maps, or nothing."""
    if not np.isfinite(maps).all():
        return "its maps are not finite"
    if method not in COMPLETE:
        return ""
    x, y = _tensors(images, targets)
    absence = _absence(options.get("background", options.get("baseline", 0.0)), x)
    found = torch.as_tensor(maps)[:, None]
    if reason := _incomplete(model, x, y, found, absence):
        return f"{OWN_MODULES}: {reason}" if method == "deep_lift" else reason
    return _unlike_the_rule(model, x, y, found, absence) if method == "deep_lift" else ""


def _incomplete(model, x, y, maps, absence):
    residual, change, rounding = _residual(model, x, y, maps, absence)
    allowed = TOLERANCE * _mass(maps) + rounding
    if (residual <= allowed).all():
        return ""
    worst = int((residual - allowed).argmax())
    return (
        f"its sums miss the change of the output by up to {residual[worst]:.2g} (where it changes by "
        f"{change[worst]:.2g} and the map's mass is {_mass(maps)[worst]:.2g})"
    )


def _unlike_the_rule(model, x, y, maps, base):
    expected = _in_parts(model, x, y, 2, lambda x, y: rescale.contributions(model, x, y, base))
    off = _mass(maps - expected) / (_mass(expected) + ROUNDING)
    if not off.max() <= TOLERANCE:
        return f"{OWN_MODULES}: its maps are up to {off.max():.0%} off the rescale rule"
    classes = model(x[:1]).shape[1]
    x, y = x[:2].repeat_interleave(classes, 0), torch.arange(classes).repeat(len(x[:2]))
    found = attribute(model, x[:, 0].numpy(), y.numpy(), "deep_lift", baseline=base[:, 0])
    reason = _incomplete(model, x, y, torch.as_tensor(found)[:, None], base)
    return f"{OWN_MODULES}: {reason}" if reason else ""


def _residual(model, x, y, maps, absence):
    """`completeness_residual`, and how far rounding may take it."""
    outputs = _outputs(model, x).gather(1, y[:, None])[:, 0]
    absent = _outputs(model, _absence(absence, x)).mean(0)[y]
    rounding = ROUNDING * (outputs.abs() + absent.abs())
    return (maps.sum((1, 2, 3)) - (outputs - absent)).abs(), outputs - absent, rounding


def _mass(maps):
    return maps.abs().sum((1, 2, 3))
