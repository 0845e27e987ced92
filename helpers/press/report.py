"""What a notebook found: sentences, tables, figures and claims, shown as they come and as data at the end."""

import io
import math
import operator
import re
import time
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Image, Markdown, display

from helpers.files import file_hash
from helpers.paths import ROOT, resolve
from helpers.press.provenance import provenance, show
from helpers.press.results import tally, verdict, write_result
from helpers.show.tables import escaped, literal, raised, table
from helpers.show.words import fill
from helpers.values import Nothing

__all__ = ["Report", "escaped", "literal", "verdict"]

FIGURE_DPI = 144
HOLDS = {"below": operator.lt, "above": operator.gt, "at_least": operator.ge, "at_most": operator.le}


class Report:
    """Claims, tables and provenance of one run of a notebook.

    notebook: its name. parameters: {name: value}. results: where `finish` writes the JSON result file; empty: nowhere.
    Where the report is made the answer is shown, once `finish` has filled it in: a sentence, the picture, the findings.
    """

    def __init__(self, notebook, parameters, results=""):
        self.started = time.monotonic()
        self.notebook = notebook
        self.parameters = {name: value for name, value in parameters.items() if name != "results"}
        self.results = results
        self.claims, self.tables, self.findings, self.hashes, self.figures = [], {}, [], {}, 0
        self.reason = None  # that was said last, if nothing was shown since
        waiting = ("*The answer stands here once the notebook has run to its end.*", "&nbsp;", "&nbsp;")
        self.answer, self.picture, self.rest = (display(Markdown(text), display_id=True) for text in waiting)
        self.pictured = ""  # what the picture at the top shows

    def hash_inputs(self, files):
        """Record the hash of files that the numbers come from."""
        self.hashes |= {_shown(path): file_hash(path) for path in files}

    def say(self, sentence, *tables, **named):
        """Show a sentence with computed numbers, its slots filled as `words.fill` does, or why there are none.

        Wrap names that come from files in `literal`.
        """
        filled = _filled(sentence, tables, named)
        if self._is_there(filled):
            display(Markdown(raised(filled)))

    def finding(self, sentence, *tables, first=False, **named):
        """Show a sentence as `say` does, and take it into the answer at the top, above the picture if `first`."""
        self.say(sentence, *tables, **named)
        filled = _filled(sentence, tables, named)
        if not isinstance(filled, Nothing):
            self.findings.insert(0 if first else len(self.findings), filled)

    def claim(self, name, value, *, says, source="this notebook", found="", tables=(), unless="", **named):
        """Record and show a claim: that a number lies below, above, at least or at most at another.

        value: the number. One of below, above, at_least, at_most in `named`: what it is held against; the other names
        are for the slots of `says` and `found`, as are the tables and `value`. says: the sentence that is true or
        false. source: who claimed it. found: what to show beside it. NaN and Nothing, or a reason in `unless`, leave
        the claim undecided. A claim that fails is a result.
        """
        (how,) = HOLDS.keys() & named.keys()
        threshold = named.pop(how)
        named["value"] = value
        nothing = _first_nothing(value, threshold, *tables, *named.values())
        if nothing is None and (unless or pd.isna(value)):
            nothing = Nothing(unless or "it cannot be computed here")
        if nothing is None:
            holds = bool(HOLDS[how](value, threshold))
            says, found = (_filled(text, tables, named) for text in (says, found))
        else:
            holds, says, found = None, _as_far_as_known(says, tables, named), nothing.reason
        statistic, threshold = (
            None if each is None or isinstance(each, Nothing) else float(each) for each in (value, threshold)
        )
        claim = {"name": name, "statement": says, "statistic": statistic, "threshold": threshold}
        self.claims.append({**claim, "holds": holds, "source": source, "found": found})
        told = found and f"*Found:* {escaped(found)}. "
        self.say(f"*Claim* ({source}): {says} {told}**{verdict(holds).capitalize()}.**")

    def table(self, name, frame, caption, shown=None, folded=False, **named):
        """Record and show a table, or why there is none; text in it is escaped on the page.

        frame: DataFrame, recorded; a named index becomes a column. shown: how it reads best, where that is not `frame`.
        caption: filled as `words.fill` does. folded: whether its rows are opened by a click.
        """
        if not self._is_there(frame):
            return
        frame, shown = (
            each.reset_index() if each.index.name else each for each in (frame, frame if shown is None else shown)
        )
        columns = [str(column) for column in frame.columns]
        self.tables[name] = {"columns": columns, "rows": frame.astype(object).values.tolist()}
        display(HTML(table(shown, _filled(caption, (), named), folded=folded)))

    def figure(self, figure, alt, *tables, top=False, **named):
        """Show a matplotlib figure with its number and a caption, or why there is none.

        alt: what a sighted reader takes from it, with the numbers; filled as `words.fill` does. It is the caption, too.
        top: show it under the answer, where the report was made, and not here.
        """
        alt = _filled(alt, tables, named)
        if not self._is_there(figure, alt):
            return
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=FIGURE_DPI, metadata={"Software": None})
        picture = Image(png.getvalue(), alt=alt, width=round(figure.get_figwidth() * 96))
        caption = raised(escaped(alt))
        if top:
            self.pictured = f"**The picture.** {caption}"
            self.picture.update(picture)
        else:
            self.figures += 1
            display(picture, Markdown(f"**Figure {self.figures}.** {caption}"))

    def explore(self, explorer):
        """Show an `explore.Explorer`, or why there is none."""
        if self._is_there(explorer):
            explorer.show()

    def finish(self):
        """Show all claims and the provenance, fill in the answer, write the result file (whole, or not at all)."""
        claims = pd.DataFrame(self.claims, columns=["holds", "statement", "found", "statistic", "threshold", "source"])
        claims["holds"] = [verdict(value) for value in claims["holds"]]
        for name in ("statistic", "threshold"):
            claims[name] = ["–" if pd.isna(value) else f"{value:.3g}" for value in claims[name]]
        display(HTML(f"<h2>Claims</h2>{table(claims, tally(self.claims), 'claims')}"))
        answer, *findings = map(raised, self.findings or [""])
        self.answer.update(Markdown(answer))
        if not self.pictured:
            self.picture.update(Markdown(""))
        self.rest.update(Markdown("\n".join([self.pictured, "", *(f"- {finding}" for finding in findings)])))
        found = provenance(self.started, self.hashes)
        show(self.parameters, found)
        if self.results:
            write_result(resolve(self.results), self.notebook, self.parameters, self.claims, self.tables, found)

    def _is_there(self, *given):
        """Whether none of these is Nothing. Says the reason of one that is, once where several in a row have it."""
        nothing = _first_nothing(*given)
        if nothing is not None and nothing.reason != self.reason:
            display(Markdown(f"Nothing to show: {escaped(nothing.reason)}."))
        self.reason = None if nothing is None else nothing.reason
        return nothing is None


def _first_nothing(*given):
    return next((each for each in given if isinstance(each, Nothing)), None)


def _filled(text, tables, named):
    return fill(text, *tables, **named) if tables or named else text


def _as_far_as_known(text, tables, named):
    """`_filled`, with a dash for what is not there."""
    tables = [each for each in tables if not isinstance(each, Nothing)]
    named = {name: math.nan if isinstance(value, Nothing) else value for name, value in named.items()}
    try:
        return _filled(text, tables, named)
    except (KeyError, AttributeError, TypeError, ValueError):
        return re.sub(r"\{[^}]*\}", "–", text)


def _shown(path):
    """The path from the repository's root, or the whole of it; of a file in an installed package the last two parts."""
    path = Path(path)
    if "site-packages" in path.parts:
        return "/".join(path.parts[-2:])
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
