"""`bridgetower bench retrieval`: what embedding and ranking of synthetic images and captions take."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from bridgetower_train.bench.kit import BenchConfig, Figures, as_run, bench, in_turns, timed
from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig, at_least
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation.captioned import CaptionedImages
from bridgetower_train.evaluation.full_retrieval import evaluate
from bridgetower_train.evaluation.predictor import Predictor
from bridgetower_train.evaluation.ranking import itc_ranks
from bridgetower_train.tasks.pretraining import Pretraining
from data_prep.shapes.synthetic import synthetic_corpus, synthetic_tokenizer

FIGURES = {
    "evaluation_s": "seconds of a whole evaluation of an untrained model: reading, embedding, ranking, with rerank matching",
    "memory_gb": "peak memory of the device, 10^9 bytes",
    "product_s": "seconds of one product of the two matrices of embeddings",
    "ranking_s": "seconds of ranking by them in both directions",
    "of_product": "ranking_s / product_s (target: 1.5)",
}
"""What `measure` returns."""

_ALONE = Ranks(0, 1, None)


@dataclass(frozen=True)
class BenchRetrievalConfig(BenchConfig):
    """What is timed."""

    images: int = 5000
    """Synthetic images."""
    captions: int = 5
    """Captions of each."""
    rerank: int = 0
    """Also re-rank this many candidates of each query by matching; 0: ranking by the contrast alone."""
    repeats: int = 3
    """Turns of product and ranking; the fastest of each counts."""
    batch: int = 64
    """Images, and pairs, that are computed at once."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        for name, least in (("images", 2), ("captions", 1), ("rerank", 0), ("repeats", 1), ("batch", 1)):
            at_least(name, getattr(self, name), least)


def measure(config: BenchRetrievalConfig) -> Figures:
    """FIGURES."""
    device, _ = make_device(config.device)
    with tempfile.TemporaryDirectory() as folder:
        synthetic_corpus(Path(folder, "synthetic"), config.model.image_size, 8, config.images, config.captions)
        evaluation = timed(lambda: _evaluate(config, device, folder))
    memory = device.memory_gb()
    product, ranking = time_ranking(config)
    return {
        "evaluation_s": evaluation,
        "memory_gb": memory,
        "product_s": product,
        "ranking_s": ranking,
        "of_product": ranking / product,
    }


def _evaluate(config: BenchRetrievalConfig, device: Device, root: str) -> None:
    text = CaptionTokenizer(synthetic_tokenizer())
    model = replace(config.model, vocab_size=text.vocab_size)
    torch.manual_seed(0)
    task = Pretraining(as_run(config, model), device.attention).to(device.torch_device)
    images = CaptionedImages(open_corpus(root, "synthetic"), model.image_size)
    evaluate(Predictor(task, text, device), images, config.rerank, None, _ALONE, config.batch)


def time_ranking(config: BenchRetrievalConfig) -> tuple[float, float]:
    """(seconds of one product of random embeddings, seconds of ranking by them)."""
    random = torch.Generator().manual_seed(0)
    owner = np.repeat(np.arange(config.images), config.captions)
    images, texts = (
        torch.nn.functional.normalize(torch.randn(count, config.objective.itc_dim, generator=random))
        for count in (config.images, len(owner))
    )
    turns = {"product": lambda: images @ texts.T, "ranking": lambda: itc_ranks(images, texts, owner, _ALONE)}
    taken = in_turns(turns, config.repeats)
    return min(taken["product"]), min(taken["ranking"])


run = bench("retrieval", measure, FIGURES)
