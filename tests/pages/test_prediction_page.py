"""The page of a prediction."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from synthetic_run import HOSTILE

from bridgetower_train.pages.images import spotlight
from bridgetower_train.pages.prediction import Prediction, TextPrediction, prediction_page, softmax
from bridgetower_train.tasks.base import Said

MAP = np.zeros((4, 4), np.float32)
MAP[0, 3] = 0.5


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_shown_at_any_width(width, tmp_path, open_page):
    guesses = [("red", 0.75), (HOSTILE, 0.125)]
    texts = [
        TextPrediction(
            "a red circle " * 12,
            Said({"similarity": 0.321, "match": 0.987}, [], []),
            [("red", MAP[None]), ("circle", MAP.T[None])],
        ),
        TextPrediction(f"a <mask> {HOSTILE}", Said({"match": 0.5}, [guesses, guesses], []), [("<mask>", MAP[None])]),
    ]
    pixels = np.full((3, 32, 32), 200, np.uint8)
    path = tmp_path / "page.html"
    path.write_text(prediction_page(Prediction(f"{HOSTILE}.jpg", [pixels], {"model": "run " * 40}, texts)))
    browser = open_page(path, width)
    shown = browser.find_element("css selector", "body").text
    for part in ("0.321", "0.987", "0.750", HOSTILE, "Under <mask> number 2", "red 50%"):
        assert part in shown, part
    assert len(browser.find_elements("css selector", ".words img")) == 3
    assert shown.count("similarity") == 1


def test_colour_follows_the_attention_on_the_given_scale():
    def pixels(most=None):
        uri = spotlight(np.full((3, 8, 8), 200, np.uint8), MAP, 64, most)
        data = re.fullmatch("data:image/jpeg;base64,(.*)", uri)[1]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(float)

    image = pixels()
    most, least = image[4:8, -8:-4].mean((0, 1)), image[32:].mean((0, 1))
    assert most[0] - most[2] > 60  # yellow
    assert least[2] - least[0] > 30  # blue
    assert most.mean() > least.mean() + 40
    half = pixels(1.0)[4:8, -8:-4].mean((0, 1))
    assert least.mean() < half.mean() < most.mean()


def test_texts_are_ranked_by_their_softmax(tmp_path, open_page):
    logits = {"a dog": 1.0, "a cat": 3.0, HOSTILE: 2.0}
    texts = [TextPrediction(text, Said({"similarity": 0.1}, [], [], logit), []) for text, logit in logits.items()]
    assert softmax(texts) == pytest.approx([0.0900, 0.6652, 0.2447], abs=1e-4)
    assert softmax(texts[:1]) == softmax([*texts, TextPrediction("x", Said({}, [], []), [])]) == []
    path = tmp_path / "page.html"
    path.write_text(prediction_page(Prediction("x", [np.zeros((3, 8, 8), np.uint8)], {}, texts)))
    browser = open_page(path, 390)
    ranked = [item.text.split("\n") for item in browser.find_elements("css selector", ".ranked li")]
    assert ranked == [["a cat", "66.5%"], [HOSTILE, "24.5%"], ["a dog", "9.0%"]]
    titles = [title.text for title in browser.find_elements("css selector", "h2")]
    assert titles == ["Which text fits", "a cat", HOSTILE, "a dog"]
