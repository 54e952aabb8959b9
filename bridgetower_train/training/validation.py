"""Validation during training: losses and retrieval on the held-out corpus, always on the same images.

What it finds depends on the weights alone: not on ranks, lanes, micro-batches, the step or the seed of the run.
"""

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from bridgetower_train import random
from bridgetower_train.config import TrainConfig
from bridgetower_train.data.dataset import PairDataset, open_data, refuse_test_splits
from bridgetower_train.data.order import Sample
from bridgetower_train.data.roots import shard_cache
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import ConfigError, nearest
from bridgetower_train.evaluation import EVALUATIONS
from bridgetower_train.evaluation.base import OpenModel, Picture
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.evaluation.zero_shot import LabelledImages, zero_shot
from bridgetower_train.tasks import Task, task_class
from bridgetower_train.tasks.base import Metric, Metrics, evaluating
from bridgetower_train.tasks.gather import alone
from bridgetower_train.tasks.pretraining.predictor import Predictor

_SHOWN = 16
"""Images among which a tracker shows examples."""
_SEED = 0
"""Of the masks, negatives and captions, whatever the seed of the run."""


def judged(config: TrainConfig) -> dict[str, Metric]:
    """What the validation of a run finds, by its name in metrics.jsonl, as far as one direction is better."""
    metrics = (Metric("loss", "Loss", "min"), *task_class(config).metrics(config))
    return {f"val_{metric.name}": metric for metric in metrics if metric.better}


def check_validation(config: TrainConfig) -> None:
    """ConfigError where the validation needs heads that the model lacks, or does not find `checkpoint.best`."""
    validation, best, known = config.validation, config.checkpoint.best, judged(config)
    asked = {
        "retrieval": ("retrieval=full", validation.retrieval == "full"),
        "matching": ("rerank", validation.rerank > 0),
        "zero_shot": (f"zero_shot={validation.zero_shot}", validation.zero_shot is not None),
    }
    for name, (key, wanted) in asked.items():
        if validation.wanted and wanted and (lacking := EVALUATIONS[name].lacks(config)):
            raise ConfigError(
                f"validation.{key}: needs {', '.join(lacking)}, which the model of this run does not have"
            )
    if best and best not in known:
        raise ConfigError(
            f"checkpoint.best={best}: the validation does not give it; choose one of {', '.join(known)}{nearest(best, known)}"
        )


