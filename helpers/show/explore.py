"""Explorers: a figure function and its axes, declared once → sliders in Jupyter, frames in a page, a figure at rest."""

import base64
import html
import io
import itertools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tqdm import tqdm

from helpers.frames import ASKED, FEW, LINE, MIME, Frozen, FrozenAxis, FrozenCells, FrozenPanel, FrozenValue
from helpers.values import Refused

BUDGET = 4_000_000  # bytes that an explorer may take of a page


@dataclass(frozen=True)
class Axis:
    """What one control moves.

    name: of a parameter, or of two for a range with a low and a high end. values: in order. word: value → its text.
    kinds: whether the values are kinds, to be picked, and not steps, to be slid along. in_page: the values that a page
    has; None: all; empty: only the one at rest. needs: (name, value) of another axis without which this one has no say,
    and its first value counts.
    """

    name: str | tuple[str, str]
    values: tuple
    label: str
    help: str = ""
    word: Callable = str
    kinds: bool = False
    in_page: tuple | None = None
    needs: tuple | None = None

    def rests(self, state):
        """Whether the axis has no say in this state."""
        return bool(self.needs) and state[self.needs[0]] != self.needs[1]

    def held(self, start):
        """The values that a page has of this axis, the one at rest among them."""
        if isinstance(self.name, tuple) or self.in_page == ():
            return ()
        wanted = self.values if self.in_page is None else (*self.in_page, start[self.name])
        return tuple(value for value in self.values if value in wanted)

    def frozen(self, values, start):
        """The `FrozenAxis` with some of the values."""
        words, place = [self.word(value) for value in values], values.index(start[self.name])
        return FrozenAxis(label=self.label, help=self.help, words=words, start=place, kinds=self.kinds)


class Cells(NamedTuple):
    """Numbers of a picture's cells, for whoever points at one in a page.

    panels: {name: axes that a grid fills}. place, first: as of `FrozenCells`. values: {label: ([grid of each panel],
    decimals)}.
    """

    panels: dict
    place: str
    first: tuple[int, int]
    values: dict

    def frozen(self):
        """The `FrozenCells`, once the figure was drawn."""
        grids = next(iter(self.values.values()))[0]
        panels = [_panel(*panel, *grid.shape) for panel, grid in zip(self.panels.items(), grids, strict=True)]
        values = [_value(label, *value) for label, value in self.values.items()]
        return FrozenCells(panels=panels, place=self.place, first=self.first, values=values)


