"""Base of the schemas: how values are read and refused, and the notebook's cell that is made of a schema."""

import difflib
import json
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from helpers.parameters.reading import BadParameter, assigned, meaning, texts

WIDTH = 120  # of a line in a cell

NonEmpty = Annotated[str, Field(min_length=1)]
ResultFile = Annotated[str, Field(description="where the result file goes (empty: nowhere)")]


class Parameters(BaseModel):
    """Base of the schemas: strict types, no unknown names; the text below a field is its help, one line.

    What papermill and command lines hand over as text ('true', '[1, 2]', a numpy scalar as '3') is read as the field's
    type first, its words by `meaning`. inputs: the fields that name files or directories to read. gone: {name of a
    parameter that there once was: what to do instead}.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    inputs: ClassVar[tuple[str, ...]] = ()
    gone: ClassVar[dict[str, str]] = {}

    @classmethod
    def check(cls, values) -> Self:
        """The parameters among a notebook's globals, checked. Raises BadParameter: the first fault.

        Other globals are passed over, but for names that papermill put there as parameters: it only warns of
        one that the notebook does not have.
        """
        known = {name: values[name] for name in values if name in cls.model_fields}
        injected = [assigned(source) for source in values.get("In", ()) if source.startswith("# Parameters\n")]
        return cls.parse(known | dict.fromkeys(set().union(*injected) - known.keys()))

    @model_validator(mode="before")
    @classmethod
    def _undo_text(cls, values):
        return {name: _as_type(value, cls.model_fields[name].annotation) for name, value in values.items()}

    @classmethod
    def parse(cls, values) -> Self:
        """Like `check`, for {name: value} in which every name must be a parameter."""
        if unknown := [name for name in values if name not in cls.model_fields]:
            near = difflib.get_close_matches(unknown[0], cls.model_fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(cls.model_fields)}"
            raise BadParameter(f"there is no parameter {unknown[0]!r}; {cls.gone.get(unknown[0], hint)}")
        try:
            return cls(**values)
        except ValidationError as error:
            raise BadParameter(_sentence(error.errors()[0])) from None

    @classmethod
    def cell(cls):
        """Source of the notebook's cell with the tag `parameters`: defaults, and the help that papermill shows."""
        return "\n".join(_assignment(name, field) for name, field in cls.model_fields.items())

    @classmethod
    def choices(cls, name):
        """The values that a parameter may have, of one that is chosen from a few."""
        return get_args(cls.model_fields[name].annotation)


def _assignment(name, field):
    """A line of a parameters cell; a list that is too long for one has a line for each of its items."""
    start, told = f"{name}: {type(field.default).__name__} = ", f"  # {field.description}"
    if len(line := start + _source(field.default) + told) <= WIDTH or not isinstance(field.default, list):
        return line
    items = "".join(f"    {_source(item)},\n" for item in field.default)
    return f"{start}[\n{items}]{told}"


def _source(value):
    if isinstance(value, list):
        return f"[{', '.join(map(_source, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _as_type(value, kind):
    """`value` as papermill got it, before it became text; what cannot be read so is left for the schema to refuse."""
    value = value.tolist() if hasattr(value, "tolist") else value
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == str(whole)), value)
    if kind is str:
        return str(value) if isinstance(value, PurePath) else value
    if get_origin(kind) is list:
        value = texts(value) if isinstance(value, str) else value
        return [_as_type(item, get_args(kind)[0]) for item in value] if isinstance(value, list | tuple) else value
    value = meaning(value) if isinstance(value, str) else value
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value


def _sentence(error):
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    name, value = ".".join(str(part) for part in error["loc"]), error["input"]
    if error["type"] == "list_type":
        return f'parameter {name} is {value!r}: expected a list, such as "[DIR, DIR]"'
    if error["type"] == "too_short":
        return f"parameter {name} is empty: expected at least one entry"
    hint = " (with papermill: -r instead of -p)" if error["type"] == "string_type" else ""
    return f"parameter {name} is {value!r}: {error['msg'][0].lower()}{error['msg'][1:]}{hint}"
