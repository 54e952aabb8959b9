"""Whether to compile, and what a run needs is compiled, or captured, before its first step."""

import time

import torch

from bridgetower_train.config import TrainConfig
from bridgetower_train.devices import Device
from bridgetower_train.display import print_line
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines import Engine
from bridgetower_train.engines.graphs import planned_graphs
from bridgetower_train.engines.optim import set_lr
from bridgetower_train.tasks import Contrast, first_pass_flops, step_flops, task_class
from bridgetower_train.training.guards import UpdateGuard
from bridgetower_train.training.step import backward, count, update

_RATE = 1e-6
"""Of the peak learning rates: 1 - rate x decay rounds to 1 in float32. Zero would be another graph on HPU, without decay."""


def settle_execution(config: TrainConfig, device: Device, ranks: Ranks, compared: Contrast, steps: int) -> None:
    """Decide `device.execution=auto` for a run of so many steps, where that depends on it; the same on all ranks."""
    if not device.undecided:
        return
    obstacles = [obstacle for obstacle in ranks.gather_objects(device.obstacle()) if obstacle]
    if config.engine.name == "zero3":
        obstacles = ["engine=zero3 takes no compiled blocks"]
    if obstacles:
        device.settle(False, f"eager: {obstacles[0]}")
        return
    graphs = planned_graphs(config, compared, "compile")
    assert graphs is not None
    per_sample = step_flops(config) + (first_pass_flops(config) if compared.two_passes else 0.0)
    flops = per_sample * config.global_batch / ranks.world_size
    wanted = ranks.gather_objects(device.worth_compiling(flops, graphs.distinct, steps))
    device.settle(*min(wanted))  # eager where one of them is


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
