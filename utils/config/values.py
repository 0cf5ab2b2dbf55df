"""The values of a config: read from YAML, turned into the type of their key, and shown in errors."""

import math
import operator
import os
import re
from typing import Any

import yaml

from utils.config.keys import Key
from utils.errors import UserError

TYPES = {  # name: how an error calls it
    "text": "text",
    "path": "a path",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "ints": "a list of whole numbers",
    "floats": "a list of numbers",
    "range": "two numbers [low, high]",
    "rgb": "three numbers [red, green, blue]",
}
# name: type of the items, how many (None: any number)
LISTS = {"ints": ("int", None), "floats": ("float", None), "range": ("float", 2), "rgb": ("float", 3)}
BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
LONGEST = 200  # characters of a value or a name that an error shows


class _Loader(yaml.BaseLoader):
    """Leaves scalars as text: the key's type decides what they mean (YAML 1.1 reads 1e-4 as text, 010 as 8).
    Refuses a key that stands twice in a mapping. Merges mappings (`<<: *anchor`)."""

    flatten_mapping = yaml.constructor.SafeConstructor.flatten_mapping

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in names[:number]:
                problem = f"duplicate key {key.value!r}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return node

    def construct_mapping(self, node, deep=False):
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])


def parse_yaml(content: str | bytes, source: str) -> Any:
    """Mappings, lists and text; None for an empty file. Raises UserError, one line that names `source`."""
    try:
        return yaml.load(content, _Loader)
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{source}, line {error.problem_mark.line + 1}: {shorten(problem)}") from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # a picture, or a deep nest
        reason = getattr(error, "reason", error)
        raise UserError(f"{source}: not a text file in UTF-8 that YAML can read ({reason})") from error


def parse_value(key: Key, raw: Any) -> Any:
    """A value from `parse_yaml` in the type of its key. Raises ValueError for what the key does not take."""
    if isinstance(key.values, tuple):
        if raw not in key.values:
            raise ValueError
        return raw
    kind, *bounds = key.values.split()
    item_kind, length = LISTS.get(kind, (kind, None))
    items = raw if isinstance(raw, list) else [raw]
    if isinstance(raw, list) != (kind in LISTS) or length not in (None, len(items)):
        raise ValueError
    items = [_parse_scalar(item_kind, item) for item in items]
    fits = all(_is_within(bound, item) for bound in bounds for item in items)
    if not fits or (kind == "range" and items[0] > items[1]):
        raise ValueError
    return items if isinstance(raw, list) else items[0]


def expected(key: Key) -> str:
    """What a value of this key should be, in words."""
    if isinstance(key.values, tuple):
        return f"one of {', '.join(key.values)}"
    kind, *bounds = key.values.split()
    return f"{TYPES[kind]} {' and '.join(bounds)}".strip()


def _parse_scalar(kind: str, text: Any) -> str | bool | float | int:
    if not isinstance(text, str) or text.lower() in ("", "~", "null"):  # YAML's words for nothing
        raise ValueError
    if kind in ("text", "path"):
        if min(text.encode()) < 32:  # control characters; half of a surrogate pair is a ValueError already
            raise ValueError
        return os.path.expanduser(text) if kind == "path" else text
    if kind == "bool":
        if text.lower() not in BOOLS:
            raise ValueError
        return BOOLS[text.lower()]
    number = float(text)
    if not math.isfinite(number) or (kind == "int" and not number.is_integer()):
        raise ValueError
    return int(number) if kind == "int" else number


def _is_within(bound: str, number: float) -> bool:
    sign = bound.rstrip("0123456789.")
    return COMPARISONS[sign](number, float(bound.removeprefix(sign)))


def as_written(value: Any) -> str:
    """What the user wrote, on one line of bounded length."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        items = ["a list" if isinstance(item, list) else as_written(item) for item in value]
        return shorten(f"[{', '.join(items)}]")
    return shorten(value if value.isprintable() else repr(value)) if value else "empty"


def shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
