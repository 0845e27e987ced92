"""What a merge of adapters writes over, and what it keeps of each: tables → figures."""

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from helpers.show.figures import (
    below,
    ending,
    finished,
    folded,
    grey_line,
    logarithmic,
    looks,
    method_name,
    over_decades,
    pair_name,
    plain,
    subplots,
    sure_dots,
    value_range,
)
from helpers.values import passing

VERDICTS = {  # {column of counts: (what it says, colour, hatch)}
    "apart": ("apart: within chance, or less than a tenth", "#d9d9d9", ""),
    "agree": ("agree", "#7fb8e0", ""),
    "share_a_place": ("share a place", "#f0b040", "////"),
    "against": ("against each other", "#d55e00", "xxxx"),
}


@passing
def interference_panels(interference, title, n=24):
    """Share of one adapter's action that falls in another's subspaces, over chance: output and input, a dot a module.

    interference: columns one, other (one writes into other), and of output and input: itself, _chance and _p_holm. n:
    how many ordered pairs at most, those with the greatest median.
    """
    sides = "output", "input"
    rows = interference.assign(pair=list(zip(interference["one"], interference["other"], strict=True)))
    rows = rows.assign(**{f"{side}_ratio": rows[side] / rows[f"{side}_chance"] for side in sides})
    medians = rows.groupby("pair", sort=False)[[f"{side}_ratio" for side in sides]].median()
    shown = medians.index if len(medians) <= n else medians.max(axis=1).nlargest(n).index
    figure, every_axes = subplots((8.4, 1.6 + 0.34 * len(shown)), 1, 2, sharey=True, sharex=True)
    every = rows.loc[rows["pair"].isin(shown), [f"{side}_ratio" for side in sides]].to_numpy(float)
    blue = sns.color_palette("colorblind")[0]
    for axes, side in zip(every_axes, sides, strict=True):
        axes.axvline(1, color="0.4", linewidth=1)
        for place, pair in enumerate(shown):
            own = rows[rows["pair"] == pair]
            _strip(axes, place, own[f"{side}_ratio"], blue, "o", own[f"{side}_p_holm"] < 0.05)
        axes.set(xlabel=f"share in the other's\n{side} directions / chance", ylim=(len(shown) - 0.4, -0.6))
        axes.grid(axis="y", color="0.93")
    if over_decades(every[every > 0]):
        logarithmic(every_axes[0], "x", np.append(every, 1.0))
    else:
        every_axes[0].set_xlim(0, 1.06 * max(1.0, value_range([every])[1]))
    every_axes[0].set_yticks(range(len(shown)), [pair_name(pair, " into ") for pair in shown], fontsize="small")
    said = [grey_line("chance"), _median()]
    if len(shown) < len(medians):
        said.append(Line2D([], [], linestyle="", label=f"{n} of {len(medians)}, with the greatest medians"))
    below(figure, sure_dots(blue) + said)
    return finished(figure, title)


@passing
def verdicts(by_pair, title, n=30):
    """In how many modules each pair of adapters is apart, agrees, shares a place or goes against each other.

    by_pair: columns one, other and those of VERDICTS. n: how many pairs at most, those with the most that is against
    each other or shares a place.
    """
    shown = by_pair
    if len(by_pair) > n:
        shown = by_pair.loc[(by_pair["against"] + by_pair["share_a_place"]).nlargest(n).index]
    figure, axes = subplots((7.6, 1.5 + 0.32 * len(shown)))
    most = max(1, shown[list(VERDICTS)].sum(axis=1).max())
    left, narrow, said = np.zeros(len(shown)), [[] for _ in range(len(shown))], []
    for column, (words, colour, hatch) in VERDICTS.items():
        counts = shown[column].to_numpy(float)
        look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
        said.append(axes.barh(range(len(shown)), counts, 0.72, left, label=words, **look))
        for place in np.flatnonzero(counts):
            if counts[place] < 0.045 * most:
                narrow[place].append(f"{column.replace('_', ' ')} {counts[place]:.0f}")
                continue
            white = {"boxstyle": "round,pad=0.15", "color": "white", "linewidth": 0} if hatch else None
            at = left[place] + counts[place] / 2, place
            axes.text(*at, f"{counts[place]:.0f}", ha="center", va="center", fontsize="small", bbox=white)
        left += counts
    for place, told in enumerate(narrow):
        axes.annotate(
            ", ".join(told), (left[place], place), (4, 0), textcoords="offset points", va="center", fontsize="small"
        )
    axes.set_yticks(
        range(len(shown)), [pair_name(pair, " · ") for pair in zip(shown["one"], shown["other"], strict=True)]
    )
    axes.set(xlabel="modules", xlim=(0, most), ylim=(len(shown) - 0.4, -0.6))
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(shown) < len(by_pair):
        said.append(Line2D([], [], linestyle="", label=f"{n} of {len(by_pair)} pairs: most of the last two"))
    below(figure, said)
    return finished(figure, title)


