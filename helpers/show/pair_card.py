"""A card of one module and one pair of adapters, laid out once and changed as a slider walks layers and pairs."""

import numpy as np
import seaborn as sns
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from helpers.parameters import BadParameter
from helpers.show import words
from helpers.show.figures import (
    DPI,
    Figure,
    ending,
    grey_line,
    legend,
    logarithmic,
    method_name,
    over_decades,
    plain,
    some,
    sure_dots,
    value_range,
)
from helpers.weights.modules import short_name

ENDS = "output", "input"


class PairCards:
    """The explorer of notebook 06: a pair's cosine by layer, what one writes into the other, what a merge keeps.

    together: a `subspaces.AdaptersTogether`. The card is laid out once; all values fix its scales, so that a step
    changes none. There is none where no cosine is `known`.
    """

    def __init__(self, together):
        self.pairs = together.pairs.assign(sure=together.pairs["cosine_p_holm"] < 0.05)
        self.names = list(dict.fromkeys(zip(self.pairs["one"], self.pairs["other"], strict=True)))
        self.at = _by(self.pairs, "layer", "projection", "one", "other")
        self.into = _by(together.interference, "module", "one", "other")
        self.kept = _by(together.kept, "module", "method", "adapter")
        self.of_kind = {
            kind: rows.sort_values("layer") for kind, rows in self.pairs.groupby(["projection", "one", "other"])
        }
        self.methods = list(dict.fromkeys(method for _, method, _ in self.kept))
        known = self.pairs.dropna(subset="cosine")
        self.known = len(known)
        if self.known:
            self._lay_out(together.layers, len(together.labels))
            self._scale(known["cosine"])
            most = known.loc[known["cosine"].abs().idxmax()]
            pair = most["one"], most["other"]
            self.start = {"layer": most["layer"], "projection": most["projection"], "pair": pair}

    def _lay_out(self, layers, many):
        self.figure = Figure(figsize=(9.8, 4), dpi=DPI)
        sides = {"left": 0.065, "right": 0.985, "bottom": 0.29, "top": 0.82}
        grid = self.figure.add_gridspec(1, 3, width_ratios=[1.25, 1, 0.9], wspace=0.33, **sides)
        self.cosines, self.shares, self.keeping = (self.figure.add_subplot(cell) for cell in grid)
        blue, orange, *_ = sns.color_palette("colorblind")
        self.band = self.cosines.add_collection(LineCollection([], color="0.8", linewidth=4, animated=True))
        self.here = self.cosines.axvline(layers[0], color=orange, linewidth=4, alpha=0.35, animated=True)
        self.curve, self.sure = self._dots(self.cosines, blue, linewidth=0.8, linestyle="-")
        self.share_dots, self.sure_shares = self._dots(self.shares, blue)
        bar = {"color": "0.6", "marker": "|", "linestyle": "", "markersize": 11, "markeredgewidth": 4}
        self.expected = self.keeping.plot([], [], **bar, animated=True)[0]
        self.kept_dots = self.keeping.plot([], [], "o", color=blue, markersize=6, animated=True)[0]
        grey = {"color": "0.4", "linewidth": 0.8}
        self.cosines.axhline(0, **grey)
        self.shares.axvline(1, **grey)
        self.keeping.axvline(1, **grey)
        self.cosines.set(title=r"cosine of the two $\Delta W$", xlabel="layer")
        self.cosines.set(xlim=(layers[0] - 0.6, layers[-1] + 0.6), xticks=[layers[n] for n in some(len(layers), 8)])
        self.shares.set(title="one's action in the other's directions", xlabel="share / chance")
        self.keeping.set(title=f"what a merge of all {many} keeps", xlabel=r"along $\Delta W$ itself (1: all)")
        methods = [*map(method_name, self.methods)]
        self.headings = [*self._rows(self.shares, ENDS), *self._rows(self.keeping, methods)]
        self.title = self.figure.text(0.5, 0.975, "", ha="center", va="top", fontsize="large", animated=True)
        self.title.set_parse_math(False)
        said = [
            *sure_dots(blue),
            Line2D([], [], color="0.8", linewidth=4, label="chance, ± 2 standard deviations"),
            Line2D([], [], color=orange, linewidth=4, alpha=0.35, label="this layer"),
            grey_line("chance; of a merge: all of it"),
            Line2D([], [], **bar, label="what independent ones would keep"),
        ]
        legend(self.figure, said, ncols=3, loc="lower center")
        sns.despine(self.figure)

    def _dots(self, axes, colour, **line):
        """Hollow dots, and those that are filled."""
        look = {"color": colour, "marker": "o", "markersize": 5, "linestyle": "", "animated": True}
        hollow = axes.plot([], [], markerfacecolor="white", **look | line)[0]
        return hollow, axes.plot([], [], **look)[0]

    def _rows(self, axes, names):
        """Name the rows of two groups, and return the texts above the groups."""
        step = len(names) + 1
        axes.set_yticks([n for n in range(2 * step) if n % step], [*names] * 2)
        axes.set_ylim(2 * step - 0.5, -0.6)
        axes.grid(axis="y", color="0.93")
        look = {"fontsize": "small", "va": "center", "animated": True, "transform": axes.get_yaxis_transform()}
        look["bbox"] = {"color": "white", "pad": 0.5, "linewidth": 0}
        return [axes.text(0.02, place, "", **look) for place in (0, step)]

    def _scale(self, cosines):
        low, high = value_range([cosines, [0.0]])
        edge = 0.06 * (high - low) or 0.1
        self.cosines.set_ylim(low - edge, high + edge)
        ratios = np.array([_over_chance(row, end)[0] for row in self.into.values() for end in ENDS])
        if over_decades(ratios[ratios > 0]):
            logarithmic(self.shares, "x", np.append(ratios, 1.0))
        else:
            self.shares.set_xlim(0, 1.06 * max(1.0, value_range([ratios])[1]))
        low, high = value_range([[row.along for row in self.kept.values()], [0.0, 1.0]])
        self.keeping.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))

    def draw(self, layer, projection, pair):
        """The card, its line of numbers, and no cells. Raises BadParameter where there is nothing to show."""
        row = self.at.get((layer, projection, *pair))
        if row is None:
            raise BadParameter(f"layer {layer} has no {projection} that both {pair[0]} and {pair[1]} change")
        if np.isnan(row.cosine):
            raise BadParameter(f"{row.module}: {row.why or 'the cosine is not known'}")
        into = [self.into.get((row.module, *names)) for names in (pair, pair[::-1])]
        kept = [self.kept.get((row.module, method, name)) for name in pair for method in self.methods]
        self._show(self.of_kind[projection, *pair], into, kept)
        self.here.set_xdata([layer, layer])
        names = [plain(ending(name, 15)) for name in pair]
        headings = " into ".join(names), " into ".join(names[::-1]), *(f"of {name}" for name in names)
        for text, heading in zip(self.headings, headings, strict=True):
            text.set_text(heading)
        told = " and ".join(ending(name, 26) for name in pair)
        self.title.set_text(f"{short_name(row.module)}, layer {layer}: {told}")
        return self.figure, self.line(row, into, kept), None

    def _show(self, cosines, into, kept):
        """Change what the card shows. cosines: rows of all layers. into, kept: rows of this one, None where unknown."""
        self.curve.set_data(cosines["layer"], cosines["cosine"])
        self.sure.set_data(*cosines.loc[cosines["sure"], ["layer", "cosine"]].to_numpy().T)
        ends = zip(cosines["layer"], 2 * cosines["cosine_sd"], strict=True)
        self.band.set_segments([[(at, -half), (at, half)] for at, half in ends if np.isfinite(half)])
        shares = [_over_chance(each, end) for each in into for end in ENDS]
        (ratios, sure), places = map(np.array, zip(*shares, strict=True)), self.shares.get_yticks()
        self.share_dots.set_data(ratios, places)
        self.sure_shares.set_data(ratios[sure], places[sure])
        rows = self.keeping.get_yticks()
        self.kept_dots.set_data([each.along if each else np.nan for each in kept], rows)
        self.expected.set_data([each.along_independent if each else np.nan for each in kept], rows)

    def line(self, row, into, kept):
        """The numbers of a module and pair in words."""
        number = words.number
        line = (
            f"{row.module}, {row.one} and {row.other}: {row.verdict}. Cosine {number(row.cosine, 3)}, chance 0 ± "
            f"{number(row.cosine_sd, 4)} (p = {words.p_value(row.cosine_p_holm)}, Holm); φ at i = j = "
            f"{number(row.j, 0)}: left {number(row.phi_left, 3)} (chance {number(row.phi_left_chance, 3)}), right "
            f"{number(row.phi_right, 3)} (chance {number(row.phi_right_chance, 3)})."
        )
        for each in into:
            if each is not None and not np.isnan(each.k):
                shares = ", ".join(f"{end} {_share(each, end)}" for end in ENDS)
                line += f" Share of ‖ΔW‖² of {each.one} in the k = {each.k:.0f} leading of {each.other}: {shares}."
        for name in (row.one, row.other):
            found = [(each.along, method_name(each.method)) for each in kept if each and each.adapter == name]
            if found:
                line += f" A merge of all keeps of {name}: {words.readings(*zip(*found, strict=True))}."
        return line


def _by(table, *keys):
    """{values of the keys: row as a named tuple}."""
    return dict(zip(zip(*(table[key] for key in keys), strict=True), table.itertuples(index=False), strict=True))


def _over_chance(row, end):
    """(share over chance, whether it is beyond) of a row of interference."""
    if row is None:
        return np.nan, False
    return getattr(row, end) / getattr(row, f"{end}_chance"), getattr(row, f"{end}_p_holm") < 0.05


def _share(row, end):
    return f"{words.number(getattr(row, end), 3)} (chance {words.number(getattr(row, f'{end}_chance'), 3)})"
