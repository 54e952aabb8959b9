"""COCO captions: one record per image with all its captions, from Karpathy's file or the official ones."""

from dataclasses import dataclass, field
from typing import Any

from bridgetower_train.config import at_least, one_of
from bridgetower_train.errors import DataError
from data_prep.job.job import JobConfig, run_job
from data_prep.shards.writer import DUPLICATE_KEY
from data_prep.source.annotations import BROKEN, digest_file, expecting, number, read_json, usable
from data_prep.source.local import LinkConfig, LocalImages, RowList
from data_prep.source.rows import Row

SPLITS = ("train", "restval", "val", "test")
"""Karpathy's parts of COCO: 82,783, 30,504, 5,000 and 5,000 images."""
_ABOUT = {
    "title": "COCO Captions",
    "homepage": "https://cocodataset.org",
    "licence": "annotations CC BY 4.0; each photograph has its own Flickr licence",
    "note": "five to seven captions an image, written by people",
}
_ABOUT_FLICKR30K = {
    "title": "Flickr30k",
    "homepage": "https://shannon.cs.illinois.edu/DenotationGraph/",
    "licence": "photographs of Flickr under its terms, for non-commercial research",
    "note": "five captions an image, written by people",
}
NOT_IN_IMAGES = "not in images"
_NO_ROW = Row("", "", [], state=BROKEN)
_OFFICIAL = (
    "is not a COCO captions file; it must have `images` with `id` and `file_name`, and `annotations` with `caption` and the "
    "`image_id` of one of these images"
)
_KARPATHY = (
    "is not Karpathy's dataset_coco.json or dataset_flickr30k.json; it must have `images` with `filename`, `split`, "
    "`sentences` with `raw`, and `filepath` and `cocoid`, or `imgid` where its `dataset` is flickr30k"
)


@dataclass(frozen=True)
class CocoConfig(LinkConfig, JobConfig):
    """`bridgetower prep coco`: write COCO images and their captions as a corpus."""

    images: str = "???"
    """Folder of the images: with Karpathy's COCO the one of `train2014` and `val2014`, otherwise one such as `train2017`."""
    annotations: str = "???"
    """Karpathy's `dataset_coco.json` or `dataset_flickr30k.json`, or the folder's official captions, such as
    `captions_train2017.json`."""
    splits: list[str] = field(default_factory=lambda: ["train", "restval"])
    """Karpathy's splits to take; the others are for evaluation. Official files have none."""
    first: int | None = None
    """Take only so many images, the first of the file; null: all."""
    name: str = "coco"
    """Name of the corpus folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("first", 1 if self.first is None else self.first, 1)
        for split in self.splits:
            one_of("splits", split, SPLITS)


def run(config: CocoConfig) -> None:
    """Write the corpus, or resume.

    ConfigError where the annotations cannot be read, DataError where they have another layout or the folder has none of
    their images.
    """
    content = read_json("annotations", config.annotations)
    karpathy = is_karpathy(content)
    rows = karpathy_rows(config, content) if karpathy else official_rows(config, content)
    identity = {"annotations": digest_file("annotations", config.annotations), **config.link_rule}
    if config.first is not None:
        rows, identity["first"] = rows[: config.first], str(config.first)
    if karpathy:
        identity["splits"] = ", ".join(sorted(config.splits))
    images = LocalImages(config.images, config.size, config.workers, config.follow_links)
    if not images.has_any(iter(rows)):
        raise DataError(
            f"images={config.images}: has none of the {len(rows):,} images of annotations={config.annotations}; "
            "give the folder of the images of the same split"
        )
    about = _ABOUT_FLICKR30K if karpathy and _is_flickr30k(content) else _ABOUT
    run_job(config, RowList(rows, identity), images, about)


def is_karpathy(content: Any) -> bool:
    """Whether the content of a JSON file has Karpathy's layout rather than the official one."""
    return isinstance(content, dict) and "annotations" not in content and isinstance(content.get("images"), list)


def _is_flickr30k(karpathy: dict[str, Any]) -> bool:
    """Its images are in one folder and have no COCO id."""
    return karpathy.get("dataset") == "flickr30k"


def karpathy_rows(config: CocoConfig, content: Any) -> list[Row]:
    """The images of the chosen splits, in the order of the file, and a row for each that is broken."""
    flickr = _is_flickr30k(content)

    def read(image: Any) -> Row:
        captions = [sentence["raw"] for sentence in image["sentences"]]
        location = image["filename"] if flickr else f"{image['filepath']}/{image['filename']}"
        return _row(image["imgid" if flickr else "cocoid"], location, captions, {"split": image["split"]})

    with expecting("annotations", config.annotations, _KARPATHY):
        chosen = (image for image in content["images"] if not _is_of_other(image, config.splits))
        rows = [row or _NO_ROW for row in usable(chosen, read)]
    if not rows:
        raise DataError(f"annotations={config.annotations}: has no image of splits={config.splits}; choose others")
    return _first_of_each(rows)


def _is_of_other(image: Any, splits: list[str]) -> bool:
    split = image.get("split") if isinstance(image, dict) else None
    return isinstance(split, str) and split not in splits


def official_rows(config: CocoConfig, content: Any) -> list[Row]:
    """The images in the order of the file, each with its captions in the order of annotation.

    Rows without an image are those of broken images and annotations, and of images that only annotations name.
    """
    with expecting("annotations", config.annotations, _OFFICIAL):
        licenses = {license.get("id"): license for license in content.get("licenses", []) if isinstance(license, dict)}
        rows = [
            row or _NO_ROW
            for row in usable(
                content["images"], lambda image: _row(image["id"], image["file_name"], [], _meta(image, licenses))
            )
        ]
        captions: dict[int, list[str]] = {}
        for row in rows:
            captions.setdefault(row.meta.get("image_id", -1), row.captions)
        given = list(usable(content["annotations"], lambda given: (number(given["image_id"]), given["caption"])))
        if given and not any(pair is not None and pair[0] in captions for pair in given):
            raise ValueError("no annotation is of one of the images")
        for pair in given:
            if pair is None:
                rows.append(_NO_ROW)
            elif pair[0] in captions:
                captions[pair[0]].append(pair[1])
            else:
                captions[pair[0]] = []
                rows.append(_row(pair[0], "", [], {})._replace(state=NOT_IN_IMAGES))
    return _first_of_each(rows)


def _row(image_id: Any, location: Any, captions: list[str], meta: dict[str, Any]) -> Row:
    key = number(image_id)
    if not isinstance(location, str):
        raise TypeError(location)
    return Row(f"{key:012d}", location, captions, {"image_id": key, "coco_id": key, **meta})


def _first_of_each(rows: list[Row]) -> list[Row]:
    """The rows, later ones of the same key marked as duplicates."""
    seen = set[str]()
    marked = []
    for row in rows:
        marked.append(row._replace(state=DUPLICATE_KEY) if row.key in seen and not row.state else row)
        seen.add(row.key)
    return marked


def _meta(image: dict[str, Any], licenses: dict[int, dict[str, Any]]) -> dict[str, Any]:
    meta = {name: image[name] for name in ("flickr_url", "coco_url") if name in image}
    license = licenses.get(image.get("license", -1), {})
    return meta | {f"license_{name}": license[name] for name in ("name", "url") if name in license}
