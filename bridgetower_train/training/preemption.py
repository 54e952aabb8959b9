"""On a signal: finish the step, save and exit; the same command resumes from there."""

import os
import signal
from contextlib import suppress

from bridgetower_train.signals import Signals

_RESTART_UNLESS_0 = ("KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID")


class Preemption(Signals):
    """Records a signal while the block runs.

    The exit code is 0, since the run was saved, but 143, or 130 for SIGINT, under launchers that take 0 for "finished" and
    would not start the job again: Kubernetes and `launch/slurm.sbatch`.
    """

    def __init__(self, speaks: bool = False) -> None:
        """`speaks`: whether this process tells at once what happens."""
        super().__init__(self._tell if speaks else lambda number: None)

    @property
    def requested(self) -> bool:
        """True once this process has received a signal."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """The exit code of the process after a preemption, whichever rank received the signal."""
        restart = any(name in os.environ for name in _RESTART_UNLESS_0)
        code = 128 + (signal.SIGINT if self.number == signal.SIGINT else signal.SIGTERM)
        return code if restart else 0

    def _tell(self, number: int) -> None:
        told = f"\n{signal.Signals(number).name}: the run is saved after this step, and ends\n"
        with suppress(OSError):
            os.write(2, told.encode())  # `print` may be what the signal has interrupted
