from pathlib import Path

import pytest

from utils.config import load_config
from utils.errors import UserError
from utils.mypath import MyPath, expanded, written

VARIABLES = {
    "cifar-10": "SCAN_CIFAR_10_DIR",
    "cifar-20": "SCAN_CIFAR_20_DIR",
    "stl-10": "SCAN_STL_10_DIR",
    "fashion-mnist": "SCAN_FASHION_MNIST_DIR",
    **dict.fromkeys(("imagenet", "imagenet_50", "imagenet_100", "imagenet_200"), "SCAN_IMAGENET_DIR"),
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


def test_each_data_set_has_its_own_folder_and_the_imagenet_names_share_one():
    folders = {name: MyPath.db_root_dir(name) for name in VARIABLES}
    assert all(folder.startswith("datasets/") for folder in folders.values())
    assert len(set(folders.values())) == 5
    assert {folders[name] for name in VARIABLES if name.startswith("imagenet")} == {folders["imagenet"]}


@pytest.mark.parametrize("name", VARIABLES)
def test_command_line_wins_over_yaml_over_environment_over_table(name, tmp_path, monkeypatch):
    (tmp_path / "empty.yml").write_text("")
    (tmp_path / "exp.yml").write_text(f"db_root_dir: {{{name}: /from/yaml}}")

    def folder(file, *overrides):
        return MyPath.db_root_dir(name, load_config(None, tmp_path / file, overrides).get("db_root_dir"))

    table = folder("empty.yml")
    monkeypatch.setenv(VARIABLES[name], "/from/environment")
    assert folder("empty.yml") == "/from/environment" != table
    assert folder("exp.yml") == "/from/yaml"
    assert folder("exp.yml", f"db_root_dir.{name}=/from/arguments") == "/from/arguments"
    monkeypatch.setenv(VARIABLES[name], "")  # as good as none
    assert folder("empty.yml") == table


def test_the_folder_of_imagenet_serves_its_subsets_unless_they_have_their_own():
    assert MyPath.db_root_dir("imagenet_50", {"imagenet": "/data"}) == "/data"
    assert MyPath.db_root_dir("imagenet_50", {"imagenet": "/data", "imagenet_50": "/small"}) == "/small"
    assert MyPath.db_root_dir("cifar-10", {"imagenet": "/data"}) == MyPath.db_root_dir("cifar-10")


# Paths as users write them


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("SCRATCH", "/scratch/$x")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)


MEANT = {
    "~/a": "/home/anna/a",
    "a/~": "a/~",
    "$SCRATCH/a": "/scratch/$x/a",
    "~/${SCRATCH}s": "/home/anna//scratch/$xs",
    "$$HOME/$$": "$HOME/$",
    "pay$": "pay$",
    "$1 a$": "$1 a$",
    "'a'": "'a'",
    "a//b/": "a//b/",
    "./a": "./a",
    "./~": "~",
}


@pytest.mark.parametrize("text", MEANT)
def test_a_tilde_and_variables_are_put_into_a_path_and_all_else_stays(text, here):
    assert expanded(text) == MEANT[text]


@pytest.mark.parametrize(
    "text", ["$UNSET/a", "a${UNSET}b", "${EMPTY}", "${HOME:-x}", "~nobody-of-this-name/a"]
)
def test_an_unset_variable_or_an_unknown_user_is_an_error_unless_a_file_has_this_very_name(text, here):
    with pytest.raises(UserError) as error:
        expanded(text)
    assert "$$" in str(error.value) or "./~" in str(error.value)
    Path(text).mkdir(parents=True)
    assert expanded(text) == text


def test_quotes_around_a_path_are_part_of_it_unless_only_a_file_without_them_is_there(here):
    Path("a #1").mkdir()
    assert (expanded("'a #1'"), expanded('"a #1"'), expanded("'b'")) == ("a #1", "a #1", "'b'")
    Path("'a #1'").mkdir()
    assert expanded("'a #1'") == "'a #1'"


@pytest.mark.parametrize(
    "path", ["~", "~anna/x", "$UNSET", "$$", "${HOME}", "a$b/'c'", "'x'", '"x"', "-x", "x$", "./a", "././~"]
)
def test_what_is_written_for_a_path_is_read_as_that_path(path, here):
    Path("x").mkdir()
    assert expanded(written(path)) == path and Path(written(path).replace("$$", "$")) == Path(path)


def test_the_environment_may_have_a_tilde_or_a_variable_in_the_folder_of_a_data_set(here, monkeypatch):
    monkeypatch.setenv("SCAN_STL_10_DIR", "~/elsewhere")
    assert MyPath.db_root_dir("stl-10") == "/home/anna/elsewhere"
    assert MyPath.db_root_dir("stl-10", {"stl-10": "/data/$a"}) == "/data/$a"  # a config's value, read before


def test_elsewhere_a_folder_of_the_table_is_looked_for_beside_the_scripts_too(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.mypath.SCRIPTS", tmp_path / "checkout")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    here = MyPath.db_root_dir("cifar-10")  # where it would be downloaded to
    assert here == "datasets/cifar-10"
    (tmp_path / "checkout" / here).mkdir(parents=True)
    assert MyPath.db_root_dir("cifar-10") == str(tmp_path / "checkout" / here)
    (tmp_path / "here" / here).mkdir(parents=True)
    assert MyPath.db_root_dir("cifar-10") == here
