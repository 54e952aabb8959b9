"""Corpora for a rehearsal without the real ones."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.manifest import as_file
from bridgetower_train.data.shards import INDEX_DTYPE, open_corpus
from bridgetower_train.planning.corpora import PUBLISHED
from bridgetower_train.tasks import task_class
from data_prep.shapes.synthetic import synthetic_corpus
from data_prep.shards.repeated import repeat_shard

_IMAGES = 16  # distinct ones

OTHER = (100_000, 500_000)
"""Images and captions of a corpus without published counts."""


def size_of(corpus: str) -> tuple[int, int]:
    """(images of `corpus`, its mean number of captions per image)."""
    images, captions = PUBLISHED.get(corpus, OTHER)
    return images, round(captions / images)


def index_bytes(corpora: Iterable[str]) -> int:
    """Bytes of the indexes of synthetic corpora on disk; the rest is small."""
    return sum(size_of(corpus)[0] for corpus in corpora) * INDEX_DTYPE.itemsize


def write_corpora(root: Path, corpora: Iterable[str], config: TrainConfig) -> None:
    """Write synthetic `corpora` below `root`, for the task and with images of the size of a run."""
    task, image_size = task_class(config), config.model.image_size
    extra = {"task": config.task} if task.names_file else {}
    sources: dict[int, Path] = {}
    for corpus in corpora:
        images, captions = size_of(corpus)
        if captions not in sources:
            sources[captions] = synthetic_corpus(
                root / f"source_{captions}", image_size, _IMAGES, _IMAGES, captions,
                partial(task.stand_in, config, captions), task.work(config).images, extra,
            )  # fmt: skip
        source = sources[captions]
        repeat_shard(open_corpus(str(source.parent), source.name), root / corpus, images)
        if task.names_file:
            (root / corpus / task.names_file).write_text(as_file(task.stand_in_names(config)))
