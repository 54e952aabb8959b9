"""What is embedded and found again: images of a folder or of a corpus, or texts."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from bridgetower_train.data.roots import is_remote
from bridgetower_train.data.shards import IMAGE_TOO_LARGE, MAX_IMAGE_BYTES, BadRecordError, Corpus, Record
from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError
from bridgetower_train.foreign import decode_text, read_lines
from data_prep.source.local import IMAGES, files_in, local_path, read_local


class Images(ABC):
    """Images that can be read again by what an index says of them."""

    @abstractmethod
    def image(self, key: str, row: int) -> bytes | Record:
        """The encoded image; BadRecordError where it is not there or may not be read, OSError where it cannot be."""


class FolderImages(Images):
    """The files of a folder; a key is a path below it."""

    def __init__(self, folder: str, follow_links: bool = False) -> None:
        """`follow_links`: links may lead out of the folder."""
        self.folder, self._follow_links = folder, follow_links

    def image(self, key: str, row: int) -> bytes:
        return read_local(local_path(self.folder, key, self._follow_links), MAX_IMAGE_BYTES, IMAGE_TOO_LARGE)


class CorpusImages(Images):
    """The first image of each record of a corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def image(self, key: str, row: int) -> Record:
        if not 0 <= row < len(self.corpus.index) or self.corpus.key(row) != key:
            raise BadRecordError(f"{self.corpus.name} has another record there")
        return self.corpus.read(row)


@dataclass(frozen=True)
class Source:
    """What an index is made of, by number."""

    count: int
    key: Callable[[int], str]
    """Of an image its path or its key in the corpus; of a text the text."""
    digest: str
    """Changes with what the source has; of a folder as far as names, sizes and times of change tell."""
    images: Images | None = None
    """None for texts."""
    folder: str | None = None
    """Where the images, or the corpora, are, if that is here."""
    corpus: str | None = None


def of_folder(folder: str, follow_links: bool) -> Source:
    """The images of a folder and its subfolders. ConfigError where there are none."""
    if not os.path.isdir(folder):
        raise ConfigError(f"images={folder}: no such folder; give a folder of images")
    names, left_out = files_in(folder, follow_links)
    names = [name for name in names if os.path.splitext(name)[1].lower() in IMAGES]
    for name, state in left_out.items():
        print_line(f"left out: {os.path.join(folder, name)}: {state}")
    if not names:
        raise ConfigError(f"images={folder}: has no image; give a folder of {', '.join(IMAGES)}")
    digest = _digest(f"{name}\t{_stamp(os.path.join(folder, name))}" for name in names)
    return Source(len(names), names.__getitem__, digest, FolderImages(folder, follow_links), folder)


def of_corpus(corpus: Corpus) -> Source:
    """The images of a corpus."""
    root = corpus.folder.removesuffix(f"/{corpus.name}")
    here = None if is_remote(root) else root
    return Source(len(corpus.index), corpus.key, corpus.digest, CorpusImages(corpus), here, corpus.name)


def of_texts(file: str) -> Source:
    """The lines of a text file that are not empty. ConfigError where there are none, or no such file."""
    if not Path(file).is_file():
        raise ConfigError(f"texts={file}: no such file; give a file with a text on each line")
    texts = [text for line in read_lines(file) if (text := decode_text(line).strip())]
    if not texts:
        raise ConfigError(f"texts={file}: has no text; give a file with a text on each line")
    return Source(len(texts), texts.__getitem__, _digest(texts))


def _stamp(path: str) -> str:
    """Changes with a file; empty where it cannot be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _digest(names: Iterable[str]) -> str:
    digest = sha256()
    for name in names:
        digest.update(f"{name}\n".encode("utf-8", "replace"))
    return digest.hexdigest()
