"""Which package may import which: arrows run down, and there are no circles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {  # package: the packages of ours that it may import, besides itself
    "losses": (),
    "utils": ("losses",),
    "data": ("utils",),
    "models": ("utils",),
}
LEVELS = (  # of `utils`, the lowest first: a room may import those in lower rows, and nothing beside it
    ("errors", "stages", "arrays"),
    ("distributed",),
    ("console", "device", "mypath"),
    ("storage",),
    ("config",),
    ("neighbors",),
    ("evaluate",),
    ("features", "optimizers"),
    ("report",),
    ("run",),
    ("mining",),
)

SLOW = (
    "torchvision",
    "timm",
    "safetensors",
    "sklearn",
    "scipy",
    "matplotlib",
    "jinja2",
    "faiss",
    "tensorboard",
)


def modules():
    for package in (*MAY_IMPORT, "."):
        pattern = "*.py" if package == "." else "**/*.py"
        yield from sorted(Path(ROOT, package).glob(pattern))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in modules()}


def imported(path, at_the_top=False):
    """The modules that a file imports, anywhere or at its top: `from utils import arrays` is utils.arrays."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_the_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in NAMES else node.module for name in inner)


def imports_of(path):
    """The modules of ours that a file imports."""
    yield from (name for name in imported(path) if name in NAMES)


def test_a_package_imports_only_packages_below_it():
    for path in modules():
        package = name_of(path).partition(".")[0]
        allowed = {package, *MAY_IMPORT.get(package, NAMES)}
        assert {name.partition(".")[0] for name in imports_of(path)} <= allowed, path


def test_inside_utils_a_room_imports_only_rooms_below_it():
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    for path in modules():
        package, _, rest = name_of(path).partition(".")
        if package == "utils" and rest:
            room = rest.partition(".")[0]
            for name in imports_of(path):
                other = name.split(".")[1] if name.startswith("utils.") else room
                assert other == room or level[other] < level[room], f"{path} imports {name}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_module_imports_itself_through_others(package):
    arrows = {name_of(path): set(imports_of(path)) - {name_of(path)} for path in modules()}
    reached = {name: set(others) for name, others in arrows.items()}
    for middle in arrows:
        for name in arrows:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    assert [name for name in arrows if name.startswith(package) and name in reached[name]] == []


@pytest.mark.parametrize("script", ["simclr", "moco", "pretrained", "scan", "selflabel", "eval", "sweep"])
def test_a_script_imports_slow_packages_only_where_they_are_needed(script):
    """`--help` is to take little longer than `import torch`."""
    paths = {name_of(path): path for path in modules()}
    reached, todo = set(), {script}
    while todo:
        name = todo.pop()
        reached.add(name)
        parents = {name.rpartition(".")[0]} & NAMES  # the package runs first
        todo |= ({other for other in imported(paths[name], at_the_top=True)} & NAMES | parents) - reached
    slow = {
        f"{name} imports {other}"
        for name in reached
        for other in imported(paths[name], at_the_top=True)
        if other.partition(".")[0] in SLOW or other.startswith("torch.utils.tensorboard")
    }
    assert slow == set()
