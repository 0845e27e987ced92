"""Controls for attribution maps: randomised networks, and how like their maps those of the trained network are.

A method is here a function (model, images [n, h, w], targets [n], seed) → maps [n, h, w].
"""

import copy
import sys
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats
from tqdm import tqdm

from helpers.digits import saliency
from helpers.digits.batches import SILENCED, side_by_side

Maps = Float[np.ndarray, "n h w"]
Numbers, Values = Int[np.ndarray, " n"], Float[np.ndarray, " n"]
COPIES = 5  # randomised networks over which the values of single images are averaged


def layers(model):
    """Names of the tensors of every layer, from the output down: [[name, …], …]. A layer is a module with tensors.

    Tensors are parameters and those buffers that hold fractions, such as the running statistics of a batch norm.
    """
    found = {}
    for name in reversed(list(_tensors(model))):
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return list(found.values())


def randomise(model, seed, names=None):
    """A copy of the network in which every tensor's numbers are drawn anew; the network itself stays as it is.

    A tensor's numbers are shuffled among its places: what was learnt is gone, the distribution of the weights stays.
    Where all of a parameter's numbers are one, shuffling changes nothing; noise as large as it is added then (of
    variance 1 to zeros). names: tensors to draw, by default all. Raises ValueError if a parameter did not change, which
    would leave a part of the network trained. Adebayo et al. 2018 draw from the initialisation instead, which a
    network from a file does not tell.
    """
    generator = torch.Generator().manual_seed(seed)
    held = [t for module in model.modules() for t in vars(module).values() if isinstance(t, torch.Tensor)]
    kept = {id(t): t.detach().clone() for t in held if not t.is_leaf}  # a module's last activations: torch copies none
    with SILENCED, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.fx copies itself through names that it has deprecated
        other = copy.deepcopy(model, kept)
    tensors = _tensors(other)
    for name in tensors if names is None else names:
        tensor, before = tensors[name], tensors[name].detach().clone()
        with torch.no_grad():
            tensor.copy_(before.flatten()[torch.randperm(before.numel(), generator=generator)].view_as(before))
            if torch.equal(tensor, before):
                size = before.abs() + (before == 0)
                tensor.add_(size * torch.randn(before.shape, generator=generator))
        if torch.equal(tensor, before):
            raise ValueError(
                f"{name} did not change when it was randomised: a part of the network would stay as trained"
            )
    return other


def rank_similarity(
    maps: Float[np.ndarray, "*several h w"], others: Float[np.ndarray, "... h w"]
) -> Float[np.ndarray, "*several"]:
    """Spearman's rank correlation of each map with its counterpart, [n]; NaN where one is constant.

    others: as many, or one [h, w] to be compared with every map.
    """
    return (_ranks(maps) * _ranks(others)).sum(-1)


def mean_map(several: Float[np.ndarray, "networks n h w"]) -> Maps:
    """Mean of the maps of several networks, each map scaled to sum 1 in size first."""
    size = np.abs(several).sum((2, 3), keepdims=True)
    return (several / np.where(size, size, 1)).mean(0)


def by_captum(names: Sequence[str], options: dict) -> dict[str, Callable]:
    """{name: method}: those of `saliency.attribute`, with their options {name: {option: value}}."""
    return {
        name: lambda model, images, targets, seed, name=name: saliency.attribute(
            model, images, targets, name, **options.get(name, {})
        )
        for name in names
    }


def noise(images: Maps, seed: int) -> Maps:
    """Maps that know nothing of image or network: standard normal. A control that they pass shows nothing."""
    return np.random.default_rng(seed).standard_normal(images.shape)


