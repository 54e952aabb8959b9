"""What engines, loop, evaluation, planning, pages and export know about a task.

A task is a model with heads, the losses on them, and the reader that makes its batches. To add one, write a file or a folder
beside this one with a `Task` and a `Reader`, and add a line to `tasks.TASKS`; nothing else refers to it.

Shapes: B samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bridgetower_train.config import Shape, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.reader import Reader
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.attention import AttentionFunction, sdpa
from bridgetower_train.model.bridgetower import TOKEN_TYPES, BridgeTower, ImageStates
from bridgetower_train.model.flops import Work
from bridgetower_train.model.heads import Head
from bridgetower_train.model.parts import is_frozen

Metrics = dict[str, Tensor]
"""Device scalars by name."""

Embedded = dict[str, Tensor]
"""What a loss that compares samples of several micro-batches reads of them, by name: a row for each sample."""


HEAD_FILE = "head.safetensors"
"""Weights of a head that no class of transformers has, in an exported folder."""


class Metric(NamedTuple):
    """A figure that a task logs, and how the report shows it."""

    name: str
    """Key in metrics.jsonl, with the prefix `val_` in validation."""
    title: str
    better: Literal["max", "min", ""]
    """Which direction is better: `max` for fractions, `min` for losses; empty for neither, and then it is not validated."""
    chart: str = "Accuracy"
    """The report draws all metrics with `max` and the same `chart` together."""
    most: float = 1.0
    """The largest value of one with `max`."""


class Token(NamedTuple):
    """A token as the model sees it, and the token that it is to predict there."""

    seen: str
    """With a leading space if it begins a word."""
    truth: str = ""
    kind: str = "plain"
    """Class in the style sheet: `plain`, `special`, `masked`, `random` or `kept`."""


class Shown(NamedTuple):
    """A sample as `bridgetower view` shows it."""

    images: list[tuple[Tensor | None, str]]
    """(uint8 (3, S, S), or None if there is none; its caption)."""
    text: str
    tokens: list[Token]
    facts: dict[str, str]


class Said(NamedTuple):
    """What a model says of a text about an image, or several."""

    scores: dict[str, float]
    """Name -> value, 0 to 1 or a cosine."""
    masks: list[list[tuple[str, float]]]
    """For each `<mask>` the most probable words and their probabilities, the best first."""
    labels: list[tuple[str, float]]
    """The likeliest labels and their probabilities, the best first."""
    logit: float | None = None
    """Of the contrast: the softmax over several texts says which of them the image goes with; None without a contrast."""


class Exported(NamedTuple):
    """What a task adds to an exported folder."""

    description: dict[str, Any]
    """Entries of config.json."""
    files: dict[str, str]
    """More files, name -> content."""
    notes: list[str]
    """Sentences of the model card on how to use it."""
    settings: dict[str, Any]
    """What `from_export` needs and no tensor tells; under `bridgetower_train` in config.json."""


class Task(nn.Module, ABC):
    """A model with its losses: takes a batch, returns one loss and its metrics.

    A loss that compares samples is apart from the others (`across`): it may span the micro-batches and ranks of a step.

    What is known before a model is built are class methods that take the configuration of the run.
    """

    title: ClassVar[str]
    """Its name on pages and cards."""
    names_file: ClassVar[str] = ""
    """File that names the labels, by number, in a corpus, a run and an export; empty: labels have no names."""
    head_file: ClassVar[str] = ""
    """File of an exported folder for the weights beside the trunk; empty: they are with the others."""
    token_types: ClassVar[int] = 2
    """Rows of the table of token types: text, image, further images."""
    config: TrainConfig
    model: BridgeTower
    names: Sequence[str] = ()
    """Of the labels, in an opened model."""
    hub_task: ClassVar[str] = "image-text-matching"
    """The kind of task in the metadata of a model card."""
    needs_text: ClassVar[bool] = True
    """Whether nothing can be said of an image without a text."""

    def __init__(self, config: TrainConfig, attention: AttentionFunction = sdpa) -> None:
        """Builds the model. The order of `heads` decides which random numbers each part starts from.

        ConfigError if `optim.freeze` leaves nothing to train.
        """
        super().__init__()
        self.config = config
        self.model = BridgeTower(config.model, self.heads(config), attention, self.token_types)
        for parameter in self.unread():
            # DistributedDataParallel fails for a parameter that never gets a gradient.
            parameter.requires_grad_(False)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and not is_frozen(name, config.optim.freeze))
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ConfigError(
                f"optim.freeze={config.optim.freeze}: leaves nothing that a loss of this run trains; remove a part"
            )

    @classmethod
    def settled(cls, config: TrainConfig) -> tuple[TrainConfig, Sequence[str]]:
        """(`config` with what its corpora decide, the names of the labels); ConfigError where they are for another task."""
        return config, ()

    @classmethod
    @abstractmethod
    def heads(cls, config: TrainConfig) -> tuple[Head, ...]:
        """The heads, in order."""

    @classmethod
    @abstractmethod
    def metrics(cls, config: TrainConfig) -> tuple[Metric, ...]:
        """What training and validation give besides `loss`, in the order of the report."""

    @classmethod
    @abstractmethod
    def work(cls, config: TrainConfig) -> Work:
        """What is computed per sample, from which FLOPs and memory follow."""

    @classmethod
    @abstractmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str] = ()) -> Reader:
        """The reader that makes samples and labels in loader workers; `names` are those of the labels."""

    @classmethod
    def gathered(cls, config: TrainConfig) -> int:
        """float32 numbers per sample that are gathered from all ranks; 0 if no loss compares samples of different ranks."""
        return 0

    @classmethod
    def contrast(cls, config: TrainConfig, samples: int) -> Callable[[], Tensor]:
        """A function that computes the loss that compares `samples` with each other: its memory grows with their square."""
        raise NotImplementedError

    @classmethod
    def compared(cls, config: TrainConfig, micro_batch: int, global_batch: int) -> int:
        """Consecutive samples of the global batch that such a loss compares with each other; 0 without one."""
        return 0

    @classmethod
    def embedding_work(cls, config: TrainConfig) -> Work:
        """What `embed` computes per sample."""
        raise NotImplementedError

    @classmethod
    def decided_by_micro_batch(cls, config: TrainConfig) -> str:
        """What depends on which samples share a micro-batch, for people; empty: nothing."""
        return ""

    @classmethod
    def recipe(cls, config: TrainConfig) -> list[tuple[str, str]]:
        """Rows of the model card about the losses."""
        return [("task", cls.title)]

    @classmethod
    def exported(cls, config: TrainConfig) -> Exported:
        """What an exported folder has beside weights, tokenizer and image processor."""
        return Exported({}, {}, [], {})

    @classmethod
    def from_export(cls, config: TrainConfig, settings: dict[str, Any], weights: dict[str, Tensor]) -> TrainConfig:
        """`config` (task and model) with the losses that exported weights were trained with, as far as needed to use them.

        `settings` are those of `exported`; empty for weights of others. ValueError, TypeError or KeyError where they do not fit.
        """
        return config

    @classmethod
    def stand_in(cls, config: TrainConfig, texts: int, number: int) -> dict[str, Any]:
        """What the json of record `number` of a made-up corpus has beside its `texts` captions, for rehearsals."""
        return {"url": f"https://example.com/{number}.jpg"}

    @classmethod
    def stand_in_names(cls, config: TrainConfig) -> list[str]:
        """The names of labels in such a corpus."""
        return []

    @classmethod
    @abstractmethod
    def blank_labels(cls, config: TrainConfig, size: int, length: int) -> dict[str, Tensor]:
        """Labels of `size` samples of `length` tokens with the reader's shapes and types, without data."""

    @classmethod
    def blank_batch(cls, config: TrainConfig, size: int, shape: Shape | None = None) -> Batch:
        """A batch with the loader's shapes, types and memory order, without data: for plans, rehearsals and warm-ups.

        `shape` is one of `config.shapes`; None: the one that takes most memory.
        """
        L, patches = shape or config.shapes[-1]
        S, images = config.model.image_size, size * cls.work(config).images
        pixels_BSSC = torch.zeros(images, S, S, 3, dtype=torch.uint8)
        return Batch(
            pixel_values=pixels_BSSC.permute(0, 3, 1, 2),
            input_ids=torch.zeros(size, L, dtype=torch.int64),
            text_mask=torch.ones(size, L, dtype=torch.bool),
            image_id=torch.arange(size),
            patches=None if patches is None else torch.arange(patches).repeat(images, 1),
            labels=cls.blank_labels(config, size, L),
        )

    @classmethod
    def show(
        cls, config: TrainConfig, batch: Batch, row: int, tokenizer: CaptionTokenizer, names: Sequence[str] = ()
    ) -> Shown:
        """A row of a batch on the host, as `bridgetower view` shows it; `names` are those of the labels."""
        images = len(batch.pixel_values) // len(batch.image_id)
        pixels = batch.pixel_values[row * images : (row + 1) * images]
        ids = batch.input_ids[row][batch.text_mask[row]]
        tokens = [Token(tokenizer.piece(i), kind="special" if tokenizer.special[i] else "plain") for i in ids.tolist()]
        labels = {name: str(tensor[row].tolist()) for name, tensor in batch.labels.items()}
        return Shown([(image, f"image {row}") for image in pixels], tokenizer.decode(ids), tokens, labels)

    @classmethod
    def adapt(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of another task's checkpoint, or of an exported folder, converted for this task's model.

        A type of token that only another task has is left out.
        """
        table = weights.get(TOKEN_TYPES)
        if table is None or table.shape[:1] != (3,):
            return weights
        return {**weights, TOKEN_TYPES: table[: cls.token_types]}

    @classmethod
    def released(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's weights, converted for an exported folder."""
        return weights

    def unread(self) -> Iterator[nn.Parameter]:
        """Parameters that no loss depends on."""
        return iter(())

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Parameter of the model -> the range that no update leads out of: a gradient that would do so is set to zero."""
        return {}

    @abstractmethod
    def counts(self, batch: Batch) -> Tensor:
        """float32 vector: the denominators of the means, for this micro-batch, without a host sync.

        `forward` takes their sum over the micro-batches and ranks of a step as `totals`.
        """

    @abstractmethod
    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics, Embedded]:
        """(loss, metrics as detached scalars on the device, what `across` reads), without collectives.

        Loss and metrics are sums divided by `totals` / number of ranks. So adding them (and the gradients) up over the
        micro-batches of a step and averaging over the ranks, as DistributedDataParallel does, gives the mean over the global
        batch.
        """

    def across(self, embedded: Embedded, totals: Tensor, among: int) -> tuple[Tensor, Metrics]:
        """(loss, metrics) of what compares samples, of one or several micro-batches of this rank; collective.

        Every `among` consecutive samples of the global batch are compared with each other, whichever ranks have them. Scaled as
        `forward`. Reads nothing but `embedded`, and so no weights.
        """
        return torch.zeros_like(totals[0]), {}

    def embed(self, batch: Batch) -> tuple[Embedded, dict[str, Tensor]]:
        """(what `forward` will give to `across`, labels for that call), without what comes after it in `forward`.

        The labels keep `forward` from drawing otherwise than here: they hold what a draw depends on. Called with the same random
        numbers as `forward`, it uses them in the same order.
        """
        raise NotImplementedError

    def encode_images(self, pixels: Tensor, patches: Tensor | None = None) -> ImageStates:
        """The states of the images of samples, uint8 (B * I, 3, S, S), those of a sample in a row; `patches` as in Batch."""
        return self.model.encode_image(pixels, patches=patches)

    def say(self, pixels: Tensor, text: str, tokenizer: CaptionTokenizer, device: Device, top: int) -> Said:
        """What the model says of a text about the images of a sample, uint8 (I, 3, S, S); `top` words or labels of each."""
        raise NotImplementedError

    def losses(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics]:
        """(loss, metrics with `loss`) of a batch by itself."""
        return whole(self(batch, totals), partial(self.across, totals=totals, among=len(batch.image_id)))


Across = Callable[[Embedded], tuple[Tensor, Metrics]]
"""The loss that compares samples, and its metrics, from what `Task.forward` gives for a micro-batch."""


def whole(parts: tuple[Tensor, Metrics, Embedded], across: Across) -> tuple[Tensor, Metrics]:
    """(loss, metrics with `loss`) of a micro-batch, from the result of `Task.forward`."""
    loss, metrics, embedded = parts
    compared, more = across(embedded)
    loss = loss + compared
    return loss, {"loss": loss.detach(), **metrics, **more}


@contextmanager
def evaluating(task: Task, device: Device) -> Iterator[None]:
    """Evaluation mode without gradients, under autocast; the former mode comes back at the end."""
    training = task.training
    task.eval()
    try:
        with torch.no_grad(), device.autocast():
            yield
    finally:
        task.train(training)
