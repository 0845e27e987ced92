"""Numbers in words, for sentences and titles."""

import string

import numpy as np
import pandas as pd

from helpers.values import Nothing, passing

UNDETERMINED = 0.1  # bound on the error of φ from which on directions are not determined
MINUS = "\u2212"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class _Slots(string.Formatter):
    """Fills `{name:how}`; see `fill`."""

    def get_field(self, name, given, named):
        if name in named:
            return named[name], name
        for table in given:
            if name in (table.columns if isinstance(table, pd.DataFrame) else table.index):
                return table[name], name
        raise KeyError(f"a sentence asks for {name!r}, which is neither given by name nor in a table")

    def format_field(self, value, how):
        kind, _, digits = how.partition(" ")
        if how == "span %":
            return f"{span(100 * np.asarray(value), 0)} %"
        digits = {"digits": int(digits)} if digits.isdecimal() else {}
        if kind == "span":
            return span(value, **digits)
        if kind == "each":
            read = p_value if how == "each p" else lambda one: number(one, **digits)
            return ", ".join(f"{read(one)} ({name})" for name, one in value.items())
        if kind == "p":
            return p_value(value)
        if isinstance(value, str):
            return format(value, how)
        return "–" if pd.isna(value) else format(value, how).replace("-", MINUS)


def fill(sentence, *tables, **named):
    """A sentence with its slots filled, or the first Nothing among what it is given.

    A slot `{name:how}` is a named value, or a column of a table or an entry of a Series given. how: `span 3`, least and
    greatest with three decimals; `span %`, of shares; `each 3`, one by one with their labels; `p` and `each p`, as
    probabilities; else what `format` knows.
    """
    for value in (*tables, *named.values()):
        if isinstance(value, Nothing):
            return value
    return _Slots().vformat(sentence, tables, named)


def number(value, digits=2):
    """A number in words, with a true minus sign; `–` for NaN."""
    return "–" if np.isnan(value) else f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", MINUS)


def span(values, digits=1):
    """Least and greatest of some numbers in words, `1.0 to 2.5`, or the one they share; `–` where none is known."""
    known = [value for value in values if not np.isnan(value)]
    ends = dict.fromkeys(number(end(known, default=np.nan), digits) for end in (min, max))
    return " to ".join(ends)


def listed(names):
    """Names in words: `a, b`, or `none`."""
    return ", ".join(str(name).replace("_", " ") for name in names) or "none"


@passing
def pivoted(table, index, columns, values):
    """A long table laid out for reading, rows and columns in the order in which they come."""
    wide = table.pivot(index=index, columns=columns, values=values)
    wide = wide.reindex(table[index].unique())
    if isinstance(values, list):
        wide.columns = [f"{kind}: {name}" for kind, name in wide.columns]
        return wide
    return wide[table[columns].unique()]


def readings(values, names, digits=2):
    """Numbers with what each belongs to, in words: `0.20 (query), 0.36 (value)`."""
    return ", ".join(f"{number(value, digits)} ({name})" for value, name in zip(values, names, strict=True))


def probability(logarithm):
    """A probability in words from its natural logarithm: `0.36`, `0.048`, below 0.001 `3·10⁻⁵`, and `–` for NaN."""
    if np.isnan(logarithm):
        return "–"
    if logarithm == -np.inf:
        return "less than 10⁻³⁰⁰"
    if logarithm >= np.log(0.00095):
        return f"{np.exp(logarithm):.{2 if logarithm >= np.log(0.095) else 3}f}"
    exponent = np.floor(logarithm / np.log(10) + np.log10(20 / 19))  # 9.5 and more count as 10
    digit = np.exp(logarithm - exponent * np.log(10))
    return f"{digit:.0f}·10" + f"{exponent:.0f}".translate(SUPERSCRIPTS)


def p_value(p):
    """`probability` of a number that may have underflowed to 0."""
    return probability(np.log(p) if p > 1e-300 or np.isnan(p) else -np.inf)


@passing
def rounding(of_rows, first_i, of_columns, coarse=False):
    """What rounding may do to φ, in a sentence: a bound, and the directions for which there is none below a tenth.

    of_rows: bounds [n] on it for i = first_i, …; of_columns: {adapter: bounds [m] for j = 1, …}. coarse: whether
    of_rows leave out how W was stored.
    """
    bounds = {"W": (of_rows, first_i, "i"), **{name: (each, 1, "j") for name, each in of_columns.items()}}
    loose, most = [], {}
    for name, (errors, first, letter) in bounds.items():
        above = errors > UNDETERMINED
        most[name] = max(errors[~above], default=np.nan)
        if above.any():
            ends = dict.fromkeys(first + np.flatnonzero(above)[[0, -1]])
            loose.append(f"{letter} = {' … '.join(map(str, ends))} of {name} ({above.sum()} of {len(above)})")
    sure = most.pop("W") + np.nanmax([0.0, *most.values()])
    what = "of the adapters as stored, and in computing" if coarse else "as stored and in computing"
    open_ones = f"φ at {'; '.join(loose)}, whose singular values are so close that roundings which all go one way could"
    if not loose:
        return f"Rounding, {what}, may move φ by {p_value(sure)} at most."
    if np.isnan(sure) or np.isnan(list(most.values())).all():
        return f"Rounding, {what}, leaves **not determined** {open_ones} move it by more than {UNDETERMINED}."
    return (
        f"Rounding, {what}, may move φ by {p_value(sure)} at most, but for what it leaves **not determined**: "
        f"{open_ones} move it by more than {UNDETERMINED}."
    )
