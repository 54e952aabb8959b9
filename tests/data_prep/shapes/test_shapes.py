"""The `shapes` corpus: captions are read back by a grammar of their own and held against the objects and the pixels."""

import io
import itertools
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import ConfigError, DataError
from data_prep.shapes.corpus import Drawn, ShapesConfig, run
from data_prep.shapes.draw import OUTLINES, PAINT, _masks
from data_prep.shapes.scene import ALL

SIZE = 64
PLAIN_WORD = {"little": "small", "big": "large", "solid": "plain", "stripes": "striped", "dots": "dotted"}
NOUN = re.compile(
    r"(?:(small|little|large|big) )?(?:(plain|solid|striped|dotted) )?"
    rf"({'|'.join(ALL.colours)}) ({'|'.join(ALL.shapes)})\b(?: with (stripes|dots))?"
)
OPENING = re.compile("there is |here is |a picture of |a picture with |we see ")
SIDE = r"((?:to the )?left of|(?:to the )?right of|above|over|below|under)"
PLACE = r"((?:upper|top|lower|bottom) (?:left|right)|middle|center)"
SENTENCES = {
    "alone": f"A N alone in the {PLACE}|only A N in the {PLACE}",
    "place": f"the N is in the {PLACE}",
    "relation": f"A N {SIDE} A N|the N is {SIDE} the N",
    "both": f"A N {SIDE} A N and {SIDE} A N",
    "chain": f"A N {SIDE} A N, which is {SIDE} A N",
    "list": "A N|A N(?:, A N)?(?: and|,) A N",
}


class Row(NamedTuple):
    """A record."""

    key: str
    jpeg: bytes
    captions: list[str]
    meta: dict[str, Any]


def make_row(corpus: str, seed: int, size: int, record: int) -> Row:
    drawn = Drawn(corpus, record + 1, seed, size, 1)
    (row,) = drawn.rows(record, record + 1)
    return Row(row.key, drawn.image(record), row.captions, row.meta)


@dataclass
class Statement:
    """What a caption says: attributes of each mention, relations between mentions, place, and whether it is all."""

    mentions: list[dict[str, str]]
    relations: list[tuple[int, str, int]]
    place: str
    alone: bool


def read(caption: str) -> Statement:
    """Parse a caption; fails on a wording that it does not know."""
    mentions = []
    for size, before, colour, shape, after in NOUN.findall(caption):
        texture = before or after
        words = {"size": PLAIN_WORD.get(size, size), "texture": PLAIN_WORD.get(texture, texture)}
        mentions.append({"colour": colour, "shape": shape} | {name: word for name, word in words.items() if word})
    skeleton = re.sub(r"\ban? N", "A N", OPENING.sub("", NOUN.sub("N", caption)))
    for kind, pattern in SENTENCES.items():
        if match := re.fullmatch(pattern, skeleton):
            words = [word for word in match.groups() if word]
            if kind in ("alone", "place"):
                place = words[0].replace("top", "upper").replace("bottom", "lower").replace("center", "middle")
                return Statement(mentions, [], place, kind == "alone")
            ends = {"relation": [(0, 1)], "both": [(0, 1), (0, 2)], "chain": [(0, 1), (1, 2)], "list": []}[kind]
            sides = [word.removeprefix("to the ").replace("over", "above").replace("under", "below") for word in words]
            return Statement(mentions, [(i, side, j) for (i, j), side in zip(ends, sides, strict=True)], "", False)
    raise AssertionError(f"no known sentence: {caption} ({skeleton})")


def holds(statement: Statement, objects: list[dict[str, Any]]) -> bool:
    """Whether the statement is true of an image with these objects."""
    if statement.alone and len(objects) != 1:
        return False
    return any(
        all(mention.items() <= thing.items() for mention, thing in zip(statement.mentions, chosen, strict=True))
        and all(beside(chosen[i]["box"], side, chosen[j]["box"]) for i, side, j in statement.relations)
        and (not statement.place or place_of(chosen[0]["box"]) == statement.place)
        for chosen in itertools.permutations(objects, len(statement.mentions))
    )


def beside(box: list[int], side: str, other: list[int]) -> bool:
    if side in ("right of", "below"):
        box, other = other, box
    return box[2] <= other[0] if side in ("left of", "right of") else box[3] <= other[1]


