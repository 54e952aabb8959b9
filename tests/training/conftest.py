"""Fixtures that start real runs."""

from pathlib import Path

import pytest

from tests.training.runs import ROOT, Job


@pytest.fixture
def start(shapes_root):
    """Starts a run; what still runs at the end of the test is killed."""
    jobs = []

    def start(
        run_dir: Path, *overrides: str, ranks: int = 1, env: dict[str, str] | None = None, root: Path = shapes_root
    ) -> Job:
        jobs.append(Job(root, run_dir, list(overrides), ranks, env or {}))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.process.poll() is None:
            job.kill()


@pytest.fixture
def train(start):
    """Runs to the end and returns the output; the exit code must be `code`."""

    def train(run_dir: Path, *overrides: str, code: int = 0, **options) -> str:
        job = start(run_dir, *overrides, **options)
        output = job.wait()
        assert job.process.returncode == code, output
        return output

    return train


@pytest.fixture
def customised(tmp_path):
    """The environment in which Python runs a source first."""

    def customised(source: str, **env: str) -> dict[str, str]:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(source)
        return {"PYTHONPATH": f"{folder}:{ROOT}", **env}

    return customised
