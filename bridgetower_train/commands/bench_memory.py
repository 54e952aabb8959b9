"""`bridgetower bench memory model=base batch=2`: the plan's memory of a step against a real one, on the device that is here."""

from dataclasses import dataclass, field, replace

import torch

from bridgetower_train.commands.bench_step import made_up_batch
from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig, OptimConfig, at_least
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.native import NativeEngine
from bridgetower_train.objectives.joint import JointTask
from bridgetower_train.planning.memory import Use, measure
from bridgetower_train.planning.trace import Platform

STEPS = 2
"""Real ones: AdamW's moments are there from the first update on, so that the second forward pass meets them."""
WARM_UP = ModelConfig(image_size=32, width=64, vision_layers=1, text_layers=1, fusion_layers=1)


@dataclass(frozen=True)
class BenchMemoryConfig:
    """What is measured: steps of one process."""

    batch: int = 2
    """Pairs of a micro-batch."""
    micro_batches: int = 1
    """Per step."""
    activation_checkpointing: bool = False
    """Compute each block again in the backward pass."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 2)
        at_least("micro_batches", self.micro_batches, 1)


@dataclass(frozen=True)
class Peak:
    """Bytes at the moment when a step holds most."""

    planned: Use
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
    peak = compare(config, device)
    use = peak.planned
    print(
        f"step      {config.batch} pairs, {config.micro_batches} micro-batches, {config.model.image_size} px, "
        f"activations {'computed again' if config.activation_checkpointing else 'kept'}"
    )
    print(
        f"planned   {use.total / 1e9:.3f} GB: weights {use.weights / 1e9:.3f}, in bf16 {use.copies / 1e9:.3f}, gradients "
        f"{use.gradients / 1e9:.3f}, moments {use.optimizer / 1e9:.3f}, activations {use.activations / 1e9:.3f}"
    )
    print(f"measured  {peak.measured / 1e9:.3f} GB of tensors; the plan is {use.total / peak.measured - 1:+.1%} off")
    print(f"process   grew by {peak.process / 1e9:.3f} GB; the plan is {use.total / peak.process - 1:+.1%} off")


def compare(config: BenchMemoryConfig, device: Device) -> Peak:
    """Train a step or two for real, then plan the same."""
    model = replace(config.model, vocab_size=config.model.vocab_size or 1000)
    config = replace(config, model=model)
    train(replace(config, batch=2, micro_batches=1, model=replace(WARM_UP, vocab_size=99)), device)  # loads libraries
    before = device.memory_gb()
    measured = device.peak_bytes(lambda: train(config, device))
    process = 1e9 * (device.memory_gb() - before)
    memory = measure(model, config.objective, Platform.of(device), config.activation_checkpointing)
    return Peak(memory.use("native", config.batch, accumulates=config.micro_batches > 1), measured, process)


def train(config: BenchMemoryConfig, device: Device) -> None:
    """A model, its optimizer and some steps."""
    task = JointTask(config.model, config.objective, device.attention).to(device.torch_device)
    if config.activation_checkpointing:
        checkpoint_blocks(task.model)
    engine = NativeEngine(task, device, Ranks(0, 1, None), config.optim, accumulates=config.micro_batches > 1)
    assert config.model.vocab_size is not None
    for _ in range(STEPS):
        batches = [made_up_batch(config.model, config.objective, config.batch) for _ in range(config.micro_batches)]
        batches = [batch.to(device.torch_device) for batch in batches]
        totals = torch.stack([task.counts(batch) for batch in batches]).sum(0)
        for number, batch in enumerate(batches):
            engine.forward_backward(batch, totals, last=number == len(batches) - 1)
        engine.step(1.0)
        device.mark_step()
