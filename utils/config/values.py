"""One value of a config: from the text in YAML to what its key asks for, and back into the words of an error."""

import math
import operator
import os
from typing import Any

import yaml

from utils.config.keys import Key
from utils.errors import UserError

FORMS = {  # type: what an error asks for
    "str": "text",
    "path": "a path",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "ints": "a list of whole numbers",
    "floats": "a list of numbers",
    "range": "two numbers [low, high]",
    "rgb": "three numbers [red, green, blue]",
}
LISTS = {  # type: of what, how many (None: any)
    "ints": ("int", None),
    "floats": ("float", None),
    "range": ("float", 2),
    "rgb": ("float", 3),
}
BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
LONGEST = 200  # characters of a value or a name that an error shows


class _Loader(yaml.BaseLoader):
    """Leaves scalars as text, for the key's type decides what they mean: YAML 1.1 takes 1e-4 for text, 010 for 8 and
    1:30 for 90. Refuses a key that stands twice."""

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key.value!r}", key.start_mark
                )
            seen.add(key.value)
        return mapping


def parse_yaml(content: str | bytes, source: str) -> Any:
    """Mappings, lists and text, None for nothing. Raises UserError, one line that names `source`."""
    try:
        return yaml.load(content, _Loader)
    except yaml.reader.ReaderError as error:
        raise UserError(f"{source}: not a text file in UTF-8 ({error.reason})") from error
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{source}, line {error.problem_mark.line + 1}: {cut(problem)}") from error
    except (
        RecursionError,
        ValueError,
        OverflowError,
    ) as error:  # PyYAML's own, at a deep nest or "\UFFFFFFFF"
        raise UserError(f"{source}: cannot be read as YAML ({error})") from error


def wanted(key: Key) -> str:
    """What a value of this key should be, in words."""
    if isinstance(key.allowed, tuple):
        return f"one of {', '.join(key.allowed)}"
    return f"{FORMS[key.type]} {' and '.join(key.allowed.split())}".strip()


def convert(key: Key, value: Any) -> Any:
    """The value in the key's type; ValueError saying what it should be."""
    form = FORMS[key.type]
    kind, length = LISTS.get(key.type, (key.type, 1))
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) != (key.type in LISTS) or length not in (None, len(items)):
        raise ValueError(form)
    try:
        items = [_convert_scalar(kind, item) for item in items]
    except ValueError:
        raise ValueError(form) from None
    if key.type == "range" and items[0] > items[1]:
        raise ValueError(form)
    if isinstance(key.allowed, tuple):
        fits = items[0] in key.allowed
    else:
        fits = all(_within(bound, item) for bound in key.allowed.split() for item in items)
    if not fits:
        raise ValueError(wanted(key))
    return items if isinstance(value, list) else items[0]


def _convert_scalar(kind: str, text: Any) -> Any:
    """Text as str, path, bool, float or int, without loss; ValueError where that cannot be."""
    if not isinstance(text, str) or text.lower() in ("", "~", "null"):  # YAML's words for nothing
        raise ValueError
    if kind in ("str", "path"):
        if min(text.encode()) < 32:  # control characters; half a surrogate pair is a ValueError by itself
            raise ValueError
        return os.path.expanduser(text) if kind == "path" else text
    if kind == "bool":
        if text.lower() not in BOOLS:
            raise ValueError
        return BOOLS[text.lower()]
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    if kind == "float":
        return number
    if not number.is_integer():
        raise ValueError
    return int(number)


def _within(bound: str, number: float) -> bool:
    sign = bound.rstrip("0123456789.")
    return COMPARISONS[sign](number, float(bound.removeprefix(sign)))


def readable(value: Any) -> str:
    """What the user wrote, on one line of bounded length."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return cut(f"[{', '.join('a list' if isinstance(item, list) else readable(item) for item in value)}]")
    return cut(value if value.isprintable() else repr(value)) if value else "empty"


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
