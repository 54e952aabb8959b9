"""Conceptual Captions, 3M and 12M: each row is a URL and the caption from its page; most of the images still exist."""

from dataclasses import dataclass, field

from bridgetower_train.errors import DataError
from data_prep.corpora.web import WebConfig, prepare_from_web
from data_prep.source.tsv import TsvTable, url_column

PERSON = "<PERSON>"
"""Replaces names of people in CC12M."""


@dataclass(frozen=True)
class Cc3mConfig(WebConfig):
    """`bridgetower prep cc3m`: fetch Conceptual Captions 3M."""

    annotations: str = "???"
    """`Train_GCC-training.tsv`: caption and URL, separated by a tab, without a header."""
    hashes: str | None = None
    """Table of URL, SHA-256 and MD5, separated by tabs: an image that has been replaced since is left out."""
    exclude: list[str] = field(default_factory=list)
    """Other tables of captions and URLs, whose images are left out."""
    name: str = "cc3m"
    """Name of the corpus folder."""


@dataclass(frozen=True)
class Cc12mConfig(WebConfig):
    """`bridgetower prep cc12m`: fetch Conceptual 12M."""

    annotations: str = "???"
    """`cc12m.tsv`: URL and caption, separated by a tab, without a header."""
    hashes: str | None = None
    """The published table of URL, SHA-256 and MD5, separated by tabs: an image that has been replaced since is left out."""
    exclude: list[str] = field(default_factory=list)
    """Other tables, such as `Train_GCC-training.tsv`, whose images (63,000 of CC3M) are left out."""
    person: str = "person"
    """Replaces `<PERSON>` in captions. A tokenizer that does not know it splits it into four tokens; `person` is one, is
    what CC3M has in such places, and what ALBEF and BLIP used."""
    name: str = "cc12m"
    """Name of the corpus folder."""


_LICENCE = "captions: may be freely used, Google LLC as the source is to be named; each image is its owner's"
_CC3M = {
    "title": "Conceptual Captions (CC3M)",
    "homepage": "https://ai.google.com/research/ConceptualCaptions",
    "licence": _LICENCE,
    "note": "captions from alternative texts, in lower case, names replaced by what they are",
}
_CC12M = {
    "title": "Conceptual 12M",
    "homepage": "https://github.com/google-research-datasets/conceptual-12m",
    "licence": _LICENCE,
    "note": f"captions from alternative texts, names replaced by {PERSON}",
}
_CC3M_HISTORY = "87.6% in 2021 (2,905,954 of 3,318,333), about 70% in 2024"
_CC12M_HISTORY = "88.3% in 2021 (10,968,539 of 12,423,374), 79.2% in 2022, 62.3% in 2025"


def run(config: Cc3mConfig | Cc12mConfig) -> None:
    """Write the corpus, or resume. ConfigError where a file cannot be read, DataError where it has another layout."""
    if isinstance(config, Cc3mConfig):
        _check_columns(config.annotations, 1, "cc12m")
        table = TsvTable(config.annotations, 1, hashes=config.hashes, exclude=config.exclude)
        prepare_from_web(config, table, _CC3M, _CC3M_HISTORY)
    else:
        _check_columns(config.annotations, 0, "cc3m")
        person = config.person
        table = TsvTable(
            config.annotations,
            0,
            lambda c: c.replace(PERSON, person),
            config.hashes,
            config.exclude,
            {"person": person},
        )
        prepare_from_web(config, table, _CC12M, _CC12M_HISTORY)


def _check_columns(annotations: str, column: int, other: str) -> None:
    if url_column("annotations", annotations) != column:
        raise DataError(
            f"annotations={annotations}: has its URLs in the {('second', 'first')[column]} column, as the table of "
            f"`prep {other}` has; use that command"
        )
