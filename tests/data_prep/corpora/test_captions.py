"""Any table, any folder of captioned images."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.errors import ConfigError, DataError, FileError
from data_prep.corpora.captions import CaptionsConfig, run
from data_prep.source.local import LINK_OUT
from tests.hostile.attacks import attack

ROWS = [
    ("b.jpg", 'a "dog'),
    ("sub/a.png", "two, cats"),
    ("b.jpg", "again\tdog"),
    ("none.jpg", "nothing"),
    ("c.jpg", " "),
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.jpg", "sub/a.png", "c.jpg", "d.jpg")):
        Image.new("RGB", (50 + number, 40)).save(folder / name)
    return folder


def config(source: Path, out: Path, **keys: Any) -> CaptionsConfig:
    return CaptionsConfig(**{"source": str(source), "out": str(out), "name": "mine", "size": 32, "workers": 1, **keys})


def written(out: Path) -> Corpus:
    return open_corpus(str(out), "mine")


def captions_of(corpus: Corpus) -> list[list[str]]:
    return [corpus.read(row).captions for row in range(corpus.manifest.images)]


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    if path.suffix == ".csv":
        quoted = ['"' + a.replace('"', '""') + '","' + b.replace('"', '""') + '"' for a, b in rows]
        path.write_text("image,caption\r\n" + "\r\n".join(quoted))
    elif path.suffix == ".tsv":
        path.write_text("image\tcaption\n" + "".join(f"{a}\t{b}\n".replace("again\t", "again ") for a, b in rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"image": a, "caption": b, "more": 1}) + "\n" for a, b in rows))
    else:
        pq.write_table(pa.table({"image": [a for a, _ in rows], "caption": [b for _, b in rows]}), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table(tmp_path: Path, images: Path, suffix: str) -> None:
    table = write_table(tmp_path / f"table{suffix}", ROWS)
    run(config(table, tmp_path / "out", images=str(images)))
    corpus = written(tmp_path / "out")
    assert [corpus.read(row).captions for row in range(2)] == [['a "dog', "again dog"], ["two, cats"]]
    assert [corpus.read(row).meta["file"] for row in range(2)] == ["b.jpg", "sub/a.png"]
    assert corpus.manifest.dropped == {"missing file": 1, "no caption": 1}
    with pytest.raises(
        DataError, match=r"none of the 4 paths in its column 'image', such as 'b.jpg', exists in .*; set images="
    ):
        run(config(table, tmp_path / "out"))


def test_a_column_of_lists_and_columns_of_other_names(tmp_path: Path, images: Path) -> None:
    table = images / "table.parquet"
    pq.write_table(pa.table({"path": ["b.jpg", None], "texts": [["one", "two", "one"], ["lost"]]}), table)
    run(config(table, tmp_path / "out", image="path", caption="texts"))
    assert written(tmp_path / "out").read(0).captions == ["one", "two"]
    assert written(tmp_path / "out").manifest.dropped == {"no image": 1}
    with pytest.raises(
        ConfigError, match=r"caption=text: source=.* has no such column, but path, texts; did you mean 'texts'"
    ):
        run(config(table, tmp_path / "other", image="path", caption="text"))


KINDS = {"alt": "text", "synthetic": "blip"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_of_several_kinds(tmp_path: Path, images: Path, suffix: str) -> None:
    """A caption that both have counts as the first; an image may lack a kind, or have several captions of one."""
    rows = [
        ("b.jpg", "a dog", "a brown dog"),
        ("c.jpg", "a cat", "a cat"),
        ("b.jpg", "again", ""),
        ("d.jpg", "", "an owl"),
    ]
    named = [dict(zip(("image", "text", "blip"), row, strict=True)) for row in rows]
    table = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        table.write_text("image,text,blip\n" + "".join(",".join(row) + "\n" for row in rows))
    elif suffix == ".jsonl":
        table.write_text("".join(json.dumps({**row, "blip": [row["blip"]]}) + "\n" for row in named))
    else:
        pq.write_table(pa.Table.from_pylist(named), table)
    run(config(table, tmp_path / "out", images=str(images), kinds=KINDS))
    records = [written(tmp_path / "out").read(row) for row in range(3)]
    assert [list(zip(record.captions, record.kinds, strict=True)) for record in records] == [
        [("a dog", "alt"), ("a brown dog", "synthetic"), ("again", "alt")],
        [("a cat", "alt")],
        [("an owl", "synthetic")],
    ]
    assert written(tmp_path / "out").manifest.kinds == {"alt": 3, "synthetic": 2}


def test_a_table_without_a_column_of_a_kind(tmp_path: Path, images: Path) -> None:
    table = write_table(tmp_path / "t.csv", ROWS)
    with pytest.raises(ConfigError, match=r"kinds.synthetic=captoin: .*has no such column.*did you mean 'caption'"):
        run(config(table, tmp_path / "out", images=str(images), kinds={"alt": "caption", "synthetic": "captoin"}))
    with pytest.raises(ConfigError, match=r"kinds: 'a b' cannot name a kind"):
        config(table, tmp_path / "out", kinds={"a b": "caption"})


def test_texts_beside_images_keep_their_kinds(tmp_path: Path, images: Path) -> None:
    (images / "b.json").write_text(json.dumps({"captions": ["one", " ", "two"], "kinds": ["alt", "alt", "synthetic"]}))
    (images / "c.json").write_text(json.dumps({"captions": ["three"], "kinds": "alt"}))
    (images / "d.json").write_text(json.dumps({"captions": ["four"]}))
    run(config(images, tmp_path / "out"))
    corpus = written(tmp_path / "out")
    records = [corpus.read(row) for row in range(3)]
    assert [record.kinds for record in records] == [["alt", "synthetic"], ["alt"], [""]]
    assert ["kinds" in record.meta for record in records] == [True, True, False]


def test_broken_text_in_a_table_is_one_row_s_matter(tmp_path: Path, images: Path) -> None:
    table = images / "table.tsv"
    table.write_bytes(b"\xef\xbb\xbfimage\tcaption\nb.jpg\tcaf\xe9 \0 x\nc.jpg\nd.jpg\tgood\textra\n")
    run(config(table, tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert captions_of(corpus) == [["caf\ufffd   x"]]
    assert corpus.manifest.dropped == {"no caption": 1, "more fields than the header": 1}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_no_caption_is_cut_by_a_separator_in_it(tmp_path: Path, images: Path, suffix: str) -> None:
    separator = {".csv": ",", ".tsv": "\t"}[suffix]
    rows = [("b.jpg", "A brown dog, a black cat\tand a bird"), ("c.jpg", "whole"), ("b.jpg", "the same dog")]
    table = images / f"table{suffix}"
    table.write_text("".join(f"{image}{separator}{caption}\n" for image, caption in [("image", "caption"), *rows]))
    run(config(table, tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert captions_of(corpus) == [["whole"], ["the same dog"]]
    assert corpus.manifest.dropped == {"more fields than the header": 1}


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_carriage_return_ends_no_row(tmp_path: Path, images: Path, suffix: str, quote: str) -> None:
    separator = {".csv": ",", ".tsv": "\t"}[suffix]
    table = images / f"table{suffix}"
    line = f"{{}}{separator}{quote}{{}}{quote}\r\n".format
    table.write_bytes(
        "".join([line("image", "caption"), line("b.jpg", "a dog\ron grass"), line("c.jpg", "a cat")]).encode()
    )
    run(config(table, tmp_path / "out", **({"caption": '"caption"'} if quote and suffix == ".tsv" else {})))
    found = [[text.strip('"') for text in texts] for texts in captions_of(written(tmp_path / "out"))]
    assert found == [["a dog on grass"], ["a cat"]]


def test_lines_that_end_with_a_carriage_return(tmp_path: Path, images: Path) -> None:
    (images / "table.csv").write_bytes(b"image,caption\rb.jpg,a dog\rc.jpg,a cat")
    run(config(images / "table.csv", tmp_path / "out"))
    assert captions_of(written(tmp_path / "out")) == [["a dog"], ["a cat"]]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_in_any_encoding(tmp_path: Path, images: Path, encoding: str) -> None:
    for suffix, text in (
        (".csv", "image,caption\nb.jpg,un café\n"),
        (".tsv", "image\tcaption\nb.jpg\tun café\n"),
        (".jsonl", '{"image": "b.jpg", "caption": "un café"}\n'),
    ):
        (tmp_path / f"t{suffix}").write_text(text, encoding)
        run(config(tmp_path / f"t{suffix}", tmp_path / suffix, images=str(images)))
        assert captions_of(written(tmp_path / suffix)) == [["un café"]]
    (images / "b.txt").write_text("un café\nune tasse\n", encoding)
    (images / "c.json").write_text('{"caption": "un thé"}', encoding)
    run(config(images, tmp_path / "out"))
    assert captions_of(written(tmp_path / "out")) == [["un café", "une tasse"], ["un thé"]]


def test_a_long_field_costs_no_other_row(tmp_path: Path, images: Path) -> None:
    rows = [("b.jpg", "x" * 140_000), ("c.jpg", "y" * (1 << 20)), ("d.jpg", "short")]
    run(config(write_table(images / "table.csv", rows), tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert [len(texts[0]) for texts in captions_of(corpus)] == [140_000, 5]
    assert corpus.manifest.dropped == {"caption member over 1 MiB": 1}


def test_a_line_that_is_no_json_costs_no_other_row(tmp_path: Path, images: Path) -> None:
    good = json.dumps({"image": "b.jpg", "caption": "a dog"})
    (images / "table.jsonl").write_text(f'{{"image": "c.jp\n[1]\n\n{good}\n')
    run(config(images / "table.jsonl", tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert captions_of(corpus) == [["a dog"]]
    assert corpus.manifest.dropped == {"json cannot be read": 2}


@pytest.mark.parametrize("column", ["image", "path"])
def test_what_a_table_has_in_place_of_paths_is_not_printed(tmp_path: Path, images: Path, column: str) -> None:
    binary = b"\xff" * 100_000
    values: list[Any] = [binary] if column == "path" else [[str(binary)]]
    pq.write_table(pa.table({column: values, "caption": ["a dog"]}), tmp_path / "t.parquet")
    with pytest.raises((ConfigError, DataError)) as caught:
        run(config(tmp_path / "t.parquet", tmp_path / "out", image=column))
    assert len(str(caught.value)) < 600
    (tmp_path / "t.csv").write_text(f"image,caption\n{'A' * 100_000},a dog\n")
    with pytest.raises(DataError, match="none of the 1 paths") as caught:
        run(config(tmp_path / "t.csv", tmp_path / "out"))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", 'image,caption\nb.jpg,"never closed', "unexpected end of data"),
        ("t.jsonl", "[1]\n2\n", "no row but of the state 'json cannot be read'"),
        ("t.jsonl", "{", "is not a .jsonl"),
        ("t.jsonl", "[" * 100_000, "is not a .jsonl"),
        ("t.jsonl", '{"image": ' + "9" * 5000 + "}", "is not a .jsonl"),
        ("t.csv", "image,caption\na,b,c\n", "no row but of the state 'more fields than the header'"),
        ("t.parquet", "PAR1", "is not a .parquet"),
        ("t.parquet", "PAR1" + "\0" * 40 + "PAR1", "is not a .parquet"),
    ],
)
def test_a_broken_table_is_one_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        run(config(tmp_path / name, tmp_path / "out"))


def test_a_source_that_is_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        run(config(tmp_path / "none.csv", tmp_path / "out"))
    (tmp_path / "table.xlsx").touch()
    with pytest.raises(ConfigError, match=r"must be a folder, or a .csv"):
        run(config(tmp_path / "table.xlsx", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no image"):
        run(config(tmp_path / "empty", tmp_path / "out"))


def test_a_folder_of_images_with_texts(tmp_path: Path, images: Path) -> None:
    (images / "b.txt").write_text("one caption\ntwo captions\n")
    (images / "sub" / "a.json").write_text(json.dumps({"caption": "a cat"}))
    (images / "sub" / "a.txt").write_text("not this one")
    (images / "c.json").write_text("{")
    (images / "lonely.txt").write_text("no image")
    run(config(images, tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert [corpus.read(row).captions for row in range(2)] == [["one caption", "two captions"], ["a cat"]]
    assert corpus.manifest.dropped == {"json cannot be read": 1, "no caption": 1, "no image": 1}
    run(config(images, tmp_path / "out"))
    (images / "b.txt").write_text("one caption\nTWO captions\n")
    with pytest.raises(DataError, match="source source was"):
        run(config(images, tmp_path / "out"))


def test_a_text_without_captions_hides_no_other(tmp_path: Path, images: Path) -> None:
    for stem, content in (("b", '{"width": 50}'), ("c", "{"), ("d", '{"captions": [], "caption": "of the json"}')):
        (images / f"{stem}.json").write_text(content)
        (images / f"{stem}.txt").write_text(f"text of {stem}")
    run(config(images, tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert captions_of(corpus) == [["text of b"], ["text of c"], ["of the json"]]
    assert corpus.manifest.dropped == {"no caption": 1}


def test_what_a_folder_has_besides_is_counted(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("22.05.jpg", "22.05.txt", "x.tiff", "y.TIFF", "README", "b.caption"):
        (images / name).write_bytes((images / "b.jpg").read_bytes() if name == "22.05.jpg" else b"text")
    run(config(images, tmp_path / "out"))
    manifest = written(tmp_path / "out").manifest
    assert manifest.images == 1
    assert manifest.extra["unread_files"] == {".caption": 1, ".tiff": 2, "no suffix": 1}
    assert "left unread by suffix: .caption 1, .tiff 2, no suffix 1\n" in capsys.readouterr().out


def test_no_subfolder_is_left_out_silently(tmp_path: Path, images: Path) -> None:
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    for stem in ("b", "sub/a"):
        (images / f"{stem}.txt").write_text("inside")
    (images / "b.jpg").rename(other / "o.jpg")
    (images / "c.jpg").rename(other / "deep" / "p.jpg")
    (images / "b.jpg").symlink_to("d.jpg")
    for text in ("o.txt", "deep/p.txt"):
        (other / text).write_text("outside")
    (images / "linked").symlink_to(other)
    (images / "again").symlink_to(other)
    (images / "circle").symlink_to(images)
    (other / "deep" / "back").symlink_to(tmp_path)
    (images / "gone").symlink_to(tmp_path / "nowhere")
    (images / "closed").mkdir()
    run(config(images, tmp_path / "out"))
    manifest = written(tmp_path / "out").manifest
    assert captions_of(written(tmp_path / "out")) == [["inside"], ["inside"]]
    assert manifest.dropped == {LINK_OUT: 2, "missing file": 1, "no caption": 1}
    run(config(images, tmp_path / "followed", follow_links=True))
    assert sum(texts == ["outside"] for texts in captions_of(written(tmp_path / "followed"))) == 2
    assert captions_of(written(tmp_path / "followed")).count(["inside"]) == 2


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "credentials").write_text("[default]\naws_access_key_id = AKIA")
    Image.new("RGB", (50, 40)).save(tmp_path / "home" / "passport.jpg")
    return tmp_path / "home"


@attack(14)
@attack(15)
def test_links_out_of_the_folder_are_followed_only_if_the_user_says_so(
    tmp_path: Path, images: Path, secret: Path
) -> None:
    for name in ("b.txt", "d.txt", "sub/a.txt"):
        (images / name).write_text(f"caption of {name}")
    (images / "c.txt").symlink_to(secret / "credentials")
    (images / "d.jpg").unlink()
    (images / "d.jpg").symlink_to(secret / "passport.jpg")
    (images / "e.jpg").symlink_to("b.jpg")
    (images / "e.txt").symlink_to("nowhere")
    (images / "f.jpg").symlink_to("nowhere")
    (images / "f.txt").write_text("dangling")
    (images / "sub" / "g.jpg").symlink_to("../b.jpg")
    (images / "sub" / "g.json").symlink_to("../b.txt")
    (tmp_path / "link").symlink_to(images)
    run(config(tmp_path / "link", tmp_path / "out"))
    corpus = written(tmp_path / "out")
    assert [corpus.read(row).captions for row in range(2)] == [["caption of b.txt"], ["caption of sub/a.txt"]]
    assert corpus.manifest.dropped == {LINK_OUT: 2, "missing file": 2, "json cannot be read": 1}
    assert b"AKIA" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    with pytest.raises(DataError, match="source follow_links was missing and is true"):
        run(config(images, tmp_path / "out", follow_links=True))
    run(config(images, tmp_path / "followed", follow_links=True))
    assert written(tmp_path / "followed").manifest.images == 4


@attack(15)
@pytest.mark.parametrize("location", ["../home/passport.jpg", "{home}/passport.jpg", "sub/../../home/passport.jpg"])
def test_paths_out_of_the_folder_are_never_followed(tmp_path: Path, images: Path, secret: Path, location: str) -> None:
    rows = [("b.jpg", "inside"), (str(images / "c.jpg"), "inside too"), (location.format(home=secret), "outside")]
    table = write_table(images / "table.jsonl", rows)
    run(config(table, tmp_path / "out", follow_links=True))
    assert written(tmp_path / "out").manifest.dropped == {"outside the folder": 1}
    assert written(tmp_path / "out").manifest.images == 2
    alone = write_table(images / "alone.jsonl", rows[2:])
    with pytest.raises(DataError, match=r"exists in .*/images; set images="):
        run(config(alone, tmp_path / "other"))


@attack(16)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, images: Path) -> None:
    for name in ("b.txt", "e.jpg", "table.csv", "table.parquet"):
        os.mkfifo(images / name)
    (images / "c.txt").symlink_to("/dev/zero")
    (images / "d.txt").write_text("d")
    (images / "e.txt").write_text("e")
    (images / "sub" / "a.json").write_text('{"caption": "' + "x" * (1 << 20) + '"}')
    run(config(images, tmp_path / "out", follow_links=True))
    dropped = {"not a regular file": 3, "caption member over 1 MiB": 1}
    assert written(tmp_path / "out").manifest.dropped == dropped
    for suffix in ("csv", "parquet"):
        with pytest.raises(FileError, match="not a regular file"):
            run(config(images / f"table.{suffix}", tmp_path / "other"))


PEAK = """
import resource, sys
from data_prep.corpora.captions import CaptionsConfig, run
from bridgetower_train.errors import DataError
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    run(CaptionsConfig(source=sys.argv[1], out=sys.argv[2], name="n", workers=1))
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


@attack(17)
@pytest.mark.parametrize("kind", ["dictionary", "list", "compressed"])
def test_a_small_table_of_much_text_takes_little_memory(tmp_path: Path, kind: str) -> None:
    text = "x" * 100_000
    captions: Any = pa.array([[text]] * 4000 if kind == "list" else [text] * 4000)
    if kind == "dictionary":
        captions = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array([text]))
    table = pa.table({"image": [f"{number}.jpg" for number in range(len(captions))], "caption": captions})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=kind != "compressed")
    assert (tmp_path / "t.parquet").stat().st_size < 200_000
    command = [sys.executable, "-c", PEAK, str(tmp_path / "t.parquet"), str(tmp_path / "out")]
    *message, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(message) == 1
    assert "its text takes more than 100 times the size of the file" in message[0]
    assert int(peak) < 400
