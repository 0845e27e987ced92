"""Figures that sliders move: laid out once, then changed. What moves is animated, so that a step redraws only that."""

import numpy as np
import seaborn as sns
from matplotlib.colors import Normalize

from helpers.show import maps
from helpers.show.figures import DPI, Figure

BINS = 50


class LawRow:
    """The law of φ beside draws from it, its bands against i, and the power to notice more than chance."""

    def __init__(self):
        self.figure = Figure(figsize=(10.4, 4.1), dpi=DPI)
        grid = self.figure.add_gridspec(1, 3, left=0.07, right=0.985, bottom=0.13, top=0.83, wspace=0.28)
        self.law, self.bands, self.power = (self.figure.add_subplot(cell) for cell in grid)
        colours = sns.color_palette("colorblind")
        self.bars = self.law.stairs(np.zeros(BINS), np.linspace(0, 1, BINS + 1), fill=True, color="0.82", label="draws")
        self.laws = {
            name: self.law.plot([], [], color=colour, label=name)[0]
            for name, colour in zip(("matched Beta", "normal"), colours, strict=False)
        }
        self.mean = self.bands.plot([], [], color="0.3", label="chance")[0]
        self.limits = {
            name: [
                self.bands.plot([], [], style, color=colours[0], linewidth=1, label=label)[0] for label in (name, None)
            ]
            for name, style in (("90 % of chance", "-"), ("99.9 %", ":"))
        }
        self.ring = self.bands.plot([], [], "o", color="black", markerfacecolor="none")[0]
        self.curves = {
            name: self.power.plot([], [], color=colour, label=name)[0]
            for name, colour in zip(("5 % at one cell", "5 % over all i · j cells"), colours[2:], strict=False)
        }
        self.power.axhline(0.9, color="0.6", linewidth=0.8, linestyle="--", label="nine times in ten")
        self.law.set(title="law at one $(i, j)$", xlabel=r"$\phi$", ylabel="density")
        self.bands.set(title="chance along $i$", xlabel="$i$", ylabel=r"$\phi$")
        self.power.set(title="what is noticed", xlabel=r"mean $\phi$ / chance", ylabel="probability to notice it")
        self.power.set_ylim(0, 1.02)
        self.law.ticklabel_format(axis="y", scilimits=(-3, 4))
        for axes in (self.law, self.bands, self.power):
            axes.legend(frameon=False, fontsize="small", loc="lower right" if axes is self.power else "upper right")
        self.title = self.figure.text(0.5, 0.975, "", ha="center", va="top", fontsize="large", animated=True)
        sns.despine(self.figure)
        moving = [self.bars, self.mean, self.ring, *self.laws.values(), *self.curves.values()]
        moving += [line for lines in self.limits.values() for line in lines]
        moving += [axis for axes in (self.law, self.bands, self.power) for axis in (axes.xaxis, axes.yaxis)]
        for artist in moving:
            artist.set_animated(True)

    def show(self, draws, laws, i, mean, limits, cell, power, title):
        """Change the figure, and return it.

        draws: φ of random pairs. laws: (x, {label: density}). i, mean: rows and chance there. limits: {label: (high,
        low)}. cell: (i, φ) of the ring. power: (ratios to chance, {label: probability}). Labels: the legends'.
        """
        self.bars.set_data(*np.histogram(draws, BINS, density=True))
        x, densities = laws
        for name, line in self.laws.items():
            line.set_data(x, densities[name])
        self.mean.set_data(i, mean)
        for name, lines in self.limits.items():
            for line, values in zip(lines, limits[name], strict=True):
                line.set_data(i, values)
        self.ring.set_data([cell[0]], [cell[1]])
        ratios, probabilities = power
        for name, line in self.curves.items():
            line.set_data(ratios, probabilities[name])
        most = max(*(values.max() for values in densities.values()), self.bars.get_data().values.max())
        self.law.set_xlim(x[0], x[-1])  # `set` would have everything drawn again
        self.law.set_ylim(0, 1.35 * most)
        self.bands.set_xlim(0, 1.03 * i[-1])
        self.bands.set_ylim(0, 1.4 * max(high.max() for high, _ in limits.values()))
        self.power.set_xlim(ratios[0], ratios[-1])
        self.title.set_text(title)
        return self.figure


class DigitPanels:
    """One image, its map, and that of a copy with shuffled layers; below, the mean ink and maps of its digit."""

    def __init__(self):
        self.figure = Figure(figsize=(7.4, 5.5), dpi=DPI)
        grid = self.figure.add_gridspec(2, 3, left=0.05, right=0.85, bottom=0.06, top=0.87, wspace=0.15, hspace=0.3)
        self.panels = [self.figure.add_subplot(cell) for cell in grid]
        self.scales = [Normalize(0, 1), Normalize(-1, 1), Normalize(-1, 1), Normalize(0, 1), *[Normalize(0, 1)] * 2]
        colours = ["Greys", "vlag", "vlag", "Greys", "inferno", "inferno"]
        self.images = [
            axes.imshow(np.zeros((1, 1)), norm=norm, cmap=cmap, interpolation="nearest", animated=True)
            for axes, norm, cmap in zip(self.panels, self.scales, colours, strict=True)
        ]
        self.titles = [
            axes.text(0.5, 1.02, "", transform=axes.transAxes, ha="center", va="bottom", animated=True)
            for axes in self.panels
        ]
        for axes in self.panels:
            for spine in axes.spines.values():
                spine.set(animated=True, zorder=3)
        bars = [self.figure.add_axes((0.88, bottom, 0.016, 0.34), animated=True) for bottom in (0.51, 0.07)]
        self.figure.colorbar(self.images[1], cax=bars[0]).set_label("share of the map's extreme")
        self.bar = self.figure.colorbar(self.images[5], cax=bars[1])
        self.title = self.figure.text(0.5, 0.985, "", ha="center", va="top", fontsize="large", animated=True)
        self.shown = None

    def show(self, single, means, titles, title, colours, high, bar_label):
        """Change the figure, and return it.

        single: (image in [0, 1], map, map in [−1, 1]) of one shape. means: (ink, map, map) on the grid, ≥ 0.
        titles: of the six. colours: colour map of the last two, high: its end.
        """
        wanted = single[0].shape, means[0].shape, colours
        if wanted != self.shown:
            self.shown = wanted
            for axes, image, panel in zip(self.panels, self.images, (*single, *means), strict=True):
                rows, columns = panel.shape
                image.set_extent((-0.5, columns - 0.5, rows - 0.5, -0.5))
                maps.number_cells(axes, panel.shape)
            for image in self.images[4:]:
                image.set_cmap(colours)
        for image, panel in zip(self.images, (*single, *means), strict=True):
            image.set_data(panel)
        self.scales[3].vmax = means[0].max() or 1.0
        self.scales[5].vmax = high or 1.0
        for place, words in zip(self.titles, titles, strict=True):
            place.set_text(words)
        self.bar.set_label(bar_label)
        self.title.set_text(title)
        return self.figure
