"""`bridgetower bench save`: writing and verifying checkpoints against the disk's own speed, and what training feels of it."""

import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from bridgetower_train.bench.kit import as_run, random_batch
from bridgetower_train.config import CheckpointConfig, DeviceConfig, ModelConfig, ObjectiveConfig, OptimConfig, at_least
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines import NativeEngine
from bridgetower_train.engines.base import Files
from bridgetower_train.files import open_direct, write_direct
from bridgetower_train.tasks.pretraining import Pretraining
from bridgetower_train.training.checkpoints import Checkpoints
from bridgetower_train.weights.checkpoint import step_folders, verify

WANTED = 0.5
"""Share of the disk's speed at which a checkpoint is to be written."""
STALL = 0.1
"""Share of a write's time for which training may stand still."""
_BLOCK = 1 << 24


@dataclass(frozen=True)
class BenchSaveConfig:
    """What is timed."""

    folder: str = "."
    """Folder on the disk in question; what is written there is removed."""
    times: int = 1
    """Write each tensor so many times, under other names: the checkpoint of a model that is too large for this machine."""
    batch: int = 2
    """Pairs of the training steps beside which is written."""
    repeats: int = 3
    """Rounds; medians are reported."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        for name, least in (("times", 1), ("batch", 2), ("repeats", 1)):
            at_least(name, getattr(self, name), least)


@dataclass(frozen=True)
class Round:
    """Seconds."""

    disk: float
    """The same number of bytes, written in sequence and synced."""
    read: float
    """The same, read in sequence."""
    alone: float
    """A checkpoint written, with nothing beside it."""
    write: float
    """A checkpoint written beside training."""
    stall: float
    """For which training stood still."""
    steps: list[float]
    """Of each training step beside it."""
    verify: float
    """Reading a checkpoint from the disk and comparing its hashes."""


class _Repeated(NativeEngine):
    times = 1

    def snapshot(self) -> Files:
        files = super().snapshot()
        return {
            path: {f"{name}.{n}" if n else name: tensor for n in range(self.times) for name, tensor in tensors.items()}
            for path, tensors in files.items()
        }


def run(config: BenchSaveConfig) -> int:
    """Print sizes, speeds and the stall."""
    device, _ = make_device(config.device)
    engine, step = _training(config, device)
    engine.preallocate()
    plain = [_seconds(step, device) for _ in range(config.repeats + 1)][1:]
    began = time.perf_counter()
    files = engine.snapshot()
    first = time.perf_counter() - began
    written = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
    print(
        f"device      {device.name} ({device.description}), torch {torch.__version__}, {os.cpu_count()} cores, ", end=""
    )
    print(f"{torch.get_num_threads()} threads")
    print(f"checkpoint  {written / 1e9:.3f} GB, of {written / config.times / 1e9:.3f} GB in memory", flush=True)
    with tempfile.TemporaryDirectory(dir=config.folder, prefix=".bench_save.") as folder:
        rounds = [_round(Path(folder), engine, step, device, written) for _ in range(config.repeats)]
    report(written, config.times, first, plain, rounds)
    return 0


def _training(config: BenchSaveConfig, device: Device) -> tuple[NativeEngine, Callable[[], None]]:
    """An engine, and a step of it."""
    torch.manual_seed(0)
    run = as_run(config)
    task = Pretraining(run, device.attention).to(device.torch_device)
    engine = _Repeated(task, device, Ranks(0, 1, None), config.optim)
    engine.times = config.times
    batch = random_batch(run, config.batch).to(device.torch_device)
    totals = task.counts(batch)

    def step() -> None:
        engine.forward_backward(batch, totals, last=True)
        engine.step()

    return engine, step


def _seconds(step: Callable[[], None], device: Device) -> float:
    began = time.perf_counter()
    step()
    device.synchronize()
    return time.perf_counter() - began


def _round(folder: Path, engine: NativeEngine, step: Callable[[], None], device: Device, size: int) -> Round:
    disk, read = in_sequence(folder / "sequence", size)
    _, alone, _, _ = _save(folder / "alone", engine, None, device)
    shutil.rmtree(folder / "alone")
    stall, write, steps, saved = _save(folder / "beside", engine, step, device)
    for path in saved.rglob("*.safetensors"):
        _forget(path)
    began = time.perf_counter()
    wrong = verify(saved)
    seconds = time.perf_counter() - began
    assert wrong is None, wrong
    shutil.rmtree(folder / "beside")
    return Round(disk, read, alone, write, stall, steps, seconds)


def in_sequence(path: Path, size: int) -> tuple[float, float]:
    """Seconds in which `size` random bytes, in whole pages, are written as fast as the disk takes them and synced, and read."""
    block = mmap.mmap(-1, _BLOCK)
    block[:] = os.urandom(_BLOCK)
    began = time.perf_counter()
    with open_direct(path) as descriptor:
        for start in range(0, size, _BLOCK):
            pages = -(-(size - start) // mmap.PAGESIZE) * mmap.PAGESIZE
            write_direct(descriptor, memoryview(block)[:pages])
        os.fsync(descriptor)
    written = time.perf_counter() - began
    _forget(path)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
    read = time.perf_counter() - began
    path.unlink()
    return written, read


def _save(
    run_dir: Path, engine: NativeEngine, step: Callable[[], None] | None, device: Device
) -> tuple[float, float, list[float], Path]:
    """(seconds for which `save` stood still, seconds of the write, seconds of each step meanwhile, the checkpoint)."""
    checkpoints = Checkpoints(run_dir, CheckpointConfig(), engine.ranks, print)
    began = time.perf_counter()
    checkpoints.save(engine, {"step": 1})
    stall, submitted, steps = time.perf_counter() - began, time.time(), []
    latest = checkpoints.folder / "latest"
    while step and not (latest.exists() or checkpoints.failed):
        steps.append(_seconds(step, device))
    checkpoints.finish()
    checkpoints.close()
    (saved,) = step_folders(run_dir)
    return stall, latest.stat().st_mtime - submitted, steps, saved


def _forget(path: Path) -> None:
    """Have the system read a file from the disk again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(size: int, times: int, first: float, plain: list[float], rounds: list[Round]) -> None:
    """Print medians; the stall is that of a copy of all that was written, were it in memory."""
    disk, read, alone, write, check = (
        median(getattr(r, name) for r in rounds) for name in ("disk", "read", "alone", "write", "verify")
    )
    stall = median(r.stall for r in rounds)
    steps = [seconds for r in rounds for seconds in r.steps[:-1]] or rounds[0].steps  # the last one outlasts the write
    lines = (
        ("disk", disk, "disk", "written in sequence and synced", ""),
        ("", read, "read", "read in sequence", ""),
        ("write", alone, "alone", "nothing beside it", f"{disk / alone:.2f} of the disk's speed (wanted: {WANTED})"),
        ("", write, "write", "beside training", f"{disk / write:.2f} (wanted: {WANTED})"),
        ("verify", check, "verify", "read from the disk and hashed", f"{read / check:.2f} (wanted: {WANTED})"),
    )
    for name, seconds, key, what, share in lines:
        print(f"{name:12}{size / seconds / 1e6:.0f} MB/s, {what}{share and ', '}{share} ({_each(size, rounds, key)})")
    print(
        f"both        {(disk + read) / (write + check):.2f} of the disk's speed: written beside training, then verified, against "
        f"written and read in sequence (wanted: {WANTED})"
    )
    print(
        f"stall       {stall:.3f} s to copy {size / times / 1e9:.3f} GB, {stall * times / write:.1%} of the time in which "
        f"so much is written (wanted: {STALL:.0%}); the run's first copy {first:.3f} s, {first * times / write:.1%}"
    )
    print(f"step        {median(plain):.3f} s alone, {median(steps):.3f} s beside a write ({len(steps)} steps)")


def _each(size: int, rounds: list[Round], name: str) -> str:
    return ", ".join(f"{size / getattr(r, name) / 1e6:.0f}" for r in rounds)
