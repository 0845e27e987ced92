"""Attributions against closed forms and Captum called plainly; completeness, and rows at once."""

import gc
import weakref

import captum.attr
import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

from helpers import digits, parameters
from helpers.digits import batches, saliency
from helpers.parameters import BadParameter
from tests.digits.test_deep_lift import After

ON_CNN = [method for method in saliency.METHODS if method != "attention_rollout"]
PLAIN = "gradient", "input_x_gradient", "integrated_gradients", "occlusion"


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)


def test_the_schema_and_this_room_know_the_same_methods():
    assert tuple(saliency.METHODS) == parameters.METHODS


@pytest.mark.parametrize("method", ON_CNN)
def test_on_a_linear_network_every_method_has_a_closed_form(linear, data, method):
    images, labels = data
    weights = linear[1].weight.numpy()[labels].reshape(-1, 8, 8)
    baseline = np.full((8, 8), 0.25, dtype=np.float32)
    absences = {"baseline": baseline, "background": np.stack([0 * baseline, 2 * baseline])}
    options = {name: absences[name] for name in saliency.OPTIONS[method] if name in absences}
    expected = {"gradient": weights, "smooth_grad": weights, "input_x_gradient": weights * images}
    maps = saliency.attribute(linear, images, labels, method, **options)
    np.testing.assert_allclose(maps, expected.get(method, weights * (images - baseline)), atol=1e-5)


def plainly(model, x, y, method):
    """Captum as its documentation calls it, all images at once."""
    torch.manual_seed(0)
    calls = {
        "gradient": lambda: captum.attr.Saliency(model).attribute(x, target=y, abs=False),
        "input_x_gradient": lambda: captum.attr.InputXGradient(model).attribute(x, target=y),
        "integrated_gradients": lambda: captum.attr.IntegratedGradients(model).attribute(
            x, baselines=0, target=y, n_steps=32, method="gausslegendre"
        ),
        "occlusion": lambda: captum.attr.Occlusion(model).attribute(x, (1, 1, 1), target=y, baselines=0),
    }
    return calls[method]()[:, 0].detach().numpy()


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("method", PLAIN)
def test_the_maps_are_those_of_captum_called_plainly(cnn, data, method):
    images, labels = data
    x, y = torch.from_numpy(images)[:, None].requires_grad_(), torch.from_numpy(labels)
    maps = saliency.attribute(cnn, images, labels, method, **({"steps": 32} if method in saliency.COMPLETE else {}))
    assert maps.shape == images.shape
    assert (maps < 0).any()
    np.testing.assert_allclose(maps, plainly(cnn, x, y, method), atol=1e-6)


def test_smooth_grad_is_the_mean_gradient_of_noisy_images(cnn, data):
    """Against 4,000 noisy copies drawn here; the error is that of 2,000 samples."""
    images, labels = data[0][:2], data[1][:2]
    maps = saliency.attribute(cnn, images, labels, "smooth_grad", samples=2000, sigma=0.2)
    rng = np.random.default_rng(0)
    for image, label, found in zip(images, labels, maps, strict=True):
        noisy = (image + 0.2 * rng.standard_normal((4000, 8, 8))).astype(np.float32)
        x = torch.from_numpy(noisy)[:, None].requires_grad_()
        gradients = torch.autograd.grad(cnn(x)[:, label].sum(), x)[0][:, 0].numpy()
        error = gradients.std(0) * np.sqrt(1 / 4000 + 1 / 2000)
        assert np.abs(found - gradients.mean(0)).max() < 5 * error.max()


