import json

import numpy as np
import pandas as pd
import pytest

from helpers import files
from helpers.press import Report, provenance, report
from helpers.press.results import read_result, verdict
from helpers.values import Nothing


@pytest.fixture
def shown(monkeypatch):
    """What a report displays: a list of (kind, content)."""
    seen = []

    class Handle:
        def update(self, content):
            seen.append(("answer", content.data))

    def display(*contents, display_id=None):
        seen.extend((type(content).__name__, content) for content in contents)
        return Handle() if display_id else None

    for module in (report, provenance):
        monkeypatch.setattr(module, "display", display)
    return seen


def test_result_file_holds_everything_and_appears_with_the_last_cell(tmp_path, shown):
    place = tmp_path / "new" / "results.json"
    run = Report("name", {"seed": 3}, str(place))
    run.claim("one", np.float64(2.5), above=2, says="It is so.", source="a paper")
    run.claim("two", np.int64(3), below=3, says="It is not.")
    run.claim("three", np.nan, below=Nothing("there is no other"), says="Who knows.")
    run.table("t", pd.DataFrame({"k": [1, 2], "z": [0.5, np.nan]}), "caption")
    run.finding("found")
    run.finding("the answer", first=True)
    assert not place.exists()
    run.finish()
    content = json.loads(place.read_text(encoding="utf-8"))
    assert content["complete"] is True
    assert content["notebook"] == "name"
    assert content["parameters"] == {"seed": 3}
    assert [claim["holds"] for claim in content["claims"]] == [True, False, None]
    assert content["claims"][0] == {
        "name": "one", "statement": "It is so.", "statistic": 2.5, "threshold": 2.0, "holds": True, "source": "a paper",
        "found": "",
    }  # fmt: skip
    assert [content["claims"][2][name] for name in ("statistic", "threshold")] == [None, None]
    assert content["tables"]["t"] == {"columns": ["k", "z"], "rows": [[1, 0.5], [2, None]]}
    assert list(content["provenance"]) == [
        "commit", "version", "python", "versions", "inputs", "threads", "seconds", "peak_memory_mb",
    ]  # fmt: skip
    assert [text.strip() for kind, text in shown if kind == "answer"] == ["the answer", "", "- found"]
    assert list(place.parent.iterdir()) == [place]


def test_pandas_reads_a_result_file(tmp_path, shown):
    run = Report("name", {}, str(tmp_path / "r.json"))
    run.claim("one", 2.5, above=2, says="So.", found="{value} of it")
    frame = pd.DataFrame({"k": [1, 2], "z": [0.5, np.nan], "name": ["a", "b"]})
    run.table("t", frame, "caption")
    run.finish()
    found = pd.read_json(tmp_path / "r.json", typ="series")
    table = found["tables"]["t"]
    pd.testing.assert_frame_equal(pd.DataFrame(table["rows"], columns=table["columns"]), frame)
    assert pd.DataFrame(found["claims"]).loc[0, ["holds", "found"]].tolist() == [True, "2.5 of it"]


@pytest.mark.parametrize(
    ("value", "how", "holds"),
    [
        (0.04, {"below": 0.05}, True),
        (0.05, {"below": 0.05}, False),
        (3.0, {"above": 3}, False),
        (3.0, {"at_least": 3}, True),
        (3.1, {"at_most": 3}, False),
        (np.nan, {"below": 1}, None),
        (Nothing("no base is given"), {"below": 1}, None),
        (0.1, {"below": 1, "unless": "with so few layers it cannot be known"}, None),
    ],
)
def test_a_claim_is_a_comparison(shown, value, how, holds):
    run = Report("name", {})
    run.claim("c", value, says="It is {p:.2f}.", source="here", found="p = {p:.2f}", p=value, **how)
    (claim,) = run.claims
    assert claim["holds"] is holds
    reasons = {"no base is given", "it cannot be computed here", "with so few layers it cannot be known"}
    assert (claim["found"] in reasons) is (holds is None)
    assert holds is None or claim["found"] == f"p = {value:.2f}"
    assert claim["statistic"] is None or claim["statistic"] == value or np.isnan(value)
    assert verdict(holds).capitalize() in shown[-1][1].data


@pytest.mark.parametrize("says", ["{a}", "{a:.2f}", "{a:d}", "{a:p}", "{a:each 3}", "{a:each p}", "{a:span 2}", "{t}"])
@pytest.mark.parametrize("value", [np.nan, Nothing("no base is given")])
def test_what_is_undecided_is_stated_without_what_is_not_there(shown, says, value):
    run, nothing = Report("name", {}), Nothing("no base is given")
    run.claim("c", value, below=1, says=f"Of {{n}} it is {says} (p < 0.05).", a=nothing, tables=[nothing], n=3)
    (claim,) = run.claims
    assert (claim["holds"], claim["found"]) == (None, "no base is given")
    assert "{" not in claim["statement"] + shown[-1][1].data
    assert claim["statement"].endswith("it is – (p < 0.05).")


def test_nothing_escaped_is_nothing():
    nothing = Nothing("there is a single layer")
    assert report.escaped(nothing) is report.literal(nothing) is nothing


def test_a_reason_is_said_once_where_several_things_in_a_row_have_it(shown):
    run, nothing = Report("name", {}), Nothing("there is <one> adapter")
    for _ in range(2):
        run.table("t", nothing, "caption")
        run.figure(nothing, "alt {x}", x=nothing)
        assert run.finding("φ is {x}.", x=nothing) is None
        run.explore(nothing)
    said = [content.data for _, content in shown[3:]]
    assert said == ["Nothing to show: there is &#60;one&#62; adapter."]
    run.say("Something.")
    run.table("t", nothing, "caption")
    assert [content.data for _, content in shown[3:]] == [*said, "Something.", *said]
    assert (run.findings, run.tables) == ([], {})


