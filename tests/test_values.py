"""What is not there says why, and nothing is made of it."""

import numpy as np
import pandas as pd
import pytest

from helpers.show import words
from helpers.values import Nothing, computed, passing

WHY = Nothing("no base is given")


@pytest.mark.parametrize(
    "asked",
    [
        lambda it: it.p_holm.max(),
        lambda it: it["p"][it["p"] < 0.05].sum(),
        lambda it: 1 - 2 * it / 3 + np.float64(1),
        lambda it: np.ones(3) * it,
        lambda it: it @ np.ones((2, 2)),
        lambda it: (it.loc[0] & (it <= 1)).query("k == 1", engine="python"),
        lambda it: abs(-it) ** 2,
    ],
)
def test_whatever_is_asked_of_nothing_is_that_nothing(asked):
    assert asked(WHY) is WHY


def test_nothing_holds_nothing_and_has_no_protocols():
    assert list(WHY) == []
    assert not WHY
    assert not hasattr(WHY, "_repr_html_")
    assert repr(WHY) == "Nothing('no base is given')"


def test_a_function_is_not_called_with_nothing_among_its_arguments():
    @passing
    def first(values, *more, **named):
        return values[0]

    assert first([1, 2]) == 1
    for given, named in (((WHY,), {}), (([1, WHY],), {}), (({"a": WHY},), {}), (([1], 2), {"other": WHY})):
        assert first(*given, **named) is WHY


def test_a_property_is_computed_once_and_not_without_what_it_needs():
    class Study:
        calls = 0

        def __init__(self, base):
            self.base = base

        @computed("base")
        def table(self):
            Study.calls += 1
            return pd.Series([self.base])

        @computed("table")
        def least(self):
            return self.table.min()

    assert Study(WHY).least is WHY
    assert Study.calls == 0
    study = Study(3)
    assert (study.least, study.least, study.table[0]) == (3, 3, 3)
    assert Study.calls == 1


def test_a_sentence_is_filled_from_tables_and_names():
    table = pd.DataFrame({"phi": [0.0312, 0.25], "p more": [1e-9, 0.3]}, pd.Index(["r = 4", "r = 8"], name="adapter"))
    row = pd.Series({"kind": "Q4_1", "shift": -0.0456})
    said = words.fill("{phi:span 3}; {phi:each 2}; p = {p more:each p}; {shift:.2f} of {kind}; {n}.", table, row, n=7)
    assert said == "0.031 to 0.250; 0.03 (r = 4), 0.25 (r = 8); p = 1·10⁻⁹ (r = 4), 0.30 (r = 8); −0.05 of Q4_1; 7."
    assert words.fill("{p:p} and {z:.1f}", p=0.0, z=float("nan")) == "less than 10⁻³⁰⁰ and –"
    assert words.fill("{phi:span}", table, other=WHY) is WHY
    with pytest.raises(KeyError, match="asks for 'rise'"):
        words.fill("{rise:span}", table)
