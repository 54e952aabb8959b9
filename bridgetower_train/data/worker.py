"""How a loader worker starts, and which signals it obeys."""

import gc
import multiprocessing
import os
import signal
import threading


def start_worker(worker: int) -> None:
    """Ignore signals: launchers send them to the whole process group while the main process still needs batches.

    The one exception is SIGTERM from the main process itself, with which torch ends a worker that does not respond.
    """
    gc.freeze()  # otherwise the first collection would copy all memory that is still shared with the main process
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
