"""Fixtures that start launchers."""

import subprocess
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
    if subprocess.run(["ip", "netns", "add", "bridgetower-try"], capture_output=True).returncode:
        pytest.skip("this kernel or container gives no network namespaces")
    subprocess.run(["ip", "netns", "delete", "bridgetower-try"], check=True)
    with Hosts() as hosts:
        yield hosts
