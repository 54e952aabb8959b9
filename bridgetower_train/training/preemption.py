"""SIGTERM, SIGINT, SIGUSR1: finish the step, save, leave; the same command goes on from there."""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""The third is for mpirun, which hands it on to the ranks; the other two make it kill them a second later."""

_STARTED_AGAIN_UNLESS_0 = ("KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID")


class Preemption:
    """Remembers the first signal; a second one acts as if this class were not there.

    Exit code: 0, since the run was saved in good order, but 128 + signal (143, 130) where the launcher takes 0 for
    "finished" and would not start the job again, as Kubernetes does, and `launch/slurm.sbatch`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before = {s: signal.signal(s, self._on_signal) for s in SIGNALS}

    @property
    def requested(self) -> bool:
        """True once a signal has arrived at this process."""
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """What the process should return after a preemption that any rank asked for."""
        started_again = any(name in os.environ for name in _STARTED_AGAIN_UNLESS_0)
        return 128 + (self.signum or signal.SIGTERM) if started_again else 0

    def close(self) -> None:
        """Put the former handlers back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self.close()
