"""docs/examples: the scripts do what the pages say, on a little of what they read."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.text import CaptionTokenizer

pytest.importorskip("resvg_py", reason="part of the extra test")
SCRIPT = Path(__file__).parents[1] / "docs" / "examples" / "emoji.py"
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
TABLES = ("emoji", "emoji_unseen", "emoji_style")


def concept(hexcode: str, annotation: str, group: str = "people-body", skintone: object = "") -> dict[str, object]:
    return {"hexcode": hexcode, "annotation": annotation, "group": group, "skintone": skintone}


CONCEPTS = [
    concept("2764-FE0F", "red heart", "symbols"),
    concept("1F600", "grinning face", "smileys-emotion"),
    concept("1FAC8", "hairy creature", "smileys-emotion"),  # so new that openmoji alone has drawn it
    concept("E000", "a sign of openmoji's own", "extras-openmoji"),
    *(concept(person, name) for person, name in (("1F385", "Santa Claus"), ("1F9D1-200D-1F692", "firefighter"))),
    *(
        concept(f"{person}-{tone}{joined}", f"{name}: {said} skin tone", skintone=number)
        for person, joined, name in (("1F385", "", "Santa Claus"), ("1F9D1", "-200D-1F692", "firefighter"))
        for number, (tone, said) in enumerate(TONES.items(), 1)
    ),
]
"""Fifteen concepts and a sign that is none; ten are combinations of person and skin tone."""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Their layout, with drawings of one colour."""
    folder = tmp_path / "node_modules"
    (folder / "openmoji" / "data").mkdir(parents=True)
    (folder / "openmoji" / "data" / "openmoji.json").write_text(json.dumps(CONCEPTS))
    svg = folder / "openmoji" / "color" / "svg"
    svg.mkdir(parents=True)
    for entry in CONCEPTS:
        drawing = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><circle cx="36" cy="36" r="30" fill="red"/></svg>'
        (svg / f"{entry['hexcode']}.svg").write_text(drawing)
    for vendor in ("google", "twitter"):
        pngs = folder / f"emoji-datasource-{vendor}" / "img" / vendor / "64"
        pngs.mkdir(parents=True)
        for entry in CONCEPTS:
            if entry["hexcode"] not in ("E000", "1FAC8"):
                Image.new("RGBA", (64, 64), (0, 0, 255, 128)).save(pngs / f"{str(entry['hexcode']).lower()}.png")
    return folder


def emoji(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_three_tables_from_the_packages_of_three_vendors(tmp_path, packages, monkeypatch, capsys):
    sizes = ("--unseen", "3", "--style", "6")
    for out in ("emoji", "again"):
        emoji(monkeypatch, packages, tmp_path / out, *sizes)
    assert capsys.readouterr().out.split()[:6:2] == ["23", "3", "6"]
    for name in (*(f"{table}.csv" for table in TABLES), "tokenizer.json"):
        assert (tmp_path / "emoji" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    rows = {name: list(csv.DictReader((tmp_path / "emoji" / f"{name}.csv").open())) for name in TABLES}
    captions = {name: {row["caption"] for row in table} for name, table in rows.items()}
    assert captions["emoji"] | captions["emoji_unseen"] == {c["annotation"] for c in CONCEPTS if c["hexcode"] != "E000"}
    assert not captions["emoji"] & captions["emoji_unseen"]
    assert all("skin tone" in caption for caption in captions["emoji_unseen"])
    assert captions["emoji_style"] < captions["emoji"]
    vendors = {name: {row["image"].split("/")[0] for row in table} for name, table in rows.items()}
    assert vendors == {"emoji": {"google", "openmoji"}, "emoji_unseen": {"google"}, "emoji_style": {"twitter"}}
    assert [row["image"] for row in rows["emoji"] if row["caption"] == "red heart"] == [
        "google/2764.png",
        "openmoji/2764.png",
    ]

    for name, table in rows.items():
        source = f"source={tmp_path / 'emoji' / name}.csv"
        assert (
            main(["prep", "captions", source, f"out={tmp_path / 'data'}", f"name={name}", "size=32", "workers=1"]) == 0
        )
        assert open_corpus(str(tmp_path / "data"), name).manifest.images == len(table)
    tokenizer = CaptionTokenizer.load(str(tmp_path / "emoji"))
    assert tokenizer.decode(tokenizer.ids("Santa Claus: dark skin tone")) == "Santa Claus: dark skin tone"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            lambda folder: (folder / "openmoji" / "data" / "openmoji.json").unlink(),
            "openmoji.json: does not exist; npm install",
        ),
        (lambda folder: (folder / "openmoji" / "data" / "openmoji.json").write_text("[5]"), "is not openmoji's list"),
        (
            lambda folder: (folder / "emoji-datasource-twitter").rename(folder / "gone"),
            "has no .png; npm install emoji-",
        ),
        (lambda folder: (folder / "openmoji/color/svg/1F600.svg").write_text("<svg"), "1F600.svg: cannot be drawn"),
        (
            lambda folder: None,
            "has only 10 combinations of person and skin tone in google's hand, not 300; lower --unseen",
        ),
    ],
)
def test_what_is_missing_is_one_line_and_nothing_is_left(tmp_path, packages, monkeypatch, broken, message):
    broken(packages)
    sizes = ("--unseen", "3", "--style", "6") if "300" not in message else ()
    with pytest.raises(SystemExit) as stopped:
        emoji(monkeypatch, packages, tmp_path / "out" / "emoji", *sizes)
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not list((tmp_path / "out").glob("*"))


def test_a_folder_that_exists_is_left_alone(tmp_path, packages, monkeypatch):
    with pytest.raises(SystemExit, match="exists; remove it"):
        emoji(monkeypatch, packages, tmp_path)
