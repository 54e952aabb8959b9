"""SNLI-VE's and NLVR2's own files, and everything that can be wrong with them."""

import io
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.data.shards import BadRecordError
from data_prep.inspect.lint import LintConfig
from data_prep.inspect.lint import run as lint
from data_prep.shards.index import build_index
from data_prep.shards.writer import write_index
from data_prep.tasks import nlvr2, snli_ve
from data_prep.tasks.nlvr2 import Nlvr2Config
from data_prep.tasks.snli_ve import SnliVeConfig
from tests.data_prep.tasks.reading import names, read_lines, records, write_lines


def entailment(drawn: Path, out: Path, split: str = "train", **keys: Any) -> SnliVeConfig:
    folder = drawn / "snli_ve"
    given = {
        "images": str(folder / "flickr30k-images"),
        "annotations": str(folder / f"snli_ve_{split}.jsonl"),
        "workers": 1,
    }
    return SnliVeConfig(out=str(out), **{**given, **keys})


def pairs(drawn: Path, out: Path, split: str = "train", **keys: Any) -> Nlvr2Config:
    folder = drawn / "nlvr2"
    given = {
        "images": str(folder / ("images" if split == "train" else split)),
        "annotations": str(folder / f"{split}.json"),
    }
    return Nlvr2Config(out=str(out), **{"workers": 1, **given, **keys})


def test_a_record_has_the_hypotheses_of_an_image(drawn: Path, tmp_path: Path) -> None:
    config = entailment(drawn, tmp_path)
    snli_ve.run(config)
    corpus, found = records(tmp_path, "snli_ve_train")
    lines = {line["pairID"]: line for line in read_lines(Path(config.annotations)) if line["gold_label"] != "-"}
    assert sum(len(record.meta["ids"]) for record in found) == corpus.manifest.captions == len(lines)
    for record in found:
        samples = zip(record.meta["ids"], record.captions, record.meta["premises"], record.meta["labels"], strict=True)
        for key, hypothesis, premise, label in samples:
            line = lines[key]
            assert (hypothesis, premise) == (line["sentence2"], line["sentence1"])
            assert names(tmp_path, "snli_ve_train")[label] == line["gold_label"]
            assert record.key == line["Flickr30K_ID"]
    assert names(tmp_path, "snli_ve_train") == ["contradiction", "neutral", "entailment"]
    assert (corpus.manifest.extra["task"], corpus.manifest.extra["split"]) == ("snli_ve", "train")
    snli_ve.run(entailment(drawn, tmp_path, "dev"))
    assert records(tmp_path, "snli_ve_val")[0].manifest.extra["split"] == "val"


