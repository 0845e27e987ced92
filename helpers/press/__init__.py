"""A notebook → a report, anywhere: what it found as data, its run, its page, sweeps of runs. Knows neither science."""

from helpers.press.report import Report, escaped, literal, verdict

__all__ = ["Report", "escaped", "literal", "verdict"]
