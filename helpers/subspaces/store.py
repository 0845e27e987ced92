"""What tasks found, kept in a directory so that another run goes on: a parquet file each, and nothing pickled.

A file is called by a digest of all that it depends on, and one of what it holds. A row of its table is a value of the
result, or opens a dict, a list or a tuple, of which the next rows are the items: `name` in a dict, `kind`, `shape`, and
the numbers or texts.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from helpers.files import digest, write_whole
from helpers.parameters import BadParameter
from helpers.paths import resolve
from helpers.subspaces.measured import Place
from helpers.workers import VERSION

NUMBERS = {"f": "floats", "i": "integers", "u": "integers", "b": "integers", "U": "texts"}  # by kind of NumPy's types
INSIDE = {"dict": dict, "list": list, "tuple": tuple}
PLAIN = {"float": float, "int": int, "bool": bool, "str": str}
SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "kind": pa.string(),
        "shape": pa.list_(pa.int64()),
        "floats": pa.list_(pa.float64()),
        "integers": pa.list_(pa.int64()),
        "texts": pa.list_(pa.string()),
    }
)


class Store:
    """A directory of results. path: it, made where there is none. files: {Place: the files that are read there}.

    Raises BadParameter where it cannot be written. notes: sentences on what in it could not be used.
    """

    def __init__(self, path, files):
        self.path, self._files, self._notes, self._held, self._asked = resolve(path), files, [], {}, set()
        try:
            write_whole(self.path / ".writable", "")
            (self.path / ".writable").unlink(missing_ok=True)
            for file in sorted(self.path.glob("*-*.parquet")):
                self._held.setdefault(file.name.partition("-")[0], []).append(file)
        except OSError as error:
            raise BadParameter(f"store {str(self.path)!r} is no directory that can be written: {error}") from None
        self._used = False

    @property
    def notes(self):
        """Sentences on what in it is damaged, or why nothing in it could be used."""
        others = len(self._held.keys() - self._asked)
        if self._used or not others or not self._asked:
            return self._notes
        told = f"the {others} results in {self.path} are of other inputs, settings or versions"
        return [*self._notes, f"{told}, so that everything was computed anew"]

    def origin(self, function, task):
        """All that the result of a task depends on, as a text; where files lie does not count."""
        told = {"function": f"{function.__module__}.{function.__qualname__}", "task": self._plain(task), **VERSION}
        return json.dumps(told, default=lambda number: number.item())

    def read(self, origin):
        """What was kept of an origin when this was opened, exactly; None where nothing was, or it is damaged."""
        self._asked.add(_name(origin.encode()))
        for file in self._held.get(_name(origin.encode()), ()):
            try:
                content = file.read_bytes()
                why = "" if file.stem.endswith(_name(content)) else "it does not hold what it held"
            except OSError as error:
                why = error.strerror
            if not why:
                self._used = True
                columns = parquet.read_table(io.BytesIO(content)).columns
                return _value(zip(*map(_items, columns), strict=True))[1]
            self._notes.append(f"{file} is damaged ({why}), so that its numbers were computed anew")
        return None

    def write(self, origin, result):
        """Keep a result: dicts with texts as keys, lists, tuples, numbers, texts, arrays and None, in each other."""
        columns, content = zip(*_rows(result), strict=True), io.BytesIO()
        name = _name(origin.encode())
        try:
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
            parquet.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata({"origin": origin})), content)
            file = self.path / f"{name}-{_name(content.getvalue())}.parquet"
            write_whole(file, content.getvalue())
            for old in self._held.get(name, ()):  # which was damaged
                if old != file:
                    old.unlink(missing_ok=True)
        except (OSError, UnicodeError) as error:
            told = f"not everything could be kept in {self.path} ({error}): another run computes it anew"
            self._notes += [told] * (not any(note.startswith("not everything") for note in self._notes))

    def _plain(self, value):
        if isinstance(value, Place):
            return [
                Path(value.path).name,
                *([file.name, file.exists() and digest(file)] for file in self._files[value]),
            ]
        if isinstance(value, dict):
            return {key: self._plain(each) for key, each in value.items()}
        return [self._plain(each) for each in value] if isinstance(value, tuple | list) else value


def _name(content):
    return hashlib.sha256(content).hexdigest()[:32]


def _rows(value, name=None):
    """A value, and what is in it, as rows of SCHEMA."""
    kind, held = type(value).__name__, dict.fromkeys(SCHEMA.names[3:])
    if INSIDE.get(kind) is type(value):
        yield name, kind, [len(value)], *held.values()
        for key, each in value.items() if kind == "dict" else ((None, each) for each in value):
            yield from _rows(each, key)
        return
    if value is None:
        yield name, kind, None, *held.values()
        return
    plain = PLAIN.get(kind) is type(value)
    array = np.asarray(value) if plain or isinstance(value, np.ndarray | np.generic) else np.array(None)
    column = NUMBERS.get(array.dtype.kind)
    if not column or (column != "texts" and array.dtype.itemsize > 8) or (plain and array.dtype.kind == "u"):
        raise TypeError(f"{kind} {value!r:.50} cannot be kept: expected a number, a text or an array of them")
    if column == "texts":
        held[column] = [value] if plain else array.ravel().tolist()
    else:
        held[column] = array.ravel().astype(np.float64 if column == "floats" else np.int64)
    shape = list(array.shape) if isinstance(value, np.ndarray) else None
    yield name, kind if plain else array.dtype.str, shape, *held.values()


def _value(rows):
    """(name, value) of the next of `_rows` and of those in it."""
    name, kind, shape, *held = next(rows)
    if kind in INSIDE:
        items = [_value(rows) for _ in range(shape[0])]
        return name, dict(items) if kind == "dict" else INSIDE[kind](value for _, value in items)
    if kind == "NoneType":
        return name, None
    (numbers,) = (each for each in held if each is not None)
    if kind in PLAIN:
        return name, PLAIN[kind](numbers[0])
    array = np.array(numbers, dtype=kind)
    return name, array[0] if shape is None else array.reshape(shape)


def _items(column):
    """What each row has in a column; lists as arrays."""
    if column.type == pa.string():
        return column.to_pylist()
    return [each.values.to_numpy(zero_copy_only=False) if each.is_valid else None for each in column]
