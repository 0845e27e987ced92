"""Where the repository is, and what a path in a parameter means."""

import importlib
import os
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
CLONE = (ROOT / "notebooks").is_dir() and (ROOT / "pyproject.toml").is_file()  # and not an installed package
START = "the repository's root" if CLONE else "the current directory; data/ comes with the repository only"


def resolve(path):
    """`path` as an absolute Path; a relative one starts at START, in a clone wherever the kernel runs."""
    # Links are not followed: a hub's cache keeps config.json beside the link.
    return Path(os.path.abspath((ROOT if CLONE else Path.cwd()) / Path(path).expanduser()))  # noqa: PTH100


def of_repository(path):
    """`path`, such as data/published, as an absolute Path; an installed package holds some of these itself.

    Raises FileNotFoundError where it does not and the current directory has none.
    """
    if CLONE:
        return resolve(path)
    for place in (PACKAGE / path, resolve(path)):
        if place.exists():
            return place
    told = "data/ comes with the repository only: clone that, and run from its root"
    raise FileNotFoundError(f"{path} is not in {Path.cwd()}, and {told}")


def spec_from_here(name):
    """What `importlib.util.find_spec` finds of a module, the current directory being the last place that it looks in.

    So no file there stands in for what is importable without it. None where there is no such module.
    """
    with _here():
        return find_spec(name)


def import_from_here(name):
    """A module, found as by `spec_from_here`. Raises what its import raises.

    The directory is left out again afterwards: of its files those can be imported later that lie in the same package.
    """
    with _here():
        return importlib.import_module(name)


@contextmanager
def _here():
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)
