"""`bridgetower bench embed`: `bridgetower embed` of shards, against the bare forward pass on images that are in memory."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from bridgetower_train.bench.kit import BenchModelConfig, Figures, as_run, bench, in_turns, make_task
from bridgetower_train.config import at_least
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import make_device
from bridgetower_train.evaluation.base import OpenModel
from bridgetower_train.use.embed import embed
from bridgetower_train.use.model import Model
from bridgetower_train.use.sources import of_corpus
from bridgetower_train.weights.saved import SavedModel
from data_prep.shapes.synthetic import synthetic_corpus, synthetic_tokenizer

FIGURES = {
    "bare": "images per second of the forward pass alone; on the CPU per second of a core",
    "embed": "of bridgetower embed, from reading a shard to the file",
    "of_bare": "embed / bare (target: 0.9)",
}
"""What `measure` returns: medians over the rounds."""


@dataclass(frozen=True, kw_only=True)
class BenchEmbedConfig(BenchModelConfig):
    """What is timed."""

    images: int = 32
    """Images of the corpus, at the model's size."""
    batch: int = 16
    """Images that are computed at once."""
    rounds: int = 3
    """Turns of each."""
    threads: int = 1
    """Threads that compute on the CPU."""

    def __post_init__(self) -> None:
        for key in ("images", "batch", "rounds", "threads"):
            at_least(key, getattr(self, key), 1)


def measure(config: BenchEmbedConfig) -> Figures:
    """FIGURES."""
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as folder:
        model, out = _model(config), Path(folder, "index.parquet")
        size = model.config.model.image_size
        synthetic_corpus(Path(folder, "corpus"), size, min(config.images, 64), config.images, 1)
        corpus = open_corpus(folder, "corpus")
        pixels = model.pixels([corpus.read(row) for row in range(config.images)])

        def bare() -> None:
            for part in pixels.split(config.batch):
                model.embedder.embed_images(part)

        def whole() -> None:
            out.unlink(missing_ok=True)
            embed(model, of_corpus(corpus), out, batch=config.batch)

        clock = time.process_time if model.opened.device.name == "cpu" else time.perf_counter
        taken = in_turns({"bare": bare, "embed": whole}, config.rounds, clock)
    rates = {name: config.images / statistics.median(times) for name, times in taken.items()}
    ratios = [bare / embed for bare, embed in zip(taken["bare"], taken["embed"], strict=True)]
    return {**rates, "of_bare": statistics.median(ratios)}


def _model(config: BenchEmbedConfig) -> Model:
    """One with random weights."""
    run, tokenizer = as_run(config), CaptionTokenizer(synthetic_tokenizer())
    device, _ = make_device(config.device)
    opened = OpenModel(make_task(run, device), tokenizer, device)
    return Model(opened, SavedModel("random weights", Path(), run, tokenizer, None, {}))


run = bench("embed", measure, FIGURES)
