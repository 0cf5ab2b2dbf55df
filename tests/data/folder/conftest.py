import pytest

from utils.console import say_once


@pytest.fixture
def folder(tmp_path):
    say_once.cache_clear()
    return tmp_path / "my images"
