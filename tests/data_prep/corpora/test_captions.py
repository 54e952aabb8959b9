"""Any table, any folder of captioned images."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.errors import ConfigError, DataError
from data_prep.corpora.captions import CaptionsConfig, run

ROWS = [
    ("b.jpg", 'a "dog'),
    ("sub/a.png", "two, cats"),
    ("b.jpg", "again\tdog"),
    ("none.jpg", "nothing"),
    ("c.jpg", " "),
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.jpg", "sub/a.png", "c.jpg", "d.jpg")):
        Image.new("RGB", (50 + number, 40)).save(folder / name)
    return folder


def config(source: Path, out: Path, **keys: Any) -> CaptionsConfig:
    return CaptionsConfig(**{"source": str(source), "out": str(out), "name": "mine", "size": 32, "workers": 1, **keys})


def written(out: Path) -> Corpus:
    return open_corpus(str(out), "mine")


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    if path.suffix == ".csv":
        quoted = ['"' + a.replace('"', '""') + '","' + b.replace('"', '""') + '"' for a, b in rows]
        path.write_text("image,caption\r\n" + "\r\n".join(quoted))
    elif path.suffix == ".tsv":
        path.write_text("image\tcaption\n" + "".join(f"{a}\t{b}\n".replace("again\t", "again ") for a, b in rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"image": a, "caption": b, "more": 1}) + "\n" for a, b in rows))
    else:
        pq.write_table(pa.table({"image": [a for a, _ in rows], "caption": [b for _, b in rows]}), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table(tmp_path: Path, images: Path, suffix: str) -> None:
    table = write_table(tmp_path / f"table{suffix}", ROWS)
    run(config(table, tmp_path / "out", images=str(images)))
    corpus = written(tmp_path / "out")
    assert [corpus.read(row).captions for row in range(2)] == [['a "dog', "again dog"], ["two, cats"]]
    assert [corpus.read(row).meta["file"] for row in range(2)] == ["b.jpg", "sub/a.png"]
    assert corpus.manifest.dropped == {"missing file": 1, "no caption": 1}
    with pytest.raises(
        DataError, match=r"none of the 4 paths in its column 'image', such as 'b.jpg', exists; set images="
    ):
        run(config(table, tmp_path / "out"))


def test_a_column_of_lists_and_columns_of_other_names(tmp_path: Path, images: Path) -> None:
    table = images / "table.parquet"
    pq.write_table(pa.table({"path": ["b.jpg", None], "texts": [["one", "two", "one"], ["lost"]]}), table)
    run(config(table, tmp_path / "out", image="path", caption="texts"))
    assert written(tmp_path / "out").read(0).captions == ["one", "two"]
    assert written(tmp_path / "out").manifest.dropped == {"no image": 1}
    with pytest.raises(
        ConfigError, match=r"caption=text: source=.* has no such column, but path, texts; did you mean 'texts'"
    ):
        run(config(table, tmp_path / "other", image="path", caption="text"))


def test_broken_text_in_a_table_is_one_row_s_matter(tmp_path: Path, images: Path) -> None:
    table = images / "table.tsv"
    table.write_bytes(b"\xef\xbb\xbfimage\tcaption\nb.jpg\tcaf\xe9 \0 x\nc.jpg\nd.jpg\tgood\textra\n")
    run(config(table, tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert [corpus.read(row).captions for row in range(2)] == [["caf\ufffd   x"], ["good"]]
    assert corpus.manifest.dropped == {"no caption": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", 'image,caption\nb.jpg,"never closed', "unexpected end of data"),
        ("t.jsonl", '{"image": "b.jpg", "caption": "a"}\n[1]\n', r"line 2: \[1\]"),
        ("t.jsonl", "{", "is not a .jsonl"),
        ("t.parquet", "PAR1", "is not a .parquet"),
    ],
)
def test_a_broken_table_is_one_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        run(config(tmp_path / name, tmp_path / "out"))


def test_a_source_that_is_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        run(config(tmp_path / "none.csv", tmp_path / "out"))
    (tmp_path / "table.xlsx").touch()
    with pytest.raises(ConfigError, match=r"must be a folder, or a .csv"):
        run(config(tmp_path / "table.xlsx", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no image"):
        run(config(tmp_path / "empty", tmp_path / "out"))


def test_a_folder_of_images_with_texts(tmp_path: Path, images: Path) -> None:
    (images / "b.txt").write_text("one caption\ntwo captions\n")
    (images / "sub" / "a.json").write_text(json.dumps({"caption": "a cat"}))
    (images / "sub" / "a.txt").write_text("not this one")
    (images / "c.json").write_text("{")
    (images / "lonely.txt").write_text("no image")
    run(config(images, tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert [corpus.read(row).captions for row in range(2)] == [["one caption", "two captions"], ["a cat"]]
    assert corpus.manifest.dropped == {"json cannot be read": 1, "no caption": 1, "no image": 1}
    run(config(images, tmp_path / "out"))
    (images / "b.txt").write_text("one caption\nTWO captions\n")
    with pytest.raises(DataError, match="source source was"):
        run(config(images, tmp_path / "out"))
