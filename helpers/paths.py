"""Where the repository is, and what a path in a parameter means."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def resolve(path):
    """`path` as an absolute Path; a relative one starts at the repository's root, wherever the kernel runs."""
    # Links are not followed: a hub's cache keeps config.json beside the link.
    return Path(os.path.abspath(ROOT / Path(path).expanduser()))  # noqa: PTH100
