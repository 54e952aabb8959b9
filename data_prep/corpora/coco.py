"""COCO captions: one record per image with all its captions, from Karpathy's file or the official ones."""

from dataclasses import dataclass, field
from typing import Any

from bridgetower_train.config import one_of
from bridgetower_train.errors import DataError
from data_prep.job.job import JobConfig, run_job
from data_prep.shards.writer import DUPLICATE_KEY
from data_prep.source.annotations import digest_file, expecting, read_json
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
    name: str = "coco"
    """Name of the corpus folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
    """The images of the chosen splits, in the order of the file."""
    rows = []
    with expecting("annotations", config.annotations, _KARPATHY):
        for image in content["images"]:
            if image["split"] in config.splits:
                captions = [sentence["raw"] for sentence in image["sentences"]]
                if _is_flickr30k(content):
                    image_id, location = image["imgid"], image["filename"]
                else:
                    image_id, location = image["cocoid"], f"{image['filepath']}/{image['filename']}"
                rows.append(_row(image_id, location, captions, {"split": image["split"]}))
    if not rows:
        raise DataError(f"annotations={config.annotations}: has no image of splits={config.splits}; choose others")
    return _first_of_each(rows)


def official_rows(config: CocoConfig, content: Any) -> list[Row]:
    """The images in the order of the file, each with its captions in the order of annotation."""
    with expecting("annotations", config.annotations, _OFFICIAL):
        captions: dict[int, list[str]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
        licenses = {license["id"]: license for license in content.get("licenses", [])}
        rows = [
            _row(image["id"], image["file_name"], captions[image["id"]], _meta(image, licenses))
            for image in content["images"]
        ]
    return _first_of_each(rows)


def _row(image_id: Any, location: Any, captions: list[str], meta: dict[str, Any]) -> Row:
    if not isinstance(image_id, int) or not isinstance(location, str):
        raise TypeError((image_id, location))
    return Row(f"{image_id:012d}", location, captions, {"image_id": image_id, "coco_id": image_id, **meta})


def _first_of_each(rows: list[Row]) -> list[Row]:
    """The rows, later ones of the same key marked as duplicates."""
    first = {row.key: place for place, row in reversed(list(enumerate(rows)))}
    return [row if first[row.key] == place else row._replace(state=DUPLICATE_KEY) for place, row in enumerate(rows)]


def _meta(image: dict[str, Any], licenses: dict[int, dict[str, Any]]) -> dict[str, Any]:
    meta = {name: image[name] for name in ("flickr_url", "coco_url") if name in image}
    license = licenses.get(image.get("license", -1), {})
    return meta | {f"license_{name}": license[name] for name in ("name", "url") if name in license}
