"""How someone's own classifier is fed and what it gives; what it might want instead, found by trying."""

import warnings
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float32, Int
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix
from torch import nn

from helpers.digits.batches import SILENCED
from helpers.digits.behaviour import KNOWS, Images, Outputs, ask, line, precision, rounding
from helpers.digits.images import SIZES
from helpers.parameters import BadParameter
from helpers.weights import WeightsError

DIGITS = "0123456789"
SIDES = (28, 32, 8, 16, 64, *range(4, 65), 96, 128, 224)  # input sizes to try
COUNTS = (1, 2, 3, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256)  # batch sizes to try
SCALES = ((0.0, 1.0), (0.1307, 0.3081), (0.5, 0.5), (0.0, 0.0625))  # means and deviations to try; 1/16 is load_digits
MADE = {  # what a network gives: how what is explained is made of it
    "logits": {
        "logit": lambda z: z,
        "log_probability": lambda z: z.log_softmax(1),
        "probability": lambda z: z.softmax(1),
    },
    "log-probabilities (logsumexp of every row is 0)": {"log_probability": lambda z: z, "probability": torch.exp},
    "probabilities (every row sums to 1)": {"probability": lambda z: z, "log_probability": torch.log},
    "numbers between 0 and 1 that do not sum to 1, as of sigmoids": {"probability": lambda z: z},
}
LOGITS, LOG_PROBABILITIES, PROBABILITIES, SIGMOIDS = MADE


