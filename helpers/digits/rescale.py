"""DeepLift's rescale rule by itself: it sees what a network does, module or function, and knows nothing of Captum."""

import torch
from jaxtyping import Float, Int64
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ELEMENTWISE = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardtanh", "hardswish"),
    *("hardsigmoid", "sigmoid", "logsigmoid", "tanh", "softplus", "softsign", "clamp", "abs"),
    *("exp", "log", "log1p", "pow", "square", "sqrt", "rsqrt"),
)


def contributions(
    model, x: Float[torch.Tensor, "n 1 h w"], y: Int64[torch.Tensor, " n"], baseline: Float[torch.Tensor, "1 1 h w"]
) -> Float[torch.Tensor, "n 1 h w"]:
    """Contributions of the pixels to the outputs y (Shrikumar et al. 2017), in one pass of images and baselines.

    An elementwise function hands on the change of its output over that of its input, a maximum over windows what it
    rises to the image's largest input and what it falls to the baseline's, anything else its gradient.
    """
    both = torch.cat([x, baseline.expand_as(x)]).requires_grad_()
    with torch.enable_grad():
        with _Rescaling(len(both)):
            outputs = model(both)
        multipliers = torch.autograd.grad(outputs[: len(x)].gather(1, y[:, None]).sum(), both)[0][: len(x)]
    return multipliers * (x - baseline)


class _Rescaling(TorchFunctionMode):
    """Within it, non-linear functions of images and baselines, `rows` together, have multipliers for gradients."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, x = getattr(func, "__name__", "").split(".")[0].strip("_"), args[0] if args else None
        given = {key: value for key, value in (kwargs or {}).items() if key not in ("inplace", "return_indices")}
        if not isinstance(x, torch.Tensor) or not x.requires_grad or x.ndim < 2 or x.shape[0] % self.rows:
            return func(*args, **(kwargs or {}))
        if name == "max_pool2d":
            return _Maximum.apply(x, lambda z: F.max_pool2d(z, *args[1:], **given, return_indices=True))
        if name in ELEMENTWISE and not any(isinstance(more, torch.Tensor) and more.requires_grad for more in args[1:]):
            return _Elementwise.apply(x, lambda z: func(z.clone(), *args[1:], **given))
        return func(*args, **(kwargs or {}))


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, both, function):
        out = function(both)
        ctx.function, ctx.sides = function, (*both.chunk(2), *out.chunk(2))
        return out

    @staticmethod
    def backward(ctx, given):
        (x, reference, out, out_reference), given = ctx.sides, given.chunk(2)[0]
        slope = torch.autograd.functional.vjp(ctx.function, x, given)[1]
        return _quotient(given * (out - out_reference), x - reference, slope), None


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, both, pool):
        out, places = pool(both)
        ctx.sides = (*both.chunk(2), *out.chunk(2), *places.flatten(2).chunk(2))
        return out

    @staticmethod
    def backward(ctx, given):
        (x, reference, out, out_reference, place, place_reference), given = ctx.sides, given.chunk(2)[0]
        top, share = torch.maximum(out, out_reference), torch.zeros_like(x).flatten(2)
        share.scatter_add_(2, place, (given * (top - out_reference)).flatten(2))
        share.scatter_add_(2, place_reference, (given * (out - top)).flatten(2))
        return _quotient(share.view_as(x), x - reference, torch.zeros_like(x)), None


def _quotient(given, change, slope):
    """Multipliers of the images' half; the baselines' outputs are not asked for, and have none."""
    none = change.abs() < 1e-10
    multipliers = torch.where(none, slope, given / torch.where(none, 1, change))
    return torch.cat([multipliers, torch.zeros_like(multipliers)])
