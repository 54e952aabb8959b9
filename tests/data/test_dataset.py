"""From positions to batches: what is in them, and that nothing but the position decides it."""

import mmap
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch
from helpers import open_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from toy import toy_text

from bridgetower_train.config import DataConfig, ModelConfig, ObjectiveConfig, TrainConfig
from bridgetower_train.data import batch as one_batch
from bridgetower_train.data.dataset import PairDataset
from bridgetower_train.data.image import decode_square
from bridgetower_train.data.loader import RankSamples, make_loader
from bridgetower_train.data.shards import image_identity
from bridgetower_train.errors import ConfigError, DataError, FileError
from bridgetower_train.tasks.pretraining.masking import IGNORE
from data_prep.shards.writer import write_corpus
from tests.hostile.attacks import attack

TEXT = toy_text()
LANES, LANE_BATCH = 4, 4
BATCH = LANES * LANE_BATCH


def configure(root, corpora=("small",), image_size=64, max_text_len=12, **data):
    return TrainConfig(
        steps="1",
        global_batch=BATCH,
        model=ModelConfig(image_size=image_size, patch_size=image_size, max_text_len=max_text_len),
        data=DataConfig(root=str(root), corpora=dict.fromkeys(corpora, 1.0), lanes=LANES, shuffle_window=32, **data),
    )


def same(one, other):
    """Whether two batches are equal in every field."""
    theirs = other.tensors()
    return (
        one.bad == other.bad
        and all(tensor.equal(theirs.pop(name)) for name, tensor in one.tensors().items())
        and not theirs
    )


def concatenated(batches, name):
    return torch.cat([batch.tensors()[name] for batch in batches])


def loader(dataset, rank=0, world_size=1, micro_batch=BATCH, accumulation=1, start_step=0, workers=0, context="fork"):
    return make_loader(
        dataset, rank, world_size, micro_batch, accumulation, start_step, workers, 2, context, pin_memory=False
    )


@pytest.fixture(scope="module")
def dataset(small_corpus):
    return open_pairs(configure(small_corpus), TEXT)


@attack(15)
def test_links_out_of_a_corpus_are_read_only_if_the_run_says_so(small_corpus, tmp_path):
    (tmp_path / "small").mkdir()
    for path in (small_corpus / "small").iterdir():
        (tmp_path / "small" / path.name).symlink_to(path)
    with pytest.raises(FileError, match=r"data\.follow_links=true"):
        open_pairs(configure(tmp_path), TEXT)
    dataset = open_pairs(configure(tmp_path, follow_links=True), TEXT)
    assert dataset.__getitems__(range(BATCH)).bad == []


def test_a_batch_holds_what_the_order_says(dataset):
    positions = range(BATCH, 2 * BATCH)
    batch = dataset.__getitems__(positions)
    assert batch.pixel_values.shape == (BATCH, 3, 64, 64)
    assert batch.pixel_values.dtype == torch.uint8
    assert batch.pixel_values.is_contiguous(memory_format=torch.channels_last)
    assert batch.input_ids.shape == batch.labels["masked_ids"].shape == batch.text_mask.shape == (BATCH, 12)
    assert batch.labels["mlm_positions"].shape == batch.labels["mlm_labels"].shape == (BATCH, 2)
    assert batch.text_mask.dtype == torch.bool
    integers = ("input_ids", "masked_ids", "mlm_positions", "mlm_labels", "image_id", "itm_negative")
    assert {batch.tensors()[name].dtype for name in integers} == {torch.int64}
    assert batch.bad == []
    for row, sample in enumerate(dataset.order.take(positions)):
        record = dataset.corpora[0].read(sample.row)
        pixels = np.empty((64, 64, 3), dtype=np.uint8)
        decode_square(record.image, 64, "crop", pixels)
        assert np.array_equal(batch.pixel_values[row].permute(1, 2, 0).numpy(), pixels)
        assert TEXT.decode(batch.input_ids[row]) == record.captions[sample.caption]
        assert batch.image_id[row] == sample.row
        lane = row // LANE_BATCH
        negative = int(batch.labels["itm_negative"][row])
        assert negative // LANE_BATCH == lane
        others = batch.image_id[lane * LANE_BATCH : (lane + 1) * LANE_BATCH] != batch.image_id[row]
        assert (batch.image_id[negative] != batch.image_id[row]) == bool(others.any())
    chosen = batch.labels["mlm_labels"] != IGNORE
    assert batch.labels["mlm_labels"][chosen].equal(batch.input_ids.gather(1, batch.labels["mlm_positions"])[chosen])
    assert same(batch, dataset.__getitems__(positions))


