"""Visual Genome: one record per image; the phrases of its regions are its captions."""

from dataclasses import dataclass
from typing import Any

from bridgetower_train.errors import ConfigError, DataError
from data_prep.corpora.coco import is_karpathy
from data_prep.job.job import JobConfig, run_job
from data_prep.shards.writer import DUPLICATE_KEY
from data_prep.source.annotations import BROKEN, digest_file, expecting, number, read_array, read_json, usable
from data_prep.source.captions import tidy
from data_prep.source.local import LinkConfig, LocalImages
from data_prep.source.rows import Row, Table

FOLDERS = ("", "VG_100K", "VG_100K_2")
"""Subfolders of the images, if any."""
LEAK = "in COCO val or test"
NOT_IN_IMAGE_DATA = "not in image_data"
_NONE = "none"
_ABOUT = {
    "title": "Visual Genome",
    "homepage": "https://homes.cs.washington.edu/~ranjay/visualgenome",
    "licence": "annotations CC BY 4.0; the photographs are those of COCO and YFCC100M, each under its own licence",
    "note": "about 50 region phrases an image, which here caption the whole image",
}
_IMAGES = "is not Visual Genome's image_data.json; it must be a list of objects with `image_id` and `coco_id`"
_REGIONS = (
    "is not Visual Genome's region_descriptions.json; it must be a list of objects with `regions`, each with `image_id` and "
    "`phrase`"
)
_KARPATHY = "is not Karpathy's dataset_coco.json; it must have `images` with `cocoid` and `split`"


@dataclass(frozen=True)
class VisualGenomeConfig(LinkConfig, JobConfig):
    """`bridgetower prep visual_genome`: write Visual Genome's images and region phrases as a corpus."""

    images: str = "???"
    """Folder of `VG_100K` and `VG_100K_2`, or of all images."""
    regions: str = "???"
    """`region_descriptions.json`."""
    image_data: str = "???"
    """`image_data.json`."""
    karpathy: str | None = None
    """Karpathy's `dataset_coco.json`: half of Visual Genome is COCO, and images of its val and test are left out because
    models are evaluated on them. `none` leaves them in."""
    name: str = "vg"
    """Name of the corpus folder."""


class VisualGenome(Table):
    """All images of image_data.json in its order; phrases are stored as joined bytes, a third of the memory of strings."""

    def __init__(self, config: VisualGenomeConfig) -> None:
        """ConfigError where a file cannot be read or `karpathy` is missing, DataError where one has another layout."""
        if config.karpathy is None:
            raise ConfigError(
                "karpathy: half of these images are COCO's, some of its val and test: training on them leaks into the "
                "evaluation; give Karpathy's dataset_coco.json and they are left out, or karpathy=none to train on all"
            )
        self._ids: list[int | None] = []  # None: broken
        self._states: dict[int, str] = {}  # row -> why it has no image
        self._phrases: dict[int, bytes] = {}
        self._coco_ids: dict[int, int] = {}
        files = {"image_data": config.image_data, "regions": config.regions}
        held_out: frozenset[int] = frozenset()
        if config.karpathy != _NONE:
            files["karpathy"] = config.karpathy
            held_out = _held_out(config.karpathy)
        digests = {key: digest_file(key, path) for key, path in files.items()}
        self._identity = {"karpathy": _NONE, **digests, **config.link_rule}
        with expecting("image_data", config.image_data, _IMAGES):
            images = read_array("image_data", config.image_data)
            for image in usable(images, _image):
                self._add(*(image or (None, None)), held_out)
        with expecting("regions", config.regions, _REGIONS):
            of_images = read_array("regions", config.regions)
            for regions in usable(of_images, lambda image: list(usable(image["regions"], _phrase))):
                self._describe([None] if regions is None else regions)

    def __len__(self) -> int:
        return len(self._ids)

    def rows(self, start: int, stop: int) -> list[Row]:
        return [self._row(place) for place in range(start, min(stop, len(self)))]

    def identity(self) -> dict[str, str]:
        return self._identity

    def _row(self, place: int) -> Row:
        image = self._ids[place]
        if image is None:
            return Row("", "", [], state=BROKEN)
        meta: dict[str, Any] = {"image_id": image}
        if image in self._coco_ids:
            meta["coco_id"] = self._coco_ids[image]
        captions = self._phrases.get(image, b"").decode().split("\n")
        return Row(f"{image:07d}", f"{image}.jpg", captions, meta, state=self._states.get(place, ""))

    def _add(self, image: int | None, coco_id: int | None, held_out: frozenset[int]) -> None:
        if image in self._phrases:
            self._states[len(self._ids)] = DUPLICATE_KEY
        elif coco_id in held_out:
            self._states[len(self._ids)] = LEAK
        if image is not None:
            if coco_id is not None:
                self._coco_ids[image] = coco_id
            self._phrases.setdefault(image, b"")
        self._ids.append(image)

    def _describe(self, regions: list[tuple[int, str] | None]) -> None:
        phrases: dict[int, list[str]] = {}
        for region in regions:
            if region is None:
                self._add(None, None, frozenset())
            else:
                phrases.setdefault(region[0], []).append(region[1])
        for image, texts in phrases.items():
            if image not in self._phrases:
                self._states[len(self._ids)] = NOT_IN_IMAGE_DATA
                self._add(image, None, frozenset())
            before = [self._phrases[image].decode()] if self._phrases[image] else []
            self._phrases[image] = "\n".join([*before, *tidy(texts)]).encode()


def _image(image: Any) -> tuple[int, int | None]:
    coco_id = image.get("coco_id")
    return number(image["image_id"]), None if coco_id is None else number(coco_id)


def _phrase(region: Any) -> tuple[int, str]:
    return number(region["image_id"]), region["phrase"]


def run(config: VisualGenomeConfig) -> None:
    """Write the corpus, or resume. Errors as of `VisualGenome`, and DataError where the folder has none of the images."""
    table = VisualGenome(config)
    images = LocalImages(config.images, config.size, config.workers, config.follow_links, FOLDERS)
    if not images.has_any(iter(table.rows(0, len(table)))):
        raise DataError(
            f"images={config.images}: has none of the {len(table):,} images of image_data={config.image_data}; give the "
            "folder of VG_100K and VG_100K_2"
        )
    run_job(config, table, images, _ABOUT)


def _held_out(path: str) -> frozenset[int]:
    """COCO's ids of Karpathy's val and test."""
    content = read_json("karpathy", path)
    with expecting("karpathy", path, _KARPATHY):
        if not is_karpathy(content):
            raise TypeError("no `images`")
        return frozenset(number(image["cocoid"]) for image in content["images"] if image["split"] in ("val", "test"))
