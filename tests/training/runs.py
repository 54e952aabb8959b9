"""Real runs of the command line in processes of their own, on a corpus of small drawn images."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]

TIMES = {"time", "samples_per_s", "step_s", "data_wait", "memory_gb", "mfu"}
"""Metrics that measure the machine, not the run."""

TINY = [
    "model.image_size=32", "model.patch_size=16", "model.width=64", "model.vision_layers=1", "model.text_layers=1",
    "model.fusion_layers=1", "model.max_text_len=24", "model.dropout=0.1", "global_batch=8", "data.lanes=4",
    "data.shuffle_window=64", "log_every=1", "tensorboard=false", "device=cpu", "optim.lr=1e-3",
]  # fmt: skip


class Job:
    """`bridgetower train` as a user starts it, in a process group of its own."""

    def __init__(self, root: Path, run_dir: Path, overrides: list[str], ranks: int, env: dict[str, str]) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        command = [
            sys.executable, *launcher, "-m", "bridgetower_train", "train", *TINY, f"data.root={root}", f"run_dir={run_dir}",
            *overrides,
        ]  # fmt: skip
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        )

    def wait(self, timeout: float = 400) -> str:
        """Its output, once it has ended."""
        try:
            return self.process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.process.communicate()[0]}") from None

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


def metric_lines(run_dir: Path) -> list[dict]:
    """The lines of metrics without what measures the machine."""
    lines = (json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def final_weights(run_dir: Path) -> bytes:
    """The bytes of the newest checkpoint's weights."""
    newest = (run_dir / "checkpoints" / "latest").read_text()
    return (run_dir / "checkpoints" / newest / "model.safetensors").read_bytes()