def test_image_ids_run_through_all_corpora(tmp_path, make_corpus):
    for name, records in (("a", 10), ("b", 7), ("c", 5)):
        make_corpus(tmp_path, name, records, 4)
    dataset = open_pairs(configure(tmp_path, ["a", "b", "c"]), TEXT)
    seen = {}
    for position in range(3 * len(dataset)):
        sample = dataset.order.at(position)
        seen.setdefault(int(dataset[position].image_id), set()).add((sample.corpus, sample.row))
    assert sorted(seen) == list(range(22))
    assert all(len(records) == 1 for records in seen.values())


def test_text_buckets_hold_the_longest_text_of_the_batch(small_corpus):
    dataset = open_pairs(configure(small_corpus, text_buckets=[7, 12]), TEXT)
    batch = dataset.__getitems__(range(BATCH))
    assert batch.input_ids.shape == (BATCH, 7)  # "caption 1 of image 2" and its frame
    whole = open_pairs(configure(small_corpus), TEXT).__getitems__(range(BATCH))
    assert batch.labels["masked_ids"].equal(whole.labels["masked_ids"][:, :7])
    assert batch.labels["mlm_positions"].equal(whole.labels["mlm_positions"])


@settings(max_examples=60, derandomize=True)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 100))
def test_ranks_and_micro_batches_share_out_each_step(ranks, splits, samples_per_lane, start):
    world_size, accumulation, micro_batch = 2**ranks, 2**splits, 3 * 2**samples_per_lane
    steps = {}
    for rank in range(world_size):
        positions = iter(RankSamples(rank, world_size, micro_batch, accumulation, start))
        for step in range(start, start + 3):
            for _ in range(accumulation):
                part = next(positions)
                assert len(part) == micro_batch
                steps.setdefault(step, []).extend(part)
    size = world_size * accumulation * micro_batch
    assert steps == {step: list(range(step * size, (step + 1) * size)) for step in range(start, start + 3)}


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_neither_ranks_nor_micro_batches_change_the_batch(dataset, world_size, accumulation):
    micro_batch = BATCH // world_size // accumulation
    whole = list(islice(loader(dataset), 3))
    parts = [iter(loader(dataset, rank, world_size, micro_batch, accumulation)) for rank in range(world_size)]
    for expected in whole:
        pieces = [next(batches) for batches in parts for _ in range(accumulation)]
        for name, tensor in expected.tensors().items():
            if name == "itm_negative":
                offsets = np.arange(0, BATCH, micro_batch)
                rows = torch.cat([piece.labels[name] + int(o) for piece, o in zip(pieces, offsets, strict=True)])
                assert rows.equal(tensor)
            else:
                assert concatenated(pieces, name).equal(tensor)
        assert [bad for piece in pieces for bad in piece.bad] == expected.bad


@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (3, "fork"), (2, "spawn"), (2, "forkserver")])
def test_workers_change_nothing(dataset, workers, context):
    expected = list(islice(loader(dataset, start_step=2), 7))
    batches = list(islice(loader(dataset, start_step=2, workers=workers, context=context), 7))
    assert all(same(one, other) for one, other in zip(batches, expected, strict=True))
    assert batches[0].pixel_values.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_opens_at_any_step(dataset, workers):
    whole = list(islice(loader(dataset), 30))  # well into the third epoch
    for start in (1, 11, 12, 23):
        batches = list(islice(loader(dataset, start_step=start, workers=workers), 3))
        assert all(same(one, other) for one, other in zip(batches, whole[start:], strict=False))


