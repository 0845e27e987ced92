"""DeepLift against the rescale rule by hand in double precision, and where it must be withheld."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

from helpers import digits, parameters
from helpers.digits import bundled, rescale, saliency

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


def from_definition(steps, x, reference, multipliers):
    """Multipliers of the input of modules one after another, from the definition.

    multipliers: those of the last output, as a function of it. A linear step hands them on by its transpose; another
    multiplies them by the change of its output over that of its input, by its slope where that is 0.
    """
    if not steps:
        return multipliers(x)
    step = type(steps[0])() if isinstance(steps[0], nn.ReLU) else steps[0]  # in place it would change what is kept
    after = from_definition(steps[1:], step(x), step(reference), multipliers)
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
    return ((x - reference) * from_definition(steps, x, reference, of_logits))[:, 0].numpy()


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
    saliency.check_defined(model, "deep_lift", images, labels, baseline=baseline)


@pytest.mark.parametrize("baseline", ["black", "mean"])
@pytest.mark.parametrize("dataset", ["digits", "mnist5k"])
def test_deep_lift_of_the_bundled_network_is_the_rescale_rule(dataset, baseline):
    found, network = digits.load(dataset), bundled.by_seed(dataset, "cnn")["seed_0"]
    images, labels = found.images[::1250], found.labels[::1250]
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
    with pytest.raises(ValueError, match=r"deep_lift needs a network with .* its sums miss the change"):
        saliency.check_defined(nn.Sequential(*layers), "deep_lift", *data)


def test_a_module_used_twice_is_still_refused_and_left_as_it_was(data):
    torch.manual_seed(0)
    relu = nn.ReLU()
    twice = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), relu, nn.Linear(12, 12), relu, nn.Linear(12, 10))
    before = state_of(twice)
    with pytest.raises(RuntimeError, match="used more than once"):
        saliency.attribute(twice, *data, "deep_lift")
    assert state_of(twice) == before
    with pytest.raises(parameters.BadParameter, match=r"deep_lift .* a module of its own for every non-linear step"):
        saliency.check_defined(twice, "deep_lift", *data)


class After(nn.Module):
    """A network and a function of its output, that no module holds."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, images):
        return self.function(self.network(images))


AFTER = {
    "softplus on the digits 1 to 9": lambda z: torch.cat([z[:, :1], nn.functional.softplus(z[:, 1:])], 1),
    "a square on the digit 5": lambda z: torch.cat([z[:, :5], z[:, 5:6] ** 2, z[:, 6:]], 1),
    "in place": lambda z: (3 * z).relu_() + z,
    "log-probabilities": lambda z: z.log_softmax(1),
    "products": lambda z: z * z.flip(1),
}


@pytest.mark.parametrize("function", AFTER)
def test_a_function_that_no_module_holds_is_found_whatever_the_target(data, function):
    images, cnn = data[0][:4], bundled.by_seed("digits", "cnn")["seed_0"]
    for target in (0, 3):
        targets = np.full(4, target)
        maps, reasons = saliency.explain(After(cnn, AFTER[function]), images, targets, ["gradient", "deep_lift"])
        assert list(maps) == ["gradient"]
        assert "a module of its own for every non-linear step" in reasons["deep_lift"]
    with pytest.raises(parameters.BadParameter, match="deep_lift"):
        saliency.check_defined(After(cnn, AFTER[function]), "deep_lift", images, np.zeros(len(images), dtype=int))


@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_linear_functions_and_modules_of_ones_own_leave_deep_lift_right(cnn, data, baseline):
    shifted = After(cnn, lambda z: 2 * z.roll(1, 1) - z.mean(1, keepdim=True))
    images, labels = data
    maps, reasons = saliency.explain(shifted, images, labels, ["deep_lift"], {"deep_lift": {"baseline": baseline}})
    assert not reasons
    assert saliency.completeness_residual(shifted, images, labels, maps["deep_lift"], baseline)[0].max() < 1e-5


class Functional(nn.Module):
    """The steps of `Skip` and a maximum, as functions."""

    def __init__(self, like):
        super().__init__()
        self.steps = like

    def forward(self, images):
        for step in self.steps:
            match step:
                case nn.ReLU():
                    images = images.relu()
                case nn.Softplus():
                    images = nn.functional.softplus(images)
                case nn.MaxPool2d():
                    images = nn.functional.max_pool2d(images, step.kernel_size)
                case _:
                    images = step(images)
        return images


@pytest.mark.parametrize("baseline", ["black", "random"])
@pytest.mark.parametrize("order", [(nn.ReLU(), nn.MaxPool2d(2)), (nn.MaxPool2d(2), nn.ReLU()), (nn.Softplus(),)])
def test_the_rule_that_sees_functions_is_the_rescale_rule(data, order, baseline):
    """Against the rule from its definition, in double precision, module by module; and in a saved program."""
    torch.manual_seed(0)
    side = 4 if len(order) == 2 else 8
    layers = nn.Conv2d(1, 3, 3, padding=1), *order, nn.Flatten(), nn.Linear(3 * side**2, 10), nn.Tanh()
    model, (images, labels) = nn.Sequential(*layers).requires_grad_(False), (data[0][:3], data[1][:3])
    base = {"black": 0, "random": np.random.default_rng(0).random((8, 8))}[baseline] + np.zeros((8, 8), np.float32)
    expected = by_rescaling(model, images, labels, base)
    program = torch.export.export(model, (torch.rand(3, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(labels)
    for each in (model, Functional(model), program.module()):
        found = rescale.contributions(each, x, y, torch.tensor(base, dtype=torch.float32)[None, None])
        assert np.abs(found[:, 0].numpy() - expected).sum() < 1e-3 * np.abs(expected).sum()


def test_maps_of_captum_that_are_not_the_rule_are_withheld_though_their_sums_are_right(cnn, data, monkeypatch):
    """Captum as it is, without a tensor of its own for every module."""
    monkeypatch.setattr(saliency, "_inputs_of_their_own", lambda _: contextlib.nullcontext())
    model = bundled.by_seed("digits", "cnn")["seed_0"]
    asked = model, *data, saliency.METHODS, {"expected_gradients": {"background": data[0][:2]}}
    found = saliency.explain(*asked)[1]
    assert "off the rescale rule" in found["deep_lift"]
    assert set(found) == {"deep_lift", "attention_rollout"}
    monkeypatch.undo()
    assert set(saliency.explain(*asked)[1]) == {"attention_rollout"}
