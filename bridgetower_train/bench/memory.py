"""`bridgetower bench memory model=base batch=2`: the plan's memory of a step against a real one, on the device that is here."""

from dataclasses import dataclass, field, replace

import torch

from bridgetower_train.bench.kit import as_run, random_batch
from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig, OptimConfig, at_least, one_of
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import Ranks, shut_down
from bridgetower_train.engines import ENGINES as BUILD
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.planning.memory import ENGINES, Breakdown, measure
from bridgetower_train.planning.trace import Platform
from bridgetower_train.rehearsal.group import agree_for_deepspeed, join
from bridgetower_train.tasks.pretraining import Pretraining

STEPS = 2
"""Real ones: AdamW's moments are there from the first update on, so that the second forward pass meets them."""
WARM_UP = ModelConfig(image_size=32, width=64, vision_layers=1, text_layers=1, fusion_layers=1)


@dataclass(frozen=True)
class BenchMemoryConfig:
    """What is measured: steps of one process, which may be one rank of several, the others not there."""

    batch: int = 2
    """Pairs of a micro-batch."""
    micro_batches: int = 1
    """Per step."""
    activation_checkpointing: bool = False
    """Compute each block again in the backward pass."""
    engine: str = "native"
    """Of the plan's engines: native, zero1, zero2 or zero3."""
    world_size: int = 1
    """Ranks; those that are not there are taken to hold what this one holds, on the CPU."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 2)
        at_least("micro_batches", self.micro_batches, 1)
        at_least("world_size", self.world_size, 1)
        one_of("engine", self.engine, ENGINES)


@dataclass(frozen=True)
class Peak:
    """Bytes at the moment when a step holds most."""

    planned: Breakdown
    measured: int
    """Of tensors, as the device's allocator counts them."""
    process: float
    """By which the memory that the device reports of this process grew."""


def run(config: BenchMemoryConfig) -> None:
    """Print both."""
    device, why = make_device(config.device)
    print(
        f"device    {device.name} ({device.description}): {why}; {config.device.precision}, torch {torch.__version__}"
    )
    ranks, _ = join(config.world_size - 1, config.world_size) if config.world_size > 1 else (Ranks(0, 1, None), None)
    try:
        peak = compare(config, device, ranks)
    finally:
        shut_down()
    use = peak.planned
    print(
        f"step      {config.engine}, rank {config.world_size - 1} of {config.world_size}, {config.batch} pairs, "
        f"{config.micro_batches} micro-batches, {config.model.image_size} px, "
        f"activations {'computed again' if config.activation_checkpointing else 'kept'}"
    )
    print(
        f"planned   {use.total / 1e9:.3f} GB: weights {use.weights / 1e9:.3f}, in bf16 {use.copies / 1e9:.3f}, gradients "
        f"{use.gradients / 1e9:.3f}, moments {use.optimizer / 1e9:.3f}, activations {use.activations / 1e9:.3f}"
    )
    print(f"measured  {peak.measured / 1e9:.3f} GB of tensors; the plan is {use.total / peak.measured - 1:+.1%} off")
    print(f"process   grew by {peak.process / 1e9:.3f} GB; the plan is {use.total / peak.process - 1:+.1%} off")


def compare(config: BenchMemoryConfig, device: Device, ranks: Ranks) -> Peak:
    """Train a step or two for real, then plan the same."""
    model = replace(config.model, vocab_size=config.model.vocab_size or 1000)
    config = replace(config, model=model)
    if config.engine == "zero3":
        agree_for_deepspeed(device)
    # Loads libraries.
    train(replace(config, batch=2, micro_batches=1, model=replace(WARM_UP, vocab_size=99)), device, ranks)
    before = device.memory_gb()
    measured = device.peak_bytes(lambda: train(config, device, ranks))
    process = 1e9 * (device.memory_gb() - before)
    memory = measure(as_run(config), Platform.of(device), config.activation_checkpointing)
    planned = memory.use(config.engine, config.batch, config.world_size, config.micro_batches > 1)
    return Peak(planned, measured, process)


def train(config: BenchMemoryConfig, device: Device, ranks: Ranks) -> None:
    """A model, its optimizer and some steps."""
    task = Pretraining(as_run(config), device.attention).to(device.torch_device)
    if config.activation_checkpointing:
        checkpoint_blocks(task.model)
    engine = BUILD[config.engine](task, device, ranks, config.optim, accumulates=config.micro_batches > 1)
    assert config.model.vocab_size is not None
    for _ in range(STEPS):
        batches = [random_batch(as_run(config), config.batch) for _ in range(config.micro_batches)]
        batches = [batch.to(device.torch_device) for batch in batches]
        totals = torch.stack([task.counts(batch) for batch in batches]).sum(0)
        for number, batch in enumerate(batches):
            engine.forward_backward(batch, totals, last=number == len(batches) - 1)
        engine.step()
        device.mark_step()
