"""Text → values: what the words of a command line mean, and which names the source of a cell assigns to."""

import ast
import re

import yaml

from helpers.values import Refused

WORDS = {"true": True, "false": False, "null": None}
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
NOT_DECIMAL = re.compile(  # what Python or YAML 1.1 takes for a number: 0x10, 1:30, 1_000
    r"[+-]?(0[box][0-9a-f_]+|[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?|(?=.*_)\.?[0-9][0-9_]*(\.[0-9_]*)?(e[+-]?[0-9_]+)?)",
    re.IGNORECASE,
)


class BadParameter(Refused):
    """A parameter of a notebook, or a word of a command line, that is refused. Its message is a whole sentence."""


def meaning(text):
    """What a word of a command line means: a decimal number, true, false or null; another word is a text."""
    word = text.strip()
    if DECIMAL.fullmatch(word):
        return int(word) if word.lstrip("+-").isdecimal() else float(word)
    return WORDS.get(word.lower(), text)


def texts(text):
    """The texts in a list or tuple such as "[a, 'b c']"; a text that is neither comes back as it is."""
    inner = text.strip()
    if inner.startswith("(") and inner.endswith(")"):
        inner = f"[{inner[1:-1]}]"
    try:
        found = yaml.load(inner, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return text
    return found if isinstance(found, list) else text


def read(text):
    """A value of a command line where no schema says its type: YAML with the words of `meaning`; quoted, a text.

    Raises yaml.YAMLError for what is no YAML, and BadParameter for a number that is not decimal.
    """
    return yaml.load(text, _Reader)


class _Reader(yaml.BaseLoader):
    def construct_scalar(self, node):
        if node.style:
            return node.value
        if NOT_DECIMAL.fullmatch(node.value):
            raise BadParameter(f"{node.value!r} is no decimal number: write 16, -0.5 or 1e-3, or quote it for a text")
        return meaning(node.value)


def assigned(source):
    """The set of names that a cell's source assigns to at its top level; empty where it cannot be parsed.

    source: Python, in which IPython's magics and shell commands may stand.
    """
    from IPython.core.inputtransformer2 import TransformerManager  # slow to import, and not needed to check values

    try:
        lines = ast.parse(TransformerManager().transform_cell(source)).body
    except (SyntaxError, ValueError):  # ValueError: a null byte, before Python 3.12
        return set()
    targets = [target for line in lines if isinstance(line, ast.Assign) for target in line.targets]
    targets += [line.target for line in lines if isinstance(line, ast.AnnAssign | ast.AugAssign)]
    names = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}
