"""What the training code asks of a device. Each platform answers in one file; no other file names a platform."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from bridgetower_train.config import DeviceConfig, OptimConfig
from bridgetower_train.model.attention import AttentionFunction, sdpa


class Device(ABC):
    """One accelerator (or the CPU) as this process uses it."""

    name: str
    """`cpu`, `cuda` or `hpu`."""
    backend: str
    """Collective backend for torch.distributed."""
    worker_context: str
    """How loader workers start: `fork`, or `forkserver` where a forked child breaks the driver."""
    pin_memory: bool = False
    """Whether batches wait in page-locked memory, from which the copy to the device overlaps with work."""
    attention: AttentionFunction = staticmethod(sdpa)
    """The attention function that the model calls."""

    def __init__(self, config: DeviceConfig, local_rank: int) -> None:
        self.config = config
        self.torch_device = torch.device(self.name)

    @staticmethod
    @abstractmethod
    def available() -> str | None:
        """Why this device can be used, or None where it cannot."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Name of the hardware, for people."""

    @property
    def peak_flops(self) -> float | None:
        """Dense FLOP/s that the vendor publishes for the configured precision; None where none is known."""
        return None

    @abstractmethod
    def memory_gb(self) -> float:
        """Largest memory in use so far, 10^9 bytes."""

    def autocast(self) -> AbstractContextManager[None]:
        """The region in which forward passes run at `device.precision`."""
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.name, dtype=torch.bfloat16, enabled=bf16)

    def seed(self, seed: int) -> None:
        """Seed what draws numbers on this device (dropout, hard negatives)."""
        torch.manual_seed(seed)

    def mark_step(self) -> None:  # noqa: B027  nothing to do where work is not recorded
        """End of a piece of work: backward, update, forward of an evaluation. Lazy devices run what they recorded."""

    def synchronize(self) -> None:  # noqa: B027  nothing to do where work is done at once
        """Wait until the device has done what it was given."""

    def adamw(self, groups: list[dict[str, object]], config: OptimConfig) -> torch.optim.Optimizer:
        """AdamW over parameter groups that carry `lr` and `weight_decay`.

        Fused: one kernel over all parameters, which also honours `found_inf` (see `update`).
        """
        return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)

    def update(self, optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
        """One optimizer step, left out where the device scalar `skip` is 1: decided on the device, without a host sync."""
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        optimizer.step()

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradients to a global norm of at most `max_norm` (0: leave them); the norm before, a device scalar."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if max_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def capture(self, module: nn.Module) -> nn.Module:
        """`module` with its forward pass compiled or recorded as the configuration asks; parameters keep their names."""
        if self.config.compile:
            module.compile(dynamic=False)
        return module
