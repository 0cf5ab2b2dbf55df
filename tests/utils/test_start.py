"""What scripts run first: our packages are found, and other modules of their names come back."""

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import runpy, sys, types
theirs = {name: types.ModuleType(name) for name in ("utils", "utils.tools", "models")}
sys.modules |= theirs
path = [*sys.path]
try:
    runpy.run_path(sys.argv[1], run_name="__main__")
except SystemExit as end:
    print(end.code)
print(theirs.items() <= sys.modules.items(), sys.path == path, "utils.errors" in sys.modules)
"""
SCRIPT = """
import runpy
runpy.run_path({start!r}, run_name=__name__)
import utils
from utils.errors import UserError
assert "tools" not in vars(utils)
utils.put_back()
raise SystemExit(4)
"""


@pytest.mark.parametrize("name", ["simclr", "moco", "scan", "selflabel", "eval", "sweep"])
def test_every_script_runs_it_before_it_imports_anything_of_ours(name):
    tree = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))
    lines = [ast.unparse(node) for node in tree.body]
    (start,) = (number for number, line in enumerate(lines) if line.startswith("runpy.run_path"))
    ours = ("data", "losses", "models", "scan", "utils")
    for number, node in enumerate(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            words = [getattr(node, "module", None) or node.names[0].name]
            assert number > start or words[0].partition(".")[0] not in ours


def test_other_modules_of_the_same_names_are_set_aside_until_the_script_ends(tmp_path):
    script, start = tmp_path / "script.py", str(ROOT / "utils/start.py")
    script.write_text(SCRIPT.format(start=start))
    words, safe = [sys.executable, "-c", PROGRAM, script], os.environ | {"PYTHONSAFEPATH": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=safe, capture_output=True, text=True)
    assert done.stdout.split() == ["4", "True", "True", "False"], done.stderr


def test_an_importing_program_is_left_alone(tmp_path):
    before = [*sys.path], dict(sys.modules)
    runpy.run_path(str(ROOT / "utils/start.py"), run_name="scan")
    assert before == ([*sys.path], dict(sys.modules))
