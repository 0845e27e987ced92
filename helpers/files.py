"""Files: known by digests of what they hold, written whole or not at all, and by one process at a time."""

import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

HASHED_UP_TO = 256 * 2**20  # bytes; hashing a larger file would cost more than what is done with it
END, BLOCK, BLOCKS = 2**20, 2**12, 256  # bytes of a larger one: at either end, and of blocks between
HEADER = 100 * 2**20  # bytes, the most that a safetensors file may have


def file_hash(path):
    """SHA-256 of a file in hexadecimal; for a very large file its size instead."""
    path = Path(path)
    size = path.stat().st_size
    if size > HASHED_UP_TO:
        return f"not hashed: {size} bytes"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(file):
    """SHA-256 of a file, read once while its size and time stay; of one above 256 MB that of what tells it apart.

    Which is its size, the header of a safetensors file, a megabyte at either end and 256 blocks of 4 KB between.
    """
    found = file.stat()
    return _digest(file, found.st_size, found.st_mtime_ns)


@functools.cache
def _digest(file, size, _changed):
    if size <= HASHED_UP_TO:
        return file_hash(file)
    told = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        header = int.from_bytes(content.read(8), "little") if file.suffix == ".safetensors" else 0
        content.seek(0)
        told.update(content.read(END + header * (header <= HEADER)))
        for place in range(END, size - END, max(BLOCK, (size - 2 * END) // BLOCKS)):
            content.seek(place)
            told.update(content.read(BLOCK))
        content.seek(max(0, size - END))
        told.update(content.read())
    return told.hexdigest()


def write_whole(path, content):
    """Write text or bytes so that `path` holds all of it or what it held before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_together(place, files):
    """Write {name: text} into a directory. All are staged before the first is replaced; they are replaced in order."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place) as staged:
        for name, text in files.items():
            write_whole(Path(staged, name), text)
        for name in files:
            Path(staged, name).replace(place / name)


@contextmanager
def turn(place, waiting=""):
    """Hold a directory alone, made if need be; the system lets go of it when the process dies, however it does.

    What a process that was killed then had staged in a directory of it (see `write_together`) is removed.
    waiting: what to print where another process holds it. Raises OSError where it cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(waiting, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for staged in place.glob("*/.new-*"):
            shutil.rmtree(staged)
        yield
