"""Attributions against closed forms and Captum called plainly; grids and normalisation against their definitions."""

import copy

import captum.attr
import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

from helpers import digits, parameters
from helpers.digits import classifiers, saliency

ON_CNN = [method for method in saliency.METHODS if method != "attention_rollout"]


@pytest.fixture(scope="module")
def data():
    found = digits.load("digits")
    return found.images[:23], found.labels[:23]


@pytest.fixture(scope="module")
def cnn():
    return digits.untrained("cnn", 8, 0).requires_grad_(False)


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
    options = {"baseline": baseline} if method in saliency.WITH_BASELINE else {}
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
@pytest.mark.parametrize("method", [method for method in ON_CNN if method not in ("smooth_grad", "deep_lift")])
def test_in_parts_the_maps_are_those_of_captum_called_plainly(cnn, data, method, monkeypatch):
    monkeypatch.setattr(saliency, "ROWS", 100)
    images, labels = data
    x, y = torch.from_numpy(images)[:, None].requires_grad_(), torch.from_numpy(labels)
    maps = saliency.attribute(cnn, images, labels, method)
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
        ("transformer", "deep_lift", "has no rule for"),
    ],
)
def test_what_is_not_defined_is_refused(data, architecture, method, message):
    with pytest.raises(ValueError, match=message):
        saliency.attribute(digits.untrained(architecture, 8, 0), *data, method)


def test_deep_lift_refuses_a_saved_program(cnn):
    assert "deep_lift" in saliency.methods_for(cnn)
    with pytest.warns(DeprecationWarning):
        program = torch.jit.trace(cnn, torch.rand(2, 1, 8, 8))
    assert "deep_lift" not in saliency.methods_for(program)


STEPS = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "elu": nn.ELU,
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "max pool": lambda: nn.MaxPool2d(2),
}


def through_a_maximum(pool, x, reference, multipliers):
    """What a maximum rises goes to the image's largest input, what it falls to the reference's; window by window."""
    side, given = pool.kernel_size, torch.zeros_like(x)
    for n, channel, row, column in np.ndindex(*multipliers.shape):
        place = n, channel, slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        own, other = x[place], reference[place]
        top, above = max(own.max(), other.max()), multipliers[n, channel, row, column]
        for window, change in ((own, top - other.max()), (other, own.max() - top)):
            given[place][np.unravel_index(int(window.argmax()), window.shape)] += above * change
    return given


def rescale(steps, x, reference, multipliers):
    """Multipliers of the input of modules one after another, from the definition.

    multipliers: those of the last output, as a function of it. A linear step hands them on by its transpose; another
    multiplies them by the change of its output over that of its input, by its slope where that is 0.
    """
    if not steps:
        return multipliers(x)
    step = type(steps[0])() if isinstance(steps[0], nn.ReLU) else steps[0]  # in place it would change what is kept
    after = rescale(steps[1:], step(x), step(reference), multipliers)
    slope = torch.autograd.functional.vjp(step, x, after)[1]
    if not isinstance(step, saliency.NON_LINEAR):
        return slope
    change = x - reference
    if isinstance(step, nn.MaxPool2d):
        given = through_a_maximum(step, x, reference, after)
    else:
        given = after * (step(x) - step(reference))
    return torch.where(change.abs() < 1e-12, slope, given / torch.where(change == 0, 1, change))


def by_rescaling(model, images, labels, baseline):
    """DeepLIFT's contributions [n, h, w] in double precision, without Captum."""
    steps = [copy.deepcopy(part).double() for part in model.modules() if not list(part.children())]
    x = torch.from_numpy(images).double()[:, None]
    reference = torch.as_tensor(baseline).double().expand(x.shape)
    of_logits = lambda logits: nn.functional.one_hot(torch.from_numpy(labels), logits.shape[1]).double()  # noqa: E731
    return ((x - reference) * rescale(steps, x, reference, of_logits))[:, 0].numpy()


