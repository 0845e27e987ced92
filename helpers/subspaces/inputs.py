"""A model and its adapters at one module, opened and checked; the directions of each matrix, decomposed once.

Matrices come from `weights`; each is decomposed once and remembered while its holder lives.
"""

from functools import lru_cache
from typing import SupportsIndex as Index
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from jaxtyping import Float64

from helpers import weights
from helpers.parameters import BadParameter
from helpers.subspaces import directions, haar
from helpers.subspaces.compared import Compared
from helpers.subspaces.directions import Decomposition, Directions, Rounding
from helpers.weights import WeightsError, modules

COARSE = 2**-12  # unit round-off from which on what storing W did to φ is drawn
KEPT = 256  # directions of a matrix that are remembered on either side, unless more are asked for: see `_of_weight`
_memory = WeakKeyDictionary()


class Inputs(Compared):
    """A model and its adapters at one module, with the directions of each.

    parameters, opened: as in `compared.Compared`, which it is. Raises WeightsError where they cannot be compared.
    """

    def __init__(self, parameters, opened=None):
        super().__init__(parameters, opened)
        for n, (updates, name) in enumerate(zip(self.updates, self.names, strict=True)):
            if not self.directions(self.module, n, parameters.factor).vectors.shape[1]:
                raise WeightsError(lost_in_rounding(updates.label, name))

    @property
    def inputs(self) -> pd.DataFrame:
        """How the module was read, of the base and of each adapter, and its Frobenius norm."""
        told = ["module", "how it is read", "file", "[out, in]", "stored as"]
        sizes = [self.decomposition(self.module, n).size for n in range(len(self.updates))]
        holders = list(zip(self.updates, self.names, sizes, strict=True))
        if self.base:
            holders.insert(0, (self.base, self.module, np.linalg.norm(self.base.weight(self.module))))
        rows = []
        for holder, name, size in holders:
            table, (whole, _) = holder.describe(), modules.split_part(name)
            _, how, file, _, stored = table.loc[table["module"] == whole, told].iloc[0]
            rows.append([holder.label, name, how, file, holder.shape(name) or "", stored, size])
        return pd.DataFrame(rows, columns=["from", *told, "‖·‖"])

    @property
    def notes(self) -> list[str]:
        """What a reader must see of how the files were read: sentences."""
        return super().notes + [
            f"{updates.label} is a whole ΔW, of which the first {KEPT} directions are taken"
            for n, updates in enumerate(self.updates)
            if not isinstance(self.here[n], weights.LowRank) and self.rank(self.module, n) == KEPT
        ]

    def top(self, module: str, k: Index, side: str = "right") -> Directions:
        """The k leading Directions of the base's weight of a module."""
        return weight_directions(self.base, module, k, side)

    def has(self, module: str, k: Index) -> int:
        """How many of k directions the base's weight of a module has, as its rank allows."""
        found, stored = _of_weight(self.base, self.base.find(module), k)
        return min(k, found.rank(stored.usual))

    def directions(self, module: str, n: Index, factor: str = "A", side: str = "right") -> Directions:
        """All Directions of the n-th update at a module; none, [·, 0], where it adds nothing."""
        return update_directions(self.updates[n], self.common[module][n], factor, side)

    def rank(self, module: str, n: Index) -> int:
        """The rank r of the n-th update at a module; of a whole ΔW how many directions stand above rounding."""
        r = _of_update(self.updates[n], self.common[module][n], self.factors[0])[-1]
        return r or self.directions(module, n, "BA").vectors.shape[1]

    def decomposition(self, module: str, n: Index) -> Decomposition:
        """That of ΔW of the n-th update at a module; its factors are not multiplied out."""
        found, _, scale, _ = _of_update(self.updates[n], self.common[module][n], "BA")
        return found.scaled(scale)

    def redrawn(self, k: Index, side: str, draws: Index, rng: np.random.Generator) -> list[Directions]:
        """The k leading Directions of the module's weight as it may have been before it was stored, drawn a few times.

        Every number is moved evenly within its step: of floats the largest that it can be (`Base.steps`). Empty where
        that is finer than 2⁻¹² of each number, which `Directions.errors` covers.
        """
        unit = self.base.round_off(self.module)
        if unit is not None and unit <= COARSE:
            return []
        weight, steps = self.base.weight(self.module), self.base.steps(self.module)
        moved = (weight + steps * rng.uniform(-0.5, 0.5, weight.shape) for _ in range(draws))
        return [directions.top_directions(matrix, k, side) for matrix in moved]

    def redrawn_update(self, n: Index, factor: str, side: str, rng: np.random.Generator) -> Directions | None:
        """Directions of the n-th update's A or B A as it may have been before it was stored; None where as `redrawn`.

        Of a whole ΔW they are not drawn: what storing W and W′ did to it is bounded.
        """
        update = self.here[n]
        if not isinstance(update, weights.LowRank) or update.stored_precision <= COARSE:
            return None
        a, b = (m * (1 + update.stored_precision * rng.uniform(-1, 1, m.shape)) for m in (update.a, update.b))
        if factor == "A":
            return directions.top_directions(a, min(a.shape), side)
        return directions.low_rank_directions(b, a, side, 0.0)

    def untrained(self, module: str, n: Index) -> Directions | None:
        """Directions of A before training, of the n-th update at a module, or None where it is not known."""
        updates, name = self.updates[n], self.common[module][n]
        seen = _memory.setdefault(updates, {})
        if (name, "untrained") not in seen:
            a = updates.untrained_a(name)
            seen[name, "untrained"] = None if a is None else directions.top_directions(a, None)
        return seen[name, "untrained"]


