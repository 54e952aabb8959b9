"""What the vendor's own code calls."""

from habana_frameworks.torch import _emulation


def _mark_step_if_lazy():
    from habana_frameworks.torch import core

    if _emulation.LAZY:
        core.mark_step()
