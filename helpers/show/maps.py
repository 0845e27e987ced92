"""Maps of digits, their controls, and readings of published pictures → figures. Computes nothing beyond layout."""

import numpy as np
import seaborn as sns

from helpers.show.figures import finished, subplots, titled
from helpers.values import Nothing


def accuracy_dots(table, title):
    """Accuracy of classifiers in several splits, one dot a seed.

    table: DataFrame with columns classifier, split, accuracy.
    """
    figure, axes = subplots((8, 3.6))
    look = {"hue": "split", "dodge": True, "jitter": False, "palette": "colorblind"}
    sns.stripplot(table, x="accuracy", y="classifier", **look, ax=axes)
    axes.set(xlabel="accuracy over five folds", ylabel="")
    axes.grid(axis="x", color="0.9")
    axes.legend(title="", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return finished(figure, title)


def rows_of_two(maps, title, bar_label, colours="inferno", high=0.0, names=range(10)):
    """The published layouts: panels in rows of two, in reading order, on one scale from 0.

    maps: [panels, rows, columns], non-negative. high: the top of the scale; 0: the largest value. names: of the panels.
    """
    rows = len(maps) // 2
    side = 1.5
    figure, every_axes = subplots((1.4 + 2 * side, side * rows), rows, 2)
    for axes, panel, name in zip(every_axes.flat, maps, names, strict=True):
        image = axes.imshow(panel, cmap=colours, vmin=0, vmax=high or maps.max(), interpolation="nearest")
        axes.set_title(str(name), fontsize="medium")
        number_cells(axes, panel.shape)
    bar = figure.colorbar(image, ax=every_axes, extend=_extend(maps.max(), high), fraction=0.05, aspect=8 * rows)
    bar.set_label(bar_label)
    return titled(figure, title)


def comparison(one, other, half_widths, names, title, colours="inferno", high=0.0):
    """Digits 0 to 4, then 5 to 9, across; for either, two conditions on one scale from 0 and below their difference.

    one, other, half_widths: [10, rows, columns]; a dot marks a difference whose interval (± half-width) excludes 0.
    names: of the two conditions. high: the top of the first scale; 0: the largest value.
    """
    rows, columns = one[0].shape
    size = 7.4, 1.6 + 6 * 1.2 * max(rows / columns, 0.7)
    figure, halves = subplots(size, 7, 5, height_ratios=[1, 1, 1, 0.15, 1, 1, 1])
    for gap in halves[3]:
        gap.remove()
    every_axes = halves[[0, 1, 2, 4, 5, 6]]
    difference, top = one - other, high or max(one.max(), other.max())
    most = np.abs(difference).max() or 1.0
    for digit in range(10):
        above, below, change_axes = column = every_axes[3 * (digit // 5) :, digit % 5][:3]
        for axes, panel in ((above, one[digit]), (below, other[digit])):
            value = axes.imshow(panel, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
        change = change_axes.imshow(difference[digit], cmap="vlag", vmin=-most, vmax=most, interpolation="nearest")
        down, across = np.nonzero(np.abs(difference[digit]) > half_widths[digit])
        change_axes.plot(across, down, "o", color="black", markersize=2.5)
        above.set_title(str(digit), fontsize="medium")
        for axes in column:
            number_cells(axes, panel.shape, labelleft=digit % 5 == 0, labelbottom=axes is change_axes)
    for row, name in zip(every_axes, (*names, "difference") * 2, strict=True):
        row[0].set_ylabel(name)
    bars = {"location": "bottom", "fraction": 0.03, "pad": 0.01}
    extend = _extend(max(one.max(), other.max()), high)
    figure.colorbar(value, ax=every_axes[:, :3], extend=extend, **bars).set_label("share of all ten maps")
    bar = figure.colorbar(change, ax=every_axes[:, 3:], **bars)
    bar.set_label("difference of shares")
    bar.ax.locator_params(nbins=5)
    return titled(figure, title)


def colour_readings(table, chance, bar, error, title):
    """φ as read from the colours of a published figure against i, a colour a panel, and chance with its band.

    table: DataFrame with columns panel, i, read and limit ("at most" or "at least": an arrow; NaN). chance: columns i,
    mean, low, high. bar: ends of the colour bar. error: what a reading may be off by.
    """
    (figure, axes), (low, high) = subplots((7.5, 4)), bar
    axes.axhspan(0, low, color="0.93", label="black in the figure")
    axes.axhline(high, color="0.4", linewidth=0.8, linestyle="--", label="white in the figure")
    axes.fill_between(chance["i"], chance["low"], chance["high"], color="0.75", label="99 % of chance")
    axes.plot(chance["i"], chance["mean"], color="0.4", linewidth=0.8)
    for n, (name, own) in enumerate(table.groupby("panel", sort=False)):
        ends = {"uplims": own["limit"] == "at most", "lolims": own["limit"] == "at least"}
        look = {"fmt": "o", "markersize": 4, "capsize": 2, "color": sns.color_palette("colorblind")[n], "label": name}
        axes.errorbar(own["i"] + 8 * n, own["read"], error, **ends, **look)  # beside each other
    axes.set(xlabel="$i$", ylabel=r"$\phi$ as read", xticks=chance["i"], ylim=(0, high + 0.02))
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return finished(figure, title)


def reading_intervals(table, title):
    """Readings of maps, a row each: the ratio of two regions with its interval, and whether the ink alone bears it out.

    table: DataFrame with columns reader, digit, says, ratio, low, high, holds, ink; the last two True, False or None.
    """
    figure, axes = subplots((10, 1.6 + 0.27 * len(table)))
    blue, orange = sns.color_palette("colorblind", 2)
    looks = {True: ("o", blue, "holds"), False: ("X", orange, "does not hold"), None: ("d", "0.55", "undecided")}
    place = np.arange(len(table)) + 0.7 * (table["reader"] != table["reader"].iloc[0])
    axes.axvline(1, color="0.4", linewidth=0.8)
    axes.hlines(place, table["low"], table["high"], color="0.6", linewidth=1.2)
    for value, (marker, colour, label) in looks.items():
        own = table["holds"].map(lambda holds, value=value: holds is value)
        axes.plot(table.loc[own, "ratio"], place[own], marker, color=colour, label=label, markersize=6)
        own = table["ink"].map(lambda holds, value=value: holds is value)
        across = axes.get_yaxis_transform()
        axes.plot([1.04] * own.sum(), place[own], marker, color=colour, markersize=6, transform=across, clip_on=False)
    axes.text(1.04, -1, "ink", ha="center", va="bottom", transform=across)
    axes.set_yticks(place, [f"{row.reader}, {row.digit}: {row.says}" for row in table.itertuples()], fontsize="small")
    axes.set(xscale="log", xlabel="bright region / dark region, with its 95 % interval", ylim=(place.max() + 0.7, -0.7))
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if table["low"].min() < tick < table["high"].max()]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", color="0.93")
    figure.legend(frameon=False, ncols=3, loc="outside lower center")
    return finished(figure, title)


def contested(maps, title, bar_label, colours="inferno"):
    """The maps of some digits on several grids, a row a grid, on one scale from 0.

    maps: {grid: {digit: [rows, columns]}}, non-negative.
    """
    figure, every_axes = subplots((8.5, 4.6), len(maps), len(next(iter(maps.values()))))
    high = max(panel.max() for row in maps.values() for panel in row.values())
    for row, (grid, panels) in zip(every_axes, maps.items(), strict=True):
        for axes, (digit, panel) in zip(row, panels.items(), strict=True):
            image = axes.imshow(panel, cmap=colours, vmin=0, vmax=high, interpolation="nearest")
            axes.set_title(str(digit), fontsize="medium")
            number_cells(axes, panel.shape)
        row[0].set_ylabel(grid)
    figure.colorbar(image, ax=every_axes, fraction=0.03).set_label(bar_label)
    return titled(figure, title)


def confusion(counts, title):
    """Images by label (rows) and answer (columns) of the digits that are confused; or Nothing, if none is.

    counts: [10, 10]. The diagonal is in grey, errors are in colour.
    """
    errors = counts * (1 - np.eye(10, dtype=int))
    digits = np.flatnonzero(errors.sum(0) + errors.sum(1))
    if not len(digits):
        return Nothing("every digit is read right")
    shown = np.ix_(digits, digits)
    counts, errors, most = counts[shown], errors[shown], max(errors.max(), 5)
    figure, axes = subplots((2.6 + 0.3 * len(digits), 2 + 0.3 * len(digits)))
    axes.imshow(errors, cmap="rocket_r", vmin=0, vmax=most)
    for label, answer in np.argwhere(counts):
        right = label == answer
        colour = "0.45" if right else "white" if errors[label, answer] > most / 2 else "black"
        axes.text(answer, label, counts[label, answer], ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(len(digits)), digits)
    axes.set_yticks(range(len(digits)), digits)
    axes.set(xlabel="answer", ylabel="label")
    return titled(figure, title)


def worst_errors(images, labels, answers, probabilities, title):
    """The images whose label got the least probability, worst first: [n, h, w], with label, answer and probability."""
    figure, every_axes = subplots((9, 2.1), 1, len(images), squeeze=False)
    for axes, image, *words in zip(every_axes[0], images, labels, answers, probabilities, strict=True):
        axes.imshow(image, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title("{} read as {}\np = {:.3f}".format(*words), fontsize="small")
    return titled(figure, title)


def similarity_dots(table, title):
    """Rank similarities by method: one row a method, one panel for signed maps and one for absolute values.

    table: DataFrame with columns method, with, signed, absolute; `with` names what the maps are compared with.
    """
    figure, every_axes = subplots((9.5, 1.4 + 0.45 * table["method"].nunique()), 1, 2, sharey=True)
    for axes, kind in zip(every_axes, ("signed", "absolute"), strict=True):
        look = {"hue": "with", "jitter": False, "size": 7, "palette": "colorblind", "legend": axes is every_axes[1]}
        sns.stripplot(table, x=kind, y="method", **look, ax=axes)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.grid(axis="y", color="0.9")
        axes.set(xlabel="mean rank correlation", ylabel="", title=f"{kind} maps", xlim=(-0.35, 1))
    every_axes[1].legend(title="compared with", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return finished(figure, title)


def null_dots(agreement, null, title):
    """Agreement of every digit's maps with other trained networks: the network itself, and its randomised copies.

    agreement: [10]. null: [N, 10].
    """
    figure, axes = subplots((8, 4))
    copies, digits = np.indices(null.shape)
    place = digits + 0.5 * (copies / max(len(null) - 1, 1) - 0.5)
    axes.plot(place.ravel(), null.ravel(), "o", color="0.7", markersize=2, label=f"{len(null)} randomised copies")
    axes.plot(range(10), agreement, "D", color=sns.color_palette("colorblind")[0], label="the network under study")
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set(xticks=range(10), xlabel="digit", ylabel="rank correlation with other\ntrained networks' maps")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return finished(figure, title)


def replacement_curves(curves, title):
    """Mean probability of the target while pixels are replaced, with a band of two standard errors.

    curves: {panel title: {order: curves [n, steps + 1]}}; panels stand in rows of two.
    """
    figure, every_axes = subplots((9.5, 1.8 + 1.6 * len(curves)), -(-len(curves) // 2), 2, sharey=True, squeeze=False)
    for axes, (name, orders) in zip(every_axes.flat, curves.items(), strict=True):
        for colour, (order, values) in zip(sns.color_palette("colorblind"), orders.items(), strict=False):
            share = np.linspace(0, 1, values.shape[1])
            mean, error = values.mean(0), values.std(0) / len(values) ** 0.5
            axes.fill_between(share, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.2, linewidth=0)
            axes.plot(share, mean, color=colour, label=f"{order} ({np.trapezoid(mean, share):.3f})")
        axes.set(title=name, xlabel="share of pixels replaced", ylim=(0, 1.02))
        axes.legend(frameon=False, fontsize="small", title="order (area)")
    for axes in every_axes[:, 0]:
        axes.set_ylabel("probability of the target")
    return finished(figure, title)


def numbers(table, title, label, low=None, high=None, decimals=2):
    """A table as colours with its numbers written on them, and a dash where there is none.

    table: DataFrame [rows, columns] of numbers. label: what they are. low, high: ends of the colours.
    """
    rows, columns = table.shape
    figure, axes = subplots((3.4 + 0.95 * columns, 1.7 + 0.36 * rows))
    look = {"cmap": "viridis", "vmin": low, "vmax": high, "fmt": f".{decimals}f", "cbar_kws": {"label": label}}
    sns.heatmap(table, mask=table.isna(), annot=True, ax=axes, linewidths=0.5, annot_kws={"fontsize": "small"}, **look)
    for row, column in np.argwhere(table.isna().to_numpy()):  # which seaborn leaves empty
        axes.text(column + 0.5, row + 0.5, "–", ha="center", va="center", fontsize="small")
    axes.set(xlabel="", ylabel="")
    axes.set_yticks(np.arange(rows) + 0.5, table.index, rotation=0)
    axes.set_xticks(np.arange(columns) + 0.5, table.columns, rotation=25, ha="right")
    return titled(figure, title)


def layer_curves(table, title):
    """Similarity with the trained network's maps while layers are randomised; from the output down.

    table: DataFrame with columns randomised, how, layer, signed, absolute, and the last two with ± for their bars.
    """
    figure, every_axes = subplots((9.5, 3.8), 1, 2, sharey=True)
    for axes, (how, part) in zip(every_axes, table.groupby("how", sort=False), strict=True):
        for colour, kind in zip(sns.color_palette("colorblind"), ("signed", "absolute"), strict=False):
            spread = {"yerr": part[f"{kind} ±"], "capsize": 2, "color": colour, "label": f"{kind} maps"}
            axes.errorbar(part["randomised"], part[kind], fmt="o-", **spread)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xticks(part["randomised"], part["layer"], rotation=90, fontsize="x-small", parse_math=False)
        axes.set(
            title=f"{how}: " + ("this layer and all above" if how == "cascading" else "this layer alone"),
            ylim=(-0.3, 1.02),
        )
        axes.set_xlabel("layer randomised, the output first")
    every_axes[0].set_ylabel("rank correlation with\nthe trained network's maps")
    every_axes[1].legend(frameon=False)
    return finished(figure, title)


def number_cells(axes, shape, **labels):
    """Cell numbers from 0 along both axes; the first and every few of larger grids. labels: which to write."""
    rows, columns = shape
    axes.set_xticks(range(0, columns, 1 + columns // 10))
    axes.set_yticks(range(0, rows, 1 + rows // 10))
    axes.tick_params(length=2, labelsize="x-small", **labels)


def _extend(most, high):
    return "max" if high and most > high else "neither"
