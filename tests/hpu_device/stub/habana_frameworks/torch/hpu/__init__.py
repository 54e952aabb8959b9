"""`torch.hpu`: hpu/__init__.py@f186e3d and @bcc5172, which have ModuleCacher in every mode; @5a56187 only in lazy mode."""

import contextlib
import time

from habana_frameworks.torch import _emulation
from habana_frameworks.torch.hpu import graphs as graphs
from habana_frameworks.torch.hpu import metrics as metrics
from habana_frameworks.torch.hpu import random as random
from habana_frameworks.torch.hpu.graphs import ModuleCacher as ModuleCacher
from habana_frameworks.torch.hpu.random import get_rng_state as get_rng_state
from habana_frameworks.torch.hpu.random import manual_seed as manual_seed
from habana_frameworks.torch.hpu.random import manual_seed_all as manual_seed_all
from habana_frameworks.torch.hpu.random import set_rng_state as set_rng_state

import torch


class Stream:
    """Named, never used."""


class Event:
    """hpu/events.py@f186e3d: in milliseconds. In lazy mode recording one ends the graph (HPUEvent.cpp), so it is refused."""

    def __init__(self, enable_timing=False):
        assert enable_timing
        self.recorded = None

    def record(self, stream=None):
        """Operations of the emulated card are done when they are called."""
        assert not _emulation.LAZY
        self.recorded = time.perf_counter()

    def synchronize(self):
        """Nothing to wait for."""

    def elapsed_time(self, end):
        """Of two that were recorded."""
        return 1000 * (end.recorded - self.recorded)


def is_available():
    """A card answers."""
    return True


def device_count():
    """Cards of this host."""
    return 8


def current_device():
    """Always 0: a process owns one card."""
    return 0


def set_device(device):
    """Accepted."""


def get_device_name(device=None):
    """As the driver says it."""
    return {1: "GAUDI", 2: "GAUDI2", 3: "GAUDI3"}[_emulation.GENERATION]


def synchronize():
    """Takes no argument."""
    if _emulation.LAZY:
        _emulation.device.flush()


def is_initialized():
    """Yes."""
    return True


def _lazy_init():
    pass


def _is_in_bad_fork():
    return False


def get_amp_supported_dtype():
    """bf16, and fp16 but on the first generation."""
    return [torch.bfloat16, torch.float32] + [torch.float16] * (_emulation.GENERATION > 1)


def is_bf16_supported():
    """Yes."""
    return True


@torch.compiler.disable  # the compiler traces into nothing of the vendor's
def recompute_sdp_enabled():
    """Whether FusedSDPA recomputes where it is not told: by default."""
    return True


@contextlib.contextmanager
def device(index):
    """There is one."""
    yield


def max_memory_allocated(device=None):
    """Bytes."""
    return _emulation.device.counts()["most_used"]


def memory_allocated(device=None):
    """Bytes."""
    return _emulation.device.counts()["in_use"]


def reset_peak_memory_stats(device=None):
    """Start anew."""
    _emulation.device.reset_most_used()
