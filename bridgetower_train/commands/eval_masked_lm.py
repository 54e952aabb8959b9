"""`bridgetower eval masked_lm`: masked words, and how much of them the model reads from the image."""

from dataclasses import dataclass

from bridgetower_train.config import at_least
from bridgetower_train.evaluation.heldout import load_held_out
from bridgetower_train.evaluation.masked_lm import masked_lm
from bridgetower_train.evaluation.protocol import announce, describe_held_out, keep, show
from bridgetower_train.evaluation.trained import load_run


@dataclass(frozen=True)
class EvalMaskedLmConfig:
    """`bridgetower eval masked_lm`."""

    run_dir: str = "???"
    """Folder of the run; its newest whole checkpoint is evaluated."""
    corpus: str | None = None
    """Corpus folder; null: the run's `data.validation`."""
    root: str | None = None
    """Folder or URL that holds the corpus folder; null: the run's `data.root`."""
    samples: int = 1024
    """Images to take, evenly spread over the corpus, each with its first caption."""
    seed: int = 0
    """Seed of the masks."""
    device: str = "auto"
    """As `device.name` of a run."""

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 2)
        at_least("seed", self.seed, 0)


def run(config: EvalMaskedLmConfig) -> int:
    """Print the figures with their protocol, and keep both in `eval.json` of the run folder."""
    trained = load_run(config.run_dir, config.device, needs=("mlm",))
    corpus = trained.open_corpus(config.corpus, config.root)
    held_out = load_held_out(corpus, config.samples, trained.config.model.image_size)
    probability = trained.config.objective.mlm_probability
    figures = masked_lm(trained.predictor, held_out, probability, config.seed)
    protocol = describe_held_out(trained, corpus, held_out, "the first of each image") | {
        "masked": f"{probability:.0%} of the tokens, 80/10/10 as in training, seed {config.seed}",
    }
    announce(protocol)
    show(figures)
    keep(trained.folder, f"masked words on {corpus.name}", protocol, figures)
    return 0
