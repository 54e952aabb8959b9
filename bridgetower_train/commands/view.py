"""`bridgetower view data=... n=16`: write a page that shows a training batch as the model sees it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.data.augment import in_training
from bridgetower_train.data.dataset import PairDataset, open_data
from bridgetower_train.data.roots import require_root_of
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.display import print_line
from bridgetower_train.files import atomic_write
from bridgetower_train.pages.batch import BatchView, batch_page
from bridgetower_train.tasks import task_class
from bridgetower_train.weights import hub


@dataclass(frozen=True)
class ViewConfig(TrainConfig):
    """A run, and which of its samples to show."""

    n: int = 16
    """Samples to show, starting with the first of the step."""
    step: int = 0
    """Step of the run, counted from 0."""
    out: str = "view.html"
    """File to write the page to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n", self.n, 1)
        at_least("step", self.step, 0)


def run(config: ViewConfig) -> None:
    """Write the page."""
    require_root_of(config.tokenizer, config.data.root)
    tokenizer = CaptionTokenizer.load(hub.tokenizer(config.tokenizer))
    task = task_class(config)
    settled, names = task.settled(config)
    data = open_data(settled, tokenizer, task.reader(settled, tokenizer, names))
    atomic_write(Path(config.out), batch_page(read_batch(config, data, tokenizer, names)))
    print_line(f"view: {Path(config.out).resolve()}")


def _repeats(config: ViewConfig, data: PairDataset, sources: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Says why images appear more than once, if they do."""
    different = len({(source["corpus"], source["shard"], source["key"]) for source in sources})
    if different == len(sources):
        return
    why = [f"there are {sum(corpus.manifest.images for corpus in data.corpora):,} in all"]
    if config.data.captions == "all" and any(len(source["kinds"]) > 1 for source in sources):
        why.append("an epoch has each once with each of its captions (data.captions=all)")
    if len(data) < config.global_batch:
        why.append(f"a step of {config.global_batch:,} samples is {config.global_batch / len(data):.1f} epochs")
    if any(passes > 1 for passes in config.data.corpora.values()):
        why.append("an epoch passes a corpus more than once (data.corpora)")
    yield f"These {len(sources):,} samples show {different:,} different images: {'; '.join(why)}."


def read_batch(
    config: ViewConfig, data: PairDataset, tokenizer: CaptionTokenizer, names: Sequence[str] = ()
) -> BatchView:
    """The samples to show; whole lanes are read, since a label may refer to another sample of its lane. `names`: of labels."""
    lanes = math.ceil(config.n / config.samples_per_lane)
    first = config.step * config.global_batch
    batch = data.__getitems__(range(first, first + lanes * config.samples_per_lane))
    facts = {
        "samples per step": f"{config.global_batch:,}",
        "of each lane": f"{config.samples_per_lane:,}",
        "lanes": f"{config.data.lanes:,}",
        "samples per epoch": f"{len(data):,}",
        "steps per epoch": f"{len(data) / config.global_batch:,.1f}",
        "text length L": str(batch.input_ids.shape[1]),
    }
    corpora = [
        (c.name, f"{c.manifest.images:,}", f"{c.manifest.captions:,}", f"{config.data.corpora[c.name]:g}")
        for c in data.corpora
    ]
    sources = [data.describe(sample_index) for sample_index in range(first, first + config.n)]
    remarks = [
        f"Images are shown exactly as the model gets them ({in_training(config)}), before CLIP's normalisation.",
        *_repeats(config, data, sources),
    ]
    if batch.patches is not None:
        remarks.append(f"Of each it sees {batch.patches.shape[1]} patches, which are not marked here.")
    shown = [task_class(config).show(data.config, batch, row, tokenizer, names) for row in range(config.n)]
    return BatchView(f"Batch of step {config.step:,}", facts, remarks, corpora, batch, sources, shown)
