"""A trained run, for all who ask one."""

import shutil
from pathlib import Path

import pytest

from tests.tasks.classification.conftest import options, run_of, tasks_root
from tests.training.runs import train_here

__all__ = ["options", "run_of", "tasks_root"]


@pytest.fixture(scope="session")
def trained_run(shapes_root, tmp_path_factory) -> Path:
    """A run folder of two steps on the shapes corpus. Do not write to it."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    train_here(shapes_root, run_dir, "steps=2")
    return run_dir


@pytest.fixture
def run_dir(trained_run, tmp_path) -> Path:
    """A copy of it to write to."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))
