"""What the vendor's own code calls: core/step_closure.py@5a56187."""

from habana_frameworks.torch import _emulation


def _mark_step_if_lazy():
    from habana_frameworks.torch import core

    if _emulation.LAZY:
        core.mark_step()
