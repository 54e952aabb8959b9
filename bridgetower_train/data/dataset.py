"""Samples to batches: the map-style dataset over the sample indices of a run."""

import dataclasses
import functools
import itertools
import logging
import re
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from bridgetower_train.config import RunLength, TrainConfig
from bridgetower_train.data.augment import kept_patches, rand_augment
from bridgetower_train.data.batch import BadRecord, Batch, empty_pixels
from bridgetower_train.data.image import Pixels, decode, decode_square, resize_shorter
from bridgetower_train.data.kinds import check_kinds, draw_caption
from bridgetower_train.data.order import IntArray, Order, Sample, Window
from bridgetower_train.data.reader import Reader, Samples, View
from bridgetower_train.data.roots import is_remote, shard_cache
from bridgetower_train.data.shards import BadRecordError, Corpus, Record, image_identity, open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.display import printable
from bridgetower_train.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SPARE = 4
"""Images' worth of extra room behind a batch: each image is decoded whole, and may be up to this many times as long as wide."""
MAX_BAD_RUN = 1000
"""This many unusable records in a row in one lane end the run."""


class _Read(NamedTuple):
    """A sample as read from its shard."""

    sample: Sample
    record: Record
    view: View


class PairDataset(Dataset[Batch]):
    """Batches by sample index: which sample an index has depends only on the seed and the corpora.

    May be forked and pickled.
    """

    def __init__(
        self,
        order: Order,
        corpora: Sequence[Corpus],
        tokenizer: CaptionTokenizer,
        reader: Reader,
        config: TrainConfig,
        length: RunLength | None = None,
    ) -> None:
        """`reader` is the task's; `length` is that of the run, None in validation.

        DataError if the corpora have so many records that `image_id` would reach 2^31.
        """
        self.order, self.corpora, self.tokenizer, self.reader = order, list(corpora), tokenizer, reader
        self.config, self.length = config, length
        self._size, self._shares = config.model.image_size, config.data.kind_shares
        self._first_id = np.cumsum([0, *(corpus.manifest.images for corpus in corpora)])
        if self._first_id[-1] >= 2**31:
            raise DataError(
                f"data.corpora: they have {self._first_id[-1]} records, and a run takes fewer than 2^31; leave some out"
            )
        self._remote = any(is_remote(corpus.folder) for corpus in corpora)
        self._fetch_ahead = functools.lru_cache(4 * order.lanes)(self._prefetch_window)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.order, self.corpora, self.tokenizer, self.reader, self.config, self.length)

    def __len__(self) -> int:
        """Samples per epoch; sample indices continue beyond it."""
        return self.order.epoch_samples

    def __getitem__(self, sample_index: int) -> Batch:
        """A batch of one sample."""
        return self.__getitems__([sample_index])

    def __getitems__(self, sample_indices: Sequence[int]) -> Batch:
        """The batch of these samples.

        A record that cannot be used is replaced by the next usable one of its lane and listed in `Batch.bad`. DataError
        after MAX_BAD_RUN of them in a row.
        """
        if self._remote:
            self._prefetch(sample_indices)
        pixels = self._empty_pixels(len(sample_indices))
        read, bad = self._fill(self.order.take(sample_indices), pixels.numpy())
        return self._batch(read, sample_indices, pixels, bad)

    def batch_of(self, samples: Sequence[Sample]) -> Batch:
        """The batch of these samples, without those that cannot be used; DataError where none can."""
        pixels, read = self._empty_pixels(len(samples)), list[_Read]()
        for sample in samples:
            with suppress(BadRecordError):
                one = self._read(sample)
                self._decode(one, pixels.numpy()[len(read) * self.reader.images :])
                read.append(one)
        if not read:
            raise DataError(
                f"none of {len(samples)} records in a row of {self.corpora[samples[0].corpus].name} can be used; see why with "
                "`bridgetower prep lint`"
            )
        return self._batch(read, [one.sample.sample_index for one in read], pixels, [])

    def _empty_pixels(self, samples: int) -> torch.Tensor:
        return empty_pixels(samples * self.reader.images + SPARE, self._size)

    def _batch(
        self, read: Sequence[_Read], sample_indices: Sequence[int], pixels_XSSC: torch.Tensor, bad: list[BadRecord]
    ) -> Batch:
        """The batch of what was read, each in place of one of `sample_indices`; its images come first in `pixels_XSSC`."""
        records = [one.record for one in read]
        image_id = self._image_ids(read)
        texts = [one.view.text for one in read]
        ids, mask = self.tokenizer.encode(texts, self.config.model.max_text_len, self.config.text_lengths)
        index = np.asarray(sample_indices, dtype=np.int64)
        numbers = [one.sample.caption for one in read]
        labels = self.reader.labels(Samples(records, numbers, index, image_id, ids, mask, self.length))
        images_B3SS = pixels_XSSC[: len(read) * self.reader.images].permute(0, 3, 1, 2)
        return Batch(images_B3SS, ids, mask, torch.from_numpy(image_id), labels, bad, self._patches(index))

    def describe(self, sample_index: int) -> dict[str, Any]:
        """A sample in plain values: its index (`position`), epoch, corpus, shard, row, key, caption and the source's `meta`.

        The caption is `number` of the record, whose captions have these `kinds`.
        """
        out = np.empty((self.reader.images, self._size, self._size, 3), dtype=np.uint8)
        sample, record, view = self._first_usable(self.order.at(sample_index), out, [])
        return {
            "position": sample_index,
            "epoch": sample.epoch,
            "corpus": self.corpora[sample.corpus].name,
            "shard": self._shard(sample),
            "row": sample.row,
            "key": record.key,
            "caption": view.text,
            "number": sample.caption,
            "kinds": record.kinds,
            "meta": record.meta,
        }

    def _patches(self, sample_index: IntArray) -> torch.Tensor | None:
        """`Batch.patches`, as `model.patch_dropout` says."""
        model, length = self.config.model, self.length
        if length is None or model.kept_patches is None:
            return None
        until = length.in_steps("model.patch_dropout_until", model.patch_dropout_until) * length.global_batch
        if sample_index.min() >= until:
            return None
        image = (sample_index[:, None] * self.reader.images + np.arange(self.reader.images)).ravel()
        return torch.from_numpy(kept_patches(self.config.seed, image, model.image_tokens - 1, model.kept_patches))

    def _image_ids(self, read: Sequence[_Read]) -> IntArray:
        """`Batch.image_id`: a hash of what the records say that their images are, else their places among all records."""
        ids = self._first_id[[one.sample.corpus for one in read]] + [one.sample.row for one in read]
        for number, one in enumerate(read):
            if identity := image_identity(one.record.meta):
                ids[number] = zlib.crc32(identity.encode()) & 0x7FFFFFFF
        return ids

    def _fill(self, samples: Sequence[Sample], pixels_XSSC: Pixels) -> tuple[list[_Read], list[BadRecord]]:
        """Decode the images of `samples`, or of their replacements. Returns what was read and what was bad.

        All are read before the first is decoded: decoding evicts the interpreter's data from the processor's caches.
        An image is decoded over the room of the images after it, which is then in the caches when they are written.
        """
        found: list[_Read | None] = []
        for sample in samples:
            try:
                found.append(self._read(sample))
            except BadRecordError:
                found.append(None)
        read: list[_Read] = []
        bad: list[BadRecord] = []
        images = self.reader.images
        for number, (sample, one) in enumerate(zip(samples, found, strict=True)):
            out = pixels_XSSC[number * images : (number + 1) * images + SPARE]
            try:
                if one is not None:
                    self._decode(one, out)
            except BadRecordError:
                one = None
            read.append(one or self._first_usable(sample, out[:images], bad))
        return read, bad

    def _first_usable(self, wanted: Sample, out: Pixels, bad: list[BadRecord]) -> _Read:
        """The first usable sample of the lane from `wanted` on; its images are in `out`.

        Only `wanted` is added to `bad`: those after it are listed when their own turn comes.
        """
        following, sample = self.order.following(wanted.sample_index), wanted
        shards: dict[str, str] = {}
        for _ in range(MAX_BAD_RUN):
            try:
                read = self._read(sample)
                self._decode(read, out)
                return read
            except BadRecordError as error:
                corpus, shard = self.corpora[sample.corpus].name, self._shard(sample)
                shards[f"{corpus}/{shard}"] = error.reason
                if sample is wanted:
                    key = self.corpora[sample.corpus].key(sample.row)
                    bad.append(BadRecord(corpus, shard, key, error.reason, wanted.sample_index))
                sample = self.order.at(next(following))
        names = "; ".join(f"{name}: {reason}" for name, reason in shards.items())
        raise DataError(
            f"{MAX_BAD_RUN} records in a row cannot be used ({names}); see why with `bridgetower prep lint`"
        )

    def _read(self, sample: Sample) -> _Read:
        record = self.corpora[sample.corpus].read(sample.row)
        if sample.caption >= self.reader.count(record):
            raise BadRecordError("fewer captions than indexed")
        if self._shares:
            drawn = draw_caption(record.kinds, self._shares, self.config.seed, sample.sample_index)
            sample = sample if drawn is None else sample._replace(caption=drawn)
        return _Read(sample, record, self.reader.view(record, sample.caption))

    def _decode(self, read: _Read, out_XSSC: Pixels) -> None:
        """Decode the images of a sample into the beginning of `out_XSSC`; the rest of it may be overwritten."""
        for number, image in enumerate(read.view.images):
            if (augment := self.config.data.augment) != "none":
                image_index = read.sample.sample_index * self.reader.images + number
                out_XSSC[number] = rand_augment(decode(image), self._size, self.config.seed, image_index, augment)
            else:
                scratch = out_XSSC[number + 1 : number + 1 + SPARE]
                decode_square(image, self._size, self.config.data.square, out_XSSC[number], scratch)

    def _shard(self, sample: Sample) -> str:
        corpus = self.corpora[sample.corpus]
        return corpus.manifest.shards[int(corpus.index["shard"][sample.row])].name

    def _prefetch(self, sample_indices: Sequence[int]) -> None:
        """Start to fetch the shards that the lanes of these samples need next, once per window of a lane."""
        for sample_index in sample_indices[:: self.order.samples_per_lane]:
            self._fetch_ahead(self.order.window_of(sample_index))

    def _prefetch_window(self, window: Window) -> None:
        ahead = self.order.shards_ahead(window)
        for corpus, shards in itertools.groupby(ahead, key=lambda pair: pair[0]):
            self.corpora[corpus].prefetch(shard for _, shard in shards)


