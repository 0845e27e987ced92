"""Explorers: a figure function and its axes, declared once → sliders in Jupyter, frames in a page, a figure at rest."""

import base64
import html
import io
import itertools
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator
from tqdm import tqdm

from helpers.parameters import BadParameter
from helpers.weights import WeightsError

REFUSED = (BadParameter, WeightsError)  # whose message an explorer shows where there is no picture
MIME = "application/vnd.phi-and-pixels.explorer+json"
LINE = "phi-and-pixels.line"  # in the metadata of an output: the line of the explorer before it
FRAMES = "PHI_AND_PIXELS_FRAMES"  # in a kernel's environment: put the frames for a page into the output
BUDGET = 4_000_000  # bytes that an explorer may take of a page
FEW = 4  # kinds to pick from by buttons; more of them are a list


@dataclass(frozen=True)
class Axis:
    """What one control moves.

    name: of a parameter, or of two for a range with a low and a high end. values: in order. word: value → its text.
    kinds: whether the values are kinds, to be picked, and not steps, to be slid along. in_page: the values that a page
    has; None: all; empty: only the one at rest. needs: (name, value) of another axis without which this one has no say
    and stays at its first value.
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
        wanted = {*(self.values if self.in_page is None else self.in_page), start[self.name]}
        return tuple(value for value in self.values if value in wanted)


class Cells(NamedTuple):
    """Numbers of a picture's cells, for whoever points at one in a page.

    panels: {name: axes that a grid fills}. place: names row and column, as in "i = {}, j = {}". first: number of the
    first row and column. values: {label: ([grid of each panel], decimals)}.
    """

    panels: dict
    place: str
    first: tuple[int, int]
    values: dict

    def packed(self):
        """As JSON-ready data of the form `FrozenCells`, once the figure was drawn."""
        panels, grids = [], next(iter(self.values.values()))[0]
        for (name, axes), grid in zip(self.panels.items(), grids, strict=True):
            # where it was drawn: `get_position` would mark the figure as changed
            (left, bottom, width, height), whole = axes.bbox.bounds, axes.figure.bbox
            box = [left / whole.width, 1 - (bottom + height) / whole.height, width / whole.width, height / whole.height]
            rows, columns = grid.shape
            panels.append({"name": name, "box": [float(share) for share in box], "rows": rows, "columns": columns})
        values = []
        for label, (grids, decimals) in self.values.items():
            numbers = np.rint(np.concatenate([np.ravel(grid) for grid in grids]) * 10.0**decimals)
            size = 2 if (np.abs(numbers[np.isfinite(numbers)]) < 2**15).all() else 4
            none = -(2 ** (8 * size - 1))
            whole = np.where(np.isfinite(numbers), np.clip(numbers, none + 1, -none - 1), none).astype(f"<i{size}")
            data = base64.b64encode(whole.tobytes()).decode()
            values.append({"label": label, "decimals": decimals, "bytes": size, "data": data})
        return {"panels": panels, "place": self.place, "first": list(self.first), "values": values}


class Live(NamedTuple):
    """An explorer in Jupyter: the whole, its controls by the axes' names, the picture, and the line of numbers."""

    box: object
    controls: dict
    image: object
    line: object


