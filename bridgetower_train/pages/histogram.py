"""Histograms: how often each value occurs, in per cent."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bridgetower_train.pages.chart import Axis, Floats, framed, round_unit, value_axis
from bridgetower_train.pages.html import Markup, element
from bridgetower_train.pages.numbers import figure, tick

BARS = 32
"""About so many bars are drawn."""
SHOWN = 0.995
"""Share of the values that lie within the plot; the largest would press the others together."""


@dataclass(frozen=True)
class Distribution:
    """Values and how often each occurs."""

    title: str
    values: Floats
    """Ascending, each once."""
    counts: npt.NDArray[np.int64]
    colour: str = "plain"
    whole: bool = True
    """Whether the values are whole numbers."""

    @staticmethod
    def of(title: str, values: npt.ArrayLike, colour: str = "plain", whole: bool = True) -> "Distribution":
        """From the values as they come."""
        distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
        return Distribution(title, distinct, counts, colour, whole)

    def quantile(self, share: float) -> float:
        """The smallest value that at least `share` of all do not exceed."""
        reached = np.cumsum(self.counts)
        return float(self.values[min(np.searchsorted(reached, share * reached[-1]), len(reached) - 1)])


def histogram(shown: Distribution) -> Markup:
    """A figure of bars; empty where there are no values, or only one."""
    if len(shown.values) < 2:
        return Markup("")
    edges = _edges(shown)
    counts, _ = np.histogram(shown.values, edges, weights=shown.counts)
    shares = 100 * counts / shown.counts.sum()
    unit = round_unit((edges[-1] - edges[0]) / 5)
    if shown.whole:
        unit = max(unit, 1.0)
    ticks = [k * unit for k in range(math.ceil(edges[0] / unit), math.floor(edges[-1] / unit) + 1)]
    across, up = Axis(edges[0], edges[-1], ticks), value_axis(0.0, float(shares.max()))
    bars = element(
        "g", element("path", class_="bars", d=_bars(edges, shares, across, up)), style=f"--c:var(--{shown.colour})"
    )
    return framed(shown.title, "in per cent", _legend(shown), [bars], across, up, [_read(shown, edges, shares)], True)


def _edges(shown: Distribution) -> Floats:
    """Bounds of the bars, of equal width; between whole numbers where the values are such."""
    low, high = shown.quantile(1 - SHOWN), shown.quantile(SHOWN)
    if high <= low:
        low, high = float(shown.values[0]), float(shown.values[-1])
    unit = round_unit((high - low) / BARS)
    if shown.whole:
        unit = math.ceil(unit)
    bounds: Floats = np.arange(math.floor(low / unit), math.floor(high / unit + 1e-9) + 2, dtype=np.float64)
    return bounds * unit - (0.5 if shown.whole else 0.0)


def _bars(edges: Floats, shares: Floats, across: Axis, up: Axis) -> str:
    left, top = 1000 * across.place(edges), 1000 - 1000 * up.place(shares)
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
    """What the pointer tells: the range of each bar and its share."""
    if shown.whole:
        first, last = np.ceil(edges[:-1]), np.ceil(edges[1:]) - 1
        names = [tick(a) if a == b else f"{a:,.0f} to {b:,.0f}" for a, b in zip(first, last, strict=True)]
    else:
        names = [
            f"{figure(a, 3)} to {figure(b, 3)}" for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
    return {
        "label": "%",
        "colour": shown.colour,
        "steps": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "values": [float(f"{share:.3g}") for share in shares],
        "names": names,
    }
