"""Heatmaps of φ, and φ over layers: data → figures. Nothing is computed here beyond the layout."""

import re

import numpy as np
import seaborn as sns
from matplotlib.colors import Normalize
from matplotlib.transforms import blended_transform_factory

from helpers.show.figures import DPI, Figure, finished, fitted, legend, subplots, value_range
from helpers.show.words import p_value
from helpers.subspaces.study import PRIME, adapter_names
from helpers.values import passing
from helpers.weights.modules import role

QUANTITIES = {
    "phi": r"$\phi$: mean $\cos^2$ of the principal angles",
    "excess": r"$\phi$ − chance",
    "z": "$z$: standard deviations above chance",
}
LEAST_Z = 4  # a scale of z that ends lower would show noise in full colour


def phi_titles(module, factor, ranks):
    """Titles in the paper's notation for the adapters of these ranks and for the random panel."""
    weight = f"W_{{{_index(module)}}}" if role(module) else "W"
    adapters = [_adapter_symbol(factor, name) for name in adapter_names(ranks)]
    return [
        *(rf"$\phi({weight}, {adapter}, i, j)$" for adapter in adapters),
        rf"$\phi({weight}, A_{{rand}}, i, j)$",
    ]


def _index(module):
    """What stands below the W of a module: its role and, of a head, its number."""
    head = re.search(r"head (\d+)\]$", module)
    return role(module) + (rf",\mathrm{{h}}{head[1]}" if head else "")  # five titles stand side by side


def pair_title(module, factor, one, other):
    """Title for two adapters, named as `adapter_names` does, at one module."""
    one, other = _adapter_symbol(factor, one), _adapter_symbol(factor, other)
    return rf"$\Delta W_{{{_index(module)}}}$: $\phi({one}, {other}, i, j)$"


@passing
def full_and_triangle(grids, factor, names):
    """Panels of figure 3: every module's whole grid, then the part j ≤ i of the square that the smaller adapter allows.

    grids: {module: φ [r small, r large]}. names: of the two adapters.
    """
    panels = pair_panels(grids, factor, names)
    for module, grid in grids.items():
        square = grid[:, : len(grid)]
        zoom = np.where(np.tri(*square.shape, dtype=bool), square, np.nan)
        panels[rf"$\Delta W_{{{_index(module)}}}$: $j \leq i$"] = zoom
    return panels


@passing
def pair_panels(grids, factor, names, random=None):
    """Panels of two adapters, a module each: {title: grid}; last, where it is given, that of two random subspaces."""
    panels = {pair_title(module, factor, *names): grid for module, grid in grids.items()}
    return panels if random is None else panels | {"two random subspaces": random}


@passing
def region_view(table):
    """Region table for reading: one row per region, one column per panel, `φ (chance)` in the cells."""
    cells = table.assign(
        cell=[f"{phi:.3f} ({chance:.3f})" for phi, chance in zip(table["phi"], table["chance"], strict=True)]
    )
    return (
        cells.pivot(index=["region", "i"], columns="panel", values="cell")
        .loc[list(dict.fromkeys(table["region"])), list(dict.fromkeys(table["panel"]))]
        .reset_index()
    )


