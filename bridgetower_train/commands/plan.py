"""`bridgetower plan experiment=... hardware=gaudi2x512 out=plan.html`: estimate memory and time on cards that you do not have."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bridgetower_train.data.augment import patches_in_words
from bridgetower_train.display import plural, print_line
from bridgetower_train.files import atomic_write
from bridgetower_train.pages.markdown import table
from bridgetower_train.pages.numbers import duration, gib
from bridgetower_train.pages.plan import memory_by_engine, plan_page, time_to_train
from bridgetower_train.pages.plan_scan import COLUMNS, scan_rows
from bridgetower_train.planning.collectives import link_bytes
from bridgetower_train.planning.config import PlanConfig
from bridgetower_train.planning.estimate import Plan, make_plan
from bridgetower_train.planning.hardware import GIB
from bridgetower_train.planning.loading import core_rate
from bridgetower_train.tasks import describe
from bridgetower_train.weights.saved import config_of

__all__ = ["PlanConfig", "run"]


def run(config: PlanConfig) -> None:
    """Print the plan, and write its page."""
    if config.model_from:
        like = config_of(config.model_from, "model_from")
        config = replace(config, task=like.task, model=like.model, objective=like.objective, classifier=like.classifier)
    plan = make_plan(config, lambda text: print_line(text, sys.stderr))
    for line in (*summary(plan), cores(plan), *plan.remarks, ""):
        print_line(line)
    print("GiB per card, by pairs a micro-batch\n\n" + table(*memory_by_engine(plan), left=2))
    print(table(COLUMNS, [*scan_rows(plan, plan.same_pairs), *scan_rows(plan, plan.same_batch)]), end="")
    if config.out:
        atomic_write(Path(config.out), plan_page(plan))
        print()
        print_line(f"plan: {Path(config.out).resolve()}")


def cores(plan: Plan) -> str:
    """How many cores of this machine the loader of a card would keep busy, and that of eight."""
    rate, whose = core_rate(plan.config)
    card = plan.here.samples_per_s / plan.cluster.cards
    return (
        f"cores       one of this machine loads {rate:,.0f} samples/s at {plan.config.model.image_size} px "
        f"({whose}, measured); {card:,.0f} a card need {card / rate:.2f}, eight cards {8 * card / rate:.1f}"
    )


def summary(plan: Plan) -> Iterator[str]:
    """The run on the configured hardware, line by line."""
    card, here, config, data = plan.cluster.card, plan.here, plan.config, plan.corpora
    peak = f"{card.peak / 1e12:,.0f} TFLOP/s bf16" if card.peak else "no published peak"
    yield "An estimate: nothing here was measured on this hardware."
    yield (
        f"hardware    {plan.cluster.cards:,} x {card.title} on {plural(plan.cluster.hosts, 'host')}: {gib(card.memory)}, "
        f"{peak}, {card.scale_out / 1e9:.1f} GB/s to other hosts"
    )
    yield f"model       {plan.memory.parameters / 1e6:,.0f} M parameters, {plan.flops.step / 1e12:.3g} TFLOP per pair (counted)"
    yield (
        f"memory      {gib(here.use.total)} per card at {here.micro_batch} pairs a micro-batch, {config.engine.name}; "
        f"{plan.memory.per_pair_kept / GIB:.3f} GiB per pair kept for the backward pass (traced)"
    )
    if config.model.kept_patches is not None:
        memory = "; memory is that of whole images" if None in config.model.patch_counts else ""
        yield f"images      {patches_in_words(config.model)}{memory}, FLOPs are a mean over the run"
    if config.init.named:
        named = ", ".join(f"{key}={given}" for key, given in config.init.named.items())
        yield f"start       {named}: neither fetched nor read, since a plan needs no weights"
    if described := describe(config, here.contrast):
        yield f"contrast    {described}"
    speeds = ", ".join(f"{speed / 1e12:,.0f}" for speed in config.achieved(card.peak))
    yield (
        f"step        {1e3 * here.expected:,.0f} ms expected, {1e3 * here.fastest:,.0f} to {1e3 * here.slowest:,.0f}, at "
        f"{speeds} TFLOP/s a card"
    )
    if plan.graphs:
        yield f"graphs      {plan.graphs.describe(config)}"
    needs = ", ".join(f"{name} {1e3 * seconds:,.1f} ms" for name, seconds in here.times.items())
    yield f"bottleneck  {here.bottleneck} ({needs})"
    sent = ", ".join(
        f"{call.what} {call.kind.replace('_', '-')} {link_bytes(call.kind, call.size, plan.cluster.cards) / 1e9:.3g} GB"
        for call in here.calls
    )
    yield f"links       each card sends {sent or 'nothing'}; at least {1e3 * here.step.links_time:,.1f} ms a step"
    rate = here.host_samples_per_s
    yield (
        f"loader      {rate:,.0f} samples/s, {rate * data.record_bytes / 1e6:,.1f} MB/s and {rate / config.decode_rate:.2f} "
        "busy cores per host"
    )
    known = f"{data.bytes / 1e9:,.0f} GB of shards, {data.samples / 1e6:,.3g} M samples per epoch"
    counts = f" (published counts of {', '.join(data.published)})" if data.published else ""
    yield f"data        {known if data.samples else 'unknown'}{counts}"
    seconds, interval = plan.checkpoint_bytes / 1e9 / config.disk, plan.checkpoint_interval
    stored = f"{plan.checkpoint_bytes / 1e9:.1f} GB, {seconds:,.0f} s at {config.disk:g} GB/s"
    yield f"checkpoint  {stored}, every {duration(interval) if interval else config.checkpoint.every}"
    flops = (
        f", {plan.flops.step * plan.samples:.3g} FLOP, {plan.steps:,.0f} steps" if plan.samples and plan.steps else ""
    )
    yield f"run         {time_to_train(plan)}{flops}"
