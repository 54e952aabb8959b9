"""COCO captions: order, contents, everything that can be wrong with a source."""

import io
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.errors import ConfigError, DataError, FileError
from data_prep.corpora.coco import CocoConfig, run
from tests.hostile.attacks import attack

IMAGES = {"wide.jpg": (90, 50), "tall.jpg": (50, 90), "tiny.png": (20, 24)}


def source(tmp_path: Path) -> tuple[CocoConfig, dict[str, Any]]:
    """Three sound images, one cut short, one that is a web page, one missing, one without captions."""
    images = tmp_path / "images"
    images.mkdir()
    for name, (width, height) in IMAGES.items():
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
    config = CocoConfig(images=str(images), annotations=str(annotations), out=str(tmp_path / "out"), size=48, workers=1)
    return config, content


def corpus_of(config: CocoConfig) -> Corpus:
    return open_corpus(config.out, config.name, None)


def test_sound_images_are_written_in_order(tmp_path: Path) -> None:
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
        "coco_id": 68,
        "width": 90,
        "height": 50,
        "flickr_url": "http://example.org/wide.jpg",
        "license_name": "Attribution License",
        "license_url": "http://example.org/by",
        "sha256": sha256(Path(config.images, "wide.jpg").read_bytes()).hexdigest(),
    }


def test_only_the_first_images_are_taken(tmp_path: Path) -> None:
    config, _ = source(tmp_path)
    run(replace(config, first=3))
    corpus = corpus_of(config)
    assert [corpus.read(row).key for row in range(corpus.manifest.images)] == ["000000000070", "000000000068"]
    assert corpus.manifest.extra["source"]["first"] == "3"
    with pytest.raises(ConfigError, match="first=0: must be at least 1"):
        replace(config, first=0)


def test_every_row_has_one_state_in_the_log_and_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = source(tmp_path)
    run(config)
    manifest = corpus_of(config).manifest
    assert manifest.dropped == {"missing file": 1, "no caption": 1, "not an image": 2}
    assert manifest.extra["states"] == {**manifest.dropped, "ok": 3}
    assert manifest.extra["rows"] == 7
    log = pq.read_table(Path(config.out, "coco", "log", "000000.parquet")).to_pydict()
    assert dict(zip(log["location"], log["state"], strict=True)) == {
        "tall.jpg": "ok",
        "cut.jpg": "not an image",
        "wide.jpg": "ok",
        "page.jpg": "not an image",
        "absent.jpg": "missing file",
        "tiny.png": "ok",
        "mute.jpg": "no caption",
    }
    assert log["row"] == list(range(7))
    assert log["width"] == [50, None, 90, None, None, 20, None]
    out = capsys.readouterr().out
    assert "3 images" in out
    assert "9 captions" in out
    assert re.search(r"3 +42.9%  ok", out)
    assert re.search(r"1 +14.3%  missing file", out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a COCO captions file"),
        ('{"images": []}', "annotations"),
        ('{"images": [{"id": "x1", "file_name": "a.jpg"}], "annotations": []}', "is not a COCO captions file"),
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
        run(CocoConfig(images=str(tmp_path), annotations=str(path), out=str(tmp_path / "out"), workers=1))
    assert str(path) in str(caught.value)


def test_what_is_wrong_with_one_annotation_costs_that_one(tmp_path: Path) -> None:
    config, content = source(tmp_path)
    for image in content["images"][:3]:
        image["id"] = str(image["id"])
    content["annotations"][0]["image_id"] = "70"
    content["images"] += [{"id": "x", "file_name": "wide.jpg"}, {"id": 7}, {"file_name": "wide.jpg"}, None]
    content["annotations"] += [{"image_id": 1}, {"caption": "of none"}, 3]
    content["annotations"] += [{"image_id": 5, "caption": "of an image that is not there"}] * 3
    content["licenses"].append(None)
    Path(config.annotations).write_text(json.dumps(content))
    run(config)
    corpus = corpus_of(config)
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    assert [record.meta["image_id"] for record in records] == [70, 68, 65]
    assert [len(record.captions) for record in records] == [3, 3, 3]
    others = {"missing file": 1, "no caption": 1, "not an image": 2}
    assert corpus.manifest.dropped == {**others, "broken annotation": 7, "not in images": 1}


def test_missing_annotations_and_images_are_one_error(tmp_path: Path) -> None:
    config, _ = source(tmp_path)
    with pytest.raises(ConfigError, match="annotations=nowhere"):
        run(replace(config, annotations="nowhere.json"))
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="has none of the 7 images"):
            run(replace(config, images=str(folder)))
    assert not Path(config.out).exists()


