"""The memory of a training step, operation by operation: one real forward and backward pass on fake tensors.

Every shape, type and lifetime is that of a real step. The tensors have no data, so it takes seconds and almost no memory for a
model of any size. The workspace of kernels is not seen.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bridgetower_train.config import TrainConfig
from bridgetower_train.devices import Device
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.model.attention import AttentionFunction
from bridgetower_train.model.bridgetower import blocks
from bridgetower_train.model.text import TextLayer
from bridgetower_train.model.vision import Block
from bridgetower_train.tasks import Task, task_class

Bytes = npt.NDArray[np.int64]

PARTS = ("image tower", "text tower", "fusion, text stream", "fusion, image stream", "the rest")
"""Groups by which the kept bytes are counted: transformer blocks, and everything between and after them."""


@dataclass(frozen=True)
class Platform:
    """What the trace needs to know about a device."""

    attention: AttentionFunction
    autocast: Callable[[], AbstractContextManager[Any]]
    compile: Callable[[nn.Module], None]
    where: torch.device

    @staticmethod
    def of(device: Device) -> "Platform":
        """A device of this machine."""
        return Platform(device.attention, device.autocast, device.compile, device.torch_device)

    @staticmethod
    def on_paper(fused_attention: bool, precision: str) -> "Platform":
        """An accelerator that is not here: PyTorch's own dropout, and autocast by the CPU's lists."""
        bf16 = precision == "bf16"
        return Platform(
            fused if fused_attention else plain,
            lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
            lambda model: None,
            torch.device("cpu"),
        )


@dataclass(frozen=True)
class Timeline:
    """Bytes alive after each operation of one forward and backward pass."""

    sizes: list[int]
    """Elements of each weight."""
    trained: int
    """Elements of those that are not frozen."""
    largest: int
    """Elements of the largest block, or of the largest weight."""
    gradients: Bytes
    """Gradients that are complete."""
    copies: Bytes
    """Weights in the precision of autocast."""
    activations: Bytes
    """Everything else except the weights: the batch, what is kept for the backward pass, and intermediate results."""
    kept: dict[str, int]
    """Part of the model -> bytes that it keeps at the end of the forward pass."""
    blocks: dict[str, int]
    """Part of the model -> its transformer blocks."""

    @property
    def parameters(self) -> int:
        """Elements of all weights."""
        return sum(self.sizes)


def trace(config: TrainConfig, pairs: int, checkpointing: bool, platform: Platform) -> Timeline:
    """One step of `pairs` samples, with weights allocated and no gradients yet."""
    kind = task_class(config)
    with FakeTensorMode(), torch.device(platform.where):
        task = kind(config, platform.attention)
        parts = _parts(task)
        platform.compile(task.model)
        if checkpointing:
            checkpoint_blocks(task.model)
        totals = torch.ones(3)
        with Ledger() as ledger, _labelled(parts, ledger):
            _count_gradients(task, ledger)
            ledger.weights = {id(p.untyped_storage()) for p in task.parameters()}
            batch = kind.blank_batch(config, pairs)
            with platform.autocast():
                loss, _ = task.losses(batch, totals)
            kept = ledger.labelled()
            loss.backward()
    lines = np.array(ledger.line, dtype=np.int64)
    done, copies = lines[:, 1], lines[:, 2]
    sizes = [p.numel() for p in task.parameters()]
    return Timeline(
        sizes,
        sum(p.numel() for p in task.parameters() if p.requires_grad),
        max(sizes + [sum(p.numel() for p in block.parameters()) for block in parts]),
        done,
        copies,
        lines[:, 0] - done - copies,
        kept,
        {part: list(parts.values()).count(part) for part in PARTS[:-1]},
    )


class Ledger(TorchDispatchMode):
    """Bytes of the storages that operations allocate, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.label = PARTS[-1]
        """What is being computed."""
        self.weights: set[int] = set()
        """Storages allocated before, which do not count."""
        self.line: list[tuple[int, int, int]] = []
        """After each operation: bytes of all, of complete gradients, of copies of weights."""
        self.gradients = 0
        self._alive: dict[int, tuple[int, str, bool]] = {}
        self._bytes = self._copies = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.prim.device.default:  # called all the time, and allocates nothing
            return out
        copied = function is torch.ops.aten._to_copy.default and id(args[0].untyped_storage()) in self.weights
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), copied)
        self.line.append((self._bytes, self.gradients, self._copies))
        return out

    def _add(self, storage: torch.UntypedStorage, copied: bool) -> None:
        key = id(storage)
        if key in self._alive or key in self.weights:
            return
        size = storage.nbytes()
        self._alive[key] = size, self.label, copied
        self._bytes += size
        self._copies += size * copied
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        size, _, copied = self._alive.pop(key)
        self._bytes -= size
        self._copies -= size * copied

    def labelled(self) -> dict[str, int]:
        """Label -> bytes alive that were allocated under it, without copies of weights."""
        sums = dict.fromkeys(PARTS, 0)
        for size, label, copied in self._alive.values():
            sums[label] += size * (not copied)
        return sums


def _parts(task: Task) -> dict[nn.Module, str]:
    """The transformer blocks, and the part to which each belongs."""
    towers = {Block: PARTS[0], TextLayer: PARTS[1]}
    text_stream = set(task.model.bridgetower.cross_modal_text_layers)
    return {
        block: towers.get(type(block), PARTS[2] if block in text_stream else PARTS[3]) for block in blocks(task.model)
    }


@contextmanager
def _labelled(parts: dict[nn.Module, str], ledger: Ledger) -> Iterator[None]:
    """Label what `ledger` counts in the forward pass by the part that is computed."""

    def enter(module: nn.Module, _: Any) -> None:
        ledger.label = parts[module]

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        ledger.label = PARTS[-1]

    hooks = [part.register_forward_pre_hook(enter) for part in parts]
    hooks += [part.register_forward_hook(leave) for part in parts]
    yield
    for hook in hooks:
        hook.remove()


def _count_gradients(task: Task, ledger: Ledger) -> None:
    """Count complete gradients in `ledger`."""

    def complete(parameter: Tensor) -> None:
        ledger.gradients += parameter.numel() * parameter.element_size()

    for parameter in task.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(complete)


class _Fused(torch.autograd.Function):
    """What fused attention kernels keep: operands, result, and one float32 per query."""

    @staticmethod
    def forward(ctx: Any, q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:  # type: ignore[override]
        out_BHQE = torch.empty_like(q_BHQE)
        ctx.save_for_backward(
            q_BHQE, k_BHTE, v_BHTE, out_BHQE, q_BHQE.new_empty(q_BHQE.shape[:-1], dtype=torch.float32)
        )
        return out_BHQE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def fused(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """An AttentionFunction with the shapes and the memory of a fused kernel, without its values."""
    out: Tensor = _Fused.apply(q_BHQE, k_BHTE, v_BHTE)  # type: ignore[no-untyped-call]
    return out


def plain(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """Unfused attention, which keeps its probabilities before and after dropout."""
    logits_BHQT = q_BHQE @ k_BHTE.transpose(-2, -1) * q_BHQE.shape[-1] ** -0.5
    if mask is not None:
        logits_BHQT = logits_BHQT + mask
    weights_BHQT = logits_BHQT.softmax(-1).to(v_BHTE.dtype)
    return torch.dropout(weights_BHQT, dropout_p, True) @ v_BHTE
