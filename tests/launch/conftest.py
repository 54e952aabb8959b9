"""Fixtures that start launchers."""

import subprocess
from contextlib import ExitStack

import pytest

from tests.launch.launching import Hosts, need


@pytest.fixture
def two_hosts():
    """Two hosts made of network namespaces."""
    need("ip", root=True)
    with ExitStack() as stack:
        try:
            hosts = stack.enter_context(Hosts())
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield hosts
