import pytest

from utils.errors import UserError
from utils.mypath import MyPath

VARIABLES = {
    "cifar-10": "SCAN_CIFAR_10_DIR",
    "cifar-20": "SCAN_CIFAR_20_DIR",
    "stl-10": "SCAN_STL_10_DIR",
    "fashion-mnist": "SCAN_FASHION_MNIST_DIR",
    "imagenet": "SCAN_IMAGENET_DIR",
    "imagenet_50": "SCAN_IMAGENET_DIR",
    "imagenet_100": "SCAN_IMAGENET_DIR",
    "imagenet_200": "SCAN_IMAGENET_DIR",
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


def test_each_data_set_has_a_folder_of_its_own_and_the_imagenet_names_share_one():
    folders = {name: MyPath.db_root_dir(name) for name in VARIABLES}
    assert all(folder.startswith("datasets/") for folder in folders.values())
    assert (
        len({folders[name] for name in ("cifar-10", "cifar-20", "stl-10", "fashion-mnist", "imagenet")}) == 5
    )
    assert {folders[name] for name in VARIABLES if name.startswith("imagenet")} == {folders["imagenet"]}


@pytest.mark.parametrize("name", VARIABLES)
def test_the_environment_wins_over_the_config_and_the_config_over_the_table(name, monkeypatch):
    config = {name: "/from/config"}
    assert MyPath.db_root_dir(name, config) == "/from/config"
    monkeypatch.setenv(VARIABLES[name], "/from/environment")
    assert MyPath.db_root_dir(name, config) == "/from/environment"


def test_an_empty_environment_variable_is_as_good_as_none(monkeypatch):
    monkeypatch.setenv("SCAN_STL_10_DIR", "")
    assert MyPath.db_root_dir("stl-10", {"stl-10": "/data"}) == "/data"


def test_a_folder_given_for_another_data_set_changes_nothing():
    assert MyPath.db_root_dir("cifar-20", {"cifar-10": "/data"}) == MyPath.db_root_dir("cifar-20")
    assert MyPath.db_root_dir("cifar-10", {"imagenet": "/data"}) == MyPath.db_root_dir("cifar-10")


def test_the_folder_of_imagenet_serves_its_subsets_unless_they_have_their_own():
    assert MyPath.db_root_dir("imagenet_50", {"imagenet": "/data"}) == "/data"
    assert MyPath.db_root_dir("imagenet_50", {"imagenet": "/data", "imagenet_50": "/small"}) == "/small"


def test_a_tilde_means_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert MyPath.db_root_dir("stl-10", {"stl-10": "~/stl"}) == "/home/anna/stl"
    monkeypatch.setenv("SCAN_STL_10_DIR", "~/elsewhere")
    assert MyPath.db_root_dir("stl-10") == "/home/anna/elsewhere"


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError) as error:
        MyPath.db_root_dir("cifar10")
    message = str(error.value)
    assert "'cifar10'" in message and "\n" not in message
    assert all(name in message for name in VARIABLES)
