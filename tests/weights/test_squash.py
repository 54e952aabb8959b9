"""A run with `data.square=squash`, and what its export's processors make of images."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.data.image import decode_square
from bridgetower_train.weights.hf_files import image_processor
from bridgetower_train.weights.saved import config_of
from tests.conftest import image as photograph
from tests.training.runs import export_here, train_here
from tests.weights.test_export import pixels_of

SIZE = 32
SQUASHED = "whole image to 32 x 32 px"


@pytest.fixture(scope="module")
def keys(shapes_root) -> list[str]:
    return ["data=own", "data.corpora={small: 1.0}", f"tokenizer={shapes_root / 'shapes'}", "data.square=squash"]


@pytest.fixture(scope="module")
def run(small_corpus, keys, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("squashed") / "run"
    train_here(small_corpus, run_dir, "steps=1", *keys)
    return run_dir


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    return export_here(run, tmp_path_factory.mktemp("exported") / "squashed")


def test_evaluations_of_the_run_and_of_its_export_squash_and_say_so(run, folder, small_corpus, capsys):
    found = []
    for model in (run, folder):
        assert config_of(str(model)).data.square == "squash"
        assert main(["eval", "retrieval", f"run_dir={model}", f"root={small_corpus}", "corpus=small", "rerank=4"]) == 0
        assert re.search(rf"preprocessing +{SQUASHED}", capsys.readouterr().out)
        found.append(json.loads((model / "eval.json").read_text())["evaluations"]["retrieval on small"])
    assert found[0]["protocol"]["preprocessing"] == found[1]["protocol"]["preprocessing"] == SQUASHED
    assert found[0]["figures"] == found[1]["figures"]


def test_a_prediction_shows_the_whole_image(folder, tmp_path):
    sides = np.full((64, 128, 3), 255, np.uint8)
    sides[:, 32:96] = 0  # all that a crop would show
    Image.fromarray(sides).save(tmp_path / "image.png")
    out = tmp_path / "prediction.html"
    assert (
        main(["predict", f"run_dir={folder}", f"image={tmp_path / 'image.png'}", "texts=['a dog']", f"out={out}"]) == 0
    )
    page = out.read_text()
    assert SQUASHED in page
    encoded = re.findall(r"data:image/png;base64,([^\"]+)", page)[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L"))
    assert shown.shape == (SIZE, SIZE)
    assert shown[:, :6].min() > 200
    assert shown[:, 12:20].max() < 50


def test_it_belongs_to_the_run(run, small_corpus, keys, capsys):
    train_here(small_corpus, run, "steps=2", *keys, "data.square=crop", code=1)
    assert "data.square was 'squash', is 'crop'" in capsys.readouterr().err


def test_the_card_says_so(folder):
    card = (folder / "README.md").read_text()
    assert "resizes the whole image to 32 x 32 pixels" in card
    assert f"| images | {SQUASHED} |" in card


@pytest.mark.parametrize("name", ["AutoImageProcessor", "AutoProcessor", "BridgeTowerProcessor"])
def test_processors_give_the_evaluated_pixels(folder, name):
    """Within two of 255 levels, by which torch's and Pillow's bicubic differ on smooth images."""
    import transformers

    processor = getattr(transformers, name).from_pretrained(folder)
    for height, width in [(64, 64), (64, 72), (240, 320), (320, 214), (199, 101), (101, 199), (20, 30)]:
        picture = photograph(height * width).resize((width, height), Image.Resampling.BICUBIC)
        given = {"images": picture} if name == "AutoImageProcessor" else {"images": picture, "text": "a dog"}
        pixels = pixels_of(processor(**given, return_tensors="pt"))
        assert pixels.shape == (1, 3, SIZE, SIZE)
        file = io.BytesIO()
        picture.save(file, "PNG")
        mine = np.empty((SIZE, SIZE, 3), np.uint8)
        decode_square(file.getvalue(), SIZE, "squash", mine)
        assert np.abs(pixels[0].permute(1, 2, 0).numpy().astype(int) - mine).max() <= 2, (height, width)


def test_a_processor_refuses_what_it_cannot_squash(folder):
    from transformers import BridgeTowerProcessor

    processor = BridgeTowerProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match="height"):
        processor(photograph(0).resize((200, 90)), "a dog", return_tensors="pt")
    squashed = photograph(0).resize((200, 90)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels_of(processor(squashed, "a dog", return_tensors="pt"))[0].permute(1, 2, 0), squashed)


def test_a_squashing_processor_fits_every_size():
    """Both edges, rounded down, are the model's: the longer is never twice that, the shorter never below it."""
    for size in range(16, 1200):
        given = image_processor(size, "squash")
        assert given["size"]["shortest_edge"] >= given["size_divisor"] == size
        assert int(1333 / 800 * given["size"]["shortest_edge"]) < 2 * size
