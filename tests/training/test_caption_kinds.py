"""A run that draws captions by shares of their kinds: resumed, validated and evaluated."""

import json

import pytest
from helpers import open_pairs

from bridgetower_train.cli import main
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.weights.saved import read_config
from data_prep.shards.writer import write_corpus
from data_prep.source.image import prepare_jpeg
from tests.conftest import image
from tests.training.runs import metric_lines, train_here

SHARES = "data.captions={alt: 0.5, synthetic: 0.5}"
VALIDATED = ["validation.every=1", "validation.retrieval=full", "validation.kind=synthetic"]


@pytest.fixture(scope="module")
def root(shapes_root, tmp_path_factory):
    """Images with an alt text and two synthetic captions each, but every fourth without the latter; the tokenizer of shapes."""
    root = tmp_path_factory.mktemp("kinds")
    (root / "shapes").mkdir()
    (root / "shapes" / "tokenizer.json").write_bytes((shapes_root / "shapes" / "tokenizer.json").read_bytes())
    records = []
    for number in range(32):
        kinds = ["synthetic", "alt", "synthetic"] if number % 4 else ["alt"]
        captions = [f"{kind} {place} of image {number}" for place, kind in enumerate(kinds)]
        records.append((str(number), prepare_jpeg(image(number), 64), captions, {}, kinds))
    write_corpus(root / "mine", 64, records)
    return root


@pytest.fixture
def keys(root):
    return ["data=own", f"data.root={root}", "data.corpora={mine: 1.0}", "data.validation=mine", SHARES, *VALIDATED]


def test_it_resumes_where_it_was_and_with_these_shares_alone(root, tmp_path, keys, capsys):
    train_here(root, tmp_path / "run", *keys, "steps=4", "optim.schedule=constant", "checkpoint.every=2")
    train_here(root, tmp_path / "twice", *keys, "steps=2", "optim.schedule=constant")
    train_here(root, tmp_path / "twice", *keys, "steps=4", "optim.schedule=constant")
    once, twice = (
        [line["loss"] for line in metric_lines(tmp_path / name) if "loss" in line] for name in ("run", "twice")
    )
    assert len(once) == 4
    assert once == twice
    assert "mine: 32 images, 80 captions (32 alt, 48 synthetic)" in capsys.readouterr().out
    others = [key for key in keys if key != SHARES]
    for captions in ("data.captions={alt: 0.9, synthetic: 0.1}", "data.captions=one"):
        train_here(root, tmp_path / "twice", *others, captions, "steps=6", code=1)
        assert "data.captions" in capsys.readouterr().err


def test_long_texts_run_by_their_recipe(root, shapes_root, tmp_path, jpeg):
    """Some are longer than the 512 tokens there is room for; a micro-batch without long ones is short."""
    tokenizer = root / "shapes" / "tokenizer.json"
    texts = [["red " * 900] if number == 3 else [f"a red circle {number}"] for number in range(16)]
    write_corpus(tmp_path / "long", 64, [(str(n), jpeg, captions, {}) for n, captions in enumerate(texts)])
    here = [
        f"data.root={tmp_path}",
        "data.corpora={long: 1.0}",
        f"tokenizer={tokenizer}",
        "init.vision=null",
        "init.text=null",
    ]
    small = ["global_batch=16", "data.lanes=4", "micro_batch=4", "data.workers=0"]
    train_here(
        root, tmp_path / "run", *here, *small, "experiment=long_texts", "model.max_text_len=512", "steps=2", "seed=1"
    )
    config = read_config(tmp_path / "run")
    assert config.text_lengths == [64, 128, 256, 512]
    dataset = open_pairs(config, CaptionTokenizer.load(str(tokenizer)))
    lengths = [dataset.__getitems__(range(first, first + 4)).input_ids.shape[1] for first in range(0, 16, 4)]
    assert sorted(lengths) == [64, 64, 64, 512]


def test_validation_and_evaluation_are_of_one_kind_or_of_all(root, tmp_path, keys, capsys):
    train_here(root, tmp_path, *keys, "steps=1")
    (line,) = (line for line in metric_lines(tmp_path) if "val_loss" in line)
    assert (line["val_images"], line["val_captions"]) == (24, 48)
    assert "24 images of mine, captions of kind synthetic" in capsys.readouterr().out
    for kind, count in (("null", 80), ("alt", 32), ("synthetic", 48)):
        assert main(["eval", "retrieval", f"run_dir={tmp_path}", f"root={root}", "captions=null", f"kind={kind}"]) == 0
        found = json.loads((tmp_path / "eval.json").read_text())["evaluations"]["retrieval on mine"]["protocol"]
        assert found["captions"].startswith(f"{count}; ")
        assert found["kinds"] == ("all: alt, synthetic" if kind == "null" else kind)
    assert "no caption of kind synthetic" in found["left out"]
    assert main(["eval", "matching", f"run_dir={tmp_path}", f"root={root}", "kind=region"]) == 2
    assert "kind=region: mine has no captions of this kind; those there are: alt, synthetic" in capsys.readouterr().err
