"""`bridgetower view data=... n=16`: write a page that shows a training batch as the model sees it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.data.augment import in_training
from bridgetower_train.data.dataset import PairDataset, open_data
from bridgetower_train.data.roots import require_root
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
    if config.tokenizer.startswith(f"{config.data.root}/"):
        require_root(config.data.root)
    tokenizer = CaptionTokenizer.load(hub.tokenizer(config.tokenizer))
    task = task_class(config)
    settled, names = task.settled(config)
    data = open_data(settled, tokenizer, task.reader(settled, tokenizer, names))
    atomic_write(Path(config.out), batch_page(read_batch(config, data, tokenizer, names)))
    print_line(f"view: {Path(config.out).resolve()}")


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
        "image": in_training(config),
        "text length L": str(batch.input_ids.shape[1]),
    }
    remarks = ["Images are shown exactly as the model gets them, before CLIP's normalisation."]
    if batch.patches is not None:
        remarks.append(f"Of each it sees {batch.patches.shape[1]} patches, which are not marked here.")
    corpora = [
        (c.name, f"{c.manifest.images:,}", f"{c.manifest.captions:,}", f"{config.data.corpora[c.name]:g}")
        for c in data.corpora
    ]
    sources = [data.describe(sample_index) for sample_index in range(first, first + config.n)]
    shown = [task_class(config).show(data.config, batch, row, tokenizer, names) for row in range(config.n)]
    return BatchView(f"Batch of step {config.step:,}", facts, remarks, corpora, batch, sources, shown)
