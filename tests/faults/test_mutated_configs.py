"""2,000 shipped configs with one random fault each: every one loads or is refused in one line."""

import math
import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from utils.config import check_stage, load_config, save_config
from utils.config.keys import KEYS
from utils.config.load import flatten
from utils.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
SOURCES = ("exp.yml", "command line: ")
SHIPPED = sorted(CONFIGS.glob("*/*.yml"))
ITEMS = {"bool": bool, "int": int, "float": float, "ints": int, "floats": float, "range": float, "rgb": float}
LISTS = ("ints", "floats", "range", "rgb")
LENGTHS = {"range": 2, "rgb": 3, "bool": 1, "int": 1, "float": 1, "text": 1, "path": 1}

ODD_WORDS = (
    "null ~ 0 1 2 -1 0.5 1e30 -1e30 1e300 1e-300 nan .nan inf -.inf 0x10 010 1_000 1:30 ٣ text adam True tru "
    "yes no? [] [[[[1]]]] {} ' \" 'it''s' @x `x %x | .. /absolute ../up &a *a <<"
)
ODD_LINES = (
    "[1, 2];[0.2, 1.0];{a: 1};- 1;ünïcode 漢字 🙂;\t1;1\t;a: b;# nothing;> folded;? a;\u2028;\x07;&a [*a];"
    '"a\\nb";"\\0";"\\uD800";"\\UFFFFFFFF";!!binary aGk=;!foo!bar 1;&a 1;!!python/object/apply:os.system [id]'
)
HUGE = ["word " * 1000, "9" * 5000, "x" * 5000, "[" * 3000, "{a: " * 3000, "[" * 200 + "]" * 200]
ODD_VALUES = ["", *ODD_WORDS.split(), *ODD_LINES.split(";"), *HUGE]
PLAUSIBLE_TEXTS = [
    *("007", "no", "~", "~/x", "/data", "..", "a/../b", "a..b", "a b  c", "ü/漢字"),
    *("'#1: {x}'", "'\u2028'", "x" * 300),
]
INSERTED = "{}[],:#&*!|>'\"%@`\t-?~.\\é\x00\x7f\ufeff"
TAGS = ["!!str", "!!int", "!!map", "!!null", "!", "!local", "!!python/object:os.system", "!<x>", "!a!b"]
INDENTATIONS = ["", " ", "   ", "\t", "    ", "  \t", "- "]
SEPARATORS = ["---", "...", "--- seed: 1", "%YAML 1.1", "%YAML 9.9", "%X"]
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "utf-7", "utf-8-sig", "cp500"]


def with_value(line: str, value: str) -> str:
    return f"{line.partition(':')[0]}: {value}"


def value_of(line: str) -> str:
    return line.partition(":")[2].strip()


def misspelt(rng, word: str) -> str:
    place = rng.randrange(len(word) + 1)
    return word[:place] + rng.choice(["", "s", "_", " ", "-", ".", "ö"]) + word[place + rng.randrange(2) :]


def multiplied_aliases() -> str:
    """A value that is ten times ten times ten ... lists: short to write, gigabytes to show."""
    tens = [f"&a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    return f"[&a0 [ha], {', '.join(tens)}]"


def misspell_a_key(rng, line):
    key, colon, rest = line.partition(":")
    return misspelt(rng, key) + colon + rest


def insert_a_character(rng, line):
    column = rng.randrange(len(line) + 1)
    return line[:column] + rng.choice(INSERTED) + line[column:]


def swap_two_values(rng, lines):
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    values = value_of(lines[second]), value_of(lines[first])
    lines[first], lines[second] = with_value(lines[first], values[0]), with_value(lines[second], values[1])


def use_anchors(rng, lines):
    places = [place for place, line in enumerate(lines) if ":" in line]
    anchored, aliased = rng.choice(places), rng.choice(places)
    lines[anchored] = with_value(lines[anchored], f"&a {value_of(lines[anchored])}")
    lines[aliased] = with_value(lines[aliased], rng.choice(["*a", "[*a, *a]", "{<<: *a}", "*b"]))


def nest_deeply(rng, lines):
    key = rng.choice(["optimizer_kwargs", "epochs", "augmentation_kwargs", "normalize", "a"])
    lines += [f"{' ' * level}{key}:" for level in range(rng.choice([2, 20, 2000]))]


def change_the_tree(rng, lines):
    """A value, or a whole mapping, becomes something else; the file stays good YAML."""
    tree = yaml.safe_load("\n".join(lines))
    place, word = tree, rng.choice(list(tree))
    while isinstance(place[word], dict) and rng.random() < 0.8:
        place = place[word]
        word = rng.choice(list(place))
    odd = [None, True, -1, 0, 3, 10**400, 1e30, 1e-9, float("nan"), "", "x" * 5000, "a\nb", "é", b"\xff"]
    odd += [[], [1], [0.1, 0.9], [0.5] * 3, [[1]] * 3, {}, {"a": {}}, {"mean": 0}]
    place[word] = rng.choice(odd)
    lines[:] = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5).splitlines()


