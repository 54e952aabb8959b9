"""Images of a corpus with their captions, to evaluate on."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.image import decode_square
from bridgetower_train.data.shards import BadRecordError, Corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.display import listed
from bridgetower_train.errors import ConfigError, DataError, nearest


class EvalSet:
    """I images and T captions. The captions are in memory; an image is read when needed, or from memory after `load`."""

    def __init__(
        self,
        corpus: Corpus,
        config: TrainConfig,
        samples: int | None = None,
        captions: int | None = None,
        kind: str | None = None,
    ) -> None:
        """`config`: of the run, which says how its model sees images.

        `samples`: at most so many images, evenly spread; `captions`: at most the first so many of each. `kind`: of captions;
        images without are left out. None: all. ConfigError for a kind that the corpus lacks.
        """
        if kind is not None and kind not in corpus.manifest.kinds:
            there = ", ".join(corpus.manifest.kinds) or "none of its captions has one"
            raise ConfigError(
                f"kind={kind}: {corpus.name} has no captions of this kind; those there are: {there}"
                f"{nearest(kind, corpus.manifest.kinds)}"
            )
        self.corpus, self.size, self.square = corpus, config.model.image_size, config.data.square
        self.rows: list[int] = []
        self.captions: list[list[str]] = []
        """Of each image, in the source's order."""
        self.kind = kind
        self.numbers: list[list[int]] = []
        """The numbers of all captions of the kind in each image's record."""
        self.left_out: dict[str, str] = {}
        """Key -> why an image is left out."""
        self._pixels: Tensor | None = None
        count = min(samples or len(corpus.index), len(corpus.index))
        for row in np.linspace(0, len(corpus.index), count, endpoint=False).astype(int).tolist():
            try:
                record = corpus.read(row)
                texts = record.captions
                numbers = [i for i, of in enumerate(record.kinds) if kind in (None, of)]
                if not numbers:
                    raise BadRecordError(f"no caption of kind {kind}" if texts else "no caption")
            except BadRecordError as error:
                self.left_out[corpus.key(row)] = error.reason
                continue
            self.rows.append(row)
            self.captions.append([texts[i] for i in numbers[:captions]])
            self.numbers.append(numbers)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def of_kinds(self) -> str:
        """Of which kinds the captions are, in words."""
        known = self.corpus.manifest.kinds
        others = self.corpus.manifest.captions - sum(known.values())
        all_kinds = [*known, *(["without a kind"] if others else [])]
        return self.kind or (f"all: {', '.join(all_kinds)}" if known else "not noted in the corpus")

    @property
    def first(self) -> list[str]:
        """The first caption of each image."""
        return [texts[0] for texts in self.captions]

    @property
    def texts(self) -> list[str]:
        """All T captions, image by image."""
        return [text for texts in self.captions for text in texts]

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        """int64 (T,): the image of each caption."""
        return np.repeat(np.arange(len(self)), [len(texts) for texts in self.captions])

    @property
    def pixels(self) -> Tensor:
        """uint8 (I, 3, S, S), after `load`."""
        assert self._pixels is not None, "call load() first"
        return self._pixels

    def load(self) -> "EvalSet":
        """Decode all images into memory, leave out those that cannot be; DataError where fewer than two remain."""
        pixels, bad = self.read(slice(0, len(self)))
        self._pixels = pixels[[image for image in range(len(self)) if image not in bad]] if bad else pixels
        self.leave_out(bad)
        self.require_two()
        return self

    def read(self, part: slice) -> tuple[Tensor, dict[int, str]]:
        """(uint8 (B, 3, S, S) of the images in `part`, image -> why it could not be decoded; it is black)."""
        if self._pixels is not None:
            return self._pixels[part], {}
        images = range(len(self))[part]
        pixels = np.zeros((len(images), self.size, self.size, 3), dtype=np.uint8)
        bad = {}
        for image, out in zip(images, pixels, strict=True):
            try:
                decode_square(self.corpus.read(self.rows[image]).image, self.size, self.square, out)
            except BadRecordError as error:
                bad[image] = error.reason
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), bad

    def leave_out(self, bad: dict[int, str]) -> None:
        """Remove these images and their captions."""
        self.left_out |= {self.corpus.key(self.rows[image]): reason for image, reason in sorted(bad.items())}
        kept = [i for i in range(len(self)) if i not in bad]
        self.rows, self.captions = [self.rows[i] for i in kept], [self.captions[i] for i in kept]
        self.numbers = [self.numbers[i] for i in kept]

    def require_two(self) -> None:
        """DataError where there are fewer than two images."""
        if len(self) < 2:
            raise DataError(
                f"{self.corpus.name}: has fewer than two usable images; left out: {listed(self.left_out)}; choose another corpus"
            )

    def batches(self, size: int) -> Iterator[slice]:
        """Slices of at most `size` images."""
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))


def count_cut(text: CaptionTokenizer, captions: Sequence[str], max_len: int) -> int:
    """How many captions have more tokens than a text of `max_len` holds, and so lose their ends."""
    return int((text.lengths(captions) > max_len).sum())
