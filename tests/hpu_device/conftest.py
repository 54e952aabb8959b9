"""The emulated device, built once, and what runs on it: always in processes of their own, for it cannot be taken away again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.classification.conftest import options, tasks_root

__all__ = ["options", "tasks_root"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def emulation() -> Path:
    """The compiled emulation, built in another process: loading it would give this one an `hpu` device for good."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where pip puts ninja
    if shutil.which("c++") is None or shutil.which("ninja", path=path) is None:
        pytest.skip("the emulated hpu device needs a C++ compiler and ninja")
    return Path(run_python([str(HERE / "build.py")], {"PATH": path}, timeout=400).split()[-1])


@pytest.fixture
def hpu(emulation: Path, tmp_path: Path) -> dict[str, str]:
    """The environment in which the stub package is found; calls are logged in `tmp_path`/calls."""
    (tmp_path / "calls").mkdir()
    return {
        "PYTHONPATH": f"{HERE / 'stub'}:{ROOT}",
        "HPU_EMULATION": str(emulation),
        "HPU_EMULATION_LOG": str(tmp_path / "calls"),
    }


@pytest.fixture
def calls(tmp_path: Path) -> Callable[..., list[dict]]:
    """`calls(rank)`: what a rank asked of the vendor's package, in order; they are forgotten."""

    def calls(rank: int = 0) -> list[dict]:
        path = tmp_path / "calls" / f"calls-{rank}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        return lines

    return calls


@pytest.fixture
def scenario(hpu: dict[str, str]) -> Callable[..., str]:
    """`scenario(*names, **environment)`: runs functions of scenarios.py in a process with the stub; their output."""

    def scenario(*names: str, **environment: str) -> str:
        return run_python([str(HERE / "scenarios.py"), *names], {**hpu, **environment})

    return scenario


def run_python(arguments: list[str], environment: dict[str, str], code: int = 0, timeout: float = 400) -> str:
    """Run Python; both outputs as one. Fails where it does not end with `code`."""
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout
