"""What fine-tuning added to a module: ΔW = scale · B A, or a whole difference; and all updates of one adapter."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from helpers.weights import modules
from helpers.weights.architectures import WHOLE
from helpers.weights.tensors import WeightsError


@dataclass(frozen=True)
class LowRank:
    """ΔW = scale · b @ a. a: [r, in], b: [out, r]. stored_precision: unit round-off of a and b as stored."""

    a: np.ndarray
    b: np.ndarray
    scale: float
    stored_precision: float

    @property
    def shape(self):
        """(out, in)."""
        return self.b.shape[0], self.a.shape[1]

    def delta(self):
        """ΔW, [out, in] float64."""
        return self.scale * (self.b.astype(np.float64) @ self.a)


@dataclass(frozen=True)
class Dense:
    """ΔW as a whole. difference: [out, in] float64.

    stored_precision: what storing may have changed, relative to ΔW, both in the Frobenius norm: for W′ − W it is
    (u‖W‖ + u′‖W′‖) / ‖ΔW‖ with the unit round-offs u of the two files; for others see the `read` of their format.
    """

    difference: np.ndarray
    stored_precision: float

    @classmethod
    def of(cls, difference, error):
        """error: what storing may have changed, in the Frobenius norm; of all zeros it says nothing."""
        size = np.linalg.norm(difference)
        return cls(difference, float(error / size) if size else 0.0)

    @property
    def shape(self):
        """(out, in)."""
        return self.difference.shape

    def delta(self):
        """ΔW, [out, in] float64."""
        return self.difference


class Updates:
    """The updates of one adapter, or of one fine-tuned model, read one module at a time.

    A format says in `read(name, of_base, cut)` what the LowRank or Dense of a module, or of the part of it that `cut`
    takes, is, in `row(name)` how it is read, and in `shapes` {module: (out, in)}. path: where it lies. label: its name
    in sentences. base: the `Base` that it belongs to, or None. files: those that are read. left_out: {name: why} of
    what the files hold besides. notes: sentences that a reader must see.
    """

    def __init__(self, path, base=None):
        self.path, self.label, self.base = path, path.name, base
        self.files, self.shapes, self.left_out, self.notes = [], {}, {}, []

    def modules(self):
        """Names of the modules that it changes, as in its file but for wrappers' parts, sorted."""
        return sorted(self.shapes)

    def shape(self, module):
        """(out, in), without reading the numbers; None where they cannot be read."""
        name, cut = self._place(module)
        return cut.shape(self.shapes[name]) if self.shapes[name] else None

    def find(self, module):
        """Full name of `module`, a full name or an unambiguous suffix, or the base's name of it: see `modules.find`.

        What follows in brackets, a part of a fused projection or a head, is kept: see `Layout.cut`.
        """
        name, cut = self._place(module)
        return name + cut.text

    def update(self, module):
        """The LowRank or Dense of `module`. Raises NoSuchModule; WeightsError for what cannot be read right, and where
        the base's weight of that module has another shape."""
        name, cut = self._place(module)
        self._refuse_misfit(name)
        return self.read(name, self.in_base.get(name), cut)

    def delta(self, module):
        """ΔW of `module`, [out, in] float64: what is added to the weight."""
        return self.update(module).delta()

    def untrained_a(self, module):
        """A of `module` before its training, [r, in]; None where it is not known."""
        return None

    def describe(self):
        """DataFrame, one row a module: how it is read; then what is left out and why, and the notes."""
        lacking = "–" if self.base else ""
        rows = [[name, self.in_base.get(name, lacking), *self._row_or_why(name)] for name in self.modules()]
        rows += [[name, "", f"left out: {why}", "", "", "", ""] for name, why in self.left_out.items()]
        rows += [["", "", f"note: {note}", "", "", "", ""] for note in self.notes]
        columns = ["module", "in the base", "how it is read", "file", "key", "[out, in]", "stored as"]
        return pd.DataFrame(rows, columns=columns)

    def _refuse_misfit(self, name):
        of_base = self.in_base.get(name)
        own, expected = self.shapes[name], self.base.shape(of_base) if of_base else None
        if own and expected and own != expected:
            ours, theirs = (f"{out} × {width}" for out, width in (expected, own))
            at = f"{self.label} adds a {theirs} matrix to {name}, but {of_base} of {self.base.label} has {ours}"
            raise WeightsError(f"{at}: they belong to different models, or one was resized; give its own base")

    def _row_or_why(self, name):
        """How a module is read, or why not."""
        try:
            self._refuse_misfit(name)
            return self.row(name)
        except WeightsError as error:
            return [f"not read: {error}", "", "", self.shapes[name] or "", ""]

    @cached_property
    def pairs(self):
        """{module of the base: name here}; empty without a base, and where they do not match: see `modules.match`."""
        try:
            return modules.match(self.base, self) if self.base else {}
        except WeightsError as error:
            self.notes.append(str(error))
            return {}

    @cached_property
    def in_base(self):
        """{module: the base's name of it}, of those that the base has."""
        return {name: ours for ours, name in self.pairs.items()}

    def _place(self, module):
        """(name of a module, the Cut that takes the part of it in brackets)."""
        stem, part = (module, "") if module in self.shapes else modules.split_part(module)
        name = stem if stem in self.shapes else self.pairs.get(stem)
        if name is None:
            beside = ", ".join(f"{name!r} ({why})" for name, why in list(self.left_out.items())[:6])
            more = f"; not read in it: {beside}" if beside else ""
            name = modules.find(stem, self.modules(), self.label, more)
        if not part:
            return name, WHOLE
        of_base = self.in_base.get(name)
        shape = of_base and (self.shapes[name] or self.base.shape(of_base))
        if not shape:
            why = f"{self.base.label} does not tell" if self.base else "only its base tells"
            raise WeightsError(f"where [{part}] of {name} of {self.label} lies, {why}: give its base")
        return name, self.base.layout.cut(of_base, shape, part)
