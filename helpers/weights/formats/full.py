"""Whole models: ΔW = W′ − W of a model that was fine-tuned without an adapter."""

import numpy as np

from helpers.weights.base import Base
from helpers.weights.modules import match
from helpers.weights.tensors import IsModel, WeightsError
from helpers.weights.updates import Dense, Updates


class Full(Updates):
    """The difference of a fine-tuned model and its base, module by module: of those that both have."""

    def __init__(self, path, base=None):
        super().__init__(path, base)
        if base is None:
            raise IsModel(f"{path} is a whole model, whose ΔW is its difference from its base: give the base, too")
        if path.resolve() == base.path.resolve():
            raise WeightsError(f"{path} is the base itself: give the model that was fine-tuned from it")
        self.tuned = Base(path, base.config)
        self.files, self.left_out = self.tuned.files, dict(self.tuned.left_out)
        self.pairs, self._told = match(base, self.tuned), self.tuned.describe().set_index("module")
        self.shapes = {name: self.tuned.shape(name) for name in self.pairs.values()}
        lone = sorted(set(self.tuned.modules()) - self.shapes.keys())
        self.left_out |= dict.fromkeys(lone, "the base has no such module")

    def read(self, name, of_base, cut):
        """The Dense of a module; all zeros where training left it as it was."""
        ours, theirs = of_base + cut.text, name + cut.text
        difference = self.tuned.weight(theirs).astype(np.float64) - self.base.weight(ours)
        return Dense.of(difference, self.base.rounding(ours) + self.tuned.rounding(theirs))

    def row(self, name):
        """How a module is read, for `describe`."""
        return [f"W′ − W; W′ {self._told.loc[name].iloc[0]}", *self._told.loc[name].iloc[1:5]]
