"""What `write_override` writes, `read_override` and `parse_value` read."""

import random

import pytest

from utils.config.keys import KEYS
from utils.config.values import parse_value, read_override, write_override

SIGNS = [*"ab/ $~'\"#:{}[]()&*!|<>%@`,;\\-.?=+^"]
SIGNS += ["\t", "\xa0", "é", "漢", "\u0301", "\udce4", "${HOME}", "$a", "~root", " #", ": "]


@pytest.mark.parametrize("name", ["run_name", "root_dir", "folder.labels", "db_root_dir.imagenet"])
def test_each_of_2000_odd_names_is_read_as_it_was_written(name):
    rng = random.Random(name)
    for _ in range(2000):
        value = "".join(rng.choices(SIGNS, k=rng.randint(1, 8)))
        key, raw = read_override(write_override(name, value))
        found = parse_value(KEYS[name], raw)
        assert key == name and found == value, value


def example(takes: str | list):
    """A value of this type, within its bounds."""
    if isinstance(takes, list):
        return takes[-1]
    kind, *bounds = takes.split()
    low, high = (next((float(b.strip("<>=")) for b in bounds if b[0] == sign), 1.0) for sign in "><")
    number = {"floats": 0.3, "range": 0.3, "rgb": 0.3, "ints": 7}.get(kind, (low + high) / 2)
    lists = {"floats": [0.3, 1e-07], "range": [number] * 2, "rgb": [number] * 3, "ints": [7, 1000000]}
    return lists.get(
        kind,
        {"bool": False, "int": int(low), "text": "a #1", "path": "a: $b", "backbone": "timm:vit_tiny"}.get(
            kind, number
        ),
    )


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_value_of_every_key_is_read_as_it_was_written(key):
    value = example(key.takes)
    name, raw = read_override(write_override(key.name, value))
    assert name == key.name and repr(parse_value(key, raw)) == repr(value)
