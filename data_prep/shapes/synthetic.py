"""Synthetic photographs and captions, for benchmarks and rehearsals: they weigh, decode and tokenize as real ones do."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from bridgetower_train.data.shards import NO_KEYS
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.writer import write_corpus

_NOUNS = ("dog", "cat", "man", "woman", "child", "train", "bench", "street", "beach", "kitchen", "horse", "umbrella")
_WORDS = ("a", "the", "small", "large", "red", "old", "young", "sitting", "riding", "on", "near", "behind", "with")


def _address(number: int) -> dict[str, Any]:
    return {"url": f"https://example.com/{number}.jpg"}


def synthetic_corpus(
    folder: Path,
    image_size: int,
    images: int,
    records: int,
    captions: int = 5,
    noted: Callable[[int], dict[str, Any]] = _address,
    of_each: int = 1,
    extra: Mapping[str, Any] = NO_KEYS,
) -> Path:
    """Write a corpus into `folder`, which must not exist, and return it.

    Its `records` records share `images` distinct images of shorter edge `image_size` (pixels); each has `captions` captions and
    `of_each` images. `noted`: what is beside the captions in the json of a record, by its number; `extra`: of the manifest.
    """
    jpegs = [synthetic_photo(number, image_size) for number in range(images)]
    texts = ([synthetic_caption(captions * number + i) for i in range(captions)] for number in range(records))
    write_corpus(
        folder,
        image_size,
        ((f"{n:08d}", jpegs[n % images], own, noted(n), (), jpegs[1:of_each]) for n, own in enumerate(texts)),
        extra=extra,
    )
    return folder


def synthetic_tokenizer() -> Tokenizer:
    """A tokenizer of at most 1,000 tokens, trained on synthetic captions."""
    return train_tokenizer(map(synthetic_caption, range(2000)), 1000)


def synthetic_photo(number: int, size: int) -> bytes:
    """A 4:3 JPEG of shorter edge `size` with noise at many scales: it decodes as a photograph does; 38 to 55 kB at 294 px."""
    rng = np.random.default_rng(number)
    width, height = (size * 4 // 3, size) if number % 4 else (size, size * 4 // 3)
    falloff = rng.uniform(0.5, 0.75)  # of the amplitude from one octave to the next, as a power of 2
    octaves = [2.0 ** (-falloff * octave) * _noise(rng, 2**octave, width, height) for octave in range(2, 9)]
    pixels = np.sum(octaves, axis=0)
    pixels = 120 + 55 * (pixels - pixels.mean()) / pixels.std()
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


def _noise(rng: np.random.Generator, cells: int, width: int, height: int) -> npt.NDArray[np.float32]:
    """float32 (height, width, 3): smooth noise, `cells` cells across, most of it common to the three colours."""
    grid = rng.normal(size=(cells + 2, cells + 2, 1)) * 1.5 + rng.normal(size=(cells + 2, cells + 2, 3)) * 0.5
    bands = [Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(grid, -1, 0)]
    return np.stack([np.asarray(band.resize((width, height), Image.Resampling.BICUBIC)) for band in bands], axis=-1)


def synthetic_caption(number: int) -> str:
    """Words in a row, as long as a COCO caption."""
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(_NOUNS if i % 3 == 2 else _WORDS) for i in range(rng.integers(8, 14)))
