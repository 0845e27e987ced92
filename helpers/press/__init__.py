"""A notebook → a report, anywhere: what it found as data, its run, its page, sweeps of runs. Knows neither science."""

from helpers.press.report import Report, literal, verdict

__all__ = ["Report", "literal", "verdict"]
