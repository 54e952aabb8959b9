"""Tokenizer and corpora: whether a run could open them, and whether their index is complete."""

import os
from collections.abc import Sequence
from contextlib import suppress

from bridgetower_train import compose
from bridgetower_train.config import TrainConfig
from bridgetower_train.data.cache import ShardCache
from bridgetower_train.data.roots import shard_cache
from bridgetower_train.data.shards import BadRecordError, Corpus, image_identity, open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import UserError
from bridgetower_train.findings import FAIL, FIRST, Finding, fail, ok, warning
from bridgetower_train.tasks import task_class
from bridgetower_train.weights import hub
from bridgetower_train.weights.hf_files import described_tokenizer


def check_data(config: TrainConfig) -> list[Finding]:
    """Tokenizer and corpora of the run. Only a warning if `data.root` was not given and its default does not exist."""
    root = config.data.root
    if not os.path.isdir(root) and root == compose.compose_node(TrainConfig, "train", []).data.root:
        todo = f"bridgetower prep shapes out={root} draws a first corpus; for another, set data.root=... (and tokenizer=...)"
        return [warning(FIRST, f"{root}: no such folder, and no other was given", todo)]
    return [check_tokenizer(config), *check_corpora(config)]


def check_tokenizer(config: TrainConfig) -> Finding:
    """Whether it loads, and whether the word table has a row for each token."""
    try:
        path = hub.tokenizer(config.tokenizer)
        tokenizer = CaptionTokenizer.load(path)
        tokens = tokenizer.vocab_size
    except UserError as error:
        return refused("tokenizer", error)
    rows = config.model.vocab_size
    if rows is not None and rows < tokens:
        return fail("tokenizer", f"{tokens} tokens, but model.vocab_size={rows}", "raise model.vocab_size")
    return next(iter(check_exportable(tokenizer, config)), ok("tokenizer", f"{path}: {tokens} tokens"))


def check_exportable(tokenizer: CaptionTokenizer, config: TrainConfig) -> list[Finding]:
    """A warning where `bridgetower export` would refuse the tokenizer."""
    try:
        described_tokenizer(tokenizer, config.tokenizer)
    except UserError as error:
        todo = "train with one that it takes, such as roberta-base, if you want to export the run"
        return [warning("tokenizer", f"`bridgetower export` will refuse {str(error).partition('; ')[0]}", todo)]
    return []


def check_corpora(config: TrainConfig) -> list[Finding]:
    """Every corpus of the run, and the held-out one."""
    data = config.data
    try:
        cache = shard_cache(data.root, data.cache_dir, data.cache_gb, data.cache_shared)
    except UserError as error:
        return [refused("data.cache_dir", error)]
    names = [*data.trained] + ([data.validation] if data.validation else [])
    if not names:
        return [fail("data.corpora", "is empty", "name at least one corpus, such as data.corpora={coco: 1.0}")]
    findings = [check_corpus(config, name, cache) for name in names]
    if FAIL not in {finding.level for finding in findings}:
        opened = {name: open_corpus(data.root, name, cache, data.follow_links) for name in names}
        trained = [opened[name] for name in data.trained]
        findings += check_identity(trained)
        findings += check_labels(config)
        findings += check_overlap(trained, opened[data.validation]) if data.validation else []
    return findings


def check_labels(config: TrainConfig) -> list[Finding]:
    """A failure where the corpora are for another task, or name its labels differently."""
    task = task_class(config)
    try:
        names = task.settled(config)[1]
    except UserError as error:
        return [refused("data.corpora", error)]
    return [ok("labels", f"{len(names):,} in {task.names_file}")] if task.names_file else []


def check_overlap(trained: Sequence[Corpus], held_out: Corpus) -> list[Finding]:
    """A warning where the held-out corpus is trained on too, under whatever name."""
    index = held_out.manifest.index_sha256
    same = [corpus.name for corpus in trained if held_out.name == corpus.name or index == corpus.manifest.index_sha256]
    if not same:
        return []
    found = f"{held_out.name} is trained on too (data.corpora: {', '.join(same)}), so that it shows what was learned by heart"
    return [warning("data.validation", found, "name a corpus of other images, or leave it out of data.corpora")]


def check_identity(corpora: Sequence[Corpus]) -> list[Finding]:
    """A warning where several corpora are mixed and the first record of one does not say which image it has."""
    without = []
    for corpus in corpora if len(corpora) > 1 else ():
        with suppress(BadRecordError):
            if image_identity(corpus.read(0).meta) is None:
                without.append(corpus.name)
    if not without:
        return []
    found = (
        f"the records of {', '.join(without)} name no coco_id or url: an image that another corpus has too counts as another, "
        "and its captions as wrong"
    )
    return [warning("data.corpora", found, "prepare them with bridgetower prep, if they share images with the others")]


def check_corpus(config: TrainConfig, name: str, cache: ShardCache | None) -> Finding:
    """Manifest, index, sizes of shards, first and last record, and whether images have a size that suits the model."""
    image_size = config.model.image_size
    try:
        corpus = open_corpus(config.data.root, name, cache, config.data.follow_links)
        corpus.check_shards()
        for row in (0, corpus.manifest.images - 1):
            corpus.read(row)
    except BadRecordError as error:
        return fail(name, f"a record cannot be read: {error}", "fetch the shard again, or write the corpus again")
    except UserError as error:
        return refused(name, error)
    manifest = corpus.manifest
    found = f"{manifest.images:,} images, {manifest.captions:,} captions, {len(manifest.shards)} shards"
    if manifest.image_size == image_size:
        return ok(name, f"{found}, {image_size} px")
    edge = f"{manifest.image_size} px" if manifest.image_size else "of several sizes"
    reason = "the loader resizes every image every time"
    if config.data.always_resizes:
        if manifest.image_size is None or manifest.image_size > image_size:
            return ok(name, f"{found}, {edge}")
        reason = "its images are enlarged"
    todo = f"prepare it with size={image_size}: otherwise {reason}"
    return warning(name, f"{found}, {edge}; the model needs {image_size} px", todo)


def refused(subject: str, error: UserError) -> Finding:
    """A failure with the message of an error, whose second part says what to do."""
    found, _, todo = str(error).partition("; ")
    return fail(subject, found, todo or f"change {subject}")
