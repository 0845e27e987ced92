"""Data → matplotlib figures. Nothing is computed here beyond the layout."""

import textwrap

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from helpers.show.words import PRIME, adapter_names
from helpers.weights.modules import role

sns.set_theme(context="paper", style="ticks", font_scale=1.1)


def phi_titles(module, factor, ranks):
    """Titles in the paper's notation for the adapters of these ranks and for the random panel."""
    weight = f"W_{role(module)}" if role(module) else "W"
    adapters = [_adapter_symbol(factor, name) for name in adapter_names(ranks)]
    return [
        *(rf"$\phi({weight}, {adapter}, i, j)$" for adapter in adapters),
        rf"$\phi({weight}, A_{{rand}}, i, j)$",
    ]


def pair_title(module, factor, one, other):
    """Title for two adapters, named as `adapter_names` does, at one module."""
    one, other = _adapter_symbol(factor, one), _adapter_symbol(factor, other)
    return rf"$\Delta W_{{{role(module)}}}$: $\phi({one}, {other}, i, j)$"


def full_and_triangle(grids, factor, small, large):
    """Panels of figure 3: every module's whole grid, then the part j ≤ i of the square that the smaller adapter allows.

    grids: {module: φ [r small, r large]}. small, large: the adapters' names.
    """
    panels = {pair_title(module, factor, small, large): grid for module, grid in grids.items()}
    for module, grid in grids.items():
        square = grid[:, : len(grid)]
        zoom = np.where(np.tri(*square.shape, dtype=bool), square, np.nan)
        panels[rf"$\Delta W_{{{role(module)}}}$: $j \leq i$"] = zoom
    return panels


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


def similarity_panels(panels, title, first_i=1, colour_limits=(0, 0), chance=None, rows_below=None):
    """φ grids side by side on one colour scale, i downwards and j across in data units.

    panels: {title: φ [rows, columns]}, rows from i = first_i, columns from j = 1; NaN stays white.
    colour_limits: (low, high) of the shared scale; (0, 0): the range of all panels.
    chance: what chance gives over the panels, any array; its range is drawn beside the colour bar.
    rows_below: {label: grids like the panels'}, each row on a diverging scale of its own with its middle at 0.
    """
    rows_below = rows_below or {}
    rows = 1 + len(rows_below)
    figure = Figure(figsize=(2.2 + 1.75 * len(panels), 1.6 + 2.6 * rows), layout="constrained")
    every_axes = figure.subplots(rows, len(panels), squeeze=False)
    same_rows = len({grid.shape[0] for grid in panels.values()}) == 1
    for axes in every_axes.flat:
        axes.tick_params(length=3, labelleft=axes in every_axes[:, 0] or not same_rows)
    for axes, name in zip(every_axes[0], panels, strict=True):
        axes.set_title(name, fontsize="medium")
    for axes in every_axes[:, 0]:
        axes.set_ylabel("$i$")
    for axes in every_axes[-1]:
        axes.set_xlabel("$j$")
    low, high = colour_limits
    if not high:
        low, high = value_range(panels.values() if chance is None else [*panels.values(), chance])
    bar = _heat_row(figure, every_axes[0], panels.values(), first_i, "rocket", low, high)
    bar.set_label(r"$\phi$: mean $\cos^2$ of the principal angles")
    if chance is not None:
        _mark_chance(bar.ax, np.min(chance), np.max(chance))
    for row, (label, grids) in zip(every_axes[1:], rows_below.items(), strict=True):
        most = max(np.abs(value_range(grids))) or 1.0
        _heat_row(figure, row, grids, first_i, "vlag", -most, most).set_label(label)
    set_title(figure, title)
    return figure


