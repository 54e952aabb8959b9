"""`bridgetower search index=FILE text="..." | image=FILE`: the most similar images or texts of an index."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bridgetower_train.config import at_least
from bridgetower_train.data.roots import RootOptions
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError
from bridgetower_train.files import atomic_write
from bridgetower_train.foreign import inside
from bridgetower_train.pages.search.page import search_page
from bridgetower_train.pages.search.server import serve
from bridgetower_train.pages.search.view import view
from bridgetower_train.use.index import Index, open_index
from bridgetower_train.use.model import Model, load
from bridgetower_train.use.search import Result, Search, check_images
from bridgetower_train.use.sources import CorpusImages, FolderImages, Images

_MOST_PORTS = 65535


@dataclass(frozen=True)
class SearchConfig(RootOptions):
    """`bridgetower search`."""

    index: str = "???"
    """File that `bridgetower embed` wrote."""
    text: str | None = None
    """What to search for."""
    image: str | None = None
    """An image to search for, instead."""
    top: int = 20
    """Results that are shown."""
    rerank: int = 0
    """The best so many by similarity are ranked again by image-text matching, which helps after training with hard negatives and
    fuses as many pairs; 0: none."""
    attention: int = 8
    """The first so many results for which the page draws where the words look, which takes a pass of the model each."""
    images: str | None = None
    """Folder of the images; null: where the index says, if that is below its own folder."""
    run_dir: str | None = None
    """Model of the index, which is refused for another; null: where it was, if that is a folder here."""
    step: str | None = None
    """Checkpoint of the run; null: that of the index."""
    tokenizer: str | None = None
    """Where the model's tokenizer is now; null: where the run had it, or in the exported folder."""
    device: str = "auto"
    """As `device.name` of a run."""
    out: str | None = None
    """JSON file for the results; null: none."""
    page: str = "search.html"
    """Where the page is written."""
    serve: int | None = None
    """Port of a local page with a search field, instead of one search; 0: any that is free; null: none."""
    host: str = "127.0.0.1"
    """Address at which it listens: this host alone unless told otherwise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("top", self.top, 1)
        at_least("rerank", self.rerank, 0)
        at_least("attention", self.attention, 0)
        if self.serve is not None and not 0 <= self.serve <= _MOST_PORTS:
            raise ConfigError(f"serve={self.serve}: must be a port, from 0 to {_MOST_PORTS}")


def run(config: SearchConfig) -> None:
    """Print the results, and write them and their page; or serve. ConfigError unless exactly one of these is asked for."""
    if config.serve is None and (config.text is None) == (config.image is None):
        raise ConfigError("text: give one of text= and image=, or a port in serve=")
    if config.serve is not None and (config.text or config.image):
        raise ConfigError(f"serve={config.serve}: asks in the page; leave out text= and image=")
    index = open_index(config.index)
    images = images_of(index, config)
    check_images(index, images)
    search = Search(_model(index, config), index, images)
    if index.about.kind == "images" and images is None:
        print_line(
            "images   not shown: they are not below the folder of the index; give their folder in images=, or root="
        )
    if config.serve is not None:
        serve(search, config.serve, config.host, config.top, config.rerank, config.attention)
        return
    query = search.query(config.text, config.image, config.image or "")
    results = search.find(query, config.top, config.rerank)
    for place, result in enumerate(results, 1):
        match = "" if result.match is None else f"  match {result.match:.3f}"
        print_line(f"{place:4}  {result.similarity:6.3f}{match}  {result.key}")
    if any(result.match is not None for result in results):
        print_line(f"calibration of match: {search.model.calibration}")
    if config.out:
        atomic_write(Path(config.out), as_json(search, config, results))
        print_line(f"results: {Path(config.out).resolve()}")
    atomic_write(Path(config.page), search_page(view(search, query, results, config.attention)))
    print_line(f"search: {Path(config.page).resolve()}")


def as_json(search: Search, config: SearchConfig, results: Sequence[Result]) -> str:
    """What was asked and found."""
    matched = any(result.match is not None for result in results)
    content = {
        "index": str(search.index.path),
        "model": search.index.about.named,
        "query": {"text": config.text} if config.text else {"image": config.image},
        "rerank": config.rerank,
        "calibration": search.model.calibration if matched else None,
        "results": [
            {"key": r.key, "row": r.row, "similarity": r.similarity} | ({} if r.match is None else {"match": r.match})
            for r in results
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def images_of(index: Index, config: SearchConfig) -> Images | None:
    """The images of an index: where the command line says, or below the index's own folder, and nowhere else.

    None for texts, and where they are not known. FileError where the index names another place.
    """
    about, links = index.about, config.follow_links
    if about.kind == "texts":
        return None
    if config.images:
        return FolderImages(config.images, links)
    here = None if about.folder is None else str(inside(index.path.parent, about.folder, links))
    if about.corpus is None:
        return None if here is None else FolderImages(here, links)
    root = config.root or here
    if root is None:
        return None
    if config.root is None:
        inside(root, about.corpus, links)
    return CorpusImages(open_corpus(root, about.corpus, config.cache, links))


def _model(index: Index, config: SearchConfig) -> Model:
    source, about = config.run_dir, index.about
    if source is None and not Path(about.model).is_dir():
        raise ConfigError(
            f"run_dir: the index is of {about.model}, which is no folder here; give the model in run_dir="
        )
    theirs = "newest" if about.step is None or source is not None else str(about.step)
    return load(source or about.model, config.device, config.step or theirs, config.tokenizer)
