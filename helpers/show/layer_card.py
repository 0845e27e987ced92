"""A card of one module of a model, laid out once and changed as a slider walks the layers."""

import numpy as np
import seaborn as sns
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from helpers.parameters import BadParameter
from helpers.show import words
from helpers.show.figures import DPI, Figure, legend, logarithmic, looks, named, over_decades, value_range
from helpers.subspaces.intruders import EPSILON
from helpers.weights.modules import short_name

OVER_CHANCE = {  # {label: columns of the value, of chance and of z}
    r"$\phi$: A": ("phi_a", "chance_a", "z_a"),
    r"$\phi$: BA, right": ("phi_ba_right", "chance_ba_right", "z_ba_right"),
    r"$\phi$: BA, left": ("phi_ba_left", "chance_ba_left", "z_ba_left"),
    "energy: in": ("energy_in", "energy_in_chance", "energy_in_z"),
    "energy: out": ("energy_out", "energy_out_chance", "energy_out_z"),
}
FAINTEST = 1e5  # the spectrum's scale ends where singular values are so many times smaller than the greatest


class LayerCards:
    """The explorer of notebook 05: of one module and by adapter the spectrum of ΔW, φ and energy over chance, cosines.

    atlas: a `subspaces.ModelAtlas`. The card is laid out once; the values of all modules fix its scales, so that a step
    changes none. There is none where no module has `details`.
    """

    def __init__(self, atlas):
        self.atlas, rows, p = atlas, atlas.rows, atlas.parameters
        self.choice, self.called = atlas.choice, f"{p.factor}, {p.side}"
        value, chance, z = (rows[list(names)].to_numpy(float) for names in zip(*OVER_CHANCE.values(), strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = (value - chance) / z / chance
        self.values, self.spread = value / chance, np.where(np.isfinite(spread), spread, np.nan)
        self.at = rows.groupby(["layer", "projection"]).indices
        self.details = {key: each for key, each in atlas.details.items() if len(each.spectrum) and _top(each) > 0}
        if self.details:
            self._lay_out(list(atlas.labels))
            self._scale()
            own = [key in self.details for key in zip(rows["module"], rows["adapter"], strict=True)]
            most = rows[own].sort_values("ratio", ascending=False).iloc[0]
            self.start = {"layer": most["layer"], "projection": most["projection"]}

    def _lay_out(self, adapters):
        styles, many = looks(adapters), len(adapters)
        lines = -(-(many + 3) // 5)
        below = 0.15 + 0.2 * lines
        height = 3.9 + below
        self.figure = Figure(figsize=(10.6, height), dpi=DPI)
        sides = {"left": 0.07, "right": 0.985, "bottom": (0.55 + below) / height, "top": 1 - 0.7 / height}
        grid = self.figure.add_gridspec(1, 3, width_ratios=[1, 1.1, 1], wspace=0.42, **sides)
        self.spectrum, self.over, self.cosines = (self.figure.add_subplot(cell) for cell in grid)
        self.lines, self.dots, self.cosine_dots, self.bands = {}, {}, {}, {}
        for name, look in styles.items():
            line = {"markersize": 4, "linewidth": 0.9, "animated": True, **look}
            self.bands[name] = self.over.add_collection(LineCollection([], color="0.78", linewidth=3, animated=True))
            self.lines[name] = self.spectrum.plot([], [], label=named(name), **line)[0]
            self.dots[name] = self.over.plot([], [], **line | {"linestyle": "", "markersize": 5})[0]
            self.cosine_dots[name] = self.cosines.plot([], [], **line | {"linestyle": ""})[0]
        grey = {"color": "0.4", "linewidth": 0.8}
        self.spectrum.axhline(1, **grey)
        self.over.axvline(1, **grey)
        limit = self.cosines.axhline(EPSILON, linestyle="--", **grey)
        limit.set_label(f"ε = {EPSILON:g}, below it an intruder")
        self.title = self.figure.text(0.5, 1 - 0.1 / height, "", ha="center", va="top", fontsize="large", animated=True)
        self.title.set_parse_math(False)
        said = [Line2D([], [], label="chance", **grey), limit]
        said.insert(1, Line2D([], [], color="0.78", linewidth=3, label="± 2 standard deviations of it"))
        legend(self.figure, [*self.lines.values(), *said], ncols=5, loc="lower center")
        sns.despine(self.figure)

    def _scale(self):
        spectra = [each.spectrum / _top(each) for each in self.details.values()]
        over = np.concatenate([self.values, 1 + 2 * self.spread])
        k = max(len(each.cosines) for each in self.details.values())
        every = np.concatenate([*spectra, [1.0]])
        logarithmic(self.spectrum, "x", np.arange(1, max(map(len, spectra)) + 1))
        logarithmic(self.spectrum, "y", every[every > every.max() / FAINTEST])
        self.spectrum.set(title=r"spectrum of $\Delta W$", xlabel="$k$", ylabel=r"singular value / $\Vert W\Vert_2$")
        low, high = value_range([over, 1.0])
        if over_decades([low, high]):
            logarithmic(self.over, "x", over)
        else:
            self.over.set_xlim(min(0, low), 1.05 * high)
        self.over.set(title="over chance", xlabel="value / chance", ylim=(len(OVER_CHANCE) - 0.5, -0.5))
        self.over.set_yticks(range(len(OVER_CHANCE)), OVER_CHANCE)
        self.cosines.set(title="leading directions", xlabel=r"left direction of $W + \Delta W$", ylim=(0, 1.04))
        self.cosines.set(ylabel="largest |cosine| with one of $W$", xlim=(0.4, k + 0.6))
        self.cosines.set_xticks(range(1, k + 1, 1 + k // 12))

    def draw(self, layer, projection):
        """The card, its line of numbers, and no cells. Raises BadParameter where there is nothing to show."""
        if (layer, projection) not in self.at:
            raise BadParameter(f"layer {layer} has no {projection} that an adapter changes")
        here = self.at[layer, projection]
        rows = self.atlas.rows.iloc[here]
        module = rows["module"].iloc[0]
        details = {name: self.details[module, name] for name in rows["adapter"] if (module, name) in self.details}
        if not details:
            raise BadParameter(f"{module}: {'; '.join(dict.fromkeys(rows['why']))}")
        over = dict(zip(rows["adapter"], zip(self.values[here], self.spread[here], strict=True), strict=True))
        for n, name in enumerate(self.lines):
            self._show(name, (n + 0.5) / len(self.lines) - 0.5, details.get(name), over.get(name))
        self.title.set_text(f"{short_name(module)}, layer {layer}: what each update is")
        return self.figure, self.line(module, rows[rows["adapter"].isin(details)]) + _whys(rows), None

    def _show(self, name, beside, detail, over):
        """Change what the card has of an adapter. beside: where it stands among the others, −0.5 … 0.5."""
        spectrum, cosines = (detail.spectrum / _top(detail), detail.cosines) if detail else ([], [])
        self.lines[name].set_data(range(1, len(spectrum) + 1), spectrum)
        self.cosine_dots[name].set_data(np.arange(1, len(cosines) + 1) + 0.6 * beside, cosines)
        places = np.arange(len(OVER_CHANCE)) + 0.7 * beside
        values, spread = over or np.full((2, len(places)), np.nan)
        self.dots[name].set_data(values, places)
        ends = zip(1 - 2 * spread, 1 + 2 * spread, places, strict=True)
        self.bands[name].set_segments([[(low, y), (high, y)] for low, high, y in ends if np.isfinite(high)])

    def line(self, module, rows):
        """The numbers of a module in words."""
        names = list(rows["adapter"])
        counts = zip(rows["intruders"], rows["intruders_expected"], names, strict=True)
        line = (
            f"{module}: ‖ΔW‖ / ‖W‖ = {words.readings(rows['ratio'], names, 3)}; directions that hold 90 %: "
            f"{words.readings(rows['k90'], names, 0)}; intruders: "
            + ", ".join(f"{words.number(n, 0)} for {words.number(e, 1)} expected ({name})" for n, e, name in counts)
        )
        rows = rows[rows[f"phi_{self.choice}"].notna()]
        i, j, phi, z = (rows[f"{name}_{self.choice}"] for name in ("i", "j", "phi", "z"))
        if not len(rows):
            return f"{line}. There is no φ of {self.called}."
        return (
            f"{line}. {self.called} at i = {words.span(i, 0)}, j = {words.span(j, 0)}: "
            f"φ = {words.readings(phi, rows['adapter'], 4)}; z = {words.readings(z, rows['adapter'], 1)}."
        )


def _top(detail):
    """‖W‖₂ of a module, 0 where it is not known."""
    return detail.weight_spectrum[0] if len(detail.weight_spectrum) else 0.0


def _whys(rows):
    """What is missing in some rows, as sentences after others."""
    told = zip(rows["adapter"], rows["why"], strict=True)
    return "".join(f" {why}." if name in why else f" {name}: {why}." for name, why in told if why)
