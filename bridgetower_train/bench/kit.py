"""What the benchmarks share: a run with a random batch, timing in turns, memory, and how figures are printed and written.

A benchmark is a module with a configuration, `measure(config)`, which returns its figures, and FIGURES, which says what each
of them means.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from bridgetower_train.data.augment import kept_patches
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.reader import Samples
from bridgetower_train.devices import Device, make_device
from bridgetower_train.display import public
from bridgetower_train.errors import ConfigError
from bridgetower_train.files import atomic_write
from bridgetower_train.tasks import Task, task_class
from bridgetower_train.versions import installed_version, versions
from bridgetower_train.weights.saved import config_of

VOCABULARY = 1000
"""Tokens of the synthetic vocabulary where the model's is not set."""
_SPECIAL = 5
_PEERS = (
    "transformers", "pillow", "isal", "aiohttp", "spdl", "litdata", "mosaicml-streaming", "megatron-energon", "datasets",
)  # fmt: skip  # not among those of a run

Figures = dict[str, Any]
"""Name -> number, or for a table: row -> column -> number."""


@dataclass(frozen=True)
class BenchConfig:
    """What all benchmarks take."""

    out: str | None = field(default=None, kw_only=True)
    """File to which the figures are also written, as JSON; null: none."""


@dataclass(frozen=True, kw_only=True)
class BenchModelConfig(BenchConfig):
    """What those that train a model take besides."""

    model_from: str | None = None
    """Run folder, exported folder or hub name whose model and losses to take, instead of `model` and `objective`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)


Config = TypeVar("Config", bound=BenchConfig)


def bench(
    name: str, measure: Callable[[Config], Figures], meanings: Mapping[str, str], failures: str = ""
) -> Callable[[Config], int]:
    """The `run(config)` of a benchmark: measure, print the figures with their meanings, and write them to `config.out`.

    The file is an object with `bench`, `date`, `machine`, `versions`, `config` and `figures`. ConfigError before anything is
    measured where it cannot be a file. The exit code is 1 where the figure `failures`, if there is one, is not 0.
    """

    def run(config: Config) -> int:
        out = Path(config.out) if config.out else None
        if out and (out.is_dir() or not out.parent.is_dir()):
            raise ConfigError(f"out={out}: must be a file in an existing folder; create the folder, or choose another")
        figures = measure(config)
        machine = _machine(getattr(config, "device", DeviceConfig(name="cpu")))
        described = machine | {"torch": torch.__version__}
        print(f"# bench {name}: {', '.join(f'{key} {value}' for key, value in described.items())}")
        print_figures(figures, meanings)
        if out:
            record = {
                "bench": name,
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "machine": machine,
                "versions": versions() | {name: given for name in _PEERS if (given := installed_version(name))},
                "config": public(asdict(config)),
                "figures": figures,
            }
            atomic_write(out, json.dumps(record, indent=2) + "\n")
        return int(bool(figures.get(failures)))

    return run


def print_figures(figures: Figures, meanings: Mapping[str, str]) -> None:
    """Print each figure with its name and meaning, then each table with the meanings of its columns."""
    for name, value in figures.items():
        if not isinstance(value, dict):
            print(f"{name:24}{_text(value):>12}  {meanings[name]}")
    for name, rows in figures.items():
        if isinstance(rows, dict):
            columns = list(dict.fromkeys(column for row in rows.values() for column in row))
            print(f"\n{name}: {meanings[name]}", *(f"  {column}: {meanings[column]}" for column in columns), sep="\n")
            print(" " * 24 + "".join(f"{column:>16}" for column in columns))
            for title, row in rows.items():
                print(f"{title:24}" + "".join(f"{_text(row[c]) if c in row else '':>16}" for c in columns))


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.4g}"


def _machine(config: DeviceConfig) -> dict[str, Any]:
    device, _ = make_device(config)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "device": device.name,
        "hardware": device.description,
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
    }


def as_run(config: BenchModelConfig) -> TrainConfig:
    """The run that a benchmark times: its model, losses, optimizer and device, and a vocabulary."""
    run = TrainConfig(model=config.model, objective=config.objective, optim=config.optim, device=config.device)
    if config.model_from:
        like = config_of(config.model_from, "model_from")
        run = replace(run, task=like.task, model=like.model, objective=like.objective, classifier=like.classifier)
    # There is no end of a run here, which would train on whole images.
    model = replace(run.model, patch_dropout_until="100%")
    return replace(run, model=model.with_vocabulary(model.vocab_size or VOCABULARY))


def make_task(run: TrainConfig, device: Device) -> Task:
    """The run's task on the device, with the same random weights each time."""
    torch.manual_seed(0)
    task = task_class(run)(run, device.attention).to(device.torch_device)
    device.compile(task.model)
    return task


def random_batch(run: TrainConfig, size: int) -> Batch:
    """`size` samples of random images and random texts of all lengths, with the labels of the task's reader, or blank ones."""
    model, task = run.model, task_class(run)
    assert model.vocab_size is not None
    random = torch.Generator().manual_seed(0)
    L, S, V = model.max_text_len, model.image_size, model.vocab_size
    lengths = torch.linspace(L // 4 + 2, L, size).long()
    mask = torch.arange(L) < lengths[:, None]
    ids = torch.where(mask, torch.randint(_SPECIAL, V, (size, L), generator=random), 1)
    ids[:, 0] = 0
    numbers, kept = np.arange(size), model.kept_patches
    special = np.arange(V) < _SPECIAL
    tokenizer: Any = SimpleNamespace(special=special, ordinary=np.flatnonzero(~special), mask=_SPECIAL - 1)
    reader = task.reader(run, tokenizer)
    made = reader.labels(Samples([], [], numbers, numbers, ids, mask))
    return Batch(
        pixel_values=torch.randint(0, 256, (size * reader.images, 3, S, S), generator=random).byte(),
        input_ids=ids,
        text_mask=mask,
        image_id=torch.from_numpy(numbers),
        patches=None
        if kept is None
        else torch.from_numpy(kept_patches(0, np.arange(size * reader.images), model.image_tokens - 1, kept)),
        labels=task.blank_labels(run, size, L) | {name: label for name, label in made.items() if len(label) == size},
    )


def forward_backward(loss: Callable[[], Tensor], device: Device) -> None:
    """Compute `loss` at the device's precision and its gradients."""
    with device.autocast():
        value = loss()
    value.backward()
    device.mark_step()


def in_turns(
    steps: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Name -> the time that a step took in each of `rounds` rounds; see `by_turns`."""
    return by_turns({name: partial(timed, step, clock) for name, step in steps.items()}, rounds)


def by_turns(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Name -> what its turn returned in each of `rounds` rounds, after one that does not count.

    In a round all turns follow one another, so a change of the machine's pace affects all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            taken[name].append(turn())
    return {name: found[1:] for name, found in taken.items()}


def timed(step: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The time that `step` takes by `clock`."""
    start = clock()
    step()
    return clock() - start


def device_clock(device: Device) -> Callable[[], float]:
    """Seconds at which the device has done all its work so far."""

    def clock() -> float:
        device.synchronize()
        return time.perf_counter()

    return clock


def resident_mb(pid: int | None = None) -> float:
    """Memory of a process (this one by default) that is in RAM, 10^6 bytes."""
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken, its threads and the system's work for it included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