def null_study(
    model,
    methods: dict[str, Callable],
    images: Maps,
    targets: Numbers,
    labels: Numbers,
    references: dict[str, Float[np.ndarray, "k n h w"]],
    networks: int,
    seed: int,
) -> pd.DataFrame:
    """Randomised copies of a network, method by method and digit by digit: how like its maps theirs are.

    references: {method: k sets of maps}, such as mean maps of other trained networks. networks: how many copies; copy k
    is `randomise`d from (seed, k). A method gets another seed for every copy.

    Returns a DataFrame: network (−1 is the model itself), method, digit (of `labels`); agreement_0 …, the mean rank
    similarity of the signed maps with each reference; signed and absolute, that of the signed maps and of their
    absolute values with the model's own, NaN for a digit all of whose maps are constant; and their mean `complexity`.
    """
    like, own = {method: _ranks(references[method]) for method in methods}, {}

    def asked(network):
        copied, found = model if network < 0 else randomise(model, _seed(seed, network)), []
        for name, method in methods.items():
            maps = method(copied, images, targets, _seed(seed, network + 1))
            signed, absolute = _ranks(maps), _ranks(np.abs(maps))
            own.setdefault(name, (signed, absolute))
            pairs = {f"agreement_{k}": (signed, ranks) for k, ranks in enumerate(like[name])}
            pairs |= {"signed": (signed, own[name][0]), "absolute": (absolute, own[name][1])}
            columns = {column: by_digit((one * other).sum(-1), labels) for column, (one, other) in pairs.items()}
            columns["complexity"] = by_digit(complexity(maps), labels)
            found.append(pd.DataFrame({"network": network, "method": name, "digit": range(10), **columns}))
        return pd.concat(found)

    bar = {"desc": "randomised networks", "mininterval": 2, "leave": False, "file": sys.stdout, "total": networks}
    parts = [asked(-1), *tqdm(side_by_side(asked, range(networks)), **bar)]
    return pd.concat(parts, ignore_index=True)


def complexity(maps: Maps, bins: int = 100) -> Values:
    """Entropy of the histogram of every map's values, in bins from its least to its greatest; 0 if it is constant."""
    values = maps.reshape(len(maps), -1).astype(np.float64)
    low, span = values.min(1, keepdims=True), np.ptp(values, axis=1, keepdims=True)
    place = np.minimum((values - low) / np.where(span, span, 1) * bins, bins - 1).astype(int)
    counts = np.bincount((place + bins * np.arange(len(maps))[:, None]).ravel(), minlength=bins * len(maps))
    return stats.entropy(counts.reshape(-1, bins), axis=1)


def efficient_mprt(model, method: Callable, images: Maps, targets: Numbers, seed: int, copies: int = COPIES) -> Values:
    """By what share the maps' `complexity` rises from the network to copies that are randomised, on average over those.

    Above 0 if the network's maps have an order that maps of random networks lack (eMPRT, Hedström et al. 2024). NaN
    where the network's own map is constant. All images share the network: whether it is simpler than chance is a matter
    of its rank among copies, by `null_p_value` of the complexities in `null_study`, with their signs turned.
    """
    own, *others = (complexity(maps) for maps in _with_copies(model, method, images, targets, seed, copies))
    return np.divide(np.mean(others, 0) - own, own, out=np.full_like(own, np.nan), where=own > 0)


def smooth_mprt(
    model,
    method: Callable,
    images: Maps,
    targets: Numbers,
    seed: int,
    copies: int = COPIES,
    samples: int = 50,
    magnitude: float = 0.1,
) -> Values:
    """Mean rank similarity of the network's maps and those of randomised copies, each averaged over noisy images.

    sMPRT (Hedström et al. 2024), of signed maps: the lower, the more the maps depend on the weights. Those of `noise`
    are near 0 too, so that a low value alone shows nothing. Of the samples all but one have normal noise, of magnitude
    times the image's range; the last is the image itself. Copies whose map is constant are left out; NaN if all are.
    """
    size = magnitude * np.ptp(images, axis=(1, 2), keepdims=True)

    def smoothed(model, images, targets, seed):
        rng = np.random.default_rng(seed)
        noisy = (images + size * rng.standard_normal(images.shape) for _ in range(samples - 1))
        return np.mean([method(model, each.astype(np.float32), targets, seed) for each in (*noisy, images)], axis=0)

    own, *others = _with_copies(model, smoothed, images, targets, seed, copies)
    return known_mean(np.array([rank_similarity(own, other) for other in others]), axis=0)


