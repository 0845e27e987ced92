"""Controls for attribution maps: randomised networks, rank similarity, deletion and insertion, intervals, p-values."""

import copy
import sys
import warnings

import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm import tqdm

from helpers.digits import networks, saliency
from helpers.subspaces.nulls import holm

LEVEL = 0.05
VERDICTS = {  # (learnt, better than the ink by deletion, by insertion)
    (True, True, True): "the model",
    (True, True, False): "the model, by deletion but not by insertion",
    (True, False, True): "the model, by insertion but not by deletion",
    (True, False, False): "learnt, but not shown to be better than the ink",
    (False, True, True): "faithful, but not shown to be learnt",
    (False, True, False): "faithful by deletion, but not shown to be learnt",
    (False, False, True): "faithful by insertion, but not shown to be learnt",
    (False, False, False): "not shown to be more than the ink",
}
POINTS = 64  # steps of a deletion curve; an image with fewer pixels loses one pixel a step


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.fx copies itself through names that it has deprecated
        other = copy.deepcopy(model)
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


def rank_similarity(maps, others):
    """Spearman's rank correlation of each map with its counterpart, [n]; NaN where one is constant.

    maps, others: [n, h, w], or [h, w] to be compared with every map.
    """
    maps, others = np.broadcast_arrays(maps, others)
    ranks = [stats.rankdata(each.reshape(len(each), -1), axis=1) for each in (maps, others)]
    one, other = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))


def mean_map(several):
    """Mean of the maps of several networks, [networks, n, h, w] → [n, h, w], each map scaled to sum 1 in size first."""
    size = np.abs(several).sum((2, 3), keepdims=True)
    return (several / np.where(size, size, 1)).mean(0)


def replacement_curve(model, start, end, targets, maps, rng, points=POINTS):
    """Probability of the target while the pixels of `start` are replaced by those of `end`: [n, steps + 1].

    start, end: [n, h, w] or [h, w]. The order is that of falling `maps` [n, h, w]; ties fall at random, so maps that
    are all zero give a random order. Deletion: from image to baseline (Petsiuk et al. 2018, Samek et al. 2017);
    insertion: from baseline to image.
    """
    maps = np.asarray(maps)
    count, pixels = len(maps), maps[0].size
    start, end = (torch.from_numpy(np.array(np.broadcast_to(side, maps.shape), np.float32)) for side in (start, end))
    order = np.lexsort((rng.random((count, pixels)), -maps.reshape(count, -1)), axis=1)
    rank = torch.from_numpy(order.argsort(1).reshape(maps.shape))
    replaced = torch.linspace(0, pixels, min(points, pixels) + 1).round()[:, None, None]
    mixed = torch.where(rank[:, None] < replaced, end[:, None], start[:, None])
    scores = networks.logits(model, mixed.flatten(0, 1)).softmax(1).unflatten(0, mixed.shape[:2])
    return scores[range(count), :, torch.as_tensor(targets)].numpy()


def area(curve):
    """Area under curves [n, steps + 1] over a width of 1: [n]."""
    return np.trapezoid(curve, dx=1 / (curve.shape[1] - 1), axis=1)


def null_study(model, methods, images, labels, references, networks, seed, options):
    """Randomised copies of a network, method by method and digit by digit: how like its maps theirs are.

    methods: names. images [n, h, w], labels [n]. references: {method: maps [n, h, w]} of other trained networks.
    networks: how many copies; copy k is `randomise`d from (seed, k). options: {method: options of `attribute`}.

    Returns a DataFrame: network (−1 is the model itself), method, digit; agreement, the mean rank similarity of the
    signed maps with the references; signed and absolute, that of the signed maps and of their absolute values with
    the model's own.
    """
    own, found = {}, []
    for network in tqdm(range(-1, networks), desc="randomised networks", mininterval=2, leave=False, file=sys.stdout):
        copied = model if network < 0 else randomise(model, seed * 1_000_003 + network)
        for method in methods:
            maps = saliency.attribute(copied, images, labels, method, **options.get(method, {}))
            own.setdefault(method, maps)
            columns = {
                "agreement": by_digit(rank_similarity(maps, references[method]), labels),
                "signed": by_digit(rank_similarity(maps, own[method]), labels),
                "absolute": by_digit(rank_similarity(abs(maps), abs(own[method])), labels),
            }
            found.append(pd.DataFrame({"network": network, "method": method, "digit": range(10), **columns}))
    return pd.concat(found, ignore_index=True)