class Explorer:
    """A picture and a line of numbers that depend on a few named axes.

    title: what it shows, for a screen reader. draw: called with the value of every axis by name; returns a matplotlib
    figure, which it may keep and change between calls, the line, and the `Cells`, or None. It raises one of REFUSED,
    a sentence, where there is nothing to show. Of a figure that was drawn before, only animated artists are drawn again
    unless others changed.
    axes: the most important first. start: {name: value} at rest.
    """

    def __init__(self, title, draw, axes, start):
        self.title, self.start = title, dict(start)
        self.axes = tuple(axis for axis in axes if len(axis.values) > 1)
        self._draw, self._drawn = draw, WeakKeyDictionary()

    def picture(self, **changes):
        """The picture (PIL, RGB) and its line at the state at rest with some changes. Raises REFUSED."""
        return self._drawing(changes)[:2]

    def live(self):
        """Controls, picture and line as widgets of a running kernel."""
        import ipywidgets as widgets  # only where somebody looks

        controls = {axis.name: _control(widgets, axis, self.start) for axis in self.axes}
        image = widgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        line = widgets.HTML()

        def step(_=None):
            state = dict(self.start)
            for name, control in controls.items():
                state |= dict(zip(name, control.value, strict=True)) if type(name) is tuple else {name: control.value}
            for axis in self.axes:
                control = controls[axis.name]
                control.disabled = axis.rests(state)
                if control.disabled and control.value != axis.values[0]:
                    control.value = axis.values[0]  # which is a step of its own
                    return
            try:
                picture, text = self.picture(**state)
            except REFUSED as error:
                line.value = _line(str(error))
            else:
                image.value, line.value = _png(picture), _line(text)
                image.layout.width = f"{_width(picture)}px"

        for control in controls.values():
            control.observe(step, "value")
        step()
        row = widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        return Live(widgets.VBox([row, image, line]), controls, image, line)

    def frozen(self):
        """What a page needs to answer without a kernel, as JSON-ready data of the form `Frozen`, in `BUDGET` bytes.

        If all positions take more, the last axes stay at their value at rest, and the note says so.
        """
        held = {axis: values for axis in self.axes if len(values := axis.held(self.start)) > 1}
        held = {axis: values for axis, values in held.items() if not axis.needs or _met(axis.needs, held, self.start)}
        left_out, pictures, cells = [], {}, True
        while not (found := self._positions(held, pictures, cells)):
            if cells:
                cells = False
            else:
                left_out.append(held.popitem()[0].label)
                left_out += [axis.label for axis in held if axis.needs and not _met(axis.needs, held, self.start)]
                held = {axis: values for axis, values in held.items() if axis.label not in left_out}
        left_out += ["numbers of single cells"] * (not cells)
        absent = [axis.label for axis in self.axes if axis not in held and axis.label not in left_out]
        note = f"More sliders in Jupyter: {', '.join(absent)}." if absent else ""
        if left_out:
            note += f" Left out here to stay below {BUDGET / 1e6:.2g} MB: {', '.join(left_out)}."
        axes = [
            {
                "label": axis.label,
                "help": axis.help,
                "words": [axis.word(value) for value in values],
                "start": values.index(self.start[axis.name]),
                "kinds": axis.kinds,
                "needs": _place(axis.needs, held),
            }
            for axis, values in held.items()
        ]
        return {"title": self.title, "axes": axes, "note": note.strip(), **found}

    def show(self):
        """Show it: sliders to somebody in Jupyter; else the figure at rest and its line, with frames if asked for."""
        picture, line = self.picture()
        data = {"image/png": base64.b64encode(_png(picture)).decode(), "text/plain": line}
        metadata = {"image/png": {"alt": f"{self.title}. {line}", "width": _width(picture)}}
        somebody = _somebody_is_there()
        if somebody:
            data = self.live().box._repr_mimebundle_() | data
        elif os.environ.get(FRAMES):
            data[MIME] = self.frozen()
        display(data, raw=True, metadata=metadata)
        if not somebody:
            display(HTML(_line(line)), metadata={LINE: True})

    def _positions(self, held, pictures, cells):
        """Frames and lines of all combinations of the values held; None if they take more than the budget.

        pictures: {state: parts} of those drawn before, added to. cells: whether to take the numbers of cells.
        """
        names, size = [axis.name for axis in held], len(_png(self.picture()[0])) * 4 // 3
        kept, positions = ({}, {}, {}), []  # frames, lines, cells
        every = list(itertools.product(*held.values()))
        for values in tqdm(every, desc=f"frames: {self.title}", delay=10, mininterval=2, leave=False, file=sys.stdout):
            changes = dict(zip(names, values, strict=True))
            at = tuple(self._settled(changes).items())
            if at not in pictures:
                pictures[at] = self._frame(changes)
            frame, line, numbers = pictures[at]
            parts = frame, line, numbers if cells else "null"
            size += 15 + sum(
                len(json.dumps(part)) for part, known in zip(parts, kept, strict=True) if part not in known
            )
            if size > BUDGET and held:
                return None
            positions.append([known.setdefault(part, len(known)) for part, known in zip(parts, kept, strict=True)])
        frames, lines, numbers = map(list, kept)
        numbers = [json.loads(each) for each in numbers]
        return {"frames": frames, "lines": lines, "cells": numbers, "positions": positions}

    def _frame(self, changes):
        """(picture as WebP in base64, line, cells as JSON) at a position."""
        try:
            picture, line, cells = self._drawing(changes)
        except REFUSED as error:
            return "", str(error), "null"
        frame = base64.b64encode(_encoded(picture, "WEBP", lossless=True, method=2)).decode()
        return frame, line, json.dumps(cells and cells.packed())

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


Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


