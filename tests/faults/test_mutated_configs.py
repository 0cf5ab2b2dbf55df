"""2,000 shipped configs, spoilt: every one loads as a valid config or is refused in one line."""

import math
import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from utils.config import check_stage, load_config, save_config
from utils.config.keys import KEYS
from utils.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.glob("*/*.yml"))
NAMES = [key.name for key in KEYS]

ODD_VALUES = [
    *(
        "",
        "null",
        "~",
        "0",
        "1",
        "2",
        "-1",
        "0.5",
        "1e30",
        "-1e30",
        "1e300",
        "1e-300",
        "nan",
        ".nan",
        "inf",
        "-.inf",
    ),
    *(
        "text",
        "adam",
        "True",
        "tru",
        "yes",
        "no?",
        "[1, 2]",
        "[]",
        "[[[[1]]]]",
        "[0.2, 1.0]",
        "{a: 1}",
        "{}",
        "- 1",
    ),
    *(
        "ünïcode 漢字 🙂",
        "'",
        '"',
        "'it''s'",
        '"a\\nb"',
        '"\\0"',
        '"\\uD800"',
        '"\\UFFFFFFFF"',
        "\t1",
        "1\t",
        "a: b",
    ),
    *(
        "0x10",
        "010",
        "1_000",
        "1:30",
        "٣",
        "# nothing",
        "@x",
        "`x",
        "%x",
        "|",
        "> folded",
        "..",
        "/absolute",
        "../up",
    ),
    *(
        "!!python/object/apply:os.system [id]",
        "!!binary aGk=",
        "!foo!bar 1",
        "&a 1",
        "*a",
        "&a [*a]",
        "<<",
        "? a",
    ),
    *(
        "9" * 5000,
        "x" * 5000,
        "word " * 1000,
        "[" * 3000,
        "{a: " * 3000,
        "[" * 200 + "]" * 200,
        "\u2028",
        "\x07",
    ),
]
PLAUSIBLE_TEXTS = [
    *(
        "007",
        "no",
        "~",
        "~/x",
        "/data",
        "..",
        "a/../b",
        "a..b",
        "a b  c",
        "'#1: {x}'",
        "ü/漢字",
        "'\u2028'",
        "x" * 300,
    ),
]


def value_of(line: str) -> str:
    return line.partition(":")[2].strip()


def with_value(line: str, value: str) -> str:
    return f"{line.partition(':')[0]}: {value}"


def misspelt(rng, word: str) -> str:
    place = rng.randrange(len(word) + 1)
    return word[:place] + rng.choice(["", "s", "_", " ", "-", ".", "ö"]) + word[place + rng.randrange(2) :]


# Each takes the lines of a config and spoils them in place.


def delete_a_line(rng, lines):
    del lines[rng.randrange(len(lines))]


def change_a_value(rng, lines):
    place = rng.randrange(len(lines))
    lines[place] = with_value(lines[place], rng.choice(ODD_VALUES))


def misspell_a_key(rng, lines):
    place = rng.randrange(len(lines))
    key, colon, rest = lines[place].partition(":")
    lines[place] = misspelt(rng, key) + colon + rest


def repeat_a_line(rng, lines):
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))


def swap_two_values(rng, lines):
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    values = value_of(lines[second]), value_of(lines[first])
    lines[first], lines[second] = with_value(lines[first], values[0]), with_value(lines[second], values[1])


def break_the_indentation(rng, lines):
    place = rng.randrange(len(lines))
    lines[place] = rng.choice(["", " ", "   ", "\t", "    ", "  \t", "- "]) + lines[place].strip()


def insert_characters(rng, lines):
    place = rng.randrange(len(lines))
    column = rng.randrange(len(lines[place]) + 1)
    lines[place] = (
        lines[place][:column]
        + rng.choice(list("{}[],:#&*!|>'\"%@`\t-?~.\\é\x00\x7f\ufeff"))
        + lines[place][column:]
    )


def use_anchors(rng, lines):
    places = [place for place, line in enumerate(lines) if ":" in line]
    anchored, aliased = rng.choice(places), rng.choice(places)
    lines[anchored] = with_value(lines[anchored], f"&a {value_of(lines[anchored])}")
    lines[aliased] = with_value(lines[aliased], rng.choice(["*a", "[*a, *a]", "{<<: *a}", "*b"]))


