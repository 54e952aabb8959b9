"""Published weights, one after the other: are they what this project takes them for?"""

import os
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bridgetower_train import compose
from bridgetower_train.config import ModelConfig, TrainConfig
from bridgetower_train.evidence import published
from bridgetower_train.evidence.children import ask
from bridgetower_train.evidence.facts import make_report
from bridgetower_train.evidence.published import Example, Published
from bridgetower_train.evidence.report import Report
from bridgetower_train.evidence.steps import Found, Planned, SkipError, take_all

NEAR = 1e-5
"""Largest difference of an output from transformers'."""
CARD = 0.01
"""Relative difference of a loss from the card's."""

_CONTRAST = ("itc_text_head", "itc_image_head", "itc_cross_modal_head", "logit_scale")
_MICROSOFT = "https://huggingface.co/LooperXX/BridgeTower"

THE_CARDS = Example(
    "BridgeTower/bridgetower-large-itm-mlm",
    (
        "https://farm4.staticflickr.com/3395/3428278415_81c3e27f15_z.jpg",
        "http://images.cocodataset.org/val2017/000000039769.jpg",
    ),
    ("two dogs in a car", "two cats sleeping on a couch"),
    (0.00191505195107311, 2.1259872913360596),
)
"""Of the card of BridgeTower/bridgetower-large-itm-mlm-itc."""


def table() -> list[Published]:
    """What has been published."""
    base, large = (_size(name) for name in ("base", "large"))
    return [
        Published("BridgeTower/bridgetower-base", "model", base),
        Published("BridgeTower/bridgetower-base-itm-mlm", "model", base, ("itm_score", "mlm_score")),
        Published("BridgeTower/bridgetower-large-itm-mlm", "model", large, ("itm_score", "mlm_score")),
        Published("BridgeTower/bridgetower-large-itm-mlm-itc", "model", large, _CONTRAST, example=True),
        Published("openai/clip-vit-base-patch16", "image tower", base),
        Published("openai/clip-vit-large-patch14", "image tower", large),
        Published("roberta-base", "text tower", base),
        Published("roberta-large", "text tower", large),
        Published("bridgetower_pt_base.ckpt", "model", base, ("itm_score", "mlm_score"), _MICROSOFT),
        Published("bridgetower_pt_large.ckpt", "model", large, ("itm_score", "mlm_score"), _MICROSOFT),
    ]


def _size(name: str) -> ModelConfig:
    return compose.compose(TrainConfig, "train", [f"model={name}", "run_dir=none"]).model


def verify(
    all_published: Sequence[Published],
    shown: Example,
    root: Path,
    corpus: str | None,
    device: str,
    out: Path,
    limit: float,
) -> Report:
    """Take all steps of these weights, and print two lines for each; see `steps.take_all`."""
    planned = Weights(shown, root, corpus, device).planned(all_published)
    return make_report("published weights", {"name": device}, take_all(planned, limit, out), os.environ)


class Weights:
    """The steps, by what has been found so far."""

    def __init__(self, shown: Example, root: Path, corpus: str | None, device: str) -> None:
        self.shown, self.root, self.corpus, self.device = shown, root.absolute(), corpus, device
        self.source: str | None = None
        """Where the weights at hand are."""

    def planned(self, all_published: Sequence[Published]) -> Iterator[Planned]:
        """For each: files, names and shapes; then what they compute."""
        for one in all_published:
            self.source = None
            fault = "send this report: this version of the weights differs from what the project knows"
            yield Planned(f"{one.name}: tensors", self.step(one, self.tensors), fault)
            if self.source is None:
                continue
            if not one.address:
                yield Planned(
                    f"{one.name}: outputs", self.step(one, self.outputs), "send this report, with transformers' version"
                )
            if one.example:
                yield Planned(f"{one.name}: the card's example", self.step(one, self.example), "send this report")
                yield Planned(f"{one.name}: COCO 1k", self.step(one, self.retrieval), "send this report")

    def step(
        self, one: Published, work: Callable[[Published, Callable[..., Any]], Found]
    ) -> Callable[[float, Path], Found]:
        """`work` as a step; what it asks for runs in a process of its own."""
        return lambda limit, log: work(one, lambda function, *args: ask(function, *args, limit=limit, log=log))

    def tensors(self, one: Published, run: Callable[..., Any]) -> Found:
        """Names and shapes."""
        source, reason = run(published.find, one, self.root)
        if source is None:
            raise SkipError(reason, one.fetch(self.root))
        count, parameters, heads, note = run(published.tensors, one, source)
        self.source = source
        has = f"; heads: {', '.join(heads)}" if heads else ""
        text = f"{count} tensors, {parameters:.2f} M parameters, names and shapes as the model's{has}{note}"
        return Found(True, text, {"tensors": float(count)})

    def outputs(self, one: Published, run: Callable[..., Any]) -> Found:
        """Our forward pass against transformers'."""
        if find_spec("transformers") is None:
            raise SkipError("transformers is not installed", "pip install transformers")
        off = run(published.outputs, one, self.source)
        text = ", ".join(f"{name} {value:.1e}" for name, value in off.items())
        return Found(all(value <= NEAR for value in off.values()), f"largest differences in float64: {text}", off)

    def example(self, one: Published, run: Callable[..., Any]) -> Found:
        """The card's losses, by its pixels; by ours they are only shown."""
        if find_spec("transformers") is None:
            raise SkipError("transformers is not installed", "pip install transformers")
        found = run(published.example, one, self.source, self.shown, self.root)
        good = all(abs(a / b - 1) <= CARD for a, b in zip(found["card"], self.shown.losses, strict=True))
        lines = {"the card": self.shown.losses, "with its pixels": found["card"], "with ours": found["ours"]}
        text = "; ".join(f"{name}: {a:.6f} in order, {b:.4f} swapped" for name, (a, b) in lines.items())
        return Found(good, text, {"in order": found["card"][0], "swapped": found["card"][1]})

    def retrieval(self, one: Published, run: Callable[..., Any]) -> Found:
        """Zero-shot retrieval, if there is a corpus."""
        if self.corpus is None:
            remedy = (
                "prepare it: `bridgetower prep coco` from dataset_coco.json with splits=[test]; then give corpus=FOLDER"
            )
            raise SkipError("COCO's Karpathy test is not given", remedy)
        methods = run(published.retrieval, self.source, self.corpus, self.device)
        figures = {f"{method}: {name}": value for method, found in methods.items() for name, value in found.items()}
        ways = ("image to text R@1", "text to image R@1", "RSUM")
        text = "; ".join(f"{m}: {', '.join(f'{way} {found[way]:.2f}' for way in ways)}" for m, found in methods.items())
        return Found(True, text, figures)
