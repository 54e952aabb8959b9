"""Captions to token ids and back."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from bridgetower_train.config import PAD_ID
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.foreign import read_bytes

START, PAD, END, MASK = "<s>", "<pad>", "</s>", "<mask>"

LONGEST_FILE = 64 << 20
"""Most bytes of a `tokenizer.json`; that of a vocabulary of 250,000 has 17 MB."""
_MOST_IDS = 1 << 20  # each is a row of the word embeddings; the largest known vocabulary has 1,000,002
_KEPT_WORDS = 1 << 16
_KEPT_LETTERS = 32  # longer words are rare, and often not words at all


class _Naming:
    """DataError naming a tokenizer's file for whatever the library raises in the block."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        panic = kind is not None and kind.__name__ == "PanicException"  # Rust's, no Exception and without a public name
        if panic or isinstance(error, Exception):
            reason = str(error).partition("\n")[0]
            raise DataError(f"{self.path}: is not a tokenizer that works ({reason}); give another") from None


class _Ids(dict[str, bytes]):
    """Text -> its ids, as the bytes of an int64 row. Those of single words are cached, since captions share words."""

    def __init__(self, tokenizer: Tokenizer, naming: _Naming) -> None:
        super().__init__()
        self._tokenizer, self._naming = tokenizer, naming

    def __reduce__(self) -> tuple[type["_Ids"], tuple[Tokenizer, _Naming]]:
        return _Ids, (self._tokenizer, self._naming)

    def __missing__(self, text: str) -> bytes:
        with self._naming:
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int64).tobytes()
        if len(text) <= _KEPT_LETTERS:
            if len(self) == _KEPT_WORDS:
                self.clear()
            self[text] = ids
        return ids


def _by_words(tokenizer: Tokenizer) -> bool:
    """Whether a text's ids are the ids of its words in turn, each word with the space before it.

    This holds for GPT-2's rule, which RoBERTa uses: it splits before each space. An added token might span a space.
    """
    before = tokenizer.pre_tokenizer
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        isinstance(before, ByteLevel)
        and before.use_regex
        and tokenizer.normalizer is None
        and not any(token.rstrip or " " in token.content for token in added)
    )