@pytest.fixture
def damaged(tmp_path, small_corpus):
    """The small corpus with damage: {row: reason}, and its folder."""
    shutil.copytree(small_corpus / "small", tmp_path / "small")
    whole = open_pairs(configure(small_corpus), TEXT).corpora[0]
    first, second, third = (tmp_path / "small" / shard.name for shard in whole.manifest.shards)
    with open(first, "r+b") as file:
        for row in (3, 4, 5, 11):
            file.seek(int(whole.index["jpg_offset"][row]) + 100)
            file.write(b"changed")
    cut = int(whole.index["jpg_offset"][36]) + 10
    os.truncate(second, cut)
    reasons = dict.fromkeys((3, 4, 5, 11), "changed since it was indexed")
    reasons |= dict.fromkeys(range(36, 40), "shard ends before the record")
    index = np.load(tmp_path / "small" / "index.npy")
    index["jpg_size"][50] = 2**31
    np.save(tmp_path / "small" / "index.npy", index)
    reasons[50] = "image over 64 MiB"
    assert third.exists()
    return tmp_path, reasons


def test_bad_records_are_replaced_and_listed_once_an_epoch(damaged):
    root, reasons = damaged
    dataset = open_pairs(configure(root), TEXT)
    order = dataset.order
    listed = {}
    for step in range(len(dataset) // BATCH):
        positions = range(step * BATCH, (step + 1) * BATCH)
        batch = dataset.__getitems__(positions)
        wanted = order.take(positions)
        assert [b.position for b in batch.bad] == [s.sample_index for s in wanted if s.row in reasons]
        for row, sample in enumerate(wanted):
            following = order.following(sample.sample_index)
            while sample.row in reasons:
                sample = order.at(next(following))
            assert batch.image_id[row] == sample.row
        for bad in batch.bad:
            row = order.at(bad.position).row
            listed[row] = listed.get(row, 0) + 1
            assert (bad.corpus, bad.reason) == ("small", reasons[row])
            assert bad.shard == f"{row // 20:06d}.tar"
            assert bad.key == (f"row {row}" if 36 < row < 40 else f"{row:06d}"), "cut off with its header"
    captions = dataset.corpora[0].index["captions"]
    left_out = BATCH * 2
    assert set(listed) == set(reasons)
    assert sum(listed.values()) >= sum(int(captions[row]) for row in reasons) - left_out


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (2, 1)])
def test_replacements_are_the_same_for_all(damaged, world_size, workers):
    dataset = open_pairs(configure(damaged[0]), TEXT)
    expected = [dataset.__getitems__(range(s * BATCH, (s + 1) * BATCH)) for s in range(8)]
    assert sum(len(batch.bad) for batch in expected) > 5
    ranks = [
        iter(loader(dataset, rank, world_size, BATCH // world_size, workers=workers)) for rank in range(world_size)
    ]
    for batch in expected:
        parts = [next(batches) for batches in ranks]
        assert concatenated(parts, "pixel_values").equal(batch.pixel_values)
        assert concatenated(parts, "masked_ids").equal(batch.labels["masked_ids"])
        assert [bad for part in parts for bad in part.bad] == batch.bad


def test_an_undecodable_image_is_listed_with_its_key(tmp_path, make_tar, jpeg):
    records = ((f"key-{n}", jpeg[: 700 if n == 7 else None], [f"image {n}"], {}) for n in range(20))
    write_corpus(tmp_path / "small", None, records)
    dataset = open_pairs(configure(tmp_path), TEXT)
    (bad,) = (bad for position in range(len(dataset)) for bad in dataset[position].bad)
    assert bad.key == "key-7"
    assert bad.shard == "000000.tar"
    assert bad.reason == "image cannot be decoded"
    assert dataset.order.at(bad.position).row == 7


@pytest.mark.parametrize("workers", [0, 1])
def test_the_run_stops_where_nothing_can_be_read(tmp_path, make_corpus, workers):
    make_corpus(tmp_path, "small", 40, 20)
    (tmp_path / "small" / "000000.tar").unlink()
    os.truncate(tmp_path / "small" / "000001.tar", 0)
    dataset = open_pairs(configure(tmp_path), TEXT)
    with pytest.raises(DataError) as caught:
        next(iter(loader(dataset, workers=workers)))
    message = str(caught.value)
    assert message.startswith("1000 records in a row cannot be used")
    assert "small/000000.tar: shard cannot be opened" in message
    assert "small/000001.tar: shard ends before the record" in message
    assert "Traceback" not in message


def test_describe_names_the_record(dataset, damaged):
    for position in (0, 5, 40):
        sample = dataset.order.at(position)
        said = dataset.describe(position)
        record = dataset.corpora[0].read(sample.row)
        assert said == {
            "position": position,
            "epoch": 0,
            "corpus": "small",
            "shard": f"{sample.row // 20:06d}.tar",
            "row": sample.row,
            "key": f"{sample.row:06d}",
            "caption": record.captions[sample.caption],
            "number": sample.caption,
            "kinds": [""] * len(record.captions),
            "meta": record.meta,
        }
    root, reasons = damaged
    broken = open_pairs(configure(root), TEXT)
    position = next(p for p in range(1000) if broken.order.at(p).row in reasons)
    assert broken.describe(position)["row"] == int(broken[position].image_id) not in reasons


def test_a_remote_root_gives_the_same_and_is_fetched_ahead(tmp_path, small_corpus):
    memory = fsspec.filesystem("memory")
    memory.put(str(small_corpus / "small"), "/ahead/small", recursive=True)
    config = configure("memory://ahead", cache_dir=str(tmp_path))
    config = replace(config, data=replace(config.data, lanes=1, shuffle_window=50))
    local = replace(config, data=replace(config.data, root=str(small_corpus), cache_dir=None))
    remote = open_pairs(config, TEXT)
    window = remote.order.window_of(0)
    ahead = {remote.corpora[0].manifest.shards[shard].name for _, shard in remote.order.shards_ahead(window)}
    assert len(ahead) == 2
    assert same(remote[0], open_pairs(local, TEXT)[0])
    deadline = time.monotonic() + 180
    while not all(list(tmp_path.glob(f"*-{name}")) for name in ahead):
        assert time.monotonic() < deadline, "the next shard was not fetched ahead"
        time.sleep(0.02)
    positions = range(len(remote))
    assert same(remote.__getitems__(positions), open_pairs(local, TEXT).__getitems__(positions))


def test_workers_start_with_the_loader_not_with_the_first_batch(dataset):
    before = set(multiprocessing.active_children())
    batches = iter(loader(dataset, workers=1))
    assert len(set(multiprocessing.active_children()) - before) == 1
    next(batches)


def test_workers_leave_signals_to_the_main_process_and_end_with_it(dataset):
    others = set(multiprocessing.active_children())
    batches = iter(loader(dataset, workers=2))
    expected = list(islice(loader(dataset), 12))
    got = list(islice(batches, 2))  # one of each: both have begun
    workers = [child for child in multiprocessing.active_children() if child not in others]
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # not from its parent: a launcher's
    got += islice(batches, 10)
    assert all(same(one, other) for one, other in zip(got, expected, strict=True))
    workers[0].terminate()  # what torch does to a worker that does not answer
    workers[0].join(120)
    assert not workers[0].is_alive()
    batches.close()
    for worker in workers:
        worker.join(120)
        assert not worker.is_alive()


def test_workers_use_one_thread_and_write_into_shared_memory(dataset):
    seen = multiprocessing.get_context("fork").Array("i", 2)

    class Watched(PairDataset):
        def __getitems__(self, positions):
            batch = super().__getitems__(positions)
            seen[0], seen[1] = torch.get_num_threads(), batch.pixel_values.is_shared()
            return batch

    watched = Watched(dataset.order, dataset.corpora, TEXT, dataset.reader, dataset.config)
    next(iter(loader(watched, workers=1)))
    assert list(seen) == [1, True]
    next(iter(loader(watched)))
    assert not seen[1]


@pytest.mark.skipif(Version(platform.release().split("-")[0]) < Version("5.14"), reason="Linux maps them one by one")
def test_shared_memory_is_mapped_before_it_is_written(monkeypatch):
    """A page at a time, when it is first written, takes twice as long as all of them together."""
    monkeypatch.setattr(one_batch, "get_worker_info", object)
    pixels = one_batch.empty_pixels(16, 294).numpy()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pixels[:] = 1
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < pixels.nbytes / mmap.PAGESIZE / 10


def test_other_sizes_are_resized_and_their_cost_is_said_once(small_corpus, caplog):
    assert open_pairs(configure(small_corpus), TEXT)[0].pixel_values.shape[-1] == 64
    assert not caplog.records
    dataset = open_pairs(configure(small_corpus, image_size=32), TEXT)
    (record,) = caplog.records
    assert "small: images are 64 px, the model reads 32 px: resizing takes about" in record.message
    assert "prepare shards with size=32" in record.message
    whole = open_pairs(configure(small_corpus), TEXT)[0].pixel_values.float()
    halved = torch.nn.functional.interpolate(whole, (32, 32), mode="bicubic", antialias=True)
    assert (dataset[0].pixel_values - halved).abs().mean() < 3
    assert len(caplog.records) == 1


def test_validation_reads_each_held_out_image_once(tmp_path, make_corpus):
    make_corpus(tmp_path, "train", 20, 10)
    make_corpus(tmp_path, "held_out", 16, 10)
    config = configure(tmp_path, ["train"], validation="held_out")
    dataset = open_pairs(config, TEXT, validation=True)
    assert [corpus.name for corpus in dataset.corpora] == ["held_out"]
    assert sorted(dataset.__getitems__(range(16)).image_id.tolist()) == list(range(16))


def test_wrong_configurations_are_named(small_corpus):
    with pytest.raises(ConfigError, match=r"data\.corpora: is empty"):
        open_pairs(configure(small_corpus, []), TEXT)
    with pytest.raises(ConfigError, match="smal: no such folder"):
        open_pairs(configure(small_corpus, ["smal"]), TEXT)
    data = DataConfig(root=str(small_corpus), corpora={"small": 1.0}, lanes=512)
    config = TrainConfig(steps="1", global_batch=512, data=data, objective=ObjectiveConfig(itm=0))
    with pytest.raises(ConfigError, match=r"data\.lanes=512: an epoch has only 180 samples"):
        open_pairs(config, TEXT)


def test_more_images_than_ids_are_refused(dataset):
    huge = SimpleNamespace(manifest=SimpleNamespace(images=2**31 - 60), folder="huge")
    small = dataset.corpora[0]
    with pytest.raises(DataError, match="2147483648 records, and a run takes fewer than"):
        PairDataset(dataset.order, [small, huge], TEXT, dataset.reader, dataset.config)


@pytest.mark.nightly
def test_memory_does_not_grow_over_20000_records(small_corpus):
    others = set(multiprocessing.active_children())
    batches = iter(loader(open_pairs(configure(small_corpus), TEXT), workers=1))
    list(islice(batches, 200))
    (worker,) = set(multiprocessing.active_children()) - others

    def resident():
        with open(f"/proc/{worker.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    list(islice(batches, 20_000 // BATCH))
    assert resident() - before < 4e6


@pytest.mark.parametrize(
    ("meta", "identity"),
    [
        ({"coco_id": 42, "image_id": 7, "url": "http://h/x"}, "coco:42"),
        ({"coco_url": "http://images.cocodataset.org/train2017/000000000042.jpg", "image_id": 42}, "coco:42"),
        ({"coco_url": "http://images.cocodataset.org/val2014/COCO_val2014_000000000042.jpg"}, "coco:42"),
        ({"url": "http://h/x.jpg", "image_id": "000042"}, "http://h/x.jpg"),
        ({"image_id": "000042", "coco_id": None, "url": 3}, None),
        ({}, None),
    ],
)
def test_what_tells_an_image_from_all_others(meta, identity):
    assert image_identity(meta) == identity


def test_one_photograph_in_two_corpora_has_one_id(tmp_path, jpeg):
    for name, key in (("coco", "coco_id"), ("vg", "coco_id"), ("web", "url")):
        rows = (
            (f"{name}{n}", jpeg, [f"{name} {n}"], {key: n if key == "coco_id" else f"http://h/{n}"}) for n in range(8)
        )
        write_corpus(tmp_path / name, 64, rows, 4)
    dataset = open_pairs(replace(configure(tmp_path, ("coco", "vg", "web")), global_batch=24), TEXT)
    batch = dataset.__getitems__(range(24))
    ids = {dataset.describe(n)["key"]: int(batch.image_id[n]) for n in range(24)}
    assert all(ids[f"coco{n}"] == ids[f"vg{n}"] for n in range(8))
    assert len(set(ids.values())) == 16