@lru_cache(16)
def random_adapter(r: Index, d: Index, seed: Index) -> Float64[np.ndarray, "{d} {r}"]:
    """Directions of a random A, the paper's random panel: see `haar.gaussian_factor`."""
    return directions.top_directions(haar.gaussian_factor(r, d, np.random.default_rng(seed)), None).vectors


def weight_directions(base: weights.Base, module: str, k: Index, side: str = "right") -> Directions:
    """The k leading Directions of the weight of a module; it is decomposed once, unless more are asked for later.

    Its rounding as stored counts as far as float32 goes; what coarser storing may do to φ is drawn, not bounded.
    """
    found, stored = _of_weight(base, base.find(module), k)
    if k > (rank := found.rank(stored.usual)):
        raise BadParameter(
            f"last_i = {k} rows asked for, but the weight of {base.find(module)} has rank {rank}: last_i at most that"
        )
    return found.directions(k, side, stored)


def _of_weight(base, name, k):
    """`decomposed_weight` of a module, remembered: for whatever k it is decomposed three times at most."""
    seen = _memory.setdefault(base, {})
    if name not in seen or seen[name][0].right.shape[1] < k:
        seen[name] = decomposed_weight(base.weight(name), k)
    return seen[name]


def decomposed_weight(weight: np.ndarray, k: Index) -> tuple[Decomposition, Rounding]:
    """(Decomposition with at least k directions, its Rounding) of a weight [out, in].

    It has 256 directions or an eighth of all there are, a quarter of them, or all.
    """
    least, stored = min(weight.shape), directions.rounding(weight)
    most = next((size for size in (min(max(KEPT, least // 8), least), least // 4) if size >= k), least)
    return _kept(weight, most, k, stored), stored


def with_floor(found: Decomposition, stored: Rounding) -> Decomposition:
    """A Decomposition of which no direction counts that does not rise above the rounding of storing."""
    return found._replace(floor=max(found.floor, stored.usual))


def lost_in_rounding(label: str, name: str) -> str:
    """What is said of an update that is not zero and has no directions. label, name: of adapter and module."""
    return (
        f"what {label} adds to {name} does not rise above the rounding of its files, so it has no directions: choose "
        "another module, or files that are stored more finely"
    )


def update_directions(updates: weights.Updates, module: str, factor: str = "A", side: str = "right") -> Directions:
    """All Directions of what an adapter adds to a module, or of its A; of a whole ΔW the first 256 at most.

    [·, 0] where it adds nothing. Raises WeightsError for factor A of a whole ΔW, ValueError for the left side of A.
    """
    if factor == "A" and side == "left":
        raise ValueError(
            'side "left" with factor "A", whose left directions lie in R^r: use factor "BA", or side "right"'
        )
    found, stored, *_ = _of_update(updates, updates.find(module), factor)
    count = min(found.rank(stored.usual), found.right.shape[1])
    if not count:
        one = found.right if side == "right" else found.left
        return directions.Directions(one[:, :0], found.values[:0], 0.0, np.zeros(0))
    return found.directions(count, side, stored)


def _of_update(updates, name, factor):
    """(Decomposition of B A or of A, its Rounding, scale of ΔW, r or None of a whole ΔW); decomposed once."""
    seen = _memory.setdefault(updates, {})
    if (name, factor) not in seen:
        update = updates.update(name)
        if isinstance(update, weights.Dense) and factor == "A":
            raise WeightsError(f"{updates.label} gives a whole ΔW, which has no factor A: use factor BA")
        stored = update_rounding(update, factor)
        if isinstance(update, weights.Dense):
            most = min(KEPT, *update.shape)
            seen[name, factor] = _kept(update.difference, most, None, stored), stored, 1.0, None
        elif factor == "A":
            seen[name, factor] = decomposed_a(update), stored, 1.0, len(update.a)
        else:
            found = directions.decompose_product(update.b, update.a)
            seen[name, factor] = found, stored, update.scale, len(update.a)
    return seen[name, factor]


def decomposed_a(update: weights.LowRank) -> Decomposition:
    """That of A, with all of its directions."""
    return directions.decompose(update.a, min(update.a.shape), "svd")


def update_rounding(update: weights.LowRank | weights.Dense, factor: str) -> Rounding:
    """The Rounding of A or, with factor "BA", of B A, without its scale; of a whole ΔW that of it."""
    if isinstance(update, weights.Dense):
        return directions.rounding(update.difference, update.stored_precision)
    if factor == "A":
        return directions.rounding(update.a, update.stored_precision)
    return directions.rounding_of_product(update.b, update.a, update.stored_precision)


def _kept(matrix, k, needed, stored):
    """The decomposition of a matrix, with k directions on either side, of which those needed are exact."""
    if not matrix.any():
        zero = [np.zeros((side, 1)) for side in matrix.shape]
        return directions.Decomposition(zero[0], np.zeros(1), zero[1], 0.0, 0.0, 0.0)
    found = directions.decompose(matrix, k, needed=needed, usual=stored.usual)
    return found._replace(left=found.left[:, :k].copy(), right=found.right[:, :k].copy())
