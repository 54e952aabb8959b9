"""Zero-shot classification: the class whose name, in prompts, is most similar to an image (Radford et al., 2021, 3.1).

Shapes: I images, C classes, P prompts of a class, E width of the embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.config import TEMPLATES, TrainConfig, at_least, check_templates
from bridgetower_train.data.manifest import CLASSES
from bridgetower_train.data.shards import BadRecordError, Corpus
from bridgetower_train.display import listed
from bridgetower_train.distributed import ALONE, Ranks
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.base import EvalOptions, Evaluation, Figures, OpenModel, Result
from bridgetower_train.evaluation.choices import print_percent
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.evaluation.ranking import TIE, Ints
from bridgetower_train.evaluation.retrieval import embed_images, embed_texts
from bridgetower_train.tasks.classification.reader import ListedLabelReader
from bridgetower_train.tasks.names import names_of_corpus
from bridgetower_train.tasks.pretraining.predictor import Predictor

AMONG = 5
"""Classes among which the right one also counts, where there are more."""


@dataclass(frozen=True)
class ZeroShotOptions(EvalOptions):
    """`bridgetower eval zero_shot`, also under torchrun, on a corpus of `bridgetower prep classes`."""

    templates: list[str] = field(default_factory=lambda: list(TEMPLATES))
    """Prompts, in which {} stands for the name of a class; an image is compared with the mean of a class's embeddings."""
    samples: int | None = None
    """At most so many images, evenly spread; null: all."""
    batch: int = 64
    """Images that are computed at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_templates("templates", self.templates)
        at_least("samples", self.samples or 1, 1)
        at_least("batch", self.batch, 1)


class LabelledImages:
    """Images of a corpus with a class each, and the names of the classes."""

    def __init__(self, corpus: Corpus, config: TrainConfig, samples: int | None = None) -> None:
        """`config`: of the run, which says how its model sees images. `samples`: at most so many, evenly spread; None: all.

        ConfigError where the corpus has no classes, or several of an image.
        """
        if found := _instead_of_classes(corpus):
            raise ConfigError(
                f"corpus={corpus.name}: has {found}; give one that `bridgetower prep classes` wrote with one class an image"
            )
        self.names = names_of_corpus(corpus.folder.removesuffix(f"/{corpus.name}"), corpus.name, CLASSES)
        self.images = EvalSet(corpus, config, samples)
        reader, self._label, bad = ListedLabelReader(self.names), dict[int, int](), dict[int, str]()
        for number, row in enumerate(self.images.rows):
            try:
                record = corpus.read(row)
                labels = {reader.asked(record, text, required=True).truth for text in range(reader.count(record))}
                if len(labels) != 1:
                    raise BadRecordError("its texts have different classes")
                self._label[row] = labels.pop()
            except BadRecordError as error:
                bad[number] = error.reason
        self.images.leave_out(bad)
        self.images.require_two()

    @property
    def labels(self) -> Ints:
        """int64 (I,)."""
        return np.array([self._label[row] for row in self.images.rows])


def _instead_of_classes(corpus: Corpus) -> str:
    """What a corpus has in place of one class an image; empty if it has that."""
    noted = corpus.manifest.extra
    if noted.get("several"):
        return "several classes of an image"
    return "" if noted.get("task") == "classes" else "no classes"


def class_embeddings(predictor: Predictor, names: Sequence[str], templates: Sequence[str], ranks: Ranks) -> Tensor:
    """(C, E), of length 1: the mean of the embeddings of a class's prompts."""
    prompts = [template.replace("{}", name.replace("_", " ")) for name in names for template in templates]
    embeddings_CPE = embed_texts(predictor, prompts, ranks, 256).unflatten(0, (len(names), len(templates)))
    return F.normalize(embeddings_CPE.mean(1), dim=-1)


def zero_shot(
    predictor: Predictor, labelled: LabelledImages, templates: Sequence[str], batch: int, ranks: Ranks = ALONE
) -> Figures:
    """Accuracy over all images, the mean of the classes' own, and that among the first five classes, in percent.

    A tie counts against. Images that cannot be decoded are removed from `labelled`.
    """
    images_IE = embed_images(predictor, labelled.images, ranks, batch, "images")
    labelled.images.require_two()
    cosines_IC = images_IE @ class_embeddings(predictor, labelled.names, templates, ranks).T
    label_I = torch.from_numpy(labelled.labels)
    rank_I = (cosines_IC >= cosines_IC.gather(1, label_I[:, None]) - TIE).sum(1).numpy()
    right_I = rank_I == 1
    of_classes = [right_I[label_I == label].mean() for label in label_I.unique().tolist()]
    figures: Figures = {
        "accuracy, %": 100 * float(right_I.mean()),
        "mean of classes, %": 100 * float(np.mean(of_classes)),
    }
    if len(labelled.names) > AMONG:
        figures[f"accuracy among {AMONG}, %"] = 100 * float((rank_I <= AMONG).mean())
    return figures | {"chance, %": 100 / len(labelled.names)}


def _run(model: OpenModel, corpus: Corpus, options: ZeroShotOptions, ranks: Ranks) -> Result:
    labelled = LabelledImages(corpus, model.config, options.samples)
    figures = zero_shot(Predictor(*model), labelled, options.templates, options.batch, ranks)
    protocol: dict[str, Any] = {
        "images": len(labelled.images),
        "classes": len(labelled.names),
        "templates": "; ".join(options.templates),
        "left out": listed(labelled.images.left_out),
        "ties": "count against",
    }
    return Result(figures, protocol)


def _brief(model: OpenModel, images: EvalSet) -> Result:
    """Of a corpus of classes."""
    if _instead_of_classes(images.corpus):
        return Result({})
    labelled = LabelledImages(images.corpus, model.config, len(images))
    figures = zero_shot(Predictor(*model), labelled, TEMPLATES, 64)
    return Result({"zero-shot accuracy, %": figures["accuracy, %"]})


ZERO_SHOT = Evaluation(
    "zero-shot", ("itc_text_head", "itc_image_head"), ZeroShotOptions, _run, _brief, show=print_percent
)