def test_the_noise_has_a_seed_and_leaves_the_random_state_alone(cnn, data):
    before = torch.get_rng_state()
    one, same, other = (saliency.attribute(cnn, *data, "smooth_grad", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_integrated_gradients_are_the_integral(cnn, data):
    """scipy's quadrature along the path, pixel by pixel, for the brightest pixels of one image."""
    image, label = torch.from_numpy(data[0][:1])[:, None], int(data[1][0])
    found = saliency.attribute(cnn, *(part[:1] for part in data), "integrated_gradients", steps=300)[0]

    def gradient(share, place):
        x = (share * image).requires_grad_()
        return float(torch.autograd.grad(cnn(x)[0, label], x)[0][0, 0][place])

    for place in zip(*np.unravel_index(np.argsort(-data[0][0].ravel())[:2], (8, 8)), strict=True):
        expected = float(data[0][0][place]) * integrate.quad(gradient, 0, 1, args=(place,), limit=60, epsabs=1e-4)[0]
        assert found[place] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("architecture", digits.ARCHITECTURES)
def test_completeness(data, architecture):
    """The sum of a map is the change of the logit, better with more steps; DeepLift's is exact."""
    model = digits.untrained(architecture, 8, 1).requires_grad_(False)
    images, labels = data
    with torch.no_grad():
        logits = model(torch.from_numpy(images)[:, None]) - model(torch.zeros(1, 1, 8, 8))
    change = logits.numpy()[np.arange(len(labels)), labels]
    residuals = []
    for steps in (4, 64):
        maps = saliency.attribute(model, images, labels, "integrated_gradients", steps=steps)
        residual, found = saliency.completeness_residual(model, images, labels, maps)
        np.testing.assert_allclose(found, change, atol=1e-5)
        np.testing.assert_allclose(residual, np.abs(maps.sum((1, 2)) - change), atol=1e-5)
        residuals.append(np.median(residual / np.abs(change)))
    assert residuals[1] < residuals[0] / 5
    if architecture == "cnn":
        maps = saliency.attribute(model, images, labels, "deep_lift")
        assert saliency.completeness_residual(model, images, labels, maps)[0].max() < 1e-5


def test_occlusion_is_what_the_logit_loses(cnn, data):
    images, labels = data[0][:3], data[1][:3]
    baseline = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    maps = saliency.attribute(cnn, images, labels, "occlusion", baseline=baseline, window=3)
    x = torch.from_numpy(images)[:, None]
    hidden = x.clone()
    hidden[:, 0, 3:6, 6:8] = torch.from_numpy(baseline[3:6, 6:8])
    loss = (cnn(x) - cnn(hidden)).numpy()[np.arange(3), labels]
    np.testing.assert_allclose(maps[:, 3:6, 6:8], np.broadcast_to(loss[:, None, None], (3, 3, 2)), atol=1e-5)


def test_attention_rollout_by_hand(data):
    model = digits.untrained("transformer", 8, 2).requires_grad_(False)
    maps = saliency.attribute(model, *data, "attention_rollout")
    model(torch.from_numpy(data[0])[:, None])
    first, second = ((block.attention.mean(1).numpy() + np.eye(17)) / 2 for block in model.blocks)
    flow = np.einsum("nij,njk->nik", second, first)[:, 0, 1:].reshape(-1, 4, 4)
    np.testing.assert_allclose(maps, flow.repeat(2, 1).repeat(2, 2) / 4, atol=1e-6)
    np.testing.assert_array_equal(maps, saliency.attribute(model, data[0], (data[1] + 1) % 10, "attention_rollout"))
    assert (maps >= 0).all()
    assert (maps.sum((1, 2)) < 1).all()


@pytest.mark.parametrize(
    ("architecture", "method", "message"),
    [
        ("cnn", "grad_cam", "method is 'grad_cam': expected one of gradient, input_x_gradient"),
        ("cnn", "attention_rollout", "needs the attention of the bundled transformer"),
        ("transformer", "deep_lift", "deep_lift has no rule for LayerNorm"),
    ],
)
def test_what_is_not_defined_is_refused(data, architecture, method, message):
    with pytest.raises(ValueError, match=message):
        saliency.attribute(digits.untrained(architecture, 8, 0), *data, method)


def test_deep_lift_refuses_a_saved_program(cnn):
    assert not saliency.obstacle(cnn, "deep_lift")
    with pytest.warns(DeprecationWarning):
        program = torch.jit.trace(cnn, torch.rand(2, 1, 8, 8))
    with pytest.raises(BadParameter, match="deep_lift needs modules"):
        saliency.attribute(program, np.zeros((1, 8, 8), np.float32), np.zeros(1, int), "deep_lift")


def test_expected_gradients_are_the_mean_of_integrated_gradients_over_the_background(cnn, data):
    (images, labels), background = (part[:4] for part in data), data[0][10:13]
    found = saliency.attribute(cnn, images, labels, "expected_gradients", background=background, steps=20)
    each = [
        saliency.attribute(cnn, images, labels, "integrated_gradients", baseline=baseline, steps=20)
        for baseline in background
    ]
    np.testing.assert_allclose(found, np.mean(each, 0), atol=1e-6)


def test_integrated_and_expected_gradients_of_a_quadratic_form_are_exact(data, rng):
    """Of xᵀ A x from b to x: (x − b) (A + Aᵀ)(x + b) / 2; the sums are the changes."""
    form = torch.from_numpy(rng.standard_normal((10, 64, 64)) / 64).float()
    model = After(nn.Flatten(), lambda flat: torch.einsum("ni,cij,nj->nc", flat, form, flat))
    images, labels, background = data[0][:6], data[1][:6], data[0][10:13]
    both = (form + form.mT).numpy()[labels]
    expected = np.mean(
        [
            (images - b) * np.einsum("nij,nj->ni", both, (images + b).reshape(6, 64)).reshape(6, 8, 8) / 2
            for b in background
        ],
        0,
    )
    maps = saliency.attribute(model, images, labels, "expected_gradients", background=background)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    residual, change = saliency.completeness_residual(model, images, labels, maps, background)
    with torch.no_grad():
        values, absent = (model(torch.from_numpy(part)[:, None]).numpy() for part in (images, background))
    np.testing.assert_allclose(change, values[np.arange(6), labels] - absent.mean(0)[labels], atol=1e-5)
    assert residual.max() < 1e-5


@pytest.mark.parametrize(("steepness", "kept"), [(100, True), (2e4, False)])
def test_a_steep_network_gets_more_steps_or_its_maps_are_withheld(data, steepness, kept):
    """A step somewhere between absence and image, so narrow that it lies between 32 points, or between 256."""
    model = After(nn.Flatten(), lambda flat: (steepness * (flat.mean(1, keepdim=True) - 0.1)).tanh().expand(-1, 10))
    (images, labels), background = data, np.stack([np.zeros((8, 8), np.float32), np.full((8, 8), 0.05, np.float32)])
    with_32 = saliency.attribute(model, images, labels, "integrated_gradients", steps=32)
    residual, _ = saliency.completeness_residual(model, images, labels, with_32)
    assert (residual > 0.01 * np.abs(with_32).sum((1, 2))).any()
    methods = ["integrated_gradients", "expected_gradients"]
    maps, reasons = saliency.explain(model, images, labels, methods, {"expected_gradients": {"background": background}})
    assert set(maps) == (set(methods) if kept else set())
    for found in maps.values():
        np.testing.assert_allclose(found.sum((1, 2)), 1 + np.tanh(steepness * (images.mean((1, 2)) - 0.1)), atol=0.05)
    assert all("its sums miss the change of the output by up to" in reason for reason in reasons.values())


def test_a_map_that_is_not_finite_is_withheld(data):
    model = After(nn.Flatten(), lambda flat: flat.sqrt().sum(1, keepdim=True).expand(-1, 10))
    assert saliency.explain(model, *data, ["gradient"]) == ({}, {"gradient": "its maps are not finite"})


@pytest.mark.parametrize("method", ON_CNN)
def test_maps_do_not_depend_on_how_many_rows_go_at_once(cnn, data, method, monkeypatch):
    options = {"background": data[0][:3]} if method == "expected_gradients" else {}
    whole = saliency.attribute(cnn, *data, method, **options)
    for rows in (1, 7):
        monkeypatch.setattr(batches, "MOST", rows)
        few = saliency.attribute(cnn, *(part[:5] for part in data), method, **options)
        np.testing.assert_allclose(few, whole[:5], atol=2e-6)


def test_rows_are_as_many_as_keep_32_mb():
    """A tanh keeps its output for the gradient, and nothing else is kept of a sum."""
    x, wide = torch.rand(2, 1, 8, 8), lambda x: x.repeat(1, 4096, 1, 1).tanh().sum((1, 2, 3))
    assert batches.rows(wide, x) == 2**25 // (4096 * 64 * 4)
    assert batches.rows(lambda x: x.repeat(1, 2**21, 1, 1).tanh().sum((1, 2, 3)), x[:1, :, :3, :3]) == 1
    assert batches.rows(lambda x: 2 * x, x) == batches.MOST


def test_nothing_of_a_network_outlives_it(data):
    """Measuring what a pass keeps must not keep it: when a network is gone none of its tensors is left."""
    network = digits.untrained("cnn", 8, 0)
    options = {"expected_gradients": {"background": data[0][:2], "steps": 1}}
    for method in set(saliency.METHODS) - {"attention_rollout"}:
        saliency.attribute(network, *data, method, **options.get(method, {}))
    weights = [weakref.ref(parameter) for parameter in network.parameters()]
    del network
    gc.collect()
    assert not any(weight() is not None for weight in weights)
