"""The mode, as first read."""

from habana_frameworks.torch import _emulation


def is_lazy():
    """Whether work is recorded."""
    return _emulation.LAZY
