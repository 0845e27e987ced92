"""Directories of data with a card: written whole or not at all, with the hash of every file."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from helpers.files import file_hash


def write_card(directory, card):
    """Write README.md: `card`, in which `{hashes}` stands for a table of the files' SHA-256."""
    (directory / "README.md").unlink(missing_ok=True)  # a template of the library that saved the files
    hashes = "\n".join(f"| `{file.name}` | `{file_hash(file)}` |" for file in sorted(directory.iterdir()))
    table = f"| file | SHA-256 |\n|---|---|\n{hashes}"
    (directory / "README.md").write_text(card.replace("{hashes}", table), encoding="utf-8")


@contextmanager
def whole_directory(directory):
    """A temporary directory beside `directory` that takes its place when the block ends well."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as scratch:
        partial, old = Path(scratch, "new"), Path(scratch, "old")
        partial.mkdir()
        yield partial
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)


def file_table(directories):
    """Every file of the directories, with size and SHA-256."""
    found = [file for directory in directories for file in sorted(directory.iterdir())]
    return pd.DataFrame(
        {
            "file": [f"{file.parent.name}/{file.name}" for file in found],
            "bytes": [file.stat().st_size for file in found],
            "SHA-256": [file_hash(file) for file in found],
        }
    )
