"""Real runs of the command line, in processes of their own, and what they leave."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bridgetower_train.cli import main
from bridgetower_train.weights.checkpoint import step_folders, step_of
from tests.tiny import TINY

ROOT = Path(__file__).parents[2]

TIMES = {"time", "samples_per_s", "step_s", "data_wait", "memory_gb", "mfu"} | {
    f"slowest_{figure}" for figure in ("rank", "s", "data_s", "share")
}
"""Metrics that measure the machine, not the run."""

LOSSES = ("loss", "loss_mlm", "loss_itm", "loss_itc")

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""Where the environment's own commands come first."""


def train_command(ranks: int = 1) -> list[str]:
    """`bridgetower train` without overrides, on so many ranks of this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, "-m", "bridgetower_train", "train"]


def train_here(root: Path, run_dir: Path, *overrides: str, code: int = 0) -> None:
    """Train the tiny model in this process, which saves the seconds that a process takes to start."""
    assert main(["train", *TINY, f"data.root={root}", f"run_dir={run_dir}", *overrides]) == code


def export_here(run_dir: Path, out: Path) -> Path:
    """`out`, with the export of a run."""
    assert main(["export", f"run_dir={run_dir}", f"out={out}"]) == 0
    return out


class Job:
    """A run of the tiny model as a user starts it, by `command` and overrides, in a process group of its own."""

    def __init__(
        self, command: list[str], root: Path, run_dir: Path, *overrides: str, env: dict[str, str] | None = None
    ) -> None:
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            [*command, *TINY, f"data.root={root}", f"run_dir={run_dir}", *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=ROOT,
            env={**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})},
        )

    def wait(self, timeout: float = 400) -> str:
        """Its output, once it has ended."""
        try:
            return self.process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.process.communicate()[0]}") from None

    def finish(self, code: int = 0) -> str:
        """Its output, once it has ended; fails where its exit code is not `code`."""
        output = self.wait()
        assert self.process.returncode == code, output
        return output

    def wait_for(self, happened: Callable[[], bool], timeout: float = 300) -> bool:
        """True once `happened`; False where the process ended before."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if happened():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.005)
        self.kill()
        raise AssertionError(f"nothing happened in {timeout} s:\n{self.process.communicate()[0]}")

    def wait_for_step(self, step: int) -> bool:
        """True once the line of `step` has been written."""
        return self.wait_for(lambda: last_step(self.run_dir) >= step)

    def wait_for_checkpoint(self, step: int) -> bool:
        """True once a checkpoint of `step` or a later one is whole: it is written beside the steps that follow."""
        return self.wait_for(lambda: any(step_of(folder) >= step for folder in step_folders(self.run_dir)))

    def family(self) -> list[psutil.Process]:
        """It and all its children: torchrun gives each rank a session of its own."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def kill(self) -> None:
        """kill -9 it and all its children."""
        for victim in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        self.process.wait()


def last_step(run_dir: Path) -> int:
    """The step of the last whole line of metrics."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def metric_lines(run_dir: Path, name: str = "metrics.jsonl") -> list[dict]:
    """The lines of metrics without what measures the machine."""
    lines = (json.loads(line) for line in (run_dir / name).read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def losses(run_dir: Path) -> dict[tuple[int, str], float]:
    """(step, name of the loss) -> its value in training."""
    return {(line["step"], name): line[name] for line in metric_lines(run_dir) for name in LOSSES if name in line}


def final_weights(run_dir: Path) -> bytes:
    """The bytes of the newest checkpoint's weights."""
    newest = (run_dir / "checkpoints" / "latest").read_text()
    return (run_dir / "checkpoints" / newest / "model.safetensors").read_bytes()