def flip_bits(rng, content: bytes) -> bytes:
    spoilt = bytearray(content)
    for _ in range(rng.choice([1, 2, 20])):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def override(rng) -> str:
    """An argument `key=value`, as odd as they come."""
    name, value = rng.choice(list(KEYS)), rng.choice(ODD_VALUES)
    odd = [f"{misspelt(rng, name)}={value}", f"{name.partition('.')[0]}={value}", f"{name}.more={value}"]
    odd += [f"{name}:{value}", f"={value}", f"{name}=={value}", f"{name}={value}\n---\n{value}", value]
    return rng.choice([f"{name}={value}", rng.choice(odd)])


def plausible_override(rng) -> str:
    """An argument with a value that may be right: one of the key's names, or a number near its bounds."""
    key = rng.choice(list(KEYS.values()))
    if isinstance(key.takes, list):
        return f"{key.name}={rng.choice(key.takes)}"
    kind, *bounds = key.takes.split()
    if kind in ("text", "path"):
        return f"{key.name}={rng.choice(PLAUSIBLE_TEXTS)}"
    likely = ["0", "0.5", "1", "2", "3.0", "1e-9", "1e2", "1_0", "True"]
    likely += [bound.strip("<>=") for bound in bounds] * 3
    numbers = [rng.choice(likely) for _ in range(LENGTHS.get(kind, rng.randrange(4)))]
    return f"{key.name}=[{', '.join(numbers)}]" if kind in LISTS else f"{key.name}={numbers[0]}"


OF_A_LINE = {  # the line after the mutation
    "another value": lambda rng, line: with_value(line, rng.choice(ODD_VALUES)),
    "a misspelt key": misspell_a_key,
    "another indentation": lambda rng, line: rng.choice(INDENTATIONS) + line.strip(),
    "a character more": insert_a_character,
    "a tag": lambda rng, line: with_value(line, f"{rng.choice(TAGS)} {value_of(line)}"),
    "multiplied aliases": lambda rng, line: with_value(line, multiplied_aliases()),
}
OF_LINES = {  # all lines are changed in place
    "a line less": lambda rng, lines: lines.pop(rng.randrange(len(lines))),
    "a line twice": lambda rng, lines: lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines)),
    "two documents": lambda rng, lines: lines.insert(rng.randrange(len(lines) + 1), rng.choice(SEPARATORS)),
    "swapped values": swap_two_values,
    "anchors": use_anchors,
    "a deep nest": nest_deeply,
    "another tree": change_the_tree,
}
OF_BYTES = {  # the bytes after the mutation
    "flipped bits": flip_bits,
    "cut off": lambda rng, content: content[: rng.randrange(len(content))],
    "another encoding": lambda rng, content: content.decode().encode(rng.choice(ENCODINGS)),
}
OVERRIDES = {"an odd argument": override, "a plausible argument": plausible_override}
KINDS = [*OF_A_LINE, *OF_LINES, *OF_BYTES, *OVERRIDES]


def spoilt(rng, kind, text: str) -> tuple[bytes, list[str]]:
    """The file and the command line after one mutation of this kind and, at times, an odd argument more."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if kind in OF_A_LINE:
        place = rng.randrange(len(lines))
        lines[place] = OF_A_LINE[kind](rng, lines[place])
    if kind in OF_LINES:
        OF_LINES[kind](rng, lines)
    content = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if kind in OF_BYTES:
        content = OF_BYTES[kind](rng, content)
    odd, count = (OVERRIDES[kind], [1, 1, 2]) if kind in OVERRIDES else (override, [0] * 9 + [1])
    return content, [odd(rng) for _ in range(rng.choice(count))]


def fits(key, value) -> bool:
    """Whether the value has the type and the range of its key, said in other words than the program's."""
    if isinstance(key.takes, list):
        return value in key.takes
    kind, *bounds = key.takes.split()
    items = value if kind in LISTS else [value]
    if not isinstance(items, list) or LENGTHS.get(kind, len(items)) != len(items):
        return False
    if any(type(item) is not ITEMS.get(kind, str) for item in items):
        return False
    if kind in ("text", "path"):
        return value != "" and not any(ord(letter) < 32 and letter != "\t" for letter in value)
    if not all(map(math.isfinite, items)) or (kind == "range" and value[0] > value[1]):
        return False
    return all(eval(f"{item!r} {bound}") for item in items for bound in bounds)


@pytest.mark.slow
def test_2000_mutated_configs_are_valid_or_refused_in_one_line_that_names_the_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    valid, refused = Counter(), Counter()
    for number in range(2000):
        path, kind = rng.choice(SHIPPED), KINDS[number % len(KINDS)]
        stage = "eval" if path.stem == "imagenet_eval" else yaml.safe_load(path.read_text())["setup"]
        content, overrides = spoilt(rng, kind, path.read_text())
        Path("exp.yml").write_bytes(content)
        try:
            try:
                cfg = load_config(None, "exp.yml", overrides)
                assert [name for name, value in flatten(cfg).items() if not fits(KEYS[name], value)] == []
                save_config(cfg, "saved.yml")
                assert load_config(None, "saved.yml") == cfg
                check_stage(cfg, stage)
                valid[kind] += 1
            except UserError as error:
                message = str(error)
                assert len(message.splitlines()) == 1 and len(message) <= 500
                assert message.startswith(SOURCES) or any(name in message for name in KEYS)
                refused[kind] += 1
        except Exception as error:
            pytest.fail(f"{number}, {path.stem}, {kind}: {error!r}\n{content[-3000:]}\n{overrides}")
    assert valid.total() + refused.total() == 2000
    assert valid.total() > 150 and all(refused[kind] for kind in KINDS)
