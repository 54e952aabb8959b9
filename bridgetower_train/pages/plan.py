"""The plan of a run as a page: its memory and time, its bottleneck, and the effect of more cards."""

from dataclasses import replace

import numpy as np

from bridgetower_train.pages.chart import Curve, doubling_chart
from bridgetower_train.pages.html import Child, Markup, element, figures, join, matrix, note, page, pairs, sections
from bridgetower_train.pages.numbers import duration, figure, gib, size
from bridgetower_train.pages.plan_scan import scan
from bridgetower_train.planning.arithmetic import all_reduce_time, links_times
from bridgetower_train.planning.collectives import link_bytes
from bridgetower_train.planning.estimate import Plan, sent
from bridgetower_train.planning.hardware import GBIT, GIB
from bridgetower_train.planning.memory import ENGINES, Breakdown, Memory

COLOURS = {"native": "plain", "zero1": "first", "zero2": "second", "zero3": "third"}
HOLDERS = {
    "weights": "plain", "copies": "soft", "gradients": "second", "optimizer": "first", "activations": "third",
}  # fmt: skip
"""Field of Breakdown -> its colour."""
LINKS = (25, 50, 100, 200, 400, 800)
"""Gbit/s of a card to other hosts."""
DISKS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""10^9 bytes per second."""


def plan_page(plan: Plan) -> str:
    """The page."""
    parts: dict[str, Child] = {
        "Memory of a card": _memory(plan),
        "Activations": _activations(plan),
        "A step": _step(plan),
        "What is sent": _sent(plan),
        "More or fewer cards": scan(plan),
        "Loader": _loader(plan),
        "Data and checkpoints": _storage(plan),
        "What this rests on": _basis(plan),
    }
    return page(f"{plan.cluster.name} · BridgeTower plan", _header(plan), sections(parts))


def _header(plan: Plan) -> Markup:
    here, config, remarks = plan.here, plan.config, plan.remarks
    expected = plan.run_time(here, here.expected)
    memory = plan.memory
    trained = "" if memory.trained == memory.parameters else f", {memory.trained / 1e6:,.0f} M trained"
    facts = {
        "parameters": f"{memory.parameters / 1e6:,.0f} M{trained}",
        "memory per card": f"{here.use.total / GIB:.1f} of {gib(plan.cluster.card.memory)}",
        "step": f"{here.expected * 1e3:,.0f} ms",
        "time to train": "unknown" if expected is None else duration(expected),
        "samples/s": f"{here.samples_per_s:,.0f}",
        "FLOPs of the run": f"{plan.flops.step * plan.samples:.3g}" if plan.samples else "unknown",
        "largest micro-batch": f"{_most(plan, config.engine.name, plan.memory):,}",
        "bottleneck": here.bottleneck,
        **({"pairs compared": f"{here.contrast.among:,}"} if here.contrast.among else {}),
    }
    return element(
        "header",
        element("p", "BridgeTower plan", class_="kicker"),
        element("h1", f"{plan.cluster.cards:,} {plan.cluster.card.title}"),
        note(f"An estimate: nothing was measured on this hardware. Time to train: {time_to_train(plan)}."),
        figures(facts),
        element("ul", *(element("li", remark) for remark in remarks), class_="remarks") if remarks else "",
    )


def time_to_train(plan: Plan) -> str:
    """The expected time with its range."""
    steps = plan.steps
    if steps is None:
        return "unknown"
    expected, fast, slow = (duration(steps * s) for s in (plan.here.expected, plan.here.fastest, plan.here.slowest))
    return f"{expected} ({fast} to {slow})"


def _most(plan: Plan, engine: str, memory: Memory) -> int:
    return memory.most_pairs(plan.room, engine, plan.cluster.cards)


def _memory(plan: Plan) -> Markup:
    """By engine and micro-batch, with and without activation checkpointing."""
    cards, micro = plan.cluster.cards, plan.here.micro_batch
    parts: list[Child] = []
    for recomputes, memory in plan.memories.items():
        how = "Blocks recomputed" if recomputes else "All activations kept"
        uses = {engine: memory.use(engine, micro, cards, contrast=plan.here.contrast) for engine in ENGINES}
        parts += [element("h3", f"{how}, {micro} pairs a micro-batch"), _stacks(uses, plan.cluster.card.memory)]
    columns, rows = memory_by_engine(plan)
    charts = [_memory_chart(plan, recomputes, memory) for recomputes, memory in plan.memories.items()]
    return join(
        note(
            f"At the peak of a step, of the {gib(plan.cluster.card.memory)} of the card, which a line marks. "
            f"{plan.config.reserve:.0%} of them are left free for workspace."
        ),
        *parts,
        element("div", *charts, class_="charts"),
        element("h3", "GiB per card, by pairs a micro-batch"),
        matrix(
            ["engine and activations", *columns[2:]], [[f"{engine}, {kept}", *sizes] for engine, kept, *sizes in rows]
        ),
    )


def memory_by_engine(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """(columns, rows): GiB per card by engine and micro-batch, with activations kept and recomputed."""
    rows = []
    for recomputes, memory in plan.memories.items():
        for engine in ENGINES:
            sizes = [f"{_gib(plan, memory, engine, p):.1f}" for p in plan.config.pairs]
            kept = "recomputed" if recomputes else "kept"
            rows.append([engine, kept, *sizes, f"{_most(plan, engine, memory):,}"])
    return ["engine", "activations", *(f"at {p:,}" for p in plan.config.pairs), "largest micro-batch"], rows


def _stacks(uses: dict[str, Breakdown], room: float) -> Markup:
    """A bar for each engine, on a scale that ends at the card's memory or beyond."""
    whole = max(room, *(use.total for use in uses.values()))
    lines = []
    for engine, use in uses.items():
        pieces = [
            element("i", class_=name, style=f"--c:var(--{colour});width:{100 * getattr(use, name) / whole:.2f}%")
            for name, colour in HOLDERS.items()
        ]
        end = element("b", style=f"left:{100 * room / whole:.2f}%")
        bar = element("span", *pieces, end, class_="stack", role="img", aria_label=f"{engine}, memory by use")
        lines.append(element("li", element("span", engine), bar, element("em", f"{use.total / GIB:.1f} GiB")))
    names = {"copies": "weights in bf16"}
    key = (
        element("span", element("i", class_=n, style=f"--c:var(--{c})"), names.get(n, n)) for n, c in HOLDERS.items()
    )
    return join(element("p", *key, class_="holders"), element("ul", *lines, class_="stacks"))