class PhiRow:
    """Grids over i (down) and j (across) side by side on one colour scale; laid out once, then changed by `show`.

    count: number of grids. own_rows: whether the grids have other rows than their neighbours. below: height in inches
    of a row of axes under them. What moves is animated, so that a slider's step draws that alone.
    """

    def __init__(self, count, own_rows=False, below=0.0):
        width, height = 2.1 + 1.75 * count, 4.0 + below
        self.figure = Figure(figsize=(width, height), dpi=DPI)
        left, right, bottom, top = 0.8 / width, 1 - 1.3 / width, (0.5 + below) / height, 1 - 0.75 / height
        sides = {"left": left, "right": right, "wspace": 0.25 if own_rows else 0.12}
        grid = self.figure.add_gridspec(1, count, bottom=bottom, top=top, **sides)
        self.panels = [self.figure.add_subplot(cell) for cell in grid]
        self.below = []
        if below:
            grid = self.figure.add_gridspec(1, count, bottom=0.5 / height, top=(below - 0.15) / height, **sides)
            self.below = grid.subplots(sharey=True, squeeze=False)[0]
        self.norm = Normalize(0, 1)
        look = {"norm": self.norm, "aspect": "auto", "interpolation": "nearest", "animated": True}
        self.images = [axes.imshow(np.zeros((1, 1)), **look) for axes in self.panels]
        ring = {"linestyle": "", "marker": "o", "markersize": 7, "markerfacecolor": "none", "animated": True}
        self.rings = [
            axes.plot([], [], color=colour, markeredgewidth=edge, **ring)[0]
            for axes in self.panels
            for colour, edge in (("black", 3), ("white", 1))
        ]
        for axes in self.panels:
            axes.set_title("", fontsize="medium", animated=True)
            axes.tick_params(length=3, labelleft=own_rows or axes is self.panels[0])
            for spine in axes.spines.values():
                spine.set(animated=True, zorder=3)
        self.panels[0].set_ylabel("$i$")
        for bottom_of_row, name in [(below, "$j$"), (0, "$i$")][: 1 + bool(below)]:
            self.figure.text((left + right) / 2, (bottom_of_row + 0.1) / height, name, ha="center")
        self.bar_axes = self.figure.add_axes((right + 0.25 / width, bottom, 0.14 / width, top - bottom), animated=True)
        self.bar = self.figure.colorbar(self.images[0], cax=self.bar_axes)
        grey = {
            "transform": blended_transform_factory(self.bar_axes.transAxes, self.bar_axes.transData),
            "color": "0.3",
        }
        self.mark = self.bar_axes.plot([], [], linewidth=3, clip_on=False, solid_capstyle="butt", **grey)[0]
        self.word = self.bar_axes.text(-0.7, 0, "", rotation=90, ha="right", fontsize="small", **grey)
        self.title = self.figure.text(0.5, 1 - 0.1 / height, "", ha="center", va="top", fontsize="large", animated=True)
        self.shown = None

    def show(self, panels, title, first_i=1, colours=(0, 0), chance=None, quantity="phi", cell=None):
        """Change the figure to these grids, and return it.

        panels: {title: grid [rows, columns]}, rows from i = first_i, columns from j = 1; NaN stays white. colours:
        (low, high) of φ; (0, 0): the range of the grids and of chance. chance: what it gives over the panels, any
        array; its range is drawn beside the colour bar. quantity: of QUANTITIES. cell: (i, j) of a ring, which a grid
        without that column lacks.
        """
        low, high = colours if quantity == "phi" else (0, 0)
        if not high:
            low, high = value_range([*panels.values(), *([] if chance is None else [chance])])
        if quantity != "phi":
            high = max(abs(low), abs(high), LEAST_Z if quantity == "z" else 1e-9)
            low = -high
        colour_map = "rocket" if quantity == "phi" else "vlag"
        self._lay_out([grid.shape for grid in panels.values()], first_i)
        for axes, image, (name, grid) in zip(self.panels, self.images, panels.items(), strict=True):
            axes.title.set_text(name)
            image.set_data(grid)
            if image.get_cmap().name != colour_map:
                image.set_cmap(colour_map)
        self.images[0].set_clim(low, high)  # of all, whose norm is one
        for n, ring in enumerate(self.rings):
            has = cell and cell[1] <= list(panels.values())[n // 2].shape[1]
            ring.set_data(([cell[1]], [cell[0]]) if has else ([], []))
        self.bar.set_label(QUANTITIES[quantity])
        self._mark_chance(chance if quantity == "phi" else None)
        self.title.set_text(fitted(title, self.figure))
        return self.figure

    def _mark_chance(self, chance):
        """The range of chance as a line beside the colour bar; in words where the bar does not reach it."""
        self.mark.set_data([], [])
        self.word.set_text("")
        if chance is None:
            return
        ends = self.bar_axes.get_ylim()
        low, high = np.min(chance), np.max(chance)
        first, last = np.clip([low, high], *ends)
        text, place, align = "chance", (first + last) / 2, "center"
        if first < last:
            self.mark.set_data([-0.35, -0.35], [first, last])
        else:
            below = high <= ends[0]
            text, place, align = ("chance: below", first, "bottom") if below else ("chance: above", last, "top")
        self.word.set(text=text, y=place, va=align)

    def _lay_out(self, shapes, first_i):
        """What seldom changes, and has everything drawn again."""
        if (shapes, first_i) != self.shown:
            self.shown = shapes, first_i
            for axes, image, (rows, columns) in zip(self.panels, self.images, shapes, strict=True):
                image.set_extent((0.5, columns + 0.5, first_i + rows - 0.5, first_i - 0.5))
                number_axes(axes, first_i, rows, columns)


@passing
def similarity_panels(panels, title, chance, first_i=1, colours=(0, 0)):
    """A `PhiRow` at rest."""
    row = PhiRow(len(panels), own_rows=len({grid.shape[0] for grid in panels.values()}) > 1)
    for axes in row.panels:
        axes.title.set_fontsize("small")  # of two adapters, which are longer
    return at_rest(row.show(panels, title, first_i, colours, chance))


@passing
def headline(panels, title, first_i, colours, chance, curves, band):
    """A `PhiRow`, and below each panel φ − chance at one column against i, with the band of chance.

    panels to chance: as in `PhiRow.show`. curves: {adapter: (trained [rows], untrained [rows] or None)}, a panel each.
    band: (low, high) [rows].
    """
    row = PhiRow(len(panels), below=2.4)
    row.show(panels, title, first_i, colours, chance)
    i = first_i + np.arange(len(band[0]))
    for axes, (trained, untrained) in zip(row.below, curves.values(), strict=True):
        axes.fill_between(i, *band, color="0.88", label="99 % of\nchance")
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.plot(i, trained, color=sns.color_palette("colorblind")[0], label="trained")
        if untrained is not None:
            axes.plot(i, untrained, "--", color=sns.color_palette("colorblind")[1], label="untrained")
        axes.set_xlim((i[0], i[-1]) if len(i) > 1 else None)
    row.below[0].set_ylabel(r"$\phi$ − chance")
    right = 1 - 1.28 / row.figure.get_figwidth()
    place = {"loc": "center left", "bbox_to_anchor": (right, 1.45 / row.figure.get_figheight())}
    legend(row.figure, row.below[0].get_legend_handles_labels()[0], **place)
    for axes in row.below:
        sns.despine(ax=axes)
    return at_rest(row.figure)


def at_rest(figure):
    """A figure whose animated artists are drawn with the others, to be saved."""
    for artist in figure.findobj(lambda artist: artist.get_animated()):
        artist.set_animated(False)
    return figure


@passing
def layer_view(table):
    """Layers for reading: a row a projection and layer, corrected p-values by adapter."""
    view = table.pivot(index=["projection", "layer"], columns="adapter", values="p_holm")[table["adapter"].unique()]
    return view.map(p_value).reset_index()


@passing
def layer_panels(table, chance, band, title):
    """φ at one (i, j) in every layer, a panel a projection (down) and adapter (across): untrained → trained.

    table: columns projection, layer, adapter, phi, untrained and elsewhere (NaN: unknown), and beyond: whether the dot
    is ringed. chance: its mean. band: (low, high) of chance.
    """
    kinds, adapters = table["projection"].unique(), table["adapter"].unique()
    size = 1.2 + 2.1 * len(adapters), 0.9 + 1.9 * len(kinds)
    figure, every_axes = subplots(size, len(kinds), len(adapters), sharex=True, sharey=True, squeeze=False)
    colours = sns.color_palette("colorblind")
    for kind, row in zip(kinds, every_axes, strict=True):
        for adapter, axes in zip(adapters, row, strict=True):
            part = table[(table["projection"] == kind) & (table["adapter"] == adapter)]
            at, phi, beyond = part["layer"], part["phi"], part["beyond"]
            axes.axhspan(*band, color="0.88", label="chance, one set in twenty beyond")
            axes.axhline(chance, color="0.4", linewidth=0.8)
            axes.vlines(at, part["untrained"], phi, color=colours[0], linewidth=0.8)
            hollow, ring = {"markersize": 3, "markerfacecolor": "none"}, {"markersize": 8, "markerfacecolor": "none"}
            axes.plot(at, part["untrained"], "o", color=colours[0], **hollow, label="untrained")
            axes.plot(at, phi, "o", color=colours[0], markersize=4, label="trained")
            axes.plot(at[beyond], phi[beyond], "o", color="black", **ring, label="beyond chance (Holm)")
            axes.plot(at, part["elsewhere"], "_", color=colours[1], markersize=5, label="with the other layers' W")
    for adapter, axes in zip(adapters, every_axes[0], strict=True):
        axes.set_title(adapter, fontsize="medium")
    for kind, axes in zip(kinds, every_axes[:, 0], strict=True):
        axes.set_ylabel(kind.replace("$", r"\$") + r": $\phi$")  # a name is no formula
    layers = sorted(table["layer"].unique())
    for axes in every_axes[-1]:
        axes.set(xlabel="layer", xticks=layers[:: 1 + len(layers) // 8])
    legend(figure, every_axes[0, 0].get_legend_handles_labels()[0], ncols=5, loc="outside lower center")
    return finished(figure, title)


def number_axes(axes, first_i, rows, columns):
    """Ticks of a grid over i (down, from first_i) and j (across, from 1), the ends among them."""
    axes.set_xticks(_round_ticks(columns))
    axes.set_yticks(np.unique(np.linspace(first_i, first_i + rows - 1, 8).round().astype(int)))


def _adapter_symbol(factor, name):
    stem = "A" if factor == "A" else r"\Delta W"
    rank, primes = name.removeprefix("r = ").rstrip(PRIME), "'" * name.count(PRIME)
    return rf"{stem}{primes}_{{r={rank}}}"


def _round_ticks(last):
    """1, the multiples of a round step below `last`, and `last`."""
    step = next((step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if last <= 4 * step), 1024)
    return np.unique([1, *range(step, last - step // 2 + 1, step), last])