def add_a_tag(rng, lines):
    place = rng.randrange(len(lines))
    tag = rng.choice(
        ["!!str", "!!int", "!!map", "!!null", "!", "!local", "!!python/object:os.system", "!<x>", "!a!b"]
    )
    lines[place] = with_value(lines[place], f"{tag} {value_of(lines[place])}")


def add_a_document(rng, lines):
    lines.insert(
        rng.randrange(len(lines) + 1),
        rng.choice(["---", "...", "--- seed: 1", "%YAML 1.1", "%YAML 9.9", "%X"]),
    )


def nest_deeply(rng, lines):
    depth = rng.choice([2, 20, 2000])
    key = rng.choice(["optimizer_kwargs", "epochs", "augmentation_kwargs", "normalize", "a"])
    lines += [f"{' ' * level}{key}:" for level in range(depth)]


def multiply_aliases(rng, lines):
    """A value that is ten times ten times ten ... lists: short to write, gigabytes to show."""
    place = rng.randrange(len(lines))
    tens = [f"&a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    lines[place] = with_value(lines[place], f"[&a0 [ha], {', '.join(tens)}]")


def change_the_tree(rng, lines):
    """A value, or a whole mapping, becomes something else; the file stays good YAML."""
    tree = yaml.safe_load("\n".join(lines))
    place, word = tree, rng.choice(list(tree))
    while isinstance(place[word], dict) and rng.random() < 0.8:
        place = place[word]
        word = rng.choice(list(place))
    odd = [
        None,
        True,
        -1,
        0,
        3,
        10**400,
        1e30,
        1e-9,
        float("nan"),
        "",
        "x" * 5000,
        "a\nb",
        "é",
        [],
        [1],
        {},
        {"a": {}},
    ]
    place[word] = rng.choice(
        [*odd, [0.1, 0.9], [0.5] * 3, [[1]] * 3, tree.get("normalize", {"mean": 0}), b"\xff"]
    )
    lines[:] = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5).splitlines()


