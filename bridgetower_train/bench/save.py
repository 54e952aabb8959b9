"""`bridgetower bench save`: writing and verifying checkpoints against the disk's own speed, and how much they slow training."""

import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from bridgetower_train.bench.kit import (
    BenchModelConfig,
    Figures,
    as_run,
    bench,
    device_clock,
    make_task,
    random_batch,
    timed,
)
from bridgetower_train.config import CheckpointConfig, at_least
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import ALONE
from bridgetower_train.engines import NativeEngine
from bridgetower_train.engines.base import Files
from bridgetower_train.files import open_direct, write_direct
from bridgetower_train.tasks import contrast
from bridgetower_train.training.checkpoints import Checkpoints
from bridgetower_train.training.step import backward
from bridgetower_train.weights.checkpoint import step_folders, verify

FIGURES = {
    "checkpoint_gb": "size of the checkpoint, 10^9 bytes",
    "copied_gb": "of it in memory: each tensor once, whatever `times`",
    "speeds": "10^6 bytes per second",
    "median": "of the rounds",
    "least": "of the rounds",
    "most": "of the rounds",
    "alone_of_disk": "checkpoint written with nothing beside it / disk written (target: 0.5)",
    "beside_of_disk": "checkpoint written beside training / disk written (target: 0.5)",
    "verify_of_disk": "checkpoint read and hashed / disk read (target: 0.5)",
    "both_of_disk": "written beside training and verified / disk written and read (target: 0.5)",
    "stall_s": "seconds for which training stood still: copying copied_gb",
    "stall_of_write": "stall_s, if all of checkpoint_gb were copied, / seconds of a write beside training (target: 0.1)",
    "first_stall_s": "seconds of a run's first copy",
    "first_stall_of_write": "the same share for it (target: 0.1)",
    "step_s": "seconds of a training step",
    "step_beside_s": "seconds of a training step beside a write",
    "steps_beside": "how many of them were timed",
}
"""What `measure` returns; medians over the rounds.

Rows of `speeds`: `disk_write` and `disk_read` (the same bytes in sequence), `alone` and `beside` (a checkpoint written, with
nothing beside it or beside training) and `verify` (it read from disk and hashed).
"""

_BLOCK = 1 << 24


@dataclass(frozen=True)
class BenchSaveConfig(BenchModelConfig):
    """What is timed."""

    folder: str = "."
    """Folder on the disk to measure; what is written there is removed."""
    times: int = 1
    """Write each tensor this many times, under other names: the checkpoint of a model that is too large for this machine."""
    batch: int = 2
    """Pairs of the training steps beside the write."""
    repeats: int = 3
    """Rounds; medians are reported."""

    def __post_init__(self) -> None:
        for name, least in (("times", 1), ("batch", 2), ("repeats", 1)):
            at_least(name, getattr(self, name), least)


class _Repeated(NativeEngine):
    times = 1

    def snapshot(self) -> Files:
        files = super().snapshot()
        return {
            path: {f"{name}.{n}" if n else name: tensor for n in range(self.times) for name, tensor in tensors.items()}
            for path, tensors in files.items()
        }


def measure(config: BenchSaveConfig) -> Figures:
    """FIGURES."""
    device, _ = make_device(config.device)
    engine, step = _training(config, device)
    engine.preallocate()
    plain = [step() for _ in range(config.repeats + 1)][1:]
    files: Files = {}
    first = timed(lambda: files.update(engine.snapshot()))
    size = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
    steps: list[float] = []
    with tempfile.TemporaryDirectory(dir=config.folder, prefix=".bench_save.") as folder:
        rounds = [_round(Path(folder), engine, step, size, steps) for _ in range(config.repeats)]
    seconds = {name: [each[name] for each in rounds] for name in rounds[0]}
    write, read, alone, beside, verified, stall = (median(times) for times in seconds.values())
    del seconds["stall"]
    return {
        "checkpoint_gb": size / 1e9,
        "copied_gb": size / config.times / 1e9,
        "alone_of_disk": write / alone,
        "beside_of_disk": write / beside,
        "verify_of_disk": read / verified,
        "both_of_disk": (write + read) / (beside + verified),
        "stall_s": stall,
        "stall_of_write": stall * config.times / beside,
        "first_stall_s": first,
        "first_stall_of_write": first * config.times / beside,
        "step_s": median(plain),
        "step_beside_s": median(steps),
        "steps_beside": len(steps),
        "speeds": {
            name: {"median": size / median(each) / 1e6, "least": size / max(each) / 1e6, "most": size / min(each) / 1e6}
            for name, each in seconds.items()
        },
    }


