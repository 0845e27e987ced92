"""Curves: the law of φ under chance, and learning."""

import seaborn as sns

from helpers.show.figures import finished, subplots


def law_panels(phi, phi_law, cosines, cosine_law, title):
    """Histograms of φ and of the squared cosines of random pairs, each with its law.

    phi, cosines: draws. phi_law: (x, {label: density}) and cosine_law: the same.
    """
    figure, both = subplots((9, 3.6), 1, 2)
    labels = (r"$\phi$", r"$\cos^2$ of a principal angle")
    for axes, values, (x, laws), label in zip(both, (phi, cosines), (phi_law, cosine_law), labels, strict=True):
        axes.hist(values, bins=60, density=True, color="0.82", label=f"{len(values):,} draws")
        for colour, (name, density) in zip(sns.color_palette("colorblind"), laws.items(), strict=False):
            axes.plot(x, density, color=colour, label=name)
        axes.set(xlabel=label, ylabel="density")
        axes.legend(frameon=False, fontsize="small")
    return finished(figure, title)


def tail_curves(x, curves, table, title):
    """log₁₀ of the probability to reach φ: laws as lines, estimates from draws as points.

    x: [n] φ. curves: {label: log₁₀ P [n]}. table: columns phi, sampled (log₁₀ P), standard error, counted (NaN: none).
    """
    figure, axes = subplots((8, 4))
    first, second, third, fourth, *_ = sns.color_palette("colorblind")
    for (name, values), style, colour in zip(curves.items(), ("-", "--"), (first, second), strict=True):
        axes.plot(x, values, style, color=colour, label=name)
    points = {"fmt": "o", "markersize": 4, "capsize": 2, "color": third, "label": "importance sampling"}
    axes.errorbar(table["phi"], table["sampled"], table["standard error"], **points)
    ring = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "linestyle": "", "label": "counted draws"}
    axes.plot(table["phi"], table["counted"], color=fourth, **ring)
    axes.set(xlabel=r"$\phi$", ylabel=r"$\log_{10}$ P(chance reaches $\phi$)")
    axes.legend(frameon=False, fontsize="small")
    return finished(figure, title)


def critical_curves(i, curves, draw, title):
    """How far above chance φ must lie to be noticed, against i: one line per kind of correction, and one random draw.

    i: [n]. curves: {label: critical φ − chance [n]}. draw: φ − chance of a random pair [n].
    """
    figure, axes = subplots((8, 4))
    axes.axhline(0, color="0.4", linewidth=0.8)
    for colour, (name, values) in zip(sns.color_palette("colorblind"), curves.items(), strict=False):
        axes.plot(i, values, color=colour, label=name)
    axes.plot(i, draw, color="0.4", linewidth=1, label="a random pair")
    axes.set(xlabel="$i$", ylabel=r"$\phi$ − chance")
    axes.margins(x=0)
    axes.legend(frameon=False, fontsize="small")
    return finished(figure, title)


def p_value_curves(panels, title):
    """Share of p-values up to each level, against the level; uniform p-values follow the diagonal.

    panels: {title: {label: p-values}}.
    """
    figure, every_axes = subplots((9.5, 5), 1, len(panels), sharey=True, squeeze=False)
    for axes, (name, samples) in zip(every_axes[0], panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.4", linewidth=0.8, linestyle="--", label="uniform")
        for colour, (label, values) in zip(sns.color_palette("colorblind"), samples.items(), strict=False):
            axes.ecdf(values, color=colour, label=f"{label} ({len(values):,})")
        axes.set(title=name, xlabel="p")
        axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    every_axes[0, 0].set_ylabel("share of p-values up to p")
    return finished(figure, title)


def detection_curves(d, curves, title):
    """The smallest mean φ that is noticed, as a multiple of chance, against the dimension: one line per number j.

    d: [n]. curves: {j: multiples [n]}.
    """
    figure, axes = subplots((8, 4))
    axes.axhline(1, color="0.4", linewidth=0.8)
    for colour, (j, values) in zip(sns.color_palette("viridis", len(curves)), curves.items(), strict=True):
        axes.plot(d, values, "o-", markersize=4, color=colour, label=f"j = {j}")
    axes.set(xscale="log", yscale="log", xlabel="dimension $d$", ylabel=r"noticed mean $\phi$ / chance")
    axes.set_xticks(d, [str(value) for value in d])
    axes.minorticks_off()
    most = max(max(values) for values in curves.values())
    ticks = [tick for tick in (1, 1.2, 1.5, 2, 3, 5, 10, 20) if tick < 1.3 * most]
    axes.set_yticks(ticks, [str(value) for value in ticks])
    axes.legend(frameon=False)
    return finished(figure, title)


def learning_curves(curves, yardsticks, texts):
    """Held-out accuracy against steps, one line a training, with binomial bands and yardsticks.

    curves: {name: [{"step": …, "accuracy": …}, …]}. yardsticks: {what: its accuracy}. texts: number held out.
    """
    figure, axes = subplots((8, 4))
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


def seconds_curves(table, title):
    """Seconds against the dimension, one line a method; hollow and dashed where they are extrapolated.

    table: columns method, d, seconds, extrapolated.
    """
    figure, axes = subplots((8, 4.2))
    groups = table.groupby("method", sort=False)
    for colour, (name, rows) in zip(sns.color_palette("colorblind"), groups, strict=False):
        measured = rows[~rows.extrapolated]
        axes.plot(measured.d, measured.seconds, "o-", markersize=4, color=colour, label=name)
        beyond = rows[rows.extrapolated | (rows.d == measured.d.max())]
        axes.plot(beyond.d, beyond.seconds, "o--", markersize=5, color=colour, markerfacecolor="none", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="dimension $d$", ylabel="seconds")
    axes.set_xticks(sorted(set(table.d)), [f"{d:,}" for d in sorted(set(table.d))])
    axes.minorticks_off()
    return _of_methods(figure, title)


def error_curves(table, aim, title):
    """The error of φ against the seconds it took, one line a method, and the bound where one gives it.

    table: columns method, seconds, error, bound (NaN: none). aim: an error.
    """
    figure, axes = subplots((8, 4.2))
    axes.axhline(aim, color="0.4", linewidth=0.8, linestyle=":", label=f"{aim:g}")
    groups = table.groupby("method", sort=False)
    for colour, (name, rows) in zip(sns.color_palette("colorblind"), groups, strict=False):
        axes.plot(rows.seconds, rows.error, "o-", markersize=4, linewidth=1, color=colour, label=name)
        bounds = rows.dropna(subset="bound")
        axes.plot(bounds.seconds, bounds.bound, "v", markersize=5, color=colour, label="its bound" * bool(len(bounds)))
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel=r"largest error of $\phi$")
    ticks = [n * 10.0**power for power in range(-4, 4) for n in (1, 2, 5)]
    ticks = [tick for tick in ticks if table.seconds.min() / 1.5 < tick < 1.5 * table.seconds.max()]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    return _of_methods(figure, title)


def _of_methods(figure, title):
    figure.axes[0].legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return finished(figure, title)
