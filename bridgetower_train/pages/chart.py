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
from bridgetower_train.pages.numbers import figure, tick, ticks

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
    """The range from `low` to `high` and its ticks; `log`: logarithmic."""

    low: float
    high: float
    ticks: list[float]
    log: bool = False
    name: str = ""
    """What it measures, or in which unit."""
    remark: str = ""

    @property
    def title(self) -> str:
        """The name, which says where the axis is logarithmic, and the remark."""
        return (f"{self.name}, log scale" if self.log else self.name) + self.remark

    def labels(self) -> list[str]:
        """A text for each tick."""
        return [tick(value) for value in self.ticks] if self.log else ticks(self.ticks)

    def position(self, values: npt.ArrayLike) -> Floats:
        """Fractions of the axis, 0 at `low` and 1 at `high`; the middle of one that has no length."""
        ends = np.array([self.low, self.high])
        array: Floats = np.asarray(values, dtype=np.float64)
        if self.log:
            array, ends = np.log10(array), np.log10(ends)
        length = ends[1] - ends[0]
        fractions: Floats = (array - ends[0]) / length if length else np.full_like(array, 0.5)
        return fractions


def value_axis(low: float, high: float, log: bool = False, name: str = "") -> Axis:
    """An axis around [low, high] that ends on ticks; it starts at zero if that wastes less than half of it."""
    if log:
        first = math.floor(math.log10(low))
        powers = range(first, max(math.ceil(math.log10(high)), first + 1) + 1)
        every = math.ceil(len(powers) / 5)
        return Axis(10.0 ** powers[0], 10.0 ** powers[-1], [10.0**p for p in powers[::every]], True, name)
    if 0 < low < 0.5 * high:
        low = 0.0
    if high - low < 1e-9 * max(abs(high), abs(low)) or high == low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    unit = round_unit((high - low) / 4)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return Axis(first * unit, last * unit, [k * unit for k in range(first, last + 1)], name=name)


def step_axis(first: float, last: float) -> Axis:
    """The axis of the steps, from zero or the first step to exactly the last."""
    low = 0.0 if first <= 0.1 * last else first
    if last <= low:
        low, last = low - 1, last + 1
    unit = max(1.0, round_unit((last - low) / 4))
    across = [k * unit for k in range(math.ceil(low / unit), math.floor(last / unit) + 1)]
    return Axis(low, last, across, name="step")


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


def reach_of(n: int) -> int:
    """How many values to each side a running mean of `n` values takes: 3% of them in all."""
    return max(1, round(0.015 * n))


def running_mean(values: Floats) -> Floats:
    """The mean of a centred window of 3% of the curve, truncated at its ends."""
    n = len(values)
    reach = reach_of(n)
    first, last = np.maximum(np.arange(n) - reach, 0), np.minimum(np.arange(n) + reach + 1, n)
    total = np.concatenate([[0.0], np.cumsum(values)])
    mean: Floats = (total[last] - total[first]) / (last - first)
    return mean


def chart(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    span: tuple[float, float],
    limits: AxisRange = FREE,
    log: bool = False,
) -> Markup:
    """A figure of `curves` over the steps of `span`; empty if none has a finite value (positive, on a log axis).

    `unit` names the value axis. `limits` fixes its lower or upper end; None: follows the data. `log` makes it logarithmic if the
    values differ tenfold.
    """
    return _lines(title, unit, curves, step_axis(*span), limits, log)


def doubling_chart(
    title: str, unit: str, amount: str, curves: Sequence[Curve], limits: AxisRange = FREE, log: bool = False
) -> Markup:
    """A figure of unsmoothed `curves` over doubling numbers of `amount`; the first curve has all of them."""
    amounts = curves[0].steps
    every = math.ceil(len(amounts) / 6)
    across = Axis(float(amounts[0]), float(amounts[-1]), amounts[::-every][::-1].tolist(), True, amount)
    names = [f"{number:,.0f} {amount}" for number in amounts.tolist()]
    return _lines(title, unit, curves, across, limits, log, names)


