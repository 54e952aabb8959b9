"""`bridgetower bench retrieval`: retrieval among synthetic images and captions: what embedding and ranking take."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

from bridgetower_train.bench.kit import as_run
from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig, at_least
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import make_device
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation.captioned import CaptionedImages
from bridgetower_train.evaluation.full_retrieval import evaluate
from bridgetower_train.evaluation.predictor import Predictor
from bridgetower_train.evaluation.ranking import itc_ranks
from bridgetower_train.tasks.pretraining import Pretraining
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.writer import write_corpus

TARGET = 1.5
"""The ranking step is to take at most so many times as long as one product of the two matrices of embeddings."""

_WORDS = ("a", "the", "small", "large", "red", "old", "dog", "man", "street", "beach", "sitting", "on", "near", "with")


@dataclass(frozen=True)
class BenchRetrievalConfig:
    """What is timed."""

    images: int = 5000
    """Made-up images."""
    captions: int = 5
    """Captions of each."""
    rerank: int = 0
    """Also re-rank the best so many candidates of each query; 0: the contrast alone."""
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


def run(config: BenchRetrievalConfig) -> int:
    """Time the whole evaluation of an untrained model, then the ranking step against one matrix product."""
    alone = Ranks(0, 1, None)
    device, _ = make_device(config.device)
    size = f"{config.images:,} x {config.images * config.captions:,}"
    print(f"device     {device.name} ({device.description}), torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        corpus, text = _make_corpus(Path(folder), config)
        torch.manual_seed(0)
        model = replace(config.model, vocab_size=text.vocab_size)
        task = Pretraining(as_run(config, model), device.attention).to(device.torch_device)
        began = time.perf_counter()
        images = CaptionedImages(open_corpus(folder, corpus), model.image_size)
        figures = evaluate(Predictor(task, text, device), images, config.rerank, None, alone, config.batch)
        whole = time.perf_counter() - began
    print(f"evaluation {size}, {model.image_size} px, {', '.join(figures)}: {whole:.1f} s in all")
    print(f"memory     {device.memory_gb():.2f} GB at most")
    product, ranking = time_ranking(config, alone)
    print(f"product    {size}, {config.objective.itc_dim} wide: {product:.3f} s")
    print(f"ranking    both directions: {ranking:.3f} s, {ranking / product:.2f} times the product (wanted: {TARGET})")
    return 0


def time_ranking(config: BenchRetrievalConfig, ranks: Ranks) -> tuple[float, float]:
    """(seconds of one product of synthetic embeddings, seconds of ranking by them)."""
    random = torch.Generator().manual_seed(0)
    owner = np.repeat(np.arange(config.images), config.captions)
    images, texts = (
        torch.nn.functional.normalize(torch.randn(count, config.objective.itc_dim, generator=random))
        for count in (config.images, len(owner))
    )
    contenders: tuple[Callable[[], Any], ...] = (
        lambda: images @ texts.T,
        lambda: itc_ranks(images, texts, owner, ranks),
    )
    seconds: list[list[float]] = [[], []]
    for _ in range(config.repeats):
        for contender, times in zip(contenders, seconds, strict=True):
            began = time.perf_counter()
            contender()
            times.append(time.perf_counter() - began)
    return min(seconds[0]), min(seconds[1])


def _make_corpus(root: Path, config: BenchRetrievalConfig) -> tuple[str, CaptionTokenizer]:
    """A corpus of few different images and of captions of 12 words, and a tokenizer for them."""
    rng = np.random.default_rng(0)
    edge = config.model.image_size
    noise = rng.integers(0, 255, (8, edge, edge, 3), dtype=np.uint8)
    encoded = [simplejpeg.encode_jpeg(image) for image in noise]
    captions = ([" ".join(rng.choice(_WORDS, 12)) for _ in range(config.captions)] for _ in range(config.images))
    write_corpus(
        root / "synthetic", edge, ((f"{n:06d}", encoded[n % 8], texts, {}) for n, texts in enumerate(captions))
    )
    return "synthetic", CaptionTokenizer(train_tokenizer([" ".join(_WORDS)] * 99, 400))