def tokenizer_file(path: str) -> Path:
    """`path`, or the `tokenizer.json` in it where it is a folder; ConfigError if there is none."""
    file = Path(path, "tokenizer.json") if os.path.isdir(path) else Path(path)
    if not file.exists():
        raise ConfigError(f"tokenizer={path}: no such file; give a tokenizer.json or the folder that contains it")
    return file


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`. DataError if it is none; FileError if it is no file, or too long; OSError if it cannot be read."""
    return parse_tokenizer(read_bytes(path, LONGEST_FILE), str(path))


def parse_tokenizer(data: bytes, path: str) -> Tokenizer:
    """The tokenizer in the bytes of a `tokenizer.json`; DataError naming `path` if it is none."""
    with _Naming(path):
        return Tokenizer.from_buffer(data)


def vocabulary(tokenizer: Tokenizer, path: str) -> dict[str, int]:
    """Token -> id. DataError naming `path` if an id is too large: the word embeddings have a row for each."""
    found: dict[str, int] = tokenizer.get_vocab()
    largest = max(found.values(), default=0)
    if largest >= _MOST_IDS:
        raise DataError(f"{path}: has the id {largest:,}; take a tokenizer with ids below {_MOST_IDS:,}")
    return found


class CaptionTokenizer:
    """A tokenizer with RoBERTa's special tokens. May be forked and pickled."""

    def __init__(self, tokenizer: Tokenizer, path: str = "tokenizer") -> None:
        """DataError naming `path` and what is missing if `tokenizer` lacks a special token, or has too large an id."""
        ids = vocabulary(tokenizer, path)
        missing = [token for token in (START, PAD, END, MASK) if token not in ids]
        if missing:
            raise DataError(f"{path}: has no {', '.join(missing)}; take a tokenizer with RoBERTa's special tokens")
        if ids[PAD] != PAD_ID:
            raise DataError(f"{path}: <pad> has id {ids[PAD]}; take a tokenizer with id {PAD_ID}, as in RoBERTa")
        # its threads do not survive the fork of a loader worker
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer, self._naming = tokenizer, _Naming(path)
        self.start, self.end, self.mask = ids[START], ids[END], ids[MASK]
        self.vocab_size = max(ids.values()) + 1
        """Rows that the word embeddings need."""
        self.special = np.ones(self.vocab_size, dtype=bool)
        """bool (vocab_size,): True for special tokens and for ids without a token."""
        self.special[list(ids.values())] = False
        added = tokenizer.get_added_tokens_decoder()
        self.special[[self.start, PAD_ID, self.end, self.mask, *(i for i, t in added.items() if t.special)]] = True
        self.ordinary = np.flatnonzero(~self.special)
        """int64: ids of all other tokens."""
        self._longest_token = max(map(len, ids))
        self._by_words = _by_words(tokenizer)
        self._ids = _Ids(tokenizer, self._naming)

    @property
    def digest(self) -> str:
        """Hash of the tokenizer: equal hashes give equal ids."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    @staticmethod
    def load(path: str) -> "CaptionTokenizer":
        """Read a `tokenizer.json`, or the one in a folder.

        ConfigError if there is none, DataError or FileError if it cannot be used.
        """
        file = tokenizer_file(path)
        return CaptionTokenizer(read_tokenizer(file), str(file))

    def encode(self, texts: Sequence[str], max_len: int, buckets: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """(ids int64 (B, L), mask bool (B, L), True where a token is real).

        A text of more than `max_len` tokens, `<s>` and `</s>` included, is truncated. L is the smallest of `buckets` that
        fits the longest text, or `max_len`.
        """
        longest = (max_len - 2) * self._longest_token  # so that a caption of a megabyte is not tokenized whole
        start, end = (np.int64(i).tobytes() for i in (self.start, self.end))
        room = (max_len - 2) * len(start)
        rows = [start + b"".join(map(self._ids.__getitem__, self._split(t[:longest])))[:room] + end for t in texts]
        lengths = np.array([len(row) // len(start) for row in rows])
        length = next((bucket for bucket in buckets if bucket >= lengths.max()), max_len)
        mask = np.arange(length) < lengths[:, None]
        ids = np.full(mask.shape, PAD_ID, dtype=np.int64)
        ids[mask] = np.frombuffer(b"".join(rows), dtype=np.int64)
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _split(self, text: str) -> list[str]:
        """The words of `text`, each but the first with the space before it; `text` itself where that is not exact."""
        first, *others = text.split() or [""]
        if not self._by_words or " ".join((first, *others)) != text:
            return [text]
        return [first, *(f" {word}" for word in others)]

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 (len(texts),): tokens of each text with `<s>` and `</s>`, before truncation."""
        with self._naming:
            encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.array([2 + len(encoding) for encoding in encodings], dtype=np.int64)

    def ids(self, text: str) -> list[int]:
        """The ids of a text without `<s>` and `</s>`."""
        return list(map(int, np.frombuffer(self._ids[text], dtype=np.int64)))

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of `ids` without `<s>`, `</s>` and `<pad>`; `<mask>` stays."""
        frame = (self.start, self.end, PAD_ID)
        kept = [int(i) for i in ids if int(i) not in frame]
        with self._naming:
            text = self.tokenizer.decode(kept, skip_special_tokens=False)
        return re.sub(rf" *{MASK}", f" {MASK}", text).strip()  # RoBERTa's <mask> includes the space before it

    def piece(self, token: int) -> str:
        """The text of one token, with its leading space where it begins a word."""
        with self._naming:
            return str(self.tokenizer.decode([token], skip_special_tokens=False))
