"""A training sample as the model sees it: its image, its masked text, and the image of its mismatched pair."""

from torch import Tensor

from bridgetower_train.data.batch import Batch
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.tasks.base import Shown, Token
from bridgetower_train.tasks.pretraining.masking import IGNORE


def read_tokens(batch: Batch, row: int, tokenizer: CaptionTokenizer) -> list[Token]:
    """The tokens of a row's masked view, without padding."""
    positions, labels = (batch.labels[name][row].tolist() for name in ("mlm_positions", "mlm_labels"))
    truth = {p: label for p, label in zip(positions, labels, strict=True) if label != IGNORE}
    seen = batch.labels["masked_ids"][row][batch.text_mask[row]].tolist()
    return [_token(tokenizer, token, truth.get(p)) for p, token in enumerate(seen)]


def _token(tokenizer: CaptionTokenizer, seen: int, label: int | None) -> Token:
    if label is None:
        return Token(tokenizer.piece(seen), "", "special" if tokenizer.special[seen] else "plain")
    kind = "masked" if seen == tokenizer.mask else "kept" if seen == label else "random"
    return Token(tokenizer.piece(seen), tokenizer.piece(label), kind)


def show(batch: Batch, row: int, tokenizer: CaptionTokenizer, hard: bool) -> Shown:
    """A row. A run with `hard` negatives draws them on the device; here the random one is shown and labelled as such."""
    other: tuple[Tensor | None, str]
    negative = int(batch.labels["itm_negative"][row])
    if negative == row:
        other = (None, "no ITM negative among its lane's samples")
    else:
        other = (batch.pixel_values[negative], f"ITM negative{' if it were random' if hard else ''}: image {negative}")
    images: list[tuple[Tensor | None, str]] = [(batch.pixel_values[row], f"image {row}"), other]
    ids = batch.input_ids[row][batch.text_mask[row]]
    return Shown(images, tokenizer.decode(ids), read_tokens(batch, row, tokenizer), {})