def _training(config: BenchSaveConfig, device: Device) -> tuple[NativeEngine, Callable[[], float]]:
    """An engine, and a step of it that returns its seconds."""
    run = as_run(config)
    task = make_task(run, device)
    engine = _Repeated(task, device, ALONE, config.optim)
    engine.times = config.times
    batch = random_batch(run, config.batch).to(device.torch_device)
    compared = contrast(run, 1, config.batch, config.batch)

    def step() -> None:
        backward(engine, [batch], compared, lambda number: None)
        engine.step()

    return engine, partial(timed, step, device_clock(device))


def _round(
    folder: Path, engine: NativeEngine, step: Callable[[], float], size: int, steps: list[float]
) -> dict[str, float]:
    """Seconds of each row of `speeds`, and of the `stall`; those of the steps beside the write are added to `steps`."""
    written, read = in_sequence(folder / "sequence", size)
    _, alone, _, _ = _save(folder / "alone", engine, None)
    shutil.rmtree(folder / "alone")
    stall, beside, others, saved = _save(folder / "beside", engine, step)
    steps += others[:-1] or others  # the last one outlasts the write
    for path in saved.rglob("*.safetensors"):
        _evict(path)
    wrong: list[str | None] = []
    verified = timed(lambda: wrong.append(verify(saved)))
    assert wrong == [None], wrong
    shutil.rmtree(folder / "beside")
    return {
        "disk_write": written,
        "disk_read": read,
        "alone": alone,
        "beside": beside,
        "verify": verified,
        "stall": stall,
    }


def in_sequence(path: Path, size: int) -> tuple[float, float]:
    """(seconds to write `size` random bytes, in whole pages, as fast as the disk can, and sync them; seconds to read them)."""
    block = mmap.mmap(-1, _BLOCK)
    block[:] = os.urandom(_BLOCK)
    began = time.perf_counter()
    with open_direct(path) as descriptor:
        for start in range(0, size, _BLOCK):
            pages = -(-(size - start) // mmap.PAGESIZE) * mmap.PAGESIZE
            write_direct(descriptor, memoryview(block)[:pages])
        os.fsync(descriptor)
    written = time.perf_counter() - began
    _evict(path)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
    read = time.perf_counter() - began
    path.unlink()
    return written, read


def _save(
    run_dir: Path, engine: NativeEngine, step: Callable[[], float] | None
) -> tuple[float, float, list[float], Path]:
    """(seconds for which `save` stood still, seconds of the write, seconds of each step meanwhile, the checkpoint)."""
    run_dir.mkdir(parents=True)
    checkpoints = Checkpoints(run_dir, CheckpointConfig(), engine.ranks, print)
    stall = timed(lambda: checkpoints.save(engine, {"step": 1}))
    submitted, steps = time.time(), []
    latest = checkpoints.folder / "latest"
    while step and not (latest.exists() or checkpoints.failed):
        steps.append(step())
    checkpoints.finish()
    checkpoints.close()
    (saved,) = step_folders(run_dir)
    return stall, latest.stat().st_mtime - submitted, steps, saved


def _evict(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


run = bench("save", measure, FIGURES)