def _lines(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    across: Axis,
    limits: AxisRange,
    log: bool,
    names: Sequence[str] = (),
) -> Markup:
    """`names` label the points of the first curve for the pointer, if they are not steps."""
    curves = [c for c in (_finite(curve, log) for curve in curves) if len(c.steps)]
    if not curves:
        return Markup("")
    low = min(float(c.values.min()) for c in curves) if limits[0] is None else limits[0]
    high = max(float(c.values.max()) for c in curves) if limits[1] is None else limits[1]
    values = value_axis(low, high, log and high > 10 * low, unit)
    drawn, read = zip(*(_draw(c, across, values) for c in curves), strict=True)
    if names:  # the pointer reads in proportion to the width
        read = tuple({**r, "steps": across.position(r["steps"]).tolist(), "names": names} for r in read)
    span = (0.0, 1.0) if names else (across.low, across.high)
    values = replace(values, remark=_smoothing(curves, values.log))
    return framed(title, _legend(curves, read), drawn, across, values, read, span)


def framed(
    title: str,
    legend: Markup,
    drawn: Sequence[Markup],
    across: Axis,
    up: Axis,
    read: Sequence[dict[str, Any]],
    span: tuple[float, float],
) -> Markup:
    """A figure of what is `drawn` in the square, with title, legend, grid and named axes; `read` is what the pointer shows.

    `span` is the range of the width for the pointer.
    """
    grid = "".join(f"M0 {_down(up, t):.1f}H1000" for t in up.ticks)
    box = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "role": "img"}
    seen = f"{title}: {up.title} by {across.title}"
    lines = element("svg", element("path", class_="grid", d=grid), *drawn, **box, aria_label=seen)
    heights = up.labels()
    labels = [
        element("span", text, class_="y", style=f"top:{_down(up, at) / 10:.2f}%")
        for at, text in zip(up.ticks, heights, strict=True)
    ]
    labels += [
        element("span", text, class_="x", style=f"left:{100 * across.position(at):.2f}%")
        for at, text in zip(across.ticks, across.labels(), strict=True)
    ]
    names = [element("span", up.title, class_="up"), element("span", across.title, class_="across")]
    caption = element("figcaption", element("b", title), legend)
    given = {"data_curves": json.dumps(read), "data_range": json.dumps(span), "tabindex": 0}
    room = f"--ticks:{max(map(len, heights))}"
    plot = element("div", lines, *labels, *names, class_="plot", style=room, **given)
    return element("figure", caption, plot, class_="chart")


def _smoothing(curves: Sequence[Curve], log: bool) -> str:
    """Says that values are smoothed, if some are."""
    sizes = [len(curve.steps) for curve in curves if _is_smoothed(curve)]
    mean = "geometric mean" if log else "mean"
    return f"; bold: {mean} of {2 * reach_of(max(sizes)) + 1} logged values" if sizes else ""


def _is_smoothed(curve: Curve) -> bool:
    return curve.smooth and len(curve.steps) > FEW_POINTS


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
    smooth = _is_smoothed(curve)
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
    read = {"label": curve.label, "colour": curve.colour, "steps": at.tolist(), "values": _short(height)}
    if smooth:
        read["logged"] = _short(curve.values[np.searchsorted(curve.steps, at)])
    return element("g", *paths, style=f"--c:var(--{curve.colour})"), read


def _short(values: Floats) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _path(at: Floats, height: Floats, steps: Axis, values: Axis) -> str:
    return "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in _points(at, height, steps, values))


def _points(at: Floats, height: Floats, steps: Axis, values: Axis) -> list[tuple[float, float]]:
    across, up = 1000 * steps.position(at), 1000 - 1000 * np.clip(values.position(height), 0, 1)
    return list(zip(across.tolist(), up.tolist(), strict=True))
