"""The report of a run: configuration, training, results."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import numpy as np

from bridgetower_train.config import Duration
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.protocol import evaluations_in
from bridgetower_train.pages.chart import Curve, chart, running_mean
from bridgetower_train.pages.html import (
    Child,
    Markup,
    element,
    figures,
    join,
    matrix,
    note,
    page,
    pairs,
    sections,
    table,
)
from bridgetower_train.pages.images import thumbnail
from bridgetower_train.pages.numbers import duration, figure, is_number, size, tick
from bridgetower_train.pages.panels import RUNNING, Panel, learning, learning_rates
from bridgetower_train.pages.run_folder import Json, RunFolder, changes


def report(run: RunFolder) -> str:
    """The page."""
    parts: dict[str, Child] = {
        "Learning": _panels(run, learning(run)),
        "Running": _panels(run, RUNNING, _rates(run)),
        "Layers": _layers(run),
        "Evaluation": _evaluation(run),
        "Examples": _examples(run),
        "Checkpoints": _checkpoints(run),
        "Bad samples": _bad_samples(run),
        "Starts": _starts(run),
        "Configuration": _groups(run.config),
        "Environment": _environment(run),
    }
    return page(f"{run.path.name} · BridgeTower", _header(run), sections({k: v for k, v in parts.items() if v}))


def planned_steps(run: RunFolder) -> int | None:
    """Length of the run in steps, if configuration and metrics determine it."""
    try:
        planned = Duration.parse("steps", str(run.config.get("steps")))
        batch = int(run.config.get("global_batch", 0))
    except (ConfigError, TypeError, ValueError):
        return None
    position, epoch = run.last("position"), run.last("epoch")
    epoch_samples = round(position / epoch) if position and epoch else 0
    known = {"step": True, "sample": batch > 0, "epoch": batch > 0 and epoch_samples > 0}
    return planned.steps(batch, epoch_samples) if known.get(planned.unit) else None


def _header(run: RunFolder) -> Markup:
    step = max(int(_span(run)[1]), run.checkpoints[-1].step if run.checkpoints else 0)
    planned = planned_steps(run)
    finished = planned is not None and step >= planned
    progress = f"step {step:,}" + (f" of {planned:,}" if planned else "")
    state = element("span", "finished" if finished else progress, class_="state done" if finished else "state")
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return element(
        "header",
        element("p", "BridgeTower training", class_="kicker"),
        element("h1", run.path.name, " ", state),
        note(f"Written {written} from {run.path}"),
        _started(run.starts[-1]) if run.starts else "",
        figures(dict(_key_figures(run, step, planned))),
        element("ul", *(element("li", remark) for remark in run.remarks), class_="remarks") if run.remarks else "",
    )


def _started(start: Json) -> Markup:
    """What was typed last, and of which version of the code."""
    commit = element("code", _text(start.get("commit"))[:12])
    return element("p", element("code", _command(start)), " at commit ", commit, class_="note")


def _key_figures(run: RunFolder, step: int, planned: int | None) -> Iterator[tuple[str, str]]:
    yield "steps", f"{step:,}" + (f" of {planned:,}" if planned and step < planned else "")
    if (position := run.last("position")) is not None:
        yield "samples seen", figure(position)
    if (epoch := run.last("epoch")) is not None:
        yield "epoch", tick(epoch)
    if "step_s" in run.metrics:
        yield "time in training", duration(run.seconds())
    if run.best:
        yield (
            f"best {run.best.get('metric')}",
            f"{figure(run.best.get('value'))} at step {figure(run.best.get('step'))}",
        )
    if images := run.last("val_images"):
        yield "validated among", f"{images:,.0f} images, {run.last('val_captions') or 0:,.0f} captions"
    if "loss" in run.metrics:
        yield "loss at the end, smoothed", figure(float(running_mean(run.metrics["loss"][1])[-1]))
    for metric, name, factor, unit in (("samples_per_s", "samples/s", 1, ""), ("data_wait", "data wait", 100, "%")):
        if metric in run.metrics:
            yield f"{name}, median", f"{float(np.median(run.metrics[metric][1])) * factor:.3g}{unit}"
    yield from _slowest(run)
    yield "bad samples", figure(run.last("bad_samples") or len(run.bad_samples))
    if run.last("skipped"):
        yield "skipped updates", figure(run.last("skipped"))


def _slowest(run: RunFolder) -> Iterator[tuple[str, str]]:
    """The rank that was the slowest most often, and by how much."""
    if not {"slowest_rank", "slowest_share"} <= run.metrics.keys():
        return
    (steps, ranks), (others, shares) = run.metrics["slowest_rank"], run.metrics["slowest_share"]
    kept = np.isin(steps, others)
    numbers, counts = np.unique(ranks[kept], return_counts=True)
    if len(numbers):
        often = numbers[counts.argmax()]
        of_it = shares[np.isin(others, steps[ranks == often])]
        yield (
            f"rank {often:.0f} is the slowest in",
            f"{counts.max() / kept.sum():.0%} of the lines, {float(np.median(of_it)):.0%} over the median",
        )


def _span(run: RunFolder) -> tuple[float, float]:
    """The first and the last logged step, so that all charts have the same axis."""
    logged = [steps for steps, _ in run.metrics.values()]
    return float(min((s[0] for s in logged), default=0)), float(max((s[-1] for s in logged), default=0))


def _panels(run: RunFolder, panels: tuple[Panel, ...], *others: Markup) -> Markup:
    drawn = [chart(p.title, p.unit, _curves(run, p), _span(run), p.limits, p.log) for p in panels]
    drawn += others
    if not any(drawn):
        return element("p", "Nothing has been logged yet.", class_="empty")
    return element("div", *drawn, class_="charts")


def _rates(run: RunFolder) -> Markup:
    """The learning rates; the title names the parts where they have one rate."""
    rates = learning_rates(run)
    title = f"Learning rate: {rates[0].label}" if len(rates) == 1 else "Learning rate"
    return chart(title, "per update", rates, _span(run), (0, None))


def _curves(run: RunFolder, panel: Panel) -> list[Curve]:
    return [
        Curve(
            line.label,
            line.colour,
            run.metrics[line.metric][0],
            run.metrics[line.metric][1] * panel.factor,
            smooth=panel.smooth and not line.metric.startswith("val_"),
            dashed=line.metric.startswith("val_") and any(not other.metric.startswith("val_") for other in panel.lines),
        )
        for line in panel.lines
        if line.metric in run.metrics
    ]


def _layers(run: RunFolder) -> Markup:
    """The newest norms of each layer, by metrics.layers_every."""
    names = [name.partition("/")[2] for name in run.metrics if name.startswith("weight_norm/")]
    if not names:
        return Markup("")
    rows = []
    for layer in names:
        weight, grad, update = (run.last(f"{kind}_norm/{layer}") for kind in ("weight", "grad", "update"))
        share = f"{100 * update / weight:.2g}" if weight and update is not None else ""
        rows.append((layer, *(figure(value) for value in (weight, grad, update)), share))
    step = run.metrics[f"weight_norm/{names[0]}"][0][-1]
    text = f"Norms at step {step:,.0f}; metrics.jsonl has them every metrics.layers_every steps."
    return join(note(text), matrix(("layer", "weights", "gradient", "update", "update, % of the weights"), rows))


def _evaluation(run: RunFolder) -> Markup:
    parts: list[Child] = []
    for name, entry in evaluations_in(run.evaluation).items():
        protocol, values = entry.get("protocol"), entry.get("figures")
        if isinstance(protocol, dict) and isinstance(values, dict):
            about = "; ".join(f"{what}: {_text(value)}" for what, value in protocol.items())
            parts += [element("h3", name), note(about or f"step {figure(entry.get('step'))}"), _figures(values)]
    return join(*parts)


def _figures(values: Json) -> Markup:
    """Name and figure pairs; groups of figures follow, each below its name."""
    flat = {str(name): figure(value) for name, value in values.items() if not isinstance(value, dict)}
    groups = {str(name): value for name, value in values.items() if isinstance(value, dict)}
    return join(
        figures(flat) if flat else "",
        *(join(element("p", name, class_="kicker"), _figures(value)) for name, value in groups.items()),
    )


def _examples(run: RunFolder) -> Markup:
    found = [e for entry in evaluations_in(run.evaluation).values() for e in _objects(entry.get("examples"))]
    cards = [_ranking(e) if "results" in e else _example(e) for e in found[:24]]
    if not cards:
        return Markup("")
    text = "The highest ranked results for images and captions of the corpus, with their scores; a tick marks correct ones."
    return join(note(text) if any("results" in e for e in found) else "", element("div", *cards, class_="examples"))


def _objects(value: Any) -> list[Json]:
    """The JSON objects of a list; none if `value` is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _example(example: Json) -> Markup:
    """`images` (each `image` with its `caption`), `text` and `facts`, name -> value; each may be missing."""
    images = [
        element("figure", _image(image), element("figcaption", str(image.get("caption", ""))))
        for image in _objects(example.get("images"))
    ]
    facts = example.get("facts")
    return element(
        "article",
        element("div", *images, class_="couple"),
        element("p", str(example.get("text", "")), class_="caption"),
        pairs({name: figure(value) for name, value in facts.items()} if isinstance(facts, dict) else {}),
        class_="sample",
    )