def _memory_chart(plan: Plan, recomputes: bool, memory: Memory) -> Markup:
    amounts = np.array(sorted(set(plan.config.pairs)), dtype=np.float64)
    curves = [
        Curve(engine, colour, amounts, np.array([_gib(plan, memory, engine, int(p)) for p in amounts]))
        for engine, colour in COLOURS.items()
    ]
    limit = np.full_like(amounts, plan.cluster.card.memory / GIB)
    curves.append(Curve("the card's", "wrong", amounts, limit, dashed=True))
    how = "blocks recomputed" if recomputes else "activations kept"
    return doubling_chart(f"Memory of a card, {how}", "GiB", "pairs a micro-batch", curves, (0, None))


def _gib(plan: Plan, memory: Memory, engine: str, micro_batch: int) -> float:
    return memory.use(engine, micro_batch, plan.cluster.cards).total / GIB


def _activations(plan: Plan) -> Markup:
    """What the blocks keep for the backward pass."""
    rows = []
    for kept, again in zip(plan.memories[False].kept, plan.memories[True].kept, strict=True):
        each, less = (f"{k.per_pair / k.blocks / 1e6:.2f}" if k.blocks else "" for k in (kept, again))
        blocks = str(kept.blocks or "")
        rows.append([kept.part, blocks, each, f"{kept.per_pair / 1e6:.1f}", less, f"{again.per_pair / 1e6:.1f}"])
    whole, least = (f"{plan.memories[recomputes].per_pair_kept / 1e6:.1f}" for recomputes in (False, True))
    rows.append(["all", "", "", whole, "", least])
    text = (
        "MB per pair of the micro-batch that are kept for the backward pass, traced by operation. A pair has one image, "
        "two views of its text and up to three fusions. The rest: embeddings, bridges, heads, losses; with blocks recomputed "
        "also the inputs of the blocks."
    )
    columns = ["part", "blocks", "a block keeps", "all keep", "a block, recomputed", "all, recomputed"]
    return join(note(text), matrix(columns, rows))