def open_data(
    config: TrainConfig, tokenizer: CaptionTokenizer, reader: Reader, validation: bool = False
) -> PairDataset:
    """The corpora of `config.data` in the order of the run; with `validation`, the held-out corpus, each image once.

    ConfigError or DataError if something is missing or does not fit. Sizes of shards are not checked here:
    `Corpus.check_shards` does that, and one rank per run is enough.
    """
    data = config.data
    corpora = data.trained
    if validation and data.validation:
        corpora = {data.validation: 1.0}
        data = dataclasses.replace(data, augment="none", captions="one")
        config = dataclasses.replace(config, data=data)
    if not corpora:
        raise ConfigError("data.corpora: is empty; name at least one corpus, as in data.corpora={coco: 1.0}")
    cache = shard_cache(data.root, data.cache_dir, data.cache_gb, data.cache_shared, data.retry_hours)
    opened = [open_corpus(data.root, name, cache, data.follow_links) for name in corpora]
    refuse_test_splits(opened, "data.validation" if validation else "data.corpora")
    for corpus in [] if config.data.always_resizes else opened:
        _warn_of_resizing(corpus, config.model.image_size)
    check_kinds(data.kind_shares, {corpus.name: corpus.manifest.kinds for corpus in opened})
    weights = list(corpora.values())
    order = Order(
        opened,
        weights,
        config.seed,
        data.lanes,
        config.samples_per_lane,
        data.per_epoch,
        data.shuffle_window,
        data.shuffle,
    )
    length = None if validation else RunLength.of(config.steps, config.global_batch, order.epoch_samples)
    return PairDataset(order, opened, tokenizer, reader, config, length)


