"""The sliders of notebook 06 in its page, from disk: they walk layers, projections and pairs, and say what is there."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe

NUMBER = r"(−?[\d.]+)"
LINE = re.compile(
    rf"layer\.(\d+)\.attention\.self\.(\w+), (\S+) and (\S+): ([a-z ]+)\. Cosine {NUMBER}, .*?"
    rf"left {NUMBER} \(chance {NUMBER}\), right {NUMBER} \(chance {NUMBER}\)\."
)
TOLD = ("cosine", "phi_left", "phi_left_chance", "phi_right", "phi_right_chance")


def test_the_sliders_walk_layers_projections_and_pairs(run_on_the_encoder, visit):
    adapters = [f"data/adapters/{name}" for name in ("r8", "r64", "r8-lr0.0003")]
    report, tables = run_on_the_encoder("06_adapters_together", adapters=adapters, modules="layer.[0-2].*")
    page, requests = visit(report)
    rows = {(row["layer"], row["projection"], row["one"], row["other"]): row for row in tables["pairs"]}

    def shown():
        """(layer, projection, one, other) that the line tells, whose numbers are the table's, and the picture."""
        line = page.locator(".explorer .line").inner_text()
        layer, kind, one, other, verdict, *told = LINE.search(line).groups()
        row = rows[int(layer), kind, one, other]
        assert verdict == row["verdict"]
        told = [float(number.replace("−", "-")) for number in told]
        assert told == pytest.approx([row[name] for name in TOLD], abs=6e-4)
        return (int(layer), kind, one, other), page.locator(".explorer img").get_attribute("src")

    page.locator(".explorer").scroll_into_view_if_needed()
    slider, seen = page.get_by_role("slider", name="layer"), {}
    for kind in ("query", "value"):
        page.get_by_role("radio", name=kind).check()
        for pair in {(row["one"], row["other"]) for row in tables["pairs"]}:
            page.get_by_role("radio", name=" · ".join(pair), exact=True).check()
            slider.focus()
            for layer, key in enumerate(["Home", "ArrowRight", "ArrowRight"]):
                page.keyboard.press(key)
                place, picture = shown()
                assert place == (layer, kind, *pair)
                seen[place] = picture
    assert seen.keys() == rows.keys()
    assert len(set(seen.values())) == len(rows) == 18
    assert Axe().run(page, ".explorer").response["violations"] == []
    assert requests == []
