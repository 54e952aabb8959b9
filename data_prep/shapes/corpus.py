"""The `shapes` corpus: small images of coloured objects with captions, drawn from a seed, without a download.

It is two corpora: `shapes` is for training; `shapes_heldout` shows only combinations of colour, shape and texture that
`shapes` never shows. A record is a function of seed and number, so a longer corpus begins like a shorter one. The files of tasks
for training are about the images of `shapes`, those for validation about the images that would follow them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from bridgetower_train.config import at_least
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.display import print_line
from bridgetower_train.errors import DataError
from bridgetower_train.files import atomic_write
from bridgetower_train.foreign import MAX_JSON, read_bytes
from data_prep.job.job import JobConfig, run_job
from data_prep.parallel import cores, ordered_map
from data_prep.shapes.claims import task_texts
from data_prep.shapes.draw import draw
from data_prep.shapes.scene import ALL, FEW, Dice, Palette, Scene, make_scene
from data_prep.shapes.tasks import Drawing, write_split
from data_prep.shapes.text import captions
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.source.image import prepare_jpeg
from data_prep.source.rows import OK, Images, Outcome, Row, Table

HELD_OUT = {"shapes": False, "shapes_heldout": True}
"""Corpus -> whether it shows the held-out combinations."""
TASKS = "shapes_tasks"
"""Folder of the files of tasks."""
_VERSION = 1  # increment it when the same seed gives other images or captions
_TASKS_VERSION = 2  # increment it when the same seed gives other files of tasks
_VOCABULARY = 512
_TOKENIZER_RECORDS = 10_000
_ABOUT = {
    "title": "Shapes",
    "homepage": "",
    "licence": "none needed: drawn by a program",
    "note": "coloured objects with captions, drawn from a seed, for demonstrations and tests",
}


@dataclass(frozen=True)
class ShapesConfig:
    """`bridgetower prep shapes`: write the corpora `shapes` and `shapes_heldout`."""

    out: str = "???"
    """Folder for the folders of the two corpora."""
    records: int = 20_000
    """Images for training, each with five captions."""
    heldout: int = 1024
    """Images of combinations that training never shows."""
    size: int = 64
    """Shorter edge of the images, pixels."""
    aspect: float = 1.0
    """Width over height: above 1, the scenes are stretched, and a crop to the centre loses what lies at the sides."""
    seed: int = 0
    """Seed of images and captions."""
    tasks: bool = False
    """Also write, into `shapes_tasks`, questions, hypotheses and statements about such images: the files that `prep vqav2`,
    `prep snli_ve` and `prep nlvr2` read. A tokenizer that is written with them knows their words."""
    simple: bool = False
    """Four colours, four shapes and plain objects alone, so that a tiny model learns the tasks."""
    workers: int = field(default_factory=cores)
    """Processes that draw; the output does not depend on it."""

    def __post_init__(self) -> None:
        for name, least in (("records", 1), ("heldout", 1), ("size", 32), ("aspect", 1), ("seed", 0), ("workers", 1)):
            at_least(name, getattr(self, name), least)

    @property
    def palette(self) -> Palette:
        return FEW if self.simple else ALL


@dataclass(frozen=True)
class Drawn(Table, Images):
    """`shapes` or `shapes_heldout`: the table of its records and the source of their images."""

    corpus: str
    records: int
    seed: int
    size: int
    workers: int
    aspect: float = 1.0
    palette: Palette = ALL

    def __len__(self) -> int:
        return self.records

    def rows(self, start: int, stop: int) -> list[Row]:
        return [self._row(number) for number in range(start, stop)]

    def _row(self, number: int) -> Row:
        dice, scene = self._scene(number)
        texts = captions(scene, dice)
        shown = ("colour", "shape", "texture", "size")
        objects = [
            {**{name: getattr(item, name) for name in shown}, "box": self._stretched(item.box(self.size))}
            for item in scene.items
        ]
        return Row(f"{self.corpus}-{number:09d}", "", texts, {"image_id": number, "objects": objects})

    def image(self, number: int) -> bytes:
        """Draw a record: a JPEG."""
        dice, scene = self._scene(number)
        captions(scene, dice)  # the drawing continues with the numbers after those of the captions
        drawn = draw(scene, dice, self.size)
        if self.aspect > 1:
            drawn = drawn.resize((round(self.size * self.aspect), self.size), Image.Resampling.BICUBIC)
        return prepare_jpeg(drawn, self.size)

    def drawing(self, number: int, jpeg: bytes) -> Drawing:
        """A record for a task."""
        dice, scene = self._scene(number)
        return Drawing(number, scene, captions(scene, dice)[0], jpeg)

    def _stretched(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        left, top, right, bottom = box
        return round(left * self.aspect), top, round(right * self.aspect), bottom

    def identity(self) -> dict[str, str]:
        unusual = {"aspect": f"{self.aspect:g}"} if self.aspect > 1 else {}
        if self.palette != ALL:
            unusual["simple"] = "true"
        return {"version": str(_VERSION), "seed": str(self.seed), "records": str(self.records), **unusual}

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        return ordered_map(self._outcome, rows, self.workers)

    def _outcome(self, numbered: tuple[int, Row]) -> tuple[int, Outcome]:
        return numbered[0], Outcome(OK, jpeg=self.image(numbered[0]))

    def _scene(self, number: int) -> tuple[Dice, Scene]:
        dice = Dice(self.seed, self.corpus, number)
        return dice, make_scene(dice, HELD_OUT[self.corpus], self.palette)


def run(config: ShapesConfig) -> None:
    """Write both corpora, `shapes/tokenizer.json` and the files of tasks; what exists already stays.

    DataError where a folder has another corpus, or the same from another configuration.
    """
    for name, records in (("shapes", config.records), ("shapes_heldout", config.heldout)):
        drawn = _drawn(name, records, config)
        job = JobConfig(out=config.out, name=name, size=config.size, workers=config.workers)
        run_job(job, drawn, drawn, _ABOUT, {"probe_words": list(config.palette.colours)})
    tokenizer = Path(config.out, "shapes", "tokenizer.json")
    if not tokenizer.exists():
        _write_tokenizer(tokenizer, config)
    if config.tasks:
        _write_tasks(Path(config.out, TASKS), config)


def _drawn(corpus: str, records: int, config: ShapesConfig) -> Drawn:
    return Drawn(corpus, records, config.seed, config.size, config.workers, config.aspect, config.palette)


def _write_tokenizer(path: Path, config: ShapesConfig) -> None:
    """Train it on the captions of the first training records, and on what tasks say of them."""
    drawn, texts = _drawn("shapes", config.records, config), list[str]()
    for record in range(min(config.records, _TOKENIZER_RECORDS)):
        dice, scene = drawn._scene(record)
        texts += captions(scene, dice)
        if config.tasks:
            texts += task_texts(scene)
    atomic_write(path, train_tokenizer(texts, _VOCABULARY).to_str(pretty=True))


def _write_tasks(folder: Path, config: ShapesConfig) -> None:
    """DataError where the folder has those of another configuration."""
    done = folder / "tasks.json"
    keys = ("records", "heldout", "size", "aspect", "seed", "simple")
    identity = json.dumps({"version": _TASKS_VERSION, **{key: getattr(config, key) for key in keys}}) + "\n"
    if done.exists():
        if read_bytes(done, MAX_JSON).decode("utf-8", "replace") != identity:
            raise DataError(f"{folder}: has tasks about other images; remove the folder, or choose another `out`")
        return
    drawn = _drawn("shapes", config.records, config)
    corpus = open_corpus(config.out, "shapes")
    write_split(
        folder, "train", (drawn.drawing(n, bytes(corpus.read(n).image)) for n in range(config.records)), config.seed
    )
    numbers = ((n, Row("", "", [])) for n in range(config.records, config.records + config.heldout))
    further = (drawn.drawing(number, outcome.jpeg) for number, outcome in drawn.outcomes(numbers))
    write_split(folder, "val", further, config.seed)
    atomic_write(done, identity)
    print_line(f"tasks: {folder.resolve()}")
