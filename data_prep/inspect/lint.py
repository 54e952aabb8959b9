"""`bridgetower prep lint`: read every record as training would, and report what is wrong with it."""

import json
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from bridgetower_train.config import ModelConfig, at_least, one_of
from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.display import print_line
from bridgetower_train.errors import DataError, FileError
from bridgetower_train.files import replacing
from bridgetower_train.pages.histogram import Distribution
from bridgetower_train.weights import hub
from data_prep.inspect.duplicates import Hashes, find_duplicates
from data_prep.inspect.lint_shard import Finding, check_folder, check_shard, forget_corpora
from data_prep.inspect.places import CorporaConfig, Place, find_corpora
from data_prep.packed.looks import looks_of
from data_prep.parallel import cores, ordered_map

SHOWN = 20
"""Up to this number findings are only printed."""
_EXAMPLES = 3

Lengths = Counter[int]
"""Length of a caption -> number of captions."""
Ids = np.ndarray[tuple[int, int], np.dtype[np.uint64]]


@dataclass(frozen=True)
class LintConfig(CorporaConfig):
    """`bridgetower prep lint`: read every record and report the bad ones. Exit code 1 where anything is wrong."""

    tokenizer: str | None = None
    """A `tokenizer.json`, its folder, or a name on the Hugging Face hub, to count tokens with; null: characters only."""
    max_text_len: int = ModelConfig.max_text_len
    """Tokens at which training cuts a caption, `<s>` and `</s>` included: model.max_text_len."""
    duplicates: str = "report"
    """`report`: images that occur more than once are listed; `fail`: they count as wrong; `ignore`: not looked for."""
    against: list[str] = field(default_factory=list)
    """Folders of corpora for evaluation: images that look like one of theirs are listed, and count as wrong as `duplicates` says.
    Needs ImageHash."""
    listing: str | None = None
    """File for all findings, one JSON object a line; null: lint.jsonl in the current folder where there are over 20."""
    workers: int = field(default_factory=cores)
    """Processes that read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("max_text_len", self.max_text_len, 3)
        at_least("workers", self.workers, 1)
        one_of("duplicates", self.duplicates, ("report", "fail", "ignore"))


class Findings:
    """All findings, in the file `lines`; in memory are only the counts and the first ones of each reason."""

    def __init__(self, lines: BinaryIO) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = defaultdict(list)
        self._lines = lines

    def add(self, finding: Finding) -> None:
        """Record a finding."""
        self.counts[finding.reason] += 1
        if self.counts[finding.reason] <= _EXAMPLES:
            self._first[finding.reason].append(str(finding))
        values = {name: value for name, value in finding._asdict().items() if value}
        self._lines.write(json.dumps(values).encode() + b"\n")

    def report(self, listing: str | None) -> None:
        """Print each reason with its first records; list everything in `listing`, or in lint.jsonl where it is much."""
        for reason, count in self.counts.most_common():
            print_line(f"{reason}: {count:,} ({', '.join(self._first[reason])}{', ...' if count > _EXAMPLES else ''})")
        total = sum(self.counts.values())
        if listing is None:
            if total <= SHOWN:
                return
            listing = "lint.jsonl"
        self._lines.seek(0)
        with replacing(Path(listing)) as file:
            shutil.copyfileobj(self._lines, file)
        print_line(f"all {total:,} findings: {listing}")


@dataclass
class Tally:
    """What reading a corpus found."""

    place: Place
    corpus: Corpus
    first: int
    """Number of its first record, counted through all corpora."""
    faults: int = 0
    characters: Lengths = field(default_factory=Counter)
    tokens: Lengths = field(default_factory=Counter)
    ids: list[Ids] = field(default_factory=list)
    """Of each shard; see `ShardReport.ids`."""


def run(config: LintConfig) -> int:
    """Check all corpora of `config.root`: 1 where anything is wrong, else 0. ConfigError where there is none."""
    forget_corpora()
    places = find_corpora(config.root)
    if config.tokenizer is not None:
        config = replace(config, tokenizer=hub.tokenizer(config.tokenizer))
        CaptionTokenizer.load(config.tokenizer)
    with tempfile.TemporaryFile() as lines:
        findings = Findings(lines)
        tallies = list(_open(places, config, findings))
        hashes, near = _read_all(tallies, config, findings)
        for tally in tallies:
            _add_faults(tally, _repeated_ids(tally), findings)
        wrong = sum(findings.counts.values())
        for tally in tallies:
            _print_captions(tally, config)
        repeated = 0 if hashes is None else _report_duplicates(tallies, *hashes, findings)
        _report_near(near, tallies, findings)
        findings.report(config.listing)
    images = sum(tally.corpus.manifest.images for tally in tallies)
    print(
        f"{'lint: all is well' if not wrong else f'lint: {wrong:,} faults'}; {images:,} images in {len(places):,} "
        f"{'corpus' if len(places) == 1 else 'corpora'}, "
        + ("duplicates not looked for" if hashes is None else f"{repeated:,} of them duplicates")
        + (f", {len(near):,} near-duplicates of {', '.join(config.against)}" if config.against else "")
    )
    return 1 if wrong or ((repeated or near) and config.duplicates == "fail") else 0


def _open(places: list[Place], config: LintConfig, findings: Findings) -> Iterator[Tally]:
    """The corpora that can be opened; the others, and what is wrong with the folders, are findings."""
    first = 0
    for place in places:
        try:
            corpus = open_corpus(place.root, place.name, config.cache, config.follow_links)
        except (DataError, FileError) as error:
            findings.add(Finding(place.name, "", "", str(error)))
            continue
        tally = Tally(place, corpus, first)
        first += corpus.manifest.images
        _add_faults(tally, check_folder(corpus), findings)
        yield tally


def _read_all(
    tallies: list[Tally], config: LintConfig, findings: Findings
) -> tuple[tuple[Hashes, Hashes] | None, list[Finding]]:
    """Read every shard. Returns (the hashes of stored and of original images, a row for each, or None; the near-duplicates)."""
    looks = looks_of(config.against, config.workers, config.follow_links) if config.against else None
    near: list[Finding] = []
    images = sum(tally.corpus.manifest.images for tally in tallies)
    wanted = config.duplicates != "ignore"
    hashes = np.zeros((2, images if wanted else 0, 2), np.uint64)
    tasks = [(tally, shard) for tally in tallies for shard in range(len(tally.corpus.manifest.shards))]
    items = ((tally.place, shard) for tally, shard in tasks)
    options = CorporaConfig(**{field.name: getattr(config, field.name) for field in fields(CorporaConfig)})
    check = partial(check_shard, options, config.tokenizer, looks)
    with tqdm(desc="lint", total=images, unit=" images", unit_scale=True, disable=None) as bar:
        reports = ordered_map(check, items, min(config.workers, max(len(tasks), 1)), chunk=1)
        for (tally, shard), report in zip(tasks, reports, strict=True):
            _add_faults(tally, report.faults, findings)
            near += report.near
            tally.characters.update(report.characters.tolist())
            tally.tokens.update(report.tokens.tolist())
            report.ids[:, 1] += np.uint64(tally.corpus.shard_rows[shard])
            tally.ids.append(report.ids)
            start, stop = tally.first + tally.corpus.shard_rows[shard : shard + 2]
            if wanted:
                hashes[:, start:stop] = report.hashes
            bar.update(int(stop - start))
    return (hashes[0], hashes[1]) if wanted else None, near


def _add_faults(tally: Tally, faults: Iterable[Finding], findings: Findings) -> None:
    for fault in faults:
        tally.faults += 1
        findings.add(fault)


def _repeated_ids(tally: Tally) -> Iterator[Finding]:
    """Records with an id that an earlier sample of the corpus has."""
    hashes, rows = np.concatenate([np.empty((0, 2), np.uint64), *tally.ids]).T
    _, first = np.unique(hashes, return_index=True)
    for row in np.unique(np.delete(rows, first)).tolist():
        yield _locate([tally], np.array([0]), row)._replace(reason="id that an earlier text has")


def _report_duplicates(tallies: list[Tally], images: Hashes, originals: Hashes, findings: Findings) -> int:
    """Add every image that equals an earlier one to the findings. Returns their number."""
    duplicates = find_duplicates(images, originals)
    starts = np.array([tally.first for tally in tallies])
    between: Counter[tuple[str, str]] = Counter()
    for row, first in zip(duplicates.row.tolist(), duplicates.first.tolist(), strict=True):
        copy, origin = (_locate(tallies, starts, number) for number in (row, first))
        between[origin.corpus, copy.corpus] += 1
        where = "in the same corpus" if origin.corpus == copy.corpus else f"in {origin.corpus}"
        findings.add(copy._replace(reason=f"duplicate of an image {where}", same_as=str(origin)))
    for (origin_name, copy_name), count in sorted(between.items()):
        share = count / next(t.corpus.manifest.images for t in tallies if t.corpus.name == copy_name)
        which = "occur earlier in it" if origin_name == copy_name else f"are in {origin_name} too"
        print_line(f"duplicates: {count:,} images of {copy_name} ({share:.1%}) {which}")
    return len(duplicates.row)


def _report_near(near: list[Finding], tallies: list[Tally], findings: Findings) -> None:
    for finding in near:
        findings.add(finding)
    for name, count in sorted(Counter(finding.corpus for finding in near).items()):
        share = count / next(t.corpus.manifest.images for t in tallies if t.corpus.name == name)
        print_line(f"near-duplicates: {count:,} images of {name} ({share:.2%}) look like an image in against")


def _locate(tallies: list[Tally], starts: "np.ndarray[tuple[int], np.dtype[np.int64]]", number: int) -> Finding:
    """The record with a number, counted through all corpora."""
    tally = tallies[int(np.searchsorted(starts, number, side="right")) - 1]
    row = number - tally.first
    shard = int(np.searchsorted(tally.corpus.shard_rows, row, side="right")) - 1
    return Finding(tally.corpus.name, tally.corpus.manifest.shards[shard].name, tally.corpus.key(row), "")


def _print_captions(tally: Tally, config: LintConfig) -> None:
    manifest, characters, tokens = tally.corpus.manifest, tally.characters, tally.tokens
    faults = f"{tally.faults:,} faults" if tally.faults else "nothing wrong"
    print_line(f"{tally.corpus.name}: {manifest.images:,} images, {manifest.captions:,} captions: {faults}")
    print(f"  characters per caption: {describe(characters)}")
    if config.tokenizer is not None:
        cut = sum(count for length, count in tokens.items() if length > config.max_text_len)
        print(
            f"  tokens per caption: {describe(tokens)}; "
            f"{cut:,} ({cut / max(tokens.total(), 1):.2%}) are cut at max_text_len={config.max_text_len}"
        )


def describe(lengths: Lengths) -> str:
    """Mean, median, 95th percentile and maximum."""
    if not lengths:
        return "none"
    values, counts = np.array(sorted(lengths.items())).T
    median, high = (Distribution("", values, counts).quantile(share) for share in (0.5, 0.95))
    mean = (values @ counts) / counts.sum()
    return f"mean {mean:.1f}, median {median:,.0f}, 95% up to {high:,.0f}, longest {values[-1]:,}"