def flip_bytes(rng, content: bytes) -> bytes:
    spoilt = bytearray(content)
    for _ in range(rng.choice([1, 2, 20])):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def cut_off(rng, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def recode(rng, content: bytes) -> bytes:
    return content.decode().encode(
        rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-7", "utf-8-sig", "cp500"])
    )


def override(rng) -> str:
    """An argument `key=value`, as odd as they come."""
    name, value = rng.choice(NAMES), rng.choice(ODD_VALUES)
    return rng.choice(
        [
            *[f"{name}={value}"] * 6,
            f"{misspelt(rng, name)}={value}",
            f"{name.partition('.')[0]}={value}",
            f"{name}.more={value}",
            f"{name}:{value}",
            f"={value}",
            f"{name}=={value}",
            f"{name}={value}\n---\n{value}",
            f"{value}={name}",
            value,
        ]
    )


def plausible_override(rng) -> str:
    """An argument whose value may well be right: one of the key's names, or a number at or near its bounds."""
    key = rng.choice(KEYS)
    if isinstance(key.allowed, tuple):
        return f"{key.name}={rng.choice(key.allowed)}"
    if key.type in ("str", "path"):
        return f"{key.name}={rng.choice(PLAUSIBLE_TEXTS)}"
    bounds = [bound.strip("<>=") for bound in key.allowed.split()]
    numbers = [
        rng.choice(["0", "0.5", "1", "2", "3.0", "1e-9", "1e2", "1_0", "True", *bounds * 3]) for _ in range(3)
    ]
    number_of = {"ints": rng.randrange(4), "floats": rng.randrange(4), "range": 2, "rgb": 3}
    value = f"[{', '.join(numbers[: number_of[key.type]])}]" if key.type in number_of else numbers[0]
    return f"{key.name}={value}"


OF_LINES = [
    *(delete_a_line, change_a_value, misspell_a_key, repeat_a_line, swap_two_values, break_the_indentation),
    *(
        insert_characters,
        use_anchors,
        add_a_tag,
        add_a_document,
        nest_deeply,
        multiply_aliases,
        change_the_tree,
    ),
]
OF_BYTES = [flip_bytes, cut_off, recode]
OVERRIDES = [override, plausible_override]
KINDS = [*OF_LINES, *OF_BYTES, *OVERRIDES]


def spoilt(rng, kind, text: str) -> tuple[bytes, list[str]]:
    """The file and the command line after one mutation of this kind and, at times, an odd argument more."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if kind in OF_LINES:
        kind(rng, lines)
    content = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if kind in OF_BYTES:
        content = kind(rng, content)
    if kind in OVERRIDES:
        return content, [kind(rng) for _ in range(rng.choice([1, 1, 2]))]
    return content, [override(rng) for _ in range(rng.choice([0] * 9 + [1]))]


# What a valid config is, said anew


KINDS_OF_VALUES = {
    **{"bool": bool, "int": int, "float": float},
    **{"ints": int, "floats": float, "range": float, "rgb": float},
}
LENGTHS = {"range": (2,), "rgb": (3,), "ints": range(10**6), "floats": range(10**6)}


def fits(key, value) -> bool:
    """Whether the value has the type and the range of its key in the table."""
    if key.type in LENGTHS and not (isinstance(value, list) and len(value) in LENGTHS[key.type]):
        return False
    items = value if key.type in LENGTHS else [value]
    if any(type(item) is not KINDS_OF_VALUES.get(key.type, str) for item in items):
        return False
    if isinstance(key.allowed, tuple):
        return value in key.allowed
    if key.type in ("str", "path"):
        return value != "" and not any(ord(character) < 32 for character in value)
    if not all(math.isfinite(item) for item in items) or (key.type == "range" and value[0] > value[1]):
        return False
    return all(eval(f"{item!r} {bound}") for item in items for bound in key.allowed.split())


@pytest.mark.parametrize(
    "name, right, wrong",
    [
        ("epochs", [1, 1000000], [0, 1000001, 5.0, True, "5", None, [5]]),
        ("optimizer_kwargs.lr", [1e-7, 5.0], [0.0, 5, float("nan"), float("inf"), 1e30]),
        ("use_ema", [True, False], [1, "True"]),
        ("optimizer", ["sgd"], ["SGD", "", ["sgd"]]),
        ("run_name", ["007", "a b"], ["", "a\nb", 7]),
        (
            "augmentation_kwargs.random_resized_crop.scale",
            [[0.2, 1.0]],
            [[1.0, 0.2], [0.2], [0.2, 1], 0.2, [0.2, 1.1]],
        ),
        ("scheduler_kwargs.lr_decay_epochs", [[], [3, 5]], [[3.0], [-1], 3]),
        ("criterion_kwargs.cluster_prior", [[], [0.5, 3.0]], [[3], [0.0], 3.0]),
    ],
)
def test_what_a_valid_value_is(name, right, wrong):
    (key,) = (key for key in KEYS if key.name == name)
    assert [fits(key, value) for value in right + wrong] == [True] * len(right) + [False] * len(wrong)


def leaves(tree, prefix="") -> dict:
    found = {}
    for word, value in tree.items():
        found |= leaves(value, f"{prefix}{word}.") if isinstance(value, dict) else {prefix + word: value}
    return found


def assert_valid(cfg):
    values, table = leaves(cfg), {key.name: key for key in KEYS}
    assert [name for name, value in values.items() if not fits(table[name], value)] == []
    save_config(cfg, "saved.yml")
    assert load_config(None, "saved.yml") == cfg


def assert_one_helpful_line(message):
    assert len(message.splitlines()) == 1 and len(message) <= 500
    assert message.startswith(("exp.yml", "command line: ")) or any(name in message for name in NAMES)


@pytest.mark.slow
def test_2000_mutated_configs_are_valid_or_refused_in_one_line_that_names_the_source(
    tmp_path, monkeypatch, capsys
):
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
                assert_valid(cfg)
                check_stage(cfg, stage)
                valid[kind] += 1
            except UserError as error:
                assert_one_helpful_line(str(error))
                refused[kind] += 1
        except Exception as error:
            pytest.fail(
                f"number {number}, {path.stem}, {kind.__name__}: {error!r}\n{content[-3000:]}\n{overrides}"
            )
    with capsys.disabled():
        print(f"\n{valid.total()} mutated configs are valid, {refused.total()} are refused")
        for kind in KINDS:
            print(f"    {kind.__name__:22} {valid[kind]:4} valid {refused[kind]:4} refused")
    assert valid.total() + refused.total() == 2000
    assert valid.total() > 150 and all(refused[kind] for kind in KINDS)
