"""What a notebook found, as data: claims, tables, provenance → one result file, written by the last cell."""

import html
import io
import json
import math
import operator
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Image, Markdown, display
from threadpoolctl import threadpool_info

from helpers.files import file_hash, write_whole
from helpers.paths import ROOT, resolve
from helpers.show.words import fill, number, p_value
from helpers.values import Nothing, passing

PACKAGES = [
    "numpy",
    "scipy",
    "scikit-learn",
    "torch",
    "captum",
    "mlxtend",
    "safetensors",
    "pandas",
    "matplotlib",
]
FIGURE_DPI = 144
RAISED = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
LOWERED = str.maketrans(RAISED, "−0123456789")
HOLDS = {"below": operator.lt, "above": operator.gt, "at_least": operator.ge, "at_most": operator.le}
PROBABILITY, ZSCORE = re.compile("p|p[_ ].*|.* p"), re.compile("z|.*_z|z .*")  # names of columns


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
        self._say(_filled(sentence, tables, named))

    def _say(self, filled):
        if isinstance(filled, Nothing):
            return self._say_why(filled)
        display(Markdown(_raised(filled)))
        self.reason = None

    def _say_why(self, nothing):
        """Say a reason, once where several things in a row have it."""
        if nothing.reason != self.reason:
            display(Markdown(f"Nothing to show: {escaped(nothing.reason)}."))
            self.reason = nothing.reason

    def finding(self, sentence, *tables, first=False, **named):
        """Show a sentence as `say` does, and take it into the answer at the top, above the picture if `first`."""
        filled = _filled(sentence, tables, named)
        self._say(filled)
        if not isinstance(filled, Nothing):
            self.findings.insert(0 if first else len(self.findings), filled)

    def claim(self, name, value, *, says="", source="this notebook", found="", tables=(), unless="", **named):
        """Record and show a claim: that a number lies below, above, at least or at most at another.

        value: the number. One of below, above, at_least, at_most in `named`: what it is held against; the other names
        are for the slots of `says` and `found`, as are the tables and `value`. says: the sentence that is true or
        false. source: who claimed it. found: what to show beside it. NaN and Nothing, or a reason in `unless`, leave
        the claim undecided. A claim that fails is a result.

        Without `says` value is that sentence, and statistic, threshold and holds stand in `named` (None: undecided).
        """
        if not says:
            says, value, threshold, holds = value, *(named.pop(key) for key in ("statistic", "threshold", "holds"))
            nothing = Nothing("") if value is not None and math.isnan(value) else None
        else:
            (how,) = HOLDS.keys() & named.keys()
            threshold = named.pop(how)
            named["value"] = value
            given = (value, threshold, *tables, *named.values())
            nothing = next((each for each in given if isinstance(each, Nothing)), None)
            if nothing is None and (unless or pd.isna(value)):
                nothing = Nothing(unless or "it cannot be computed here")
            holds = None if nothing is not None else HOLDS[how](value, threshold)
            found = nothing.reason if nothing is not None else _filled(found, tables, named)
            says = _filled(says, tables, named) if nothing is None else _as_far_as_known(says, tables, named)
        holds = None if holds is None or nothing is not None else bool(holds)
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
        if isinstance(frame, Nothing):
            return self._say_why(frame)
        frame, shown = (
            each.reset_index() if each.index.name else each for each in (frame, frame if shown is None else shown)
        )
        columns = [str(column) for column in frame.columns]
        self.tables[name] = {"columns": columns, "rows": frame.astype(object).values.tolist()}
        display(HTML(_table(shown, _filled(caption, (), named), folded=folded)))
        self.reason = None

    def figure(self, figure, alt, *tables, top=False, **named):
        """Show a matplotlib figure with its number and a caption, or why there is none.

        alt: what a sighted reader takes from it, with the numbers; filled as `words.fill` does. It is the caption, too.
        top: show it under the answer, where the report was made, and not here.
        """
        alt = _filled(alt, tables, named)
        for each in (figure, alt):
            if isinstance(each, Nothing):
                return self._say_why(each)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=FIGURE_DPI, metadata={"Software": None})
        picture = Image(png.getvalue(), alt=alt, width=round(figure.get_figwidth() * 96))
        self.reason, caption = None, _raised(escaped(alt))
        if top:
            self.pictured = f"**The picture.** {caption}"
            self.picture.update(picture)
        else:
            self.figures += 1
            display(picture, Markdown(f"**Figure {self.figures}.** {caption}"))

    def explore(self, explorer):
        """Show an `explore.Explorer`, or why there is none."""
        if isinstance(explorer, Nothing):
            return self._say_why(explorer)
        explorer.show()

    def finish(self):
        """Show all claims and the provenance, fill in the answer, write the result file (whole, or not at all)."""
        claims = pd.DataFrame(self.claims, columns=["holds", "statement", "found", "statistic", "threshold", "source"])
        claims["holds"] = [verdict(value) for value in claims["holds"]]
        for name in ("statistic", "threshold"):
            claims[name] = ["–" if pd.isna(value) else f"{value:.3g}" for value in claims[name]]
        display(HTML(f"<h2>Claims</h2>{_table(claims, tally(self.claims), 'claims')}"))
        answer, *findings = map(_raised, self.findings or [""])
        self.answer.update(Markdown(answer))
        if not self.pictured:
            self.picture.update(Markdown(""))
        self.rest.update(Markdown("\n".join([self.pictured, "", *(f"- {finding}" for finding in findings)])))
        provenance = self.provenance()
        display(HTML(_provenance_list(self.parameters, provenance)))
        if self.results:
            content = {"notebook": self.notebook, "parameters": self.parameters, "claims": self.claims}
            content |= {"tables": self.tables, "provenance": provenance, "complete": True}
            write_whole(resolve(self.results), json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")

    def provenance(self):
        """Versions, commit, input hashes, threads, seconds and peak memory of this run."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "commit": _commit(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "inputs": self.hashes,
            "threads": max((pool["num_threads"] for pool in threadpool_info()), default=1),
            "seconds": round(time.monotonic() - self.started, 1),
            "peak_memory_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
        }


def verdict(holds):
    """A claim's `holds` in words."""
    return {True: "holds", False: "does not hold", None: "undecided"}[holds]


def tally(claims):
    """How many of a list of claims hold, in words."""
    counts = Counter(claim["holds"] for claim in claims)
    do = "does" if counts[False] == 1 else "do"
    return f"{counts[True]} hold, {counts[False]} {do} not, {counts[None]} undecided"


@passing
def escaped(text):
    """`text` that has names from files in it, for Markdown or HTML: nothing in it acts as markup."""
    return "".join(f"&#{ord(c)};" if c in r"\`*_{}[]()<>#+-.!|$~&:/@\"'" else c for c in str(text))


@passing
def literal(text):
    """`text` from a file or a user, as code in Markdown or HTML: nothing in it acts as markup."""
    return f"<code>{escaped(text)}</code>"


def write_together(place, files):
    """Write {name: text} into a directory. All are staged before the first is replaced; they are replaced in order."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place) as staged:
        for name, text in files.items():
            write_whole(Path(staged, name), text)
        for name in files:
            Path(staged, name).replace(place / name)


def _filled(text, tables, named):
    return fill(text, *tables, **named) if tables or named else text


def _as_far_as_known(text, tables, named):
    """`_filled`, with a dash for what is not there."""
    tables = [table for table in tables if not isinstance(table, Nothing)]
    named = {name: math.nan if isinstance(value, Nothing) else value for name, value in named.items()}
    try:
        return _filled(text, tables, named)
    except (KeyError, AttributeError, TypeError, ValueError):
        return re.sub(r"\{[^}]*\}", "–", text)


def _raised(markdown):
    """Raised digits as markup: fonts that lack some of them mix sizes, and 10⁻⁴¹ reads as 10⁻⁴."""
    return re.sub(f"[{RAISED}]+", lambda found: f"<sup>{found[0].translate(LOWERED)}</sup>", markdown)


def _table(frame, caption, kind="numbers", folded=False):
    formats = {
        name: p_value if PROBABILITY.fullmatch(str(name)) else _decimals(frame[name])
        for name in frame.select_dtypes("float")
    }
    options = {"index": False, "escape": True, "border": 0, "na_rep": "–", "justify": "inherit"}
    shown = frame.rename_axis(columns=None).to_html(classes=kind, formatters=formats, **options)
    shown = f"<details><summary>{len(frame)} rows</summary>{shown}</details>" if folded else shown
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{_raised(shown)}</figure>"


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


def _shown(path):
    """The path from the repository's root, or the whole of it; of a file in an installed package the last two parts."""
    path = Path(path)
    if "site-packages" in path.parts:
        return "/".join(path.parts[-2:])
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def _commit():
    try:
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty= with changes", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _provenance_list(parameters, provenance):
    rows = {
        "Parameters": ", ".join(f"{name} = {value!r}" for name, value in parameters.items()),
        "Commit": provenance["commit"],
        "Versions": ", ".join(
            f"{name} {number}" for name, number in {"python": provenance["python"], **provenance["versions"]}.items()
        ),
        "Inputs (SHA-256)": ", ".join(f"{path} {_short(digest)}" for path, digest in provenance["inputs"].items()),
        "Run": "threads: {threads}, seconds: {seconds}, peak memory: {peak_memory_mb} MB".format(**provenance),
    }
    return (
        "<dl class='provenance'>"
        + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in rows.items())
        + "</dl>"
    )


def _short(digest):
    return digest if " " in digest else digest[:12]


def _plain(value):
    """JSON-ready copy: numpy scalars become Python's, and numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
