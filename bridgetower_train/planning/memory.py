"""What a step keeps in memory, measured on fake tensors: every shape and type of the real step, and no numbers in them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.deepspeed import ZERO_BUCKET
from bridgetower_train.objectives.joint import JointTask

STATE_BYTES = 16
"""Per parameter: fp32 weight, gradient, and AdamW's two moments; DistributedDataParallel's buckets are the gradients."""


def state_bytes(engine: str, parameters: int, world_size: int) -> float:
    """What one rank holds of weights, gradients and optimizer state at the end of a backward pass.

    Everything is float32. A ZeRO rank updates a copy of its part of the weights, so that there are 12 bytes of optimizer state
    per parameter; under ZeRO-3 it also has the bucket in which gradients wait to be sent.
    """
    part = parameters / world_size
    return {
        "native": STATE_BYTES * parameters,
        "zero0": STATE_BYTES * parameters,
        "zero1": 8 * parameters + 12 * part,
        "zero2": 4 * parameters + 16 * part,
        "zero3": 20 * part + 4 * min(parameters, ZERO_BUCKET),
    }[engine]


@dataclass(frozen=True)
class Memory:
    """Of one card."""

    parameters: int
    shared: float
    """Bytes that the backward pass needs however many pairs there are: weights in bf16."""
    per_pair: float
    """Bytes that it needs for each pair."""

    def total(self, pairs: int) -> float:
        """Bytes in use at the end of the forward pass, gradients included."""
        return STATE_BYTES * self.parameters + self.shared + pairs * self.per_pair

    def most_pairs(self, card: float) -> int:
        """Pairs that fit into `card` bytes; 0 where not even the weights do."""
        return max(0, int((card - self.total(0)) / self.per_pair))


def measure(config: TrainConfig, fused_attention: bool) -> Memory:
    """Trace the configured step for two and for four pairs, and draw the line through both."""
    few, many = (saved_bytes(config, pairs, fused_attention) for pairs in (2, 4))
    per_pair = (many[1] - few[1]) / 2
    return Memory(few[0], few[1] - 2 * per_pair, per_pair)


def saved_bytes(config: TrainConfig, pairs: int, fused_attention: bool) -> tuple[int, int]:
    """(parameters, bytes that the forward pass of one micro-batch keeps for the backward pass, weights apart).

    With activation checkpointing that is the blocks' inputs; what one block keeps while it is computed again is left out.
    """
    bf16 = config.device.precision == "bf16"
    with FakeTensorMode():
        task = JointTask(config.model, config.objective, fused if fused_attention else plain)
        kept = _Kept(task)
        if config.engine.activation_checkpointing:
            checkpoint_blocks(task.model)
        batch = blank_batch(config, pairs)
        with (
            torch.autograd.graph.saved_tensors_hooks(kept.tensor, _same),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            task(batch, torch.ones(3))
    return sum(p.numel() for p in task.parameters()), kept.bytes()


class _Kept:
    """Storages that something holds on to, each counted once."""

    def __init__(self, task: nn.Module) -> None:
        self._weights = {p.untyped_storage()._cdata for p in task.parameters()}
        self._tensors: dict[int, Tensor] = {}

    def tensor(self, tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self._weights:
            self._tensors.setdefault(key, tensor)
        return tensor

    def bytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for t in self._tensors.values())


def _same(tensor: Tensor) -> Tensor:
    return tensor


class _Fused(torch.autograd.Function):
    """Attention as fused kernels keep it: its operands, its result, and one float32 per query."""

    @staticmethod
    def forward(ctx: Any, q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:  # type: ignore[override]
        out_BHQE = torch.empty_like(q_BHQE)
        ctx.save_for_backward(
            q_BHQE, k_BHTE, v_BHTE, out_BHQE, q_BHQE.new_empty(q_BHQE.shape[:-1], dtype=torch.float32)
        )
        return out_BHQE


def fused(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """An AttentionFunction of the right shapes and memory."""
    out: Tensor = _Fused.apply(q_BHQE, k_BHTE, v_BHTE)  # type: ignore[no-untyped-call]
    return out


def plain(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """Attention in products, which keeps its probabilities, before and after dropout."""
    logits_BHQT = q_BHQE @ k_BHTE.transpose(-2, -1) * q_BHQE.shape[-1] ** -0.5
    if mask is not None:
        logits_BHQT = logits_BHQT.masked_fill(~mask, float("-inf"))
    weights_BHQT = logits_BHQT.softmax(-1).to(v_BHTE.dtype)
    return torch.dropout(weights_BHQT, dropout_p, True) @ v_BHTE


def blank_batch(config: TrainConfig, pairs: int) -> Batch:
    """A batch of the shapes and types that the loader gives."""
    model = config.model
    places = math.ceil(config.objective.mlm_probability * (model.max_text_len - 2))

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int64)

    return Batch(
        pixel_values=torch.zeros(pairs, 3, model.image_size, model.image_size, dtype=torch.uint8),
        input_ids=numbers(pairs, model.max_text_len),
        masked_ids=numbers(pairs, model.max_text_len),
        text_mask=torch.ones(pairs, model.max_text_len, dtype=torch.bool),
        mlm_positions=numbers(pairs, places),
        mlm_labels=numbers(pairs, places),
        image_id=torch.arange(pairs),
        itm_negative=torch.arange(pairs).roll(1),
    )
