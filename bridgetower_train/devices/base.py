"""What the training code needs from a device. Each platform is one file; no other file names a platform."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity

from bridgetower_train.config import DeviceConfig, OptimConfig
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.attention import AttentionFunction, sdpa
from bridgetower_train.model.bridgetower import compiled_parts


class Probe(NamedTuple):
    """Whether a device can be used here, and why or why not."""

    usable: bool
    why: str
    present: bool = False
    """Whether there are signs of it: one that is there and cannot be used is not passed over by `device.name=auto`."""


class Device(ABC):
    """One accelerator (or the CPU) as this process uses it."""

    name: str
    """`cpu`, `cuda` or `hpu`."""
    backend: str
    """Collective backend for torch.distributed."""
    mp_start_method: str
    """How loader workers start: `fork`, or `forkserver` where a forked child breaks the driver."""
    pin_memory: bool = False
    """Whether batches are in page-locked memory, so that copies to the device overlap with computation."""
    pin_snapshots: bool = False
    """Whether host copies of the whole weights and optimizer state are, too."""
    attention: AttentionFunction = staticmethod(sdpa)
    """The attention function that the model calls."""
    executions: tuple[str, ...] = ("eager", "compile")
    """Allowed values of `device.execution`."""
    compiler: str = "inductor"
    """Backend of torch.compile."""
    compiler_options: dict[str, Any] | None = None
    """Options of that backend."""
    activities: tuple[ProfilerActivity, ...] = (ProfilerActivity.CPU,)
    """What a profile records."""
    ddp_kwargs: Mapping[str, Any] = MappingProxyType({"gradient_as_bucket_view": True})
    """Settings of DistributedDataParallel."""
    ddp_hooks: bool = True
    """Whether DistributedDataParallel may send something other than its buckets."""
    no_graphs: str = ""
    """Why `device.graphs` is refused in any execution; empty where lazy execution takes it."""
    moments: tuple[str, ...] = ("fp32",)
    """Allowed values of `optim.moments`: torch's fused AdamW keeps moments in the weights' type."""

    def __init__(self, config: DeviceConfig, local_rank: int) -> None:
        self.config = config
        self.torch_device = torch.device(self.name)
        self.execution, self.execution_why = self.choose_execution(config.execution)
        if self.execution not in self.executions:
            raise ConfigError(
                f"device.execution={config.execution}: device {self.name} runs {' or '.join(self.executions)}; take one of them"
            )
        if config.graphs and self.execution != "lazy":
            why = self.no_graphs or f"graphs need lazy execution, and device.execution is {self.execution}"
            raise ConfigError(f"device.graphs=true: on {self.name}, {why}; remove device.graphs")

    @classmethod  # noqa: B027  nothing to do on most devices
    def prepare(cls, engine: str) -> None:
        """Set what `engine` needs in the environment; called before `probe`, which may import what reads it."""

    @classmethod
    @abstractmethod
    def probe(cls, config: DeviceConfig) -> Probe:
        """Whether this device can be used as configured."""

    @classmethod
    def choose_execution(cls, execution: str) -> tuple[str, str]:
        """(the configured execution, or for `auto` the one to take; why, where that depends on the machine)."""
        return (cls.executions[0] if execution == "auto" else execution), ""

    @property
    def undecided(self) -> bool:
        """Whether `device.execution=auto` depends on the length of the run; until `settle` it is eager."""
        return False

    def obstacle(self) -> str:
        """Why nothing can be compiled here; empty if it can."""
        return ""

    def worth_compiling(self, flops: float, graphs: int, steps: int) -> tuple[bool, str]:
        """(whether to compile for a run of so many steps, each of `flops` on this device, with `graphs` to compile; why)."""
        return False, ""

    def settle(self, compiles: bool, why: str) -> None:
        """Decide what was `undecided`. What then cannot be compiled after all runs eagerly, with a warning of torch's."""
        self.execution, self.execution_why = ("compile" if compiles else "eager"), why
        if compiles:
            torch._dynamo.config.suppress_errors = True  # type: ignore[attr-defined]

    @property
    @abstractmethod
    def description(self) -> str:
        """Name of the hardware, for people."""

    @property
    def peak_flops(self) -> float | None:
        """Dense FLOP/s that the vendor publishes for the configured precision; None if unknown."""
        return None

    @abstractmethod
    def memory_gb(self) -> float:
        """Largest memory in use so far, 10^9 bytes."""

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Peak bytes of tensors while `work` ran, since this process started."""
        work()
        self.synchronize()
        return round(self.memory_gb() * 1e9)

    def autocast(self) -> AbstractContextManager[None]:
        """The region in which forward passes run at `device.precision`."""
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.name, dtype=torch.bfloat16, enabled=bf16)

    def seed(self, seed: int) -> None:
        """Seed the random numbers of this device (dropout, hard negatives), and the host's.

        `torch.manual_seed` would note a stack trace for every kind of accelerator that this process does not use: 0.3 ms a step.
        """
        torch.default_generator.manual_seed(seed)

    def mark_step(self) -> None:  # noqa: B027  nothing to do on devices that are not lazy
        """End of a unit of work: backward, update, forward of an evaluation. Lazy devices run what they recorded."""

    def synchronize(self) -> None:  # noqa: B027  nothing to do where work is synchronous
        """Wait until the device has finished its work."""

    def decoding_rate(self, jpegs: list[bytes], size: int) -> tuple[float, float] | None:
        """(images per second that it decodes to squares of `size`, mean difference of their values from ours, of 255).

        None where it has no decoder, or the package for it is missing.
        """
        return None

    def moment(self) -> Any:
        """Now; where the host is ahead of the device, when that has done all it was given so far. The host does not wait."""
        return time.perf_counter()

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two moments, by the host's clock or events of the device; waits for the later one."""
        if isinstance(begin, float):
            return float(end - begin)
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    def keep_generators(self) -> AbstractContextManager[None]:
        """What is drawn inside the block does not change what is drawn after it."""
        devices = [] if self.name == "cpu" else [self.torch_device.index or 0]
        return torch.random.fork_rng(devices, device_type=self.name)

    def adamw(self, groups: list[dict[str, object]], config: OptimConfig) -> torch.optim.Optimizer:
        """AdamW over parameter groups that carry `lr` and `weight_decay`.

        Fused: one kernel over all parameters, which also honours `found_inf` (see `clip_or_skip`).
        """
        self.check_moments(config)
        return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)

    @classmethod
    def check_moments(cls, config: OptimConfig) -> None:
        """ConfigError if AdamW cannot keep its moments in the configured precision here."""
        if config.moments not in cls.moments:
            raise ConfigError(
                f"optim.moments={config.moments}: torch's fused AdamW, which device {cls.name} uses, keeps moments in the "
                "weights' type, fp32; remove it"
            )

    def clip_or_skip(
        self,
        optimizer: torch.optim.Optimizer,
        gradients: list[Tensor],
        norm: Tensor,
        max_norm: float,
        limit: Tensor | None = None,
    ) -> Tensor:
        """Scale `gradients` from their global `norm` to at most `max_norm` (0: leave them).

        Skip the update if the norm is not finite, or beyond `limit`. Returns 1 if the next update is skipped, otherwise 0; that,
        `norm` and `limit` are device scalars, and the host does not wait.

        The next update does both in its one pass over memory, as it would unscale and skip for a GradScaler: scaled gradients
        are there after it.
        """
        skipped = 1.0 - may_update(norm, limit).float()
        scale = ((norm + 1e-6) / max_norm).clamp(min=1.0).float() if max_norm else None  # the kernel takes no other
        optimizer.grad_scale = scale  # type: ignore[attr-defined]
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
        return skipped

    def forget_skipped(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: B027  a skipped update leaves nothing
        """As if all updates so far, which were skipped at a rate of next to nothing, had not been; none came before them."""

    def optimizer_state(
        self, optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor
    ) -> dict[str, Tensor]:
        """A parameter's state for a checkpoint: `step`, `exp_avg` and `exp_avg_sq`, the same on all devices."""
        return dict(optimizer.state[parameter])

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor, slots: dict[str, Tensor]
    ) -> None:
        """Restore what `optimizer_state` returned, on any device."""
        optimizer.state[parameter] = {k: v.to(self.torch_device, copy=True) for k, v in slots.items()}

    @staticmethod
    def zero_settings(stage: int) -> dict[str, Any]:
        """Entries that DeepSpeed's `zero_optimization` needs on this device at this stage."""
        return {}

    @property
    def compiles(self) -> bool:
        """Whether each new shape is compiled."""
        return self.execution != "eager"

    def compilations(self) -> int:
        """Graphs compiled so far, without waiting for the device."""
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"]) if self.compiles else 0

    def capture_graphs(self, task: nn.Module, graphs: int, accumulates: bool) -> nn.Module:
        """`task` with up to `graphs` shapes of its forward and backward pass captured as graphs, if `device.graphs` is true.

        No collective is in them: what compares samples of several ranks is apart from a task's forward pass (Task.across), and
        DistributedDataParallel, whose reductions stay outside too, comes afterwards. `accumulates` if a step has several
        micro-batches; `begin_micro_batch` then announces each.
        """
        return task

    def begin_micro_batch(self, number: int) -> None:  # noqa: B027  nothing to do without graphs
        """Micro-batch `number` (from 0) of a step is next."""

    def compile(self, model: nn.Module) -> None:
        """Compile the forward and backward pass of each of the `compiled_parts`, if `device.execution` is `compile`; names stay.

        Parts of a kind share what is compiled: once for each shape and mode, however deep the model is. What is between them,
        collectives, and evaluation, whose shapes vary, run eagerly. To be called before `checkpoint_blocks`, which recomputes
        what is compiled here.
        """
        if self.execution != "compile":
            return
        settings: Any = torch._dynamo.config
        settings.cache_size_limit = settings.accumulated_cache_size_limit  # torch's own limit is 8 shapes
        settings.optimize_ddp = False  # it would split blocks where a bucket of gradients ends
        compiled: dict[type[nn.Module], Callable[..., Any]] = {}
        for part in compiled_parts(model):
            kind = type(part)
            if kind not in compiled:
                compiled[kind] = torch.compile(
                    kind.forward, backend=self.compiler, dynamic=False, options=self.compiler_options
                )
            part.forward = partial(_in_training, compiled[kind], part)  # type: ignore[method-assign]


def _in_training(compiled: Callable[..., Tensor], part: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """The forward pass of a part: compiled, but in evaluation."""
    forward = compiled if part.training else type(part).forward
    return forward(part, *args, **kwargs)


def may_update(norm: Tensor, limit: Tensor | None) -> Tensor:
    """Whether a global `norm` is finite and within `limit`."""
    return torch.isfinite(norm) if limit is None else torch.isfinite(norm) & (norm <= limit)
