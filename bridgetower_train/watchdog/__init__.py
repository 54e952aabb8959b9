"""Ranks that are lost or hang: who it is, at which step, and an end to the run, so that its launcher can start it again.

The monitor, a thread of rank 0, sends a pulse to every rank every few seconds, rank 0 included, and a thread of each answers with
what its main thread is doing. A process that ends closes its connection; one that is stopped does not answer; one whose main
thread hangs stays behind the others. The verdict goes to all ranks, which then end with code 1. Rank 0 is watched by all others.
"""

from bridgetower_train.watchdog.rank import Watchdog

__all__ = ["Watchdog"]
