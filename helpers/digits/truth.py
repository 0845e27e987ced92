"""Images whose class hangs on known pixels, networks that know it, and how well attributions find these pixels.

After XAI-TRIS (Clark et al. 2023, arXiv:2306.12816), in the ink of digits: values in [0, 1], 0 is black, no ink. The
class is one of two patterns of four pixels in a square of 3 × 3, a hollow + or a hollow ×, on uniform noise:

- `linear`: 0.15 more ink at a fixed place, on independent noise between 0.2 and 0.5.
- `correlated`: 0.03 more, on smoothed noise: neighbours that carry nothing help to take the noise away.
- `multiplicative`: at a fixed place the noise, here between 0 and 1, keeps 0.15 of its distance from 0.5. The mean ink
  tells nothing.
- `translated`: 0.27 more at any place.
- `distractors`: 0.45 more at any place, and as much in two squares of 2 × 2 that carry nothing.
- `marked_digits`: scikit-learn's digits, with a mark of 2 × 2 pixels in one of the corners; which of its diagonals has
  more ink (0.65 against 0.35, ± 0.2) is the class, and the digit tells nothing.

The strengths are such that a network can know the class, 98 in 100, and needs all of the pattern for it. Where ink is
added, the least of the noise is more than black, so that a map against black can credit a pixel that lacks it.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int64
from numpy.random import Generator
from scipy import ndimage, special, stats
from torch import nn

from helpers.digits import images as ink
from helpers.digits import saliency
from helpers.digits.bundled import restored
from helpers.parameters import PLANTED_TASKS as TASKS
from helpers.parameters import SEEDS
from helpers.paths import of_repository
from helpers.subspaces.nulls import holm

BUNDLED = "data/planted_models"
SIDE = 8
PLUS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
CROSS = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], dtype=bool)
FIXED = (2, 3)  # corner of the square where the place is fixed
ADDED = {"linear": 0.15, "correlated": 0.03, "translated": 0.27, "distractors": 0.45}
BACKGROUND = 10  # images that expected gradients take for absence
MEASURES = ("precision", "mass", "rank")
YARDSTICKS = {  # maps that need no network, from images [n, h, w] and a generator
    "ink": lambda images, _: images,
    "sobel": lambda images, _: np.hypot(ndimage.sobel(images, axis=1), ndimage.sobel(images, axis=2)),
    "laplace": lambda images, _: ndimage.laplace(images, axes=(1, 2)),
    "random": lambda images, rng: rng.random(images.shape),
}


class Planted(NamedTuple):
    """Images of a task, their classes 0 and 1, and the pixels that carry the class in each."""

    images: Float32[np.ndarray, "n 8 8"]
    labels: Int64[np.ndarray, " n"]
    truth: Bool[np.ndarray, "n 8 8"]


def make(task: str, count: int, rng: Generator, held_out: bool = True) -> Planted:
    """`count` images of a task, half of them of either class (of an odd number, one more of class 0).

    The truth is what the likelihood ratio of the classes weighs. Where the place is fixed these are the eight pixels of
    both patterns, since one that lacks its ink tells as much as one that has it. Where it moves they are the four of
    the image's own: the other pattern could be missing anywhere. (So do Clark et al.) Of a mark, all four. held_out:
    whether a marked digit is of a writer that is held out, or of the others, which the networks learnt from. Raises
    ValueError for an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}: expected one of {', '.join(TASKS)}")
    labels = rng.permutation(np.arange(count) % 2)
    if task == "marked_digits":
        return _marked_digits(labels, rng, held_out)
    moves = task in ("translated", "distractors")
    corners = rng.integers(0, SIDE - 2, (count, 2)) if moves else np.tile(FIXED, (count, 1))
    own = _placed(np.where(labels[:, None, None], CROSS, PLUS), corners)
    noise = _smooth_noise(count, rng) if task == "correlated" else rng.random((count, SIDE, SIDE))
    if task == "multiplicative":
        images = 0.5 + (noise - 0.5) * np.where(own, 0.15, 1)
    else:
        bright = own | _squares(corners, rng) if task == "distractors" else own
        images = 0.2 + 0.3 * noise + ADDED[task] * bright
    truth = own if moves else _placed(np.tile(PLUS | CROSS, (count, 1, 1)), corners)
    return Planted(images.astype(np.float32), labels, truth)


