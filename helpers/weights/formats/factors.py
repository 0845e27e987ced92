"""Adapters that hold a few small factors of ΔW for each module, in whatever file: LoRA, LoHa, LoKr, IA3, and DoRA."""

import numpy as np

from helpers.weights import modules, tensors
from helpers.weights.tensors import WeightsError
from helpers.weights.updates import Dense, LowRank, Updates

HALVES = 0.5  # φ of the two halves of A's rows above chance from which on they are taken for trained and initial ones
MOST = 2**30  # numbers of a ΔW that is multiplied out, 8 GB of them
SPOKEN = {"A": "lora_A", "B": "lora_B", "M": "lora_magnitude_vector"}
VECTORS = ("M", "alpha", "ia3_l")


class Adapter(Updates):
    """The updates of an adapter's file, sorted by module.

    A format says in `sort(key, tensor)` (module, factor, the tensor as KINDS has it), or (name, "", why left out), and
    in `scale(name)` (by what the product of factors is multiplied, how that number comes about). held: {module:
    {factor: Tensor}}; "alpha" is among the factors where the file has it for each module.
    """

    def __init__(self, path, base, files, store):
        super().__init__(path, base)
        self.files, self.held = files, {}
        for key, tensor in store.items():
            name, factor, found = self.sort(key, tensor)
            if why := _no_factor(factor, found) if factor else found:
                self.left_out[name] = why
            elif twin := self.held.setdefault(name, {}).get(factor):
                raise self.wrong(f"it holds {twin.key} and {key}, one module: remove one")
            else:
                self.held[name][factor] = found
        for name, of in self.held.items():
            if not self.left_out.get(name):
                self._measure(name, of)
        self.held = {name: self.held[name] for name in self.shapes}
        if not self.held:
            why = "".join(f"; {name}: {why}" for name, why in list(self.left_out.items())[:3])
            raise WeightsError(f"{path} holds no LoRA factors of linear layers (A [r, in] and B [out, r]){why}")
        self._note_converted()

    def read(self, name, of_base, cut):
        """The LowRank of a module; the Dense of one that is no product of A and B."""
        of, (scale, _), (kind, _, product) = self.held[name], self.scale(name), self.kind(name)
        numbers = {factor: tensor.read() for factor, tensor in of.items() if factor != "alpha"}
        unit = max(of[factor].round_off for factor in numbers)
        if kind == "LoRA" and "M" not in of:
            taken = "A" if cut.axis else "B"
            numbers[taken] = cut(numbers[taken])
            return LowRank(numbers["A"], numbers["B"], scale, unit)
        if kind != "IA3" and np.prod(self.shapes[name], dtype=float) > MOST:
            raise self.wrong(f"ΔW of {name} is {self.shapes[name]}, too large to multiply out: compare another module")
        exact = {factor: each.astype(np.float64) for factor, each in numbers.items()}
        delta = scale * product(exact)
        if kind != "IA3" and "M" not in of:
            most = scale * product({factor: np.abs(each) for factor, each in exact.items()})
            return Dense.of(cut(delta), len(numbers) * unit * np.linalg.norm(cut(most)))
        before = self._weight(name, of_base, kind)
        if kind == "IA3" and delta.shape not in ((len(before), 1), (1, before.shape[1])):
            raise self.wrong(
                f"{delta.shape} factors of {name} do not fit a weight of {before.shape}: give its own base"
            )
        after = before * delta if kind == "IA3" else self._rescaled(name, before + delta, numbers["M"])
        return Dense.of(cut(after - before), unit * np.linalg.norm(cut(after)))

    def row(self, name):
        """How a module is read, for `describe`."""
        (_, formula), of, (kind, product, _) = self.scale(name), self.held[name], self.kind(name)
        how = product if kind == "IA3" else f"scale · {product}, r = {self.rank(name)}, scale = {formula}"
        how = f"DoRA: m (W + {how}) / ‖ ‖ − W" if "M" in of else how
        factors = [tensor for factor, tensor in of.items() if factor != "alpha"]
        stored = ", ".join(dict.fromkeys(tensor.kind for tensor in factors))
        return [how, factors[0].file.name, factors[0].key, self.shapes[name] or "", stored]

    def kind(self, name):
        """The row of KINDS that the factors of a module belong to. LookupError where they are of none, or two."""
        found = [row for marks, *row in KINDS if any(factor.startswith(marks) for factor in self.held[name])]
        if len(found) != 1:
            raise LookupError("factors of a single kind")
        return found[0]

    def rank(self, name):
        """r of a module: how many rows the last of its factors has; None where none of them is one of two."""
        of = self.held[name]
        ends = ("A", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
        return next((of[factor].shape[0] for factor in ends if factor in of), None)

    def wrong(self, said):
        """A WeightsError about this adapter."""
        return WeightsError(f"{self.label}: {said}")

    def _measure(self, name, of):
        """Put the shape of ΔW of a module down; where its factors make none, leave it out."""
        import torch  # takes a moment; its meta tensors have shapes and no numbers

        try:
            kind, _, product = self.kind(name)
            made = product({factor: torch.empty(tensor.shape, device="meta") for factor, tensor in of.items()})
            self.shapes[name] = None if kind == "IA3" else tuple(made.shape)
        except LookupError as missing:
            lacks = SPOKEN.get(missing.args[0], missing.args[0])
            self.left_out[name] = f"it has no {lacks}; the adapter file is incomplete, or mixed from several"
        except RuntimeError:
            told = " and ".join(f"{factor} {tensor.shape}" for factor, tensor in of.items())
            self.left_out[name] = f"it has {told}, which do not fit: factors of another rank, or stacked over experts"

    def _weight(self, name, of_base, kind):
        """W of a module, float64, for an update that is made from it."""
        if of_base is None:
            if self.base:
                modules.match(self.base, self)  # may say why
            by = "IA3 rescales W" if kind == "IA3" else f"DoRA rescales the whole W, so ΔW of {name} is not B A"
            raise self.wrong(f"{by}: give its base, which has {name}")
        return self.base.weight(of_base).astype(np.float64)

    def _rescaled(self, name, moved, magnitude):
        """DoRA (Liu et al. 2024): each row of W + ΔW, or each column if the magnitude is [1, in], gets its length."""
        length = magnitude.astype(np.float64)
        length = length if length.ndim == 2 else length.reshape(-1, 1)
        axis = 1 if length.shape[1] == 1 else 0
        norms = np.linalg.norm(moved, axis=axis, keepdims=True)
        if length.shape != norms.shape:
            raise self.wrong(f"{length.size} magnitudes of {name} do not fit W + ΔW, {moved.shape}: save it again")
        if not norms.all():
            raise self.wrong(f"W + ΔW of {name} has a row or column of zeros, which DoRA divides by: compare another")
        return length / norms * moved

    def _note_converted(self):
        """PiSSA, OLoRA and their like, converted to plain LoRA, have [trained; initial] rows as A."""
        for name in [name for name in self.modules() if "A" in self.held[name]][:4]:
            a = self.held[name]["A"]
            rank, width = a.shape
            if rank % 2 or rank >= width:
                continue
            frames = [np.linalg.qr(half.T)[0] for half in np.split(a.read().astype(np.float64), 2)]
            shared, chance = np.square(frames[0].T @ frames[1]).sum() / (rank / 2), rank / 2 / width
            if shared - chance > HALVES * (1 - chance):
                self.notes.append(
                    f"the two halves of A's rows of {name} span nearly the same (φ = {shared:.2f}), as after a "
                    "conversion of PiSSA, OLoRA or the like: one half is then made from W itself, so use factor BA"
                )
                return


def _pair(of, name):
    """A matrix that is held as such, or as the product of two."""
    return of[name] if name in of else of[f"{name}_a"] @ of[f"{name}_b"]


def _hadamard(of):
    one, other = _pair(of, "hada_w1"), _pair(of, "hada_w2")
    if one.shape != other.shape:
        raise RuntimeError("they are not of one shape")
    return one * other


def _kronecker(of):
    one, other = _pair(of, "lokr_w1"), _pair(of, "lokr_w2")
    rows, columns = (one.shape[n] * other.shape[n] for n in (0, 1))
    return (one[:, None, :, None] * other[None, :, None, :]).reshape(rows, columns)


# (how its factors begin, kind, what ΔW is made of in words, the same of the factors). Factors are called as by PEFT and
# LyCORIS: A [r, in], B [out, r], hada_w1_a [out, r], hada_w1_b [r, in], …; M are DoRA's magnitudes.
KINDS = (
    (("A", "B"), "LoRA", "B A", lambda of: of["B"] @ of["A"]),
    ("hada_", "LoHa", "(w1_a w1_b) ∘ (w2_a w2_b)", _hadamard),
    ("lokr_", "LoKr", "w1 ⊗ w2", _kronecker),
    ("ia3_l", "IA3", "W ∘ l − W", lambda of: of["ia3_l"]),
)


def _no_factor(factor, tensor):
    """Why a tensor cannot be a factor of a linear layer, or an empty string."""
    if tensor.kind not in tensors.PLAIN and factor != "alpha":
        return f"{SPOKEN.get(factor, factor)} is stored as {tensor.kind}, quantised: save it in float16"
    if factor in VECTORS and 0 not in tensor.shape:
        return ""
    if 0 in tensor.shape or len(tensor.shape) < 2:
        gathered = "parts of a distributed run were saved before they were gathered"
        return f"{SPOKEN.get(factor, factor)} of shape {tensor.shape}: {gathered}"
    if len(tensor.shape) > 2:
        return f"factors of {len(tensor.shape)} dimensions: a convolution, or stacked over experts"
    return ""