class Prepared(nn.Module):
    """Someone's own classifier behind what its images need, and before what is explained of its outputs.

    model: the network itself. p: parameters of notebook 03, which say how it is fed. gives: of its outputs, a key of
    MADE. Maps of this module are maps of the pixels before the preparation.
    """

    def __init__(self, model, p, gives=LOGITS):
        super().__init__()
        self.model, self.p, self.gives, self.explains = model, p, gives, p.explains
        self.size = tuple(side or SIZES[p.dataset] for side in (p.input_rows, p.input_columns))
        self.alone = True  # whether it takes one image by itself

    def fed(self, **changes):
        """The same network with other parameters."""
        other = Prepared(self.model, self.p.model_copy(update=changes), self.gives)
        other.alone = self.alone
        return other

    def prepare(self, x: Images) -> torch.Tensor:
        """What the network itself gets of images: [n, channels, rows, columns] in its precision."""
        more = [self.size[side] - x.shape[2 + side] for side in (1, 0)]
        if any(more) and self.p.pad:
            x = nn.functional.pad(x, [part for width in more for part in (width // 2, width - width // 2)])
        elif any(more):
            x = nn.functional.interpolate(x, self.size, mode="bilinear", align_corners=False)
        x = 1 - x if self.p.invert else x
        x = 255 * x if self.p.input_range == "0-255" else x
        x = (x - self.p.input_mean) / self.p.input_std
        return (x.repeat(1, 3, 1, 1) if self.p.channels == 3 else x).to(precision(self.model))

    def itself(self, x: Images) -> Float32[torch.Tensor, "n 10"]:
        """The network's own outputs of images, in the order of the digits."""
        if len(x) == 1 and not self.alone:
            return self.itself(x.repeat(2, 1, 1, 1))[:1]
        with SILENCED, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what someone's own network warns is not the report's
            outputs = ten(self.model(self.prepare(x)), len(x)).float()
        return outputs[:, [self.p.class_order.index(digit) for digit in DIGITS]] if self.p.class_order else outputs

    def forward(self, x: Images) -> Float32[torch.Tensor, "n 10"]:
        """What is explained of images in [0, 1], 1 being ink."""
        return MADE[self.gives][self.explains](self.itself(x))


def ten(given, count: int) -> torch.Tensor:
    """The one tensor [count, 10] that a network gave: itself, or in a tuple, list or dict, there `logits` if so named.

    Raises WeightsError where there is none, or more than one.
    """
    named = given.get("logits") if isinstance(given, Mapping) else getattr(given, "logits", None)
    parts = list(_tensors(given if named is None else named))
    fit = [part for part in parts if part.is_floating_point() and tuple(part.shape) == (count, 10)]
    if len(fit) == 1:
        return fit[0]
    shapes = " and ".join(str(list(part.shape)) for part in parts) or f"a {type(given).__name__}"
    raise WeightsError(
        f"gives {shapes} for {count} images: expected one tensor of fractions [{count}, 10], an output for each digit, "
        "or a tuple or dict with one; return that alone"
    )


def check_taken(network: Prepared, name: str, images: Images):
    """Raise WeightsError unless a network takes any number of images and gives what `p.explains` can be made of.

    The network is told what it gives, and that it is to be asked for two images where it does not take one alone.
    """
    for count in (2, 3, 64):
        try:
            ask(network, images[:count])
        except Exception as error:
            raise WeightsError(f"{name} {_why_not(network, images, count, error)}") from error
    network.alone = taken(network, network.prepare(images[:1]))
    network.gives = given_by(ask(network.itself, images[:256]), rounding(network))
    if network.explains not in MADE[network.gives]:
        raise BadParameter(
            f"{name} gives {network.gives}, and explains is {network.explains}: set explains to "
            f"{' or '.join(MADE[network.gives])}"
        )


def taken(network: Prepared, x: torch.Tensor) -> bool:
    """Whether the model in a prepared network gives ten outputs for each of x, in any form that `ten` reads."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ten(network.model(x), len(x))
    except Exception:
        return False
    return True


def given_by(outputs: Outputs, near: float) -> str:
    """What outputs are, a key of MADE. near: how far sums may be from 1, logsumexp from 0."""
    outputs = outputs.double()
    if outputs.logsumexp(1).abs().max() <= near:
        return LOG_PROBABILITIES
    if outputs.min() >= -near and outputs.max() <= 1 + near:
        return PROBABILITIES if (outputs.sum(1) - 1).abs().max() <= near else SIGMOIDS
    return LOGITS


def check_fed(network: Prepared, name: str, images: Images, labels: Int[np.ndarray, " n"], accuracy: float) -> list:
    """Sentences about how a network is fed, if it could be fed better.

    Raises WeightsError where it reads less than KNOWS, and would read as much with other parameters: inverted ink,
    a margin, another range or scale, one or two of these, or another order of its outputs.
    """
    p, some = network.p, slice(None, None, max(1, len(images) // 400))
    scales = [*SCALES, tuple(round(float(value), 4) for value in (images.mean(), images.std()))]
    changes = [{"invert": not p.invert}, {"input_range": "0-1" if p.input_range == "0-255" else "0-255"}]
    changes += [{"input_mean": m, "input_std": s} for m, s in scales if (m, s) != (p.input_mean, p.input_std)]
    changes += [{"pad": not p.pad}] if min(network.size) >= images.shape[2] < max(network.size) else []
    changes += [{"channels": 4 - p.channels}]
    pairs = [one | other for one, other in combinations(changes, 2) if not one.keys() & other.keys()]
    for several in (changes, pairs) if accuracy < KNOWS else (changes,):
        change = max(several, key=lambda each: _accuracy(network.fed(**each), images[some], labels[some]))
        better = _accuracy(network.fed(**change), images, labels)
        if accuracy < KNOWS <= better:
            raise WeightsError(_fed_better(name, accuracy, better, change))
    if accuracy >= KNOWS:
        return [_fed_better(name, accuracy, better, change)] if better > accuracy + 0.02 else []
    order, better = _best_order(network, images, labels)
    if better >= KNOWS:
        raise WeightsError(_fed_better(name, accuracy, better, {"class_order": order}))
    if (better := _accuracy(network, images.mT.contiguous(), labels)) >= KNOWS:
        raise WeightsError(
            f"{name} reads {accuracy:.0%} of the held-out digits, {better:.0%} with rows and columns swapped, as "
            "EMNIST has them: give a package.module:callable whose module begins with x.mT"
        )
    return [
        f"{name} reads only {accuracy:.0%} of the held-out digits; inverted ink, a margin, ink from 0 to 255, other "
        "means and deviations, one channel or three, another order of classes and swapped rows and columns were tried, "
        f"and none brings it to {KNOWS:.0%}"
    ]


def _tensors(given):
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, Mapping | tuple | list):
        for part in given.values() if isinstance(given, Mapping) else given:
            yield from _tensors(part)


def _why_not(network, images, count, error):
    """Why a prepared network does not take images, and what to do: the end of a sentence."""
    x = network.prepare(images[:2])
    for side in [] if taken(network, x) else [None, *SIDES]:
        one = x[:, :1] if side is None else nn.functional.interpolate(x[:, :1], (side, side))
        other, (h, w), three = 4 - x.shape[1], one.shape[2:], one.repeat(1, 3, 1, 1)
        wrap = "give a package.module:callable whose module"
        forms = {
            f"takes images of {h} × {w}": one if x.shape[1] == 1 else three,
            f"takes {other} channels: set channels to {other}": one if other == 1 else three,
            f"takes [n, {h}, {w}, 1], channels last: {wrap} begins with x.movedim(1, 3)": one.movedim(1, 3),
            f"takes [n, {h}, {w}, 3], channels last: {wrap} begins with x.movedim(1, 3)": three.movedim(1, 3),
            f"takes [n, {h}, {w}], without channels: {wrap} begins with x[:, 0]": one[:, 0],
            f"takes flat images [n, {h * w}]: {wrap} is nn.Sequential(nn.Flatten(), network)": one.flatten(1),
        }
        for told, form in list(forms.items())[side is None :]:
            if taken(network, form.contiguous()):
                link = ", and" if ": " in told else ":"
                return told + (f"{link} set input_rows and input_columns to {side}" if side else "")
    if several := [str(n) for n in COUNTS if taken(network, network.prepare(images[:n]))]:
        return (
            f"takes batches of {', '.join(several)} images, not of {count} ({line(error)}): export it with a dynamic "
            'batch size, dynamic_shapes=({0: torch.export.Dim("n")},)'
        )
    if isinstance(error, WeightsError):
        return str(error)
    return (
        f"does not take {count} images of {' × '.join(map(str, network.size))} ({line(error)}): set input_rows and "
        "input_columns to its size, channels to their number"
    )


def _accuracy(network, images, labels):
    """Share of right answers; 0 where the network does not take that."""
    try:
        return float((ask(network, images).argmax(1).numpy() == labels).mean())
    except Exception:
        return 0.0


def _best_order(network, images, labels):
    """(order of classes with which most answers are right, their share)."""
    counts = confusion_matrix(ask(network, images).argmax(1), labels, labels=range(10))
    meant = linear_sum_assignment(counts, maximize=True)[1]
    share = float(counts[range(10), meant].sum() / len(labels))
    return "".join(str(meant[int(digit)]) for digit in network.p.class_order or DIGITS), share


def _fed_better(name, accuracy, better, change):
    way = {key: str(value).lower() for key, value in change.items()}
    return (
        f"{name} reads {accuracy:.0%} of the held-out digits as it is fed, {better:.0%} with "
        f"{' and '.join(f'{key} {value}' for key, value in way.items())}: set "
        f"{' and '.join(f'{key} to {value}' for key, value in way.items())}"
        + (", which sets images in a margin" if way.get("pad") == "true" else "")
    )
