"""The spectrum and the intruders of the updates of one module: numbers → figures."""

import numpy as np
import seaborn as sns

from helpers.show.figures import finished, folded, legend, logarithmic, subplots, wrapped
from helpers.show.words import number
from helpers.subspaces.intruders import EPSILON
from helpers.values import passing


@passing
def spectrum(spectra, weight_spectrum, random, k90, title):
    """Singular values of ΔW over ‖W‖₂ against k, a panel an adapter, with those of W and of random products.

    spectra: {adapter: [n]}, greatest first. weight_spectrum: [m] of W, greatest first. random: {adapter: (low [n],
    high [n])} of random products of the same norm. k90: {adapter: directions that hold 90 % of ‖ΔW‖²_F}.
    """
    figure, every_axes = _panels(len(spectra))
    blue, norm = sns.color_palette("colorblind")[0], weight_spectrum[0]
    longest = max(map(len, spectra.values()))
    for axes, (name, values) in zip(every_axes.flat, spectra.items(), strict=False):
        k = np.arange(1, len(values) + 1)
        axes.axhline(1, color="0.4", linewidth=0.8, label=r"$\Vert W\Vert_2$")
        axes.plot(range(1, len(weight_spectrum) + 1)[:longest], (weight_spectrum / norm)[:longest], ":", color="0.4")
        axes.lines[-1].set_label("W")
        if name in random:
            low, high = (np.asarray(end) / norm for end in random[name])
            label = "random product of the same norm, 90 %"
            axes.fill_between(k, low, high, color="0.8", edgecolor="0.6", linewidth=1, label=label)
        axes.plot(k, values / norm, "o-", color=blue, markersize=3, linewidth=0.8, label=r"$\Delta W$")
        axes.axvline(k90[name], color=blue, linewidth=0.8, linestyle="--", label=r"$k_{90}$")
        axes.set_title(f"{folded(name, 2.3)}\n$k_{{90}}$ = {k90[name]:.0f}", fontsize="medium")
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("$k$")
    logarithmic(every_axes[0, 0], "x", np.arange(1, longest + 1))
    bands = [end for ends in random.values() for end in ends]
    logarithmic(every_axes[0, 0], "y", np.concatenate([*spectra.values(), *bands, [norm]]) / norm)
    for axes in every_axes[:, 0]:
        axes.set_ylabel(r"singular value / $\Vert W\Vert_2$")
    return _finished(figure, every_axes, title)


@passing
def intruder_cosines(cosines, drawn, counts, title):
    """The largest |cosine| of each leading left direction of W + ΔW with one of W, a panel an adapter.

    cosines: {adapter: [k]}. drawn: {adapter: [draws, k]}, with ΔW of random directions. counts: {adapter: (count,
    expected)}.
    """
    figure, every_axes = _panels(len(cosines))
    blue, orange = sns.color_palette("colorblind", 2)
    for axes, (name, values) in zip(every_axes.flat, cosines.items(), strict=False):
        k, below = np.arange(1, len(values) + 1), values < EPSILON
        if name in drawn:
            low, middle, high = np.percentile(drawn[name], [5, 50, 95], axis=0)
            axes.fill_between(k, low, high, color="0.85", label="random ΔW, 90 %")
            axes.plot(k, middle, "_", color="0.5", label="its median")
        axes.axhline(EPSILON, color="0.4", linewidth=0.8, linestyle="--", label=rf"$\varepsilon$ = {EPSILON:g}")
        axes.plot(k[~below], values[~below], "o", color=blue, markersize=5, label="no intruder")
        axes.plot(k[below], values[below], "X", color=orange, markersize=6, label="an intruder")
        count, expected = counts[name]
        told = f"{count:.0f}, expected {number(expected, 1)}"
        axes.set_title(f"{folded(name, 2.3)}\n{told}", fontsize="medium")
        axes.tick_params(labelbottom=True)
        axes.set(xlabel="left direction of $W + \\Delta W$", xlim=(0.4, len(k) + 0.6), ylim=(0, 1.04))
        axes.set_xticks(k[:: 1 + len(k) // 12])
    for axes in every_axes[:, 0]:
        axes.set_ylabel("largest |cosine| with\na left direction of $W$")
    return _finished(figure, every_axes, title)


def _panels(count):
    """A figure and its axes [lines, across], of which the last may be removed."""
    lines, across = wrapped(count, 4)
    size = 1 + across * (2.4 if across > 1 else 4), 1.1 + 2.6 * lines
    return subplots(size, lines, across, count=count, squeeze=False, sharex=True, sharey=True)


def _finished(figure, every_axes, title):
    """The figure with one legend of all that is in some panel, and a title."""
    handles = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    columns = (2, 3, 5, 5)[every_axes.shape[1] - 1]
    legend(figure, list(handles.values()), ncols=columns, loc="outside lower center")
    return finished(figure, title)
