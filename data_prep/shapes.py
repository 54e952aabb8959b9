"""The `shapes` corpus: small pictures of coloured objects with captions, drawn from a seed. It needs no download.

Two corpora come of it. `shapes` is for training; `shapes_heldout` shows only combinations of colour, shape and texture
that `shapes` never shows. A record is a function of seed and number, so a longer corpus begins as a shorter one.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from bridgetower_train.config import at_least
from bridgetower_train.data.manifest import Manifest
from bridgetower_train.files import write_whole
from data_prep.parallel import cores, ordered_map
from data_prep.shapes_draw import draw
from data_prep.shapes_scene import COLOURS, Dice, make_scene
from data_prep.shapes_text import captions
from data_prep.summary import summary
from data_prep.tokenizer import train_tokenizer
from data_prep.writer import ShardWriter, prepare_jpeg

HELD_OUT = {"shapes": False, "shapes_heldout": True}
"""Corpus -> whether it shows the held-out combinations."""
_VERSION = 1  # raise it when the same seed gives other pictures or captions
_VOCABULARY = 512
_TOKENIZER_RECORDS = 10_000


@dataclass(frozen=True)
class ShapesConfig:
    """`bridgetower prep shapes`: write the corpora `shapes` and `shapes_heldout`."""

    out: str = "???"
    """Folder in which to put the two corpora's folders."""
    records: int = 20_000
    """Pictures for training, each with five captions."""
    heldout: int = 1024
    """Pictures of combinations that training never shows."""
    size: int = 64
    """Edge of the pictures, pixels."""
    seed: int = 0
    """Seed of pictures and captions."""
    workers: int = field(default_factory=cores)
    """Processes that draw; changes nothing in what is written."""

    def __post_init__(self) -> None:
        for name, least in (("records", 1), ("heldout", 1), ("size", 32), ("seed", 0), ("workers", 1)):
            at_least(name, getattr(self, name), least)


class Row(NamedTuple):
    """One record, as the writer takes it."""

    key: str
    jpeg: bytes
    captions: list[str]
    meta: dict[str, Any]


def make_row(corpus: str, seed: int, size: int, record: int) -> Row:
    """Draw and describe record number `record` of `shapes` or `shapes_heldout`, `size` pixels wide."""
    dice = Dice(seed, corpus, record)
    scene = make_scene(dice, HELD_OUT[corpus])
    texts = captions(scene, dice)
    objects = [
        {"colour": item.colour, "shape": item.shape, "texture": item.texture, "size": item.size, "box": item.box(size)}
        for item in scene.items
    ]
    jpeg = prepare_jpeg(draw(scene, dice, size), size)
    return Row(f"{corpus}-{record:09d}", jpeg, texts, {"image_id": record, "objects": objects})


def run(config: ShapesConfig) -> None:
    """Write both corpora and `shapes/tokenizer.json`; what is there already stays.

    DataError where a folder holds another corpus, or the same from another configuration.
    """
    out = Path(config.out)
    tokenizer = out / "shapes" / "tokenizer.json"
    if _write_corpus(out, "shapes", config.records, config) or not tokenizer.exists():
        _write_tokenizer(tokenizer, config)
    _write_corpus(out, "shapes_heldout", config.heldout, config)


def _write_tokenizer(path: Path, config: ShapesConfig) -> None:
    """Train it on the captions of the first records for training."""
    texts: list[str] = []
    for record in range(min(config.records, _TOKENIZER_RECORDS)):
        dice = Dice(config.seed, "shapes", record)
        texts += captions(make_scene(dice, held=False), dice)
    write_whole(path, train_tokenizer(texts, _VOCABULARY).to_str(pretty=True))


def _write_corpus(out: Path, corpus: str, records: int, config: ShapesConfig) -> bool:
    """False where the folder holds this very corpus already."""
    drawn = {"version": _VERSION, "seed": config.seed, "size": config.size, "records": records}
    extra = {"drawn": drawn, "probe_words": list(COLOURS)}
    path = out / corpus / "manifest.json"
    if path.exists() and Manifest.from_json(path.read_bytes(), str(path)).extra == extra:
        print(f"{corpus}: {out / corpus} holds these {records:,} pictures already")
        return False
    start = time.perf_counter()
    make = partial(make_row, corpus, config.seed, config.size)
    rows = tqdm(ordered_map(make, range(records), config.workers), corpus, records, unit=" pictures", disable=None)
    with ShardWriter(out, corpus, config.size) as writer:
        writer.extra = extra
        for row in rows:
            writer.add(row.key, row.jpeg, row.captions, row.meta)
    print(f"{summary(out / corpus)} ({time.perf_counter() - start:.0f} s)")
    return True