class Explorer:
    """A picture and a line of numbers that depend on a few named axes.

    title: what it shows, for a screen reader. draw: called with the value of every axis by name; returns a matplotlib
    figure, which it may keep and change between calls, the line, and the `Cells`, or None. It raises Refused, a
    sentence, where there is nothing to show. Of a figure that was drawn before, only animated artists are drawn again
    unless others changed.
    axes: the most important first. start: {name: value} at rest.
    """

    def __init__(self, title, draw, axes, start):
        self.title, self.start = title, dict(start)
        self.axes = tuple(axis for axis in axes if len(axis.values) > 1)
        self._draw, self._drawn = draw, WeakKeyDictionary()

    def picture(self, **changes):
        """The picture (PIL, RGB) and its line at the state at rest with some changes. Raises Refused."""
        return self._drawing(changes)[:2]

    def live(self):
        """Widgets of a running kernel: `controls` by the axes' names, `image`, `line`, and the `box` around all."""
        import ipywidgets as widgets  # only where somebody looks

        controls = {axis.name: _control(widgets, axis, self.start) for axis in self.axes}
        image = widgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        line = widgets.HTML()

        def step(_=None):
            state = dict(self.start)
            for name, control in controls.items():
                state |= dict(zip(name, control.value, strict=True)) if type(name) is tuple else {name: control.value}
            for axis in self.axes:
                controls[axis.name].disabled = axis.rests(state)
            try:
                picture, text = self.picture(**state)
            except Refused as error:
                line.value = _line(str(error))
            else:
                image.value, line.value = _encoded(picture), _line(text)
                image.layout.width = f"{_width(picture)}px"

        for control in controls.values():
            control.observe(step, "value")
        step()
        row = widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        return SimpleNamespace(controls=controls, image=image, line=line, box=widgets.VBox([row, image, line]))

    def frozen(self):
        """What a page needs to answer without a kernel, as JSON-ready data of the form `Frozen`, in `BUDGET` bytes.

        If all positions take more, the last axes stay at their value at rest, and the note says so.
        """
        whole, drawn = self._held(self.axes), cache(self._frame)
        for many, cells in [(len(whole), True), *((many, False) for many in range(len(whole), -1, -1))]:
            held = self._held([*whole][:many])
            if found := self._positions(held, drawn, cells):
                break
        absent = [axis.label for axis in self.axes if axis not in whole]
        left_out = [axis.label for axis in whole if axis not in held] + ["numbers of single cells"] * (not cells)
        note = f"More sliders in Jupyter: {', '.join(absent)}." if absent else ""
        if left_out:
            note += f" Left out here to stay below {BUDGET / 1e6:.2g} MB: {', '.join(left_out)}."
        axes = [axis.frozen(values, self.start) for axis, values in held.items()]
        return Frozen(title=self.title, axes=axes, note=note.strip(), **found).model_dump(mode="json")

    def show(self):
        """Show it: sliders to somebody in Jupyter; else the figure at rest and its line, with frames if asked for."""
        picture, line = self.picture()
        data = {"image/png": _base64(_encoded(picture)), "text/plain": line}
        metadata = {"image/png": {"alt": f"{self.title}. {line}", "width": _width(picture)}}
        somebody = _somebody_is_there()
        if somebody:
            data = self.live().box._repr_mimebundle_() | data
        elif os.environ.get(ASKED):
            data[MIME] = self.frozen()
        display(data, raw=True, metadata=metadata)
        if not somebody:
            display(HTML(_line(line)), metadata={LINE: True})

    def _held(self, axes):
        """{axis: values that a page has} of those axes that have a choice there, and a say at some position."""
        held = {axis: values for axis in axes if len(values := axis.held(self.start)) > 1}
        there = {name: [value] for name, value in self.start.items()} | {axis.name: held[axis] for axis in held}
        return {axis: held[axis] for axis in held if not axis.needs or axis.needs[1] in there[axis.needs[0]]}

    def _positions(self, held, drawn, cells):
        """Frames and lines of all combinations of the values held; None if they take more than the budget.

        drawn: `_frame`, or what remembers it. cells: whether to take the numbers of cells.
        """
        kept, positions = ({}, {}, {}), []  # frames, lines, cells: each once, with its number
        names, size = [axis.name for axis in held], len(_encoded(self.picture()[0])) * 4 // 3
        every = list(itertools.product(*held.values()))
        for values in tqdm(every, desc=f"frames: {self.title}", delay=10, mininterval=2, leave=False, file=sys.stdout):
            state = self._settled(dict(zip(names, values, strict=True)))
            frame, line, numbers = drawn(tuple(state.items()))
            parts = list(zip((frame, line, numbers if cells else "null"), kept, strict=True))
            size += 15 + sum(len(part) for part, known in parts if part not in known)
            if size > BUDGET and held:
                return None
            positions.append([known.setdefault(part, len(known)) for part, known in parts])
        frames, lines, numbers = ([json.loads(part) for part in known] for known in kept)
        return {"frames": frames, "lines": lines, "cells": numbers, "positions": positions}

    def _frame(self, state):
        """(picture as WebP in base64, line, cells) at a position, each as JSON."""
        try:
            picture, line, cells = self._drawing(dict(state))
        except Refused as error:
            return '""', json.dumps(str(error)), "null"
        frame = _base64(_encoded(picture, "WEBP"))
        return json.dumps(frame), json.dumps(line), cells.frozen().model_dump_json() if cells else "null"

    def _drawing(self, changes):
        figure, line, cells = self._draw(**self._settled(changes))
        return self._pixels(figure), line, cells

    def _settled(self, changes):
        """The state at rest with some changes, in which an axis without a say has its first value."""
        state = self.start | changes
        return state | {axis.name: axis.values[0] for axis in self.axes if axis.rests(state)}

    def _pixels(self, figure):
        canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
        if figure.stale or figure not in self._drawn:
            canvas.draw()
            moving = figure.findobj(lambda artist: artist.get_animated())
            self._drawn[figure] = canvas.copy_from_bbox(figure.bbox), sorted(moving, key=lambda a: a.get_zorder())
        still, moving = self._drawn[figure]
        canvas.restore_region(still)
        for artist in moving:
            figure.draw_artist(artist)
        figure.stale = False  # drawing an axis sets its ticks anew
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        picture.info["dpi"] = (figure.dpi, figure.dpi)
        return picture


def _panel(name, axes, rows, columns):
    # where it was drawn: `get_position` would mark the figure as changed
    left, bottom, width, height = axes.bbox.transformed(axes.figure.transFigure.inverted()).bounds
    return FrozenPanel(name=name, box=(left, 1 - bottom - height, width, height), rows=rows, columns=columns)


def _value(label, grids, decimals):
    numbers = np.concatenate([np.ravel(grid) for grid in grids]) * 10.0**decimals
    return FrozenValue(label=label, decimals=decimals, numbers=" ".join(map("{:.0f}".format, numbers)))


def _control(widgets, axis, start):
    options = [(axis.word(value), value) for value in axis.values]
    look, layout = {"description_width": "initial"}, {"margin": "2px 16px 2px 2px"}
    if isinstance(axis.name, tuple):
        kind, value = widgets.SelectionRangeSlider, tuple(start[name] for name in axis.name)
    else:
        kind, value = widgets.SelectionSlider, start[axis.name]
        if axis.kinds:
            few = len(options) <= FEW
            kind, look = (widgets.ToggleButtons, {"button_width": "auto"}) if few else (widgets.Dropdown, look)
            layout["width"] = "max-content"
    made = kind(options=options, value=value, description=axis.label, style=look, layout=layout)
    made.tooltip = axis.help
    return made


def _somebody_is_there():
    """Whether the one who asked for this cell can answer: a person in Jupyter can, papermill and its like cannot."""
    kernel = getattr(get_ipython(), "kernel", None)
    asked = kernel.get_parent("shell").get("content", {}).get("allow_stdin", False) if kernel else False
    return asked or "voila" in os.environ.get("SERVER_SOFTWARE", "")


def _line(text):
    return f'<p role="status">{html.escape(text)}</p>'


def _width(picture):
    """In CSS pixels."""
    return round(picture.width * 96 / picture.info["dpi"][0])


def _encoded(picture, kind="PNG"):
    file = io.BytesIO()
    picture.save(file, kind, compress_level=1, lossless=True, method=2)  # the first is PNG's, the others WebP's
    return file.getvalue()


def _base64(content):
    return base64.b64encode(content).decode()
