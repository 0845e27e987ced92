"""One reader for each way to write updates down, and which of them a path asks for."""

from helpers.weights.formats.recognise import open_update

__all__ = ["open_update"]
