"""The page of a prediction."""

import numpy as np
import pytest
from synthetic_run import HOSTILE

from bridgetower_train.pages.prediction import Prediction, TextPrediction, prediction_page
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


def test_light_falls_where_the_attention_is(tmp_path):
    import base64
    import io
    import re

    from PIL import Image

    from bridgetower_train.pages.images import spotlight

    uri = spotlight(np.full((3, 8, 8), 200, np.uint8), MAP, 64)
    data = re.fullmatch("data:image/jpeg;base64,(.*)", uri)[1]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
    assert image[:12, -12:].mean() > 150
    assert image[32:, :].mean() < 40