class FrozenAxis(BaseModel):
    """A control in a page. words: of its positions. needs: (another axis, its position) without which it rests."""

    model_config = ConfigDict(strict=True, extra="forbid")
    label: str
    help: str
    words: Annotated[list[str], Field(min_length=1)]
    start: NonNegativeInt
    kinds: bool
    needs: list[NonNegativeInt] | None


class FrozenPanel(BaseModel):
    """A grid in a picture. box: its left, top, width and height as shares of the picture."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: str
    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    rows: NonNegativeInt
    columns: NonNegativeInt


class FrozenValue(BaseModel):
    """Numbers of all cells, panel after panel and row after row, as little-endian integers; the least: none."""

    model_config = ConfigDict(strict=True, extra="forbid")
    label: str
    decimals: Annotated[int, Field(ge=0, le=9)]
    bytes: Literal[2, 4]
    data: Base64


class FrozenCells(BaseModel):
    """`Cells` for a page."""

    model_config = ConfigDict(strict=True, extra="forbid")
    panels: list[FrozenPanel]
    place: str
    first: Annotated[list[int], Field(min_length=2, max_length=2)]
    values: list[FrozenValue]


class Frozen(BaseModel):
    """An explorer for a page. frames: WebP. positions: (frame, line, cells) of each, the last axis is fastest."""

    model_config = ConfigDict(strict=True, extra="forbid")
    title: str
    axes: list[FrozenAxis]
    note: str
    frames: list[Base64]
    lines: list[str]
    cells: list[FrozenCells | None]
    positions: list[list[NonNegativeInt]]

    @model_validator(mode="after")
    def _fits(self):
        wanted = math.prod(len(axis.words) for axis in self.axes)
        kept = self.frames, self.lines, self.cells
        whole = len(self.positions) == wanted and all(
            len(each) == 3 and all(n < len(kept) for n, kept in zip(each, kept, strict=True)) for each in self.positions
        )
        for axis in self.axes:
            place = axis.needs or [0, 0]
            whole &= axis.start < len(axis.words) and len(place) == 2 and place[0] < len(self.axes)
            whole = whole and (not axis.needs or place[1] < len(self.axes[place[0]].words))
        if not whole:
            raise ValueError("an explorer whose positions do not fit its axes, frames, lines or cells")
        return self


def _met(needs, held, start):
    """Whether what an axis needs can be had: among the values held of the other axis, or at rest."""
    name, value = needs
    return value in next((values for axis, values in held.items() if axis.name == name), [start[name]])


def _place(needs, held):
    """A need as [number of the axis, position] among the values held; None where that axis is not held."""
    names = [axis.name for axis in held]
    if not needs or needs[0] not in names:
        return None
    place = names.index(needs[0])
    return [place, [*held.values()][place].index(needs[1])]


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


def _png(picture):
    return _encoded(picture, "PNG", compress_level=1)


def _encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
