"""`bridgetower prep stats`: what corpora contain, printed and as a page."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bridgetower_train.config import at_least
from bridgetower_train.data.image import check_image, decode
from bridgetower_train.data.shards import BadRecordError, Corpus, Record, open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.display import print_line, printable, without_secrets
from bridgetower_train.files import atomic_write
from bridgetower_train.pages.corpora import CorpusView, Sample, corpora_page
from bridgetower_train.pages.histogram import Distribution
from bridgetower_train.pages.images import shrunk
from bridgetower_train.pages.numbers import size
from bridgetower_train.weights import hub
from data_prep.inspect.notes import Notes
from data_prep.inspect.places import CorporaConfig, find_corpora
from data_prep.shards.summary import shard_bytes

_THUMBNAIL = 240
_CAPTION_SHOWN = 120


@dataclass(frozen=True)
class StatsConfig(CorporaConfig):
    """`bridgetower prep stats`: print and plot what corpora contain."""

    tokenizer: str | None = None
    """A `tokenizer.json`, its folder, or a name on the Hugging Face hub, to count tokens with; null: characters only."""
    sample: int = 20_000
    """Records of each corpus, evenly spaced, that are read for resolutions and caption lengths."""
    images: int = 24
    """Images of each corpus to show."""
    out: str = "stats.html"
    """File for the page."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("sample", self.sample, 1)
        at_least("images", self.images, 0)


@dataclass
class _Sampled:
    """What reading a sample of records found."""

    records: int = 0
    bad: int = 0
    characters: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of the stored images."""
    originals: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of the originals, where the json has them."""
    shown: list[Sample] = field(default_factory=list)


def run(config: StatsConfig) -> None:
    """Print the figures of every corpus and write the page. ConfigError or DataError where there is none."""
    text = None if config.tokenizer is None else CaptionTokenizer.load(hub.tokenizer(config.tokenizer))
    views, corpora = [], []
    for place in find_corpora(config.root):
        corpus = open_corpus(place.root, place.name, config.cache, config.follow_links)
        corpora.append(corpus)
        views.append(view_corpus(corpus, config, text))
        print(_line(views[-1]))
    total = {
        "images": f"{sum(c.manifest.images for c in corpora):,}",
        "captions": f"{sum(c.manifest.captions for c in corpora):,}",
        "shards": f"{sum(len(c.manifest.shards) for c in corpora):,}",
        "size": size(sum(shard_bytes(c.manifest) for c in corpora)),
    }
    atomic_write(
        Path(config.out), corpora_page(without_secrets(config.root).rstrip("/").rpartition("/")[2], total, views)
    )
    print_line(f"stats: {Path(config.out).resolve()}")


def view_corpus(corpus: Corpus, config: StatsConfig, text: CaptionTokenizer | None) -> CorpusView:
    """The figures of a corpus: counts and sizes from the whole index, the others from a sample of its records."""
    manifest, notes = corpus.manifest, Notes.of(corpus.manifest)
    sampled = _sample(corpus, config, text)
    facts = {
        "images": f"{manifest.images:,}",
        "captions": f"{manifest.captions:,}",
        **{f"captions, {kind}": f"{count:,}" for kind, count in manifest.kinds.items()},
        "captions per image": f"{manifest.captions / manifest.images:.1f}",
        "shorter edge": f"{manifest.image_size} px" if manifest.image_size else "differs",
        "size": size(shard_bytes(manifest)),
        "per image": size(shard_bytes(manifest) // manifest.images),
        "shards": f"{len(manifest.shards):,}",
    }
    facts |= {key: str(manifest.extra[key]) for key in ("task", "split") if key in manifest.extra}
    if notes.rows:
        facts["yield"] = f"{manifest.images / notes.rows:.1%} of {notes.rows:,}"
    widths, heights = np.array(sampled.edges or [(1, 1)], dtype=np.float64).T
    drawn = [
        Distribution.of("Captions per image", corpus.index["captions"], "first"),
        Distribution.of("Characters per caption", sampled.characters, "first"),
        Distribution.of("Tokens per caption", sampled.tokens, "first"),
        Distribution.of("Stored image, kB", np.ceil(corpus.index["jpg_size"] / 1000), "third"),
        Distribution.of("Width / height", widths / heights, "third", whole=False),
        Distribution.of("Stored image, shorter edge, px", np.minimum(widths, heights), "third"),
        Distribution.of("Original image, shorter edge, px", [min(edges) for edges in sampled.originals], "third"),
    ]
    remarks = _remarks(corpus, sampled, notes)
    return CorpusView(corpus.name, notes.title or corpus.name, facts, remarks, notes.states, drawn, sampled.shown)


def _remarks(corpus: Corpus, sampled: _Sampled, notes: Notes) -> list[str]:
    remarks = []
    if sampled.records < corpus.manifest.images:
        remarks.append(
            f"Lengths and resolutions come from {sampled.records:,} records, evenly spaced; counts and sizes from all."
        )
    if sampled.bad:
        remarks.append(f"{sampled.bad:,} of these records could not be read: see `bridgetower prep lint`.")
    if not notes.states:
        remarks.append("The corpus does not say how many rows its source had, so its yield is unknown.")
    if notes.note:
        remarks.append(notes.note)
    return remarks


def _sample(corpus: Corpus, config: StatsConfig, text: CaptionTokenizer | None) -> _Sampled:
    """Read evenly spaced records."""
    images = corpus.manifest.images
    rows = np.unique(np.linspace(0, images - 1, config.sample).astype(np.int64)).tolist()
    shown = set(np.unique(np.linspace(0, len(rows) - 1, config.images).astype(np.int64)).tolist())
    sampled = _Sampled(len(rows))
    for number, row in enumerate(tqdm(rows, printable(corpus.name), unit=" images", disable=None)):
        try:
            record = corpus.read(row)
            edges, captions = check_image(record.image).upright_size(), record.captions
        except BadRecordError:
            sampled.bad += 1
            continue
        sampled.edges.append(edges)
        sampled.originals += _original(record.meta)
        sampled.characters += map(len, captions)
        if text is not None:
            sampled.tokens += text.lengths(captions).tolist()
        if number in shown:
            sampled.shown += _show(record)
    return sampled


def _original(meta: dict[str, Any]) -> list[tuple[int, int]]:
    """Size of the original image. img2dataset has it under `original_width`, and under `width` that of the stored one."""
    for names in (("original_width", "original_height"), ("width", "height")):
        edges = [meta.get(name) for name in names]
        if all(isinstance(edge, int) and 0 < edge < 1 << 31 for edge in edges):
            return [(edges[0], edges[1])]  # type: ignore[list-item]
    return []


def _show(record: Record) -> list[Sample]:
    try:
        thumbnail = shrunk(decode(record.image), _THUMBNAIL)
    except BadRecordError:
        return []
    caption = (record.captions or [""])[0]
    more = f"{caption[:_CAPTION_SHOWN]} …" if len(caption) > _CAPTION_SHOWN else caption
    return [Sample(thumbnail, record.key, more)]


def _line(view: CorpusView) -> str:
    lengths = [
        f"  {d.title}: median {d.quantile(0.5):g}, 95% up to {d.quantile(0.95):g}, largest {d.values[-1]:g}"
        for d in view.distributions
        if len(d.values)
    ]
    states = [f"  {state}: {count:,}" for state, count in sorted(view.states.items(), key=lambda item: -item[1])]
    lines = [f"{view.name}: " + ", ".join(f"{k} {v}" for k, v in view.facts.items()), *lengths, *states]
    return "\n".join(map(printable, lines))
