"""Starts a command in a session of its own, where no signal of a terminal reaches it, and which ends with a script.

python launch/own_session.py SCRIPT_PID COMMAND...

When the script is gone, however it ended, the command receives SIGTERM (on Linux).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def main() -> None:
    os.setsid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
