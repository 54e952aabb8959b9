"""COCO captions: order, contents, everything that can be wrong with a source."""

import io
import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.errors import ConfigError, DataError
from data_prep.coco import CocoConfig, run

PICTURES = {"wide.jpg": (90, 50), "tall.jpg": (50, 90), "tiny.png": (20, 24)}


def source(tmp_path: Path) -> tuple[CocoConfig, dict[str, Any]]:
    """Three sound pictures, one cut short, one that is a web page, one missing, one without captions."""
    images = tmp_path / "images"
    images.mkdir()
    for name, (width, height) in PICTURES.items():
        ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
        Image.fromarray(ramp if name != "tall.jpg" else ramp[..., 0]).save(images / name)
    (images / "cut.jpg").write_bytes((images / "wide.jpg").read_bytes()[:400])
    (images / "page.jpg").write_text("<html>not found</html>")
    (images / "mute.jpg").write_bytes((images / "wide.jpg").read_bytes())
    names = ["tall.jpg", "cut.jpg", "wide.jpg", "page.jpg", "absent.jpg", "tiny.png", "mute.jpg"]
    content = {
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://example.org/by"}],
        "images": [
            {
                "id": 70 - i,
                "file_name": name,
                "license": 4,
                "flickr_url": f"http://example.org/{name}",
                "width": 1,
                "height": 2,
            }
            for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": n, "image_id": 70 - i, "caption": f"caption {n} of {names[i]}\n"}
            for n in range(3)
            for i in range(len(names) - 1)
        ],
    }
    content["annotations"].append({"id": 99, "image_id": 64, "caption": "  "})
    annotations = tmp_path / "captions.json"
    annotations.write_text(json.dumps(content))
    config = CocoConfig(str(images), str(annotations), str(tmp_path / "out"), size=48, workers=1)
    return config, content


def corpus_of(config: CocoConfig) -> Corpus:
    return open_corpus(config.out, config.name, None)


def test_sound_pictures_are_written_in_order(tmp_path: Path) -> None:
    config, _ = source(tmp_path)
    run(config)
    corpus = corpus_of(config)
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    assert [record.key for record in records] == ["000000000070", "000000000068", "000000000065"]
    assert records[0].captions == [f"caption {n} of tall.jpg" for n in range(3)]
    assert corpus.manifest.image_size == 48
    sizes = [Image.open(io.BytesIO(record.image)).size for record in records]
    assert np.abs(np.array(sizes) - [(48, 86.4), (86.4, 48), (48, 57.6)]).max() < 1
    assert records[1].meta == {
        "captions": [f"caption {n} of wide.jpg" for n in range(3)],
        "source": "coco",
        "image_id": 68,
        "width": 1,
        "height": 2,
        "flickr_url": "http://example.org/wide.jpg",
        "license_name": "Attribution License",
        "license_url": "http://example.org/by",
        "sha256": sha256(Path(config.images, "wide.jpg").read_bytes()).hexdigest(),
    }


def test_what_is_left_out_is_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = source(tmp_path)
    run(config)
    dropped = corpus_of(config).manifest.dropped
    assert sum(dropped.values()) == 4
    assert dropped["missing file"] == dropped["no caption"] == 1
    listed = [json.loads(line) for line in Path(config.out, "coco", "dropped.jsonl").read_text().splitlines()]
    assert [line["file"] for line in listed] == ["cut.jpg", "page.jpg", "absent.jpg", "mute.jpg"]
    assert Counter(line["reason"] for line in listed) == dropped
    out = capsys.readouterr().out
    assert "missing file: 1 (absent.jpg)" in out
    assert "no caption: 1 (mute.jpg)" in out
    assert "3 pictures" in out
    assert "9 captions" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no COCO captions file"),
        ('{"images": []}', "annotations"),
        ('{"images": [{"id": "1", "file_name": "a.jpg"}], "annotations": []}', "is no COCO captions file"),
        ('{"images": [{"id": 1}], "annotations": []}', "file_name"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": []}]}', "caption"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 2, "caption": "a"}]}',
            "of one of",
        ),
    ],
)
def test_wrong_annotations_are_one_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "captions.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        run(CocoConfig(str(tmp_path), str(path), str(tmp_path / "out"), workers=1))
    assert str(path) in str(caught.value)


def test_missing_annotations_and_pictures_are_one_error(tmp_path: Path) -> None:
    config, _ = source(tmp_path)
    with pytest.raises(ConfigError, match="annotations=nowhere"):
        run(CocoConfig(config.images, "nowhere.json", config.out))
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="has none of the 7 pictures"):
            run(CocoConfig(str(folder), config.annotations, config.out))
    assert not Path(config.out).exists()


def test_config_names_the_wrong_key() -> None:
    with pytest.raises(ConfigError, match="size=0"):
        CocoConfig("a", "b", "c", size=0)


def test_photographs_are_the_same_with_any_number_of_workers(shared: Path, tmp_path: Path) -> None:
    photos = shared / "photos" / "coco"
    annotations = photos / "annotations" / "captions_train2017.json"
    for workers in (1, 2):
        run(CocoConfig(str(photos / "train2017"), str(annotations), str(tmp_path / str(workers)), workers=workers))
    first, second = (tmp_path / workers / "coco" / "000000.tar" for workers in "12")
    assert first.read_bytes() == second.read_bytes()
    corpus = open_corpus(str(tmp_path / "1"), "coco", None)
    assert (corpus.manifest.images, corpus.manifest.captions, corpus.manifest.dropped) == (26, 130, {})
    listed = json.loads(annotations.read_text())
    for row, image in enumerate(listed["images"]):
        record = corpus.read(row)
        picture = Image.open(io.BytesIO(record.image))
        assert (record.key, min(picture.size), picture.mode) == (f"{image['id']:012d}", 294, "RGB")
        texts = [a["caption"].strip() for a in listed["annotations"] if a["image_id"] == image["id"]]
        assert record.captions == list(dict.fromkeys(texts))