class Validation:
    """Loads the samples once; `run` evaluates the current model and does not affect the order of training.

    The losses are those of fixed batches of up to `validation.batch` images, of nearly equal sizes, so that no batch is left
    with few images to compare, and a device compiles for two sizes at most. Ranks share the batches; nothing is gathered in
    between.
    """

    def __init__(
        self,
        config: TrainConfig,
        tokenizer: CaptionTokenizer,
        device: Device,
        ranks: Ranks,
        names: Sequence[str] = (),
    ) -> None:
        """`names`: of the labels."""
        self.config, self.device, self.tokenizer = config, device, tokenizer
        validation = config.validation
        captions = validation.captions if validation.retrieval == "full" else 1
        dataset = _open(config, tokenizer, names)
        self.images = EvalSet(dataset.corpora[0], config, validation.samples, captions, validation.kind)
        self.images.require_two()
        samples = _batches(self.images, validation.batch)
        self.count = len(samples)
        """Batches of all ranks."""
        self.batches = {number: dataset.batch_of(samples[number]) for number in ranks.share(self.count)}
        """Number -> batch, those of this rank."""
        self.classes = self._open_classes() if validation.zero_shot else None
        self._shown: EvalSet | None = None

    @property
    def described(self) -> str:
        """What is validated, in a line."""
        images, validation = self.images, self.config.validation
        kind = f", captions of kind {images.kind}" if images.kind else ""
        line = f"{len(images):,} images of {images.corpus.name}{kind}"
        if self.classes is not None:
            named = self.classes.images
            line += f"; {len(self.classes.names):,} classes of {len(named):,} images of {named.corpus.name} by prompts"
        if validation.retrieval == "quick":
            return line
        ranked = f", the best {validation.rerank} re-ranked" if validation.rerank else ""
        return f"{line}; retrieval among all of them and {len(images.texts):,} captions{ranked}"

    def run(self, task: Task, ranks: Ranks) -> dict[str, float]:
        """`val_` metrics, the same on all `ranks`: the losses and accuracies of training, and what evaluations add as their
        `validation`."""
        figures = self._losses(task, ranks)
        model = OpenModel(task, self.tokenizer, self.device)
        for evaluation in EVALUATIONS.values():
            if evaluation.validation and not evaluation.lacks(task.config):
                figures |= evaluation.validation(model, self.images, ranks)
        if self.classes is not None:
            validation, predictor = self.config.validation, Predictor(*model)
            found = zero_shot(predictor, self.classes, validation.templates, validation.batch, ranks)
            figures["zero_shot"] = found["accuracy, %"] / 100
        named = {f"val_{name}": value for name, value in figures.items()}
        return ranks.gather_objects(named)[0]  # type: ignore[no-any-return]

    def pictures(self, task: Task) -> dict[str, list[Picture]]:
        """A few examples for each evaluation that has any, on this rank alone; `task` is that of `run`."""
        if self._shown is None:
            self._shown = EvalSet(self.images.corpus, self.config, _SHOWN, 1, self.images.kind).load()
        model = OpenModel(task, self.tokenizer, self.device)
        return {
            name: evaluation.pictures(model, self._shown)
            for name, evaluation in EVALUATIONS.items()
            if evaluation.pictures and not evaluation.lacks(task.config)
        }

    def _open_classes(self) -> LabelledImages:
        """The images that prompts classify."""
        data, validation = self.config.data, self.config.validation
        cache = shard_cache(data.root, data.cache_dir, data.cache_gb, data.cache_shared, data.retry_hours)
        corpus = open_corpus(data.root, validation.zero_shot or "", cache, data.follow_links)
        refuse_test_splits([corpus], "validation.zero_shot")
        return LabelledImages(corpus, self.config, validation.samples)

    def _losses(self, task: Task, ranks: Ranks) -> dict[str, float]:
        """The metrics of `task` as means over all samples."""
        counted = ranks.gather_objects([task.counts(batch) for batch in self.batches.values()])
        totals = torch.stack([count for counts in counted for count in counts]).sum(0).to(self.device.torch_device)
        parts: dict[int, Metrics] = {}
        with evaluating(task, self.device), alone():
            for number in ranks.share(self.count):
                self.device.seed(int(random.bits(_SEED, "validation", number)))
                parts[number] = task.losses(self.batches[number].to(self.device.torch_device), totals)[1]
                self.device.mark_step()
        on_host = {n: {name: float(value) for name, value in part.items()} for n, part in parts.items()}
        whole = ChainMap(*ranks.gather_objects(on_host))
        first, *others = (whole[number] for number in sorted(whole))  # always in this order: sums round
        unjudged = {metric.name for metric in task.metrics(task.config) if not metric.better}
        return {
            name: sum((part[name] for part in others), value) for name, value in first.items() if name not in unjudged
        }


def _open(config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str]) -> PairDataset:
    """The held-out corpus, of which a batch is one lane, and all texts have one length."""
    data = replace(config.data, lanes=1, text_buckets=[])
    config = replace(config, seed=_SEED, global_batch=config.validation.batch, micro_batch=None, data=data)
    return open_data(config, tokenizer, task_class(config).reader(config, tokenizer, names), validation=True)


def _batches(images: EvalSet, size: int) -> list[list[Sample]]:
    """The batches of these images, each with one of its captions."""
    rows, numbers = images.rows, images.numbers
    drawn = random.below(_SEED, "validation.caption", [len(of_image) for of_image in numbers], rows)
    captions = [of_image[place] for of_image, place in zip(numbers, drawn.tolist(), strict=True)]
    parts = np.array_split(np.stack([rows, captions], axis=1), -(-len(rows) // size))
    return [
        [Sample(index, 0, 0, row, caption) for index, (row, caption) in enumerate(part.tolist(), number * size)]
        for number, part in enumerate(parts)
    ]