def refuse_test_splits(corpora: Sequence[Corpus], key: str) -> None:
    """ConfigError for a test split: data that trains or steers a run can no longer test it."""
    for corpus in corpora:
        if any(re.match("test(?![a-z])", split) for split in corpus.manifest.splits):
            evaluation = corpus.manifest.extra.get("task", "retrieval")
            raise ConfigError(
                f"{key}: {corpus.name} is the test split of {corpus.manifest.title} according to its manifest; use another "
                f"split here, and evaluate on this one after the run: bridgetower eval {evaluation} corpus={corpus.name}"
            )


def _warn_of_resizing(corpus: Corpus, size: int) -> None:
    """Log what resizing costs if the images of a corpus do not have the model's size."""
    edge = corpus.manifest.image_size
    if edge == size:
        return
    shown = edge or 480
    image = np.zeros((shown, shown * 4 // 3, 3), dtype=np.uint8)
    resize_shorter(image, size)
    start = time.perf_counter()
    resize_shorter(image, size)
    cost = (time.perf_counter() - start) * 1e3
    log.warning(
        f"{printable(corpus.name)}: images are {f'{edge} px' if edge else 'of several sizes'}, the model reads {size} px: "
        f"resizing takes about {cost:.1f} ms per image; prepare shards with size={size} to avoid it"
    )
