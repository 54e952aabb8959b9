"""`bridgetower bench attention`: torch's attention kernels at the shapes of a step, forward and backward, on this device.

What the device takes is `Device.attention`: where another kernel is faster here, that is the place to change.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bridgetower_train.bench.kit import BenchConfig, Figures, bench, device_clock, in_turns
from bridgetower_train.config import HEAD_WIDTH, DeviceConfig, at_least
from bridgetower_train.devices import Device, make_device
from bridgetower_train.model.attention import AttentionFunction, attention_mask, merge_heads, sdpa, split_heads
from bridgetower_train.model.flops import TRAINING

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Of torch's attention."""

FIGURES = {
    "forward": "10^12 operations per second of the forward pass; empty where a kernel refuses the shape, mask or dropout",
    "both": "the same of the forward and the backward pass",
    "device": "what this device takes (Device.attention)",
    "flash": "FlashAttention, which takes no mask; on the CPU no dropout",
    "efficient": "memory-efficient attention",
    "cudnn": "NVIDIA's cuDNN",
    "math": "separate products",
}
"""What `measure` returns: two tables, whose rows are `cases`, and their columns. Backward counts two products for each of the
forward pass, not what is computed again."""


@dataclass(frozen=True)
class BenchAttentionConfig(BenchConfig):
    """What is timed: by default one micro-batch of `large`."""

    batch: int = 64
    """Pairs. The image tower has one row for each, the text tower two, the fusion three."""
    heads: int = 16
    """Of width 64."""
    image_tokens: int = 442
    """With the class token."""
    text_tokens: int = 50
    """Of the longest text; where there is a mask, texts have from a quarter of them on."""
    dropout: float = 0.1
    """In text tower and fusion."""
    repeats: int = 10
    """Rounds, after one that does not count; medians are reported."""
    device: DeviceConfig = field(default_factory=lambda: DeviceConfig(precision="bf16"))

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "image_tokens", "text_tokens", "repeats"):
            at_least(name, getattr(self, name), 1)


class Case(NamedTuple):
    """One kind of attention in a step."""

    rows: int
    queries: int
    keys: int
    masked: bool
    dropout: float


def cases(config: BenchAttentionConfig) -> dict[str, Case]:
    """Title -> the kinds of attention of a step; `whole` where no text is padded."""
    B, N, L, p = config.batch, config.image_tokens, config.text_tokens, config.dropout
    return {
        "image tower": Case(B, N, N, False, 0.0),
        "text tower": Case(2 * B, L, L, True, p),
        "text tower, whole": Case(2 * B, L, L, False, p),
        "image stream": Case(3 * B, N, N, False, p),
        "text stream": Case(3 * B, L, L, True, p),
        "text to image": Case(3 * B, L, N, False, p),
        "image to text": Case(3 * B, N, L, True, p),
        "image to text, whole": Case(3 * B, N, L, False, p),
    }


def measure(config: BenchAttentionConfig) -> Figures:
    """FIGURES."""
    device, _ = make_device(config.device)
    tables: Figures = {"forward": {}, "both": {}}
    for title, case in cases(config).items():
        flops = 4 * case.rows * case.queries * case.keys * config.heads * HEAD_WIDTH
        kernels = dict(_kernels(case, config, device))
        for table, backward, passes in (("forward", False, 1), ("both", True, TRAINING)):
            turns = {name: partial(once, backward=backward) for name, once in kernels.items()}
            taken = in_turns(turns, config.repeats, device_clock(device))
            tables[table][title] = {
                name: passes * flops / statistics.median(seconds) / 1e12 for name, seconds in taken.items()
            }
    return tables


def _kernels(case: Case, config: BenchAttentionConfig, device: Device) -> Iterator[tuple[str, Callable[..., None]]]:
    """(kernel, `_once` by it) for those that can do it."""
    for name, attention in {"device": device.attention, **dict.fromkeys(KERNELS, sdpa)}.items():
        once = partial(_once, attention, KERNELS.get(name), *_operands(case, config, device), case.dropout)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they say why a kernel refuses
                once(backward=True)
        except RuntimeError:
            continue
        yield name, once


def _operands(case: Case, config: BenchAttentionConfig, device: Device) -> tuple[list[Tensor], Tensor | None]:
    """(queries, keys and values as they come from their projections, the mask)."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if config.device.precision == "bf16" else torch.float32
    made: Any = partial(torch.randn, dtype=dtype, device=device.torch_device, requires_grad=True)
    operands = [made(case.rows, tokens, config.heads * HEAD_WIDTH) for tokens in (case.queries, case.keys, case.keys)]
    lengths = torch.linspace(case.keys // 4 + 1, case.keys, case.rows).long()
    real = (torch.arange(case.keys) < lengths[:, None]).to(device.torch_device)
    return operands, attention_mask(real, dtype) if case.masked else None


def _once(
    attention: AttentionFunction,
    kernel: SDPBackend | None,
    operands: list[Tensor],
    mask: Tensor | None,
    dropout: float,
    backward: bool,
) -> None:
    q, k, v = (split_heads(x) for x in operands)
    with nullcontext() if kernel is None else sdpa_kernel(kernel):
        out = merge_heads(attention(q, k, v, mask, dropout))
    if backward:
        torch.autograd.grad(out, operands, out.detach())


run = bench("attention", measure, FIGURES)