def test_hypotheses_without_a_label_are_left_out_and_counted(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = read_lines(drawn / "snli_ve" / "snli_ve_train.jsonl")
    undecided = sum(line["gold_label"] == "-" for line in lines)
    first = lines[0] | {"gold_label": "entailment"}
    wrong = [first, first | {"pairID": "x", "gold_label": "maybe"}, first | {"pairID": "y", "gold_label": None}]
    broken = ["{", '"text"', {"sentence1": "a", "pairID": "z"}, first]
    path = write_lines(tmp_path / "train.jsonl", [*wrong, *lines[1:], *broken])
    snli_ve.run(entailment(drawn, tmp_path, annotations=str(path)))
    out = capsys.readouterr().out
    if undecided:
        assert f"hypotheses on whose label people did not agree: {undecided} (" in out
    assert "hypotheses with no label, or an unknown one: 2 (x, y)" in out
    assert "broken lines: 3 (no id, no id, z)" in out
    assert f"repeated ids: 1 ({first['pairID']})" in out


def test_both_images_of_a_pair_are_in_its_record(drawn: Path, tmp_path: Path) -> None:
    config = pairs(drawn, tmp_path)
    nlvr2.run(config)
    corpus, found = records(tmp_path, "nlvr2_train")
    lines = {line["identifier"]: line for line in read_lines(Path(config.annotations))}
    assert sum(len(record.meta["ids"]) for record in found) == corpus.manifest.captions == len(lines)
    for record in found:
        for key, sentence, label in zip(record.meta["ids"], record.captions, record.meta["labels"], strict=True):
            assert key.rpartition("-")[0] == record.key
            assert (sentence, str(bool(label))) == (lines[key]["sentence"], lines[key]["label"])
        folder = Path(config.images, "train", str(lines[record.meta["ids"][0]]["directory"]))
        for side, stored in enumerate(record.images(2)):
            original = Image.open(folder / f"{record.key}-img{side}.png")
            assert Image.open(io.BytesIO(stored)).size == original.size
        with pytest.raises(BadRecordError, match="2 images instead of 3"):
            record.images(3)
    assert any(len(record.meta["ids"]) == 2 for record in found)
    assert names(tmp_path, "nlvr2_train") == ["False", "True"]


def test_a_pair_with_one_image_is_named_and_counted(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "dev"
    images.mkdir()
    for file in (drawn / "nlvr2" / "dev").iterdir():
        if file.name not in ("dev-0-0-img1.png", "dev-1-0-img0.png", "dev-1-0-img1.png"):
            (images / file.name).write_bytes(file.read_bytes())
    (images / "dev-0-1-img0.png").write_bytes(b"<html>")
    nlvr2.run(pairs(drawn, tmp_path, "dev", images=str(images)))
    out = capsys.readouterr().out
    assert "pairs with one image: 1 (dev-0-0)" in out
    assert "pairs without an image: 1 (dev-1-0)" in out
    states = records(tmp_path, "nlvr2_val")[0].manifest.extra["states"]
    assert {**states, "ok": 0} == {"only 1 of 2 images": 1, "missing file": 1, "not an image": 1, "ok": 0}


def test_labels_of_sentences(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = read_lines(drawn / "nlvr2" / "dev.json")
    lines[0]["label"], lines[1]["label"], lines[2]["label"] = "Maybe", None, True
    path = write_lines(
        tmp_path / "dev.json", [*lines, lines[3], {"identifier": "dev-../x-1", "sentence": "s", "label": "True"}]
    )
    nlvr2.run(pairs(drawn, tmp_path, "dev", annotations=str(path)))
    out = capsys.readouterr().out
    assert f"sentences with no label, or an unknown one: 2 ({lines[0]['identifier']}, {lines[1]['identifier']})" in out
    assert f"repeated ids: 1 ({lines[3]['identifier']})" in out
    assert "broken lines: 1 (dev-../x-1)" in out
    hidden = [{key: value for key, value in line.items() if key != "label"} for line in lines]
    path = write_lines(tmp_path / "test2.json", hidden)
    nlvr2.run(pairs(drawn, tmp_path, "dev", annotations=str(path)))
    corpus, found = records(tmp_path, "nlvr2_test")
    assert corpus.manifest.splits == ["test"]
    assert all("labels" not in record.meta for record in found)


@pytest.mark.parametrize(
    ("command", "file"), [("snli_ve", "snli_ve/snli_ve_train.jsonl"), ("nlvr2", "nlvr2/train.json")]
)
def test_where_nothing_can_go_on_the_exit_code_is_2(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, file: str
) -> None:
    labels = ("gold_label", "label")
    unlabelled = [{k: v for k, v in line.items() if k not in labels} for line in read_lines(drawn / file)]
    for annotations, images, message in (
        (drawn / file, drawn / "vqav2" / "val2014", "has none of the"),
        (write_lines(tmp_path / "train.json", unlabelled), drawn, "name a published file"),
        (write_lines(tmp_path / "train2.json", ["x"]), drawn, "has no line of JSON"),
        (tmp_path / "train3.json", drawn, "cannot be read"),
    ):
        arguments = [f"annotations={annotations}", f"images={images}", f"out={tmp_path / 'out'}", "workers=1"]
        assert main(["prep", command, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_lint_and_index_know_pairs(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nlvr2.run(pairs(drawn, tmp_path, "dev"))
    config = LintConfig(root=str(tmp_path), workers=1)
    assert lint(config) == 0
    folder = tmp_path / "nlvr2_val"
    before = {name: (folder / name).read_bytes() for name in ("index.npy", "manifest.json")}
    build_index(folder)
    assert {name: (folder / name).read_bytes() for name in before} == before
    (folder / "manifest.json").unlink()
    again = build_index(folder)
    assert "unread_members" not in again.extra
    assert (folder / "index.npy").read_bytes() == before["index.npy"]
    (folder / "manifest.json").write_bytes(before["manifest.json"])
    tar = folder / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b".1.jpg", b".2.jpg", 1))
    build_index(folder)
    capsys.readouterr()
    assert lint(config) == 1
    assert "1 image instead of 2: 1" in capsys.readouterr().out


def test_the_checksum_of_a_record_covers_both_images(drawn: Path, tmp_path: Path) -> None:
    nlvr2.run(pairs(drawn, tmp_path, "dev"))
    corpus, found = records(tmp_path, "nlvr2_val")
    first, second = (bytes(image) for image in found[0].images(2))
    assert second != first
    tar = tmp_path / "nlvr2_val" / "000000.tar"
    whole = tar.read_bytes()
    damaged = bytearray(whole)
    damaged[whole.index(second) + len(second) // 2] ^= 1
    tar.write_bytes(damaged)
    with pytest.raises(BadRecordError, match="changed since it was indexed"):
        corpus.read(0)
    # As indexes of before say it, which left the second image out.
    tar.write_bytes(whole)
    rows = np.load(corpus.path("index.npy"))
    rows["crc"] = [zlib.crc32(member_of(whole, row), zlib.crc32(image_of(whole, row))) for row in rows]
    write_index(tmp_path / "nlvr2_val", rows, "nlvr2_val", None, "json", corpus.manifest.shards, {}, {})
    assert [bytes(image) for image in records(tmp_path, "nlvr2_val")[1][0].images(2)] == [first, second]


def image_of(tar: bytes, row: Any) -> bytes:
    """The first image of a row of the index."""
    return tar[row["jpg_offset"] :][: row["jpg_size"]]


def member_of(tar: bytes, row: Any) -> bytes:
    """Its captions' member."""
    return tar[row["json_offset"] :][: row["json_size"]]


def test_texts_alone_do_not_tell_answers(drawn: Path) -> None:
    labels = Counter((line["sentence"], line["label"]) for line in read_lines(drawn / "nlvr2" / "train.json"))
    assert all(labels[sentence, "True"] == labels[sentence, "False"] for sentence, _ in labels)
