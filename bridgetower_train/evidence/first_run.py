"""The first run on a node: one card, then all of them, step by step, against the CPU.

Every step runs in a process of its own (`children`), so that one that hangs or crashes costs a line of the report.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bridgetower_train.config import (
    CheckpointConfig,
    DataConfig,
    DeviceConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from bridgetower_train.display import plural
from bridgetower_train.doctor.software import check_software
from bridgetower_train.evidence import card, cards, reading
from bridgetower_train.evidence.card import Card, device_as
from bridgetower_train.evidence.children import Children, ask
from bridgetower_train.evidence.facts import make_report
from bridgetower_train.evidence.report import Report
from bridgetower_train.evidence.steps import Found, Planned, SkipError, take_all
from bridgetower_train.findings import FAIL, Finding

PAIRS = 8
"""Of a micro-batch, where `micro_batch` is not set: the large model fits every card with it."""
NEAR = {"fp32": 5e-3, "bf16": 2e-2}
"""Relative deviation of losses and gradient norm from the CPU's in float32; TF32 products round to 10 bits."""
PLANNED = (0.9, 1.1)
"""Planned by measured memory."""
SAVED = 0.5
"""Memory that recomputation saves, of what it saves by the plan."""
LEAST_SAVED = 0.05
"""Of the memory of a step; less is not measured."""
RESUMED = 1e-4
"""Relative difference of a loss after a resume from the same step before it, where a device does not sum in one order."""
_RATES = OptimConfig(lr=1e-4, lr_fusion=1e-4, lr_heads=1e-4, clip_norm=1.0, schedule="constant", warmup="0")
_RECORDS = 256


