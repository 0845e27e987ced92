"""The slider of notebook 05 in its page, from disk: it walks the layers by keyboard, and says what they have."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe

LINE = re.compile(r"layer\.(\d+)\.attention\.self\.(\w+): .*?= ([\d.]+) \(r8\), ([\d.]+) \(r4\)")


def test_the_slider_walks_the_layers(run_on_the_encoder, visit):
    adapters = ["data/adapters/r8", "data/adapters/r4"]
    report, tables = run_on_the_encoder("05_model_atlas", adapters=adapters, modules="layer.[0-3].*")
    page, requests = visit(report)
    ratio = {(row["layer"], row["projection"], row["adapter"]): row["ratio"] for row in tables["atlas"]}

    def shown():
        """(layer, projection) that the line tells, whose numbers are the table's, and the picture."""
        layer, kind, *told = LINE.search(page.locator(".explorer .line").inner_text()).groups()
        expected = [ratio[int(layer), kind, name] for name in ("r8", "r4")]
        assert [float(number) for number in told] == pytest.approx(expected, abs=6e-4)
        return (int(layer), kind), page.locator(".explorer img").get_attribute("src")

    page.locator(".explorer").scroll_into_view_if_needed()
    page.get_by_role("slider", name="layer").focus()
    seen = set()
    for key in ["Home", *["ArrowRight"] * 3]:
        page.keyboard.press(key)
        seen.add(shown())
    assert [place[0] for place, _ in sorted(seen)] == [0, 1, 2, 3]
    assert len({picture for _, picture in seen}) == 4
    page.get_by_role("radio", name="value").check()
    assert shown()[0] == (3, "value")
    assert Axe().run(page, ".explorer").response["violations"] == []
    assert requests == []
