"""Record what Quantus finds for a bundled network, for `test_controls` and `test_faithful` to hold ours against.

Run by hand, with the extra `oracle`: python -m tests.digits.oracle. Quantus randomises layers by their initialisation;
here it is given our randomised copy instead, and our noise, so that its measures are compared and not its draws.
"""

import functools
import itertools
from unittest import mock

import numpy as np
import pandas as pd

from helpers import digits
from helpers.digits import bundled, controls, saliency
from helpers.paths import ROOT

RECORDED = ROOT / "tests" / "digits" / "oracle.csv"
METHODS = ("gradient", "occlusion")
SEED, SAMPLES, PIXELS_A_STEP = 3, 8, 8


def given():
    """The network, ten of its held-out images, one of a digit, and their labels."""
    data = digits.load("digits")
    chosen = digits.examples(data.labels, digits.hold_out(data)[1], 1, np.random.default_rng(SEED))
    return bundled.by_seed("digits", "cnn")["seed_0"], data.images[chosen], data.labels[chosen]


def _explain(model, inputs, targets, method, **_):
    return saliency.attribute(model, np.asarray(inputs)[:, 0], targets, method)[:, None]


def _noise(seed, images):
    """Draws as `smooth_mprt` makes them for one network, as a stand-in for `np.random.randn`."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(images.shape)[:, None] for _ in range(SAMPLES - 1)]


def _found(method):
    """(measure, step, [values of the images]), as Quantus has them."""
    import quantus
    from quantus.helpers.model.pytorch_model import PyTorchModel

    model, images, labels = given()
    copied = controls.randomise(model, SEED * 1_000_003)
    case = {"x_batch": images[:, None], "y_batch": labels, "channel_first": True, "device": "cpu"}
    with (
        mock.patch.object(PyTorchModel, "get_random_layer_generator", lambda *_, **__: [("all", copied)]),
        mock.patch.object(PyTorchModel, "random_layer_generator_length", 1),
        mock.patch.object(quantus, "explain", functools.partial(_explain, method=method)),
    ):
        explained = {"explain_func": _explain, "explain_func_kwargs": {"method": method}}
        yield "eMPRT", 0, quantus.EfficientMPRT(disable_warnings=True)(model, **case, **explained)
        options = {"return_last_correlation": True, "abs": False, "normalise": False, "disable_warnings": True}
        smooth = quantus.SmoothMPRT(nr_samples=SAMPLES, **options)
        draws = [_noise(SEED * 1_000_003 + network, images) for network in (0, 0, 1)]  # explained twice, then the copy
        with mock.patch("numpy.random.randn", side_effect=itertools.chain(*draws)):
            yield "sMPRT", 0, smooth(model, **case, explain_func=_explain)
        maps = saliency.attribute(model, images, labels, method)
        flipped = quantus.PixelFlipping(features_in_step=PIXELS_A_STEP, normalise=False, disable_warnings=True)
        for step, values in enumerate(np.transpose(flipped(model, **case, a_batch=maps[:, None])), 1):
            yield "PixelFlipping", step, values


if __name__ == "__main__":
    rows = [
        [measure, method, step, image, value]
        for method in METHODS
        for measure, step, values in _found(method)
        for image, value in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["measure", "method", "step", "image", "value"])
    table.to_csv(RECORDED, index=False, float_format="%.6g")
