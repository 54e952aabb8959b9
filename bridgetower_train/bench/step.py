"""`bridgetower bench step`: the joint step against Hugging Face's three classes, on the same weights and the same batch."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bridgetower_train.bench.hugging_face import HuggingFaceHeads, separate_flops
from bridgetower_train.bench.kit import as_run, random_batch
from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig, at_least
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import Device, make_device
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.optim import parameter_groups
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.flops import TRAINING
from bridgetower_train.tasks import step_flops
from bridgetower_train.tasks.pretraining import Pretraining

SAME_LOSSES = ("mlm", "itm aligned", "itm mismatched", "itc")
"""The passes of Hugging Face's classes that give the same losses as one joint step."""

ONE_ITM_PAIR = ("mlm", "itm aligned", "itc")
"""Those of a recipe that shows ITM one pair per text, matched or not, as Microsoft's: less than the joint step learns from."""


@dataclass(frozen=True)
class BenchStepConfig:
    """What is timed."""

    batch: int = 2
    """Pairs per step."""
    repeats: int = 5
    """Rounds, after one that does not count; medians are reported."""
    compare: bool = True
    """Time Hugging Face's classes too."""
    activation_checkpointing: bool = False
    """Recompute the blocks of the joint step in its backward pass (Hugging Face's classes cannot)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 2)
        at_least("repeats", self.repeats, 1)
        weights, form = (self.objective.mlm, self.objective.itm, self.objective.itc), self.objective.itc_form
        if self.compare and (weights != (1, 1, 1) or form != "hf"):
            raise ConfigError("objective: Hugging Face's classes give all three losses, form hf; set compare=false")


def run(config: BenchStepConfig) -> int:
    """Time the passes in turns and print what they come to."""
    device, why = make_device(config.device)
    run_config = as_run(config)
    model = run_config.model
    print(
        f"device    {device.name} ({device.description}): {why}; {config.device.precision}, torch {torch.__version__}"
    )
    torch.manual_seed(0)
    task = Pretraining(run_config, device.attention).to(device.torch_device)
    millions = sum(p.numel() for p in task.parameters()) / 1e6
    print(
        f"step      {millions:.2f} M parameters, {model.image_size} px, {config.batch} pairs, {model.max_text_len} tokens"
    )
    batch = random_batch(run_config, config.batch).to(device.torch_device)
    optimizer = device.adamw(parameter_groups(task.model.named_parameters(), config.optim), config.optim)
    heads = HuggingFaceHeads(task.model, run_config) if config.compare else None
    if config.activation_checkpointing:
        checkpoint_blocks(task)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    steps = {name: _forward_backward(loss, device) for name, loss in losses(task, heads, batch, device).items()}
    steps = {"joint": steps.pop("joint"), "update": update, **steps}
    if heads:
        steps["second update"] = update
    report(config, run_config, device, time_in_turns(steps, device, config.repeats))
    return 0


def losses(
    task: Pretraining, heads: HuggingFaceHeads | None, batch: Batch, device: Device
) -> dict[str, Callable[[], Tensor]]:
    """Name -> the loss of the joint step, or of one pass of Hugging Face's classes."""
    totals, module = task.counts(batch), device.compile(task)
    joint: dict[str, Callable[[], Tensor]] = {"joint": lambda: module(batch, totals)[0]}
    if heads is None:
        return joint
    others = batch.pixel_values[batch.labels["itm_negative"]]
    return joint | {
        "mlm": lambda: heads.mlm_loss(batch),
        "itm aligned": lambda: heads.itm_loss(batch, batch.pixel_values, match=1) / 2,
        "itm mismatched": lambda: heads.itm_loss(batch, others, match=0) / 2,
        "itc": lambda: heads.itc_loss(batch),
    }


def _forward_backward(loss: Callable[[], Tensor], device: Device) -> Callable[[], None]:
    def step() -> None:
        with device.autocast():
            value = loss()
        value.backward()
        device.mark_step()

    return step


def time_in_turns(steps: dict[str, Callable[[], None]], device: Device, repeats: int) -> dict[str, float]:
    """Median seconds of each step over `repeats` rounds, in each of which all come in their order."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            device.synchronize()
            start = time.perf_counter()
            step()
            device.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def report(config: BenchStepConfig, run: TrainConfig, device: Device, seconds: dict[str, float]) -> None:
    """Print times, work, rates and ratios."""
    print(f"\n{'':44}{'s':>9}{'pairs/s':>9}{'GFLOP/pair':>12}{'TFLOP/s':>9}")
    joint = seconds["joint"] + seconds["update"]
    _print_line("joint step", joint, config.batch, step_flops(run), device)
    if config.compare:
        flops = separate_flops(run.model, run.objective)
        for title, passes in (("same losses", SAME_LOSSES), ("one ITM pair per text", ONE_ITM_PAIR)):
            separate = sum(seconds[name] for name in passes) + seconds["update"]
            work = TRAINING * sum(flops[name.split()[0]] for name in passes)
            _print_line(
                f"Hugging Face, {title}",
                separate,
                config.batch,
                work,
                device,
                f"  joint is {separate / joint:.2f}x faster",
            )
    print(
        "\nof which  "
        + ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items() if name != "second update")
    )
    print(f"memory    {device.memory_gb():.1f} GB at most")


def _print_line(title: str, seconds: float, batch: int, flops: float, device: Device, note: str = "") -> None:
    rate = flops * batch / seconds
    share = f"  {rate / device.peak_flops:.0%} of peak" if device.peak_flops else ""
    print(f"{title:44}{seconds:9.3f}{batch / seconds:9.2f}{flops / 1e9:12.1f}{rate / 1e12:9.3f}{share}{note}")