def state_of(model):
    """All that a user can see of a network's modules."""
    return [
        (name, module.training, sorted(vars(module)), {k: list(v) for k, v in vars(module).items() if "hooks" in k})
        for name, module in model.named_modules()
    ] + [(name, p.requires_grad, p.grad, p.sum().item()) for name, p in model.named_parameters()]


@pytest.mark.parametrize("first", STEPS)
@pytest.mark.parametrize("second", STEPS)
def test_deep_lift_is_the_rescale_rule_where_one_non_linear_module_feeds_another(data, first, second):
    torch.manual_seed(0)
    pair = nn.Sequential(STEPS[first](), nn.Sequential(STEPS[second]()))
    side = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), pair)(torch.zeros(1, 1, 8, 8)).shape[-1]
    last = nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 10), nn.Softplus(), nn.Tanh(), nn.Linear(10, 10))
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), pair, last).eval()
    images, labels = data[0][:3], data[1][:3]
    baseline = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    expected = by_rescaling(model, images, labels, baseline)
    before = state_of(model)
    maps = saliency.attribute(model, images, labels, "deep_lift", baseline=baseline)
    assert state_of(model) == before
    assert np.abs(maps - expected).sum() < 2e-3 * np.abs(expected).sum()  # single precision, in differences
    assert "deep_lift" in saliency.methods_for(model, images)


@pytest.mark.parametrize("baseline", ["black", "mean"])
@pytest.mark.parametrize("dataset", ["digits", "mnist5k"])
def test_deep_lift_of_the_bundled_network_is_the_rescale_rule(dataset, baseline):
    found, network = digits.load(dataset), classifiers.bundled(dataset, "cnn")["seed_0"]
    images, labels = found.images[::700], found.labels[::700]
    absence = {"black": np.zeros_like(images[0]), "mean": found.images.mean(0)}[baseline]
    expected = by_rescaling(network, images, labels, absence)
    maps = saliency.attribute(network, images, labels, "deep_lift", baseline=absence)
    assert np.abs(maps - expected).sum() < 1e-3 * np.abs(expected).sum()


class Skip(nn.Module):
    """What a non-linear module gives goes two ways: through another one, and past it."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.last = nn.Linear(64, 12), nn.Linear(12, 12), nn.Linear(12, 10)
        self.relu, self.tanh = nn.ReLU(), nn.Tanh()
        self.shared = self.relu

    def forward(self, images):
        hidden = self.relu(self.one(images.flatten(1)))
        return self.last(hidden + self.tanh(hidden) + self.other(hidden))


def test_deep_lift_past_a_skip_by_hand(data):
    torch.manual_seed(0)
    model, (images, labels) = Skip().requires_grad_(False), (data[0][:5], data[1][:5])
    maps = saliency.attribute(model, images, labels, "deep_lift", baseline=0.3)
    exact = copy.deepcopy(model).double()
    x = torch.from_numpy(images).double().flatten(1)
    before, before_reference = exact.one(x), exact.one(torch.full_like(x, 0.3))
    hidden, reference = before.relu(), before_reference.relu()
    bent = torch.where(hidden == reference, 1.0, (hidden.tanh() - reference.tanh()) / (hidden - reference))
    after = exact.last.weight[labels]
    into_hidden = after * (1 + bent) + after @ exact.other.weight
    expected = (into_hidden * (hidden - reference) / (before - before_reference)) @ exact.one.weight * (x - 0.3)
    np.testing.assert_allclose(maps.reshape(5, 64), expected, atol=1e-5)


def test_deep_lift_is_refused_where_windows_overlap(data):
    """Captum's rule for a maximum takes one window's share where two have their maximum at the same place."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.MaxPool2d(3, stride=1), nn.Flatten(), nn.Linear(48, 10)
    with pytest.raises(ValueError, match="does not account for this network's logits"):
        saliency.check_defined(nn.Sequential(*layers), "deep_lift", data[0])


