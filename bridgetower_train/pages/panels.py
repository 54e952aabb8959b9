"""Which charts of its metrics the report of a run has."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bridgetower_train.errors import UserError
from bridgetower_train.pages.chart import FREE, AxisRange, Curve, Floats
from bridgetower_train.pages.numbers import is_number
from bridgetower_train.pages.run_folder import RunFolder, changes
from bridgetower_train.tasks import task_class
from bridgetower_train.tasks.base import Metric
from bridgetower_train.weights.saved import read_config

COLOURS = ("first", "second", "third", "plain")
"""Of lines that are drawn together, by their names in the style sheet."""


@dataclass(frozen=True)
class Line:
    """A metric in a panel."""

    metric: str
    label: str
    colour: str = "plain"


@dataclass(frozen=True)
class Panel:
    """A chart of the report; `factor` turns what was logged into `unit`, which names the value axis."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    factor: float = 1.0
    limits: AxisRange = FREE
    log: bool = False
    smooth: bool = True


RUNNING = (
    Panel("Throughput", "samples/s", (Line("samples_per_s", "throughput"),), limits=(0, None)),
    Panel("Data wait", "% of the step", (Line("data_wait", "data wait"),), factor=100, limits=(0, None)),
    Panel("Slowest rank", "% over the median", (Line("slowest_share", "slowest rank"),), factor=100, limits=(0, None)),
    Panel("Gradient norm", "L2 norm", (Line("grad_norm", "gradient norm"),), log=True),
    Panel("Model FLOPs utilisation", "% of the peak", (Line("mfu", "MFU"),), factor=100, limits=(0, None)),
    Panel("Memory", "GiB", (Line("memory_gb", "memory"),), factor=1e9 / 2**30, limits=(0, None), smooth=False),
)


def learning(run: RunFolder) -> tuple[Panel, ...]:
    """A chart of each loss; of the shares that have a chart in common, in training and in validation; of all other metrics."""
    metrics = _metrics(run)
    losses = {"loss": "Loss", **{m.name: f"{m.title}, loss" for m in metrics if m.better == "min"}}
    colours = itertools.chain(["plain"], itertools.cycle(COLOURS))
    panels = [
        Panel(title, "loss", (Line(name, "training", colour), Line(f"val_{name}", "validation", colour)))
        for (name, title), colour in zip(losses.items(), colours, strict=False)
    ]
    for title in dict.fromkeys(m.chart for m in metrics if m.better == "max"):
        shares = [m for m in metrics if m.better == "max" and m.chart == title]
        for prefix, when in (("", "training"), ("val_", "validation")):
            coloured = zip(shares, itertools.cycle(COLOURS), strict=False)
            lines = tuple(Line(prefix + m.name, m.title, colour) for m, colour in coloured)
            most = max(m.most for m in shares)
            unit = "share right" if most == 1 else f"of {most:g}"
            panels.append(Panel(f"{title} in {when}", unit, lines, limits=(0, most)))
    panels += [
        Panel(m.title, m.title.lower(), (Line(m.name, m.title.lower()),), smooth=False) for m in metrics if not m.better
    ]
    return tuple(panels)


def learning_rates(run: RunFolder) -> list[Curve]:
    """The learning rate of each part; parts of the same rate are one curve.

    The logged `lr` is that of the towers, and all follow one schedule, so the others are in proportion to their peaks.
    """
    if "lr" not in run.metrics:
        return []
    steps, logged = run.metrics["lr"]
    optim = run.config.get("optim")
    config = optim if isinstance(optim, dict) else {}
    peaks = {
        key: _over_time(run, f"optim.{key}", config.get(key), steps)
        for key in ("lr", "lr_fusion", "lr_heads", "lr_scale")
    }
    peaks["lr_scale"] = np.where(np.isnan(peaks["lr_scale"]), peaks["lr"], peaks["lr_scale"])
    with np.errstate(all="ignore"):
        shares = {key: peak / peaks["lr"] for key, peak in peaks.items()}
    rates = {"towers": logged, "fusion": logged * shares["lr_fusion"], "heads": logged * shares["lr_heads"]}
    if "logit_scale" in run.metrics:
        rates["temperature"] = logged * shares["lr_scale"]
    decay = config.get("layer_decay", 1.0)
    if is_number(decay) and decay != 1:
        rates = {"topmost blocks of the towers" if part == "towers" else part: rate for part, rate in rates.items()}
    frozen = config.get("freeze")
    kept = set(frozen) if isinstance(frozen, list) else set[Any]()
    named: dict[bytes, tuple[list[str], Floats]] = {}
    for part, rate in rates.items():
        if part not in kept:
            named.setdefault(np.float32(rate).tobytes(), ([], rate))[0].append(part)
    return [
        Curve(", ".join(parts), colour, steps, rate, smooth=False)
        for (parts, rate), colour in zip(named.values(), COLOURS, strict=False)
    ]


def _over_time(run: RunFolder, key: str, value: Any, steps: Floats) -> Floats:
    """What a key was at each of `steps`, where `value` is what it is now; not a number where that is unknown."""
    known = np.full(len(steps), value if is_number(value) else np.nan, dtype=np.float64)
    until = np.inf
    for start in reversed(run.starts):
        until = min(until, start.get("step", 0))
        for changed, was, _ in changes(start):
            if changed == key:
                known[steps <= until] = was if is_number(was) else np.nan
    return known


def _metrics(run: RunFolder) -> tuple[Metric, ...]:
    """The metrics of the run's task; without a readable configuration, the losses and accuracies that were logged."""
    try:
        config = read_config(run.path)
        return task_class(config).metrics(config)
    except UserError:
        kinds: dict[str, Literal["min", "max"]] = {"loss": "min", "acc": "max", "recall": "max"}
        named = ((name, kinds.get(name.split("_")[0])) for name in run.metrics if "_" in name)
        return tuple(Metric(name, name, better) for name, better in named if better)
