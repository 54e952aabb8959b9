"""Pages show what others wrote as text, whatever it is and however long."""

import json

import numpy as np
import pytest

from bridgetower_train.cli import main
from bridgetower_train.pages.html import element, page
from bridgetower_train.pages.prediction import Prediction, TextPrediction, prediction_page
from bridgetower_train.tasks.base import Said
from data_prep.shapes.tokenizer import train_tokenizer
from tests.hostile.attacks import attack
from tests.pages.synthetic_run import HOSTILE, write_run
from tests.rendering import active
from tests.tiny import TINY

OWN = ["script"]
"""What a page of ours has itself: one script, whose hash its policy names."""

CAPTIONS = [HOSTILE, "long " * 100_000, "nul \0 escape \x1b[2J override \u202e mark \u200f end", "\ud800 lone"]


def test_the_reader_of_pages_sees_what_is_active():
    assert active(page("x", HOSTILE)) == OWN
    assert active(HOSTILE) == ["script", "img src=x", "img onerror=document.title='broken'"]
    assert active(str(element("a", "x", href="javascript:alert(1)"))) == ["a href=javascript:alert(1)"]


@attack(7)
def test_the_report_of_a_hostile_run(tmp_path):
    run = write_run(tmp_path / "run", steps=20)
    state = run / "checkpoints" / "step-00000020" / "state.json"
    state.write_text(json.dumps({"step": 20, HOSTILE: HOSTILE, "device": HOSTILE}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, f"acc_{HOSTILE}": 0.5, "loss_x": HOSTILE}) + "\n")
    evaluation = {"evaluations": {HOSTILE: {"protocol": {HOSTILE: HOSTILE}, "figures": {HOSTILE: {HOSTILE: 1}}}}}
    (run / "eval.json").write_text(json.dumps(json.loads((run / "eval.json").read_text()) | evaluation))
    assert main(["report", f"run_dir={run}"]) == 0
    written = (run / "report.html").read_text()
    assert written.count("&lt;script&gt;") > 10
    assert active(written) == OWN


@pytest.fixture
def root(tmp_path, make_tar, jpeg):
    """A corpus of hostile captions, keys and notes, beside its tokenizer."""
    members = {}
    for n in range(16):
        key = f"<img src=x onerror=alert({n})>"
        members |= {f"{key}.jpg": jpeg, f"{key}.json": json.dumps({"captions": [f"{CAPTIONS[n % 4]}{n}"]}).encode()}
    make_tar(tmp_path / "data" / "hostile" / "0<script>.tar", members)
    assert main(["prep", "index", f"root={tmp_path / 'data' / 'hostile'}"]) == 0
    path = tmp_path / "data" / "hostile" / "manifest.json"
    about = dict.fromkeys(("title", "homepage", "licence", "note"), HOSTILE)
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"extra": {"rows": 20, "states": {HOSTILE: 20}, "about": about}})
    )
    train_tokenizer(["a word or two"], 300).save(str(tmp_path / "data" / "tokenizer.json"))
    return tmp_path / "data"


@attack(7)
@attack(8)
def test_the_pages_of_a_hostile_corpus(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["prep", "lint", "root=data", "workers=1"]) == 0
    assert main(["prep", "stats", "root=data"]) == 0
    keys = [key for key in TINY if key.startswith(("model", "global", "data"))]
    data = ["data=own", "data.root=data", "data.corpora={hostile: 1.0}", "data.validation=null", "tokenizer=data"]
    assert main(["view", *keys, *data, "model.image_size=64", "n=8"]) == 0
    assert "".join(capsys.readouterr()).replace("\n", "").isprintable()
    for name in ("stats.html", "view.html"):
        written = (tmp_path / name).read_text()
        assert "&lt;script&gt;" in written
        assert active(written) == OWN
    assert "long " * 100_000 in written


@attack(7)
def test_the_page_of_a_hostile_vocabulary():
    text = TextPrediction(
        HOSTILE,
        Said({HOSTILE: 0.5}, [[(HOSTILE, 0.1)]], [(HOSTILE, 0.2)]),
        [(HOSTILE, np.ones((1, 2, 2), np.float32))],
    )
    shown = prediction_page(Prediction(HOSTILE, [np.zeros((3, 8, 8), np.uint8)], {HOSTILE: HOSTILE}, [text]))
    assert active(shown) == OWN
