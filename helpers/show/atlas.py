"""What updates are over all layers and projections of a model: tables → figures."""

import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from helpers.show.figures import (
    ending,
    finished,
    folded,
    legend,
    log_ticks,
    logarithmic,
    looks,
    named,
    over_decades,
    plain,
    some,
    subplots,
    titled,
    value_range,
    wrapped,
)
from helpers.show.words import number
from helpers.values import Nothing, passing
from helpers.weights.modules import short_name

WIDEST = 11  # inches
HATCH = {"facecolor": "0.95", "edgecolor": "0.75", "hatch": "////", "linewidth": 0}
SLANTED = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
TILE = 0.9  # share of its place that a small grid takes
MEASURES = {  # of `adapters_beside`: {label: (column, chance)}
    r"$\Vert\Delta W\Vert_F\,/\,\Vert W\Vert_F$": ("ratio", None),
    "effective rank": ("effective_rank", "random_effective_rank"),
    "intruders of ten": ("intruders", "intruders_expected"),
    "input energy in\nW's leading directions": ("energy_in", "energy_in_chance"),
    "output energy in\nW's leading directions": ("energy_out", "energy_out_chance"),
    r"$\phi$ over chance, BA left": ("ratio_ba_left", 1.0),
}


@passing
def heatmaps(heat, label, title, centre=None, marks=None):
    """Layers (down) × projections (across), a panel an adapter or a measure, on one scale with one colour bar.

    heat: {panel: DataFrame [layers, projections]}; NaN is hatched. label: of the colour bar. centre: what chance gives,
    in the middle of the colours. marks: {panel: DataFrame of bool}, whether a cell has a dot: p < 0.05, corrected.
    """
    layers = sorted({layer for frame in heat.values() for layer in frame.index})
    kinds = list(dict.fromkeys(kind for frame in heat.values() for kind in frame.columns))
    heat = {name: frame.reindex(index=layers, columns=kinds) for name, frame in heat.items()}
    wide = np.clip(0.23 * len(kinds), 0.8, 3.2)
    lines, across = wrapped(len(heat), min(5, int((WIDEST - 2.4) // (wide + 0.3))))
    tall = np.clip(0.15 * len(layers), 1.2, 5.5 if lines == 1 else 3.0)
    size = max(5.0, 2.4 + across * (wide + 0.3)), 1.3 + lines * (tall + 0.9)
    figure, every_axes = subplots(size, lines, across, count=len(heat), squeeze=False, sharex=True, sharey=True)
    look = _scale(list(heat.values()), centre)
    for axes, (name, frame) in zip(every_axes.flat, heat.items(), strict=False):
        values = frame.to_numpy(float)
        axes.patch.set(**HATCH)
        image = axes.imshow(values, aspect="auto", interpolation="nearest", **look)
        axes.set_title(folded(name, (size[0] - 2.4) / across), fontsize="medium")
        if marks and name in marks:
            down, over = np.nonzero(marks[name].reindex_like(frame).eq(True).to_numpy())
            axes.plot(over, down, "o", color="black", markersize=3.5, markeredgecolor="white", markeredgewidth=0.6)
    places = some(len(layers), tall / 0.19)
    every_axes[0, 0].set_yticks(places, [plain(layers[place]) for place in places])
    for axes in every_axes.flat[len(heat) - across : len(heat)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xticks(
            range(len(kinds)), [plain(ending(str(kind), 22)) for kind in kinds], fontsize="small", **SLANTED
        )
    for axes in every_axes[:, 0]:
        axes.set_ylabel("layer")
    bar = figure.colorbar(image, ax=list(every_axes.flat[: len(heat)]), aspect=22, fraction=0.06, pad=0.03)
    _number_bar(bar, look["norm"], value_range([*heat.values(), *([] if centre is None else [centre])]), label)
    said = []
    if marks:
        dot = {"color": "black", "markeredgecolor": "white", "linestyle": ""}
        said.append(Line2D([], [], marker="o", label="p < 0.05, corrected", **dot))
    if any(frame.isna().any(axis=None) for frame in heat.values()):
        said.append(Patch(**HATCH, label="no value"))
    if centre is not None:
        bar.ax.axhline(centre, color="0.2", linewidth=1)
        said.append(Line2D([], [], color="0.2", linewidth=1, label=f"chance, {centre:g}, in the colour bar"))
    if said:
        legend(figure, said, ncols=3, loc="outside lower center")
    return titled(figure, title)


@passing
def ranking(rows, title, n=20):
    """The modules that changed most, a line each and a dot an adapter, at ‖ΔW‖_F / ‖W‖_F.

    rows: columns module, layer, adapter, ratio, in any order. n: how many modules at most.
    """
    styles, rows = looks(rows["adapter"].unique()), rows[rows["ratio"].notna()]
    if not len(rows):
        return Nothing("it is not known of any module how much it changed")
    chosen = list(dict.fromkeys(rows.sort_values("ratio", ascending=False)["module"]))[:n]
    rows = rows[rows["module"].isin(chosen)]
    layer = dict(zip(rows["module"], rows["layer"], strict=True))
    names = [f"layer {layer[module]}: {short_name(module)}" for module in chosen]
    names = names if len(set(names)) == len(names) else [ending(module, 44) for module in chosen]
    figure, axes = subplots((8, 1.5 + 0.25 * len(chosen)))
    place = rows["module"].map(chosen.index)
    ends = rows.groupby(place)["ratio"].agg(["min", "max"])
    axes.hlines(ends.index, ends["min"], ends["max"], color="0.8", linewidth=1.2, zorder=1)
    lines = []
    for name in [name for name in styles if name in set(rows["adapter"])]:
        own, look = rows["adapter"] == name, styles[name]
        lines += axes.plot(rows.loc[own, "ratio"], place[own], linestyle="", markersize=5, label=named(name), **look)
    axes.set_yticks(range(len(chosen)), [plain(name) for name in names])
    axes.set(ylim=(len(chosen) - 0.4, -0.6), xlabel=r"$\Vert\Delta W\Vert_F\,/\,\Vert W\Vert_F$")
    if over_decades(rows["ratio"]):
        logarithmic(axes, "x", rows["ratio"])
    else:
        axes.set_xlim(left=0)
    axes.grid(axis="y", color="0.93")
    longest = max(len(line.get_label()) for line in lines)
    legend(figure, lines, ncols=max(1, min(5, 90 // (longest + 5))), loc="outside lower center")
    return finished(figure, title)


@passing
def grids(panels, label, title):
    """Small grids over i (down, from 1) and j (across, from 1): layers across, projections down, on one scale.

    panels: {projection: {layer: [I, J]}}, φ − chance or z of one adapter; what is missing, empty or NaN is hatched.
    Many layers stand in several lines.
    """
    layers = sorted({layer for found in panels.values() for layer in found})
    panels = {kind: {n: grid for n, grid in found.items() if grid.size} for kind, found in panels.items()}
    values = [grid for found in panels.values() for grid in found.values()]
    if not values:
        return Nothing("there is no grid to draw")
    beside = [_sizes(kind, {grid.shape for grid in found.values()}) for kind, found in panels.items()]
    many = len(layers) * len(panels) > 200
    lines, across = wrapped(len(layers), 24 if many else 16)
    size = 2.8 + min(0.9, 7.9 / across) * across, 1.1 + lines * (0.7 + (0.45 if many else 0.75) * len(panels))
    figure, every_axes = subplots(size, lines, 1, squeeze=False)
    look, images = _scale(values, 0.0), []
    for line, axes in enumerate(every_axes.flat):
        part = layers[line * across : (line + 1) * across]
        for down, found in enumerate(panels.values()):
            for over, layer in enumerate(part):
                axes.add_patch(Rectangle((over, down), TILE, TILE, zorder=-1, **HATCH))
                if layer in found:
                    box = over, over + TILE, down + TILE, down
                    images.append(axes.imshow(found[layer], extent=box, interpolation="nearest", **look))
        axes.set(xlim=(-0.05, across), ylim=(len(panels), -0.05), aspect="auto")
        axes.set_title("layer", loc="left", fontsize="small")
        sns.despine(ax=axes, left=True, bottom=True)
        axes.set_xticks(np.arange(len(part)) + TILE / 2, [plain(layer) for layer in part])
        axes.set_yticks(np.arange(len(panels)) + TILE / 2, beside, fontsize="small")
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
    bar = figure.colorbar(images[0], ax=every_axes, aspect=22, fraction=0.06, pad=0.02)
    _number_bar(bar, look["norm"], value_range([*values, 0.0]), label)
    bar.ax.axhline(0, color="0.2", linewidth=1)
    if len(values) < len(layers) * len(panels) or any(np.isnan(grid).any() for grid in values):
        legend(figure, [Patch(**HATCH, label="no value")], loc="outside lower center")
    return titled(figure, title)


@passing
def depth(rows, column, trends, chance, title, label, measure=""):
    """A measure over the layers: a panel a projection, a line an adapter, with the slope of each in the legend.

    rows: columns layer, projection, adapter and that one. trends: columns projection, adapter, measure, slope, low and
    high (per ten layers), of which those of this measure are told (empty: of the column's name); where the interval
    leaves out zero, a dashed line of that slope goes through the means. chance: a number, or None where there is none.
    """
    kinds, styles = rows["projection"].unique(), looks(rows["adapter"].unique())
    lines, across = wrapped(len(kinds), 3)
    size = 0.7 + 3.4 * across, 0.6 + lines * (2.5 + 0.19 * len(styles))
    figure, every_axes = subplots(size, lines, across, count=len(kinds), squeeze=False, sharex=True, sharey=True)
    slopes = trends[trends["measure"] == (measure or column)].set_index(["projection", "adapter"])[
        ["slope", "low", "high"]
    ]
    for axes, kind in zip(every_axes.flat, kinds, strict=False):
        shown = []
        if chance is not None:
            shown.append(axes.axhline(chance, color="0.4", linewidth=0.8, label="chance"))
        for name, look in styles.items():
            own = rows[(rows["projection"] == kind) & (rows["adapter"] == name)].sort_values("layer")
            (line,) = axes.plot(own["layer"], own[column], linewidth=0.8, markersize=3.5, label=named(name), **look)
            shown.append(line)
            if (kind, name) not in slopes.index or slopes.loc[kind, name].isna().any():
                continue
            slope, low, high = slopes.loc[kind, name]
            line.set_label(f"{named(name)}: {_interval(slope, low, high)}")
            if low * high > 0:
                at = own["layer"][own[column].notna()]
                fitted = own[column].mean() + slope / 10 * (at - at.mean())
                axes.plot(at, fitted, "--", color=look["color"], linewidth=1.6)
        axes.set_title(folded(kind, 3.2), fontsize="medium")
        told = "slope per ten layers (interval)" if kind in slopes.index else None
        below = axes.transAxes + ScaledTranslation(0, -0.5, figure.dpi_scale_trans)  # of the ticks and their name
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
        legend(axes, shown, title=told, title_fontsize="small", **place)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("layer")
    layers = sorted(rows["layer"].unique())
    every_axes[0, 0].set_xticks([layers[place] for place in some(len(layers), 8)])
    for axes in every_axes[:, 0]:
        axes.set_ylabel(label)
    return finished(figure, title)


@passing
def adapters_beside(rows, title, measures=MEASURES):
    """Adapters of one base beside each other: a panel a measure, a dot a module in the table's order, and the median.

    rows: columns adapter and those of the measures. measures: {label: (column, chance)}; chance: a number, a column of
    which the median counts, or None where there is none.
    """
    styles = looks(rows["adapter"].unique())
    lines, across = wrapped(len(measures), 3)
    wide = np.clip(0.9 + 0.5 * len(styles), 2.2, 3.4)
    size = 0.3 + across * wide, 0.7 + 2.7 * lines
    figure, every_axes = subplots(size, lines, across, count=len(measures), squeeze=False)
    for axes, (label, (column, chance)) in zip(every_axes.flat, measures.items(), strict=False):
        shown = [rows[column]]
        for place, (name, look) in enumerate(styles.items()):
            own = rows[rows["adapter"] == name]
            at = place + np.linspace(-0.3, 0.3, len(own)) * (len(own) > 1)
            ends = [place - 0.38, place + 0.38]
            axes.plot(at, own[column], linestyle="", markersize=3, alpha=0.6, **look)
            axes.plot(ends, [own[column].median()] * 2, color="black", linewidth=1.6)
            if chance is not None:
                level = own[chance].median() if isinstance(chance, str) else chance
                axes.plot(ends, [level] * 2, ":", color="0.3", linewidth=1.6)
                shown.append([level])
        names = [plain(ending(str(name), 18)) for name in styles]
        crowded = sum(len(name) + 2 for name in names) > 13 * wide
        axes.set_xticks(range(len(styles)), names, fontsize="small", **SLANTED if crowded else {})
        axes.set(xlim=(-0.6, len(styles) - 0.4))
        axes.set_title(label, fontsize="medium")
        if over_decades(values := np.concatenate(shown)):
            logarithmic(axes, "y", values)
            continue
        low, high = value_range([values, [0.0]])
        high = high if high > low else low + 1
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        axes.yaxis.get_major_locator().set_params(integer=not (rows[column].dropna() % 1).any())
    dot = Line2D([], [], color="0.3", marker="o", linestyle="", markersize=3, label="a module")
    median = Line2D([], [], color="black", linewidth=1.6, label="median of the modules")
    level = Line2D([], [], color="0.3", linewidth=1.6, linestyle=":", label="chance, its median")
    legend(figure, [dot, median, level], ncols=3, loc="outside lower center")
    return finished(figure, title)


def _scale(values, centre):
    """Colours of some values: a diverging map with `centre` in the middle, or a sequential one."""
    around = [] if centre is None else [centre]
    low, high = value_range([*values, *around])
    many = over_decades([low, high])
    if centre is None:
        return {"norm": (LogNorm if many else Normalize)(low, high if high > low else low + 1), "cmap": "rocket"}
    half = max(high / centre, centre / low) if many else max(high - centre, centre - low) or 1.0
    ends = (centre / half, centre * half) if many else (centre - half, centre + half)
    return {"norm": (LogNorm if many else Normalize)(*ends), "cmap": "vlag"}


def _number_bar(bar, norm, ends, label):
    """The label of a colour bar, and of its scale the part that occurs."""
    bar.set_label(label)
    if ends[0] < ends[1]:
        bar.ax.set_ylim(ends)
        if isinstance(norm, LogNorm):
            places, names = log_ticks(*ends)
            bar.set_ticks(places, labels=names)
            bar.minorticks_off()
        elif all(float(end).is_integer() for end in ends):  # of what is counted
            bar.locator = MaxNLocator(integer=True)


def _sizes(kind, shapes):
    """What stands beside a row of small grids: the projection, and the i and j of its grids."""
    named = plain(ending(str(kind), 22))
    if len(shapes) != 1:
        return f"{named}\nof several sizes" if shapes else named
    ((rows, columns),) = shapes
    return f"{named}\n$i$ = 1 … {rows}\n$j$ = 1 … {columns}"


def _interval(slope, low, high):
    """A slope and its interval in words, with two digits of the greater end."""
    digits = max(0, 1 - int(np.floor(np.log10(max(abs(low), abs(high), 1e-9)))))
    return f"{number(slope, digits)} ({number(low, digits)} to {number(high, digits)})"