def test_a_picture_at_the_top_is_shown_where_the_report_was_made(shown):
    from matplotlib.figure import Figure

    run = Report("name", {})
    run.figure(Figure(figsize=(2, 1)), "φ is {phi}", top=True, phi=0.5)
    assert [kind for kind, _ in shown] == ["Markdown", "Markdown", "Markdown", "answer"]
    assert shown[-1][1].startswith(b"\x89PNG")
    run.finding("So it is.")
    run.finish()
    sentence, below = (text for kind, text in shown[-4:] if kind == "answer")
    assert sentence == "So it is."
    assert below.strip() == "**The picture.** φ is 0&#46;5"


def test_claims_are_tallied_and_shown_with_what_was_found(shown):
    run = Report("name", {})
    for below in (2, 1, 0):
        run.claim("c", 1, below=below, says="<b>So.", found="1 <i>")
    run.claim("c", 1, below=2, says="<b>So.", unless="1 <i>")
    run.finish()
    table = next(content.data for kind, content in shown if kind == "HTML" and "<h2>Claims" in content.data)
    assert "1 hold, 2 do not, 1 undecided" in table
    assert table.count("<td>1 &lt;i&gt;</td>") == 4
    assert "<b>" not in table


def test_files_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    files.write_together(tmp_path, {"a": "old", "b": "old"})
    written = []

    def fail(path, content):
        written.append(path.name)
        if path.name == "b":
            raise OSError("disk full")

    monkeypatch.setattr(files, "write_whole", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_together(tmp_path, {"a": "new", "b": "new"})
    assert written == ["a", "b"]
    assert {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()} == {"a": "old", "b": "old"}


def test_no_path_no_file(tmp_path, shown, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Report("name", {}).finish()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    place = tmp_path / "results.json"
    files.write_whole(place, "old")
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_whole(place, "new")
    assert place.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [place]


HOSTILE = [
    "<script>alert(1)</script>",
    "a`b`*c*",
    "$x$",
    "[l](javascript:1)",
    "![x](http://y)",
    "a|b\n# c",
    "&amp;",
    "_a_",
    "~~",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_from_files_stay_text_in_markdown_and_in_tables(text, shown):
    from nbconvert.filters import markdown2html

    page = markdown2html(f"before {report.literal(text)} after")
    inside = page.split("<code>")[1].split("</code>")[0]
    assert "<" not in inside.replace("<br>", "")
    assert __import__("html").unescape(inside).split() == text.split()
    Report("name", {}).table("t", pd.DataFrame({text: [text]}), text)
    table = shown[-1][1].data
    assert "<script" not in table
    assert table.count("<t") == len(["table", "thead", "tr", "th", "tbody", "tr", "td"])


def test_numbers_without_end_are_shown_and_null_in_the_file(tmp_path, shown):
    run = Report("name", {}, str(tmp_path / "r.json"))
    run.table("t", pd.DataFrame({"z": [np.inf, np.nan, 12.5]}), "caption")
    run.claim("c", np.inf, above=3, says="So.")
    run.finish()
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found["tables"]["t"]["rows"] == [[None], [None], [12.5]]
    assert (found["claims"][0]["holds"], found["claims"][0]["statistic"]) == (True, None)


def test_figures_are_numbered_and_carry_their_text_as_text(shown):
    from matplotlib.figure import Figure

    run = Report("name", {})
    for number in (1, 2):
        run.figure(Figure(figsize=(2, 1)), alt="a *line* from 0 to 10⁻³")
        data, metadata = shown[-2][1]._repr_mimebundle_()
        assert "image/png" in data
        assert metadata["image/png"]["alt"] == "a *line* from 0 to 10⁻³"
        assert shown[-1][1].data == f"**Figure {number}.** a &#42;line&#42; from 0 to 10<sup>−3</sup>"


def test_raised_digits_are_markup_on_the_page_and_text_in_the_file(tmp_path, shown):
    run = Report("name", {}, str(tmp_path / "r.json"))
    run.claim("c", 1, above=0, says="p is 4·10⁻⁴¹.")
    run.finish()
    assert "10<sup>−41</sup>." in shown[3][1].data
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["claims"][0]["statement"] == "p is 4·10⁻⁴¹."


def test_a_folded_table_is_recorded_whole_and_opens_by_a_click(shown):
    run = Report("name", {})
    run.table("t", pd.DataFrame({"x": ["<b>", "c"]}), "caption", folded=True)
    (markup,) = [content.data for kind, content in shown if kind == "HTML"]
    assert markup.startswith("<figure><figcaption>caption</figcaption><details><summary>2 rows</summary><table")
    assert "&lt;b&gt;" in markup
    assert run.tables["t"] == {"columns": ["x"], "rows": [["<b>"], ["c"]]}


def test_hashes_are_sha256_and_a_very_large_file_is_not_read(tmp_path, monkeypatch):
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    assert files.file_hash(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(files, "HASHED_UP_TO", 2)
    assert files.file_hash(file) == "not hashed: 3 bytes"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"notebook": "n"}',
        '{"notebook": 1, "claims": []}',
        '{"notebook": "n", "claims": [{"name": "c"}]}',
        '{"notebook": "n", "claims": [{"holds": []}]}',
    ],
)
def test_what_is_no_result_file_is_not_read_as_one(tmp_path, shown, text):
    file = tmp_path / "results.json"
    assert read_result(file) is None
    file.write_text(text, encoding="utf-8")
    assert read_result(file) is None
    file.write_bytes(b"\xff" + text.encode())
    assert read_result(file) is None
    Report("name", {"a": 1}, str(file)).finish()
    assert read_result(file)["parameters"] == {"a": 1}
