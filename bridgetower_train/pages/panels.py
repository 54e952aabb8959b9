"""Which charts of its metrics the report of a run has."""

import itertools
from dataclasses import dataclass
from typing import Literal

from bridgetower_train.errors import UserError
from bridgetower_train.pages.chart import FREE, AxisRange
from bridgetower_train.pages.run_folder import RunFolder
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
    """A chart of the report; `factor` turns the logged unit into the one that the title names."""

    title: str
    lines: tuple[Line, ...]
    factor: float = 1.0
    limits: AxisRange = FREE
    log: bool = False
    smooth: bool = True


RUNNING = (
    Panel("Throughput, samples/s", (Line("samples_per_s", "samples/s"),), limits=(0, None)),
    Panel("Data wait, % of the step", (Line("data_wait", "data wait"),), factor=100, limits=(0, None)),
    Panel("Slowest rank, % over the median", (Line("slowest_share", "slowest rank"),), factor=100, limits=(0, None)),
    Panel("Learning rate", (Line("lr", "learning rate"),), limits=(0, None), smooth=False),
    Panel("Gradient norm", (Line("grad_norm", "gradient norm"),), log=True),
    Panel("Model FLOPs utilisation, %", (Line("mfu", "MFU"),), factor=100, limits=(0, None)),
    Panel("Memory, GB", (Line("memory_gb", "memory"),), limits=(0, None), smooth=False),
)


def learning(run: RunFolder) -> tuple[Panel, ...]:
    """A chart of each loss; of the shares that have a chart in common, in training and in validation; of all other metrics."""
    metrics = _metrics(run)
    losses = {"loss": "Loss", **{m.name: f"{m.title}, loss" for m in metrics if m.better == "min"}}
    colours = itertools.chain(["plain"], itertools.cycle(COLOURS))
    panels = [
        Panel(title, (Line(name, "training", colour), Line(f"val_{name}", "validation", colour)))
        for (name, title), colour in zip(losses.items(), colours, strict=False)
    ]
    for title in dict.fromkeys(m.chart for m in metrics if m.better == "max"):
        shares = [m for m in metrics if m.better == "max" and m.chart == title]
        for prefix, when in (("", "training"), ("val_", "validation")):
            coloured = zip(shares, itertools.cycle(COLOURS), strict=False)
            lines = tuple(Line(prefix + m.name, m.title, colour) for m, colour in coloured)
            panels.append(Panel(f"{title} in {when}", lines, limits=(0, max(m.most for m in shares))))
    panels += [Panel(m.title, (Line(m.name, m.title.lower()),), smooth=False) for m in metrics if not m.better]
    return tuple(panels)


def _metrics(run: RunFolder) -> tuple[Metric, ...]:
    """The metrics of the run's task; without a readable configuration, the losses and accuracies that were logged."""
    try:
        config = read_config(run.path)
        return task_class(config).metrics(config)
    except UserError:
        kinds: dict[str, Literal["min", "max"]] = {"loss": "min", "acc": "max", "recall": "max"}
        named = ((name, kinds.get(name.split("_")[0])) for name in run.metrics if "_" in name)
        return tuple(Metric(name, name, better) for name, better in named if better)
