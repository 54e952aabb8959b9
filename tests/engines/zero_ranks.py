"""What the tests of ZeRO do on every rank of a process group: engines trained side by side on the same batches."""

import gc
import inspect
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from helpers import pretraining, random_batch
from safetensors.torch import save_file
from torch import Tensor

from bridgetower_train.config import DeviceConfig, EngineConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.distributed import Flag, Ranks
from bridgetower_train.engines import ENGINES, Engine
from bridgetower_train.engines.optim import set_lr
from bridgetower_train.engines.reduction import BUCKETS
from bridgetower_train.tasks import Contrast
from bridgetower_train.tasks.base import Across, Metrics
from bridgetower_train.training.step import backward
from tests.tiny import TINY_MODEL

MODEL = replace(
    TINY_MODEL, vision_layers=2, text_layers=2, fusion_layers=2, max_text_len=12, text_positions=20, vocab_size=1999
)
OBJECTIVE = ObjectiveConfig(itc_dim=16)
OPTIM = OptimConfig(lr=1e-3, lr_fusion=2e-3, lr_heads=5e-4, clip_norm=0.5)
MICRO_BATCHES, PAIRS = 2, 3
CONTRAST = Contrast(2 * MICRO_BATCHES * PAIRS, PAIRS, MICRO_BATCHES, 2)
GATHERS = ("all_gather", "all_gather_into_tensor", "all_gather_single")
SCATTERS = ("reduce_scatter_tensor", "reduce_scatter_single")
COLLECTIVES = ("all_reduce", "reduce", "broadcast", *GATHERS, *SCATTERS)


class Traffic:
    """Counts the bytes that go through torch.distributed in this process, by kind. Made before DeepSpeed is imported."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        for name in COLLECTIVES:
            setattr(dist, name, self._counted(name, getattr(dist, name)))

    def _counted(self, name: str, call: Any) -> Any:
        kind = "all_gather" if name in GATHERS else "reduce_scatter" if name in SCATTERS else name
        signature = inspect.signature(call)

        def counted(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            whole = given["input"] if name in SCATTERS else next(iter(given.values()))
            for tensor in whole if isinstance(whole, list) else [whole]:
                self.bytes[kind] += tensor.numel() * tensor.element_size()
            return call(*args, **kwargs)

        return counted


def ddp_traffic(engine: Engine, traffic: Traffic) -> None:
    """Count what DistributedDataParallel, which does not go through Python, reduces."""

    def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        traffic.bytes["all_reduce"] += bucket.buffer().numel() * bucket.buffer().element_size()
        work = torch.distributed.distributed_c10d.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    engine.module.register_comm_hook(None, hook)


def on_host(tensor: Tensor) -> bool:
    """False, too, of one that does not hold anything: on torch 2.6 such a tensor was met once."""
    try:
        return tensor.device.type == "cpu"
    except RuntimeError:
        return False


def held_bytes() -> int:
    """Of all tensors that are alive in this process."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if isinstance(t, Tensor) and on_host(t)]
    tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]  # Python may not have met them yet
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class Training:
    """One engine and the steps that it takes."""

    def __init__(
        self,
        name: str,
        device: CpuDevice | None = None,
        optim: OptimConfig = OPTIM,
        parallel: EngineConfig = BUCKETS,
    ) -> None:
        torch.manual_seed(0)
        device = device or CpuDevice(DeviceConfig(name="cpu"), 0)
        self.ranks = Ranks(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
        task = pretraining(MODEL, OBJECTIVE, device.attention)
        device.compile(task.model)
        self.engine = ENGINES[name](task, device, self.ranks, optim, 1, accumulates=True, parallel=parallel)
        self.flag = Flag(self.ranks)
        self.lines: list[dict[str, float]] = []
        self.held: list[int] = []

    def backward(self, step: int, poisoned: bool = False, measured: bool = False) -> dict[str, Tensor]:
        """The micro-batches of `step`, the loss of rank 1 not finite where it is `poisoned`; `held` where it is `measured`."""
        first = (step * self.ranks.world_size + self.ranks.rank) * MICRO_BATCHES
        batches = [random_batch(MODEL, PAIRS, seed=first + number) for number in range(MICRO_BATCHES)]
        forward_backward = self.engine.forward_backward

        def watched(batch: Batch, totals: Tensor, across: Across, last: bool) -> Metrics:
            wrong = torch.nan if poisoned and self.ranks.rank == 1 else 1.0
            metrics = forward_backward(batch, totals * wrong, across, last)
            if measured:
                self.held.append(held_bytes())
            return metrics

        with patch.object(self.engine, "forward_backward", watched):
            metrics = backward(self.engine, batches, CONTRAST, lambda number: torch.manual_seed(first + number))
        self.flag.agree(False)
        return metrics

    def step(self, step: int, poisoned: bool = False, limit: float | None = None, by_layer: bool = False) -> None:
        """Step number `step`; its figures go to `lines`."""
        metrics = self.backward(step, poisoned)
        set_lr(self.engine.optimizer, 1 - step / 40)
        metrics |= self.engine.step(None if limit is None else torch.tensor(limit), by_layer)
        self.lines.append({name: float(value) for name, value in metrics.items()})

    def run(self, steps: range) -> "Training":
        """Several steps."""
        for step in steps:
            self.step(step)
        return self

    def save(self, folder: Path) -> None:
        """What a checkpoint writes."""
        for name, tensors in self.engine.snapshot().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / name)
        dist.barrier()

    def load(self, folder: Path) -> "Training":
        """Go on from there, as on hosts of which only the first has the files."""
        self.engine.load(folder if self.ranks.is_main else folder / "not here")
        return self
