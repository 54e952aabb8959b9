"""Line charts in inline SVG: without scripts, sharp at every width, with labels of constant size.

The curves are in a square of 1000 x 1000 that is stretched over the plot; strokes do not scale, and the labels of the ticks
are text placed over it in per cent.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bridgetower_train.pages.html import Markup, element
from bridgetower_train.pages.numbers import figure, tick

Floats = npt.NDArray[np.float64]
AxisRange = tuple[float | None, float | None]

FREE: AxisRange = (None, None)

RAW_POINTS = 1000
"""Long curves are thinned to this number of points."""
SMOOTH_POINTS = 240
"""Points of a smoothed curve, which the pointer also reads."""
FEW_POINTS = 40
"""Up to this number, each point is marked."""


@dataclass(frozen=True)
class Curve:
    """One line: `values` at ascending `steps`, in the colour of the style sheet's variable `colour`."""

    label: str
    colour: str
    steps: Floats
    values: Floats
    smooth: bool = True
    """Draw the values faintly, with their running mean over them."""
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """The range from `low` to `high` and its ticks; `log` for powers of ten."""

    low: float
    high: float
    ticks: list[float]
    log: bool = False

    def position(self, values: npt.ArrayLike) -> Floats:
        """Fractions of the axis, 0 at `low` and 1 at `high`."""
        ends = np.array([self.low, self.high])
        array: Floats = np.asarray(values, dtype=np.float64)
        if self.log:
            array, ends = np.log10(array), np.log10(ends)
        fractions: Floats = (array - ends[0]) / (ends[1] - ends[0])
        return fractions


def value_axis(low: float, high: float, log: bool = False) -> Axis:
    """An axis around [low, high] that ends on ticks; it starts at zero if that wastes less than half of it."""
    if log:
        first = math.floor(math.log10(low))
        powers = range(first, max(math.ceil(math.log10(high)), first + 1) + 1)
        every = math.ceil(len(powers) / 5)
        return Axis(10.0 ** powers[0], 10.0 ** powers[-1], [10.0**p for p in powers[::every]], log=True)
    if 0 < low < 0.5 * high:
        low = 0.0
    if high - low < 1e-9 * max(abs(high), abs(low)) or high == low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    unit = round_unit((high - low) / 4)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return Axis(first * unit, last * unit, [k * unit for k in range(first, last + 1)])


def step_axis(first: float, last: float) -> Axis:
    """The axis of the steps, from zero or the first step to exactly the last."""
    low = 0.0 if first <= 0.1 * last else first
    if last <= low:
        low, last = low - 1, last + 1
    unit = max(1.0, round_unit((last - low) / 4))
    return Axis(low, last, [k * unit for k in range(math.ceil(low / unit), math.floor(last / unit) + 1)])


