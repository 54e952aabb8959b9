"""Counts of compilations: hpu/metrics/metrics.py@5a56187."""

from habana_frameworks.torch import _emulation

COMPILED = []
"""One for each graph that `hpu_backend` compiled."""


class Metric:
    """Counts since the last reset."""

    def __init__(self, name):
        self._name, self._since = name, 0

    def name(self):
        """As asked for."""
        return self._name

    def _total(self):
        return _emulation.device.counts()["compilations"] + len(COMPILED)

    def stats(self):
        """A list of (name, value)."""
        return [("TotalNumber", self._total() - self._since), ("TotalTime", 0), ("AvgTime", 0)]

    def reset(self):
        """Start anew."""
        self._since = self._total()


_METRICS = {"graph_compilation": Metric("graph_compilation")}


def metric_global(name):
    """The metric of this process, or None."""
    return _METRICS.get(name)
