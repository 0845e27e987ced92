"""A notebook → a report, anywhere: what it found as data, its run, its page, sweeps of runs. Knows neither science."""

from importlib import import_module

OF_REPORTS = ("Report", "escaped", "literal", "verdict")


def __getattr__(name):
    """One of `OF_REPORTS`, imported when it is asked for: who wants `conclude` alone need not wait for pandas."""
    if name in OF_REPORTS:
        return getattr(import_module("helpers.press.report"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
