"""What the commands are given."""

import csv
import json
from pathlib import Path

import pytest

from bridgetower_train.cli import main
from data_prep.shapes import corpus as shapes
from data_prep.source.image import prepare_jpeg
from tests.conftest import image
from tests.fuzz.cases import World
from tests.training.runs import export_here, train_here


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    folder: Path = tmp_path_factory.mktemp("world")
    shapes.run(shapes.ShapesConfig(out=str(folder / "data"), records=24, heldout=8, size=32, workers=1))
    keys = (
        "steps=2",
        "checkpoint.every=1",
        "data.workers=0",
        "tensorboard=true",
        "validation.every=2",
        "validation.samples=4",
    )
    train_here(folder / "data", folder / "run", *keys)
    export_here(folder / "run", folder / "export")
    images = folder / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.jpg").write_bytes(prepare_jpeg(image(number), 64))
    with (images / "captions.csv").open("w") as file:
        csv.writer(file).writerows([["image", "caption"], *([f"{n}.jpg", f"a caption, é {n}"] for n in range(3))])
    coco = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
        "annotations": [{"image_id": n, "caption": f"caption {n}"} for n in range(3)],
    }
    (images / "coco.json").write_text(json.dumps(coco))
    urls = [f"http://127.0.0.1:9/{n}.jpg" for n in range(3)]  # private, and so never contacted
    (images / "sbu.json").write_text(json.dumps({"image_urls": urls, "captions": ["a", "b", "c"]}))
    (images / "cc3m.tsv").write_text("".join(f"caption {n}\t{url}\n" for n, url in enumerate(urls)))
    (images / "image_data.json").write_text(json.dumps([{"image_id": n, "coco_id": None} for n in range(3)]))
    regions = [{"id": n, "regions": [{"image_id": n, "phrase": f"phrase {n}"}]} for n in range(3)]
    (images / "regions.json").write_text(json.dumps(regions))
    answers = [
        {"id": n, "qas": [{"qa_id": n, "image_id": n, "question": "what is it?", "answer": "dog"}]} for n in range(3)
    ]
    (images / "question_answers.json").write_text(json.dumps(answers))
    (images / "answers.json").write_text('["dog", "cat"]')
    index = ["embed", f"run_dir={folder / 'run'}", f"images={images}", f"out={images / 'index.parquet'}", "device=cpu"]
    assert main(index) == 0
    drawn = shapes.ShapesConfig(out=str(folder / "drawn"), records=24, heldout=8, size=32, tasks=True, workers=1)
    shapes.run(drawn)
    (folder / "drawn" / shapes.TASKS).rename(folder / "tasks")
    return World(folder)
