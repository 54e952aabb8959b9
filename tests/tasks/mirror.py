"""A complete task in one file: is the second image the first one, or its mirror image?

Two images a sample, labels, a head, a loss, a metric and an evaluation of its own, and nothing about it anywhere else. As a
program it is `bridgetower` with that task: `python mirror.py train task=mirror ...`.

Shapes: B samples, D width.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from bridgetower_train.cli import entry
from bridgetower_train.config import ModelConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.reader import Samples, View
from bridgetower_train.data.shards import Corpus, Record
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation import EVALUATIONS, Evaluation
from bridgetower_train.evaluation.base import OpenModel, Result, SampledOptions
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.model.bridgetower import Pairs
from bridgetower_train.model.flops import Work
from bridgetower_train.model.heads import Head, LinearHead
from bridgetower_train.tasks import TASKS
from bridgetower_train.tasks.base import Embedded, Metric, Metrics, Shown, Task, evaluating
from bridgetower_train.tasks.gather import world_size


def mirrored(image: bytes | memoryview) -> bytes:
    """The encoded mirror image."""
    buffer = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(image))).save(buffer, "JPEG")
    return buffer.getvalue()


class MirrorReader:
    """Every other caption of an image comes with its mirror image as the second one."""

    images = 2

    def count(self, record: Record) -> int:
        return len(record.captions)

    def view(self, record: Record, number: int) -> View:
        second = mirrored(record.image) if number % 2 else record.image
        return View((record.image, second), record.captions[number])

    def labels(self, samples: Samples) -> dict[str, Tensor]:
        return {"mirrored": torch.tensor(samples.numbers) % 2}


def mirror_head(config: ModelConfig) -> LinearHead:
    return LinearHead(4 * config.width, 2)


class Mirror(Task):
    """See Task: both images are fused with the text, and the head reads the two pooled pairs together."""

    title: ClassVar[str] = "mirror images"

    @classmethod
    def heads(cls, config: TrainConfig) -> tuple[Head, ...]:
        return (Head("mirror_score", mirror_head, rows=1),)

    @classmethod
    def metrics(cls, config: TrainConfig) -> tuple[Metric, ...]:
        return Metric("loss_mirror", "Mirror images", "min"), Metric("acc_mirror", "mirrored", "max")

    @classmethod
    def work(cls, config: TrainConfig) -> Work:
        return Work(images=2, texts=1, pooled=2, read=0, tokens=0, heads=cls.heads(config))

    @classmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str] = ()) -> MirrorReader:
        return MirrorReader()

    @classmethod
    def blank_labels(cls, config: TrainConfig, size: int, length: int) -> dict[str, Tensor]:
        return {"mirrored": torch.zeros(size, dtype=torch.int64)}

    @classmethod
    def show(
        cls, config: TrainConfig, batch: Batch, row: int, tokenizer: CaptionTokenizer, names: Sequence[str] = ()
    ) -> Shown:
        answer = "mirrored" if batch.labels["mirrored"][row] else "the same"
        return super().show(config, batch, row, tokenizer)._replace(facts={"second image": answer})

    def unread(self) -> Iterator[nn.Parameter]:
        return iter(())

    def counts(self, batch: Batch) -> Tensor:
        return torch.full_like(batch.image_id[:1], len(batch.image_id)).float()

    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics, Embedded]:
        image = self.model.encode_image(batch.pixel_values)
        text = self.model.encode_text(batch.input_ids, batch.text_mask)
        images = torch.arange(len(batch.pixel_values), device=batch.image_id.device)
        fused = self.model.fuse(image, text, Pairs(images, images // 2, len(images)))
        logits_B2 = self.model.head("mirror_score")(fused.pooled.unflatten(0, (-1, 2)).flatten(1))
        total = totals[0] / world_size()
        loss = F.cross_entropy(logits_B2, batch.labels["mirrored"], reduction="sum") / total
        right = (logits_B2.argmax(-1) == batch.labels["mirrored"]).sum() / total
        return loss, {"loss_mirror": loss.detach(), "acc_mirror": right}, {}


@dataclass(frozen=True)
class MirrorOptions(SampledOptions):
    """`bridgetower eval mirror`."""


def evaluate(model: OpenModel, corpus: Corpus, options: MirrorOptions, ranks: Ranks) -> Result:
    """Every other image comes with its mirror image."""
    images = EvalSet(corpus, model.config, options.samples).load()
    B = len(images)
    truth = torch.arange(B) % 2
    pixels = images.pixels.repeat_interleave(2, 0)
    pixels[3::4] = pixels[3::4].flip(-1)
    ids, mask = model.tokenizer.encode(images.first, model.config.model.max_text_len)
    batch = Batch(pixels, ids, mask, torch.arange(B), {"mirrored": truth}).to(model.device.torch_device)
    with evaluating(model.task, model.device):
        right = model.task.losses(batch, model.task.counts(batch))[1]["acc_mirror"]
    shown = [{"image": pixels[2], "caption": "an image"}, {"image": pixels[3], "caption": "and its mirror image"}]
    example = {"images": shown, "text": images.first[1], "facts": {"of": B}}
    return Result({"mirror accuracy": float(right)}, {"images": B}, [example])


MIRROR_ACCURACY = Evaluation("mirror images", ("mirror_score",), MirrorOptions, evaluate)


if __name__ == "__main__":
    # Loader workers find the reader by the name of this module, not of the program.
    import mirror

    TASKS["mirror"] = mirror.Mirror
    EVALUATIONS["mirror"] = mirror.MIRROR_ACCURACY
    entry()
