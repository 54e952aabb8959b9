"""A trained run, and its images as files."""

from pathlib import Path

import pytest

from bridgetower_train.data.shards import open_corpus
from tests.evaluation.conftest import trained_run

__all__ = ["trained_run"]


@pytest.fixture(scope="session")
def photos(shapes_root, tmp_path_factory) -> Path:
    """A folder of ten images, two of them in a folder of their own, and a text. Do not write to it."""
    folder = tmp_path_factory.mktemp("album") / "photos"
    (folder / "more").mkdir(parents=True)
    corpus = open_corpus(str(shapes_root), "shapes")
    for number in range(10):
        where = folder / "more" if number > 7 else folder
        (where / f"{number}.jpg").write_bytes(corpus.read(number).image)
    (folder / "notes.txt").write_text("not an image")
    return folder
