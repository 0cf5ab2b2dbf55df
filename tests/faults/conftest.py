"""Warm processes for runs that are killed, and the unbroken runs that these are compared with."""

import os

import pytest

from tests.faults.stage_runs import Server, unbroken_runs

NEEDS_FORK = ["test_kills.py", "test_storage.py"]
collect_ignore = [] if hasattr(os, "waitid") else NEEDS_FORK


@pytest.fixture(scope="session")
def servers():
    """Two, so that two runs may go on at once."""
    started = [Server(), Server()]
    yield started
    for server in started:
        server.close()


@pytest.fixture
def server(servers):
    return servers[0]


@pytest.fixture(scope="session")
def unbroken(servers, tmp_path_factory):
    return unbroken_runs(servers[0], tmp_path_factory.mktemp("unbroken"))
