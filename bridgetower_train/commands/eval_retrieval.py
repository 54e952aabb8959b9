"""`bridgetower eval retrieval`: does an image find its captions among those of a whole corpus, and a caption its image?"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from bridgetower_train.config import at_least
from bridgetower_train.distributed import init_ranks, shut_down
from bridgetower_train.evaluation.captioned import CaptionedImages, count_cut
from bridgetower_train.evaluation.full_retrieval import Figures, evaluate
from bridgetower_train.evaluation.protocol import announce, describe, keep
from bridgetower_train.evaluation.trained import TrainedRun, load_run


@dataclass(frozen=True)
class EvalRetrievalConfig:
    """`bridgetower eval retrieval`, also under torchrun."""

    run_dir: str = "???"
    """Folder of the run; its newest whole checkpoint is evaluated."""
    corpus: str | None = None
    """Corpus folder, for published figures one of a test split (`prep coco splits=[test]`); null: `data.validation`."""
    root: str | None = None
    """Folder or URL that holds the corpus folder; null: the run's `data.root`."""
    captions: int | None = 5
    """At most so many captions of an image, the first ones; 5 as published; null: all."""
    rerank: int = 0
    """Also rank the best so many candidates of each query anew, by image-text matching: 256 for COCO and 128 for Flickr30k
    as published; 0: the contrast alone."""
    fold: int | None = None
    """Also evaluate among so many images, fold after fold, and give the mean: 1000 is COCO 1k (five folds)."""
    batch: int = 64
    """Images, and pairs, that are computed at once."""
    device: str = "auto"
    """As `device.name` of a run."""

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 1)
        at_least("rerank", self.rerank, 0)
        at_least("captions", self.captions or 1, 1)
        at_least("fold", self.fold or 2, 2)


def run(config: EvalRetrievalConfig) -> int:
    """Print the figures with the protocol that they come from, and keep both in `eval.json` of the run folder."""
    trained = load_run(config.run_dir, config.device, needs=("itc", "itm") if config.rerank else ("itc",))
    corpus = trained.open_corpus(config.corpus, config.root)
    images = CaptionedImages(corpus, trained.config.model.image_size, config.captions)
    ranks = init_ranks(trained.device.backend, trained.config.distributed)
    try:
        figures = evaluate(trained.predictor, images, config.rerank, config.fold, ranks, config.batch)
        if ranks.is_main:
            protocol = describe(trained, corpus) | _protocol(config, trained, images)
            announce(protocol)
            show(figures)
            keep(trained.folder, f"retrieval on {corpus.name}", protocol, figures)
    finally:
        shut_down()
    return 0


def _protocol(config: EvalRetrievalConfig, trained: TrainedRun, images: CaptionedImages) -> dict[str, Any]:
    counts = Counter(len(captions) for captions in images.captions)
    of_each = ", ".join(f"{count} of {number:,}" for count, number in sorted(counts.items(), reverse=True))
    which = f"the first {config.captions} at most" if config.captions else "all"
    left_out = [f"{key} ({reason})" for key, reason in images.left_out.items()]
    return {
        "images": len(images),
        "captions": f"{len(images.texts):,}; {which}: {of_each} images",
        "captions cut": count_cut(trained.predictor.text, images.texts, trained.config.model.max_text_len),
        "left out": f"{len(left_out)}: {', '.join(left_out[:5])}{', ...' if left_out[5:] else ''}" if left_out else 0,
        "ties": "count against",
    }


def show(figures: dict[str, Figures]) -> None:
    """Print a line for each method."""
    width = max(map(len, figures)) + 2
    print(f"\n{'':{width}}{'image to text':^29}{'text to image':^31}")
    print(f"{'':{width}}{(f'''{'R@1':>6}{'R@5':>7}{'R@10':>7}{'median':>9}''' + '  ') * 2}{'RSUM':>7}")
    for method, values in figures.items():
        line = ""
        for way in ("image to text", "text to image"):
            line += f"{values[f'{way} R@1']:6.2f}{values[f'{way} R@5']:7.2f}{values[f'{way} R@10']:7.2f}"
            line += f"{values[f'{way} median rank']:9.1f}  "
        print(f"{method:{width}}{line}{values['RSUM']:7.2f}")
    print()
