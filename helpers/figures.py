"""Data → matplotlib figures. Nothing is computed here beyond the layout."""

import textwrap

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from helpers.modules import role

sns.set_theme(context="paper", style="ticks", font_scale=1.1)

PRIME, MINUS = "\u2032", "\u2212"


def adapter_names(ranks):
    """Names of adapters by rank, primed where a rank comes again: `r = 64`, `r = 64′`."""
    return [f"r = {rank}" + PRIME * ranks[:n].count(rank) for n, rank in enumerate(ranks)]


def span(values, digits=1):
    """Least and greatest of some numbers in words, `1.0 to 2.5`, or the one they share."""
    ends = dict.fromkeys(f"{end:.{digits}f}".replace("-", MINUS) for end in (min(values), max(values)))
    return " to ".join(ends)


def readings(values, names, digits=2):
    """Numbers with what each belongs to, in words: `0.20 (query), 0.36 (value)`."""
    pairs = zip(values, names, strict=True)
    return ", ".join(f"{value:.{digits}f} ({name})".replace("-", MINUS) for value, name in pairs)


def phi_titles(module, factor, ranks):
    """Titles in the paper's notation for the adapters of these ranks, the random panel and the panel of chance."""
    weight = f"W_{role(module)}" if role(module) else "W"
    adapters = [_adapter_symbol(factor, name) for name in adapter_names(ranks)]
    return [
        *(rf"$\phi({weight}, {adapter}, i, j)$" for adapter in adapters),
        rf"$\phi({weight}, A_{{rand}}, i, j)$",
        r"chance: $\max(i, j)/d$",
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


def similarity_panels(panels, title, first_i=1, colour_limits=(0, 0), chance=None):
    """φ grids side by side on one colour scale, i downwards and j across in data units.

    panels: {title: φ [rows, columns]}, rows from i = first_i, columns from j = 1; NaN stays white.
    colour_limits: (low, high) of the shared scale; (0, 0): the range of all panels.
    chance: what chance gives over the panels, any array; its range is drawn beside the colour bar.
    """
    low, high = colour_limits
    if not high:
        low, high = _range(panels if chance is None else {**panels, "chance": chance})
    figure = Figure(figsize=(2.2 + 1.75 * len(panels), 4.2), layout="constrained")
    every_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    same_rows = len({grid.shape[0] for grid in panels.values()}) == 1
    for axes, (name, grid) in zip(every_axes, panels.items(), strict=True):
        rows, columns = grid.shape
        extent = (0.5, columns + 0.5, first_i + rows - 0.5, first_i - 0.5)
        image = axes.imshow(
            grid, cmap="rocket", vmin=low, vmax=high, aspect="auto", interpolation="nearest", extent=extent
        )
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("$j$")
        axes.set_xticks(_round_ticks(columns))
        axes.set_yticks(np.unique(np.linspace(first_i, first_i + rows - 1, 8).round().astype(int)))
        axes.tick_params(length=3, labelleft=axes is every_axes[0] or not same_rows)
    every_axes[0].set_ylabel("$i$")
    label, extend = r"$\phi$: mean $\cos^2$ of the principal angles", _clipped(panels, low, high)
    bar = figure.colorbar(image, ax=every_axes, label=label, extend=extend, fraction=0.08, pad=0.01)
    if chance is not None:
        _mark_chance(bar.ax, np.min(chance), np.max(chance))
    _set_title(figure, title)
    return figure


def excess_curves(i, curves, spread, title):
    """φ − chance against i, trained (solid) and untrained (dashed), one colour per adapter, with the band of chance.

    i: [n]. curves: {adapter: (trained [n], untrained [n] or None)}. spread: standard deviation of chance [n].
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(i, -3 * spread, 3 * spread, color="0.88", label="chance ± 3 standard deviations")
    axes.axhline(0, color="0.4", linewidth=0.8)
    colours = sns.color_palette("colorblind", len(curves))
    for colour, (name, (trained, untrained)) in zip(colours, curves.items(), strict=True):
        axes.plot(i, trained, color=colour, label=name)
        if untrained is not None:
            axes.plot(i, untrained, color=colour, linestyle="--", label=f"{name}, untrained")
    axes.set(xlabel="$i$: leading directions of W", ylabel=r"$\phi$ − chance", title=title)
    axes.margins(x=0)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    return figure


def layer_panels(panels, title):
    """φ at one (i, j) in every layer: trained filled, untrained hollow, the band of chance behind.

    panels: {title: (table, chance, spread)} with a table of columns layer, adapter, phi, untrained (NaN: unknown).
    """
    figure = Figure(figsize=(1.5 + 4.2 * len(panels), 4), layout="constrained")
    every_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (name, (table, chance, spread)) in zip(every_axes, panels.items(), strict=True):
        axes.axhspan(chance - 3 * spread, chance + 3 * spread, color="0.88", label="chance ± 3 sd")
        axes.axhline(chance, color="0.4", linewidth=0.8)
        adapters = table["adapter"].unique()
        colours = sns.color_palette("colorblind", len(adapters))
        for n, adapter in enumerate(adapters):
            rows, colour = table[table["adapter"] == adapter], colours[n]
            place = rows["layer"] + 0.12 * (n - (len(adapters) - 1) / 2)
            axes.plot(place, rows["phi"], "o", color=colour, label=adapter)
            axes.plot(place, rows["untrained"], "o", color=colour, markerfacecolor="none")
        layers = sorted(table["layer"].unique())
        axes.set(title=name, xlabel="layer", xticks=layers[:: 1 + len(layers) // 16])
    every_axes[0].set_ylabel(r"$\phi$")
    every_axes[-1].plot([], [], "o", color="0.4", markerfacecolor="none", label="untrained")
    every_axes[-1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    _set_title(figure, title)
    sns.despine(figure)
    return figure


def learning_curves(curves, baseline, sentences):
    """Held-out accuracy against steps, one line per adapter, with binomial bands and the frozen encoder.

    curves: {adapter: [(step, accuracy), …]}. baseline: the frozen encoder's accuracy. sentences: number held out.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, curve) in zip(sns.color_palette("viridis", len(curves)), curves.items(), strict=True):
        steps, values = zip(*curve, strict=True)
        errors = [(value * (1 - value) / sentences) ** 0.5 for value in values]
        axes.errorbar(steps, values, errors, label=name, color=colour, capsize=2, marker="o", markersize=3)
    axes.axhline(baseline, color="0.4", linestyle="--", label="frozen encoder")
    axes.set(
        xlabel="optimiser step",
        ylabel=f"accuracy on {sentences:,} held-out sentences",
        title="Held-out accuracy during training (± one standard error)",
    )
    axes.legend(frameon=False)
    sns.despine(figure)
    return figure


def _adapter_symbol(factor, name):
    stem = "A" if factor == "A" else r"\Delta W"
    rank, primes = name.removeprefix("r = ").rstrip(PRIME), "'" * name.count(PRIME)
    return rf"{stem}{primes}_{{r={rank}}}"


def _set_title(figure, title):
    figure.suptitle(textwrap.fill(title, round(10 * figure.get_figwidth())), fontsize="large")


def _range(panels):
    return min(np.nanmin(grid) for grid in panels.values()), max(np.nanmax(grid) for grid in panels.values())


def _clipped(panels, low, high):
    least, most = _range(panels)
    ends = (["min"] if least < low else []) + (["max"] if most > high else [])
    return "both" if len(ends) == 2 else (ends or ["neither"])[0]


def _round_ticks(last):
    """1, the multiples of a round step below `last`, and `last`."""
    step = next((step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if last <= 4 * step), 1024)
    return np.unique([1, *range(step, last - step // 2 + 1, step), last])


def _mark_chance(axes, low, high):
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    grey = {"transform": beside, "color": "0.3"}
    axes.plot([-0.35, -0.35], [low, high], linewidth=3, clip_on=False, solid_capstyle="butt", **grey)
    axes.text(-0.7, (low + high) / 2, "chance", rotation=90, ha="right", va="center", fontsize="small", **grey)
