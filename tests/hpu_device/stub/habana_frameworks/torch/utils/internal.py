"""The mode, as first read: utils/internal.py@5a56187."""

from habana_frameworks.torch import _emulation


def is_lazy():
    """Whether work is recorded."""
    return _emulation.LAZY
