"""Fixtures that start launchers."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.launch.launching import Hosts, Launched, need


@pytest.fixture
def launch(shapes_root):
    """Starts a launcher; what still runs at the end of the test is killed."""
    jobs = []

    def launch(command: list[str], run_dir: Path, *overrides: str, env: dict[str, str] | None = None) -> Launched:
        jobs.append(Launched(command, shapes_root, run_dir, list(overrides), env or {}))
        return jobs[-1]

    yield launch
    for job in jobs:
        if job.process.poll() is None:
            job.kill()


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
