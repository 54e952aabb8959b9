"""Visual Genome: its two folders, its phrases, and the images that COCO is evaluated on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bridgetower_train.data.shards import clean_captions, open_corpus
from bridgetower_train.errors import ConfigError, DataError
from data_prep.corpora.visual_genome import VisualGenome, VisualGenomeConfig, run
from tests.hostile.attacks import attack


def source(folder: Path) -> VisualGenomeConfig:
    """Image 1 to 4 with phrases, 5 without, 6 with none of its own, 7 not in image_data; 2 and 3 are COCO's."""
    for number, name in (
        (1, "VG_100K"),
        (2, "VG_100K"),
        (3, "VG_100K_2"),
        (4, "VG_100K_2"),
        (5, "VG_100K"),
        (7, "VG_100K"),
    ):
        (folder / name).mkdir(exist_ok=True)
        Image.new("RGB", (60 + number, 50), (number, 0, 0)).save(folder / name / f"{number}.jpg")
    images = [{"image_id": n, "coco_id": {2: 20, 3: 30}.get(n), "width": 1, "height": 1} for n in (4, 1, 2, 3, 5, 6, 1)]
    regions: list[dict[str, Any]] = [
        {"id": n, "regions": [{"image_id": n, "phrase": text} for text in phrases(n)]} for n in (1, 2, 3, 4, 6, 7)
    ]
    regions.append({"id": 5, "regions": []})
    karpathy = {"images": [{"cocoid": 20, "split": "train"}, {"cocoid": 30, "split": "test"}], "dataset": "coco"}
    for name, content in (("image_data", images), ("regions", regions), ("karpathy", karpathy)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    paths = {name: str(folder / f"{name}.json") for name in ("image_data", "regions", "karpathy")}
    return VisualGenomeConfig(out=str(folder / "out"), images=str(folder), size=32, workers=1, **paths)


def phrases(number: int) -> list[str]:
    return [f"the dog {number} ", f"a cat\nof {number}", f"the dog {number}", "", f"dog {number}"]


def states(config: VisualGenomeConfig) -> dict[int, str]:
    table = VisualGenome(config)
    return {place: row.state for place, row in enumerate(table.rows(0, len(table)))}


def test_images_keep_their_order_and_phrases_theirs(tmp_path: Path) -> None:
    config = source(tmp_path)
    run(config)
    corpus = open_corpus(config.out, "vg")
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    assert [record.meta["image_id"] for record in records] == [4, 1, 2]
    assert records[0].captions == ["the dog 4", "a cat of 4", "dog 4"]
    assert records[2].meta["coco_id"] == 20
    assert records[2].meta["width"] == 62
    assert corpus.manifest.dropped == {
        "in COCO val or test": 1, "no caption": 1, "missing file": 1, "duplicate key": 1, "not in image_data": 1,
    }  # fmt: skip
    assert corpus.manifest.extra["rows"] == 8


def test_leaking_images_must_be_decided_on(tmp_path: Path) -> None:
    config = source(tmp_path)
    with pytest.raises(
        ConfigError, match=r"karpathy: .* leaks into the evaluation; .* or karpathy=none to train on all"
    ):
        run(replace(config, karpathy=None))
    run(replace(config, karpathy="none"))
    corpus = open_corpus(config.out, "vg")
    assert [corpus.read(row).meta["image_id"] for row in range(corpus.manifest.images)] == [4, 1, 2, 3]
    with pytest.raises(DataError, match="source karpathy was none and is"):
        run(config)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_is_wrong_with_one_annotation_costs_that_one(tmp_path: Path, encoding: str) -> None:
    config = source(tmp_path)
    images, regions = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("image_data", "regions"))
    images[0]["image_id"], images[3]["coco_id"] = "4", "30"
    images += [{"image_id": "x"}, None, {"image_id": 8, "coco_id": []}]
    regions[0]["regions"] += [{"image_id": 1}, 3, {"image_id": "1", "phrase": "un café"}]
    regions += [{}, {"regions": [{"phrase": "of none"}]}]
    for name, content in (("image_data", images), ("regions", regions)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding)
    run(config)
    corpus = open_corpus(config.out, "vg")
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    assert [record.meta["image_id"] for record in records] == [4, 1, 2]
    assert records[1].captions[-1] == "un café"
    assert corpus.manifest.dropped["in COCO val or test"] == 1
    assert corpus.manifest.dropped["broken annotation"] == 7


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image_data", "{}", r"image_data=.*is not a JSON array in UTF-8 \(it does not start with \["),
        ("image_data", "[{}]", "is not Visual Genome's image_data.json.*'image_id'"),
        ("image_data", '[{"image_id": 1}', "is not a JSON array in UTF-8"),
        ("regions", '[{"regions": [{"image_id": 1}]}]', "is not Visual Genome's region_descriptions.json.*'phrase'"),
        ("regions", '[{"regions": []} {"regions": []}]', r"regions=.*is not a JSON array in UTF-8"),
        ("regions", '[{"regions": []}, \udcff]', "is not a JSON array in UTF-8"),
        ("karpathy", "[]", "is not Karpathy's dataset_coco.json"),
        ("karpathy", '{"images": [{"cocoid": 1}]}', "is not Karpathy's dataset_coco.json.*'split'"),
    ],
)
def test_wrong_annotations_are_one_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    config = source(tmp_path)
    (tmp_path / f"{name}.json").write_text(content, errors="surrogateescape")
    with pytest.raises(DataError, match=message):
        run(config)
    assert not (tmp_path / "out").exists()


def test_missing_files_and_images_are_one_error(tmp_path: Path) -> None:
    config = source(tmp_path)
    for name in ("image_data", "regions", "karpathy"):
        with pytest.raises(ConfigError, match=f"{name}=nowhere.json: cannot be read"):
            run(replace(config, **{name: "nowhere.json"}))
    with pytest.raises(DataError, match="has none of the 8 images"):
        run(replace(config, images=str(tmp_path / "out")))


def test_the_two_photographs(shared: Path, tmp_path: Path) -> None:
    folder = shared / "photos" / "visual_genome"
    config = VisualGenomeConfig(
        out=str(tmp_path), images=str(folder / "images"), regions=str(folder / "annotations/region_descriptions.json"),
        image_data=str(folder / "annotations/image_data.json"), karpathy="none", workers=1,
    )  # fmt: skip
    run(config)
    corpus = open_corpus(str(tmp_path), "vg")
    assert corpus.manifest.images == 2
    listed = json.loads(Path(config.regions).read_text())
    for row, image in enumerate(listed):
        assert corpus.read(row).captions == list(clean_captions(region["phrase"] for region in image["regions"]))


@attack(15)
def test_a_folder_of_images_that_is_a_link_out_is_followed_only_if_the_user_says_so(tmp_path: Path) -> None:
    (tmp_path / "vg").mkdir()
    config = source(tmp_path / "vg")
    (tmp_path / "vg" / "VG_100K").rename(tmp_path / "elsewhere")
    (tmp_path / "vg" / "VG_100K").symlink_to(tmp_path / "elsewhere")
    run(replace(config, karpathy="none"))
    assert open_corpus(config.out, "vg").manifest.images == 2
    assert open_corpus(config.out, "vg").manifest.dropped["link out of the folder (see follow_links)"] == 3
    run(replace(config, karpathy="none", name="followed", follow_links=True))
    assert open_corpus(config.out, "followed").manifest.images == 4