def layer_study(
    model, method: str, images: Maps, targets: Numbers, seed: int, options: dict, draws: int = 5
) -> pd.DataFrame:
    """What becomes of the maps while the layers are randomised: cascading from the output down, and one at a time.

    Returns a DataFrame: randomised (number of layers from the output down, or the layer's place), how ("cascading" or
    "independent"), layer (its name), signed and absolute (mean rank similarity with the maps of the model, over images
    and draws of the weights), signed ± and absolute ± (standard deviation over draws).
    Source: Adebayo et al. 2018.
    """
    own = saliency.attribute(model, images, targets, method, **options)
    rows, above = [], []
    for place, names in enumerate(layers(model), 1):
        above += names
        for how, chosen in (("cascading", above), ("independent", names)):
            found = []
            for draw in range(draws):
                maps = saliency.attribute(randomise(model, seed + draw, chosen), images, targets, method, **options)
                found.append([_mean_similarity(f(maps), f(own)) for f in (np.asarray, np.abs)])
            mean, spread = np.mean(found, 0), np.std(found, 0, ddof=1)
            rows.append([place, how, _layer_label(model, names[0]), *mean, *spread])
    return pd.DataFrame(rows, columns=["randomised", "how", "layer", "signed", "absolute", "signed ±", "absolute ±"])


def null_p_value(statistic, null):
    """Share of null statistics that reach a statistic, itself counted: (1 + #{null ≥ statistic}) / (N + 1).

    statistic: [...]. null: [N, ...]. The p-value is exact if the statistic is a draw like the others (Phipson & Smyth
    2010); it cannot fall below 1 / (N + 1). A NaN in the null counts as reaching; the p of a NaN statistic is NaN.
    """
    p = (1 + (~(np.asarray(null) < np.asarray(statistic))).sum(0)) / (len(null) + 1)
    return np.where(np.isnan(statistic), np.nan, p)[()]


def similarity_table(
    maps: dict[str, Maps], peers: dict[str, Float[np.ndarray, "networks n h w"]], null: pd.DataFrame, images: Maps
) -> pd.DataFrame:
    """Mean rank similarity of signed maps and of absolute values: with randomised copies, the ink, other networks.

    maps: by method. peers: those of other trained networks. null: from `null_study`. images: the ink. Returns a
    DataFrame: method, with, signed, absolute; NaN where all maps are constant.
    """
    copies = null[null["network"] >= 0].groupby("method")[["signed", "absolute"]].mean()
    rows = []
    for method, own in maps.items():
        rows.append([method, "randomised copies", *copies.loc[method]])
        for name, others in {"the ink": images[None], "other trained networks": peers[method]}.items():
            found = [[_mean_similarity(f(own), f(other)) for f in (np.asarray, np.abs)] for other in others]
            rows.append([method, name, *np.mean(found, 0)])
    return pd.DataFrame(rows, columns=["method", "with", "signed", "absolute"])


def by_digit(values: Values, labels: Numbers) -> Float[np.ndarray, "10"]:
    """Mean of the values over the images of every digit, NaN left out; NaN where nothing is left."""
    return np.array([known_mean(values[labels == digit]) for digit in range(10)])


def _ranks(maps):
    """The ranks of every map's pixels, [..., h, w] → [..., pixels], less their mean and of length 1; NaN if constant.

    The product of two is Spearman's correlation.
    """
    ranks = stats.rankdata(maps.reshape(*maps.shape[:-2], -1), axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)


def known_mean(values, axis=None):
    """Mean without NaN; NaN, and no warning, where nothing is left."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def _mean_similarity(maps, others):
    return known_mean(rank_similarity(maps, others))


def _with_copies(model, method, images, targets, seed, copies):
    """Maps of the network, then of its randomised copies."""
    for k in range(-1, copies):
        copied = model if k < 0 else randomise(model, _seed(seed, k))
        yield method(copied, images, targets, _seed(seed, k + 1))


def _seed(seed, k):
    return seed * 1_000_003 + k


def _layer_label(model, tensor):
    """A layer's name and kind, such as `3 Conv2d`, by one of its tensors."""
    name = tensor.rpartition(".")[0]
    layer = model.get_submodule(name)
    return f"{name} {getattr(layer, 'original_name', type(layer).__name__)}".strip()


def _tensors(model):
    """{name: tensor} in the modules' order: parameters, and buffers that hold fractions of more than one value."""
    found, seen = {}, set()
    for prefix, module in model.named_modules():
        buffers = [(name, t) for name, t in module.named_buffers(recurse=False) if _varies(t)]
        for name, tensor in [*module.named_parameters(recurse=False), *buffers]:
            if tensor.data_ptr() not in seen and not (tensor == -torch.inf).any():  # a mask has learnt nothing
                found[f"{prefix}.{name}".lstrip(".")] = tensor
                seen.add(tensor.data_ptr())
    return found


def _varies(tensor):
    return tensor.is_floating_point() and tensor.numel() and bool(tensor.min() < tensor.max())
