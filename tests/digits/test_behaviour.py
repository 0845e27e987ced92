"""Classifiers with one trait each: those that can be explained are as the plain network, all others are refused."""

import collections
import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from helpers import digits
from helpers.digits import classifiers, controls, saliency
from helpers.parameters import BadParameter, DigitSaliency
from helpers.weights import WeightsError

given = None  # the network that a test gives, as `tests.digits.test_behaviour:given`
OWN = {"model": "tests.digits.test_behaviour:given"}


@pytest.fixture(scope="module")
def data():
    return digits.load("digits")


@pytest.fixture
def opened(monkeypatch, data):
    """Open a network as someone's own, with parameters."""

    def open_it(network, **parameters):
        monkeypatch.setattr("tests.digits.test_behaviour.given", lambda: network)
        return classifiers.opened(DigitSaliency.parse({**OWN, **parameters}), data)

    return open_it


class Around(nn.Module):
    """A network with a step before it and one after it."""

    def __init__(self, network, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x):
        return self.after(self.network(self.before(x)))


class Keeping(Around):
    """Keeps its last input, with the graph, and counts its calls: neither changes an answer."""

    def __init__(self, network):
        super().__init__(network)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("last", torch.zeros(10))

    def forward(self, x):
        z = self.network(x)
        self.kept, self.last, self.calls = z * 1.0, z.detach()[0], self.calls + 1
        return z


class Masked(Around):
    """Adds a parameter that is −inf where softmax is to be 0."""

    def __init__(self, network):
        super().__init__(network)
        self.mask = nn.Parameter(torch.eye(2).log())

    def forward(self, x):
        one, _ = self.mask.softmax(1)[0]
        return one * self.network(x)


def normed(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network[3] = nn.utils.weight_norm(network[3])
    network[8] = nn.utils.parametrizations.weight_norm(network[8])
    return network


def output(z):
    return collections.OrderedDict(loss=None, logits=z, hidden_states=(z, z + 1))


Answer = collections.namedtuple("Answer", ["scores", "answer"])
LIKE_THE_PLAIN_ONE = {
    "itself": (lambda n: n, {}),
    "named tuple": (lambda n: Around(n, after=lambda z: Answer(z, z.argmax(1))), {}),
    "nested": (lambda n: Around(n, after=lambda z: ([z, z[:, :3]], {"x": z[:, 0]})), {}),
    "as of transformers": (lambda n: Around(n, after=output), {}),
    "keeps activations": (Keeping, {}),
    "mask": (Masked, {}),
    "norms of weights": (normed, {}),
    "no batch of one": (lambda n: Around(n, after=lambda z: z.squeeze(0)), {}),
    "double": (lambda n: Around(n.double(), after=lambda z: z * 1.0), {}),
    "its own double": (lambda n: Around(n.double(), before=lambda x: x.double(), after=lambda z: z.float()), {}),
    "inverted": (lambda n: Around(n, before=lambda x: 1 - x), {"invert": True}),
    "to 255": (lambda n: Around(n, before=lambda x: x / 255), {"input_range": "0-255"}),
    "scaled": (lambda n: Around(n, before=lambda x: x * 0.3 + 0.1), {"input_mean": 0.1, "input_std": 0.3}),
    "all of these": (
        lambda n: Around(n, before=lambda x: 1 - (x * 100 + 50) / 255),
        {"invert": True, "input_range": "0-255", "input_mean": 50, "input_std": 100},
    ),
    "margin": (
        lambda n: Around(n, before=lambda x: x[:, :, 2:10, 1:9]),
        {"input_rows": 12, "input_columns": 11, "pad": True},
    ),
    "resized": (
        lambda n: Around(n, before=lambda x: x[:, :, ::3, ::2][:, :, :8, :8]),
        {"input_rows": 24, "input_columns": 16},
    ),
    "colours": (lambda n: Around(n, before=lambda x: x[:, 2:]), {"channels": 3}),
    "order": (lambda n: Around(n, after=lambda z: z[:, [8, 5, 4, 9, 1, 7, 6, 3, 2, 0]]), {"class_order": "8549176320"}),
}


@pytest.mark.parametrize("case", LIKE_THE_PLAIN_ONE)
def test_what_can_be_explained_is_as_the_plain_network(case, plain, opened, data):
    make, parameters = LIKE_THE_PLAIN_ONE[case]
    network, *_, lacking, notes, accuracy = opened(make(copy.deepcopy(plain)), **parameters)
    assert not lacking
    held = digits.hold_out(data)[1]
    x, y = data.images[held], data.labels[held]
    if case == "resized":  # its pixels are interpolated
        assert accuracy > 0.8
        return
    assert accuracy == digits.accuracy(plain, x, y)
    assert not notes
    for method in ("gradient", "integrated_gradients"):
        maps = [saliency.attribute(each, x[:20], y[:20], method) for each in (network, plain)]
        np.testing.assert_allclose(*maps, atol=1e-4 * np.abs(maps[1]).max())
    kept = [digits.accuracy(controls.randomise(network, seed), x, y) for seed in range(5)]
    assert np.mean(kept) <= 0.35
    assert digits.accuracy(network, x, y) == accuracy  # asking it, and copying it, changed nothing


class Counting(Around):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.network(x) * (1 + 1e-4 * self.calls)


class Warming(Around):
    """A temperature in a buffer, that each call moves by a millionth."""

    def __init__(self, network):
        super().__init__(network)
        self.register_buffer("heat", torch.tensor(1.0))

    def forward(self, x):
        self.heat = self.heat * (1 - 1e-6)
        return self.network(x) / self.heat


class Hoarding(Around):
    """Keeps its first answer to a number of images."""

    def __init__(self, network):
        super().__init__(network)
        self.answers = {}

    def forward(self, x):
        return self.answers.setdefault(len(x), self.network(x).detach()) + 0 * self.network(x)


class Partly(nn.Module):
    """The network is in a dict of lists of tuples."""

    def __init__(self, network):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 1.01]))
        self.weights = {"all": [(network[0], network)]}

    def forward(self, x):
        return self.weights["all"][0][1](x) * self.scale.mean()


