"""Marks where recorded work is run: core/step_closure.py@5a56187."""

from habana_frameworks.torch import _emulation
from habana_frameworks.torch.core import step_closure as step_closure


def mark_step(device_str="", sync=False):
    """Run what was recorded; nothing in eager mode."""
    assert isinstance(device_str, str)
    fresh = _emulation.device.flush() if _emulation.LAZY else False
    _emulation.record("mark_step", compiled=fresh)
