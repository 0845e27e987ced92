"""Markup of what a page shows: tables whose numbers have the digits that a column needs; names from files as text."""

import html
import math
import re

from helpers.show.words import number, p_value
from helpers.values import passing

PROBABILITY, ZSCORE = re.compile("p|p[_ ].*|.* p"), re.compile("z|.*_z|z .*")  # names of columns
RAISED = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
LOWERED = str.maketrans(RAISED, "−0123456789")


def table(frame, caption, kind="numbers", folded=False):
    """A DataFrame as HTML, without its index; all text in it is escaped.

    caption: text above it. kind: CSS class, `numbers` or `claims`. folded: whether its rows are opened by a click.
    """
    formats = {
        name: p_value if PROBABILITY.fullmatch(str(name)) else _decimals(frame[name])
        for name in frame.select_dtypes("float")
    }
    options = {"index": False, "escape": True, "border": 0, "na_rep": "–", "justify": "inherit"}
    shown = frame.rename_axis(columns=None).to_html(classes=kind, formatters=formats, **options)
    shown = f"<details><summary>{len(frame)} rows</summary>{shown}</details>" if folded else shown
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{raised(shown)}</figure>"


def raised(markdown):
    """Raised digits as markup: fonts that lack some of them mix sizes, and 10⁻⁴¹ reads as 10⁻⁴."""
    return re.sub(f"[{RAISED}]+", lambda found: f"<sup>{found[0].translate(LOWERED)}</sup>", markdown)


@passing
def escaped(text):
    """`text` that has names from files in it, for Markdown or HTML: nothing in it acts as markup."""
    return "".join(f"&#{ord(c)};" if c in r"\`*_{}[]()<>#+-.!|$~&:/@\"'" else c for c in str(text))


@passing
def literal(text):
    """`text` from a file or a user, as code in Markdown or HTML: nothing in it acts as markup."""
    return f"<code>{escaped(text)}</code>"


def _decimals(column):
    """A format with as many decimals as a column's greatest number leaves room for: 0.1234, 1.234, 12.34, 123.4.

    Three significant digits each where they lie further apart than that would show.
    """
    if ZSCORE.fullmatch(str(column.name)):
        return number
    sizes = column[(column != 0) & (column.abs() < math.inf)].abs()
    greatest = sizes.max()
    if greatest > 3000 * sizes.min():
        return "{:.3g}".format
    digits = 4 - len(str(int(greatest))) if greatest >= 1 else 4
    return ("{:." + str(max(digits, 0)) + "f}").format
