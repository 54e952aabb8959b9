"""A training batch as the model sees it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bridgetower_train.data.batch import Batch
from bridgetower_train.pages.html import Child, Markup, element, figures, join, matrix, note, page, pairs, table
from bridgetower_train.pages.images import png
from bridgetower_train.tasks.base import Shown, Token

KINDS = {"masked": "replaced by <mask>", "random": "replaced by a random token", "kept": "left as it was"}
"""What masking does to a token to predict; each name is also its class in the style sheet."""

SMALL = 160
"""Images of fewer pixels per side are enlarged with hard edges."""


@dataclass(frozen=True)
class BatchView:
    """What the page shows."""

    title: str
    facts: dict[str, str]
    """Figures above all."""
    remarks: Sequence[str]
    """Sentences under the title."""
    corpora: Sequence[Sequence[str]]
    """Name, images, captions and passes per epoch of each corpus."""
    batch: Batch
    sources: Sequence[dict[str, Any]]
    """The output of PairDataset.describe for the first rows of `batch`, which are shown."""
    shown: Sequence[Shown]
    """These rows as shown by the task."""


def batch_page(view: BatchView) -> str:
    """The page."""
    kinds = Counter(token.kind for shown in view.shown for token in shown.tokens)
    total = sum(kinds[kind] for kind in KINDS)
    key = [
        element("span", element("span", "token", class_=kind), f" {words}: {kinds[kind]} of {total}")
        for kind, words in KINDS.items()
        if total
    ]
    header = element(
        "header",
        element("p", "BridgeTower training batch", class_="kicker"),
        element("h1", view.title),
        *(note(remark) for remark in view.remarks),
        figures(view.facts),
        matrix(("corpus", "images", "captions", "passes"), view.corpora),
        _replaced(view.batch),
        element("p", *key, class_="key"),
    )
    cards = [_card(view.batch, shown, source) for shown, source in zip(view.shown, view.sources, strict=True)]
    return page(f"{view.title} · BridgeTower", header, element("div", *cards, class_="samples"))


def _replaced(batch: Batch) -> Markup:
    if not batch.bad:
        return Markup("")
    rows = [(bad.corpus, bad.shard, bad.key, bad.reason, str(bad.position)) for bad in batch.bad]
    return join(
        element("h3", "Replaced, since they could not be used"),
        table(("corpus", "shard", "key", "reason", "position"), rows),
    )


def _card(batch: Batch, shown: Shown, source: dict[str, Any]) -> Markup:
    images = element("div", *(_image(pixels, caption) for pixels, caption in shown.images), class_="couple")
    length, real = batch.input_ids.shape[1], len(shown.tokens)
    facts = {
        "source": f"{source['corpus']} / {source['shard']}",
        "key": str(source["key"]),
        "caption": _which(source["number"], source["kinds"]),
        "position": f"{source['position']:,} in epoch {source['epoch']}",
        "tokens": f"{real}, and {length - real} of padding",
        **shown.facts,
    }
    caption = element("p", str(source["caption"]), class_="caption")
    return element("article", images, caption, _text(shown.tokens), pairs(facts), class_="sample")


def _which(number: int, kinds: Sequence[str]) -> str:
    """Which of a record's captions is shown, and of what kind it is."""
    shown = f"{number + 1} of {len(kinds)}"
    counts = ", ".join(f"{count} {kind or 'without a kind'}" for kind, count in Counter(kinds).items())
    return f"{shown}: {kinds[number] or 'without a kind'} (of {counts})" if any(kinds) else shown


def _image(pixels_3SS: Tensor | None, caption: str) -> Markup:
    if pixels_3SS is None:
        return element("figure", element("div", caption, class_="none"))
    small = pixels_3SS.shape[-1] < SMALL
    image = element("img", src=png(pixels_3SS.numpy()), alt=caption, class_="enlarged" if small else None)
    return element("figure", image, element("figcaption", caption))


def _text(tokens: Sequence[Token]) -> Markup:
    parts: list[Child] = []
    for token in tokens:
        content: list[Child] = [element("span", token.seen.strip(), class_="seen")]
        if token.truth:
            content += [" → ", element("span", token.truth.strip(), class_="truth")]
        begins_word = (token.truth or token.seen).startswith(" ")
        parts.append(" " if begins_word or token.kind == "special" else "")
        parts.append(element("span", *content, class_=f"token {token.kind}", title=KINDS.get(token.kind)))
        parts.append(" " if token.kind == "special" else "")
    return element("p", *parts, class_="tokens")
