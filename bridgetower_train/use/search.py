"""Search in an index: all embeddings are compared with the query, and the best can be ranked again by matching.

Shapes: Q queries, N embeddings, E their width, K results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.data.shards import BadRecordError, Record
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.evaluation.rerank import pair_logits
from bridgetower_train.use.images import ImageLike, as_seen
from bridgetower_train.use.index import Embeddings, Index
from bridgetower_train.use.model import Model, Pairs
from bridgetower_train.use.sources import Images

BLOCK = 1 << 16
"""Embeddings that are compared at once."""


def nearest(queries_QE: Tensor, embeddings_NE: Embeddings, k: int) -> tuple[Tensor, Tensor]:
    """(cosines float32 (Q, K), places int64 (Q, K)) of the `k` most similar, the best first: exactly, by a product of matrices.

    Beside the embeddings it takes `BLOCK` numbers a query, and for those of 16 bits a block of them in 32.
    """
    scores, places = torch.empty(len(queries_QE), 0), torch.empty(len(queries_QE), 0, dtype=torch.int64)
    for start in range(0, len(embeddings_NE), BLOCK):
        cosines = queries_QE @ torch.from_numpy(embeddings_NE[start : start + BLOCK]).float().T
        best = cosines.topk(min(k, cosines.shape[1]))
        scores, places = torch.cat([scores, best.values], 1), torch.cat([places, start + best.indices], 1)
        scores, order = scores.topk(min(k, scores.shape[1]))
        places = places.gather(1, order)
    return scores, places


@dataclass(frozen=True)
class Query:
    """A text or an image."""

    text: str = ""
    pixels: Tensor | None = None
    """uint8 (3, S, S), of an image."""
    name: str = ""
    """Of the image, for people."""


@dataclass(frozen=True)
class Result:
    """What was found, at a place of the index."""

    place: int
    key: str
    row: int
    similarity: float
    """Cosine of the two embeddings."""
    match: float | None = None
    """The probability that text and image belong together, if it was ranked again."""


class Search:
    """An index with its model, and its images where they are known."""

    def __init__(self, model: Model, index: Index, images: Images | None = None) -> None:
        """ConfigError where the index is of another model, or the model has no embeddings."""
        self.model, self.index, self.images = model, index, images
        _ = model.embedder
        index.check(model)

    def query(self, text: str | None = None, image: ImageLike | None = None, name: str = "image") -> Query:
        """A text or an image as a query. ConfigError where it is neither or both, or cannot be used."""
        if (image is None) == (text is None or not text.strip()):
            raise ConfigError("text, image: give one of them, to search for")
        if image is None:
            return Query(text or "")
        try:
            return Query(pixels=as_seen(image, self.model.config), name=name)
        except (BadRecordError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"image={name}: {reason}") from None

    def find(self, query: Query, top: int = 20, rerank: int = 0) -> list[Result]:
        """The `top` most similar, the best first; with `rerank`, the best so many in the order of their probability of a match.

        ConfigError where there is no text, or no image, to match.
        """
        if rerank:
            self.check_rerank(query, rerank)
        pixels = query.pixels
        embedding = (
            self.model.embed_texts(query.text) if pixels is None else self.model.embedder.embed_images(pixels[None])
        )
        scores, places = nearest(embedding, self.index.embeddings, max(top, rerank))
        found = [
            Result(place, self.index.key(place), int(self.index.rows[place]), score)
            for score, place in zip(scores[0].tolist(), places[0].tolist(), strict=True)
        ]
        return [*self._reranked(query, found[:rerank]), *found[rerank:]][:top]

    def check_rerank(self, query: Query, rerank: int) -> None:
        """ConfigError where a query cannot be matched with what is in the index."""
        _ = self.model.matcher
        of_images = self.index.about.kind == "images"
        if of_images == (query.pixels is not None):
            raise ConfigError(f"rerank={rerank}: needs a text and an image, and here both are the same; set rerank=0")
        if of_images and self.images is None:
            raise ConfigError(f"rerank={rerank}: needs the images of the index; give their folder in images=, or root=")

    def _reranked(self, query: Query, found: Sequence[Result]) -> list[Result]:
        """By the odds of a match; what cannot be read comes last."""
        if not found:
            return []
        if query.pixels is not None:
            shown = query.pixels[None]
            pairs, lost = Pairs(1, [result.key for result in found], lambda _: shown), set[int]()
        else:
            lost = set()

            def read(part: slice) -> Tensor:
                size = self.model.config.model.image_size
                seen = []
                for number in range(part.start, part.stop):
                    image = self.seen(found[number])
                    if isinstance(image, str):
                        lost.add(number)
                    seen.append(torch.zeros(3, size, size, dtype=torch.uint8) if isinstance(image, str) else image)
                return torch.stack(seen)

            pairs = Pairs(len(found), [query.text], read)
        logits = torch.from_numpy(pair_logits(self.model.matcher, pairs, np.arange(len(found))))
        odds, probability = (logits[:, 1] - logits[:, 0]).tolist(), logits.softmax(-1)[:, 1].tolist()
        order = sorted(range(len(found)), key=lambda number: (number in lost, -odds[number]))
        return [
            found[number] if number in lost else replace(found[number], match=probability[number]) for number in order
        ]

    def image(self, result: Result) -> bytes | Record:
        """The image of a result. Errors as of `Images.image`."""
        if self.images is None:
            raise BadRecordError("its folder is not known")
        return self.images.image(result.key, result.row)

    def seen(self, result: Result) -> Tensor | str:
        """uint8 (3, S, S), the image of a result as the model sees it, or why there is none."""
        try:
            return as_seen(self.image(result), self.model.config)
        except BadRecordError as error:
            return error.reason
        except OSError as error:
            return error.strerror or "cannot be read"


def check_images(index: Index, images: Images | None) -> None:
    """DataError where none of the first images of an index is in `images`: they are those of something else."""
    if images is None:
        return
    for place in range(min(8, len(index))):
        try:
            images.image(index.key(place), int(index.rows[place]))
            return
        except (BadRecordError, OSError) as error:
            fault = error
    raise DataError(f"index={index.path}: its images are not there ({fault}); give their folder in images=, or root=")
