"""The CPU: the fallback, and where the tests run."""

import ctypes
import gc
import platform
import re
import resource
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from packaging.version import Version
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.profiler import ProfilerActivity

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices.base import Device, Probe
from bridgetower_train.display import plural
from bridgetower_train.model.attention import Linear, sdpa
from bridgetower_train.model.vision import SelfAttention

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)
_DRAWS = 1 << 16
_WORTHWHILE = 1 << 15  # elements of a matrix; not of a batch, by which the operations of a step must not differ


def keep_freed_memory() -> None:
    """Make glibc keep the memory that large tensors free for those of the next step, instead of returning it to the kernel.

    Fresh pages take an eighth of a step's time with the base model. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.mallopt(_M_MMAP_MAX, 0)


def attention(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """SDPA; with dropout, which PyTorch's CPU kernel lacks, by separate products. See AttentionFunction."""
    if not dropout_p:
        return sdpa(q_BHQE, k_BHTE, v_BHTE, mask, 0.0)
    logits_BHQT = (q_BHQE * q_BHQE.shape[-1] ** -0.5) @ k_BHTE.transpose(-2, -1)
    if mask is not None:
        logits_BHQT = logits_BHQT + mask
    p_BHQT, scale = _drop(logits_BHQT.softmax(dim=-1), dropout_p)
    return (p_BHQT @ v_BHTE) * scale


def _drop(x: Tensor, dropout_p: float) -> tuple[Tensor, float]:
    """(`x` with dropped elements set to zero, the factor that keeps its mean).

    Each random word gives four draws of 16 bits, which is far faster than PyTorch's one draw per element. Compiled code uses
    PyTorch's, since a compiler fuses it with its surroundings.
    """
    if torch.compiler.is_compiling():
        return F.dropout(x, dropout_p), 1.0
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    dropped = round(dropout_p * _DRAWS)
    return torch.where(draws < dropped - _DRAWS // 2, 0.0, x), _DRAWS / (_DRAWS - dropped)


def _dropout(module: nn.Dropout, x: Tensor) -> Tensor:
    """The result of `module`, by `_drop`."""
    if not module.training or not module.p:
        return x
    kept, scale = _drop(x, module.p)
    return kept * scale


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, in float32 by oneDNN, but for small ones, whose time is that of the call."""
    if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or weight.numel() < _WORTHWHILE:
        return F.linear(x, weight, bias)
    return _OneDnn.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


class _OneDnn(torch.autograd.Function):
    """oneDNN's products, as torch.compile calls them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            _linear(grad, weight.t()) if by_x else None,
            _linear(rows.t(), x.flatten(0, -2).t()) if by_weight else None,
            rows.sum(0) if by_bias else None,
        )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def prefers_onednn() -> bool:
    """Whether this is a processor of AMD's with AVX-512: there oneDNN is twice as fast as MKL, which `F.linear` calls."""
    wide = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and "AuthenticAMD" in _cpuinfo()


def _cpuinfo() -> str:
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.exists() else ""


class CpuDevice(Device):
    """All cores that torch may use."""

    name = "cpu"
    backend = "gloo"
    mp_start_method = "fork"
    attention = staticmethod(attention)
    # Until torch 2.7, Inductor's kernels for one thread overwrite where they should add (pytorch/pytorch#147961): the gradient
    # of index_select would be wrong. Kernels that determine their threads at run time add.
    compiler_options = {"cpp.dynamic_threads": True} if Version(torch.__version__) < Version("2.7") else None

    def __init__(self, config: DeviceConfig, local_rank: int) -> None:
        super().__init__(config, local_rank)
        keep_freed_memory()

    @classmethod
    def probe(cls, config: DeviceConfig) -> Probe:
        return Probe(True, "always available")

    @property
    def description(self) -> str:
        """Model name of the processor and the threads that torch uses."""
        match = re.search(r"^model name\s*: (.*)$", _cpuinfo(), re.MULTILINE)
        model = match[1].strip() if match else platform.machine()
        return f"{model}, {plural(torch.get_num_threads(), 'thread')}"

    def memory_gb(self) -> float:
        """Largest resident set of this process."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Peak of what `work` allocates, as reported by PyTorch's allocator: the resident set includes much else."""
        gc.collect()  # or garbage of an earlier measurement would be reported as freed by `work`
        with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profile:
            work()
        recorded = profile.profiler.kineto_results if profile.profiler else None
        assert recorded is not None, "the profile has ended"
        events = [e for e in recorded.events() if e.name() == "[memory]"]
        alive = accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
        return max(alive, default=0)

    def compile(self, model: nn.Module) -> None:
        """In eager execution dropout uses `_drop`, and products oneDNN where it is faster."""
        super().compile(model)
        onednn = prefers_onednn()
        for part in model.modules() if self.execution == "eager" else ():
            if isinstance(part, nn.Dropout):
                part.forward = partial(_dropout, part)  # type: ignore[method-assign]
            elif onednn and isinstance(part, (Linear, SelfAttention)):
                part.product = product
