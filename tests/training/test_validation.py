"""Validation depends on the weights and the held-out images alone, and finds what an evaluation finds."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from bridgetower_train.cli import main
from bridgetower_train.config import DeviceConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.distributed import Ranks
from bridgetower_train.training.validation import Validation
from bridgetower_train.weights.saved import read_config
from tests.training.runs import metric_lines, train_here

STILL = ["steps=1", "optim.lr=0", "optim.lr_fusion=0", "optim.lr_heads=0", "model.dropout=0"]
"""The weights stay those of the seed."""
VALIDATED = ["validation.every=1", "validation.samples=30", "validation.batch=8", "objective.itm_negatives=hard"]
FULL = ["validation.retrieval=full", "validation.captions=3", "validation.rerank=5"]


def validated(run_dir: Path) -> dict[str, float]:
    """The figures of the last validation."""
    line = [line for line in metric_lines(run_dir) if "val_loss" in line][-1]
    return {name: value for name, value in line.items() if name.startswith("val_")}


@pytest.fixture(scope="module")
def plain(shapes_root, tmp_path_factory) -> dict[str, float]:
    """Of one rank."""
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    train_here(shapes_root, run_dir, *STILL, *VALIDATED, *FULL)
    return validated(run_dir)


@pytest.mark.parametrize(
    "keys",
    [
        ["data.lanes=2"],
        ["micro_batch=2"],
        ["global_batch=128", "data.lanes=64"],  # more lanes than held-out images
        ["data.text_buckets=[12]"],
        ["data.augment=randaugment"],
    ],
    ids=" ".join,
)
def test_how_a_run_trains_does_not_change_it(shapes_root, tmp_path, plain, keys):
    train_here(shapes_root, tmp_path, *STILL, *VALIDATED, *FULL, *keys)
    assert validated(tmp_path) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_nor_do_ranks(tmp_path, train, plain, ranks):
    """The batches are four, so that ranks have two or one."""
    train(tmp_path, *STILL, *VALIDATED, *FULL, ranks=ranks)
    assert validated(tmp_path) == pytest.approx(plain, abs=1e-6)


def test_batches_have_one_length_and_two_sizes_at_most(shapes_root, tmp_path):
    """Each is a shape that a device compiles for; every image is in one of them."""
    keys = ["data.text_buckets=[12]", "validation.samples=30", "validation.batch=7"]
    train_here(shapes_root, tmp_path, *STILL, "validation.every=1", *keys)
    config = read_config(tmp_path)
    device, tokenizer = CpuDevice(DeviceConfig(name="cpu"), 0), CaptionTokenizer.load(config.tokenizer)
    shares = [Validation(config, tokenizer, device, Ranks(rank, 2, None)).batches for rank in range(2)]
    batches = [shares[number % 2][number] for number in range(5)]
    assert [batch.input_ids.shape for batch in batches] == [(6, 24)] * 5
    assert len({image for batch in batches for image in batch.image_id.tolist()}) == 30


def test_nor_does_zero3(tmp_path, train, plain):
    pytest.importorskip("deepspeed")
    train(tmp_path, *STILL, *VALIDATED, *FULL, "engine=zero3", "validation.batch=8", ranks=2)
    assert validated(tmp_path) == pytest.approx(plain, abs=1e-5)


def test_more_ranks_than_batches(tmp_path, train, shapes_root):
    keys = [*STILL, "validation.every=1", "validation.samples=16"]
    train_here(shapes_root, tmp_path / "one", *keys)
    train(tmp_path / "two", *keys, ranks=2)
    assert validated(tmp_path / "two") == pytest.approx(validated(tmp_path / "one"), abs=1e-6)


def test_the_full_protocol_is_that_of_eval_retrieval(shapes_root, tmp_path, plain):
    """The checkpoint of the same weights."""
    run_dir = tmp_path / "run"
    train_here(shapes_root, run_dir, *STILL, *VALIDATED, *FULL, "validation.samples=null")
    found = validated(run_dir)
    assert (found["val_images"], found["val_captions"]) == (32, 96)
    assert main(["eval", "retrieval", f"run_dir={run_dir}", "captions=3", "rerank=5"]) == 0
    (entry,) = json.loads((run_dir / "eval.json").read_text())["evaluations"].values()
    figures = entry["figures"]["ITC, best 5 re-ranked by ITM"]
    assert found["val_rsum"] == pytest.approx(figures["RSUM"])
    for k in (1, 5, 10):
        assert found[f"val_i2t_r{k}"] == pytest.approx(figures[f"image to text R@{k}"] / 100)
        assert found[f"val_t2i_r{k}"] == pytest.approx(figures[f"text to image R@{k}"] / 100)
    assert plain["val_images"] == 30


def test_what_is_validated_is_printed_and_reported(shapes_root, tmp_path, capsys):
    train_here(shapes_root, tmp_path, *STILL, *VALIDATED, *FULL, "checkpoint.best=val_rsum")
    said = capsys.readouterr().out
    assert (
        "held out  every 1 steps, 30 images of shapes_heldout; retrieval among all of them and 90 captions, the best 5 "
        in said
    )
    assert "val_images 30  val_captions 90" in said
    assert main(["report", f"run_dir={tmp_path}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "30 images, 90 captions" in page
    for title in ("Retrieval R@10 in validation", "Retrieval RSUM in validation", "best val_rsum"):
        assert title in page


def damaged(root: Path, copy: Path, rows: slice) -> Path:
    """A copy of a root in which these held-out images are zeros, as their index has it."""
    folder = shutil.copytree(root, copy) / "shapes_heldout"
    content, index = bytearray((folder / "000000.tar").read_bytes()), np.load(folder / "index.npy")
    for row in index[rows]:
        begin, size = int(row["jpg_offset"]), int(row["jpg_size"])
        content[begin : begin + size] = bytes(size)
        captions = content[int(row["json_offset"]) :][: int(row["json_size"])]
        row["crc"] = zlib.crc32(captions, zlib.crc32(bytes(size)))
    (folder / "000000.tar").write_bytes(content)
    np.save(folder / "index.npy", index)
    return copy


def test_a_corpus_without_a_usable_image_is_named(shapes_root, tmp_path, capsys):
    root = damaged(shapes_root, tmp_path / "root", slice(None))
    train_here(root, tmp_path / "run", *STILL, "validation.every=1", "validation.batch=8", code=1)
    assert "none of 8 records in a row of shapes_heldout can be used" in capsys.readouterr().err


def test_an_image_that_cannot_be_decoded_is_left_out_everywhere(shapes_root, tmp_path):
    """And the other images of its batch count."""
    root = damaged(shapes_root, tmp_path / "root", slice(5, 6))
    keys = [*STILL, "validation.every=1", "validation.batch=8"]
    train_here(root, tmp_path / "full", *keys, *FULL)
    found = validated(tmp_path / "full")
    assert (found["val_images"], found["val_captions"]) == (31, 93)
    train_here(root, tmp_path / "quick", *keys)
    assert np.isfinite(list(validated(tmp_path / "quick").values())).all()