def place_of(box: list[int]) -> str:
    x, y = (box[0] + box[2]) / 2 / SIZE, (box[1] + box[3]) / 2 / SIZE
    if 0.4 < x < 0.6 and 0.4 < y < 0.6:
        return "middle"
    return f"{'upper' if y < 0.4 else 'lower' if y > 0.6 else '?'} {'left' if x < 0.4 else 'right' if x > 0.6 else '?'}"


@pytest.fixture(scope="module", params=["shapes", "shapes_heldout"])
def rows(request: pytest.FixtureRequest) -> list[Row]:
    return [make_row(request.param, 0, SIZE, record) for record in range(384)]


def objects(row: Row) -> list[dict[str, Any]]:
    return row.meta["objects"]


def test_held_out_triples_are_balanced() -> None:
    for held, triples in ALL.triples.items():
        counts = [Counter(triple[place] for triple in triples) for place in range(3)]
        assert [set(count.values()) for count in counts] == ([{6}, {6}, {16}] if held else [{18}, {18}, {48}])
    assert not set(ALL.triples[True]) & set(ALL.triples[False])
    for first, second, count in ((0, 1, 64), (0, 2, 24), (1, 2, 24)):
        assert len({(triple[first], triple[second]) for triple in ALL.triples[False]}) == count


def test_held_out_images_show_only_combinations_that_training_never_shows(rows: list[Row]) -> None:
    held = rows[0].key.startswith("shapes_heldout")
    shown = {(o["colour"], o["shape"], o["texture"]) for row in rows for o in objects(row)}
    assert shown <= set(ALL.triples[held])
    assert len(shown) > 0.9 * len(ALL.triples[held])


def test_objects_differ_in_colour_or_shape(rows: list[Row]) -> None:
    for row in rows:
        assert len({(o["colour"], o["shape"]) for o in objects(row)}) == len(objects(row))
    share = Counter(len(objects(row)) for row in rows)
    assert [share[number] / len(rows) for number in (1, 2, 3)] == pytest.approx([0.15, 0.65, 0.2], abs=0.08)


def test_every_caption_is_true(rows: list[Row]) -> None:
    for row in rows:
        assert len(row.captions) >= 5 - (len(objects(row)) == 1)
        for caption in row.captions:
            assert holds(read(caption), objects(row)), (caption, objects(row))


def test_full_captions_name_every_attribute(rows: list[Row]) -> None:
    for row in rows:
        for caption in row.captions[:2]:
            statement = read(caption)
            assert len(statement.mentions) == len(objects(row))
            assert all(len(mention) == 4 for mention in statement.mentions)
            assert statement.alone or len(statement.relations) == len(objects(row)) - 1


def test_a_false_caption_is_noticed(rows: list[Row]) -> None:
    for row in rows[:50]:
        caption = row.captions[0]
        colour = objects(row)[0]["colour"]
        assert not holds(read(caption.replace(colour, ALL.colours[ALL.colours.index(colour) - 1], 1)), objects(row))
        swapped = [o | {"box": p["box"]} for o, p in zip(objects(row), objects(row)[::-1], strict=True)]
        assert len(swapped) == 1 or not holds(read(caption), swapped)


def test_relations_are_plain_to_see(rows: list[Row]) -> None:
    for row in rows:
        things = objects(row)
        for other in things[1:]:
            distance = [abs(sum(other["box"][a::2]) - sum(things[0]["box"][a::2])) / 2 for a in (0, 1)]
            assert max(distance) > 1.5 * min(distance)


def test_a_full_caption_is_true_of_one_image_among_128(rows: list[Row]) -> None:
    ambiguous = 0
    for start in range(0, len(rows), 128):
        block = rows[start : start + 128]
        statements = [read(row.captions[0]) for row in block]
        ambiguous += sum(sum(holds(statement, objects(row)) for row in block) > 1 for statement in statements)
    assert ambiguous / len(rows) < 0.05