def test_config_names_the_wrong_key() -> None:
    with pytest.raises(ConfigError, match="size=0"):
        CocoConfig(size=0)
    with pytest.raises(ConfigError, match=r"splits=trian: .*; did you mean 'train'"):
        CocoConfig(splits=["trian"])


def test_photographs_are_the_same_with_any_number_of_workers(shared: Path, tmp_path: Path) -> None:
    photos = shared / "photos" / "coco"
    annotations = photos / "annotations" / "captions_train2017.json"
    for workers in (1, 2):
        config = CocoConfig(
            images=str(photos / "train2017"), annotations=str(annotations), out=str(tmp_path / str(workers))
        )
        run(replace(config, workers=workers))
    first, second = (tmp_path / workers / "coco" / "000000.tar" for workers in "12")
    assert first.read_bytes() == second.read_bytes()
    corpus = open_corpus(str(tmp_path / "1"), "coco", None)
    assert (corpus.manifest.images, corpus.manifest.captions, corpus.manifest.dropped) == (26, 130, {})
    listed = json.loads(annotations.read_text())
    for row, image in enumerate(listed["images"]):
        record = corpus.read(row)
        decoded = Image.open(io.BytesIO(record.image))
        assert (record.key, min(decoded.size), decoded.mode) == (f"{image['id']:012d}", 294, "RGB")
        texts = [a["caption"].strip() for a in listed["annotations"] if a["image_id"] == image["id"]]
        assert record.captions == list(dict.fromkeys(texts))


def karpathy(tmp_path: Path) -> CocoConfig:
    """Six images of both folders and all splits, one of them twice."""
    images = []
    places = [("train2014", "train"), ("val2014", "restval"), ("val2014", "val"), ("val2014", "test")]
    for number, (folder, split) in enumerate([*places, places[1], places[0]]):
        (tmp_path / folder).mkdir(exist_ok=True)
        name = f"COCO_{folder}_{number:012d}.jpg"
        Image.new("RGB", (60, 50), (number, 0, 0)).save(tmp_path / folder / name)
        sentences = [{"raw": f"caption {n} of {number}", "tokens": []} for n in range(5)]
        cocoid = 0 if number == 5 else number
        images.append(
            {"filepath": folder, "filename": name, "cocoid": cocoid, "split": split, "sentences": sentences, "imgid": 1}
        )
    annotations = tmp_path / "dataset_coco.json"
    annotations.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return CocoConfig(images=str(tmp_path), annotations=str(annotations), out=str(tmp_path / "out"), size=32, workers=1)


def test_karpathy_s_train_and_restval_are_taken(tmp_path: Path) -> None:
    config = karpathy(tmp_path)
    run(config)
    corpus = corpus_of(config)
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    assert [(record.meta["image_id"], record.meta["split"]) for record in records] == [
        (0, "train"),
        (1, "restval"),
        (4, "restval"),
    ]
    assert records[2].captions == [f"caption {n} of 4" for n in range(5)]
    assert corpus.manifest.dropped == {"duplicate key": 1}
    with pytest.raises(DataError, match="splits was restval, train and is test"):
        run(replace(config, splits=["test"]))
    run(replace(config, splits=["test"], name="coco_test"))
    assert open_corpus(config.out, "coco_test").read(0).meta["image_id"] == 3


