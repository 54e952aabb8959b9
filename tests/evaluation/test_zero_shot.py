"""`bridgetower eval zero_shot`, and the same as a validation during training."""

import json

import numpy as np
import pytest
import torch

import bridgetower_train as bt
from bridgetower_train.cli import main
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.evaluation.protocol import read_evaluations
from tests.tiny import TINY
from tests.training.runs import metric_lines, train_here

CLASSES = ["circle", "cross", "diamond", "ring", "square", "green_triangle"]


@pytest.fixture(scope="module")
def root(shapes_root, tmp_path_factory):
    """A root with the corpora of shapes, and `named`: 18 of their images, three of each class. Do not write to it."""
    root = tmp_path_factory.mktemp("zero_shot")
    for name in ("shapes", "shapes_heldout"):
        (root / name).symlink_to(shapes_root / name)
    corpus = open_corpus(shapes_root, "shapes")
    for number in range(18):
        folder = root / "images" / CLASSES[number % 6]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(corpus.read(number).image)
    keys = [f"source={root}/images", f"out={root}", "size=32", "workers=1"]
    assert main(["prep", "classes", *keys, "name=named"]) == 0
    assert main(["prep", "classes", *keys, "name=tested", "split=test"]) == 0
    return root


@pytest.mark.parametrize("templates", [["a {}"], ["a photo of a {}.", "one {}, drawn"]])
def test_an_image_has_the_class_whose_prompts_are_nearest(run_dir, root, capsys, templates):
    keys = [f"run_dir={run_dir}", f"root={root}", "corpus=named", "device=cpu", f"templates={json.dumps(templates)}"]
    assert main(["eval", "zero_shot", *keys]) == 0
    found = read_evaluations(run_dir / "eval.json")["zero-shot on named"]
    model, corpus = bt.load(run_dir, "cpu"), open_corpus(root, "named")
    images = model.embed_images([corpus.read(row) for row in range(18)])
    labels = np.array([corpus.read(row).meta["labels"][0][0] for row in range(18)])
    names = sorted(CLASSES)
    texts = [model.embed_texts([t.replace("{}", name.replace("_", " ")) for t in templates]).mean(0) for name in names]
    cosines = images @ torch.nn.functional.normalize(torch.stack(texts), dim=-1).T
    right = cosines.argmax(1).numpy() == labels
    among = (cosines.topk(5).indices.numpy() == labels[:, None]).any(1)
    assert found["figures"] == pytest.approx({
        "accuracy, %": 100 * right.mean(),
        "mean of classes, %": 100 * np.mean([right[labels == label].mean() for label in range(6)]),
        "accuracy among 5, %": 100 * among.mean(),
        "chance, %": 100 / 6,
    })  # fmt: skip
    assert (found["protocol"]["images"], found["protocol"]["classes"]) == (18, 6)
    assert found["protocol"]["templates"] == "; ".join(templates)
    assert "mean of classes, %" in capsys.readouterr().out


def test_training_validates_it(root, tmp_path, capsys):
    keys = ["steps=2", "validation.every=1", "validation.samples=8", "validation.zero_shot=named"]
    train_here(root, tmp_path / "run", *keys, "checkpoint.best=val_zero_shot", "validation.templates=['a {}']")
    assert "6 classes of 8 images of named by prompts" in capsys.readouterr().out
    found = [line["val_zero_shot"] for line in metric_lines(tmp_path / "run") if "val_zero_shot" in line]
    assert len(found) == 2
    assert all(value * 8 == int(value * 8) for value in found)
    assert (
        main(
            [
                "eval",
                "zero_shot",
                f"run_dir={tmp_path}/run",
                "corpus=named",
                "samples=8",
                "templates=['a {}']",
                "device=cpu",
            ]
        )
        == 0
    )
    (entry,) = read_evaluations(tmp_path / "run" / "eval.json").values()
    assert entry["figures"]["accuracy, %"] == pytest.approx(100 * found[-1])
    assert main(["report", f"run_dir={tmp_path}/run"]) == 0
    assert "zero-shot class" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        (["validation.zero_shot=shapes_heldout"], "corpus=shapes_heldout: has no classes; give one that"),
        (["validation.zero_shot=tested"], "validation.zero_shot: tested is the test split"),
        (["validation.zero_shot=named", "objective.itc=0"], "validation.zero_shot=named: needs itc_text_head"),
        (["validation.zero_shot=none"], "none: no such folder"),
        (["validation.templates=[a photo]"], "validation.templates=['a photo']: needs prompts in which {} stands"),
    ],
)
def test_what_cannot_be_validated_is_named(root, tmp_path, capsys, keys, part):
    run = ["train", *TINY, f"data.root={root}", f"run_dir={tmp_path}/run", "steps=1", "validation.every=1"]
    assert main([*run, "validation.samples=8", *keys]) == 2
    assert part in capsys.readouterr().err


def test_what_cannot_be_evaluated_is_named(run_dir, root, capsys):
    run = ["eval", "zero_shot", f"run_dir={run_dir}", f"root={root}", "device=cpu"]
    for keys, part in (
        ([], "corpus=shapes_heldout: has no classes"),
        (["corpus=named", "templates=[]"], "templates=[]: needs prompts"),
    ):
        assert main([*run, *keys]) == 2
        assert part in capsys.readouterr().err