class Packed(nn.Module):
    """All weights in integers of 16 bits."""

    def __init__(self, network):
        super().__init__()
        self.scale, self.rest = nn.Parameter(torch.tensor([1.0, 1.001])), [network]
        for key, tensor in network.state_dict().items():
            self.register_buffer(key.replace(".", "_"), (4096 * tensor).to(torch.int16))

    def forward(self, x):
        tensors = {key: getattr(self, key.replace(".", "_")) / 4096 for key in self.rest[0].state_dict()}
        return self.scale.mean() * torch.func.functional_call(self.rest[0], tensors, x)


class Unseen(nn.Module):
    """All is done by what a closure holds."""

    def __init__(self, network):
        super().__init__()
        self.bias, self.rule = nn.Parameter(torch.tensor([0.0, 0.001])), lambda x: network(x)

    def forward(self, x):
        return self.rule(x) + self.bias.mean()


def hooked(network):
    other = copy.deepcopy(network)
    network.register_forward_hook(lambda _, inputs, __: other(*inputs))
    return network


class Without(Around):
    @torch.no_grad()
    def forward(self, x):
        return self.network(x)


class Segments(Around):
    def forward(self, x):
        hidden = checkpoint(self.network[:3], x, use_reentrant=True)
        return self.network[3:](hidden)


def silent(network, *classes):
    """A network in which ReLU lets nothing through to some classes."""
    shift = torch.zeros(10)
    shift[list(classes)] = -1e6
    return Around(network, after=lambda z: torch.where(shift < 0, (z + shift).relu(), z))


