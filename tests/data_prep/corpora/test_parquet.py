"""Images in Parquet files and image folders, as Hugging Face's `datasets` has them."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_prep_shards import encoded, records

from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import ConfigError, DataError
from data_prep.corpora.captions import CaptionsConfig, run
from tests.hostile.attacks import attack

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hub_file(path: Path, rows: list[tuple[bytes | None, Any]], plain: bool = False, **columns: Any) -> Path:
    """A table as `datasets` writes it, ten rows a group."""
    images = [data if plain else {"bytes": data, "path": f"{number}.jpg"} for number, (data, _) in enumerate(rows)]
    table = {
        "image": pa.array(images, pa.binary() if plain else IMAGE),
        "caption": [text for _, text in rows],
        **columns,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, row_group_size=10)
    return path


def prepare(out: Path, source: object, **keys: Any):
    run(CaptionsConfig(**{"source": str(source), "out": str(out), "name": "ours", "size": 64, "workers": 1, **keys}))
    return open_corpus(str(out), "ours")


def test_a_file_with_images(tmp_path):
    rows: list[tuple[bytes | None, Any]] = [(encoded(number), f"caption {number}") for number in range(12)]
    rows += [(encoded(3), "another one"), (None, "nothing"), (b"<html>", "no image"), (encoded(20), None)]
    corpus = prepare(tmp_path, hub_file(tmp_path / "a.parquet", rows))
    expected = {f"000000-{number:06d}": [f"caption {number}"] for number in range(12)}
    expected["000000-000003"] += ["another one"]
    assert records(corpus) == expected
    assert corpus.manifest.extra["states"] == {"ok": 12, "no caption": 1, "no image": 1, "not an image": 1}
    assert corpus.read(2).meta["file"] == "2.jpg"
    assert bytes(corpus.read(2).image) == encoded(2)
    assert not list(tmp_path.rglob("*.images"))


@pytest.mark.parametrize(
    "source", ["folder", "folder/*.parquet", "folder/x-{0..1}.parquet", "[folder/x-0.parquet,folder/x-1.parquet]"]
)
def test_several_files(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        rows = [(encoded(10 * number + i), [f"{number}", f"{i} of {number}"]) for i in range(3)]
        hub_file(tmp_path / "folder" / f"x-{number}.parquet", rows, plain=True)
    corpus = prepare(tmp_path, source)
    assert [shard.records for shard in corpus.manifest.shards] == [3, 3]
    assert records(corpus)["000001-000002"] == ["1", "2 of 1"]


def test_captions_of_several_kinds(tmp_path):
    path = hub_file(
        tmp_path / "a.parquet", [(encoded(1), "alternative"), (encoded(1), "more")], blip=[["one"], ["two", "three"]]
    )
    corpus = prepare(tmp_path, path, kinds={"alt": "caption", "synthetic": "blip"})
    assert records(corpus) == {"000000-000000": ["alternative", "one", "more", "two", "three"]}
    assert corpus.read(0).kinds == ["alt", "synthetic", "alt", "synthetic", "synthetic"]


def test_splits_are_not_mixed(tmp_path):
    for split in ("train", "validation"):
        hub_file(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [(encoded(1), "x")])
    with pytest.raises(ConfigError, match=r"has the splits train, validation; name the files of one"):
        prepare(tmp_path, tmp_path / "data")
    assert len(records(prepare(tmp_path, tmp_path / "data" / "train*.parquet"))) == 1


def test_wrong_columns_are_one_line_before_anything_is_written(tmp_path):
    path = hub_file(tmp_path / "a.parquet", [(encoded(1), "x")])
    with pytest.raises(ConfigError, match=r"caption=text: .*a.parquet has no such column, but image, caption"):
        prepare(tmp_path, path, caption="text")
    with pytest.raises(ConfigError, match=r"image=caption: .*a.parquet has no images in this column"):
        prepare(tmp_path, path, image="caption")
    assert not (tmp_path / "ours").exists()


def test_what_is_broken_is_counted(tmp_path):
    for number in range(2):
        hub_file(tmp_path / "folder" / f"{number}.parquet", [(encoded(number), "x")])
    broken = tmp_path / "folder" / "2.parquet"
    broken.write_bytes((tmp_path / "folder" / "1.parquet").read_bytes()[:-20])
    corpus = prepare(tmp_path, tmp_path / "folder")
    assert corpus.manifest.extra["states"] == {"ok": 2, "parquet cannot be read": 1}


@attack(77)
def test_a_few_bytes_that_stand_for_gigabytes_are_refused(tmp_path):
    """One image of 1 MB in a dictionary, which 20,000 rows share, is copied once; different ones made of nothing are too many."""
    large = encoded(1, (600, 600), "BMP")
    path = tmp_path / "a.parquet"
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array([large], pa.binary()))
    pq.write_table(pa.table({"image": images.dictionary_decode(), "caption": [str(n) for n in range(300)]}), path)
    assert len(records(prepare(tmp_path, path))) == 1
    zeros = [bytes(2_000_000 + number) for number in range(80)]
    pq.write_table(pa.table({"image": pa.array(zeros, pa.binary()), "caption": ["x"] * 80}), path, compression="zstd")
    with pytest.raises(DataError, match=r"none of the rows gave an image.*parquet cannot be read"):
        prepare(tmp_path / "b", path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_image_folder(tmp_path, kind):
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    rows = [{"file_name": f"{number}.jpg", "text": f"caption {number}"} for number in range(3)]
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(encoded(number))
    metadata = folder / f"metadata.{kind}"
    if kind == "csv":
        metadata.write_text("file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows))
    elif kind == "jsonl":
        metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), metadata)
    corpus = prepare(tmp_path, tmp_path / "images", caption="text")
    assert list(records(corpus).values()) == [[f"caption {number}"] for number in range(3)]
    (tmp_path / "images" / "test").mkdir()
    (tmp_path / "images" / "test" / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(ConfigError, match=r"has .*test/metadata.csv and .*train/metadata.*; name the folder of one"):
        prepare(tmp_path / "b", tmp_path / "images", caption="text")


def test_the_hub(tmp_path, monkeypatch):
    """hf:// in memory: the protocol is huggingface_hub's, whose server is not asked here."""
    import fsspec

    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": encoded(5), "path": None}], IMAGE), "caption": ["five"]}), buffer
    )
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/hub/data/train-0.parquet", buffer.getvalue())
    try:
        assert list(records(prepare(tmp_path, "memory://hub/data")).values()) == [["five"]]
    finally:
        memory.rm("/hub", recursive=True)
