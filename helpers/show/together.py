"""What several adapters of one model are to each other: tables → figures."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from helpers.show.atlas import HATCH, SLANTED
from helpers.show.figures import (
    below,
    ending,
    finished,
    folded,
    looks,
    pair_name,
    plain,
    some,
    subplots,
    sure_dots,
    titled,
    value_range,
    wrapped,
)
from helpers.show.words import number
from helpers.values import Nothing, passing

WRITTEN = 12  # adapters; of more of them a matrix has no numbers in its cells
LEAST_SPREADS = 5  # a scale of cosines that ends at fewer standard deviations would show noise in full colour
GREY = {"facecolor": "0.9", "edgecolor": "0.7"}
PALE = {"color": "0.8", "linewidth": 0.7, "zorder": 1}
OFFSETS = np.array([[x * r, y * r] for r in (7, 18, 32) for y in (0, 1, -1) for x in (1, -1, 0) if x or y])  # points


@passing
def agreement(matrix, title, chance=None):
    """Cosines of adapters with each other, with numbers in the cells where there are few; NaN is hatched.

    matrix: DataFrame [labels, labels], of which the diagonal is not read. chance: standard deviation of a cosine of
    independent adapters, or those of all pairs, of which the least and the greatest are drawn in the colour bar.
    """
    many, names = len(matrix), [plain(ending(str(name), 24)) for name in matrix.index]
    values = np.where(np.eye(many, dtype=bool), np.nan, matrix.to_numpy(float))
    ends = value_range([values, [0.0]])
    spreads = value_range([[] if chance is None else chance])
    half = max(-ends[0], ends[1], LEAST_SPREADS * spreads[0]) or 1.0
    side = np.clip(0.62 * many, 1.9, 7.4)
    figure, axes = subplots((side + 3.4, side + 2))
    axes.patch.set(**HATCH)
    image = axes.imshow(values, cmap="vlag", vmin=-half, vmax=half, interpolation="nearest")
    for place in range(many):
        axes.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, color="0.75", linewidth=0))
    for (down, over), value in np.ndenumerate(values):
        if many <= WRITTEN and np.isfinite(value):
            look = {"color": "white" if abs(value) > 0.7 * half else "black", "fontsize": "small"}
            axes.text(over, down, number(value, 3), ha="center", va="center", **look)
    places = some(many, 30)
    axes.set_xticks(places, [names[place] for place in places], **SLANTED)
    axes.set_yticks(places, [names[place] for place in places])
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.06, pad=0.03, aspect=18)
    bar.set_label(r"cosine of two $\Delta W$, over all modules")
    bar.ax.set_ylim(min(ends[0], -0.1 * half), max(ends[1], 0.1 * half))
    said = [Patch(color="0.75", linewidth=0, label="with itself")]
    if spreads[1]:
        levels = dict.fromkeys(2 * each for each in spreads)
        for level in (*levels, *(-each for each in levels)):
            line = bar.ax.axhline(level, color="black", linewidth=1)
        told = " to ".join(f"{level:.2g}" for level in levels)
        line.set_label(f"± 2 standard deviations of chance, {told}, in the bar")
        said.append(line)
    if np.isnan(values).sum() > many:
        said.append(Patch(**HATCH, label="no value"))
    below(figure, said)
    return titled(figure, title)


@passing
def adapter_map(map, error, title):
    """Adapters as points of a plane, with their names. What has no place is named below.

    map: DataFrame with columns x and y, a row an adapter. error: by how much of itself a distance is off, at the most.
    """
    placed = map[np.isfinite(map[["x", "y"]]).all(axis=1)]
    if placed.empty:
        return Nothing("no adapter has a place in the plane")
    figure, axes = subplots((6.4, 5))
    for name, look in looks(map.index).items():
        if name in placed.index:
            axes.plot(*placed.loc[name, ["x", "y"]], linestyle="", markersize=7, label=str(name), **look)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.2)
    told = f"distance: √(2 − 2 cos), off by {100 * error:.0f} % of itself at the most"
    if len(placed) < len(map):
        told += f"\nwithout a place: {plain(', '.join(map.index.difference(placed.index, sort=False)))}"
    axes.set_xlabel(told)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    finished(figure, title)
    figure.draw_without_rendering()
    _name_dots(axes)
    return figure


@passing
def pairs_by_layer(pairs, column, title, label, chance="", spread="", p=""):
    """A measure of pairs over the layers: a panel a projection, a line a pair, with chance in grey.

    pairs: columns projection, layer, one, other and those named: column, chance (its mean; empty: 0 where there is a
    spread), spread (its standard deviation, drawn twice either way) and p (corrected; a dot is filled below 0.05). The
    chance of a pair that has another than most has its colour. Of more than six pairs those furthest from chance in the
    median are told apart.
    """
    rows = pairs.assign(pair=list(zip(pairs["one"], pairs["other"], strict=True)))
    rows = rows.assign(level=rows[chance] if chance else 0.0, half=2 * rows[spread] if spread else 0.0)
    far = (rows[column] - rows["level"]).abs().groupby(rows["pair"], sort=False).median()
    few = far.nlargest(6).index
    styles = looks(pair for pair in far.index if pair in few or len(far) <= 6)
    said = [Line2D([], [], label=pair_name(pair, " · "), **look, markersize=4.5) for pair, look in styles.items()]
    if len(far) > len(styles):
        said.append(Line2D([], [], **PALE, label=f"the other {len(far) - len(styles)} pairs"))
    bands = _chances(rows, styles) if spread or chance else {}
    said += [Patch(label=f"chance{' ± 2 standard deviations' * bool(spread)}", **GREY)] * bool(bands)
    said += [Patch(label=f"chance of {pair_name(pair, ' · ')}", **look) for (pair, *_), look in [*bands.items()][1:]]
    kinds, layers = rows["projection"].unique(), sorted(rows["layer"].unique())
    lines, across = wrapped(len(kinds), 3)
    size = 0.7 + 3.3 * across if across > 1 else 6.4, 1.3 + 2.3 * lines + 0.2 * len(styles)
    figure, every_axes = subplots(size, lines, across, count=len(kinds), squeeze=False, sharex=True, sharey=True)
    for axes, kind in zip(every_axes.flat, kinds, strict=False):
        here = rows[rows["projection"] == kind].sort_values("layer")
        for of, look in bands.items():
            _band(axes, here[[pair in of for pair in here["pair"]]], look)
        for pair, own in here.groupby("pair", sort=False):
            if pair not in styles:
                axes.plot(own["layer"], own[column], **PALE, marker="." if len(own) == 1 else "")
                continue
            look = styles[pair]
            axes.plot(own["layer"], own[column], markersize=4.5, linewidth=0.9, **look, markerfacecolor="white")
            if p:
                sure = own[own[p] < 0.05]
                axes.plot(sure["layer"], sure[column], linestyle="", markersize=4.5, **look)
        axes.set_title(folded(kind, 3.2), fontsize="medium")
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("layer")
    every_axes[0, 0].set_xticks([layers[place] for place in some(len(layers), 8)])
    for axes in every_axes[:, 0]:
        axes.set_ylabel(label)
    below(figure, said + sure_dots() * bool(p))
    return finished(figure, title)


@passing
def drift(drift, title):
    """How the checkpoints of a run come to its end: agreement with the end, the norm, and what is kept of A.

    drift: columns checkpoint (in order, the end last), module, norm, cosine_end, phi_left_end, phi_right_end, kept_a,
    kept_a_chance (NaN: not known). Of several modules, the line is the median and the shade is from least to greatest.
    """
    names = list(drift["checkpoint"].unique())
    ends = drift[drift["checkpoint"] == names[-1]].set_index("module")["norm"]
    drift = drift.assign(relative=drift["norm"] / drift["module"].map(ends))
    table, shaded = drift.groupby("checkpoint", sort=False), drift["module"].nunique() > 1
    agreeing = {"cosine_end": r"cosine of $\Delta W$", "phi_left_end": r"$\phi$ left", "phi_right_end": r"$\phi$ right"}
    panels = {
        "agreement with the end": agreeing,
        r"$\Vert\Delta W\Vert_F$ / that of the end": {"relative": r"norm of $\Delta W$"},
        "kept of the untrained A": {"kept_a": r"$\phi$ with the untrained A"},
    }
    figure, every_axes = subplots((8.4, 3.5), 1, 3)
    styles, said = iter(looks(range(5)).values()), {}
    for axes, (label, lines) in zip(every_axes, panels.items(), strict=True):
        for column, words in lines.items():
            low, middle, high = (table[column].agg(how).to_numpy(float) for how in ("min", "median", "max"))
            look = next(styles)
            if shaded:
                axes.fill_between(range(len(names)), low, high, color=look["color"], alpha=0.18, linewidth=0)
            said[words] = axes.plot(range(len(names)), middle, label=words, **look)[0]
        if column == "kept_a":
            level = table["kept_a_chance"].median()
            said["chance"] = axes.plot(range(len(names)), level, color="0.4", linewidth=1.2, label="chance")[0]
            if not np.isfinite(middle).any():
                axes.patch.set(**HATCH)
                axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", backgroundcolor="white")
        shown = value_range([line.get_ydata() for line in axes.lines])
        axes.set_ylim(min(0, 1.05 * shown[0]), max(1.05, 1.05 * shown[1]))
        axes.set_title(label, fontsize="medium")
        crowded = sum(len(str(name)) + 2 for name in names) > 36
        places = some(len(names), 12)
        axes.set_xticks(
            places, [plain(ending(str(names[place]), 20)) for place in places], **SLANTED if crowded else {}
        )
        axes.set_xlim(-0.3, len(names) - 0.7)
    shade = [Patch(color="0.85", linewidth=0, label="least to greatest module")] * shaded
    below(figure, [*said.values(), *shade])
    return finished(figure, title)


def _chances(rows, styles):
    """{pairs: look of the band of their chance}: first those with the chance of most, then each that has another."""
    of_pair = rows.groupby("pair", sort=False)[["level", "half"]].median().round(9)
    alike = of_pair.groupby(["level", "half"], dropna=False).ngroup()
    most = alike == alike.mode()[0]
    others = [pair for pair in of_pair.index[~most] if pair in styles]
    return {tuple(of_pair.index[most]): GREY} | {
        (pair,): {"color": styles[pair]["color"], "alpha": 0.2} for pair in others
    }


def _band(axes, rows, look):
    """Chance over the layers, a line where it has no width."""
    bounds = rows.assign(low=rows["level"] - rows["half"], high=rows["level"] + rows["half"])
    bounds = bounds.groupby("layer").agg(low=("low", "min"), high=("high", "max"))
    if len(bounds) == 1:
        axes.axhspan(*bounds.iloc[0], linewidth=1, zorder=0, **look)
    else:
        axes.fill_between(bounds.index, bounds["low"], bounds["high"], linewidth=1, zorder=0, **look)


def _name_dots(axes):
    """Write the label of each line's one dot beside it, where it covers the least of dots and of other names."""
    dots = axes.transData.transform([line.get_xydata()[0] for line in axes.lines])
    taken, pixels = [Bbox([dot - 7, dot + 7]) for dot in dots], axes.figure.dpi / 72
    for line, dot in zip(axes.lines, dots, strict=True):
        look = {"fontsize": "small", "arrowprops": {"arrowstyle": "-", "color": "0.6", "shrinkA": 0, "shrinkB": 4}}
        at = {"xytext": (0, 0), "textcoords": "offset points"}
        text = axes.annotate(plain(ending(line.get_label(), 24)), line.get_xydata()[0], **at, **look)
        text.set_in_layout(False)
        size = Text.get_window_extent(text).size
        places = [
            Bbox.from_bounds(*(dot + pixels * offset + size * (np.sign(offset) - 1) / 2), *size) for offset in OFFSETS
        ]
        costs = [_covered(box, taken, axes.figure.bbox) for box in places]
        best = int(np.argmin(costs))
        across, up = np.sign(OFFSETS[best]).astype(int) + 1
        text.set(position=OFFSETS[best], ha=("right", "center", "left")[across], va=("top", "center", "bottom")[up])
        taken.append(places[best])


def _covered(box, others, whole):
    """Area that a box has in common with others, and that it has outside of the whole."""
    shared = [each.width * each.height for other in others if (each := Bbox.intersection(box, other))]
    inside = Bbox.intersection(box, whole)
    return sum(shared) + box.width * box.height - (inside.width * inside.height if inside else 0)
