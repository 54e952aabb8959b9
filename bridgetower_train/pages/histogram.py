"""Histograms: frequency of each value, in per cent."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bridgetower_train.pages.chart import Axis, Floats, framed, round_unit, value_axis
from bridgetower_train.pages.html import Markup, element
from bridgetower_train.pages.numbers import figure, tick

BARS = 32
"""Approximate number of bars."""
SHOWN = 0.995
"""Share of the values within the plot; outliers would compress the others."""


@dataclass(frozen=True)
class Distribution:
    """Distinct values and their counts."""

    title: str
    values: Floats
    """Ascending, without duplicates."""
    counts: npt.NDArray[np.int64]
    colour: str = "plain"
    whole: bool = True
    """Whether the values are whole numbers."""

    @staticmethod
    def of(title: str, values: npt.ArrayLike, colour: str = "plain", whole: bool = True) -> "Distribution":
        """From all values, in any order."""
        distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
        return Distribution(title, distinct, counts, colour, whole)

    def quantile(self, share: float) -> float:
        """The smallest value that a share of at least `share` does not exceed."""
        reached = np.cumsum(self.counts)
        return float(self.values[min(np.searchsorted(reached, share * reached[-1]), len(reached) - 1)])


def histogram(shown: Distribution) -> Markup:
    """A figure of bars; empty for fewer than two values."""
    if len(shown.values) < 2:
        return Markup("")
    edges = _edges(shown)
    counts, _ = np.histogram(shown.values, edges, weights=shown.counts)
    shares = 100 * counts / shown.counts.sum()
    unit = round_unit((edges[-1] - edges[0]) / 5)
    if shown.whole:
        unit = max(unit, 1.0)
    ticks = [k * unit for k in range(math.ceil(edges[0] / unit), math.floor(edges[-1] / unit) + 1)]
    name = shown.title[0].lower() + shown.title[1:]
    across = Axis(edges[0], edges[-1], ticks, name=name)
    up = value_axis(0.0, float(shares.max()), name="% of all")
    path = element("path", class_="bars", d=_bars(edges, shares, across, up))
    bars = element("g", path, style=f"--c:var(--{shown.colour})")
    read, span = [_read(shown, edges, shares)], (across.low, across.high)
    return framed(shown.title, _legend(shown), [bars], across, up, read, span)


def _edges(shown: Distribution) -> Floats:
    """Edges of the bars, of equal width; between whole numbers if the values are whole."""
    low, high = shown.quantile(1 - SHOWN), shown.quantile(SHOWN)
    if high <= low:
        low, high = float(shown.values[0]), float(shown.values[-1])
    unit = round_unit((high - low) / BARS)
    if shown.whole:
        unit = math.ceil(unit)
    bounds: Floats = np.arange(math.floor(low / unit), math.floor(high / unit + 1e-9) + 2, dtype=np.float64)
    return bounds * unit - (0.5 if shown.whole else 0.0)


def _bars(edges: Floats, shares: Floats, across: Axis, up: Axis) -> str:
    left, top = 1000 * across.position(edges), 1000 - 1000 * up.position(shares)
    return "".join(
        f"M{x:.1f} 1000V{y:.1f}H{to:.1f}V1000Z"
        for x, to, y in zip(left[:-1].tolist(), left[1:].tolist(), top.tolist(), strict=True)
        if y < 1000
    )


def _legend(shown: Distribution) -> Markup:
    values = {"median": shown.quantile(0.5), "95%": shown.quantile(0.95), "largest": float(shown.values[-1])}
    items = [element("span", f"{name} ", element("em", figure(value, digits=3))) for name, value in values.items()]
    return element("span", *items, class_="legend")


def _read(shown: Distribution, edges: Floats, shares: Floats) -> dict[str, Any]:
    """What the pointer shows: the range of each bar and its share."""
    if shown.whole:
        first, last = np.ceil(edges[:-1]), np.ceil(edges[1:]) - 1
        names = [tick(a) if a == b else f"{a:,.0f} to {b:,.0f}" for a, b in zip(first, last, strict=True)]
    else:
        names = [f"{figure(a, 3)} to {figure(b, 3)}" for a, b in itertools.pairwise(edges.tolist())]
    return {
        "label": "%",
        "colour": shown.colour,
        "steps": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "values": [float(f"{share:.3g}") for share in shares],
        "names": names,
    }
