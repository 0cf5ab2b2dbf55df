"""The values of a config: read from YAML, turned into the type of their key, and shown in errors."""

import functools
import math
import operator
import os
from typing import Any

import yaml

from utils.config.keys import Key
from utils.errors import UserError

BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
LONGEST = 200  # characters of a value or a name that an error shows
ANY = -1


def _number(text: str, kind: type = float) -> float | int:
    number = float(text)
    if not math.isfinite(number) or kind(number) != number:
        raise ValueError
    return kind(number)


_whole = functools.partial(_number, kind=int)
TYPES = {  # name: how an error calls it, parser of an item, number of items (0: not a list)
    "text": ("text", str, 0),
    "path": ("a path", os.path.expanduser, 0),
    "bool": ("True or False", lambda text: BOOLS[text.lower()], 0),
    "int": ("a whole number", _whole, 0),
    "float": ("a number", _number, 0),
    "ints": ("a list of whole numbers", _whole, ANY),
    "floats": ("a list of numbers", _number, ANY),
    "range": ("two numbers [low, high]", _number, 2),
    "rgb": ("three numbers [red, green, blue]", _number, 3),
}


class _Loader(yaml.BaseLoader):
    """Leaves scalars as text: the key's type decides (YAML 1.1 reads 1e-4 as text, 010 as 8)."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in names[:number]:
                raise yaml.MarkedYAMLError(None, None, f"duplicate key {key.value!r}", key.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(content: str | bytes, source: str) -> Any:
    """Mappings, lists and text; None for an empty file. Raises UserError, one line that names `source`."""
    try:
        return yaml.load(content, _Loader)
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{source}, line {error.problem_mark.line + 1}: {shorten(problem)}") from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # an image, or deep nesting
        reason = getattr(error, "reason", error)
        raise UserError(f"{source}: not a text file in UTF-8 that YAML can read ({reason})") from error


def parse_value(key: Key, raw: Any) -> Any:
    """A value from `parse_yaml` in the type of its key. Raises ValueError or KeyError for any other."""
    if isinstance(key.takes, list):
        if raw not in key.takes:
            raise ValueError
        return raw
    kind, *bounds = key.takes.split()
    _, parse, length = TYPES[kind]
    texts = raw if isinstance(raw, list) else [raw]
    fits = isinstance(raw, list) == bool(length) and length in (0, ANY, len(texts))
    if not fits or not all(_is_plain(text) for text in texts):
        raise ValueError
    items = [parse(text) for text in texts]
    for bound in bounds:
        sign = bound.rstrip("0123456789.")
        if not all(COMPARISONS[sign](item, float(bound.removeprefix(sign))) for item in items):
            raise ValueError
    if kind == "range" and items != sorted(items):
        raise ValueError
    return items if length else items[0]


def _is_plain(text: Any) -> bool:
    """Whether this is text without control characters. Raises ValueError for half of a surrogate pair."""
    return isinstance(text, str) and text.lower() not in ("", "~", "null") and min(text.encode()) >= 32


def expected(key: Key) -> str:
    """What a value of this key should be, in words."""
    if isinstance(key.takes, list):
        return f"one of {', '.join(key.takes)}"
    kind, *bounds = key.takes.split()
    return f"{TYPES[kind][0]} {' and '.join(bounds)}".strip()


def as_written(value: Any) -> str:
    """What the user wrote, on one line of bounded length."""
    if isinstance(value, list):
        value = f"[{', '.join(item if isinstance(item, str) else '...' for item in value)}]"
    text = "a mapping" if isinstance(value, dict) else value or "empty"
    return shorten(text if text.isprintable() else repr(text))


def shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
