"""A training batch as the model sees it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridgetower_train.data.batch import IGNORE, Batch
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.pages.html import Child, Markup, element, figures, join, note, page, pairs, table
from bridgetower_train.pages.images import png

KINDS = {"masked": "replaced by <mask>", "random": "replaced by a random token", "kept": "left as it was"}
"""What masking does to a token that is to be predicted; each is also its class in the style sheet."""

SMALL = 160
"""Images of fewer pixels than this a side are enlarged with hard edges."""


@dataclass(frozen=True)
class Token:
    """One token of a text: what the model reads there and, where `kind` is one of KINDS, what it is to predict.

    Otherwise `kind` is `special` or `plain`, and `truth` is empty. A leading space begins a word.
    """

    seen: str
    truth: str
    kind: str


def read_tokens(batch: Batch, row: int, text: CaptionTokenizer) -> list[Token]:
    """The real tokens of a row; padding is left out."""
    places = zip(batch.mlm_positions[row].tolist(), batch.mlm_labels[row].tolist(), strict=True)
    labels = {place: label for place, label in places if label != IGNORE}
    seen = batch.masked_ids[row][batch.text_mask[row]].tolist()
    return [_token(text, token, labels.get(place)) for place, token in enumerate(seen)]


def _token(text: CaptionTokenizer, seen: int, label: int | None) -> Token:
    if label is None:
        return Token(_piece(text, seen), "", "special" if text.special[seen] else "plain")
    kind = "masked" if seen == text.mask else "kept" if seen == label else "random"
    return Token(_piece(text, seen), _piece(text, label), kind)


def _piece(text: CaptionTokenizer, token: int) -> str:
    return str(text.tokenizer.decode([token], skip_special_tokens=False))


@dataclass(frozen=True)
class BatchView:
    """What the page of a batch shows."""

    title: str
    facts: dict[str, str]
    """Figures above all."""
    remarks: Sequence[str]
    """Sentences under the title."""
    corpora: Sequence[Sequence[str]]
    """Name, images, captions and passes per epoch of each corpus."""
    batch: Batch
    samples: Sequence[dict[str, Any]]
    """What PairDataset.describe says of the first rows of `batch`, which are shown."""
    text: CaptionTokenizer


def batch_page(view: BatchView) -> str:
    """The page."""
    texts = [read_tokens(view.batch, row, view.text) for row in range(len(view.samples))]
    kinds = Counter(token.kind for tokens in texts for token in tokens)
    total = sum(kinds[kind] for kind in KINDS)
    key = [
        element("span", element("span", "token", class_=kind), f" {words}: {kinds[kind]} of {total}")
        for kind, words in KINDS.items()
    ]
    header = element(
        "header",
        element("p", "BridgeTower training batch", class_="kicker"),
        element("h1", view.title),
        *(note(remark) for remark in view.remarks),
        figures(view.facts),
        table(("corpus", "images", "captions", "passes"), view.corpora),
        _replaced(view.batch),
        element("p", *key, class_="key"),
    )
    cards = [_card(view.batch, row, texts[row], sample) for row, sample in enumerate(view.samples)]
    return page(f"{view.title} · BridgeTower", header, element("div", *cards, class_="samples"))


def _replaced(batch: Batch) -> Markup:
    if not batch.bad:
        return Markup("")
    rows = [(bad.corpus, bad.shard, bad.key, bad.reason, str(bad.position)) for bad in batch.bad]
    return join(
        element("h3", "Replaced, since they could not be used"),
        table(("corpus", "shard", "key", "reason", "position"), rows),
    )


def _card(batch: Batch, row: int, tokens: Sequence[Token], sample: dict[str, Any]) -> Markup:
    negative = int(batch.itm_negative[row])
    if negative == row:
        other: Child = element(
            "figure", element("div", "none among its lane's samples", class_="none"), _caption("negative")
        )
    else:
        other = _image(batch, negative, f"ITM negative: image {negative}")
    couple = element("div", _image(batch, row, f"image {row}"), other, class_="couple")
    length, real = batch.input_ids.shape[1], len(tokens)
    facts = {
        "source": f"{sample['corpus']} / {sample['shard']}",
        "key": str(sample["key"]),
        "position": f"{sample['position']:,} in epoch {sample['epoch']}",
        "tokens": f"{real}, and {length - real} of padding",
    }
    caption = element("p", str(sample["caption"]), class_="caption")
    return element("article", couple, caption, _text(tokens), pairs(facts), class_="sample")


def _image(batch: Batch, row: int, caption: str) -> Markup:
    pixels_CHW = batch.pixel_values[row].numpy()
    small = pixels_CHW.shape[-1] < SMALL
    image = element("img", src=png(pixels_CHW), alt=caption, class_="enlarged" if small else None)
    return element("figure", image, _caption(caption))


def _caption(text: str) -> Markup:
    return element("figcaption", text)


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
