"""On SIGTERM, SIGINT or SIGUSR1: finish the step, save and exit; the same command resumes from there."""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SIGUSR1 is for mpirun, which forwards it to the ranks; the other two make it kill them a second later."""

_RESTART_UNLESS_0 = ("KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID")


class Preemption:
    """Records the first signal, and then restores the previous handlers for a second one.

    The exit code is 0, since the run was saved, but 128 + signal (143, 130) under launchers that take 0 for "finished" and
    would not start the job again: Kubernetes and `launch/slurm.sbatch`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before = {s: signal.signal(s, self._on_signal) for s in SIGNALS}

    @property
    def requested(self) -> bool:
        """True once this process has received a signal."""
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """The exit code of the process after a preemption, whichever rank received the signal."""
        restart = any(name in os.environ for name in _RESTART_UNLESS_0)
        return 128 + (self.signum or signal.SIGTERM) if restart else 0

    def close(self) -> None:
        """Restore the previous handlers."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self.close()