REFUSED = {
    "softmax": (lambda n: Around(n, after=lambda z: z.softmax(1)), {}, "gives probabilities .* set explains to prob"),
    "log-softmax": (lambda n: Around(n, after=lambda z: (z.log_softmax(1),)), {}, "set explains to log_probability"),
    "sigmoids as logs": (
        lambda n: Around(n, after=lambda z: z.sigmoid()),
        {"explains": "log_probability"},
        "between 0 and 1 .*: set explains to probability$",
    ),
    "noise": (lambda n: Around(n, after=lambda z: z + 0.01 * torch.randn_like(z)), {}, "gives other outputs each time"),
    "counts": (Counting, {}, "changes between calls .*no buffer"),
    "warms": (Warming, {}, r"changes between calls \(heat moves"),
    "hoards": (Hoarding, {}, "depends on the other images of its batch"),
    "mean of the batch": (lambda n: Around(n, after=lambda z: z - 0.1 * z.mean(0)), {}, "on the other images of its"),
    "place in the batch": (
        lambda n: Around(n, after=lambda z: z * torch.linspace(1, 1.1, len(z))[:, None]),
        {},
        "depends on the other images of its batch",
    ),
    "log of ink": (lambda n: Around(n, before=lambda x: x.log()), {}, "not finite, at 100% of the held-out images"),
    "a class of minus infinity": (
        lambda n: Around(n, after=lambda z: z.masked_fill(torch.arange(10) == 4, -torch.inf)),
        {},
        r"not finite, at 100% of the held-out images \(digits 4,",
    ),
    "over its maximum": (lambda n: Around(n, before=lambda x: x / x.amax((2, 3), True)), {}, "set baseline to mean"),
    "root of ink": (lambda n: Around(n, before=lambda x: x.sqrt()), {}, "gradient of your network is not finite"),
    "threshold": (lambda n: Around(n, before=lambda x: (x > 0.4).float()), {}, "in steps"),
    "bytes": (lambda n: Around(n, before=lambda x: (255 * x).byte() / 255), {}, "in steps"),
    "no_grad": (Without, {}, "save it without torch.no_grad"),
    "numpy": (lambda n: Around(n, after=lambda z: torch.from_numpy(z.numpy())), {}, "numpy.*: compute it all by torch"),
    "checkpoints": (Segments, {}, "use_reentrant=False"),
    "dict of modules": (Partly, {}, "copies of .* still give .* weights is a plain dict"),
    "integers": (Packed, {}, r"copies of .* still give .* 0_weight holds integers \(int16\)"),
    "closure": (Unseen, {}, "copies of .* still give .* rule is a plain function"),
    "hook": (hooked, {}, "copies of .* still give .* has hooks"),
    "nothing": (lambda n: Around(nn.Flatten(), after=lambda x: 3 * x[:, 20:30]), {}, "no parameters to randomise"),
    "no channels": (lambda n: Around(n, before=lambda x: x.unsqueeze(1).view(-1, 1, *x.shape[1:3])
                    if x.ndim == 3 else 1 / None), {}, r"takes \[n, 8, 8\], without channels: .*x\[:, 0\]"),
    "colours last": (lambda n: Around(n, before=lambda x: x.movedim(3, 1)[:, [2]][:, :, :8, :8]
                     if x.shape[3] == 3 else 1 / None), {}, r"takes \[n, 8, 8, 3\], channels last"),
    "too many colours": (lambda n: n, {"channels": 3}, "takes 1 channels: set channels to 1"),
    "flat and larger": (lambda n: nn.Linear(784, 10), {}, r"takes flat images \[n, 784\]: .* input_columns to 28"),
    "larger": (lambda n: nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), {}, "set input_rows and input_columns to 16"),
    "oblong": (lambda n: nn.Sequential(nn.Flatten(), nn.Linear(120, 10)), {}, "set input_rows and input_columns to"),
    "seven classes": (lambda n: Around(n, after=lambda z: z[:, :7]), {}, r"gives \[2, 7\] for 2 images: expected one"),
    "two of ten": (lambda n: Around(n, after=lambda z: (z, -z)), {}, r"gives \[2, 10\] and \[2, 10\] for 2 images"),
    "no tensor": (lambda n: Around(n, after=lambda z: z.tolist()), {}, "gives a list for 2 images"),
    "black on white": (lambda n: Around(n, before=lambda x: 1 - x), {}, "to 9.*set invert to true|set invert to true"),
    "white on black": (lambda n: n, {"invert": True}, "set invert to false"),
    "of 0 to 16": (lambda n: Around(n, before=lambda x: x / 16), {}, "input_mean to 0.0 and input_std to 0.0625"),
    "of 0 to 255": (lambda n: Around(n, before=lambda x: x / 255), {}, "set input_range to 0-255"),
    "two at once": (lambda n: Around(n, before=lambda x: 1 - x / 255), {}, "invert to true and input_range to 0-255"),
    "rolled": (lambda n: Around(n, after=lambda z: z.roll(1, 1)), {}, "100% with class_order 9012345678: set class"),
    "alphabetical": (
        lambda n: Around(n, after=lambda z: z[:, [8, 5, 4, 9, 1, 7, 6, 3, 2, 0]]),
        {"class_order": "1234567890"},
        "set class_order to 8549176320",
    ),
    "transposed": (lambda n: Around(n, before=lambda x: x.mT), {}, "with rows and columns swapped"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_explained_is_refused_in_a_sentence_that_says_what_to_do(case, plain, opened):
    make, parameters, message = REFUSED[case]
    with pytest.raises((WeightsError, BadParameter), match=message) as refusal:
        opened(make(copy.deepcopy(plain)), **parameters)
    assert "\n" not in str(refusal.value)
    assert ": " in str(refusal.value)
    if "explains" in str(refusal.value):
        assert "the logit of" not in str(refusal.value)


def test_classes_that_are_never_answered_are_named_and_the_others_go_on(plain, opened):
    found = opened(silent(copy.deepcopy(plain), 0, 8))
    assert sorted(found.lacking) == [0, 8]
    assert all("constant" in reason for reason in found.lacking.values())
    assert "reads only" in found.notes[-1]


@pytest.mark.parametrize("explains", ["probability", "log_probability"])
def test_what_is_explained_is_the_same_however_the_network_ends(explains, plain, opened, data):
    images, labels = data.images[:40], data.labels[:40]
    ends = [lambda z: z, lambda z: z.log_softmax(1), lambda z: z.softmax(1)]
    networks = [opened(Around(copy.deepcopy(plain), after=end), explains=explains).network for end in ends]
    assert {network.explains for network in networks} == {explains}
    expected = digits.logits(plain, images).log_softmax(1)
    expected = expected.exp() if explains == "probability" else expected
    for network in networks:
        torch.testing.assert_close(digits.logits(network, images), expected, atol=1e-5, rtol=1e-3)
    maps = [saliency.attribute(network, images, labels, "input_x_gradient") for network in networks]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-4 * np.abs(maps[0]).max())


def test_a_saturated_network_is_said_to_be(plain, opened):
    found = opened(Around(copy.deepcopy(plain), after=lambda z: 100 * torch.sigmoid(20 * z)))
    assert "saturated" in found.notes[0]
    assert not opened(copy.deepcopy(plain)).notes


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_where_the_network_lets_us(kind, plain, opened):
    found = opened(copy.deepcopy(plain).to(kind))
    assert found.read["precision"] == f"{str(kind).removeprefix('torch.')}, computed in float32"
    own = Around(copy.deepcopy(plain).to(kind), before=lambda x: x.to(kind))
    assert opened(own).read["precision"] == str(kind).removeprefix("torch.")


def test_a_network_that_knows_nothing_is_taken_with_a_word(opened):
    found = opened(digits.untrained("cnn", 8, 0))
    assert found.accuracy < 0.3
    assert "reads only" in found.notes[-1]
    assert "inverted ink, a margin" in found.notes[-1]
