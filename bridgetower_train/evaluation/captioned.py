"""The images of a corpus with all their captions, of which there may be more than memory holds."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bridgetower_train.data.image import decode_crop
from bridgetower_train.data.shards import BadRecordError, Corpus
from bridgetower_train.data.text import CaptionTokenizer


class CaptionedImages:
    """I images and T captions: the captions are held, an image is read when it is asked for."""

    def __init__(self, corpus: Corpus, image_size: int, captions: int | None = None) -> None:
        """`captions`: at most so many of each image, the first ones; None: all."""
        self.corpus, self.image_size = corpus, image_size
        self.rows: list[int] = []
        self.captions: list[list[str]] = []
        self.left_out: dict[str, str] = {}
        """Key -> why an image does not take part."""
        for row in range(len(corpus.index)):
            try:
                texts = corpus.read(row).captions[:captions]
                if not texts:
                    raise BadRecordError("no caption")
            except BadRecordError as error:
                self.left_out[corpus.key(row)] = error.reason
                continue
            self.rows.append(row)
            self.captions.append(texts)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> list[str]:
        """All T captions, image by image."""
        return [text for texts in self.captions for text in texts]

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        """int64 (T,): the image of each caption."""
        return np.repeat(np.arange(len(self)), [len(texts) for texts in self.captions])

    def read(self, images: Sequence[int]) -> tuple[Tensor, dict[int, str]]:
        """(uint8 (B, 3, S, S), image -> why it could not be decoded; it is black)."""
        pixels = np.zeros((len(images), self.image_size, self.image_size, 3), dtype=np.uint8)
        bad = {}
        for image, out in zip(images, pixels, strict=True):
            try:
                decode_crop(self.corpus.read(self.rows[image]).image, self.image_size, out)
            except BadRecordError as error:
                bad[image] = error.reason
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), bad

    def leave_out(self, bad: dict[int, str]) -> None:
        """Take these images out, with their captions."""
        self.left_out |= {self.corpus.key(self.rows[image]): reason for image, reason in sorted(bad.items())}
        kept = [i for i in range(len(self)) if i not in bad]
        self.rows, self.captions = [self.rows[i] for i in kept], [self.captions[i] for i in kept]


def count_cut(text: CaptionTokenizer, captions: Sequence[str], max_len: int) -> int:
    """How many captions have more tokens than a text of `max_len` holds, and so lose their ends."""
    encodings = text.tokenizer.encode_batch_fast(list(captions), add_special_tokens=False)
    return sum(len(encoding.ids) > max_len - 2 for encoding in encodings)