def round_unit(rough: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def thin(steps: Floats, values: Floats, limit: int) -> tuple[Floats, Floats]:
    """At most about `limit` points: minimum and maximum of each interval, so that no extreme is lost."""
    if len(steps) <= limit:
        return steps, values
    edges = np.linspace(0, len(steps), limit // 2 + 1).astype(int)
    kept = {0, len(steps) - 1}
    for first, last in itertools.pairwise(edges.tolist()):
        kept |= {first + int(values[first:last].argmin()), first + int(values[first:last].argmax())}
    order = np.array(sorted(kept))
    return steps[order], values[order]


def running_mean(values: Floats) -> Floats:
    """The mean of a centred window of 3% of the curve, truncated at its ends."""
    n = len(values)
    reach = max(1, round(0.015 * n))
    first, last = np.maximum(np.arange(n) - reach, 0), np.minimum(np.arange(n) + reach + 1, n)
    total = np.concatenate([[0.0], np.cumsum(values)])
    mean: Floats = (total[last] - total[first]) / (last - first)
    return mean


def chart(
    title: str, curves: Sequence[Curve], span: tuple[float, float], limits: AxisRange = FREE, log: bool = False
) -> Markup:
    """A figure of `curves` over the steps of `span`; empty if none has a finite value (positive, on a log axis).

    `limits` fixes the lower or upper end of the value axis; None: follows the data. `log` makes it logarithmic if the values
    differ tenfold.
    """
    return _lines(title, "over the steps", curves, step_axis(*span), limits, log)


def doubling_chart(
    title: str, unit: str, curves: Sequence[Curve], limits: AxisRange = FREE, log: bool = False, percent: bool = False
) -> Markup:
    """A figure of unsmoothed `curves` over doubling amounts of `unit`; the first curve has all of them."""
    amounts = curves[0].steps
    every = math.ceil(len(amounts) / 6)
    across = Axis(float(amounts[0]), float(amounts[-1]), amounts[::-every][::-1].tolist(), log=True)
    names = [f"{amount:,.0f} {unit}" for amount in amounts.tolist()]
    return _lines(title, f"by {unit}", curves, across, limits, log, names, percent)


def _lines(
    title: str,
    what: str,
    curves: Sequence[Curve],
    across: Axis,
    limits: AxisRange,
    log: bool,
    names: Sequence[str] = (),
    percent: bool = False,
) -> Markup:
    """`names` label the points of the first curve for the pointer, if they are not steps."""
    curves = [c for c in (_finite(curve, log) for curve in curves) if len(c.steps)]
    if not curves:
        return Markup("")
    low = min(float(c.values.min()) for c in curves) if limits[0] is None else limits[0]
    high = max(float(c.values.max()) for c in curves) if limits[1] is None else limits[1]
    values = value_axis(low, high, log and high > 10 * low)
    drawn, read = zip(*(_draw(c, across, values) for c in curves), strict=True)
    if names:  # the pointer reads in proportion to the width
        read = tuple({**r, "steps": across.position(r["steps"]).tolist(), "names": names} for r in read)
    span = (0.0, 1.0) if names else (across.low, across.high)
    return framed(title, what, _legend(curves, read), drawn, across, values, read, span, percent)


def framed(
    title: str,
    what: str,
    legend: Markup,
    drawn: Sequence[Markup],
    across: Axis,
    up: Axis,
    read: Sequence[dict[str, Any]],
    span: tuple[float, float],
    percent: bool,
) -> Markup:
    """A figure of what is `drawn` in the square, with title, legend, grid and ticks; `read` is what the pointer shows.

    `what` completes the title for screen readers; `percent` adds the sign to the ticks of the value axis. `span` is the range of
    the width for the pointer.
    """
    grid = "".join(f"M0 {_down(up, t):.1f}H1000" for t in up.ticks)
    box = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "role": "img"}
    lines = element("svg", element("path", class_="grid", d=grid), *drawn, **box, aria_label=f"{title}, {what}")
    sign = " %" if percent else ""
    labels = [element("span", tick(t) + sign, class_="y", style=f"top:{_down(up, t) / 10:.2f}%") for t in up.ticks]
    labels += [
        element("span", tick(t), class_="x", style=f"left:{100 * across.position(t):.2f}%") for t in across.ticks
    ]
    caption = element("figcaption", element("b", title), legend)
    plot = element("div", lines, *labels, class_="plot", data_curves=json.dumps(read), data_range=json.dumps(span))
    return element("figure", caption, plot, class_="chart")


def _legend(curves: Sequence[Curve], read: Sequence[dict[str, Any]]) -> Markup:
    """Line, name and last value of each curve; the value only if there is one curve, which the title names."""
    items = []
    for curve, points in zip(curves, read, strict=True):
        line = element("i", class_=_kind(curve), style=f"--c:var(--{curve.colour})")
        named = [line, f"{curve.label} "] if len(curves) > 1 else []
        items.append(element("span", named, element("em", figure(points["values"][-1], digits=3))))
    return element("span", *items, class_="legend")


def _finite(curve: Curve, log: bool) -> Curve:
    keep = np.isfinite(curve.values) & ((curve.values > 0) | (not log))
    return replace(curve, steps=curve.steps[keep], values=curve.values[keep])


def _kind(curve: Curve) -> str:
    return "dashed" if curve.dashed else "solid"


def _down(axis: Axis, value: float) -> float:
    """Position of a value in the square, whose origin is at the top."""
    return float(1000 - 1000 * axis.position(value))


def _draw(curve: Curve, steps: Axis, values: Axis) -> tuple[Markup, dict[str, Any]]:
    """The paths of one curve, and what the pointer reads from it."""
    smooth = curve.smooth and len(curve.steps) > FEW_POINTS
    mean = curve.values
    if smooth:
        mean = np.exp(running_mean(np.log(mean))) if values.log else running_mean(mean)
    at, height = thin(curve.steps, mean, SMOOTH_POINTS if smooth else RAW_POINTS)
    paths = [element("path", class_=f"line {_kind(curve)}", d=_path(at, height, steps, values))] if len(at) > 1 else []
    if smooth:
        raw = _path(*thin(curve.steps, curve.values, RAW_POINTS), steps, values)
        paths.insert(0, element("path", class_="raw", d=raw))
    if len(at) <= FEW_POINTS:
        dots = "".join(f"M{x:.1f} {y:.1f}h.1" for x, y in _points(at, height, steps, values))
        paths.append(element("path", class_="dots", d=dots))
    heights = [float(f"{v:.4g}") for v in height]
    read = {"label": curve.label, "colour": curve.colour, "steps": at.tolist(), "values": heights}
    return element("g", *paths, style=f"--c:var(--{curve.colour})"), read


def _path(at: Floats, height: Floats, steps: Axis, values: Axis) -> str:
    return "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in _points(at, height, steps, values))


def _points(at: Floats, height: Floats, steps: Axis, values: Axis) -> list[tuple[float, float]]:
    across, up = 1000 * steps.position(at), 1000 - 1000 * np.clip(values.position(height), 0, 1)
    return list(zip(across.tolist(), up.tolist(), strict=True))
