"""`bridgetower bench memory model=base batch=2`: the memory of a training step as planned and as measured on this device."""

from dataclasses import asdict, dataclass, replace

from bridgetower_train.bench.kit import BenchModelConfig, Figures, as_run, bench, make_task, random_batch
from bridgetower_train.config import EngineConfig, ModelConfig, TrainConfig, at_least, one_of
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import ALONE, Ranks, shut_down
from bridgetower_train.engines import ENGINES as BUILD
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.planning.memory import ENGINES, Breakdown
from bridgetower_train.planning.memory import measure as plan_memory
from bridgetower_train.planning.trace import Platform
from bridgetower_train.rehearsal.group import agree_for_deepspeed, join
from bridgetower_train.tasks import Contrast, contrast
from bridgetower_train.training.step import backward

STEPS = 2
"""Real ones: AdamW's moments exist from the first update on, so the second forward pass meets them."""
WARM_UP = ModelConfig(image_size=32, width=64, vision_layers=1, text_layers=1, fusion_layers=1)

FIGURES = {
    "planned_gb": "peak of a step by the plan, 10^9 bytes",
    "planned_weights_gb": "of it: weights",
    "planned_copies_gb": "of it: copies of the weights in bf16",
    "planned_gradients_gb": "of it: gradients",
    "planned_optimizer_gb": "of it: moments",
    "planned_activations_gb": "of it: activations",
    "measured_gb": "peak of a real step in tensors, as the device's allocator counts them",
    "process_gb": "growth of the peak memory that the device reports of this process",
    "planned_of_measured": "planned_gb / measured_gb (target: 0.9 to 1.1)",
}
"""What `measure` returns."""


@dataclass(frozen=True)
class BenchMemoryConfig(BenchModelConfig):
    """What is measured: steps of one process, which may be one rank of several, the others not there."""

    batch: int = 2
    """Pairs of a micro-batch."""
    micro_batches: int = 1
    """Per step."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass."""
    engine: str = "native"
    """One of the plan's engines: native, zero1, zero2 or zero3."""
    world_size: int = 1
    """Ranks; those that are not there are taken to have what this one has, on the CPU."""
    reduce: str = "buckets"
    """As `engine.reduce` of a run."""
    reduce_precision: str = "fp32"
    """As `engine.reduce_precision` of a run."""

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 2)
        at_least("micro_batches", self.micro_batches, 1)
        at_least("world_size", self.world_size, 1)
        one_of("engine", self.engine, ENGINES)


@dataclass(frozen=True)
class Peak:
    """Peak of a step, bytes."""

    planned: Breakdown
    measured: int
    """Of tensors, as the device's allocator counts them."""
    process: float
    """Growth of the memory that the device reports of this process."""


def measure(config: BenchMemoryConfig) -> Figures:
    """FIGURES."""
    device, _ = make_device(config.device, engine=config.engine)
    ranks, _ = join(config.world_size - 1, config.world_size) if config.world_size > 1 else (ALONE, None)
    try:
        peak = compare(config, device, ranks)
    finally:
        shut_down()
    return {
        "planned_gb": peak.planned.total / 1e9,
        **{f"planned_{part}_gb": value / 1e9 for part, value in asdict(peak.planned).items()},
        "measured_gb": peak.measured / 1e9,
        "process_gb": peak.process / 1e9,
        "planned_of_measured": peak.planned.total / peak.measured,
    }


def compare(config: BenchMemoryConfig, device: Device, ranks: Ranks) -> Peak:
    """Train for STEPS steps, then plan the same."""
    if config.engine == "zero3":
        agree_for_deepspeed(device)
    train(replace(config, batch=2, micro_batches=1, model=WARM_UP), device, ranks)  # loads libraries
    before = device.memory_gb()
    measured = device.peak_bytes(lambda: train(config, device, ranks))
    process = 1e9 * (device.memory_gb() - before)
    run = _run(config)
    memory = plan_memory(run, Platform.of(device), config.activation_checkpointing)
    planned = memory.use(config.engine, config.batch, config.world_size, contrast=compared(config, run))
    return Peak(planned, measured, process)


def _run(config: BenchMemoryConfig) -> TrainConfig:
    engine = EngineConfig(config.engine, config.activation_checkpointing, config.reduce, config.reduce_precision)
    return replace(as_run(config), engine=engine)


def compared(config: BenchMemoryConfig, run: TrainConfig) -> Contrast:
    """What is compared with each other in a step."""
    return contrast(run, config.world_size, config.batch, config.batch * config.micro_batches * config.world_size)


def train(config: BenchMemoryConfig, device: Device, ranks: Ranks) -> None:
    """Build a model and its optimizer, and train for STEPS steps."""
    run = _run(config)
    task = make_task(run, device)
    if config.activation_checkpointing:
        checkpoint_blocks(task.model, device)
    engine = BUILD[config.engine](
        task, device, ranks, config.optim, accumulates=config.micro_batches > 1, parallel=run.engine
    )
    for _ in range(STEPS):
        batches = [random_batch(run, config.batch).to(device.torch_device) for _ in range(config.micro_batches)]
        backward(engine, batches, compared(config, run), device.seed)
        engine.step()
        device.mark_step()


run = bench("memory", measure, FIGURES)
