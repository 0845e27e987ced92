"""What a page has of an explorer: the form of the data that `show.explore` puts into an output, and a page reads."""

import math
from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, model_validator

ASKED = "PHI_AND_PIXELS_FRAMES"  # in a kernel's environment: put the frames for a page into the output
MIME = "application/vnd.phi-and-pixels.explorer+json"
LINE = "phi-and-pixels.line"  # in the metadata of an output: the line of the explorer before it
FEW = 4  # kinds to pick from by buttons; more of them are a list

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


class FrozenAxis(BaseModel):
    """A control in a page. words: of its positions. start: the position at rest."""

    label: str
    help: str
    words: list[str]
    start: NonNegativeInt
    kinds: bool


class FrozenPanel(BaseModel):
    """A grid in a picture. box: its left, top, width and height as shares of the picture."""

    name: str
    box: tuple[float, float, float, float]
    rows: NonNegativeInt
    columns: NonNegativeInt


class FrozenValue(BaseModel):
    """Numbers of all cells, panel after panel, row after row. numbers: integers, 10^decimals times as large, or nan."""

    label: str
    decimals: int = Field(ge=0, le=9)
    numbers: str


class FrozenCells(BaseModel):
    """Numbers of a picture's cells. place: names row and column, as in "i = {}, j = {}". first: of these numbers."""

    panels: list[FrozenPanel]
    place: str
    first: tuple[int, int]
    values: list[FrozenValue]


class Frozen(BaseModel):
    """An explorer for a page. frames: WebP. positions: (frame, line, cells) of each, the last axis is fastest."""

    title: str
    axes: list[FrozenAxis]
    note: str
    frames: list[Base64]
    lines: list[str]
    cells: list[FrozenCells | None]
    positions: list[tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]]

    @model_validator(mode="after")
    def _fits(self):
        sizes = [len(axis.words) for axis in self.axes]
        kept = len(self.frames), len(self.lines), len(self.cells)
        if not (
            len(self.positions) == math.prod(sizes)
            and all(n < size for position in self.positions for n, size in zip(position, kept, strict=True))
            and all(axis.start < size for axis, size in zip(self.axes, sizes, strict=True))
        ):
            raise ValueError("an explorer whose positions do not fit its axes, frames, lines or cells")
        return self
