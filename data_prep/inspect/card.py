"""`bridgetower prep card`: a dataset card in Markdown, in the layout of the Hugging Face hub."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bridgetower_train.data.manifest import Manifest, reindex_hint
from bridgetower_train.data.roots import is_remote, plain_root, read_small
from bridgetower_train.display import print_line, without_secrets
from bridgetower_train.errors import ConfigError, DataError, FileError
from bridgetower_train.files import atomic_write
from bridgetower_train.foreign import parse_json
from bridgetower_train.pages.markdown import Markdown, code, fill, link, one_line, table, text
from bridgetower_train.pages.numbers import size
from data_prep.inspect.lint_task import task_of
from data_prep.inspect.notes import Notes
from data_prep.inspect.places import Place, find_corpora
from data_prep.shards.summary import shard_bytes
from data_prep.source.rows import OK

MARK = "<!-- written by bridgetower prep card -->"
"""A file without it is not overwritten."""
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
_UNKNOWN = "unknown"
_NAME = re.compile(r"[\w.-]+")
"""A name that means nothing to a shell, to Hydra or in Python."""
_PRETRAINING = ["image-to-text", "text-to-image", "zero-shot-image-classification"]
_CATEGORIES = {"vqav2": "visual-question-answering", "classes": "image-classification"}
"""Task -> the hub's category, where it is not that of all others."""
_CAPTIONED = "an image (`KEY.jpg`) and its captions with what the source says of it (`KEY.json`)."
_SAMPLED = """\
an image (`KEY.jpg`; of a pair the second is `KEY.1.jpg`) and its texts, `captions`, with an entry for each in `ids` and in \
`answers` or `labels` (`KEY.json`); what these can be is in `answers.json` or `classes.json`."""
_COLUMNS = ("corpus", "source", "images", "captions", "size", "of the source's rows")

_LIMITS = Markdown("""\
- **The images belong to others.** The licences above are those of the collections, which for images from the web cover
  links and captions, not the images. Whether you may keep, train on or pass on the images is for you to settle.
- **What is gone is not gone at random.** Images vanish with the sites and the people that published them, so the younger a
  crawl, the more it differs from what the papers trained on; results are comparable only between equal corpora.
- **Captions are not checked.** Those from the web are alternative texts and titles, often loosely tied to their image;
  those written by people were written by few of them, mostly in English. Filters of the collections may have removed, or
  put in place of names, words that matter to you.
- **People are in the images**, without having been asked, with the stereotypes of the sites they come from: who is shown
  doing what, and how it is worded. There is no filter for faces, for offensive or for illegal content beyond that of the
  collections. What a model learns from this it will repeat.
- **Objects, places and customs of North America and Western Europe prevail**, as on the English web.
- **Duplicates across corpora and with test sets are possible.** Links that the sources share are taken once where the
  preparation says so above; equal images under other links are found by `bridgetower prep lint`. Visual Genome contains
  about 51,000 images of COCO, among them some of its usual test split.
""")

_CARD = """\
---
{front_matter}---
{mark}

# {name}

{images:,} images with {captions:,} captions, {size}, for {purpose} vision-language models. WebDataset shards: each record is \
{record}

{overview}
{sections}
## How to train on it

With the folders of the corpora in a folder `FOLDER`:

```sh
bridgetower train {experiment} data.root=FOLDER 'data.corpora={{{weights}}}'{model}
```

A weight says how often a corpus is passed per epoch: 0.5 takes half of it, another half each epoch. `data.captions=one` shows
each image once per epoch, `all` once for each of its captions. The shards are ordinary WebDataset tars too:

```python
import webdataset

for record in webdataset.WebDataset({shard}, shardshuffle=False).decode("pil"):
    print(sorted(record))
```

## Limits and biases

{limits}"""


@dataclass(frozen=True)
class CardConfig:
    """`bridgetower prep card`: write a dataset card of corpora: sources, licences, counts, yields, dates and limits."""

    root: str = "???"
    """A folder of corpora, or the folder of one corpus; also an fsspec URL."""
    out: str | None = None
    """Where the card is written; null: README.md in the folder. Needed for a remote root."""


class Described(NamedTuple):
    """A corpus as its files describe it."""

    place: Place
    manifest: Manifest
    notes: Notes
    preparation: dict[str, Any]
    """`preparation.json`; empty where there is none."""


def run(config: CardConfig) -> None:
    """Write the card. ConfigError where there is no corpus, or a README.md that is not ours."""
    places = find_corpora(config.root)
    if config.out is None and is_remote(config.root):
        raise ConfigError(f"root={config.root}: is remote; set out=README.md to the file for the card")
    out = Path(config.out) if config.out else Path(plain_root(config.root), "README.md")
    if out.exists() and MARK not in out.read_text("utf-8", "replace"):
        raise ConfigError(f"out={out}: exists and was not written by this command; remove it, or choose another `out`")
    atomic_write(out, card([describe(place) for place in places]))
    print_line(f"card: {out.resolve()}")


