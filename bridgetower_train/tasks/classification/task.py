"""What tasks share that choose among labels: a text about one image or several, fused with each, and a head on all pooled pairs.

Shapes: B samples, I images a sample, P texts, D width, C labels.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.config import ClassifierConfig, ModelConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.manifest import CLASSES
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.bridgetower import ImageStates, Pairs
from bridgetower_train.model.flops import Work
from bridgetower_train.model.heads import Head
from bridgetower_train.tasks.base import HEAD_FILE, Embedded, Exported, Metric, Metrics, Said, Shown, Task, evaluating
from bridgetower_train.tasks.classification.head import TwoLayerHead
from bridgetower_train.tasks.classification.reader import TextReader
from bridgetower_train.tasks.gather import world_size
from bridgetower_train.tasks.names import names_of_corpora, noted

_LOADER = f"""The head is in `{HEAD_FILE}`, the names of its labels, by number, in `NAMES`:

```python
import torch
from torch import nn
from safetensors.torch import load_file

weights = load_file("{HEAD_FILE}")
hidden, wide = weights["HEAD.0.weight"].shape
labels = len(weights["HEAD.3.bias"])
head = nn.Sequential(nn.Linear(wide, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, labels)).eval()
head.load_state_dict({{name[len("HEAD.") :]: weight for name, weight in weights.items() if name.startswith("HEAD.")}})
LOGITS
```"""
"""How a head is loaded, for the model card."""

GREY = 127
"""What a blind model sees."""


class Classification(Task):
    """A text about one or several images, and which of C labels it has."""

    names_file: ClassVar[str] = CLASSES
    head_file: ClassVar[str] = HEAD_FILE
    head_name: ClassVar[str]
    images: ClassVar[int] = 1
    hidden: ClassVar[float] = 2.0
    """Width of the head's first layer, in multiples of 2 D."""
    head_dropout: ClassVar[float] = 0.0
    hub_task: ClassVar[str] = "image-classification"
    loaded_logits: ClassVar[str] = "logits = head(outputs.pooler_output)"
    """How a model card says that logits are computed by trunk and head."""
    published_labels: ClassVar[int]
    """C where no corpus says."""

    @classmethod
    def settled(cls, config: TrainConfig) -> tuple[TrainConfig, list[str]]:
        decided = cls.decided(noted(config))
        names = names_of_corpora(config, cls.names_file)
        given = config.classifier.labels
        if given is not None and given != len(names):
            raise ConfigError(
                f"classifier.labels={given}: {cls.names_file} of the corpora names {len(names)}; leave it out"
            )
        classifier = replace(config.classifier, labels=len(names), **decided)
        return replace(config, classifier=classifier), names

    @classmethod
    def decided(cls, noted: dict[str, Any]) -> dict[str, Any]:
        """Keys of `classifier` that follow from what the manifests note."""
        return {}

    @classmethod
    def labels(cls, config: TrainConfig) -> int:
        """C."""
        return config.classifier.labels or cls.published_labels

    @classmethod
    def heads(cls, config: TrainConfig) -> tuple[Head, ...]:
        build = partial(_head, cls.images, cls.hidden, cls.labels(config), cls.head_dropout)
        return (Head(cls.head_name, build, rows=1, size_key="classifier.labels", last="3"),)

    @classmethod
    def metrics(cls, config: TrainConfig) -> tuple[Metric, ...]:
        return (Metric("acc", "right", "max"),)

    @classmethod
    def work(cls, config: TrainConfig) -> Work:
        return Work(images=cls.images, texts=1, pooled=cls.images, read=0, tokens=0, heads=cls.heads(config))

    @classmethod
    @abstractmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str] = ()) -> TextReader: ...

    @classmethod
    def stand_in(cls, config: TrainConfig, texts: int, number: int) -> dict[str, Any]:
        label = number % cls.labels(config)
        ids = [f"{number}-{text}" for text in range(texts)]
        return {"ids": ids, "premises": ["a photograph"] * texts, "labels": [label] * texts}

    @classmethod
    def stand_in_names(cls, config: TrainConfig) -> list[str]:
        return [f"label {number}" for number in range(cls.labels(config))]

    @classmethod
    def blank_labels(cls, config: TrainConfig, size: int, length: int) -> dict[str, Tensor]:
        return {"label": torch.zeros(size, dtype=torch.int64)}

    @classmethod
    def recipe(cls, config: TrainConfig) -> list[tuple[str, str]]:
        shown = [("images", "all grey")] if config.classifier.blind else []
        return [("task", cls.title), ("labels", f"{cls.labels(config):,}"), *shown]

    @classmethod
    def exported(cls, config: TrainConfig) -> Exported:
        classifier = config.classifier
        settings = {"several": classifier.several, "premise": classifier.premise, "blind": classifier.blind}
        note = (
            _LOADER.replace("NAMES", cls.names_file).replace("HEAD", cls.head_name).replace("LOGITS", cls.loaded_logits)
        )
        return Exported({}, {}, [note], settings)

    @classmethod
    def from_export(cls, config: TrainConfig, settings: dict[str, Any], weights: dict[str, Tensor]) -> TrainConfig:
        several = settings.get("several")
        classifier = ClassifierConfig(
            labels=len(weights[f"{cls.head_name}.3.bias"]),
            several=None if several is None else bool(several),
            premise=bool(settings.get("premise", False)),
            blind=bool(settings.get("blind", False)),
        )
        return replace(config, classifier=classifier)

    @classmethod
    def show(
        cls, config: TrainConfig, batch: Batch, row: int, tokenizer: CaptionTokenizer, names: Sequence[str] = ()
    ) -> Shown:
        return (
            super()
            .show(config, batch, row, tokenizer, names)
            ._replace(facts={"label": cls.in_words(batch.labels, row, names)})
        )

    @classmethod
    def in_words(cls, labels: dict[str, Tensor], row: int, names: Sequence[str]) -> str:
        """What is right for a row of a batch."""
        return names[int(labels["label"][row])]

    def counts(self, batch: Batch) -> Tensor:
        """float32 (1,): samples. The first count is of those that train, the last of all."""
        return torch.full_like(batch.image_id[:1], len(batch.image_id)).float()

    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics, Embedded]:
        logits_BC = self.logits(batch.pixel_values, batch.input_ids, batch.text_mask, patches=batch.patches)
        loss, right = self.judge(logits_BC, batch.labels)
        per_rank = totals.clamp(min=1) / world_size()
        return loss / per_rank[0], {"acc": (right / per_rank[-1]).detach()}, {}

    def judge(self, logits_BC: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(loss, how many are right), each summed over the samples."""
        label_B = labels["label"]
        return F.cross_entropy(logits_BC, label_B, reduction="sum"), (logits_BC.argmax(-1) == label_B).sum()

    def logits(
        self,
        pixels: Tensor,
        ids_PL: Tensor,
        mask_PL: Tensor,
        rows_P: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> Tensor:
        """(P, C) of texts about images, uint8 (B * I, 3, S, S): those of row `rows_P` of B; None: of the same row.

        `patches`: as `Batch.patches`.
        """
        images, P = self.images, len(ids_PL)
        image, text = self.encode_images(pixels, patches), self.model.encode_text(ids_PL, mask_PL)
        rows_P = torch.arange(P, device=ids_PL.device) if rows_P is None else rows_P
        places_I = torch.arange(images, device=ids_PL.device)
        image_rows = (rows_P[:, None] * images + places_I).flatten()
        text_rows = torch.arange(P * images, device=ids_PL.device) // images
        fused = self.model.fuse(image, text, Pairs(image_rows, text_rows, P * images))
        logits_PC: Tensor = self.model.head(self.head_name)(fused.pooled.unflatten(0, (P, images)).flatten(1))
        return logits_PC

    def encode_images(self, pixels: Tensor, patches: Tensor | None = None) -> ImageStates:
        return self.model.encode_image(self._seen(pixels), patches=patches)

    def say(self, pixels: Tensor, text: str, tokenizer: CaptionTokenizer, device: Device, top: int) -> Said:
        ids, mask = tokenizer.encode([text], self.model.config.max_text_len)
        with evaluating(self, device):
            logits_1C = self.logits(*(tensor.to(device.torch_device) for tensor in (pixels, ids, mask)))
        best = self.probabilities(logits_1C.float().cpu())[0].topk(min(top, len(self.names)))
        return Said({}, [], [(self.names[i], float(p)) for p, i in zip(*best, strict=True)])

    def probabilities(self, logits_PC: Tensor) -> Tensor:
        """(P, C), of each label by itself or of one among all, as the loss takes them."""
        return logits_PC.softmax(-1)

    def _seen(self, pixels: Tensor) -> Tensor:
        """`pixels`, or grey in their place."""
        return torch.full_like(pixels, GREY) if self.config.classifier.blind else pixels


def several_losses(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """(B,): binary cross entropy with logits, summed over the labels, that is the mean times their number."""
    return F.binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none").sum(-1)


def _head(images: int, hidden: float, labels: int, dropout: float, config: ModelConfig) -> TwoLayerHead:
    width = 2 * config.width
    return TwoLayerHead(images * width, int(hidden * width), labels, config.layer_norm_eps, dropout)
