"""A user's own classes: from folders and tables, one label or several, and everything that can be wrong with them."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.errors import ConfigError
from data_prep.tasks.classes import ClassesConfig, run
from tests.data_prep.tasks.reading import names, records


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder per class, one of them empty, and an image beside them."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("cat/a.jpg", "cat/more/b.png", "dog/a.jpg", "loose.jpg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 50 + number), (number * 40, 0, 0)).save(path)
    (folder / "newt").mkdir()
    return folder


def configure(source: Path, out: Path, **keys: Any) -> ClassesConfig:
    return ClassesConfig(source=str(source), out=str(out), **{"name": "mine", "workers": 1, **keys})


def test_a_folder_per_class(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(configure(photos, tmp_path))
    out = capsys.readouterr().out
    assert "images outside the folders of the classes: 1 (loose.jpg)" in out
    assert "classes without a sample: 1 (newt)" in out
    corpus, found = records(tmp_path, "mine")
    assert names(tmp_path, "mine") == ["cat", "dog", "newt"]
    assert [(r.meta["file"], r.meta["labels"], r.captions) for r in found] == [
        ("cat/a.jpg", [[0]], [""]),
        ("cat/more/b.png", [[0]], [""]),
        ("dog/a.jpg", [[1]], [""]),
    ]
    assert [r.meta["ids"] for r in found] == [[r.key] for r in found]
    assert corpus.manifest.captions == 3
    assert (corpus.manifest.extra["task"], corpus.manifest.extra["several"]) == ("classes", False)
    assert bytes(found[0].image) == (photos / "cat/a.jpg").read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_with_texts(photos: Path, tmp_path: Path, suffix: str) -> None:
    rows = [("cat/a.jpg", "what, a cat", "10"), ("dog/a.jpg", "a dog", "9"), ("cat/a.jpg", "what, a cat", "9")]
    table = photos / f"list{suffix}"
    if suffix == ".parquet":
        columns = dict(zip(("path", "says", "kind"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table({**columns, "kind": [int(kind) for kind in columns["kind"]]}), table)
    elif suffix == ".jsonl":
        table.write_text("".join(json.dumps({"path": p, "says": t, "kind": int(k)}) + "\n" for p, t, k in rows))
    else:
        mark = "\t" if suffix == ".tsv" else ","
        quoted = [(p, f'"{t}"' if suffix == ".csv" else t, k) for p, t, k in rows]
        table.write_text("\n".join(mark.join(row) for row in [("path", "says", "kind"), *quoted]))
    run(configure(table, tmp_path, image="path", text="says", label="kind"))
    _, found = records(tmp_path, "mine")
    assert names(tmp_path, "mine") == ["9", "10"]
    assert [(r.meta["ids"], r.captions, r.meta["labels"]) for r in found] == [
        (["000000000-0", "000000000-1"], ["what, a cat", "what, a cat"], [[1], [0]]),
        (["000000001"], ["a dog"], [[0]]),
    ]


@pytest.mark.parametrize("separated", [True, False])
def test_several_labels(photos: Path, tmp_path: Path, separated: bool) -> None:
    table = photos / ("list.csv" if separated else "list.jsonl")
    if separated:
        table.write_text("image,label\ncat/a.jpg,small|cat| \ndog/a.jpg,dog\n")
    else:
        table.write_text(
            '{"image": "cat/a.jpg", "label": ["small", "cat"]}\n{"image": "dog/a.jpg", "label": ["dog"]}\n'
        )
    run(configure(table, tmp_path, separator="|" if separated else ""))
    corpus, found = records(tmp_path, "mine")
    assert names(tmp_path, "mine") == ["cat", "dog", "small"]
    assert [r.meta["labels"] for r in found] == [[[0, 2]], [[1]]]
    assert corpus.manifest.extra["several"] is True


def test_a_corpus_for_evaluation_has_the_classes_of_the_other(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(configure(photos, tmp_path))
    table = photos / "list.csv"
    table.write_text("image,label\ndog/a.jpg,dog\ncat/a.jpg,horse\n,cat\ncat/a.jpg,\nlost.jpg,cat\na,b,c\n")
    classes = str(tmp_path / "mine" / "classes.json")
    run(configure(table, tmp_path, name="mine_val", classes=classes, split="val"))
    out = capsys.readouterr().out
    for line in (
        "samples with a label that is not in classes: 1 (cat/a.jpg)",
        "rows without an image: 1 (2)",
        "rows without a label: 1 (3)",
        "rows: more fields than the header: 1 (5)",
        "samples without an image: 1 (lost.jpg)",
        "classes without a sample: 1 (newt)",
    ):
        assert line in out
    corpus, found = records(tmp_path, "mine_val")
    assert [r.meta["labels"] for r in found] == [[[1]]]
    assert names(tmp_path, "mine_val") == names(tmp_path, "mine")
    assert corpus.manifest.extra["split"] == "val"


@pytest.mark.parametrize(
    ("table", "keys", "message"),
    [
        ("image,kind\na.jpg,1\n", [], "label=label: source="),
        ("image,label\na.jpg,1\n", ["text=txet"], "text=txet: source="),
        ("image,label\na.jpg,1\nb.jpg,1\n", [], "two are the least"),
        ("image,label\na.jpg,\n", [], "has no sample with a label"),
        ("image,label\nlost.jpg,1\nlost2.jpg,2\n", [], "has none of the 2 images"),
        ("image,label\na.jpg,1\n", ["classes=/nowhere.json"], "classes=/nowhere.json: cannot be read"),
        ("image,label\na.jpg,1\n", ["split=tset"], "split=tset: must be one of"),
    ],
)
def test_where_nothing_can_go_on_the_exit_code_is_2(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, keys: list[str], message: str
) -> None:
    (photos / "list.csv").write_text(table)
    arguments = [f"source={photos / 'list.csv'}", f"out={tmp_path}", "name=mine", "workers=1", *keys]
    assert main(["prep", "classes", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_classes_that_is_none_is_refused(photos: Path, tmp_path: Path) -> None:
    for content in ("[]", '["a", "a"]', "{}", '[["a"]]', "["):
        (tmp_path / "classes.json").write_text(content)
        with pytest.raises(ConfigError, match=r"classes=.*classes\.json"):
            run(configure(photos, tmp_path, classes=str(tmp_path / "classes.json")))


def test_larger_images_are_reduced_and_smaller_ones_stay(photos: Path, tmp_path: Path) -> None:
    sizes = {}
    for resize in ("larger", "all", "none"):
        run(configure(photos, tmp_path, name=resize, resize=resize, size=45))
        sizes[resize] = [Image.open(io.BytesIO(r.image)).size for r in records(tmp_path, resize)[1]]
    assert sizes == {
        "larger": [(40, 50), (40, 51), (40, 52)],
        "all": [(45, 56), (45, 57), (45, 58)],
        "none": [(40, 50), (40, 51), (40, 52)],
    }
    run(configure(photos, tmp_path, name="small", size=20))
    assert [Image.open(io.BytesIO(r.image)).size for r in records(tmp_path, "small")[1]] == [
        (20, 25),
        (20, 25),
        (20, 26),
    ]