def layer_study(model, method, images, labels, seed, options, draws=5):
    """What becomes of the maps while the layers are randomised: cascading from the output down, and one at a time.

    Returns a DataFrame: randomised (number of layers from the output down, or the layer's place), how ("cascading" or
    "independent"), layer (its name), signed and absolute (mean rank similarity with the maps of the model, over images
    and draws of the weights), signed ± and absolute ± (standard deviation over draws).
    Source: Adebayo et al. 2018.
    """
    own = saliency.attribute(model, images, labels, method, **options)
    rows, above = [], []
    for place, names in enumerate(layers(model), 1):
        above += names
        for how, chosen in (("cascading", above), ("independent", names)):
            found = []
            for draw in range(draws):
                maps = saliency.attribute(randomise(model, seed + draw, chosen), images, labels, method, **options)
                found.append([_mean_similarity(f(maps), f(own)) for f in (np.asarray, np.abs)])
            mean, spread = np.mean(found, 0), np.std(found, 0, ddof=1)
            rows.append([place, how, _layer_label(model, names[0]), *mean, *spread])
    return pd.DataFrame(rows, columns=["randomised", "how", "layer", "signed", "absolute", "signed ±", "absolute ±"])


def null_p_value(statistic, null):
    """Share of null statistics that reach a statistic, itself counted: (1 + #{null ≥ statistic}) / (N + 1).

    statistic: [...]. null: [N, ...]. The p-value is exact if the statistic is a draw like the others (Phipson & Smyth
    2010); it cannot fall below 1 / (N + 1). A NaN in the null counts as reaching; a NaN statistic is reached by all.
    """
    return (1 + (~(np.asarray(null) < statistic)).sum(0)) / (len(null) + 1)


def similarity_table(maps, peers, null, images):
    """Mean rank similarity of signed maps and of absolute values: with randomised copies, the ink, other networks.

    maps: {method: [n, h, w]}. peers: {method: maps of other trained networks [networks, n, h, w]}. null: from
    `null_study`. images: [n, h, w], the ink. Returns a DataFrame: method, with, signed, absolute.
    """
    copies = null[null["network"] >= 0].groupby("method")[["signed", "absolute"]].mean()
    rows = []
    for method, own in maps.items():
        rows.append([method, "randomised copies", *copies.loc[method]])
        for name, others in {"the ink": [images], "other trained networks": peers[method]}.items():
            found = [[_mean_similarity(f(own), f(other)) for f in (np.asarray, np.abs)] for other in others]
            rows.append([method, name, *np.mean(found, 0)])
    return pd.DataFrame(rows, columns=["method", "with", "signed", "absolute"])


def faithfulness(models, images, absence, labels, maps, rng):
    """Deletion and insertion curves by method, and those of the order of the ink and of a random one.

    models: {method: network}, the first of which the random order is tried on. images [n, h, w]; absence: [h, w], what
    pixels are replaced by. maps: {method: [n, h, w]}. Returns ({"deletion" or "insertion": {method, "ink" or "random":
    curves [n, steps + 1]}}, table) with a DataFrame: method, and for deletion and for insertion the mean area, `− ink`
    the mean paired difference from the order of the ink on the same network, ± its standard error, and p of a one-sided
    paired t test (deletion below, insertion above that of the ink), corrected by Holm over the methods.
    """
    curves, rows, ink = {"deletion": {}, "insertion": {}}, [], {}
    for name, ends in {"deletion": (images, absence), "insertion": (absence, images)}.items():
        for method, model in models.items():
            curves[name][method] = replacement_curve(model, *ends, labels, maps[method], rng)
            if (name, model) not in ink:
                ink[name, model] = replacement_curve(model, *ends, labels, images, rng)
        first = next(iter(models.values()))
        curves[name]["ink"] = ink[name, first]
        curves[name]["random"] = replacement_curve(first, *ends, labels, np.zeros_like(images), rng)
    for method, model in models.items():
        row = {"method": method}
        for name, better in {"deletion": "less", "insertion": "greater"}.items():
            areas = area(curves[name][method])
            gaps = areas - area(ink[name, model])
            row |= {name: areas.mean(), f"{name} − ink": gaps.mean(), f"{name} ±": stats.sem(gaps)}
            row[f"{name} p"] = stats.ttest_1samp(gaps, 0, alternative=better).pvalue
        rows.append(row)
    table = pd.DataFrame(rows)
    for name in curves:
        table[f"{name} p"] = holm(table[f"{name} p"])
    return curves, table