def test_a_broken_image_of_karpathy_s_costs_that_one(tmp_path: Path) -> None:
    config = karpathy(tmp_path)
    content = json.loads(Path(config.annotations).read_text())
    broken = [{"split": "train"}, {**content["images"][0], "sentences": [3]}, None, {"split": "val"}]
    Path(config.annotations).write_text(json.dumps({**content, "images": broken + content["images"]}))
    run(config)
    assert corpus_of(config).manifest.images == 3
    assert corpus_of(config).manifest.dropped == {"duplicate key": 1, "broken annotation": 3}


def test_karpathy_s_flickr30k_has_its_own_numbers_and_one_folder(tmp_path: Path) -> None:
    config = karpathy(tmp_path)
    content = json.loads(Path(config.annotations).read_text())
    images = [image for image in content["images"] if image["filepath"] == "val2014"]
    for number, image in enumerate(images):
        del image["filepath"], image["cocoid"]
        image["imgid"] = 10 + number
    Path(config.annotations).write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    run(replace(config, images=str(tmp_path / "val2014"), splits=["test"], name="flickr30k_test"))
    corpus = open_corpus(config.out, "flickr30k_test")
    assert [corpus.read(row).meta["image_id"] for row in range(corpus.manifest.images)] == [12]
    assert corpus.manifest.extra["about"]["title"] == "Flickr30k"


def test_a_broken_karpathy_file_is_one_error(tmp_path: Path) -> None:
    config = karpathy(tmp_path)
    content = json.loads(Path(config.annotations).read_text())
    with pytest.raises(DataError, match="has no image of splits="):
        run(replace(config, splits=[]))
    for key in ("split", "cocoid", "filepath", "sentences"):
        broken = {"images": [{k: v for k, v in image.items() if k != key} for image in content["images"]]}
        Path(config.annotations).write_text(json.dumps(broken))
        with pytest.raises(DataError, match=rf"is not Karpathy's dataset_coco.json.*{key}"):
            run(config)


def test_a_killed_run_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    config = karpathy(tmp_path)
    content = json.loads(Path(config.annotations).read_text())
    one = content["images"][0]
    content["images"] = [{**one, "cocoid": number} for number in range(3000)]
    Path(config.annotations).write_text(json.dumps(content))
    keys = [f"{key}={value}" for key, value in vars(config).items() if key in ("images", "annotations", "out", "size")]
    command = [sys.executable, "-m", "bridgetower_train", "prep", "coco", *keys, "workers=2", "records_per_shard=300"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], start_new_session=True)
    deadline = time.monotonic() + 180
    while not list((tmp_path / "out").rglob("*.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.kill()
    process.wait()
    assert not psutil.wait_procs(family, timeout=120)[1], "a worker outlives the job"
    assert not (tmp_path / "out" / "coco" / "manifest.json").exists()
    run(replace(config, records_per_shard=300))
    run(replace(config, records_per_shard=300, out=str(tmp_path / "straight")))
    for name in ("manifest.json", "index.npy", "000004.tar", "log/000004.parquet"):
        assert (tmp_path / "out/coco" / name).read_bytes() == (tmp_path / "straight/coco" / name).read_bytes()


@attack(15)
def test_file_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    config, content = source(tmp_path)
    (tmp_path / "passport.jpg").write_bytes(Path(config.images, "wide.jpg").read_bytes())
    Path(config.images, "link.jpg").symlink_to(tmp_path / "passport.jpg")
    names = ["link.jpg", "../passport.jpg", str(tmp_path / "passport.jpg")]
    for image, name in zip(content["images"], names, strict=False):
        image["file_name"] = name
    Path(config.annotations).write_text(json.dumps(content))
    run(config)
    dropped = corpus_of(config).manifest.dropped
    assert (dropped["outside the folder"], dropped["link out of the folder (see follow_links)"]) == (2, 1)
    run(replace(config, name="followed", follow_links=True))
    assert corpus_of(replace(config, name="followed")).manifest.dropped["outside the folder"] == 2
    assert (
        "link out of the folder (see follow_links)" not in corpus_of(replace(config, name="followed")).manifest.dropped
    )


@attack(16)
def test_annotations_that_are_no_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    with pytest.raises(FileError, match="not a regular file"):
        run(CocoConfig(images=str(tmp_path), annotations=str(tmp_path / "fifo.json"), out=str(tmp_path / "out")))
