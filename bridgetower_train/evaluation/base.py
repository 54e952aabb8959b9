"""An opened model, and what an evaluation of it is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from bridgetower_train.config import DeviceConfig, TrainConfig, at_least
from bridgetower_train.data.roots import RootOptions, root_of_run
from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import Ranks, local_rank
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.tasks import Task, task_class
from bridgetower_train.weights.fit import fit
from bridgetower_train.weights.saved import SavedModel, read_saved

Figures = dict[str, Any]
"""Name -> figure, or a group of figures of its own."""


class OpenModel(NamedTuple):
    """A model on its device with all that an answer takes."""

    task: Task
    tokenizer: CaptionTokenizer
    device: Device

    @property
    def config(self) -> TrainConfig:
        """Of the run that trained it, as far as known."""
        return self.task.config


def open_model(
    source: str, step: str = "newest", device: str = "auto", tokenizer: str | None = None
) -> tuple[OpenModel, SavedModel]:
    """(the model, ready to use; where it is from): `source` is a run folder, an exported folder or a name on the hub.

    `device`: as `device.name`. `step`, `tokenizer` and errors: as those of `read_saved` and `make_device`.
    """
    saved, weights = read_saved(source, step, tokenizer)
    config = saved.config
    chosen, _ = make_device(DeviceConfig(device, config.device.precision), local_rank())
    task = task_class(config)(config, chosen.attention)
    task.names = saved.names
    fitted, _ = fit(task.adapt(weights), task.model.state_dict(), saved.named, task.heads(config))
    task.model.load_state_dict(fitted)
    task.to(chosen.torch_device)
    chosen.compile(task.model)
    return OpenModel(task, saved.tokenizer, chosen), saved


class Picture(NamedTuple):
    """An image of an example, for a tracker."""

    pixels: Tensor
    """uint8 (3, S, S)."""
    caption: str


@dataclass(frozen=True)
class ModelOptions:
    """What all commands take that ask a model."""

    run_dir: str = "???"
    """Run folder, exported folder, or name on the Hugging Face hub."""
    step: str = "newest"
    """Checkpoint of the run: `newest`, `best` (see `checkpoint.best`), or a number of steps."""
    tokenizer: str | None = None
    """Where the model's tokenizer is now; null: where the run had it, or in the exported folder."""
    device: str = "auto"
    """As `device.name` of a run."""


@dataclass(frozen=True)
class EvalOptions(RootOptions, ModelOptions):
    """What all evaluations take."""

    root: str | None = None
    """Folder or URL that holds the corpus folder; null: the run's `data.root`, if that is local."""
    corpus: str | None = None
    """Corpus folder; null: the run's `data.validation`."""
    corpora: list[str] = field(default_factory=list)
    """Several corpus folders instead, one after another; one table shows them all."""
    kind: str | None = None
    """Captions of this kind alone, and images that have one; null: those of all kinds, in the order of the corpus."""
    out: str | None = None
    """JSON file that keeps the figures; null: `eval.json` in the run folder or exported folder."""


@dataclass(frozen=True)
class SampledOptions(EvalOptions):
    """What evaluations of a sample of a corpus take."""

    samples: int = 1024
    """Images to take, evenly spread over the corpus."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("samples", self.samples, 2)


@dataclass(frozen=True)
class Result:
    """What an evaluation found."""

    figures: Figures
    protocol: dict[str, Any] = field(default_factory=dict)
    """What must be known of the figures beside `protocol.describe`."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """For the report, see `pages.report`."""


def print_figures(figures: Figures) -> None:
    """One line per figure."""
    for name, value in figures.items():
        print(f"{name:32}{f'{value:,.0f}' if value == int(value) and value > 1 else f'{value:.4f}'}")


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that `bridgetower eval NAME` runs."""

    title: str
    """Its key in eval.json is `TITLE on CORPUS`."""
    heads: tuple[str, ...]
    """Without one of these, a model cannot be evaluated so."""
    options: type[EvalOptions]
    """Its keys on the command line; each evaluation has a class of its own."""
    run: Callable[[OpenModel, Corpus, Any, Ranks], Result]
    """(model, corpus, options, ranks) -> result, the same on all ranks."""
    brief: Callable[[OpenModel, EvalSet], Result] | None = None
    """What `bridgetower eval` shows of it, on a sample of images; None: all."""
    validation: Callable[[OpenModel, EvalSet, Ranks], dict[str, float]] | None = None
    """What is logged during training, by the names of `Task.metrics`: the work of all ranks, the same on all."""
    pictures: Callable[[OpenModel, EvalSet], list[Picture]] | None = None
    """A few examples among loaded images, for what shows images during training."""
    show: Callable[[Figures], None] = print_figures
    """Prints the figures."""

    def lacks(self, config: TrainConfig) -> list[str]:
        """The heads that it needs and models of this configuration do not have."""
        there = {head.name for head in task_class(config).heads(config)}
        return [head for head in self.heads if head not in there]


def corpus_of(options: EvalOptions, config: TrainConfig) -> Corpus:
    """The corpus that `options` name, by default the held-out one of the run; ConfigError where they do not suffice."""
    name = options.corpus or config.data.validation
    if name is None:
        raise ConfigError("corpus: the model brings no data.validation; name a corpus folder below root")
    return named_corpus(name, options, config)


def named_corpus(name: str, options: RootOptions, config: TrainConfig) -> Corpus:
    """The corpus of that name below `options.root`, by default where the run had its own; ConfigError where that is not known."""
    data = config.data
    root = root_of_run(data.root, options.root)
    if root == "???":
        raise ConfigError("root: exported weights bring no data.root; name the folder that holds the corpus folder")
    if root is None:
        raise ConfigError(
            f"root: data.root of the run is remote ({data.root}); to read it from there, give root=... and cache_dir=..."
        )
    return open_corpus(root, name, options.cache, options.follow_links)