def _step(plan: Plan) -> Markup:
    here = plan.here
    rows = [[name, f"{1e3 * seconds:,.1f}", f"{seconds / here.expected:.0%}"] for name, seconds in here.times.items()]
    accumulation = here.pairs // here.micro_batch
    facts = {
        "pairs per card": f"{here.pairs:,}" + (f" in {accumulation} micro-batches" if accumulation > 1 else ""),
        "FLOPs per pair": f"{plan.flops.step / 1e12:.3g} T",
        "FLOPs per card": f"{here.step.flops / 1e12:,.1f} T",
        "expected": f"{1e3 * here.expected:,.0f} ms",
        "from": f"{1e3 * here.fastest:,.0f} ms",
        "to": f"{1e3 * here.slowest:,.0f} ms",
    }
    hidden = "the reduction of gradients overlaps with the last backward pass, nothing else does"
    overlap = hidden if here.step.overlaps else "nothing overlaps, since engine.reduce=once"
    text = (
        f"The time of a step if each resource were the only one. Expected: {overlap}. Range: all overlap that the engine allows "
        "at the highest speed of the card, none at the lowest."
    )
    return join(
        figures(facts), element("h3", "Time by resource"), note(text), matrix(["resource", "ms", "of the step"], rows)
    )


def _sent(plan: Plan) -> Markup:
    here, cluster = plan.here, plan.cluster
    if not here.calls:
        return note("A single card sends nothing.")
    rows = [
        [
            call.what,
            call.kind.replace("_", "-"),
            size(round(call.size)),
            size(round(link_bytes(call.kind, call.size, cluster.cards))),
            f"{1e3 * sum(links_times(cluster, [call]).values()):,.2f}",
        ]
        for call in here.calls
    ]
    speeds = [replace(cluster, card=replace(cluster.card, scale_out=gbit * GBIT)) for gbit in LINKS]
    curves = []
    for what, colour in (("gradients", "second"), ("weights", "first"), ("embeddings", "third")):
        calls = [call for call in here.calls if call.what == what]
        if calls:
            times = [1e3 * sum(links_times(speed, calls).values()) for speed in speeds]
            curves.append(Curve(what, colour, np.array(LINKS, dtype=np.float64), np.array(times)))
    columns = ["what", "how", "tensor", "each card sends", "least ms"]
    charts = [doubling_chart("Time of a step on the links", "ms", "Gbit/s between hosts", curves, (0, None))]
    text = (
        f"In one step of {plan.config.engine.name}. Lower bound by published link speeds, with nothing else on the links: a ring "
        "within each host and one between the hosts, without latency."
    )
    return join(
        note(text),
        matrix(columns, rows),
        element("h3", "By engine"),
        matrix(["engine", "gradients", "weights", "embeddings", "least ms"], _by_engine(plan)),
        element("div", *charts, class_="charts") if cluster.hosts > 1 else "",
    )


def _by_engine(plan: Plan) -> list[list[Child]]:
    """Bytes that each card sends in a step, and the lower bound of their time."""
    here, cluster = plan.here, plan.cluster
    rows: list[list[Child]] = []
    for engine in ENGINES:
        calls = sent(plan.config, engine, cluster, plan.memory, here.contrast)
        volumes = [
            sum(link_bytes(c.kind, c.size, cluster.cards) for c in calls if c.what == what)
            for what in ("gradients", "weights", "embeddings")
        ]
        least = 1e3 * sum(links_times(cluster, calls).values())
        rows.append([engine, *(size(round(v)) for v in volumes), f"{least:,.1f}"])
    return rows


