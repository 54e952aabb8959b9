"""The effect of more or fewer cards, as part of the page of a plan."""

from collections.abc import Callable

import numpy as np

from bridgetower_train.pages.chart import Curve, Floats, doubling_chart
from bridgetower_train.pages.html import Markup, element, join, matrix, note
from bridgetower_train.pages.numbers import duration
from bridgetower_train.planning.estimate import Estimate, Plan
from bridgetower_train.planning.hardware import GIB

RESOURCES = {"products": "third", "the card's memory": "first", "links": "second", "loader": "plain"}
"""Resource of a step -> its colour."""
Scans = dict[str, tuple[str, list[Estimate]]]
"""Name -> colour and points."""
COLUMNS = ("cards", "batch", "pairs a card", "micro-batch", "GiB a card", "step, ms", "samples/s", "efficiency", "links",
           "time to train", "bottleneck")  # fmt: skip


def scan(plan: Plan) -> Markup:
    """Charts and tables of both ways to use more cards: with the same pairs per card, and with the same global batch."""
    pairs_each, batch = plan.here.pairs, plan.config.global_batch
    scans = {
        f"{pairs_each:,} pairs a card": ("third", plan.same_pairs),
        **({f"global batch {batch:,}": ("second", plan.same_batch)} if plan.same_batch else {}),
    }
    charts = [
        _training_chart(plan, scans),
        _scan_chart("Scaling efficiency", "% of the samples/s per card with the fewest cards", scans, efficiency),
        _scan_chart("Links in use", "% of the step", scans, lambda p: [100 * x.links_share for x in p]),
        _scan_chart(
            "What a host's loaders must provide", "samples/s", scans, lambda p: [x.host_samples_per_s for x in p]
        ),
        *(_resources_chart(name, points) for name, (_, points) in scans.items()),
    ]
    tables = [
        join(element("h3", name[0].upper() + name[1:]), matrix(COLUMNS, scan_rows(plan, points)))
        for name, (_, points) in scans.items()
    ]
    text = (
        f"With {pairs_each:,} pairs a card the global batch grows with the cards, which changes what is learned; with the same "
        "batch each card has fewer pairs. data.lanes must fit. Time to train is for equally many samples; dashed: its range. "
        "The figure beside a name is where its line ends."
    )
    return join(note(text), element("div", *charts, class_="charts"), *tables)


def efficiency(points: list[Estimate]) -> list[float]:
    """Samples/s per card, in per cent of those with the fewest cards."""
    each = [point.samples_per_s / point.cluster.cards for point in points]
    return [100 * rate / each[0] for rate in each]


def _cards(points: list[Estimate]) -> Floats:
    return np.array([point.cluster.cards for point in points], dtype=np.float64)


def _scan_chart(title: str, unit: str, scans: Scans, values: Callable[[list[Estimate]], list[float]]) -> Markup:
    curves = [Curve(n, c, _cards(p), np.array(values(p), dtype=np.float64)) for n, (c, p) in scans.items()]
    return doubling_chart(title, unit, "cards", curves, (0, None))


def _training_chart(plan: Plan, scans: Scans) -> Markup:
    curves = []
    for name, (colour, points) in scans.items():
        for way in ("expected", "fastest", "slowest"):
            hours = [(plan.run_time(p, getattr(p, way)) or np.nan) / 3600 for p in points]
            label = name if way == "expected" else way
            curves.append(Curve(label, colour, _cards(points), np.array(hours), dashed=way != "expected"))
    return doubling_chart("Time to train", "hours", "cards", curves, log=True)


def _resources_chart(name: str, points: list[Estimate]) -> Markup:
    curves = [
        Curve(resource, colour, _cards(points), np.array([1e3 * p.times[resource] for p in points]))
        for resource, colour in RESOURCES.items()
    ]
    return doubling_chart(f"Time of a step by resource, {name}", "ms", "cards", curves, log=True)


def scan_rows(plan: Plan, points: list[Estimate]) -> list[list[str]]:
    """A row for each number of cards, in the order of COLUMNS."""
    return [
        [
            f"{p.cluster.cards:,}", f"{p.global_batch:,}", f"{p.pairs:,}", f"{p.micro_batch:,}", f"{p.use.total / GIB:.1f}",
            f"{1e3 * p.expected:,.0f}", f"{p.samples_per_s:,.0f}", f"{share:.0f}%", f"{p.links_share:.0%}",
            duration(time) if (time := plan.run_time(p, p.expected)) is not None else "unknown", p.bottleneck,
        ]
        for p, share in zip(points, efficiency(points), strict=True)
    ]  # fmt: skip
