"""Retrieval: does an image find its captions among those of a whole corpus, and a caption its image?

As published: all images and captions of a split, or folds of it, by the contrast and re-ranked by matching.

Shapes: I images, T texts, E width of the embeddings, C pairs.
"""

from collections import ChainMap, Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.config import at_least, one_of
from bridgetower_train.data.shards import Corpus
from bridgetower_train.display import listed
from bridgetower_train.distributed import ALONE, Ranks
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.base import EvalOptions, Evaluation, Figures, OpenModel, Picture, Result
from bridgetower_train.evaluation.eval_set import EvalSet, count_cut
from bridgetower_train.evaluation.ranking import (
    NO_CANDIDATES,
    RULES,
    Candidates,
    Ints,
    candidates,
    chunks,
    itc_ranks,
    itm_ranks,
    recall,
    recalls,
)
from bridgetower_train.evaluation.rerank import score_pairs
from bridgetower_train.tasks.pretraining.predictor import Predictor
from bridgetower_train.tasks.pretraining.task import GALLERY


@dataclass(frozen=True)
class RetrievalOptions(EvalOptions):
    """`bridgetower eval retrieval`, also under torchrun; published figures need a corpus of a test split."""

    captions: int | None = 5
    """At most so many captions of an image, the first ones; null: all, as published; some images of COCO have six or seven."""
    rerank: int = 0
    """Also re-rank the best so many candidates of each query by image-text matching: 256 for COCO and 128 for Flickr30k
    as published; 0: the contrast alone."""
    rerank_rule: str = "ms"
    """Which of them a query ranks: `ms`: all pairs that it is in, whichever side chose them, as in Microsoft's code; `albef`: its
    own choice alone, as in ALBEF's, which gives somewhat higher figures image to text."""
    fold: int | None = None
    """Also evaluate among so many images, fold after fold, and give the mean: 1000 is COCO 1k (five folds)."""
    batch: int = 64
    """Images, and pairs, that are computed at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("batch", self.batch, 1)
        at_least("rerank", self.rerank, 0)
        one_of("rerank_rule", self.rerank_rule, RULES)
        at_least("captions", self.captions or 1, 1)
        at_least("fold", self.fold or 2, 2)


@dataclass(frozen=True)
class _Test:
    """Images that are ranked among each other: all, or a fold."""

    owner: Ints
    """(T,): the image of each text, in the numbers of this test."""
    by_itc: tuple[Ints, Ints]
    """(I,) and (T,): ranks by the contrast."""
    chosen: Candidates
    whole: Ints
    """(C,): the same, in the numbers of all images and texts."""


def evaluate(
    predictor: Predictor,
    images: EvalSet,
    rerank: int,
    fold: int | None,
    ranks: Ranks,
    batch: int = 64,
    rule: str = "ms",
) -> dict[str, Figures]:
    """Method -> its figures (see `recalls`), among all images and, with `fold`, as the mean over whole folds.

    `rerank`: how many candidates of each query are re-ranked by matching, by `rule`; 0: none. Images that cannot be decoded
    are removed from `images`. DataError where fewer than two remain.
    """
    images_IE = embed_images(predictor, images, ranks, batch, "images")
    images.require_two()
    texts_TE = embed_texts(predictor, images.texts, ranks, 4 * batch, "captions")
    groups = {"": [slice(0, len(images))]}
    if fold and fold < len(images):
        starts = range(0, len(images) - fold + 1, fold)
        groups[f", mean of {len(starts)} folds of {fold:,}"] = [slice(start, start + fold) for start in starts]
    tests = {
        name: [_test(images_IE, texts_TE, images.owner, part, rerank, ranks) for part in parts]
        for name, parts in groups.items()
    }
    figures = {f"ITC{name}": _mean([recalls(*test.by_itc) for test in group]) for name, group in tests.items()}
    if rerank:
        every_C = np.unique(np.concatenate([test.whole for group in tests.values() for test in group]))
        score_C = score_pairs(predictor, images, every_C, ranks, batch)
        for name, group in tests.items():
            scores = [score_C[np.searchsorted(every_C, test.whole)] for test in group]
            ranked = [itm_ranks(t.chosen, s, t.owner, t.by_itc, rule) for t, s in zip(group, scores, strict=True)]
            figures[f"ITC, best {rerank} re-ranked by ITM{name}"] = _mean([recalls(*ranks) for ranks in ranked])
    return figures


def _test(images_IE: Tensor, texts_TE: Tensor, owner_T: Ints, part: slice, rerank: int, ranks: Ranks) -> _Test:
    first, last = np.searchsorted(owner_T, [part.start, part.stop]).tolist()
    images, texts, owner = images_IE[part], texts_TE[first:last], owner_T[first:last] - part.start
    chosen = candidates(images, texts, rerank, ranks) if rerank else NO_CANDIDATES
    image, text = np.divmod(chosen.pairs, max(1, len(owner)))
    return _Test(
        owner, itc_ranks(images, texts, owner, ranks), chosen, (part.start + image) * len(owner_T) + first + text
    )


def _mean(folds: Sequence[Figures]) -> Figures:
    return {name: float(np.mean([figures[name] for figures in folds])) for name in folds[0]}


def similarities(predictor: Predictor, images: EvalSet, batch: int = 64, ranks: Ranks = ALONE) -> Tensor:
    """Cosine similarity (I, I) of every image (rows) with the first caption of every image (columns).

    Images that cannot be decoded are removed from `images`. DataError where fewer than two remain.
    """
    images_IE = embed_images(predictor, images, ranks, batch)
    images.require_two()
    return images_IE @ embed_texts(predictor, images.first, ranks, batch).T


def embed_images(predictor: Predictor, images: EvalSet, ranks: Ranks, batch: int, title: str | None = None) -> Tensor:
    """(I, E): the work of all ranks, the same on all; images that cannot be decoded are removed from `images`."""
    parts: dict[int, Tensor] = {}
    bad: dict[int, str] = {}
    for part in chunks(len(images), ranks, batch, title):
        pixels, unreadable = images.read(part)
        parts[part.start] = predictor.embed_images(pixels)
        bad |= unreadable
    bad = dict(ChainMap(*ranks.gather_objects(bad)))
    kept = [image for image in range(len(images)) if image not in bad]
    embeddings = _join(parts, len(images), ranks)[kept]
    images.leave_out(bad)
    return embeddings


def embed_texts(predictor: Predictor, texts: list[str], ranks: Ranks, batch: int, title: str | None = None) -> Tensor:
    """(T, E): the same of texts."""
    parts = {p.start: predictor.embed_texts(texts[p]) for p in chunks(len(texts), ranks, batch, title)}
    return _join(parts, len(texts), ranks)


def _join(parts: dict[int, Tensor], count: int, ranks: Ranks) -> Tensor:
    """The rows that all ranks have computed, on all of them."""
    width = max(ranks.gather_objects(max((part.shape[1] for part in parts.values()), default=0)))
    whole = np.zeros((count, width), np.float32)
    for start, part in parts.items():
        whole[start : start + len(part)] = part.numpy()
    return torch.from_numpy(ranks.add_up(whole))


def retrieval_examples(similarity_II: Tensor, images: EvalSet, count: int = 6, shown: int = 3) -> list[dict[str, Any]]:
    """The best answers to the first images and the first texts; an image is uint8 (3, S, S)."""
    sides = {
        "image": [{"image": image} for image in images.pixels[: len(similarity_II)]],
        "text": [{"text": text} for text in images.first],
    }
    examples: list[dict[str, Any]] = []
    for query in range(min(count, len(similarity_II))):
        ways = ("image", "text", similarity_II[query]), ("text", "image", similarity_II[:, query])
        for kind, other, scores in ways:
            best = scores.topk(min(shown, len(scores))).indices.tolist()
            results = [{**sides[other][i], "score": float(scores[i]), "right": i == query} for i in best]
            examples.append({"query_kind": kind, **sides[kind][query], "results": results})
    return examples


def _run(model: OpenModel, corpus: Corpus, options: RetrievalOptions, ranks: Ranks) -> Result:
    predictor, config = Predictor(*model), model.config
    if options.rerank and not predictor.matches:
        raise ConfigError(
            f"rerank={options.rerank}: needs the head itm_score, which the model does not have; set rerank=0"
        )
    images = EvalSet(corpus, config, captions=options.captions, kind=options.kind)
    figures = evaluate(predictor, images, options.rerank, options.fold, ranks, options.batch, options.rerank_rule)
    counts = Counter(len(captions) for captions in images.captions)
    of_each = ", ".join(f"{count} of {number:,}" for count, number in sorted(counts.items(), reverse=True))
    which = f"the first {options.captions} at most" if options.captions else "all"
    protocol = {
        "images": len(images),
        "captions": f"{len(images.texts):,}; {which}: {of_each} images",
        "kinds": images.of_kinds,
        "captions cut": count_cut(model.tokenizer, images.texts, config.model.max_text_len),
        "left out": listed(images.left_out),
        "re-ranking": f"the best {options.rerank} of each query, by matching; rule {options.rerank_rule}"
        if options.rerank
        else "none",
        "ties": "count against",
    }
    return Result(figures, protocol)


def _brief(model: OpenModel, images: EvalSet) -> Result:
    similarity_II = similarities(Predictor(*model), images)
    among = min(GALLERY, len(images))
    ways = zip(("image to text", "text to image"), recall(similarity_II, GALLERY), strict=True)
    figures = {f"{way} R@1 among {among}": value for way, value in ways}
    return Result(figures, examples=retrieval_examples(similarity_II[:among, :among], images))


def _validation(model: OpenModel, images: EvalSet, ranks: Ranks) -> dict[str, float]:
    """By `validation.retrieval`; for `full` also the number of images and captions among which each recall is."""
    predictor, config = Predictor(*model), model.config.validation
    if config.retrieval == "quick":
        found = recall(similarities(predictor, images, config.batch, ranks), GALLERY)
        return dict(zip(("i2t_r1", "t2i_r1"), found, strict=True))
    *_, figures = evaluate(predictor, images, config.rerank, None, ranks, config.batch).values()
    ways = (("i2t", "image to text"), ("t2i", "text to image"))
    recalls = {f"{short}_r{k}": figures[f"{way} R@{k}"] / 100 for short, way in ways for k in (1, 5, 10)}
    return {**recalls, "rsum": figures["RSUM"], "images": len(images), "captions": len(images.texts)}


def _pictures(model: OpenModel, images: EvalSet) -> list[Picture]:
    """The best images for a few texts."""
    examples = retrieval_examples(similarities(Predictor(*model), images), images, count=3)
    return [
        Picture(
            result["image"],
            f"{place} of {len(images)} for: {example['text']} ({result['score']:.2f}{', right' if result['right'] else ''})",
        )
        for example in examples
        if example["query_kind"] == "text"
        for place, result in enumerate(example["results"], 1)
    ]


def print_table(figures: Figures) -> None:
    """A line for each method."""
    width = max(map(len, figures)) + 2
    print(f"{'':{width}}{'image to text':^29}{'text to image':^31}")
    print(f"{'':{width}}{(f'''{'R@1':>6}{'R@5':>7}{'R@10':>7}{'median':>9}''' + '  ') * 2}{'RSUM':>7}")
    for method, values in figures.items():
        line = ""
        for way in ("image to text", "text to image"):
            line += f"{values[f'{way} R@1']:6.2f}{values[f'{way} R@5']:7.2f}{values[f'{way} R@10']:7.2f}"
            line += f"{values[f'{way} median rank']:9.1f}  "
        print(f"{method:{width}}{line}{values['RSUM']:7.2f}")


RETRIEVAL = Evaluation(
    "retrieval",
    ("itc_text_head", "itc_image_head"),
    RetrievalOptions,
    _run,
    _brief,
    _validation,
    _pictures,
    print_table,
)
