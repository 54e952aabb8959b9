"""What a run needs is compiled, or captured, before its first step."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import Device
from bridgetower_train.display import print_line
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines import Engine
from bridgetower_train.engines.optim import set_lr
from bridgetower_train.tasks import task_class

_RATE = 1e-6
"""Of the peak learning rates: 1 - rate x decay rounds to 1 in float32. Zero would be another graph, without decay, on HPU."""


def warm_up(
    config: TrainConfig, device: Device, ranks: Ranks, engine: Engine, run_step: Callable[[list[Batch], Tensor], None]
) -> None:
    """`run_step`, all passes of a step over its micro-batches, given their totals, and an update, once for each text length.

    Nothing remains of it except what was compiled, provided that `engine` is new: the optimizer's state is zero. The totals are not
    numbers, so that the gradients are not either, and the update is skipped.
    """
    if not device.compiles:
        return
    size, accumulation = config.rank_batch(ranks.world_size)
    lengths = config.text_lengths[::-1]  # what takes most memory comes first
    with device.keep_generators():
        for number, length in enumerate(lengths, 1):
            began, known = time.perf_counter(), device.compilations()
            batches = [task_class(config).blank_batch(config, size, length) for _ in range(accumulation)]
            run_step(batches, torch.full_like(engine.task.counts(batches[0]), torch.nan))
            set_lr(engine.optimizer, _RATE)
            skipped = float(engine.step()["skipped"])
            assert skipped, "a loss is divided by the totals"
            device.mark_step()
            if ranks.is_main:
                print_line(
                    f"{'warm-up':10}{number} of {len(lengths)}, texts of {length} tokens: {device.compilations() - known} graphs "
                    f"compiled in {time.perf_counter() - began:.1f} s"
                )
    device.forget_skipped(engine.optimizer)
