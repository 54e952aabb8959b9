"""Intel Gaudi (HPU), three generations: through SW 1.21 the first, through 1.24 the second and third.

What they lack, and how that is handled: float64 and, in lazy mode, int64 (ids and seeds stay below 2^31); fp16 on the first (only
bf16 is offered); HPU graphs outside lazy mode (refused); the mean as a reduction (sums are divided); a media decoder that reads
from shards (images are decoded on the host, uint8 is sent to the card); fused attention on the first (torch's own is used).
"""

import os
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, cast

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.profiler import ProfilerActivity

from bridgetower_train.config import DeviceConfig, OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import habana, media
from bridgetower_train.devices.base import Device, Probe, may_update
from bridgetower_train.devices.recipe_cache import keep_recipes
from bridgetower_train.display import plural
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.attention import AttentionFunction
from bridgetower_train.versions import installed_version

PEAK_BF16 = {2: 432e12, 3: 1835e12}
"""Generation -> dense bf16 FLOP/s, published by Intel; not published for the first."""


class HpuDevice(Device):
    """One card, which belongs to this process alone."""

    name = "hpu"
    backend = "hccl"
    mp_start_method = "forkserver"
    # Until torch 2.7 its loader asks CUDA for the current device.
    pin_memory = Version(torch.__version__).release >= (2, 7)
    executions = ("lazy", "eager", "compile")
    compiler = "hpu_backend"
    # Upstream torch 2.6 has no HPU activity; the vendor's builds do.
    activities = tuple(getattr(ProfilerActivity, name) for name in ("CPU", "HPU") if hasattr(ProfilerActivity, name))
    ddp_kwargs = MappingProxyType({**Device.ddp_kwargs, "bucket_cap_mb": 230})
    ddp_hooks = False  # HCCL's futures are complete as soon as an operation is queued
    moments = ("fp32", "bf16")

    def __init__(self, config: DeviceConfig, local_rank: int) -> None:
        super().__init__(config, local_rank)
        self.hpu = habana.module("hpu")
        kinds = habana.module("utils.experimental")
        kind = kinds._get_device_type()
        names = {1: "synDeviceGaudi", 2: "synDeviceGaudi2", 3: "synDeviceGaudi3"}
        self.generation = next((g for g, name in names.items() if kind == getattr(kinds.synDeviceType, name, None)), 0)
        """1, 2 or 3; 0 for a later one."""
        if self.generation == 1:
            # Otherwise torch's attention would compute bf16 in float32.
            torch._C._set_math_sdp_allow_fp16_bf16_reduction(config.precision == "bf16")
        else:
            self.attention = fused_attention(habana.module("hpex.kernels").FusedSDPA)
        self._set_iteration_count: Callable[[int], None] = lambda number: None

    @classmethod
    def prepare(cls, engine: str) -> None:
        """For ZeRO, the two variables that the vendor's DeepSpeed sets, but only after the package has read them."""
        for name in habana.ZERO if engine.startswith("zero") else ():
            os.environ.setdefault(name, "0")

    @classmethod
    def choose_execution(cls, execution: str) -> tuple[str, str]:
        """For `auto`, lazy with the vendor's fork of torch; compile with another build, which has no lazy mode."""
        if execution != "auto":
            return execution, ""
        if habana.is_fork():
            return "lazy", f"lazy: torch {torch.__version__} is the vendor's fork"
        return "compile", f"compile: torch {torch.__version__} is not the vendor's fork, which alone has lazy mode"

    @classmethod
    def probe(cls, config: DeviceConfig) -> Probe:
        """Usable if the vendor's package can be imported in the configured mode and a card responds."""
        node = habana.node()
        seen = f" although {node} exists" if node else ""
        if not habana.installed():
            return Probe(False, f"{habana.PACKAGE} is not installed{seen}", bool(node))
        execution, _ = cls.choose_execution(config.execution)
        if execution == "lazy" and not habana.is_fork():
            raise ConfigError(
                f"device.execution=lazy: only the vendor's fork of torch has lazy mode, and {torch.__version__} is not it; use "
                "device.execution=compile or eager"
            )
        if config.recipe_cache not in (None, "auto"):
            keep_recipes(config.recipe_cache, installed_version(habana.PLUGIN), int(os.environ.get("RANK", "0")))
        try:
            habana.load(execution == "lazy")
        except ConfigError:
            raise
        except Exception as error:  # its C++ side raises ImportError, OSError, AssertionError and AttributeError
            why = f"{habana.PACKAGE} cannot be imported for execution={execution}: {type(error).__name__}: {error}"
            return Probe(False, why, present=True)
        hpu = habana.module("hpu")
        if not hpu.is_available():
            return Probe(False, f"no card responds{seen}", bool(node))
        return Probe(True, f"{plural(hpu.device_count(), 'card')} found")

    @property
    def description(self) -> str:
        """The card's name as the driver gives it, and the execution mode."""
        return f"{self.hpu.get_device_name()}, {self.execution}"

    @property
    def peak_flops(self) -> float | None:
        """None in fp32 and for the first generation."""
        return PEAK_BF16.get(self.generation) if self.config.precision == "bf16" else None

    def memory_gb(self) -> float:
        """Largest memory allocated to tensors."""
        return float(self.hpu.max_memory_allocated()) / 1e9

    def seed(self, seed: int) -> None:
        """Seed host and card; only compiled execution waits for the operations before.

        Outside lazy mode the vendor's `torch.manual_seed` waits until all of them have been submitted, and resets the seeds that
        compiled graphs keep. Single operators draw theirs when they are called, so without compiled graphs both generators can
        be seeded by themselves (HabanaAI/gaudi-pytorch-bridge, core/torch_overwrites.py and hpu_ops/eager/random_gen.cpp).
        """
        if self.execution == "compile":
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
            self.hpu.random.manual_seed(seed)

    def mark_step(self) -> None:
        if self.execution == "lazy":
            habana.module("core").mark_step()

    def synchronize(self) -> None:
        self.hpu.synchronize()

    def decoding_rate(self, jpegs: list[bytes], size: int) -> tuple[float, float] | None:
        """By the vendor's package for media, which the first generation has no decoder for."""
        return (
            media.decoding_rate(jpegs, size, self.synchronize) if self.generation != 1 and media.installed() else None
        )

    def moment(self) -> Any:
        """In lazy mode by the host's clock: an event would end the graph that is being recorded (HPUEvent.cpp of the bridge)."""
        if self.execution == "lazy":
            return super().moment()
        event = self.hpu.Event(enable_timing=True)
        event.record()
        return event

    def compilations(self) -> int:
        """Graphs compiled by the vendor's compiler."""
        return int(dict(habana.module("hpu.metrics").metric_global("graph_compilation").stats())["TotalNumber"])

    def adamw(self, groups: list[dict[str, object]], config: OptimConfig) -> torch.optim.Optimizer:
        """FusedAdamW, whose defaults of eps and decay differ from torch's, and which refuses empty groups.

        It computes in the weights' type and only stores moments in another (`moments_dtype`).
        """
        fused = habana.module("hpex.optimizers").FusedAdamW
        self._moments = torch.bfloat16 if config.moments == "bf16" else torch.float32
        optimizer: torch.optim.Optimizer = fused(
            [group for group in groups if group["params"]], betas=(config.beta1, config.beta2), eps=config.eps,
            moments_dtype=self._moments,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["step"] = 0
            for p in group["params"]:  # otherwise the first update would create them, in a graph of its own
                moments = {name: torch.zeros_like(p, dtype=self._moments) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[p] = {"step": 0, **moments}
        return optimizer

    def clip_or_skip(
        self,
        optimizer: torch.optim.Optimizer,
        gradients: list[Tensor],
        norm: Tensor,
        max_norm: float,
        limit: Tensor | None = None,
    ) -> Tensor:
        """FusedAdamW cannot skip: an update that is skipped is one by gradients of zero, set in the pass that scales them.

        So the weights change by their running means and by decay, and the step is counted.
        """
        skipped = ~may_update(norm, limit)
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0) if max_norm else None
        for gradient in gradients:
            if scale is not None:
                gradient.mul_(scale)
            gradient.masked_fill_(skipped, 0.0)
        return skipped.float()

    def forget_skipped(self, optimizer: torch.optim.Optimizer) -> None:
        """They were updates by gradients of zero, with means of zero and a decay that rounds to none, but were counted."""
        for group in optimizer.param_groups:
            group["step"] = 0

    def optimizer_state(self, optimizer: torch.optim.Optimizer, group: dict[str, Any], p: Tensor) -> dict[str, Tensor]:
        """FusedAdamW counts steps in the group."""
        return {**optimizer.state[p], "step": torch.tensor(float(group["step"]))}

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, group: dict[str, Any], p: Tensor, slots: dict[str, Tensor]
    ) -> None:
        moments = {
            name: slots[name].to(self.torch_device, self._moments, copy=True) for name in ("exp_avg", "exp_avg_sq")
        }
        optimizer.state[p] = {"step": 0, **moments}
        group["step"] = int(slots["step"])

    @staticmethod
    def zero_settings(stage: int) -> dict[str, Any]:
        """As in the vendor's examples."""
        return {
            1: {"contiguous_gradients": False},
            2: {"overlap_comm": False, "reduce_scatter": False, "contiguous_gradients": False},
            3: {"overlap_comm": False, "reduce_scatter": False, "contiguous_gradients": True},
        }.get(stage, {})

    def capture_graphs(self, task: nn.Module, graphs: int, accumulates: bool) -> nn.Module:
        """HPU graphs, by ModuleCacher."""
        if not self.config.graphs:
            return task
        flat = _OnDict(task)
        self.hpu.ModuleCacher(max_graphs=graphs)(
            model=flat, inplace=True, allow_unused_input=True, have_grad_accumulation=accumulates
        )
        if accumulates:
            self._set_iteration_count = cast(Callable[[int], None], flat.set_iteration_count)
        return _Replayed(flat)

    def begin_micro_batch(self, number: int) -> None:
        """The first micro-batch of a step has its own graph, whose gradients the others add to."""
        self._set_iteration_count(number)


def fused_attention(kernel: Any) -> AttentionFunction:
    """The model's attention by FusedSDPA, which takes a mask for each query, and positional arguments.

    In its recompute mode, the vendor's default: the other one keeps the probabilities and the dropout mask for the backward pass.
    """

    def attention(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
        added = None if mask is None else mask.expand(-1, -1, q_BHQE.shape[-2], -1)
        out: Tensor = kernel.apply(q_BHQE, k_BHTE, v_BHTE, added, dropout_p, False, None, "None", True)
        return out

    return attention


class _OnDict(nn.Module):
    """A task whose batch is a dict of tensors: ModuleCacher identifies a graph by the shapes in it."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: dict[str, Tensor], totals: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        loss, metrics, embedded = self.task(Batch.of(batch), totals)
        return loss, metrics, embedded


class _Replayed(nn.Module):
    """The task, replayed from its graphs."""

    def __init__(self, graphs: nn.Module) -> None:
        super().__init__()
        self.graphs = graphs

    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        loss, metrics, embedded = self.graphs(batch.tensors(), totals)
        # The next replay overwrites these results; what is compared is used before.
        return loss, {name: value.detach().clone() for name, value in metrics.items()}, embedded
