"""Finds ranks that are lost or hang, names them, and ends the run, so that its launcher can restart it.

Every few seconds a thread of each rank reports the status of its main thread to the monitor, a thread of rank 0: how many stages
and collectives it has begun. A process that ends closes its connection, one that is stopped does not report, and one that hangs
falls behind the others. All ranks receive the verdict and exit with code 1. All other ranks watch rank 0.

May import distributed and rendezvous.
"""

from bridgetower_train.watchdog.rank import Watchdog
from bridgetower_train.watchdog.verdict import READING

__all__ = ["READING", "Watchdog"]