def network(seed: int) -> nn.Sequential:
    """A network as it starts, of 5,394 parameters: images [n, 1, 8, 8] → logits [n, 2]. The seed decides its weights.

    Made of modules that DeepLift has rules for. A stride in place of max pooling, which would pass over pixels that
    carry the class where noise is larger.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        ).eval()


def trained(task: str) -> dict[int, nn.Sequential]:
    """{seed: bundled network that knows the task}. Raises WeightsError for a file that is missing or broken."""
    what = "a network for planted truths"
    return {seed: restored(network(0), file, what) for seed, file in zip(SEEDS, files(task), strict=True)}


def files(task: str) -> list:
    """Files of the bundled networks of a task."""
    return [of_repository(BUNDLED) / task / f"seed_{seed}.safetensors" for seed in SEEDS]


class Score(NamedTuple):
    """How well maps find the true pixels, one number an image; in brackets, what a map without knowledge gets.

    precision: share of true pixels among as many of the largest sizes as there are true pixels (their share of all).
    mass: share of the sum of sizes that is on true pixels (the same). rank: probability that a true pixel's size
    exceeds that of another pixel, the area under the ROC curve (0.5).
    """

    precision: Float[np.ndarray, " n"]
    mass: Float[np.ndarray, " n"]
    rank: Float[np.ndarray, " n"]


def score(maps: Float[np.ndarray, "n h w"], truth: Bool[np.ndarray, "n h w"]) -> Score:
    """`Score` of the sizes of maps' values. Ties count by their share, so that a constant map is at chance."""
    sizes, truth = np.abs(maps).reshape(len(maps), -1).astype(np.float64), truth.reshape(len(truth), -1)
    pixels, wanted = truth.shape[1], truth.sum(1)
    least = np.take_along_axis(np.sort(sizes, axis=1), (pixels - wanted)[:, None], axis=1)
    over, tied = sizes > least, sizes == least
    found = (over & truth).sum(1) + (wanted - over.sum(1)) * (tied & truth).sum(1) / tied.sum(1)
    total, ranks = sizes.sum(1), stats.rankdata(sizes, axis=1)
    mass = np.divide((sizes * truth).sum(1), total, out=wanted / pixels, where=total > 0)
    above = (ranks * truth).sum(1) - wanted * (wanted + 1) / 2
    return Score(found / wanted, mass, above / (wanted * (pixels - wanted)))


def scores(
    methods: Sequence[str], count: int = 25, seed: int = 0, options: Mapping[str, Mapping] | None = None
) -> pd.DataFrame:
    """What `table` and `beats` read: mean scores over `count` images that are drawn anew for each task and network.

    methods: names that `saliency.attribute` knows; options: {method: its options}. Expected gradients take images of
    the task for absence, unless given others. Maps are of the logit of the image's class. Returns a DataFrame with a
    row for every task, network (its seed) and method or yardstick: `precision`, `mass`, `rank`, and the same with
    `untrained` before it, of the network as it started (NaN for yardsticks, which need no network); `chance`, the share
    of true pixels.
    """
    rows = []
    for place, task in enumerate(TASKS):
        for start, model in trained(task).items():
            rng = np.random.default_rng([3, seed, place, start])
            images, labels, truth = make(task, count, rng)
            background = {"background": make(task, BACKGROUND, rng, held_out=False).images}
            row = {"task": task, "network": start, "chance": truth.mean()}
            for name, rule in YARDSTICKS.items():
                rows.append(row | {"method": name} | _means(rule(images, rng), truth))
            for name in methods:
                given = (background if name == "expected_gradients" else {}) | dict((options or {}).get(name, {}))
                found = row | {"method": name}
                for prefix, each in {"": model, "untrained ": network(start)}.items():
                    found |= _means(saliency.attribute(each, images, labels, name, **given), truth, prefix)
                rows.append(found)
    return pd.DataFrame(rows)


