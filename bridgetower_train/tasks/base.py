"""What engines, loop, evaluation, planning, pages and export know of a task.

A task is a model with heads, the losses on them, and the reader that makes its batches. To add one, write a file or a folder
beside this one with a `Task` and a `Reader`, and a line in `tasks.TASKS`; nothing else names it.

Shapes: B samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.reader import Reader
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.model.attention import AttentionFunction, sdpa
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.model.flops import Work
from bridgetower_train.model.heads import Head

Metrics = dict[str, Tensor]
"""Device scalars by name."""


class Metric(NamedTuple):
    """A figure that a task logs, and how the report shows it."""

    name: str
    """Key in metrics.jsonl; validation's has `val_` before it."""
    title: str
    better: Literal["max", "min", ""]
    """Which way is better: `max` for shares of 1, `min` for losses, empty for what is neither and is not validated."""
    chart: str = "Accuracy"
    """Chart that shares with `max` have in common."""


class Token(NamedTuple):
    """A token as the model sees it, and what it is to predict there."""

    seen: str
    """With a leading space where it begins a word."""
    truth: str = ""
    kind: str = "plain"
    """Class in the style sheet: `plain`, `special`, `masked`, `random` or `kept`."""


class Shown(NamedTuple):
    """A sample as `bridgetower view` shows it."""

    images: list[tuple[Tensor | None, str]]
    """(uint8 (3, S, S), or None where there is none; what it is)."""
    text: str
    tokens: list[Token]
    facts: dict[str, str]


class Exported(NamedTuple):
    """What a task adds to an exported folder."""

    description: dict[str, Any]
    """Entries of config.json."""
    files: dict[str, str]
    """Further files, name -> content."""
    notes: list[str]
    """Sentences of the model card on how to use it."""


class Task(nn.Module, ABC):
    """A model with its losses: a batch in, one loss and its metrics out.

    What is known before a model is built is asked of the class, with the configuration of the run.
    """

    title: ClassVar[str]
    """In words, for pages and cards."""
    config: TrainConfig
    model: BridgeTower

    def __init__(self, config: TrainConfig, attention: AttentionFunction = sdpa) -> None:
        """Builds the model. The order of `heads` decides which random numbers each part starts from."""
        super().__init__()
        self.config = config
        self.model = BridgeTower(config.model, self.heads(config), attention)
        for parameter in self.unread():
            # One that waits for a gradient in vain would stop DistributedDataParallel.
            parameter.requires_grad_(False)

    @classmethod
    @abstractmethod
    def heads(cls, config: TrainConfig) -> tuple[Head, ...]:
        """The heads, in order."""

    @classmethod
    @abstractmethod
    def metrics(cls, config: TrainConfig) -> tuple[Metric, ...]:
        """What `forward` and the validation return, but for `loss`, in the order of the report."""

    @classmethod
    @abstractmethod
    def work(cls, config: TrainConfig) -> Work:
        """What is computed per sample: FLOPs and memory follow from it."""

    @classmethod
    @abstractmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer) -> Reader:
        """What makes samples and labels in loader workers."""

    @classmethod
    def gathered(cls, config: TrainConfig) -> int:
        """float32 numbers per sample that all ranks gather; 0 where no loss compares samples of different ranks."""
        return 0

    @classmethod
    def contrast(cls, config: TrainConfig, samples: int) -> Callable[[], Tensor]:
        """The loss that compares `samples` with each other, ready to be computed: its memory grows with their square."""
        raise NotImplementedError

    @classmethod
    def recipe(cls, config: TrainConfig) -> list[tuple[str, str]]:
        """Rows of a model card on the losses."""
        return [("task", cls.title)]

    @classmethod
    def exported(cls, config: TrainConfig) -> Exported:
        """What an exported folder has beside weights, tokenizer and image processor."""
        return Exported({}, {}, [])

    @classmethod
    @abstractmethod
    def blank_labels(cls, config: TrainConfig, size: int, length: int) -> dict[str, Tensor]:
        """Labels of `size` samples of `length` tokens, of the shapes and types that the reader gives, without data."""

    @classmethod
    def blank_batch(cls, config: TrainConfig, size: int) -> Batch:
        """A batch of the shapes and types that the loader gives, without data: for plans, rehearsals and warm-ups."""
        S, L = config.model.image_size, config.model.max_text_len
        return Batch(
            pixel_values=torch.zeros(size * cls.work(config).images, 3, S, S, dtype=torch.uint8),
            input_ids=torch.zeros(size, L, dtype=torch.int64),
            text_mask=torch.ones(size, L, dtype=torch.bool),
            image_id=torch.arange(size),
            labels=cls.blank_labels(config, size, L),
        )

    @classmethod
    def show(cls, config: TrainConfig, batch: Batch, row: int, tokenizer: CaptionTokenizer) -> Shown:
        """A row of a batch on the host, as a page shows it."""
        images = len(batch.pixel_values) // len(batch.image_id)
        pixels = batch.pixel_values[row * images : (row + 1) * images]
        ids = batch.input_ids[row][batch.text_mask[row]]
        tokens = [Token(tokenizer.piece(i), kind="special" if tokenizer.special[i] else "plain") for i in ids.tolist()]
        labels = {name: str(tensor[row].tolist()) for name, tensor in batch.labels.items()}
        return Shown([(image, f"image {row}") for image in pixels], tokenizer.decode(ids), tokens, labels)

    @classmethod
    def adapt(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of another task's checkpoint as this one's model takes them."""
        return weights

    @classmethod
    def released(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's weights as an exported folder has them."""
        return weights

    def unread(self) -> Iterator[nn.Parameter]:
        """Parameters of the model whose results no loss reads."""
        return iter(())

    @abstractmethod
    def counts(self, batch: Batch) -> Tensor:
        """float32 vector: what the means divide by, of this micro-batch, without a host sync.

        Its sum over the micro-batches and ranks of a step is what `forward` takes as `totals`.
        """

    @abstractmethod
    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics]:
        """(loss, metrics as detached scalars on the device, `loss` among them).

        Both are such that summing them (and the gradients) over the micro-batches of a step and averaging over the ranks, as
        DistributedDataParallel does, gives the mean over the global batch: sums, divided by `totals` / number of ranks.
        """

    def embed(self, batch: Batch) -> dict[str, Tensor] | None:
        """What a loss over all micro-batches of a step needs of this one beforehand; None: there is no such loss."""
        return None
