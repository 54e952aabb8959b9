"""SBU captioned photographs: a million images of Flickr with what their owners wrote."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridgetower_train.errors import DataError
from bridgetower_train.foreign import decode_text, inside
from data_prep.corpora.web import WebConfig, prepare_from_web
from data_prep.source.annotations import digest_file, expecting, read_json
from data_prep.source.local import LinkConfig
from data_prep.source.repeats import Repeats, hash_urls
from data_prep.source.rows import Row, Table
from data_prep.source.tsv import DUPLICATE, NOT_UTF8

URLS, CAPTIONS = "SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt"
"""The files of the older layout."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""Replaces bytes that are not UTF-8."""
_JSON = "is not sbu-captions-all.json; it must have the lists `image_urls` and `captions`, of one length"
_ABOUT = {
    "title": "SBU Captioned Photo Dataset",
    "homepage": "https://www.cs.rice.edu/~vo9/sbucaptions/",
    "licence": "not stated; each photograph is its owner's",
    "note": "descriptions by the owners of the photographs",
}
_HISTORY = "about 86% in 2021 to 2023 (860,000 of 1,000,000), by reports of 2024 and 2025 0 to 10%"


@dataclass(frozen=True)
class SbuConfig(LinkConfig, WebConfig):
    """`bridgetower prep sbu`: fetch the SBU captioned photographs."""

    annotations: str = "???"
    """`sbu-captions-all.json`, or the folder of SBU_captioned_photo_dataset_urls.txt and ..._captions.txt."""
    name: str = "sbu"
    """Name of the corpus folder."""


class SbuTable(Table):
    """The rows of either layout: the first row of each URL has all its captions, the others are duplicates."""

    def __init__(self, annotations: str, follow_links: bool = False) -> None:
        """ConfigError where a file cannot be read, DataError where it has another layout, FileError for links out of a folder."""
        if Path(annotations).is_dir():
            paths = {name: inside(annotations, name, follow_links) for name in (URLS, CAPTIONS)}
            self._identity = {name: digest_file("annotations", str(path)) for name, path in paths.items()}
            self._urls, self._captions = map(_read_lines, paths.values())
            self._users: list[Any] = []
            if len(self._urls) != len(self._captions):
                raise DataError(
                    f"annotations={annotations}: {URLS} has {len(self._urls):,} lines, but {CAPTIONS} has "
                    f"{len(self._captions):,}: they must match line by line; unpack the archive again"
                )
        else:
            content = read_json("annotations", annotations)
            with expecting("annotations", annotations, _JSON):
                self._urls, self._captions = content["image_urls"], content["captions"]
                self._users = content.get("user_ids", [])
                if not len(self._urls) == len(self._captions) == len(self._users or self._urls):
                    raise ValueError("lists of different lengths")
                for texts in (self._urls, self._captions):
                    if not all(isinstance(text, str) for text in texts):
                        raise TypeError("an element that is not a string")
            self._identity = {"annotations": digest_file("annotations", annotations)}
        self._repeats = Repeats(hash_urls(url.strip().encode("utf-8", "replace") for url in self._urls))

    def __len__(self) -> int:
        return len(self._urls)

    def identity(self) -> dict[str, str]:
        return self._identity

    def rows(self, start: int, stop: int) -> list[Row]:
        return [self._row(number) for number in range(start, min(stop, len(self)))]

    def _row(self, number: int) -> Row:
        key, url, caption = f"{number:09d}", self._urls[number].strip(), self._captions[number]
        if BROKEN in url + caption:
            return Row(key, url, [], state=NOT_UTF8)
        if self._repeats.left_out(number):
            return Row(key, url, [caption], state=DUPLICATE)
        later = [self._captions[row] for row in self._repeats.later(number)]
        captions = [caption, *(text for text in later if BROKEN not in text)]
        meta = {"url": url} | ({"user_id": self._users[number]} if self._users else {})
        return Row(key, url, captions, meta)


def run(config: SbuConfig) -> None:
    """Write the corpus, or resume. ConfigError where a file cannot be read, DataError where it has another layout."""
    prepare_from_web(config, SbuTable(config.annotations, config.follow_links), _ABOUT, _HISTORY)


def _read_lines(path: Path) -> list[str]:
    return decode_text(path.read_bytes()).removesuffix("\n").split("\n")