@passing
def kept(kept, title):
    """What a merge keeps of each adapter, and what else it does: a panel a method, a row an adapter, a dot a module.

    kept: columns method, adapter, along (1: all of ΔW is there), off (in units of ‖ΔW‖), along_independent and
    off_independent, what independent adapters would give (NaN: not known), of which the median is drawn.
    """
    methods, styles = kept["method"].unique(), looks(kept["adapter"].unique())
    measures = {"along": r"kept of $\Delta W$ along itself", "off": r"the rest of the merge / $\Vert\Delta W\Vert_F$"}
    size = 1.6 + 2.3 * len(methods), 1.6 + 2 * (0.75 + 0.3 * len(styles))
    figure, every_axes = subplots(size, 2, len(methods), squeeze=False, sharex="row", sharey=True)
    for line, (column, label) in zip(every_axes, measures.items(), strict=True):
        for axes, method in zip(line, methods, strict=True):
            axes.axvline(float(column == "along"), color="0.4", linewidth=1)
            for place, (name, look) in enumerate(styles.items()):
                own = kept[(kept["method"] == method) & (kept["adapter"] == name)]
                _strip(axes, place, own[column], look["color"], look["marker"])
                level = own[f"{column}_independent"].median()
                axes.plot([level, level], [place - 0.45, place + 0.45], color="0.8", linewidth=6, zorder=1)
            axes.set_xlabel(label)
            axes.grid(axis="y", color="0.93")
        if column == "off" and over_decades(kept["off"]):
            logarithmic(line[0], "x", kept["off"])
            continue
        low, high = value_range([kept[column], [0.0, 1.0]])
        line[0].set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        line[0].xaxis.get_major_locator().set_params(nbins=5)
    for axes, method in zip(every_axes[0], methods, strict=True):
        axes.set_title(folded(method_name(method), 2.8), fontsize="medium")
    every_axes[0, 0].set_yticks(range(len(styles)), [plain(ending(str(name), 22)) for name in styles])
    every_axes[0, 0].set_ylim(len(styles) - 0.4, -0.6)
    dot = Line2D([], [], color="0.3", marker="o", linestyle="", markersize=3, label="a module")
    independent = Line2D([], [], color="0.8", linewidth=6, label="what independent ones would give")
    below(figure, [dot, _median(), independent, grey_line("the ideal: all of it and nothing else")])
    return finished(figure, title)


@passing
def merge_accuracy(measured, title):
    """What merged models answer: a row a pair and task, a mark a method, beside the adapter alone and no adapter.

    measured: columns one, other, task, method, accuracy, alone and, where it is known, before, of pairs in their order;
    where texts, on how many it was measured, is known, each merge has a bar of two standard errors on either side.
    """
    places = list(dict.fromkeys(measured[["one", "other", "task"]].itertuples(index=False, name=None)))
    styles, grey = looks(measured["method"].unique()), {"color": "0.4", "linestyle": ""}
    known = {"alone": {"marker": "D", "markersize": 6, "label": "the adapter alone", **grey}}
    if "before" in measured:
        known["before"] = {"marker": "|", "markersize": 9, "label": "without adapter", **grey}
    figure, axes = subplots((8.6, 1.5 + 0.36 * len(places)))
    bars = {"linewidth": 1.0, "alpha": 0.6}
    beside = dict(zip(styles, np.linspace(-0.24, 0.24, len(styles)) * (len(styles) > 1), strict=True))
    for (*pair, task), rows in measured.groupby(["one", "other", "task"], sort=False):
        place = places.index((*pair, task))
        for column, look in known.items():
            axes.plot(rows[column].iloc[0], place, **look)
        for row in rows.itertuples():
            at, look = place + beside[row.method], styles[row.method]
            axes.plot(row.accuracy, at, linestyle="", markersize=5, **look, alpha=0.85)
            if "texts" in measured:
                error = 2 * np.sqrt(row.accuracy * (1 - row.accuracy) / row.texts)
                axes.plot([row.accuracy - error, row.accuracy + error], [at, at], color=look["color"], **bars)
    names = [f"{pair_name(pair, ' · ')}: {plain(task)}" for *pair, task in places]
    axes.set_yticks(range(len(places)), names, fontsize="small")
    axes.set(xlabel="accuracy on held-out texts", ylim=(len(places) - 0.4, -0.6))
    axes.grid(axis="y", color="0.93")
    said = [Line2D([], [], **look) for look in known.values()]
    said += [Line2D([], [], linestyle="", label=method_name(name), **look) for name, look in styles.items()]
    if "texts" in measured:
        said.append(Line2D([], [], color="0.4", label="± 2 standard errors", **bars))
    below(figure, said)
    return finished(figure, title)


def _strip(axes, place, values, colour, marker, sure=None):
    """Dots of modules on a row, in the table's order from top to bottom, and their median; hollow where not sure."""
    at = place + np.linspace(-0.28, 0.28, len(values)) * (len(values) > 1)
    sure = np.full(len(values), True) if sure is None else sure.to_numpy()
    look = {"color": colour, "marker": marker, "linestyle": "", "markersize": 3.5, "markeredgewidth": 0.7}
    axes.plot(values[~sure], at[~sure], markerfacecolor="none", alpha=0.6, **look)
    axes.plot(values[sure], at[sure], alpha=0.6, **look)
    axes.plot([values.median()] * 2, [place - 0.38, place + 0.38], color="black", linewidth=1.8)


def _median():
    return Line2D([], [], color="black", linewidth=1.8, label="median of the modules")