def first_run(config: TrainConfig, out: Path, cards_wanted: int | None, limit: float) -> Report:
    """Take all steps with the model, losses and device of `config`, and print a line for each; `limit`: seconds of one.

    Its engine is that of the training that is killed; the rest is measured with the native one.

    Logs go to `out`/logs. ConfigError where `out` cannot be a folder.
    """
    work = out / "work"
    kit = Kit(config, work, cards_wanted)
    try:
        steps = take_all(kit.planned(), limit, out)
        return make_report("first run", kit.device, steps, os.environ)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Kit:
    """The steps on this node."""

    def __init__(self, config: TrainConfig, work: Path, cards_wanted: int | None) -> None:
        self.config, self.cards_wanted = config, cards_wanted
        self.pairs = max(2, config.micro_batch or PAIRS)
        self.card: Card | None = None
        self.expected: list[dict[str, float]] = []
        data = DataConfig(
            root=str(work),
            corpora={reading.CORPUS: 1.0},
            lanes=2,
            workers=config.data.workers,
            text_buckets=config.data.text_buckets,
        )
        self.run_config = TrainConfig(
            run_dir=str(work / "run"),
            steps="1",
            global_batch=2 * self.pairs,
            log_every=1,
            tokenizer=str(work / reading.CORPUS / "tokenizer.json"),
            tensorboard=False,
            task=config.task,
            model=replace(config.model, vocab_size=None),
            objective=replace(config.objective, contrast=ObjectiveConfig.contrast),
            optim=_RATES,
            data=data,
            device=replace(config.device, graphs=False),
            engine=config.engine,
            distributed=config.distributed,
        )
        self.measured = replace(
            self.run_config, model=self.run_config.model.with_vocabulary(config.model.vocab_size or 1000)
        )

    @property
    def ranks(self) -> int:
        """Processes that train together: a card each, and two on a device that has one or is none."""
        assert self.card is not None
        return self.cards_wanted or (self.card.cards if self.card.name != "cpu" else 2)

    @property
    def device(self) -> dict[str, str]:
        """What the report says of it."""
        model = self.config.model
        known = (
            {"name": self.card.name, "description": self.card.description, "cards": str(self.card.cards)}
            if self.card
            else {}
        )
        return {
            "name": self.config.device.name,
            "precision": self.config.device.precision,
            "model": f"width {model.width}, {model.vision_layers} + {model.text_layers} + {model.fusion_layers} layers, "
            f"{model.image_size} px, {model.max_text_len} tokens",
        } | known

    def planned(self) -> Iterator[Planned]:
        """The steps in order; after the first, the device is known."""
        yield Planned(
            "imports and versions", self.look, "do what the lines of `bridgetower doctor` say, then start again"
        )
        if self.card is None:
            return
        modes = list(self.modes())
        for name, run, without in (
            ("graphs", modes[-1][1], "device.graphs=false"),
            ("compile", device_as(self.measured, execution="eager"), "device.execution=eager"),
        ):
            if name != "graphs" or run.device.graphs:
                yield Planned(f"capture: {name}", self.capture(run), f"train with {without}, and send this report")
        for name, run in modes:
            remedy = f"do not train so ({name}): its losses are not the CPU's; send this report"
            yield Planned(f"losses: {name}", self.losses(run, "fp32"), remedy)
        if self.config.device.precision == "bf16":
            remedy = "train with device.precision=fp32, and send this report"
            yield Planned("losses: bf16", self.losses(self.measured, "bf16"), remedy)
        yield from self.memory()
        yield Planned(
            f"collectives: {plural(self.ranks, 'rank')}", self.collectives,
            "check the links (docs/gaudi.md, section 9; NCCL_DEBUG=INFO), and that each rank has a card of its own",
        )  # fmt: skip
        yield Planned(
            f"kill and resume: {plural(self.ranks, 'rank')}", self.resume,
            "do not rely on checkpoints here before the cause is known: see the log of this step",
        )  # fmt: skip
        slow = "see the log; fewer samples (micro_batch) if memory was short"
        for name, run in modes:
            yield Planned(
                f"speed: {name}", self.speed(run), f"{slow}; compilations after the warm-up cost minutes on a card"
            )
        yield Planned(f"speed: {plural(self.ranks, 'rank')}", self.speed_of_all, slow)
        yield Planned("loader", self.loader, "raise data.workers, or put the shards on a local disk")
        yield Planned(
            "decoding", self.decoding, "the host's cores are busy or slow: bridgetower bench data compares decoders"
        )
        yield Planned(
            "decoding on the card", self.card_decoding, "nothing: training decodes on the host; send this report"
        )

    def modes(self) -> Iterator[tuple[str, TrainConfig]]:
        """(name, run) of each execution that the device offers, or of the configured one, and of graphs where they are."""
        assert self.card is not None
        chosen = self.config.device.execution
        executions = [e for e in self.card.executions if chosen in ("auto", e)]
        for execution in executions:
            yield execution, device_as(self.measured, execution=execution, graphs=False)
        if "lazy" in executions:
            yield "lazy, graphs", device_as(self.measured, execution="lazy", graphs=True)

    def look(self, limit: float, log: Path) -> Found:
        """The packages and the device; the rest of the doctor's checks is for a run with data."""
        here, findings = ask(card.look, self.run_config, limit=limit, log=log)
        found: list[Finding] = [*check_software(self.config), *findings]
        self.card = here
        self.run_config, self.measured = (device_as(run, name=here.name) for run in (self.run_config, self.measured))
        reading.write_data(Path(self.run_config.data.root), self.config.model.image_size, _RECORDS)
        wrong = [f"{f.subject}: {f.found} ({f.todo})" for f in found if f.level == FAIL]
        counted = plural(here.cards, "card")
        text = f"{here.name} ({here.description}), {counted}, {' or '.join(here.executions)}: {here.why}"
        return Found(not wrong, "; ".join([text, *wrong]), {"cards": float(here.cards)})

    def capture(self, run: TrainConfig) -> Callable[[float, Path], Found]:
        """One graph, and its loss."""

        def step(limit: float, log: Path) -> Found:
            what, off = ask(card.capture, device_as(run, precision="fp32"), self.pairs, limit=limit, log=log)
            loss = f"its loss is off by {off:.1e}" if off else "its loss is the same"
            return Found(off <= NEAR["fp32"], f"{what}; {loss}", {"off": off})

        return step

    def losses(self, run: TrainConfig, precision: str) -> Callable[[float, Path], Found]:
        """Two steps against the CPU's, which are computed the first time."""

        def step(limit: float, log: Path) -> Found:
            if not self.expected:
                here = replace(self.measured, device=DeviceConfig(name="cpu"))
                self.expected = ask(card.losses, here, self.pairs, limit=limit, log=log)
            found = ask(card.losses, device_as(run, precision=precision), self.pairs, limit=limit, log=log)
            off, where = card.furthest(found, self.expected)
            here, there = found[0]["loss"], self.expected[0]["loss"]
            worst = f"furthest off is {where}, by {off:.1e}" if off else "all figures are the same"
            text = f"loss {here:.5f} in {precision}, {there:.5f} on the CPU; {worst}"
            return Found(off <= NEAR[precision], text, {"loss": found[0]["loss"], "off": off})

        return step

    def memory(self) -> Iterator[Planned]:
        """Activation checkpointing, and the plan, from the same measurements."""
        found: dict[str, dict[str, float]] = {}

        def checkpointing(limit: float, log: Path) -> Found:
            for name, recomputes in (("kept", False), ("recomputed", True)):
                found[name] = ask(card.memory, self.measured, self.pairs, recomputes, limit=limit, log=log)
            kept, recomputed = found["kept"]["measured"], found["recomputed"]["measured"]
            due = found["kept"]["planned"] - found["recomputed"]["planned"]
            if due < LEAST_SAVED * kept:
                raise SkipError(
                    f"of so small a model it would save {due:.4f} of {kept:.4f} GB by the plan: too little to be seen"
                )
            text = (
                f"{kept:.4f} GB with activations kept, {recomputed:.4f} GB with blocks recomputed, {self.pairs} pairs; "
                f"{due:.4f} GB less by the plan"
            )
            return Found(kept - recomputed >= SAVED * due, text, {"kept_gb": kept, "recomputed_gb": recomputed})

        def plan(limit: float, log: Path) -> Found:
            if not found:
                raise SkipError("nothing was measured: see the step before")
            ratios = {name: part["planned"] / part["measured"] for name, part in found.items()}
            text = "; ".join(
                f"activations {name}: {part['planned']:.3f} GB planned, {ratios[name]:.1%} of what was measured"
                for name, part in found.items()
            )
            low, high = PLANNED
            return Found(all(low <= ratio <= high for ratio in ratios.values()), text, ratios)

        yield Planned("activation checkpointing", checkpointing, "plan with activations kept; send this report")
        yield Planned(
            "planned memory", plan, "set reserve= of `bridgetower plan` to cover the difference; send this report"
        )

    def collectives(self, limit: float, log: Path) -> Found:
        """What all cards send each other."""
        if self.ranks < 2:
            raise SkipError("there is one card")
        with Children(cards.collectives, self.run_config, log=log, ranks=self.ranks) as ranks:
            first, *_ = ranks.results(limit)
        return Found(
            True, f"sum, gather and scattered sum are right; 64 MB are summed at {first['gb_per_s']:.2f} GB/s", first
        )

    def resume(self, limit: float, log: Path) -> Found:
        """A training that is killed."""
        batch = 2 * self.ranks
        run = replace(
            self.run_config,
            global_batch=batch,
            data=replace(self.run_config.data, lanes=self.ranks, workers=0),
            checkpoint=CheckpointConfig(every=str(cards.EVERY)),
        )
        again, start, off = cards.kill_and_resume(run, self.ranks, limit, log)
        text = (
            f"killed with {self.ranks} ranks and resumed from step {start}: {again} steps were trained twice, losses "
        )
        return Found(
            off <= RESUMED, text + ("bit for bit the same" if off == 0 else f"differ by {off:.1e}"), {"off": off}
        )

    def speed(self, run: TrainConfig) -> Callable[[float, Path], Found]:
        """Pairs per second of each text length, and what is compiled once all are warm."""

        def step(limit: float, log: Path) -> Found:
            found = ask(card.speed, run, self.pairs, limit=limit, log=log)
            late = int(found.pop("after")["compilations"])
            text = "; ".join(f"{length} tokens: {_rate(rates)}" for length, rates in found.items())
            figures = {
                f"{name}, {length} tokens": value for length, rates in found.items() for name, value in rates.items()
            }
            text += f"; {late} compilations after the warm-up"
            figures["compilations"] = float(late)
            return Found(late == 0, f"{self.pairs} pairs, {run.device.precision}; {text}", figures)

        return step

    def speed_of_all(self, limit: float, log: Path) -> Found:
        """The same of all cards together."""
        if self.ranks < 2:
            raise SkipError("there is one card")
        with Children(cards.speed_of_all, self.measured, self.pairs, log=log, ranks=self.ranks) as ranks:
            first, *_ = ranks.results(limit)
        return Found(True, f"each of {self.ranks} ranks: {_rate(first)}", first)

    def loader(self, limit: float, log: Path) -> Found:
        """Samples per second of a rank."""
        rate = ask(reading.loader_rate, self.run_config, self.pairs, limit=limit, log=log)
        return Found(True, f"{rate:,.0f} samples/s with {self.config.data.workers} workers", {"samples_per_s": rate})

    def decoding(self, limit: float, log: Path) -> Found:
        """Images per second of a core."""
        rate = ask(reading.decoding_rate, self.run_config, limit=limit, log=log)
        return Found(
            True, f"{rate:,.0f} images/s on one core, {self.config.model.image_size} px", {"images_per_s": rate}
        )

    def card_decoding(self, limit: float, log: Path) -> Found:
        """Whether the card decodes bytes, and how fast."""
        found = ask(reading.card_decoding_rate, self.run_config, limit=limit, log=log)
        if found is None:
            raise SkipError("the device decodes no images, or the package for it is not installed")
        rate, off = found
        text = f"{rate:,.0f} images/s from bytes; their pixels are off by {off:.1f} of 255 on average"
        return Found(True, text, {"images_per_s": rate, "off": off})


def _rate(rates: dict[str, float]) -> str:
    peak = f", {rates['of_peak']:.0%} of the peak" if "of_peak" in rates else ""
    return f"{rates['pairs_per_s']:,.1f} pairs/s, {rates['tflop_per_s']:.3g} TFLOP/s{peak}"