def test_objects_stand_apart_in_their_boxes_in_their_colour(rows: list[Row]) -> None:
    paints = np.array([PAINT[colour] for colour in ALL.colours])
    for row in rows[:100]:
        image = Image.open(io.BytesIO(row.jpeg))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIZE, SIZE))
        pixels = np.asarray(image).astype(int)
        outside = np.ones((SIZE, SIZE), dtype=bool)
        for thing in objects(row):
            left, top, right, bottom = thing["box"]
            assert 0 < left < right < SIZE
            assert 0 < top < bottom < SIZE
            assert right - left == bottom - top
            assert ALL.sizes[thing["size"]][0] <= right - left <= ALL.sizes[thing["size"]][1]
            assert outside[top:bottom, left:right].all(), "objects overlap"
            outside[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = False
            distance = np.linalg.norm(pixels[top:bottom, left:right, None] - paints, axis=-1)
            near = np.bincount(distance.argmin(-1)[distance.min(-1) < 50], minlength=len(ALL.colours))
            assert ALL.colours[near.argmax()] == thing["colour"]
        assert pixels[outside].min() > 150


def test_textures_show_on_every_shape() -> None:
    assert set(OUTLINES) == set(ALL.shapes)
    assert set(PAINT) == set(ALL.colours)
    for shape, edge in itertools.product(ALL.shapes, (14, 16, 24, 26)):
        shares = {}
        for texture in ALL.textures:
            body, marks = (np.asarray(mask).sum() for mask in _masks(shape, texture, edge, 1.0))
            shares[texture] = marks / body
        assert shares["plain"] == 0
        assert 0.1 < shares["striped"] < 0.5
        assert 0.08 < shares["dotted"] < 0.5


def test_a_record_is_a_function_of_seed_split_and_number() -> None:
    row = make_row("shapes", 0, SIZE, 0)
    assert row == make_row("shapes", 0, SIZE, 0)
    assert row.key == "shapes-000000000"
    assert row.captions[0] == "a large plain yellow star below a large striped green cross"
    assert row.jpeg != make_row("shapes", 1, SIZE, 0).jpeg
    assert row.jpeg != make_row("shapes", 0, SIZE, 1).jpeg


def test_images_of_another_size_show_the_same() -> None:
    small, large = (make_row("shapes", 0, size, 7) for size in (64, 160))
    assert small.captions == large.captions
    assert Image.open(io.BytesIO(large.jpeg)).size == (160, 160)
    for a, b in zip(objects(small), objects(large), strict=True):
        assert np.abs(np.array(a["box"]) * 2.5 - b["box"]).max() <= 1.5


VARY = ("manifest.json", "preparation.json")


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.name not in VARY}


def test_run_writes_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    config = ShapesConfig(out=str(tmp_path / "one"), records=70, heldout=5, workers=1)
    run(config)
    run(replace(config, out=str(tmp_path / "two"), workers=2))
    for corpus in ("shapes", "shapes_heldout"):
        assert shards(tmp_path / "one" / corpus) == shards(tmp_path / "two" / corpus)
    run(replace(config, out=str(tmp_path / "more"), records=90))
    with (
        tarfile.open(tmp_path / "one/shapes/000000.tar") as less,
        tarfile.open(tmp_path / "more/shapes/000000.tar") as more,
    ):
        for member in less:
            assert less.extractfile(member).read() == more.extractfile(member.name).read()  # type: ignore[union-attr]


def test_run_keeps_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ShapesConfig(out=str(tmp_path), records=12, heldout=3, workers=1)
    run(config)
    corpus = open_corpus(str(tmp_path), "shapes", None)
    assert corpus.manifest.extra["probe_words"] == list(ALL.colours)
    assert corpus.read(11).meta["objects"][0]["colour"] in ALL.colours
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    capsys.readouterr()
    run(config)
    assert capsys.readouterr().out.count("already") == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
    (tmp_path / "shapes" / "tokenizer.json").unlink()
    run(config)
    assert (tmp_path / "shapes" / "tokenizer.json").exists()
    with pytest.raises(DataError, match="shapes"):
        run(replace(config, seed=1))
    assert {path: path.stat().st_mtime_ns for path in before if path.name != "tokenizer.json"}.items() <= before.items()


@pytest.mark.parametrize("wrong", [{"records": 0}, {"heldout": 0}, {"size": 16}, {"seed": -1}, {"workers": 0}])
def test_config_names_the_wrong_key(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ShapesConfig(out="x", **wrong)


def test_wide_images_show_the_same_scene_stretched(tmp_path):
    square, wide = (Drawn("shapes", 4, 0, 64, 1, aspect) for aspect in (1.0, 1.5))
    for number in range(4):
        stretched = Image.open(io.BytesIO(wide.image(number)))
        assert stretched.size == (96, 64)
        again = np.asarray(stretched.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(again - np.asarray(Image.open(io.BytesIO(square.image(number))))).mean() < 3
    (plain,), (row,) = square.rows(0, 1), wide.rows(0, 1)
    assert row.captions == plain.captions
    (left, top, right, bottom), box = plain.meta["objects"][0]["box"], row.meta["objects"][0]["box"]
    assert box == (round(1.5 * left), top, round(1.5 * right), bottom)
    assert "aspect" not in square.identity()