def _ranking(example: Json) -> Markup:
    """The `results` of a query, an image or a text."""
    to_text = example.get("query_kind") == "image"
    query = _image(example) if to_text else element("blockquote", str(example.get("text", "")))
    listed = [_result(result, to_text) for result in _objects(example.get("results"))]
    answer = element("ol", *listed, class_="texts" if to_text else "images")
    return element("article", query, answer, class_="example to-text" if to_text else "example")


def _result(result: Json, to_text: bool) -> Markup:
    right = bool(result.get("right"))
    score = element("span", "✓ " if right else "", figure(result.get("score")), class_="score")
    content = element("span", str(result.get("text", ""))) if to_text else _image(result)
    return element("li", content, score, class_="right" if right else None)


def _image(holder: Json) -> Markup:
    uri = thumbnail(str(holder.get("image", "")))
    if uri is None:
        return element("span", "image missing", class_="missing")
    return element("img", src=uri, alt=str(holder.get("text") or "image"))


def _checkpoints(run: RunFolder) -> Markup:
    if not run.checkpoints:
        return element("p", "None has been written yet.", class_="empty")
    best = run.best.get("step")
    kept = ((c, "whole, best" if c.step == best else "whole") for c in reversed(run.checkpoints))
    rows = [(f"{c.step:,}", size(c.bytes), c.fault or whole, c.name) for c, whole in kept]
    return table(("step", "size", "state", "folder"), rows)