def table(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of `scores` over the networks and, as `… ±`, their standard deviation; a row for a task and a method."""
    of_one = scores.groupby(["task", "method"], sort=False)
    names = [name for name in scores.columns if name.endswith(MEASURES)]
    spread = of_one[names].std().add_suffix(" ±")
    columns = ["chance", *(name + end for name in names for end in ("", " ±"))]
    return of_one[["chance", *names]].mean().join(spread)[columns].reset_index()


def beats(scores: pd.DataFrame, measure: str = "precision") -> pd.DataFrame:
    """Whether a method finds more than anything that has learnt nothing: p by method (rows) and task (columns).

    p is the largest of those of one-sided paired t tests over the networks against every yardstick and against the
    same method on the networks as they started: it is small only if all of them are beaten (Berger 1982). Corrected by
    Holm over the tasks, method by method.
    """
    wide = scores.pivot(index=["task", "network"], columns="method", values=measure)
    untrained = scores.pivot(index=["task", "network"], columns="method", values=f"untrained {measure}")
    p = {}
    for method in [name for name in scores["method"].unique() if name not in YARDSTICKS]:
        rivals = wide[[*YARDSTICKS]].assign(untrained=untrained[method])
        gaps = (-rivals).add(wide[method], axis=0).groupby("task", sort=False)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = gaps.mean() / gaps.sem()  # 0 / 0, no difference in any network, is no evidence
        of_task = stats.t.sf(t.fillna(-np.inf), gaps.size().to_numpy()[:, None] - 1).max(1)
        p[method] = pd.Series(holm(of_task), t.index)
    return pd.DataFrame(p).T.rename_axis(index="method", columns=None)[list(scores["task"].unique())]


def _means(maps, truth, prefix=""):
    return {prefix + name: values.mean() for name, values in score(maps, truth)._asdict().items()}


def _placed(patterns, corners):
    """Patterns [n, h, w] on empty images [n, 8, 8], each with its upper left pixel at its corner (row, column)."""
    canvas = np.zeros((len(patterns), SIDE, SIDE), dtype=bool)
    own, rows, columns = np.ogrid[tuple(map(slice, patterns.shape))]
    canvas[own, corners[:, 0, None, None] + rows, corners[:, 1, None, None] + columns] = patterns
    return canvas


def _smooth_noise(count, rng):
    """Noise [n, 8, 8] that is uniform between 0 and 1 in each pixel, and alike in neighbours."""
    margin = 4
    rough = rng.standard_normal((count, SIDE + 2 * margin, SIDE + 2 * margin))
    inner = (slice(None), slice(margin, -margin), slice(margin, -margin))
    kernel = ndimage.gaussian_filter(np.eye(1, 2 * margin + 1, margin)[0], 1)
    return special.ndtr(ndimage.gaussian_filter(rough, 1, axes=(1, 2))[inner] / (kernel @ kernel))


def _squares(corners, rng):
    """Two squares of 2 × 2 [n, 8, 8] that leave the pattern's square of 3 × 3 free; they may overlap each other."""
    places = np.argwhere(np.ones((SIDE - 1, SIDE - 1)))
    gaps = places - corners[:, None]
    free = ((gaps <= -2) | (gaps >= 3)).any(-1)
    chosen = (rng.random(free.shape) + ~free).argsort(1)[:, :2]
    square = np.ones((len(corners), 2, 2), dtype=bool)
    return _placed(square, places[chosen[:, 0]]) | _placed(square, places[chosen[:, 1]])


@cache
def _split_digits():
    data = ink.load("digits")
    return tuple(data.images[indices] for indices in ink.hold_out(data))


def _marked_digits(labels, rng, held_out):
    digits = rng.choice(_split_digits()[int(held_out)], len(labels))
    corners = rng.choice([0, SIDE - 2], (len(labels), 2))
    truth = _placed(np.ones((len(labels), 2, 2), dtype=bool), corners)
    inked = _placed(np.eye(2, dtype=bool) ^ labels.astype(bool)[:, None, None], corners)
    mark = np.where(inked, 0.65, 0.35) + rng.uniform(-0.2, 0.2, inked.shape)
    return Planted(np.where(truth, mark, digits).astype(np.float32), labels, truth)
