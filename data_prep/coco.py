"""COCO captions: one record per picture of the official annotations, with all its captions."""

import json
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from bridgetower_train.config import at_least
from bridgetower_train.data.shards import BadRecordError, clean_captions
from bridgetower_train.errors import ConfigError, DataError
from data_prep.parallel import cores, ordered_map
from data_prep.summary import LeftOut, list_left_out, summary
from data_prep.writer import ShardWriter, prepare_jpeg


@dataclass(frozen=True)
class CocoConfig:
    """`bridgetower prep coco`: write COCO pictures and their captions as a corpus."""

    images: str = "???"
    """Folder of the pictures, such as `train2017`."""
    annotations: str = "???"
    """The captions of that folder, such as `annotations/captions_train2017.json`."""
    out: str = "???"
    """Folder in which to put the corpus folder."""
    name: str = "coco"
    """Name of the corpus folder."""
    size: int = 294
    """Shorter edge of the written pictures, pixels: the image size of the model to be trained."""
    workers: int = field(default_factory=cores)
    """Processes that decode, resize and encode; changes nothing in what is written."""

    def __post_init__(self) -> None:
        at_least("size", self.size, 1)
        at_least("workers", self.workers, 1)


class Source(NamedTuple):
    """A picture as the annotations describe it."""

    image_id: int
    file_name: str
    captions: list[str]
    meta: dict[str, Any]


class Prepared(NamedTuple):
    """A picture ready to be written, or the reason why it cannot be."""

    jpeg: bytes = b""
    sha256: str = ""
    """Of the original file."""
    reason: str = ""


def read_annotations(path: str) -> list[Source]:
    """The pictures of an official captions file, in its order, each with its captions in the order of annotation.

    ConfigError where the file cannot be read, DataError where it has another layout.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"annotations={path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"annotations={path}: is no JSON ({error})") from None
    try:
        for image in content["images"]:
            if not isinstance(image["id"], int) or not isinstance(image["file_name"], str):
                raise TypeError(image)
        captions: dict[int, list[str]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
        licenses = {license["id"]: license for license in content.get("licenses", [])}
        return [
            Source(image["id"], image["file_name"], captions[image["id"]], _meta(image, licenses))
            for image in content["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"annotations={path}: is no COCO captions file ({error!r}); it must hold `images` with `id` and "
            "`file_name`, and `annotations` with `caption` and the `image_id` of one of these images"
        ) from None


def _meta(image: dict[str, Any], licenses: dict[int, dict[str, Any]]) -> dict[str, Any]:
    meta = {name: image[name] for name in ("width", "height", "flickr_url", "coco_url") if name in image}
    license = licenses.get(image.get("license", -1), {})
    return meta | {f"license_{name}": license[name] for name in ("name", "url") if name in license}


def prepare(images: str, size: int, source: Source) -> Prepared:
    """Read the picture of `source` from the folder `images` and encode it with a shorter edge of `size` pixels."""
    if not clean_captions(source.captions):
        return Prepared(reason="no caption")
    try:
        original = Path(images, source.file_name).read_bytes()
        return Prepared(prepare_jpeg(original, size), sha256(original).hexdigest())
    except OSError as error:
        return Prepared(reason="missing file" if isinstance(error, FileNotFoundError) else f"file: {error.strerror}")
    except BadRecordError as error:
        return Prepared(reason=error.reason)


def run(config: CocoConfig) -> None:
    """Write the corpus; what is left out is listed in `dropped.jsonl` with its reason, and counted in the manifest.

    ConfigError where the annotations cannot be read, DataError where the folder of pictures has none of them.
    """
    sources = read_annotations(config.annotations)
    if not any(Path(config.images, source.file_name).exists() for source in sources):
        raise DataError(
            f"images={config.images}: has none of the {len(sources):,} pictures of annotations={config.annotations}; "
            "give the folder of the pictures themselves, of the same split"
        )
    make = partial(prepare, config.images, config.size)
    rows = tqdm(ordered_map(make, sources, config.workers), config.name, len(sources), unit=" pictures", disable=None)
    with ShardWriter(Path(config.out), config.name, config.size) as writer:
        left_out = []
        for source, row in zip(sources, rows, strict=True):
            meta = {"image_id": source.image_id, **source.meta, "sha256": row.sha256}
            if row.reason:
                writer.drop(row.reason)
                left_out.append(LeftOut(source.file_name, row.reason))
            elif not writer.add(f"{source.image_id:012d}", row.jpeg, source.captions, meta):
                left_out.append(LeftOut(source.file_name, "refused by the writer"))
        list_left_out(writer.folder, left_out)
    print(summary(writer.folder))
