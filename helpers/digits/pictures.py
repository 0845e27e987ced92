"""The pictures of notebook 03: what a network reads, the ten maps on a grid, and two conditions side by side."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats
from sklearn.metrics import confusion_matrix

from helpers.digits import controls, faithful, grids, saliency
from helpers.digits.inputs import Inputs, Picture
from helpers.values import Nothing, computed

DRAWS = 1000  # swaps of sides behind the comparison's intervals
REPORTED = ["8 × 8", "7 × 7", "7 × 6"]  # grids that its readers saw
TARGETS = {"label": "the image's label", "predicted": "the network's answer"}
OUTPUTS = {"logit": "logit", "log_probability": "log-probability", "probability": "probability"}


class Compared(NamedTuple):
    """Two pictures, half-widths of their differences' intervals, and which of these exclude 0.

    shared: how much of the two is in common; alike: their rank correlation.
    """

    one: Picture
    other: Picture
    widths: Picture
    differ: Bool[np.ndarray, "10 rows columns"]
    shared: float
    alike: float


class Pictures(Inputs):
    """What a network reads, and what its maps look like. See `Inputs` for what is asked, and what is refused."""

    @computed()
    def reading(self):
        """How the network is fed, and what is asked of it: what, how."""
        p, lacking = self.parameters, self.opened.lacking
        told = {
            **self.opened.read,
            "explained": f"the {self.output} of {TARGETS.get(p.target, f'the digit {p.target}')}",
        }
        told |= {f"digit {digit}": f"undecided: {reason}" for digit, reason in lacking.items()}
        return pd.DataFrame(told.items(), columns=["what", "how"])

    @property
    def notes(self):
        """What a reader must see of the network: sentences."""
        return self.opened.notes

    @property
    def output(self):
        """What is explained, in a word."""
        return OUTPUTS[getattr(self.opened.network, "explains", "logit")]

    @computed()
    def withheld(self):
        """Methods that are not right for this network and these images: method, why."""
        rows = [[m, maps.reason] for m, maps in self.maps.items() if isinstance(maps, Nothing)]
        return pd.DataFrame(rows, columns=["method", "why"])

    @computed()
    def accuracy(self):
        """Share of the images seen that each network reads right: network, accuracy; that under study first."""
        truth, rows = self.data.labels[self.seen], {"under study": self.scores}
        rows |= {
            name: self.read(readers, self.seen)
            for name, readers in {**self.peers, **self.others}.items()
            if name != self.architecture
        }
        return pd.DataFrame(
            [[n, (s.argmax(1) == truth).mean()] for n, s in rows.items()], columns=["network", "accuracy"]
        )

    @computed()
    def scores(self) -> Float[np.ndarray, "m 10"]:
        """Probabilities of the images seen, by the network under study."""
        return self.read(self.readers, self.seen)

    @computed()
    def right(self):
        """Share of the images seen that are read right: share, ± (standard error, over units), images."""
        right = self.scores.argmax(1) == self.data.labels[self.seen]
        units = self.seen if self.data.writers is None else self.data.writers[self.seen]
        error = stats.sem(faithful.by_unit(right.astype(float), units))
        return pd.Series({"share": right.mean(), "error": error, "images": len(right)})

    @property
    def unit(self):
        """What statistics count."""
        return "images" if self.data.writers is None else "writers"

    @computed()
    def confusion(self) -> Int[np.ndarray, "10 10"]:
        """Images seen by label and answer."""
        return confusion_matrix(self.data.labels[self.seen], self.scores.argmax(1), labels=range(10))

    @computed()
    def commonest_error(self):
        """The pair of digits that is confused most, in words."""
        errors = self.confusion * (1 - np.eye(10, dtype=int))
        label, answer = np.unravel_index(errors.argmax(), errors.shape)
        return f"commonest error ({errors.max()}): {label} read as {answer}" if errors.any() else "no error"

    @computed()
    def worst(self):
        """The eight images whose label got the least probability: place (in the data set), label, answer, given."""
        labels = self.data.labels[self.seen]
        given = self.scores[np.arange(len(labels)), labels]
        least = given.argsort()[:8]
        columns = {"place": self.seen, "label": labels, "answer": self.scores.argmax(1), "given": given}
        return pd.DataFrame({name: values[least] for name, values in columns.items()})

    @computed("own")
    def picture(self) -> Picture:
        """The ten maps together; they sum to 1."""
        return self.drawn(self.own)

    @computed()
    def ink(self):
        """The same of the images themselves."""
        return self.drawn(self.images)

    @computed("picture")
    def shown(self):
        """The ten maps as they are drawn: together they sum to 1, or each does (normalisation)."""
        return self.drawn(self.own, self.parameters.normalisation)

    @computed("shown")
    def brightest(self):
        """The brightest cell drawn."""
        return self.shown.max()

    @computed("picture")
    def like_ink(self):
        """Mean rank correlation of the picture's panels with the digits' mean ink."""
        return controls.known_mean(controls.rank_similarity(self.picture, self.ink))

    @computed()
    def peaks(self):
        """Brightest cell when all ten maps sum to 1, by method and grid; the share of absolute mass that is kept."""
        p, rows = self.parameters, []
        sizes = dict.fromkeys([self.images.shape[1:], (8, 8), (7, 7), (7, 6), (p.rows, p.columns)])
        for method in self.offered:
            for size in sizes:
                laid, kept = grids.on_grid(self.maps[method], *size)
                peak = grids.joint_normalise(grids.class_means(laid, self.labels)).max()
                rows.append([method, "{} × {}".format(*size), peak, kept, 1 / np.prod(size)])
        columns = ["method", "grid", "brightest cell", "mass kept", "mean if a panel sums to 1"]
        return pd.DataFrame(rows, columns=columns)

    @computed("own")
    def nearest(self):
        """Brightest cell of the method of the pictures on the grids that were reported."""
        by_grid = self.peaks.query("method == @self.parameters.method").set_index("grid")["brightest cell"]
        return by_grid.loc[REPORTED]

    @computed("own")
    def completeness(self):
        """How far the sums of maps are from the change of the output that a complete method accounts for.

        off, share (of the change): medians; worst: the largest; promise: whether the method promises it.
        """
        method = self.parameters.method
        absence = self.options[method].get("background", self.absence)
        found = [
            saliency.completeness_residual(network, self.images[own], self.targets[own], self.own[own], absence)
            for network, own in self.parts(self.readers)
        ]
        residual, change = (np.concatenate(each) for each in zip(*found, strict=True))
        moves = change != 0
        share = np.median(residual[moves] / np.abs(change[moves])) if moves.any() else np.nan
        promise = "promises" if method in saliency.COMPLETE else "does not promise"
        return pd.Series({"off": np.median(residual), "share": share, "worst": residual.max(), "promise": promise})

    @computed()
    def compared(self):
        """The two conditions side by side, a `Compared`."""
        laid = [self.laid(self.attributed(*side)) for side in self.sides]
        one, other = (grids.joint_normalise(grids.class_means(each, self.labels)) for each in laid)
        widths = faithful.paired_intervals(*laid, self.labels, self.units, DRAWS, self.rng(3))[1]
        alike = controls.rank_similarity(one.reshape(1, 10, -1), other.reshape(1, 10, -1))[0]
        return Compared(one, other, widths, np.abs(one - other) > widths, np.minimum(one, other).sum(), alike)

    @computed()
    def compared_by_digit(self):
        """The same digit by digit: cells that differ, the largest difference and its half-width."""
        two = self.compared
        gap = np.abs(two.one - two.other).reshape(10, -1)
        largest, widths = gap.argmax(1), two.widths.reshape(10, -1)
        table = pd.DataFrame({"digit": range(10), "cells that differ": two.differ.sum((1, 2))})
        return table.assign(**{"largest difference": gap.max(1), "its half-width": widths[range(10), largest]})