def excess_curves(i, curves, band, title):
    """φ − chance against i, trained (solid) and untrained (dashed), one colour per adapter, with the band of chance.

    i: [n]. curves: {adapter: (trained [n], untrained [n])}. band: (label, low [n], high [n]) of chance.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    label, low, high = band
    axes.fill_between(i, low, high, color="0.88", label=label)
    axes.axhline(0, color="0.4", linewidth=0.8)
    colours = sns.color_palette("colorblind", len(curves))
    for colour, (name, (trained, untrained)) in zip(colours, curves.items(), strict=True):
        axes.plot(i, trained, color=colour, label=name)
        axes.plot(i, untrained, color=colour, linestyle="--", label=f"{name}, untrained")
    axes.set(xlabel="$i$: leading directions of W", ylabel=r"$\phi$ − chance")
    axes.margins(x=0)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    set_title(figure, title)
    sns.despine(figure)
    return figure


def layer_panels(table, chance, band, title):
    """φ at one (i, j) in every layer, a panel a projection (down) and adapter (across): untrained → trained.

    table: columns projection, layer, adapter, phi, untrained and elsewhere (NaN: unknown), and beyond: whether the dot
    is ringed. chance: its mean. band: (label, low, high) of chance.
    """
    kinds, adapters = table["projection"].unique(), table["adapter"].unique()
    figure = Figure(figsize=(1.2 + 2.1 * len(adapters), 1.1 + 1.9 * len(kinds)), layout="constrained")
    every_axes = figure.subplots(len(kinds), len(adapters), sharex=True, sharey=True, squeeze=False)
    (label, low, high), (one, other, *_) = band, sns.color_palette("colorblind")
    for kind, row in zip(kinds, every_axes, strict=True):
        for adapter, axes in zip(adapters, row, strict=True):
            part = table[(table["projection"] == kind) & (table["adapter"] == adapter)]
            layer, phi, ringed = part["layer"], part["phi"], part[part["beyond"]]
            axes.axhspan(low, high, color="0.88", label=label)
            axes.axhline(chance, color="0.4", linewidth=0.8)
            axes.vlines(layer, part["untrained"], phi, color=one, linewidth=0.8)
            axes.plot(layer, part["untrained"], "o", color=one, markersize=3, markerfacecolor="none", label="untrained")
            axes.plot(layer, phi, "o", color=one, markersize=4, label="trained")
            axes.plot(layer, part["elsewhere"], "_", color=other, markersize=5, label="with the other layers' W")
            look = {"color": "black", "markersize": 8, "markerfacecolor": "none", "label": "beyond chance (Holm)"}
            axes.plot(ringed["layer"], ringed["phi"], "o", **look)
    for adapter, axes in zip(adapters, every_axes[0], strict=True):
        axes.set_title(adapter, fontsize="medium")
    for kind, axes in zip(kinds, every_axes[:, 0], strict=True):
        axes.set_ylabel(kind.replace("$", r"\$") + r": $\phi$")  # a name is no formula
    layers = sorted(table["layer"].unique())
    for axes in every_axes[-1]:
        axes.set(xlabel="layer", xticks=layers[:: 1 + len(layers) // 8])
    signs = every_axes[0, 0].get_legend_handles_labels()
    figure.legend(*signs, frameon=False, fontsize="small", ncols=5, loc="outside lower center")
    set_title(figure, title)
    sns.despine(figure)
    return figure


def law_panels(phi, phi_law, cosines, cosine_law, title):
    """Histograms of φ and of the squared cosines of random pairs, each with its law.

    phi, cosines: draws. phi_law: (x, {label: density}) and cosine_law: the same.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    labels = (r"$\phi$", r"$\cos^2$ of a principal angle")
    for axes, values, (x, laws), label in zip(
        figure.subplots(1, 2), (phi, cosines), (phi_law, cosine_law), labels, strict=True
    ):
        axes.hist(values, bins=60, density=True, color="0.82", label=f"{len(values):,} draws")
        for colour, (name, density) in zip(sns.color_palette("colorblind"), laws.items(), strict=False):
            axes.plot(x, density, color=colour, label=name)
        axes.set(xlabel=label, ylabel="density")
        axes.legend(frameon=False, fontsize="small")
    set_title(figure, title)
    sns.despine(figure)
    return figure


def tail_curves(x, curves, points, title):
    """log₁₀ of the probability to reach φ: laws as lines, estimates from draws with their standard errors.

    x: [n] φ. curves: {label: log₁₀ P [n]}. points: {label: (φ, log₁₀ P, its standard error)}.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    colours = iter(sns.color_palette("colorblind"))
    for (name, values), style in zip(curves.items(), ("-", "--"), strict=False):
        axes.plot(x, values, style, color=next(colours), label=name)
    for name, (where, values, errors) in points.items():
        axes.errorbar(where, values, errors, fmt="o", markersize=4, capsize=2, color=next(colours), label=name)
    axes.set(xlabel=r"$\phi$", ylabel=r"$\log_{10}$ P(chance reaches $\phi$)")
    axes.legend(frameon=False, fontsize="small")
    set_title(figure, title)
    sns.despine(figure)
    return figure


def critical_curves(i, curves, draw, title):
    """How far above chance φ must lie to be noticed, against i: one line per kind of correction, and one random draw.

    i: [n]. curves: {label: critical φ − chance [n]}. draw: φ − chance of a random pair [n].
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.4", linewidth=0.8)
    for colour, (name, values) in zip(sns.color_palette("colorblind"), curves.items(), strict=False):
        axes.plot(i, values, color=colour, label=name)
    axes.plot(i, draw, color="0.4", linewidth=1, label="a random pair")
    axes.set(xlabel="$i$", ylabel=r"$\phi$ − chance")
    axes.margins(x=0)
    axes.legend(frameon=False, fontsize="small")
    set_title(figure, title)
    sns.despine(figure)
    return figure