def verdict_table(null, faithful, tested):
    """Every method: is what its maps show learnt, and is it more faithful than the order of the ink?

    null: from `null_study`. faithful: the table of `faithfulness`. tested: whether p-values were asked for. Returns a
    DataFrame: method, agreement (with other trained networks), learnt p (Holm over methods; NaN if not tested or if the
    null has too few networks for any p to be below 0.05), deletion p and insertion p, about (the answer in words).
    """
    pooled = null.groupby(["method", "network"])["agreement"].mean()
    table = pd.DataFrame({"method": faithful["method"]})
    table["agreement"] = [pooled[method, -1] for method in table["method"]]
    p = [null_p_value(pooled[method, -1], pooled[method].drop(-1)) for method in table["method"]]
    tested = tested and len(p) / (null["network"].nunique()) < LEVEL
    table["learnt p"] = holm(p) if tested else np.nan
    table = table.join(faithful[["deletion p", "insertion p"]])
    answers = zip(*(table[name] < LEVEL for name in ("learnt p", "deletion p", "insertion p")), strict=True)
    table["about"] = [VERDICTS[answer] for answer in answers]
    if not tested:
        table["about"] += " (whether it is learnt was not tested)"
    return table


def by_digit(values, labels):
    """Mean of values [n] over the images of every digit, NaN left out: [10]."""
    return np.array([np.nanmean(values[labels == digit]) for digit in range(10)])


def class_mean_draws(maps, labels, draws, rng):
    """Jointly normalised class means, then those of bootstrap samples: [1 + draws, 10, rows, columns].

    maps: non-negative, [n, rows, columns]. Images are drawn anew within each digit.
    """
    means = np.empty((1 + draws, 10, *maps.shape[1:]))
    for digit in range(10):
        own = maps[labels == digit]
        chosen = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=draws) / len(own)
        means[0, digit], means[1:, digit] = own.mean(0), np.tensordot(chosen, own, 1)
    return means / means.sum((1, 2, 3), keepdims=True)


def paired_intervals(one, other, labels, draws, rng, level=0.95):
    """Difference of two sets of class means, and half-widths of intervals that hold for all of its cells at once.

    one, other: non-negative maps of the same images, [n, rows, columns]; each set counts in shares of its class means'
    sum, taken as fixed. Returns (difference, half-widths), [10, rows, columns] each. All half-widths are the same
    multiple of their cell's standard error: the quantile of the largest |t| of all cells when the two maps of every
    image are swapped at random. If swapping changes nothing, some interval excludes 0 in 1 − level of cases (max-t test
    of Westfall & Young 1993). labels: [n], every digit at least twice.
    """
    shares = [side / saliency.class_means(side, labels).sum() for side in (one, other)]
    gaps = (shares[0] - shares[1]).reshape(len(labels), -1)
    means, errors, largest = [], [], np.zeros(draws)
    for digit in range(10):
        own = gaps[labels == digit]
        flips = rng.choice([-1.0, 1.0], (draws, len(own)))
        means.append(own.mean(0))
        errors.append(_standard_error(own, means[-1]))
        swapped = flips @ own / len(own)
        largest = np.maximum(largest, _ratio(np.abs(swapped), _standard_error(own, swapped)).max(1))
    widths = np.quantile(largest, level) * np.array(errors)
    return tuple(np.reshape(part, (10, *one.shape[1:])) for part in (means, widths))


def _standard_error(values, mean):
    """Standard error of means [..., cells] of values [n, cells], whose squares do not depend on their signs."""
    count = len(values)
    return np.sqrt(np.clip((values**2).mean(0) - mean**2, 0, None) / (count - 1))


def _ratio(top, bottom):
    """top / bottom, 0 where both vanish to within rounding."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=top > 1e-12)


def _mean_similarity(maps, others):
    return np.nanmean(rank_similarity(maps, others))


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
            if tensor.data_ptr() not in seen:
                found[f"{prefix}.{name}".lstrip(".")] = tensor
                seen.add(tensor.data_ptr())
    return found


def _varies(tensor):
    return tensor.is_floating_point() and tensor.numel() and bool(tensor.min() < tensor.max())
