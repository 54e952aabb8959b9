"""`import bridgetower_train as bt`: the model as one object."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import bridgetower_train as bt
from bridgetower_train.data.image import decode_square
from bridgetower_train.errors import ConfigError, DataError, UserError
from bridgetower_train.evaluation.base import open_model
from bridgetower_train.tasks.pretraining.predictor import Predictor
from tests.evaluation.conftest import options, run_of, tasks_root
from tests.tiny import TINY
from tests.training.runs import ROOT, export_here, train_here

__all__ = ["options", "run_of", "tasks_root"]

TEXTS = ["a red ring", "a blue square left of a ring"]


@pytest.fixture(scope="module")
def model(trained_run):
    return bt.load(trained_run, device="cpu")


def test_the_package_imports_nothing_heavy_until_it_is_asked():
    code = (
        "import sys, bridgetower_train as bt; assert not {'torch', 'numpy', 'PIL', 'hydra'} & sys.modules.keys();"
        "assert {'load', 'open_corpus', 'train', 'Model'} <= set(dir(bt)); bt.load; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=100)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        bt.lode  # noqa: B018


def test_embeddings_are_those_of_evaluation_however_an_image_is_given(model, trained_run, shapes_root, photos):
    path = photos / "3.jpg"
    encoded = path.read_bytes()
    seen = model.pixels([path])[0]
    with Image.open(path) as image:
        given = [path, str(path), encoded, memoryview(encoded), image, seen]
        assert torch.equal(model.pixels(given), seen.expand(6, -1, -1, -1))
        found = model.embed_images(given)
    assert found.shape == (6, 512)
    assert found.dtype == torch.float32
    assert torch.allclose(found, found[:1], atol=1e-6)
    assert torch.allclose(found.norm(dim=1), torch.ones(6))
    predictor = Predictor(*open_model(str(trained_run), device="cpu")[0])
    assert torch.equal(model.embed_images(path), predictor.embed_images(seen[None]))
    assert torch.equal(model.embed_texts(TEXTS), predictor.embed_texts(TEXTS))
    assert model.embed_images(path).shape == model.embed_texts(TEXTS[0]).shape == (1, 512)
    assert model.embed_images(torch.stack([seen, seen])).shape == (2, 512)
    assert model.embed_images([]).shape == model.embed_texts([]).shape == (0, 512)
    record = bt.open_corpus(shapes_root, "shapes").read(3)
    kept = np.empty((32, 32, 3), np.uint8)
    decode_square(record.image, 32, "crop", kept)  # as evaluation sees it: not encoded once more
    assert torch.equal(model.pixels([record])[0], torch.from_numpy(kept).permute(2, 0, 1))
    assert model.embed_images(record).shape == (1, 512)
    assert torch.allclose(model.embed_images([path, path, photos / "1.jpg"], batch=2)[:2], found[:2], atol=1e-6)


def test_images_of_other_sizes_and_kinds(model, photos):
    image = Image.open(photos / "3.jpg").convert("RGB")
    wide = image.resize((90, 60))
    assert model.embed_images(torch.tensor(list(wide.tobytes()), dtype=torch.uint8).view(60, 90, 3).permute(2, 0, 1)).shape == (
        1, 512,
    )  # fmt: skip
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    white = Image.new("RGB", (64, 64), "white")
    assert torch.equal(*(model.pixels([drawn]) for drawn in (clear, white)))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    upright, plain = (model.pixels([drawn])[0].int() for drawn in (turned, image))
    assert (upright - plain).abs().float().mean() < 2


def test_scores_of_all_images_and_texts(model, photos):
    images = [photos / f"{number}.jpg" for number in range(5)]
    cosines = model.similarity(images, TEXTS)
    assert torch.allclose(cosines, model.embed_images(images) @ model.embed_texts(TEXTS).T)
    match = model.match(images, TEXTS, batch=2)
    assert match.shape == cosines.shape == (5, 2)
    one = torch.stack([model._predictor.match(model.pixels([image] * 2), TEXTS) for image in images])
    assert torch.allclose(match, one, atol=1e-5)
    assert model.match(images[0], TEXTS[0]).shape == (1, 1)


def test_masks_and_what_a_model_says(model, photos):
    first, second = model.fill_mask(photos / "0.jpg", "a <mask> <mask>", top=3)
    assert len(first) == len(second) == 3
    assert first[0][1] >= first[1][1] >= first[2][1] > 0
    assert model.fill_mask(photos / "0.jpg", "a ring") == []
    said = model.predict(photos / "0.jpg", "a <mask> ring", top=2)
    assert set(said.scores) == {"similarity", "match"}
    assert [len(guesses) for guesses in said.masks] == [2]
    assert said.scores["match"] == pytest.approx(float(model.match(photos / "0.jpg", "a <mask> ring")))


def test_other_tasks_predict_labels_alone(run_of, photos):
    model = bt.load(run_of("nlvr2"), device="cpu")
    said = model.predict([photos / "0.jpg", photos / "1.jpg"], "there are two rings")
    assert sum(p for _, p in said.labels) == pytest.approx(1)
    with pytest.raises(ConfigError, match="judges 2 at once"):
        model.predict(photos / "0.jpg", "a ring")
    with pytest.raises(ConfigError, match="must not be empty"):
        model.predict([photos / "0.jpg"] * 2)
    with pytest.raises(ConfigError, match="only models of task=pretraining"):
        model.embed_texts("a ring")


@pytest.mark.parametrize("form", ["hf", "symmetric", "ms"])
def test_an_export_embeds_as_its_run_does_in_each_form(shapes_root, photos, tmp_path, form):
    run_dir = tmp_path / "run"
    train_here(
        shapes_root, run_dir, "steps=1", f"objective.itc_form={form}", "objective.itc_dim=16", "device.precision=bf16"
    )
    export = export_here(run_dir, tmp_path / "export")
    run, exported = bt.load(run_dir, "cpu"), bt.load(export, "cpu")
    assert exported.config.objective.itc_form == form
    assert exported.config.device.precision == "bf16"
    assert torch.equal(*(m.embed_images(photos / "0.jpg") for m in (run, exported)))
    assert torch.equal(*(m.embed_texts(TEXTS) for m in (run, exported)))
    assert torch.equal(*(m.match(photos / "0.jpg", TEXTS) for m in (run, exported)))


def test_what_is_wrong_is_named(model, photos, shapes_root, tmp_path):
    for image, part in (
        (photos / "none.jpg", r"none\.jpg: No such file"),
        (photos / "notes.txt", r"notes\.txt: not an image"),
        (b"GIF89a", "image 0: not an image"),
        (torch.zeros(4, 8, 8, dtype=torch.uint8), "a tensor must be uint8"),
        (torch.zeros(3, 8, 8), "a tensor must be uint8"),
    ):
        with pytest.raises(DataError, match=part):
            model.embed_images([image])
    with pytest.raises(UserError, match="texts: must be a string"):
        model.embed_texts([1])
    train_here(shapes_root, tmp_path / "run", "steps=1", "objective.itc=0", "objective.itm=0")
    without = bt.load(tmp_path / "run", device="cpu")
    for asked, loss in ((without.embed_texts, "itc"), (lambda text: without.match(photos / "0.jpg", text), "itm")):
        with pytest.raises(ConfigError, match=rf"run: was trained without objective\.{loss}"):
            asked("a ring")
    assert without.fill_mask(photos / "0.jpg", "a <mask>")


def test_a_run_trains_from_python(shapes_root, tmp_path):
    run_dir = bt.train([*TINY, f"data.root={shapes_root}", f"run_dir={tmp_path}/run", "steps=2"])
    assert repr(bt.load(run_dir, "cpu", step=2)) == f"Model('{tmp_path}/run', 'step-00000002', 'cpu')"
    with pytest.raises(ConfigError, match="stepz"):
        bt.train(["stepz=2"])
