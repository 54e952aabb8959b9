"""A stub of the vendor's package over the emulated device: its names, its signatures, and what it refuses.

From __init__.py and core/torch_overwrites.py@5a56187.
"""

import hashlib

from habana_frameworks.torch import _emulation, hpu
from habana_frameworks.torch import core as core
from habana_frameworks.torch.distributed import hccl as hccl
from habana_frameworks.torch.hpu import random as _random

import torch

torch._register_device_module("hpu", hpu)
_emulation.record("import", lazy=_emulation.LAZY)

_manual_seed = torch.manual_seed


def manual_seed(seed):
    """Seeds the card too; outside lazy mode only when all operations before have been submitted."""
    if not _emulation.LAZY:
        _emulation.record("wait_for_pipeline")
    _random.manual_seed(seed)
    return _manual_seed(seed)


torch.manual_seed = manual_seed


@torch._dynamo.register_backend(name="hpu_backend")
def _hpu_backend(graph, inputs, **options):
    """dynamo/compile_backend/backends.py@5a56187."""
    if _emulation.LAZY:
        raise RuntimeError("hpu_backend needs PT_HPU_LAZY_MODE=0")
    shapes = [tuple(value.shape) if torch.is_tensor(value) else value for value in inputs]
    if _emulation.device.must_compile(int(hashlib.sha256(f"{graph.code} {shapes}".encode()).hexdigest()[:15], 16)):
        hpu.metrics.COMPILED.append(1)
        _emulation.record("compile")
    from torch._dynamo.backends.debugging import aot_eager

    return aot_eager(graph, inputs)