def _loader(plan: Plan) -> Markup:
    here, config = plan.here, plan.config
    cards = min(plan.cluster.cards, plan.cluster.card.per_host)
    rate, most = here.host_samples_per_s, cards * max(1, config.data.workers) * config.decode_rate
    record = plan.corpora.record_bytes
    facts = {
        "samples/s per host": f"{rate:,.0f}",
        "read per host": f"{rate * record / 1e6:,.1f} MB/s",
        "read by all": f"{here.samples_per_s * record / 1e9:,.2f} GB/s",
        "cores busy per host": f"{rate / config.decode_rate:,.2f}",
        "workers per host": f"{cards * config.data.workers:,}",
        "they can provide": f"{most:,.0f} samples/s",
    }
    text = (
        f"A core provides {config.decode_rate:,.0f} samples/s (decode_rate), a sample has {record / 1e3:.0f} kB. At the fastest "
        f"step a host needs {config.global_batch / here.fastest / plan.cluster.hosts:,.0f} samples/s."
    )
    return join(note(text), figures(facts))


def _storage(plan: Plan) -> Markup:
    data, config = plan.corpora, plan.config
    every = plan.checkpoint_interval
    facts = {
        "images": f"{data.images / 1e6:,.3g} M" if data.images else "unknown",
        "samples per epoch": f"{data.samples / 1e6:,.3g} M" if data.samples else "unknown",
        "shards": f"{data.bytes / 1e9:,.0f} GB" if data.bytes else "unknown",
        "steps of the run": figure(round(plan.steps)) if plan.steps else "unknown",
        "checkpoint": f"{plan.checkpoint_bytes / 1e9:.1f} GB",
        "one every": duration(every) if every else config.checkpoint.every,
    }
    seconds = {disk: plan.checkpoint_bytes / 1e9 / disk for disk in sorted({*DISKS, config.disk})}
    rows = [[f"{disk:g}", f"{s:,.1f}", f"{s / every:.1%}" if every else "unknown"] for disk, s in seconds.items()]
    text = "Time to write a checkpoint by the speed of its file system, and its share of the training if training waits for it."
    return join(
        figures(facts), element("h3", "Checkpoints"), note(text), matrix(["GB/s", "seconds", "of the training"], rows)
    )


def _basis(plan: Plan) -> Markup:
    card, config = plan.cluster.card, plan.config
    speeds = ", ".join(f"{speed / 1e12:,.0f}" for speed in config.achieved(card.peak))
    peak = f"{card.peak / 1e12:,.0f} TFLOP/s bf16" if card.peak else "no published peak"
    how = f"{', '.join(f'{u:g}' for u in config.utilisation)} of the peak" if card.peak else "assumed: set tflops=[...]"
    if config.tflops:
        how = "given"
    sent = plan.memory.precision.sent
    compiled = (
        ". Traced operator by operator: compiled blocks took 5% less on an H200"
        if config.device.execution == "compile"
        else ""
    )
    return join(pairs({
        "card": f"{gib(card.memory)} at {card.bandwidth / 1e12:.2f} TB/s, {peak}",
        "links": f"{card.scale_up / 1e9:.1f} GB/s within the host, {card.scale_out / 1e9:.1f} GB/s to other hosts, each way",
        "from": card.source,
        "a card achieves": f"{speeds} TFLOP/s: low, expected, high ({how})",
        "precision": config.device.precision,
        "memory": f"weights and gradients 4 bytes per parameter, moments {plan.memory.precision.moments}; activations traced "
        "through forward and backward pass on fake tensors under the CPU's autocast lists. Left out: workspace of kernels and "
        f"compilers, buffers of collectives, fragmentation{compiled}",
        "FLOPs": "counted from the shapes" + (", including recomputation" if config.engine.activation_checkpointing else ""),
        "data": (f"published counts of {', '.join(plan.corpora.published)}" if plan.corpora.published else "manifests"),
        "one all-reduce of gradients": f"at least {1e3 * all_reduce_time(plan.cluster, sent * plan.memory.trained):,.1f} ms "
        f"in {config.engine.reduce_precision}",
    }))  # fmt: skip
