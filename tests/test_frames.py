"""The data of an explorer: what is not of their form, or does not fit together, reaches no page."""

import pytest
from pydantic import ValidationError

from helpers.frames import Frozen

AXES = [
    {"label": "layer", "help": "which", "words": ["0", "1", "2"], "start": 1, "kinds": False},
    {"label": "factor", "help": "", "words": ["A", "BA"], "start": 0, "kinds": True},
]
CELLS = {
    "panels": [{"name": "r = 4", "box": [0.1, 0.2, 0.3, 0.4], "rows": 1, "columns": 2}],
    "place": "i = {}, j = {}",
    "first": [1, 1],
    "values": [{"label": "z", "decimals": 1, "numbers": "12 nan"}],
}
WHOLE = {
    "title": "t",
    "axes": AXES,
    "note": "",
    "frames": ["AAAA", ""],
    "lines": ["one", "two"],
    "cells": [None, CELLS],
    "positions": [[0, 0, 1]] * 5 + [[1, 1, 0]],
}


def test_data_of_the_form_come_out_as_they_were():
    assert Frozen(**WHOLE).model_dump(mode="json") == WHOLE


def test_what_the_form_does_not_know_reaches_no_page():
    assert Frozen(**WHOLE, more=1).model_dump(mode="json") == WHOLE


@pytest.mark.parametrize(
    "change",
    [
        {"positions": [[0, 0, 0]]},
        {"positions": [[0, 0]] * 6},
        {"positions": [[0, 0, -1]] * 6},
        {"positions": [[2, 0, 0]] * 6},
        {"cells": [None]},
        {"lines": ["one"]},
        {"frames": ["AAAA", "<script>"]},
        {"frames": ["AAAA", "AAAA\n"]},
        {"axes": AXES[:1]},
        {"axes": [AXES[0], AXES[1] | {"start": 2}]},
        {"axes": [AXES[0], AXES[1] | {"words": "BA"}]},
        {"cells": [None, CELLS | {"first": [0]}]},
        {"cells": [None, CELLS | {"values": [CELLS["values"][0] | {"decimals": 101}]}]},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(ValidationError):
        Frozen(**WHOLE | change)