def p_value_curves(panels, title):
    """Share of p-values up to each level, against the level; uniform p-values follow the diagonal.

    panels: {title: {label: p-values}}.
    """
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    every_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (name, samples) in zip(every_axes, panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.4", linewidth=0.8, linestyle="--", label="uniform")
        for colour, (label, values) in zip(sns.color_palette("colorblind"), samples.items(), strict=False):
            axes.ecdf(values, color=colour, label=f"{label} ({len(values):,})")
        axes.set(title=name, xlabel="p", ylabel="share of p-values up to p")
        axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    set_title(figure, title)
    sns.despine(figure)
    return figure


def detection_curves(d, curves, title):
    """The smallest mean φ that is noticed, as a multiple of chance, against the dimension: one line per number j.

    d: [n]. curves: {j: multiples [n]}.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1, color="0.4", linewidth=0.8)
    for colour, (j, values) in zip(sns.color_palette("viridis", len(curves)), curves.items(), strict=True):
        axes.plot(d, values, "o-", markersize=4, color=colour, label=f"j = {j}")
    axes.set(xscale="log", yscale="log", xlabel="dimension $d$", ylabel=r"noticed mean $\phi$ / chance")
    axes.set_xticks(d, [str(value) for value in d])
    axes.minorticks_off()
    most = max(max(values) for values in curves.values())
    ticks = [tick for tick in (1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20) if tick < 1.3 * most]
    axes.set_yticks(ticks, [str(value) for value in ticks])
    axes.legend(frameon=False)
    set_title(figure, title)
    sns.despine(figure)
    return figure


def learning_curves(curves, yardsticks, texts):
    """Held-out accuracy against steps, one line a training, with binomial bands and yardsticks.

    curves: {name: [{"step": …, "accuracy": …}, …]}. yardsticks: {what: its accuracy}. texts: number held out.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, curve) in zip(sns.color_palette("viridis", len(curves)), curves.items(), strict=True):
        steps, values = ([row[key] for row in curve] for key in ("step", "accuracy"))
        errors = [(value * (1 - value) / texts) ** 0.5 for value in values]
        axes.errorbar(steps, values, errors, label=name, color=colour, capsize=2, marker="o", markersize=3)
    for (what, value), style in zip(yardsticks.items(), ("--", ":", "-."), strict=False):
        axes.axhline(value, color="0.4", linestyle=style, label=what)
    axes.set(
        xlabel="optimiser step",
        ylabel=f"accuracy on {texts:,} held-out texts",
        title="Held-out accuracy during training (± one standard error)",
    )
    figure.legend(frameon=False, loc="outside right upper")
    sns.despine(figure)
    return figure


def set_title(figure, title):
    """Give a figure its title, broken into lines that fit its width."""
    kept = title.replace(" = ", "\u00a0=\u00a0")  # no line ends inside an equation
    figure.suptitle(textwrap.fill(kept, round(10 * figure.get_figwidth())), fontsize="large")


def value_range(grids):
    """Least and greatest finite value of some arrays; (0, 0) if there is none."""
    values = np.concatenate([np.ravel(grid) for grid in grids])
    values = values[np.isfinite(values)]
    return (values.min(), values.max()) if values.size else (0.0, 0.0)


def number_axes(axes, first_i, rows, columns):
    """Ticks of a grid over i (down, from first_i) and j (across, from 1), the ends among them."""
    axes.set_xticks(_round_ticks(columns))
    axes.set_yticks(np.unique(np.linspace(first_i, first_i + rows - 1, 8).round().astype(int)))


def _adapter_symbol(factor, name):
    stem = "A" if factor == "A" else r"\Delta W"
    rank, primes = name.removeprefix("r = ").rstrip(PRIME), "'" * name.count(PRIME)
    return rf"{stem}{primes}_{{r={rank}}}"


def _heat_row(figure, every_axes, grids, first_i, colours, low, high):
    """One row of heatmaps on one scale, and its colour bar."""
    for axes, grid in zip(every_axes, grids, strict=True):
        rows, columns = grid.shape
        extent = (0.5, columns + 0.5, first_i + rows - 0.5, first_i - 0.5)
        image = axes.imshow(
            grid, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest", extent=extent
        )
        number_axes(axes, first_i, rows, columns)
    return figure.colorbar(image, ax=every_axes, extend=_clipped(grids, low, high), fraction=0.08, pad=0.01)


def _clipped(grids, low, high):
    least, most = value_range(grids)
    ends = (["min"] if least < low else []) + (["max"] if most > high else [])
    return "both" if len(ends) == 2 else (ends or ["neither"])[0]


def _round_ticks(last):
    """1, the multiples of a round step below `last`, and `last`."""
    step = next((step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if last <= 4 * step), 1024)
    return np.unique([1, *range(step, last - step // 2 + 1, step), last])


def _mark_chance(axes, low, high):
    """The range of chance as a line beside a colour bar; in words where the bar does not reach it."""
    grey = {"transform": blended_transform_factory(axes.transAxes, axes.transData), "color": "0.3"}
    ends = axes.get_ylim()
    first, last = np.clip([low, high], *ends)
    if first < last:
        axes.plot([-0.35, -0.35], [first, last], linewidth=3, clip_on=False, solid_capstyle="butt", **grey)
        text, place, align = "chance", (first + last) / 2, "center"
    else:
        below = high <= ends[0]
        text, place, align = ("chance: below", first, "bottom") if below else ("chance: above", last, "top")
    axes.text(-0.7, place, text, rotation=90, ha="right", va=align, fontsize="small", **grey)