def test_a_module_used_twice_is_still_refused_and_left_as_it_was(data):
    torch.manual_seed(0)
    relu = nn.ReLU()
    twice = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), relu, nn.Linear(12, 12), relu, nn.Linear(12, 10))
    before = state_of(twice)
    with pytest.raises(RuntimeError, match="used more than once"):
        saliency.attribute(twice, *data, "deep_lift")
    assert state_of(twice) == before
    with pytest.raises(ValueError, match="a module of its own for every step"):
        saliency.check_defined(twice, "deep_lift", data[0])


@pytest.mark.parametrize(
    "shape", [(8, 8, 7, 6), (28, 28, 7, 7), (28, 24, 7, 6), (28, 28, 5, 3), (9, 7, 1, 1), (8, 8, 8, 8)]
)
def test_regrid_keeps_the_sum(rng, shape):
    height, width, rows, columns = shape
    maps = rng.standard_normal((4, height, width))
    laid = saliency.regrid(maps, rows, columns)
    assert laid.shape == (4, rows, columns)
    np.testing.assert_allclose(laid.sum((1, 2)), maps.sum((1, 2)), rtol=1e-6, atol=1e-9)


def test_regrid_sums_whole_blocks_and_shares_the_others_by_area(rng):
    maps = rng.random((3, 28, 24))
    np.testing.assert_allclose(saliency.regrid(maps, 7, 6), maps.reshape(3, 7, 4, 6, 4).sum((2, 4)), rtol=1e-12)
    np.testing.assert_allclose(saliency.regrid(maps, 28, 24), maps)
    fine = rng.random((3, 8, 6)).repeat(7, 1) / 7  # every pixel as 7 thin ones
    np.testing.assert_allclose(saliency.regrid(fine, 7, 6), saliency.regrid(fine.reshape(3, 8, 7, 6).sum(2), 7, 6))
    np.testing.assert_allclose(saliency.regrid(np.eye(3), 2, 3), [[1, 0.5, 0], [0, 0.5, 1]], atol=1e-12)


@pytest.mark.parametrize("grid", [(0, 3), (3, 0), (9, 3), (3, 9)])
def test_a_grid_finer_than_the_image_or_empty_is_refused(grid):
    with pytest.raises(ValueError, match=f"a grid of {grid[0]} × {grid[1]} for maps of 8 × 8: expected 1 … 8 × 1 … 8"):
        saliency.regrid(np.zeros((1, 8, 8)), *grid)


@pytest.mark.parametrize(
    ("shape", "grid", "kept"),
    [
        ((28, 28), (7, 6), (28, 24)),
        ((8, 8), (7, 6), (8, 6)),
        ((8, 8), (6, 7), (6, 8)),
        ((28, 28), (7, 7), (28, 28)),
        ((8, 8), (8, 1), (8, 8)),
    ],
)
def test_crop_takes_thin_margins_only(shape, grid, kept):
    assert saliency.crop(np.zeros(shape), *grid).shape == kept


def test_mnist_falls_into_blocks_and_loses_almost_no_ink():
    images = digits.load("mnist5k").images
    laid, kept = saliency.on_grid(images, 7, 6)
    assert kept == pytest.approx(1 - 0.00018, abs=5e-6)
    np.testing.assert_allclose(laid, images[:, :, 2:26].reshape(-1, 7, 4, 6, 4).sum((2, 4)), rtol=1e-5)


def test_joint_maps_sum_to_one_over_all(rng):
    maps = rng.standard_normal((10, 7, 6))
    joint = saliency.joint_normalise(maps)
    assert joint.sum() == pytest.approx(1)
    assert (joint >= 0).all()
    np.testing.assert_allclose(joint / joint[0, 0, 0], np.abs(maps) / np.abs(maps[0, 0, 0]))
    assert (saliency.joint_normalise(np.zeros((10, 7, 6))) == 0).all()


def test_class_means(rng):
    labels = np.tile(range(10), 3)
    maps = rng.random((30, 2, 2))
    np.testing.assert_allclose(saliency.class_means(maps, labels)[4], (maps[4] + maps[14] + maps[24]) / 3)
