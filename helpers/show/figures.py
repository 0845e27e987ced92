"""What figures share: their look and title, panels, names, legends and logarithmic axes."""

import textwrap
from functools import cache

import matplotlib.figure
import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

DPI = 120  # of figures that sliders move
MARKERS = "osD^vPX<>*"
DECADES = 20  # greatest over least, from which on a scale is logarithmic


class Figure(matplotlib.figure.Figure):
    """A figure in the look of ours. The first sets it for the process: drawing, much later, asks for it as well."""

    def __init__(self, *given, **named):
        _set_look()
        super().__init__(*given, **named)


@cache
def _set_look():
    sns.set_theme(context="paper", style="ticks", font_scale=1.1)


def subplots(inches, *shape, count=None, **named):
    """(a figure of so many inches, its axes), as `Figure.subplots` gives them; those beyond `count` are removed."""
    figure = Figure(figsize=inches, layout="constrained")
    every_axes = figure.subplots(*shape, **named)
    if count is not None:
        for spare in every_axes.flat[count:]:
            spare.remove()
    return figure, every_axes


def finished(figure, title):
    """The figure with its title, and axes that are open above and on the right."""
    sns.despine(figure)
    return titled(figure, title)


def titled(figure, title):
    """The figure with its title, broken into lines that fit its width."""
    figure.suptitle(fitted(title, figure), fontsize="large", parse_math=False)
    return figure


def fitted(title, figure):
    """A title in lines that fit the figure's width, of which none ends inside an equation."""
    return textwrap.fill(title.replace(" = ", "\u00a0=\u00a0"), round(10 * figure.get_figwidth()))


def value_range(grids):
    """Least and greatest finite value of some arrays; (0, 0) if there is none."""
    values = np.concatenate([np.ravel(grid) for grid in grids])
    values = values[np.isfinite(values)]
    return (values.min(), values.max()) if values.size else (0.0, 0.0)


def looks(names):
    """A colour and a marker for each name."""
    colours = [colour for colour in sns.color_palette("colorblind") if len(set(colour)) > 1]  # grey is chance's
    return {
        name: {"color": colours[place % len(colours)], "marker": MARKERS[place % len(MARKERS)]}
        for place, name in enumerate(names)
    }


def plain(name):
    """A name as text that draws as it stands, in which a dollar sign begins no formula."""
    return str(name).replace("$", r"\$")


def named(name):
    """A name for a legend."""
    return plain(ending(str(name), 32))


def ending(name, most):
    """The end of a name that is longer than so many letters."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def folded(name, inches):
    """A name as a title above so many inches."""
    return plain(textwrap.fill(str(name), max(8, int(11 * inches))))


def legend(place, artists, **where):
    """A legend of these artists alone, whose names may begin as they like: matplotlib passes over an underscore."""
    look = {"frameon": False, "fontsize": "small"}
    return place.legend(artists, [artist.get_label() for artist in artists], **look, **where)


def wrapped(count, most):
    """(lines, how many in each) of so many panels, of which `most` stand side by side."""
    lines = -(-count // max(most, 1))
    return lines, -(-count // lines)


def some(count, most):
    """Places of at most so many of `count`, evenly."""
    return range(0, count, -(-count // max(int(most), 1)))


def over_decades(values):
    """Whether all of some values lie above 0 and the greatest far above the least."""
    low, high = value_range([values])
    return low > 0 and high > DECADES * low


def logarithmic(axes, which, values):
    """Make the axis "x" or "y" logarithmic over those of some values that lie above 0, with few numbers along it."""
    values = np.asarray(values, float)
    ends = value_range([values[values > 0]])
    ends = (ends[0] / 1.15, ends[1] * 1.15) if ends[1] else (0.5, 2)
    axes.set(**{f"{which}scale": "log", f"{which}lim": ends})
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(*log_ticks(*ends))
    axis.set_minor_locator(NullLocator())


def log_ticks(low, high):
    """(places, labels) of a logarithmic axis, some seven at most."""
    places = [digit * 10.0**power for power in range(-15, 16) for digit in (1, 2, 5)]
    inside = [place for place in places if low <= place <= high]
    if len(inside) > 7:
        inside = [place for place in places[::3] if low <= place <= high]
        inside = inside[:: 1 + len(inside) // 8]
    inside = inside or [(low * high) ** 0.5]
    few = [f"{place:.3g}" if 1e-3 <= place < 1e5 else f"$10^{{{np.log10(place):.0f}}}$" for place in inside]
    return inside, few


def pair_name(pair, between):
    """Two names as one."""
    return plain(between.join(ending(str(name), 20) for name in pair))


def method_name(method):
    """A method of merging as it is written."""
    return {"ties": "TIES"}.get(method, method)


def below(figure, artists):
    """A legend below a figure, in as many columns as it has room for."""
    longest = max(len(artist.get_label()) for artist in artists)
    columns = max(1, min(5, int(11.5 * figure.get_figwidth()) // (longest + 5)))
    legend(figure, artists, ncols=columns, loc="outside lower center")


def grey_line(label):
    """Chance, or another level, for a legend."""
    return Line2D([], [], color="0.4", linewidth=1, label=label)


def sure_dots(colour="0.3"):
    """What a filled and a hollow dot say, for a legend."""
    look = {"color": colour, "marker": "o", "linestyle": "", "markersize": 4}
    unsure = {"label": "within chance, or not tested", "markerfacecolor": "none"}
    return [Line2D([], [], label="p < 0.05, corrected", **look), Line2D([], [], **unsure, **look)]
