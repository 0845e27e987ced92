"""Attributions by Captum → signed maps; maps on other grids, jointly normalised; completeness.

Maps are [n, h, w], one value for every pixel of every image, of one sign or the other. They are attributions to the
logit of the target class.
"""

import warnings
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import DeepLift, InputXGradient, IntegratedGradients, NoiseTunnel, Occlusion, Saliency
from torch import nn

from helpers.digits.networks import Transformer
from helpers.parameters import BadParameter

ROWS = 1024  # images in one forward pass; larger ones leave the processor's cache
CROPPED = 1 / 8  # the most of a side that `crop` may take off at each end
NON_LINEAR = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d)
DEEP_LIFT_MODULES = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.Flatten, nn.Unflatten, nn.Identity, nn.ZeroPad2d),
    *(nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, *NON_LINEAR),
)


def attribute(model, images, targets, method, **options):
    """Signed maps [n, h, w] float32 of images [n, h, w] for the logits of their targets [n].

    model: takes [n, 1, h, w] and gives logits [n, classes], in evaluation mode. method and its options:

    - `gradient`: the partial derivatives (Simonyan et al. 2014).
    - `input_x_gradient`: times the pixel's ink (Shrikumar et al. 2016).
    - `integrated_gradients`: baseline, steps=32 by Gauss and Legendre (Sundararajan et al. 2017).
    - `smooth_grad`: the mean gradient over samples=50 noisy images, sigma=0.15 of the range from black to ink, seed=0
      (Smilkov et al. 2017, who advise 10 to 20 % and about 50).
    - `occlusion`: baseline, window=max(1, h // 7): what the logit loses when a window is replaced by the baseline
      (Zeiler & Fergus 2014).
    - `deep_lift`: baseline; the rescale rule (Shrikumar et al. 2017), max pooling by Captum's: what the maximum rises
      goes to the image's largest input, what it falls to the baseline's. For networks made of modules that it has
      rules for; a network that applies functions instead of modules shows by its completeness residual.
    - `attention_rollout`: attention to the class token through all blocks, half of each being the skip (Abnar &
      Zuidema 2020); one value for a patch, spread over its pixels, never negative, the same for every target. For
      `digits.Transformer`.

    baseline: [h, w], what counts as absence; black (0) by default. Raises ValueError for an unknown method, and
    BadParameter for one that is not defined for the network.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: expected one of {', '.join(METHODS)}")
    check_defined(model, method)
    x, y = torch.as_tensor(images, dtype=torch.float32)[:, None], torch.as_tensor(targets)
    step = max(1, ROWS // METHODS[method].passes(x.shape[-2:], options))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*(Setting forward, backward hooks|required_grads)")
        torch.manual_seed(options.pop("seed", 0))
        parts = [
            METHODS[method].rule(model, *part, **options) for part in zip(x.split(step), y.split(step), strict=True)
        ]
    return torch.cat(parts)[:, 0].detach().numpy()


def check_defined(model, method, images=None):
    """Raise BadParameter unless the method is defined for this network.

    images: [n, h, w] to try DeepLift on, whose rules need a module of its own for every step: a network that applies
    functions, or one module twice, is told by a sum that misses the change of the logit, or by Captum's complaint.
    """
    if method == "attention_rollout" and not isinstance(model, Transformer):
        raise BadParameter(
            'attention_rollout needs the attention of the bundled transformer: give model "transformer", or choose '
            "another method"
        )
    if method != "deep_lift":
        return
    if isinstance(model, torch.jit.ScriptModule | torch.fx.GraphModule):
        raise BadParameter("deep_lift needs modules, which a saved program no longer has: choose another method")
    leaves = [module for module in model.modules() if not list(module.children())]
    if unknown := [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, DEEP_LIFT_MODULES)]:
        raise BadParameter(f"deep_lift has no rule for {unknown[0]}, which this network uses: choose another method")
    if images is not None and not _deep_lift_is_complete(model, images):
        raise BadParameter(
            "deep_lift does not account for this network's logits: it needs a module of its own for every step, "
            "ReLU included; choose another method"
        )


def methods_for(model, images=None):
    """Names of the methods that are defined for this network; images: see `check_defined`."""
    return [method for method in METHODS if _is_defined(model, method, images)]


def completeness_residual(model, images, targets, maps, baseline=0.0):
    """How far the sum of each map is from the change of the logit between baseline and image: [n].

    The logits' own changes [n] come with it, to set the residual against. An integrated gradient or DeepLift that is
    computed without error has residual 0.
    """
    x, y = torch.as_tensor(images, dtype=torch.float32)[:, None], torch.as_tensor(targets)
    with torch.no_grad():
        change = model(x).gather(1, y[:, None]) - model(_baseline(baseline, x)).gather(1, y[:, None])
    change = change[:, 0].numpy()
    return np.abs(maps.sum((1, 2)) - change), change


def crop(maps, rows, columns):
    """Maps [..., h, w] without the margins that keep them from the proportions of rows × columns.

    The same number of pixels goes from both ends of the longer side: two columns of 28 × 28 for 7 × 6, so that the rest
    falls into blocks of 4 × 4; one of 8 × 8. Where more than an eighth of the side would go at each end, nothing goes.
    """
    height, width = maps.shape[-2:]
    down = _margin(height, width * rows / columns)
    across = _margin(width, height * columns / rows)
    return maps[..., down : height - down, across : width - across]


def regrid(maps, rows, columns):
    """Maps [..., h, w] on a grid of rows × columns; every pixel's value is shared by the area that falls in each cell.

    Sums are kept. Where cells are whole blocks of pixels it is their sum. Raises BadParameter for a grid that is larger
    than the maps or below 1.
    """
    height, width = np.shape(maps)[-2:]
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise BadParameter(
            f"a grid of {rows} × {columns} for maps of {height} × {width}: expected 1 … {height} × 1 … {width}"
        )
    return _shares(height, rows) @ np.asarray(maps, dtype=np.float64) @ _shares(width, columns).T


def on_grid(maps, rows, columns):
    """(maps on the grid, share of the absolute mass that `crop` kept): `crop`, then `regrid` of the absolute values."""
    size = np.abs(maps)
    kept = crop(size, rows, columns)
    return regrid(kept, rows, columns), float(kept.sum() / size.sum()) if size.any() else 1.0


def joint_normalise(maps):
    """Absolute values of the maps, of any shape, divided by their sum over all maps: one distribution.

    Of all-zero maps: zeros.
    """
    size = np.abs(np.asarray(maps, dtype=np.float64))
    return size / (size.sum() or 1.0)


def class_means(maps, labels):
    """Mean map of every digit: [10, h, w]."""
    return np.stack([maps[labels == digit].mean(0) for digit in range(10)])


class Method(NamedTuple):
    """rule(model, x, y, **options) → maps; passes(size, options): rows that one image takes in a pass."""

    rule: object
    passes: object


def _evidence(model):
    """The sum of all rows' target logits. Rows do not depend on each other, so its gradient holds that of each row.

    Captum differentiates every output by itself; with one output instead of a thousand it takes half the time.
    """
    return lambda x, y: model(x).gather(1, y[:, None]).sum(0)


def _gradient(model, x, y):
    return Saliency(_evidence(model)).attribute(x, additional_forward_args=y, abs=False)


def _input_x_gradient(model, x, y):
    return InputXGradient(_evidence(model)).attribute(x, additional_forward_args=y)


def _integrated_gradients(model, x, y, baseline=0.0, steps=32):
    rule, base = IntegratedGradients(_evidence(model)), _baseline(baseline, x)
    return rule.attribute(x, base, n_steps=steps, method="gausslegendre", additional_forward_args=y)


def _smooth_grad(model, x, y, samples=50, sigma=0.15):
    rule = NoiseTunnel(Saliency(_evidence(model)))
    return rule.attribute(x, "smoothgrad", nt_samples=samples, stdevs=sigma, additional_forward_args=y, abs=False)


def _occlusion(model, x, y, baseline=0.0, window=0):
    window = window or _window(x.shape[-2:])
    return Occlusion(model).attribute(
        x,
        (1, window, window),
        strides=(1, window, window),
        target=y,
        baselines=_baseline(baseline, x),
        perturbations_per_eval=_places(x.shape[-2:], window),
    )


def _deep_lift(model, x, y, baseline=0.0):
    with _inputs_of_their_own(model):
        return DeepLift(model).attribute(x, _baseline(baseline, x), target=y)


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
    model(x)
    flow = torch.eye(Transformer.PATCHES**2 + 1)
    for block in model.blocks:
        flow = (block.attention.mean(1) + torch.eye(flow.shape[-1])) / 2 @ flow
    patches = flow[:, 0, 1:].unflatten(1, (1, Transformer.PATCHES, Transformer.PATCHES))
    height, width = (side // Transformer.PATCHES for side in x.shape[-2:])
    return patches.repeat_interleave(height, 2).repeat_interleave(width, 3) / (height * width)


def _baseline(baseline, x):
    return torch.as_tensor(baseline, dtype=torch.float32).expand(x.shape).contiguous()


def _window(size):
    return max(1, min(size) // 7)


def _places(size, window):
    return int(np.prod([-(-side // window) for side in size]))


METHODS = {
    "gradient": Method(_gradient, lambda *_: 1),
    "input_x_gradient": Method(_input_x_gradient, lambda *_: 1),
    "integrated_gradients": Method(_integrated_gradients, lambda _, options: options.get("steps", 32)),
    "smooth_grad": Method(_smooth_grad, lambda _, options: options.get("samples", 50)),
    "occlusion": Method(_occlusion, lambda size, options: _places(size, options.get("window") or _window(size))),
    "deep_lift": Method(_deep_lift, lambda *_: 2),
    "attention_rollout": Method(_attention_rollout, lambda *_: 1),
}
WITH_BASELINE = ("integrated_gradients", "occlusion", "deep_lift")
COMPLETE = ("integrated_gradients", "deep_lift")


def _deep_lift_is_complete(model, images):
    targets = np.zeros(len(images), dtype=int)
    try:
        maps = attribute(model, images, targets, "deep_lift")
    except (AssertionError, RuntimeError):  # what Captum raises of a module that is used twice
        return False
    residual, change = completeness_residual(model, images, targets, maps)
    return bool((residual <= 1e-3 * (1 + np.abs(change))).all())


def _is_defined(model, method, images):
    try:
        check_defined(model, method, images)
    except BadParameter:
        return False
    return True


def _margin(side, wanted):
    margin = int(np.ceil(max(side - wanted, 0) / 2 - 1e-9))
    return margin if margin <= CROPPED * side else 0


def _shares(pixels, cells):
    """Share of every pixel that lies in every cell, both laid over the same length: [cells, pixels]."""
    ends = np.arange(pixels + 1) * cells / pixels
    lower = np.maximum(ends[:-1], np.arange(cells)[:, None])
    upper = np.minimum(ends[1:], np.arange(1, cells + 1)[:, None])
    return np.clip(upper - lower, 0, None) * pixels / cells
