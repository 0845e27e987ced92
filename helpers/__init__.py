"""Arithmetic behind the phi-and-pixels notebooks; each module says what it holds."""