def describe(place: Place) -> Described:
    """Read the manifest and, if intact, preparation.json.

    DataError where there is no manifest, ConfigError for a name that commands of the card could not have in them.
    """
    if not _NAME.fullmatch(place.name):
        raise ConfigError(
            f"{place.folder}: rename the folder for a card: letters, digits, '.', '-' and '_' alone are allowed"
        )
    path = f"{place.folder}/manifest.json"
    text = _read(place, "manifest.json")
    if text is None:
        raise DataError(f"{path}: cannot be read; {reindex_hint(place.folder)}")
    manifest = Manifest.from_json(text, path)
    path = f"{place.folder}/preparation.json"
    try:
        preparation = parse_json(_read(place, "preparation.json") or b"{}", dict[str, Any], path)
    except FileError:
        preparation = {}
    return Described(place, manifest, Notes.of(manifest), preparation)


def _read(place: Place, file: str) -> bytes | None:
    try:
        return read_small(place.root, f"{place.name}/{file}")
    except (OSError, DataError):
        return None


def card(corpora: list[Described]) -> str:
    """The text of the card."""
    images = sum(c.manifest.images for c in corpora)
    first = corpora[0]
    name = first.place.name if len(corpora) == 1 else Path(without_secrets(first.place.root)).name
    category = next((text for power, text in enumerate(_SIZES, 3) if images < 10**power), "n>1B")
    tasks = {task_of(c.manifest) for c in corpora}
    task = tasks.pop() if len(tasks) == 1 else ""
    fields = {
        "pretty_name": name,
        "license": "other",
        "license_name": "see-each-source",
        "task_categories": [_CATEGORIES.get(task, "image-text-to-text")] if task else _PRETRAINING,
        "size_categories": [category],
        "tags": ["webdataset", "image-text", "bridgetower"],
    }
    return fill(
        _CARD,
        front_matter=Markdown(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)),
        mark=Markdown(MARK),
        name=name,
        images=images,
        captions=sum(c.manifest.captions for c in corpora),
        size=size(sum(shard_bytes(c.manifest) for c in corpora)),
        purpose="fine-tuning" if task else "pretraining",
        record=Markdown(_SAMPLED if task else _CAPTIONED),
        experiment=f"experiment=finetune_{task}" if task else "data=own",
        model=Markdown("" if task else " tokenizer=roberta-base model=large"),
        overview=table(_COLUMNS, map(_overview, corpora), left=2),
        sections=Markdown("\n".join(map(_section, corpora))),
        weights=Markdown(", ".join(f"{c.place.name}: 1.0" for c in corpora)),
        shard=Markdown(repr(f"FOLDER/{first.place.name}/{first.manifest.shards[0].name}")),
        limits=_LIMITS,
    )


def _overview(corpus: Described) -> tuple[str, ...]:
    manifest, notes = corpus.manifest, corpus.notes
    share = f"{manifest.images / notes.rows:.1%} of {notes.rows:,}" if notes.rows else _UNKNOWN
    counts = f"{manifest.images:,}", f"{manifest.captions:,}", size(shard_bytes(manifest))
    return corpus.place.name, notes.title or _UNKNOWN, *counts, share


def _section(corpus: Described) -> Markdown:
    manifest, notes, preparation = corpus.manifest, corpus.notes, corpus.preparation
    edge = f"{manifest.image_size} px" if manifest.image_size else "of several sizes"
    kinds = "".join(f"; {count:,} of kind {kind}" for kind, count in manifest.kinds.items())
    started, finished = (preparation.get(key) or _UNKNOWN for key in ("started", "finished"))
    facts = {
        "source": notes.title,
        "homepage": link(notes.homepage, notes.homepage),
        "licence": notes.licence,
        "about the source": notes.note,
        "images": f"{manifest.images:,}, shorter edge {edge}",
        "captions": f"{manifest.captions:,}, {manifest.captions / manifest.images:.2f} an image{kinds}",
        "shards": f"{len(manifest.shards):,}",
        "prepared": f"from {started} to {finished}" if preparation else "",
        "command": code(_without_folders(str(preparation.get("command", "")))),
        "index": Markdown(f"sha256 {code(manifest.index_sha256)}"),
        **{f"made from {one_line(name)}": code(value) for name, value in sorted(notes.source.items())},
    }
    lines = [f"- {text(name)}: {text(value) or _UNKNOWN}\n" for name, value in facts.items()]
    return Markdown(f"## {text(corpus.place.name)}\n\n{''.join(lines)}\n{_states(corpus)}")


def _without_folders(command: str) -> str:
    """A command line with the last component of each path in it: the others tell of who ran it. Empty where it is none."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return shlex.join(word if "://" in word else re.sub(r"[^=,\[\]{}'\"]*/", "", word) for word in words)


def _states(corpus: Described) -> Markdown:
    states, title = corpus.notes.states, "what became of the rows of the source"
    if not states and corpus.manifest.dropped:
        states = {**corpus.manifest.dropped, OK: corpus.manifest.images}
        title = "what became of the records in the tars"
    if not states:
        return Markdown("What became of the rows of the source is not recorded, so the yield is unknown.\n")
    total = sum(states.values())
    ordered = sorted(states.items(), key=lambda item: (item[0] != OK, -item[1]))
    return table((title, "rows", "share"), ((s, f"{count:,}", f"{count / total:.2%}") for s, count in ordered))
