"""`bridgetower eval matching`: does the model tell an image's caption from another image's?"""

from dataclasses import dataclass

from bridgetower_train.config import at_least
from bridgetower_train.evaluation.heldout import load_held_out
from bridgetower_train.evaluation.matching import BINS, match_scores, matching
from bridgetower_train.evaluation.protocol import announce, describe_held_out, keep, show
from bridgetower_train.evaluation.trained import load_run


@dataclass(frozen=True)
class EvalMatchingConfig:
    """`bridgetower eval matching`."""

    run_dir: str = "???"
    """Folder of the run; its newest whole checkpoint is evaluated."""
    corpus: str | None = None
    """Corpus folder; null: the run's `data.validation`."""
    root: str | None = None
    """Folder or URL that holds the corpus folder; null: the run's `data.root`."""
    samples: int = 1024
    """Images to take, evenly spread over the corpus, each with its first caption and that of the next."""
    device: str = "auto"
    """As `device.name` of a run."""

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 2)


def run(config: EvalMatchingConfig) -> int:
    """Print the figures with their protocol, and keep both in `eval.json` of the run folder."""
    trained = load_run(config.run_dir, config.device, needs=("itm",))
    corpus = trained.open_corpus(config.corpus, config.root)
    held_out = load_held_out(corpus, config.samples, trained.config.model.image_size)
    figures = matching(*match_scores(trained.predictor, held_out))
    shown = "the first of each image, and that of the next image as the mismatch"
    protocol = describe_held_out(trained, corpus, held_out, shown) | {
        "calibration": f"{BINS} equal bins of the probability of a match",
    }
    announce(protocol)
    show(figures)
    keep(trained.folder, f"matching on {corpus.name}", protocol, figures)
    return 0
