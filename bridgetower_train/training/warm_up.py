"""What a run needs is compiled, or captured, before its first step."""

import time

import torch

from bridgetower_train.config import TrainConfig
from bridgetower_train.display import print_line
from bridgetower_train.engines import Engine
from bridgetower_train.engines.optim import set_lr
from bridgetower_train.tasks import Contrast, task_class
from bridgetower_train.training.guards import UpdateGuard
from bridgetower_train.training.step import backward, count, update

_RATE = 1e-6
"""Of the peak learning rates: 1 - rate x decay rounds to 1 in float32. Zero would be another graph on HPU, without decay."""


def warm_up(config: TrainConfig, engine: Engine, compared: Contrast) -> None:
    """A step of each shape of micro-batch, with all its passes and the update, where the device compiles or captures them.

    Nothing else remains of it, provided that the optimizer's state is still zero: the totals are not numbers, so neither are the
    gradients, and the update is skipped.
    """
    device = engine.device
    if not device.compiles:
        return
    shapes = config.shapes[::-1]  # what takes most memory comes first
    device.mark_step()  # what was recorded so far is no part of a step
    with device.keep_generators():
        for number, shape in enumerate(shapes, 1):
            began, known = time.perf_counter(), device.compilations()
            batch = task_class(config).blank_batch(config, compared.micro_batch, shape).to(device.torch_device)
            batches = [batch] * compared.micro_batches
            totals = torch.full_like(count(engine, batches), torch.nan)
            device.mark_step()
            backward(engine, batches, compared, device.seed, totals)
            set_lr(engine.optimizer, _RATE)
            skipped = update(engine, UpdateGuard(config.guards, device.torch_device))["skipped"]
            assert float(skipped) == 1.0, "losses are divided by the totals"
            if engine.ranks.is_main:
                graphs, seconds = device.compilations() - known, time.perf_counter() - began
                print_line(
                    f"{'warm-up':10}{number} of {len(shapes)}: {shape}, {graphs} graphs compiled in {seconds:.1f} s"
                )
    device.forget_skipped(engine.optimizer)