def _bad_samples(run: RunFolder) -> Markup:
    total = len(run.bad_samples)
    if not total:
        return element("p", "None: all records were read.", class_="empty")
    columns = ("corpus", "shard", "key", "reason", "position")
    rows = [[_text(sample.get(c)) for c in columns] for sample in run.bad_samples[:25]]
    reasons = Counter(_text(sample.get("reason")) for sample in run.bad_samples).most_common(10)
    shown = f" The first {len(rows)} are listed below; bad_samples.jsonl has all." if len(rows) < total else ""
    text = f"{total:,} could not be used and {'was' if total == 1 else 'were'} replaced by the next record of the lane.{shown}"
    counts = table(("records", "reason"), [(f"{count:,}", reason) for reason, count in reasons])
    return join(note(text), counts if total > 5 else "", table(columns, rows))


def _starts(run: RunFolder) -> Markup:
    """Without hosts: reports are passed on."""
    rows = [
        (
            figure(start.get("step")),
            _moment(start.get("time")),
            figure(start.get("ranks")),
            "; ".join(_changed(start)) or "nothing",
            _text(start.get("commit"))[:12],
            element("code", _command(start)),
        )
        for start in run.starts
    ]
    text = "The configuration below is that of the last one."
    return (
        join(note(text), table(("after step", "when", "ranks", "changed", "commit", "command"), rows))
        if rows
        else Markup("")
    )


def _command(start: Json) -> str:
    """As it was typed, without the folder of the program."""
    program, *arguments = _text(start.get("command")).split(" ", 1)
    name = program.rpartition("/")[2]
    return " ".join(["python -m bridgetower_train" if name == "__main__.py" else name, *arguments])


def _changed(start: Json) -> Iterator[str]:
    if "abandoned" in start:
        yield f"back to step {figure(start.get('step'))}: what came after is in {_text(start['abandoned'])}"
    yield from (f"{key} {_text(now)} instead of {_text(was)}" for key, was, now in changes(start))


def _moment(seconds: Any) -> str:
    if not is_number(seconds) or not 0 <= seconds < 1e11:
        return _text(seconds)
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _environment(run: RunFolder) -> Markup:
    """The state of the newest checkpoint, without what is in the configuration, and without the host: reports are passed on."""
    settings = dict(_leaves(run.config))
    state = {k: v for k, v in run.state.items() if k not in ("identity", "config", "host")}
    identity = run.state.get("identity")
    if isinstance(identity, dict):
        state["identity"] = {k: v for k, v in identity.items() if settings.get(k) != _text(v)}
    shown = _groups(state)
    return join(note("As the newest checkpoint recorded it."), shown) if shown else Markup("")


def _groups(tree: Json) -> Markup:
    """A tree of settings: a list of the top-level values, then one for each branch."""
    branches = {k: dict(_leaves(v)) for k, v in tree.items() if isinstance(v, dict) and v}
    trunk = {k: _text(v) for k, v in tree.items() if k not in branches}
    lists = {"run": trunk, **branches} if trunk else branches
    blocks = [element("div", element("h3", name), pairs(values)) for name, values in lists.items()]
    return element("div", *blocks, class_="groups") if blocks else Markup("")


def _leaves(tree: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    """A setting as in YAML, except empty ones."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)
