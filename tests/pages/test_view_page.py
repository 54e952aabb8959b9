"""The page of a batch: what the model sees, and nothing else."""

import base64
import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import open_pairs
from PIL import Image
from synthetic_run import HOSTILE, drawn

from bridgetower_train.cli import main
from bridgetower_train.commands.view import ViewConfig, read_batch, run
from bridgetower_train.config import DataConfig, ObjectiveConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import ConfigError
from bridgetower_train.pages.batch import batch_page
from bridgetower_train.tasks.base import Token
from bridgetower_train.tasks.pretraining.masking import IGNORE
from bridgetower_train.tasks.pretraining.show import read_tokens, show
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.writer import write_corpus
from data_prep.source.image import prepare_jpeg
from tests.tiny import TINY_MODEL

CAPTIONS = [
    "a small red circle left of a blue square",
    "two green triangles, one of them tiny",
    HOSTILE,
    "naïve 猫 caption",
]


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A corpus of 40 drawn images with hostile captions and keys, and its tokenizer."""
    root = tmp_path_factory.mktemp("view")
    jpegs = (prepare_jpeg(drawn(i), 64) for i in range(40))
    records = ((f"{i:06d}", jpeg, [f"{CAPTIONS[i % 4]} {i}"], {"image_id": i}) for i, jpeg in enumerate(jpegs))
    write_corpus(root / "coco", 64, records, 10)
    train_tokenizer(CAPTIONS, 600).save(str(root / "tokenizer.json"))
    return root


def config(root, **keys):
    data = DataConfig(root=str(root), corpora={"coco": 1.0}, lanes=2)
    given = {
        "global_batch": 16,
        "data": data,
        "model": replace(TINY_MODEL, image_size=64, patch_size=8, max_text_len=60),
        "tokenizer": str(root / "tokenizer.json"),
        "steps": "1",
        **keys,
    }
    return ViewConfig(out=str(root / "view.html"), **given)


def view_of(config):
    text = CaptionTokenizer.load(config.tokenizer)
    return read_batch(config, open_pairs(config, text), text)


def images(page):
    """The pixels (H, W, 3) of every image, in order."""
    uris = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_page_is_whole_and_legible(root, open_page, capsys, width, scheme):
    run(config(root, n=12))
    assert capsys.readouterr().out == f"view: {root / 'view.html'}\n"
    browser = open_page(root / "view.html", width, scheme)
    assert browser.title == "Batch of step 0 · BridgeTower"
    assert len(browser.find_elements("css selector", ".sample")) == 12
    captions = [c.text for c in browser.find_elements("css selector", ".caption")]
    assert captions == [s["caption"] for s in view_of(config(root, n=12)).sources]
    assert any(HOSTILE in caption for caption in captions)


def test_images_are_the_batch_to_the_pixel(root):
    view = view_of(config(root, n=10, step=1))
    shown = images(batch_page(view))
    pixels = view.batch.pixel_values.permute(0, 2, 3, 1).numpy()
    negatives = view.batch.labels["itm_negative"].tolist()
    assert len(pixels) == 16  # whole lanes, so that negatives are those of training
    assert len(shown) == 20
    for row in range(10):
        assert np.array_equal(shown[2 * row], pixels[row])
        assert np.array_equal(shown[2 * row + 1], pixels[negatives[row]])
    whole = open_pairs(config(root), CaptionTokenizer.load(str(root))).__getitems__(range(16, 32))
    assert torch.equal(whole.labels["itm_negative"], view.batch.labels["itm_negative"])


def test_samples_are_named(root):
    view = view_of(config(root, n=3, step=2))
    page = batch_page(view)
    for row, sample in enumerate(view.sources):
        assert sample["position"] == 32 + row
        assert f"coco / {sample['shard']}" in page
        assert f"<dd>{sample['key']}</dd>" in page
        assert "<dd>1 of 1</dd>" in page


def test_the_kind_of_a_caption_is_shown(root, tmp_path):
    jpeg = prepare_jpeg(drawn(0), 64)
    kinds = ("alt", "synthetic", "<b>", "")
    write_corpus(tmp_path / "coco", 64, [(str(n), jpeg, list("abcd"), {}, kinds) for n in range(16)])
    data = DataConfig(root=str(tmp_path), corpora={"coco": 1.0}, lanes=2, captions={"synthetic": 1})
    page = batch_page(view_of(config(root, n=2, data=data)))
    assert page.count("<dd>2 of 4: synthetic (of 1 alt, 1 synthetic, 2 without a kind)</dd>") == 2


def test_a_small_corpus_says_why_its_images_repeat(root, tmp_path):
    assert "different images" not in batch_page(view_of(config(root, n=8)))
    captions = [f"{text} {n}" for n, text in enumerate(CAPTIONS[:2])]
    write_corpus(tmp_path / "coco", 64, [(str(n), prepare_jpeg(drawn(n), 64), captions, {}) for n in range(3)])
    page = batch_page(view_of(config(root, n=16, data=DataConfig(root=str(tmp_path), corpora={"coco": 1.0}, lanes=2))))
    assert (
        "These 16 samples show 3 different images: there are 3 in all; an epoch has each once with each of its captions "
        "(data.captions=all); a step of 16 samples is 2.7 epochs." in page
    )


def handmade():
    """A text of which each kind of token occurs once, and another of the same image."""
    text = CaptionTokenizer(train_tokenizer(["red circle blue square"] * 9, 400))
    ids, mask = text.encode(["red circle blue square"] * 2, 9)
    masked = ids.clone()
    masked[0, 1] = text.mask
    masked[0, 2] = ids[0, 4]
    places = torch.tensor([[1, 2, 3, 0], [0, 0, 0, 0]])
    labels = torch.where(torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]).bool(), ids.gather(1, places), IGNORE)
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    given = {"masked_ids": masked, "mlm_positions": places, "mlm_labels": labels, "itm_negative": torch.arange(2)}
    return text, Batch(pixels, ids, mask, torch.zeros(2, dtype=torch.int64), given)


def test_tokens_say_what_masking_did():
    text, batch = handmade()
    assert read_tokens(batch, 0, text) == [
        Token("<s>", "", "special"),
        Token("<mask>", "red", "masked"),
        Token(" square", " circle", "random"),
        Token(" blue", " blue", "kept"),
        Token(" square", "", "plain"),
        Token("</s>", "", "special"),
    ]
    assert {token.kind for token in read_tokens(batch, 1, text)} == {"special", "plain"}


def test_tokens_are_shown_as_they_are(root, open_page):
    text, batch = handmade()
    view = view_of(config(root, n=2))
    (root / "hand.html").write_text(
        batch_page(
            type(view)("t", {}, [], [], batch, view.sources, [show(batch, row, text, False) for row in range(2)])
        )
    )
    browser = open_page(root / "hand.html", 390)
    first = browser.find_element("css selector", ".tokens")
    assert first.text == "<s> <mask> → red square → circle blue → blue square </s>"
    colours = {
        k: first.find_element("css selector", f".{k} .seen").value_of_css_property("color")
        for k in ("masked", "random", "kept")
    }
    assert len(set(colours.values())) == 3
    body = browser.find_element("css selector", "body").text
    for kind in (
        "<mask>: 1 of 3",
        "random token: 1 of 3",
        "as it was: 1 of 3",
        "6, and 3 of padding",
        "no ITM negative among its lane",
    ):
        assert kind in body


def test_replaced_records_are_listed(root, tmp_path, open_page):
    copy = shutil.copytree(root, tmp_path / "copy")
    with (copy / "coco" / "000002.tar").open("r+b") as file:
        for row in np.load(copy / "coco" / "index.npy")[20:30]:
            file.seek(int(row["jpg_offset"]) + 100)
            file.write(b"damaged")
    bad = [b for step in range(2) for b in view_of(config(copy, step=step)).batch.bad]
    assert bad
    assert {b.shard for b in bad} == {"000002.tar"}
    for step in {b.position // 16 for b in bad}:
        run(config(copy, step=step))
        rows = open_page(copy / "view.html", 1280).find_elements("css selector", "tr")
        listed = [b for b in bad if b.position // 16 == step]
        assert [r.text for r in rows[3:]] == [f"coco {b.shard} {b.key} {b.reason} {b.position}" for b in listed]


def test_hard_negatives_are_not_claimed_to_be_shown(root):
    assert "if it were random" in batch_page(
        view_of(config(root, n=1, objective=ObjectiveConfig(itm_negatives="hard")))
    )
    assert "if it were random" not in batch_page(view_of(config(root, n=1)))


def test_command_line(root, tmp_path, capsys):
    out = tmp_path / "page.html"
    keys = ["data=coco", f"data.root={root}", f"tokenizer={root}", "data.lanes=2", "global_batch=16"]
    assert main(["view", *keys, f"out={out}", "n=3"]) == 0
    assert str(out) in capsys.readouterr().out
    assert len(images(out.read_text())) == 6


def test_impossible_numbers_are_refused(root):
    with pytest.raises(ConfigError, match="n=0"):
        config(root, n=0)
    with pytest.raises(ConfigError, match="step=-1"):
        config(root, step=-1)
