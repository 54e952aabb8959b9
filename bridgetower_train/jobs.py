"""Commands in processes of their own, which end with the process that started them."""

import os
import signal
import subprocess
import sys
import threading
import time

from bridgetower_train.display import print_line
from bridgetower_train.signals import Signals

_PARENT = "BRIDGETOWER_PARENT"  # the process that has started this one,
_LAUNCHER = "BRIDGETOWER_LAUNCHER"  # and one on this host behind it
_LAUNCHED = {"TORCHELASTIC_RUN_ID", "CROSS_RANK"}  # by torchrun and DeepSpeed
_LOOK_EVERY = 0.5  # seconds


def run_job(*arguments: str) -> int:
    """The exit code of `bridgetower ARGUMENTS`; 128 + n where signal n killed it.

    A signal that asks this process to end is handed on. Once the job has ended, SystemExit with its code ends this process too.
    """
    job: subprocess.Popen[bytes] | None = None

    def hand_on(number: int) -> None:
        if job:
            job.send_signal(number)

    with Signals(hand_on) as signals:
        command = [sys.executable, "-m", "bridgetower_train", *arguments]
        job = subprocess.Popen(command, env={**os.environ, _PARENT: str(os.getpid())})
        if signals.number:
            hand_on(signals.number)
        while (code := job.poll()) is None:
            try:
                job.wait()
            except KeyboardInterrupt:
                hand_on(signal.SIGINT)
    code = code if code >= 0 else 128 - code
    if signals.number:
        print_line("stopped by a signal; the same command resumes there")
        raise SystemExit(code)
    return code


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it is gone: killed, torchrun and DeepSpeed leave their ranks running.

    They would continue beside the ranks of the restarted run, and keep its folder locked. Called before anything slow, since
    the parent may be gone after it.
    """
    parent, launcher = (os.environ.pop(name, "") for name in (_PARENT, _LAUNCHER))
    if parent or os.environ.keys() & _LAUNCHED:
        number = int(parent) if parent.isdecimal() else os.getppid()
        behind = int(launcher) if launcher.isdecimal() else number
        threading.Thread(target=_end_with, args=(number, behind), daemon=True).start()


def _end_with(parent: int, launcher: int) -> None:
    while os.getppid() == parent and _is_there(launcher):
        time.sleep(_LOOK_EVERY)
    os._exit(1)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
