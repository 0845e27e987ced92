"""One reader for each way to write updates down, and which of them a path asks for."""
