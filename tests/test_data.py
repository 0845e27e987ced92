"""What data/ holds: cards with true hashes, no path of a machine, within the budget."""

import hashlib
import re

import pytest

from helpers.paths import ROOT

CARDS = sorted((ROOT / "data").rglob("README.md"))


def test_every_directory_of_files_has_a_card():
    places = {file.parent for file in (ROOT / "data").rglob("*") if file.is_file()}
    assert sorted(places) == sorted(card.parent for card in CARDS)
    # two models, what was trained from them, merges; digit classifiers, networks of planted truths; what is published
    assert len(CARDS) == 7 + 8 + 1 + 4 + 6 + 1


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_card_names_source_licence_and_the_hash_of_every_file(card):
    text = card.read_text(encoding="utf-8")
    assert "**Source**" in text
    assert "**Licence**" in text
    hashes = dict(re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", text))
    files = {file.name: file for file in card.parent.iterdir() if file != card}
    assert hashes.keys() == files.keys()
    for name, file in files.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == hashes[name], name
        assert not re.search(rb"/(?:home|root|work|tmp|Users)/", file.read_bytes()), name


def test_budgets():
    files = [file for file in (ROOT / "data").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 80e6
    assert all(file.stat().st_size < 2e6 for file in (ROOT / "notebooks").rglob("*.ipynb"))
