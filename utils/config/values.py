"""The values of a config: read from YAML, turned into the type of their key, and shown in errors."""

import functools
import math
import operator
import re
from typing import Any

import yaml

from utils.config.keys import GROUPS, KEYS, Key
from utils.errors import UserError
from utils.mypath import expanded, written

BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
LONGEST = 200  # characters of a value or a name that an error shows
ANY = -1
# In no name: what would break a line, and what YAML makes of "D:\table" and "D:\_x" in double quotes.
CONTROL = re.compile(r"[\x00-\x08\n-\x1f\x85\u2028\u2029]|^[A-Za-z]:[\t\xa0]")
BACKSLASH = "in YAML write a backslash in single quotes or none, as in double ones it begins a code"


def _number(text: str, kind: type = float) -> float | int:
    number = float(text)
    if not math.isfinite(number) or kind(number) != number:
        raise ValueError
    return kind(number)


def _text(text: str) -> str:
    """Text that may be the name of a file or folder. Raises UserError for other text."""
    names = text.encode(errors="surrogateescape").split(b"/")
    if len(max(names, key=len)) > 255 or sum(map(len, names)) > 1500:
        raise UserError(f"{as_written(text)} is too long: a name has at most 255 bytes, a path 1500")
    if CONTROL.search(text):
        raise UserError(f"{as_written(text)} has a control character: rename it; {BACKSLASH}")
    return text


def path(text: str) -> str:
    """A path with `~` and variables put in. Raises UserError if it is empty or none."""
    if not text:
        raise UserError("a path is empty: give one; an unset variable of the shell leaves nothing")
    return _text(expanded(_text(text)))


def backbone(text: str) -> str:
    if not re.fullmatch(r"resnet18|resnet50|features|(timm|torchvision):\S+", text):
        raise ValueError
    return text


_whole = functools.partial(_number, kind=int)
TYPES = {  # name: how an error calls it, parser of an item, number of items (0: not a list)
    "text": ("text", _text, 0),
    "path": ("a path", path, 0),
    "backbone": ("resnet18, resnet50, timm:NAME, torchvision:NAME or features", backbone, 0),
    "bool": ("True or False", lambda text: BOOLS[text.lower()], 0),
    "int": ("a whole number", _whole, 0),
    "float": ("a number", _number, 0),
    "ints": ("a list of whole numbers", _whole, ANY),
    "floats": ("a list of numbers", _number, ANY),
    "range": ("two numbers [low, high]", _number, 2),
    "rgb": ("three numbers [red, green, blue]", _number, 3),
}


class _Loader(yaml.BaseLoader):
    """Leaves scalars but null as text: the key's type decides (YAML 1.1 reads 1e-4 as text, 010 as 8)."""

    flatten_mapping = yaml.SafeLoader.flatten_mapping

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in names[:number]:
                raise yaml.MarkedYAMLError(None, None, f"duplicate key {key.value!r}", key.start_mark)
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep)


NULL = "tag:yaml.org,2002:null"
_Loader.add_implicit_resolver(NULL, re.compile("(?:~|null|Null|NULL)?$"), ["~", "n", "N", ""])
_Loader.add_constructor(NULL, lambda *_: None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])


def parse_yaml(content: str | bytes, source: str) -> Any:
    """Mappings, lists, text and None. Raises UserError, one line that names `source`."""
    try:
        return yaml.load(content, _Loader)
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem)))
        where = f"{source}, line {error.problem_mark.line + 1}"
        remedy = f"; {BACKSLASH}" if "double-quoted" in problem else ""
        raise UserError(f"{where}: {shorten(problem)}{remedy}") from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # an image, or deep nesting
        reason = getattr(error, "reason", error)
        raise UserError(f"{source}: not a text file in UTF-8 that YAML can read ({reason})") from error


def parse_value(key: Key, raw: Any) -> Any:
    """A raw value in the type of its key. Raises ValueError or KeyError for any other, UserError for text
    that cannot be the name of a file."""
    if isinstance(key.takes, list):
        if raw not in key.takes:
            raise ValueError
        return raw
    kind, *bounds = key.takes.split()
    _, parse, length = TYPES[kind]
    texts = raw if isinstance(raw, list) else [raw]
    fits = isinstance(raw, list) == bool(length) and length in (0, ANY, len(texts))
    if not fits or not all(isinstance(text, str) and text for text in texts):
        raise ValueError
    items = [parse(text) for text in texts]
    for bound in bounds:
        sign = bound.rstrip("0123456789.")
        if not all(COMPARISONS[sign](item, float(bound.removeprefix(sign))) for item in items):
            raise ValueError
    if kind == "range" and items != sorted(items):
        raise ValueError
    return items if length else items[0]


def is_literal(name: str) -> bool:
    """Whether text on the command line is taken as it is: lists and groups of keys are read as YAML."""
    if name not in KEYS:
        return name not in GROUPS
    takes = KEYS[name].takes
    return isinstance(takes, list) or not TYPES[takes.split()[0]][2]


def read_override(word: str) -> tuple[str, Any]:
    """Name and raw value of a `key=value`, for `parse_value`. The shell has taken its quotes away."""
    name, equals, text = word.partition("=")
    if not equals:
        raise UserError(f"command line: {shorten(repr(word))} sets nothing; write it as key=value")
    return name, text if is_literal(name) else parse_yaml(text, f"command line: {as_written(name)}")


def write_override(name: str, value: Any) -> str:
    """The `key=value` from which `read_override` and `parse_value` make this value."""
    return f"{name}={to_yaml(name, value)}"


def to_yaml(name: str, value: Any) -> Any:
    """The raw value from which `parse_value` makes this one."""
    return written(value) if KEYS[name].takes == "path" else value


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
