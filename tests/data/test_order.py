"""The order: every sample once, anywhere at once, the same for everybody."""

import hashlib
import tracemalloc
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgetower_train.data.order import Order
from bridgetower_train.errors import ConfigError, DataError


def synthetic(shards, name="a"):
    """A corpus as the order sees it: `shards` lists, for each shard, the captions of each of its records."""
    counts = np.array([n for shard in shards for n in shard], dtype=np.uint16)
    return SimpleNamespace(
        name=name,
        digest=name * 3,
        manifest=SimpleNamespace(shards=[SimpleNamespace(captions=sum(shard)) for shard in shards]),
        shard_rows=np.cumsum([0, *map(len, shards)]),
        index={"captions": counts},
    )


def lane_positions(order, lane, first, last):
    """Positions of the samples numbered `first` to `last` of a lane."""
    numbers = range(first, last)
    return [
        n // order.samples_per_lane * order.global_batch + lane * order.samples_per_lane + n % order.samples_per_lane
        for n in numbers
    ]


def epoch_positions(order, epoch):
    size = order.lane_samples
    return [p for lane in range(order.lanes) for p in lane_positions(order, lane, epoch * size, (epoch + 1) * size)]


SHARD = st.lists(st.integers(1, 5), min_size=1, max_size=12)
CORPUS = st.lists(SHARD, min_size=1, max_size=6)


@st.composite
def orders(draw):
    corpora = [
        synthetic(shards, name=f"c{i}") for i, shards in enumerate(draw(st.lists(CORPUS, min_size=1, max_size=3)))
    ]
    weights = [draw(st.sampled_from([1.0, 0.5, 2.0, 1.5, 0.3])) for _ in corpora]
    captions = draw(st.sampled_from(["all", "one"]))
    try:
        return Order(
            corpora,
            weights,
            seed=draw(st.integers(0, 2**32 - 1)),
            lanes=draw(st.integers(1, 7)),
            samples_per_lane=draw(st.integers(1, 5)),
            captions=captions,
            window=draw(st.sampled_from([1, 2, 5, 16, 1000])),
            shuffle=draw(st.sampled_from(["windows", "whole"])),
        )
    except ConfigError:
        return Order(
            [synthetic([[3] * 7, [1] * 5])], [1.5], seed=1, lanes=4, samples_per_lane=2, captions=captions, window=5
        )


@settings(max_examples=150, derandomize=True)
@given(orders(), st.integers(0, 5))
def test_each_sample_is_passed_as_often_as_its_weight_says(order, epoch):
    seen = order.take(epoch_positions(order, epoch))
    assert len(seen) == order.epoch_samples
    assert {s.epoch for s in seen} == {epoch}
    due = missing = 0
    for number, (corpus, weight) in enumerate(zip(order.corpora, order.weights, strict=True)):
        captions = corpus.index["captions"]
        if order.captions == "all":
            units = [(row, c) for row, n in enumerate(captions) for c in range(n)]
            times = Counter((s.row, s.caption) for s in seen if s.corpus == number)
        else:
            units = list(range(len(captions)))
            times = Counter(s.row for s in seen if s.corpus == number)
            assert all(s.caption < captions[s.row] for s in seen if s.corpus == number)
        assert set(times) <= set(units)
        assert all(n <= int(weight) + (weight % 1 > 0) for n in times.values())
        exact = Fraction(str(weight)) * len(units)
        due += int((epoch + 1) * exact) - int(epoch * exact)
        missing += sum(max(0, int(weight) - times[unit]) for unit in units)
    remainder = due - order.epoch_samples
    fractions = sum(weight % 1 > 0 for weight in order.weights)
    assert 0 <= remainder < order.lanes + fractions
    assert missing <= remainder


@settings(max_examples=60, derandomize=True)
@given(st.sampled_from([0.2, 0.5, 0.7, 1.5, 1.0, 0.1]), st.integers(1, 12), st.sampled_from(["all", "one"]))
def test_a_fraction_continues_where_the_epoch_before_ended(weight, epochs, captions):
    """With one lane nothing sits out: after any number of epochs, no sample was passed more than once more than another."""
    order = Order([synthetic([[1, 2, 3], [2] * 9, [1] * 8])], [weight], 3, 1, 1, captions, 4)
    total, exact = order._totals[0], Fraction(str(weight))
    times = Counter()
    for epoch in range(epochs):
        table = order._segments(epoch)
        assert table.begin[-1] - order.epoch_samples in (0, 1), "what a fraction has more in some epochs is skipped"
        for shard, start, size in zip(table.shard, table.start, np.diff(table.begin), strict=True):
            times.update((int(shard), int(start) + n) for n in range(size))
    assert sum(times.values()) == int(epochs * exact * total)
    counts = [*times.values()] + [0] * (total - len(times))
    assert max(counts) - min(counts) <= 1


@settings(max_examples=60, derandomize=True)
@given(orders(), st.data())
def test_a_position_is_the_same_however_it_is_reached(order, data):
    top = 4 * order.epoch_samples
    positions = data.draw(st.lists(st.integers(0, top), min_size=1, max_size=30))
    fresh = Order(
        order.corpora, order.weights, order.seed, order.lanes, order.samples_per_lane, order.captions, order.window,
        order.shuffle,
    )  # fmt: skip
    assert order.take(positions) == [fresh.at(p) for p in positions]
    assert [s.sample_index for s in order.take(positions)] == positions


@settings(max_examples=60, derandomize=True)
@given(orders(), st.integers(0, 500))
def test_following_walks_the_lane(order, position):
    lane = position % order.global_batch // order.samples_per_lane
    number = position // order.global_batch * order.samples_per_lane + position % order.samples_per_lane
    following = order.following(position)
    assert [next(following) for _ in range(20)] == lane_positions(order, lane, number + 1, number + 21)


@settings(max_examples=60, derandomize=True)
@given(orders(), st.integers(0, 3), st.data())
def test_shards_ahead_are_those_of_this_window_and_the_next(order, epoch, data):
    lane = data.draw(st.integers(0, order.lanes - 1))
    number = epoch * order.lane_samples + data.draw(st.integers(0, order.lane_samples - 1))
    offset = number % order.lane_samples
    window = order.window if order.shuffle == "windows" else order.lane_samples
    begin = number - offset % window
    end = min(begin + window, number - offset + order.lane_samples)
    size = min(window, order.lane_samples - end % order.lane_samples)
    used = set()
    for s in order.take(lane_positions(order, lane, begin, end + size)):
        shard = int(np.searchsorted(order.corpora[s.corpus].shard_rows, s.row, side="right")) - 1
        used.add((s.corpus, shard))
    (position,) = lane_positions(order, lane, number, number + 1)
    ahead = order.shards_ahead(order.window_of(position))
    assert used <= set(ahead)
    assert len(ahead) == len(set(ahead))
    empty = {
        (c, i) for c, corpus in enumerate(order.corpora) for i, n in enumerate(np.diff(corpus.shard_rows)) if n == 0
    }
    assert order.shuffle == "whole" or set(ahead) - used <= empty


def one_shard_order(seed=0, window=100, weight=1.0, lanes=1, captions="one", records=1000, shuffle="windows"):
    return Order([synthetic([[3] * records])], [weight], seed, lanes, 4, captions, window, shuffle)


def test_a_whole_epoch_is_shuffled_at_once():
    """Samples far apart in the shards meet: the distance of neighbours in a lane is a third of the epoch, not of a window."""
    for shuffle, least, most in (("windows", 0, 60), ("whole", 250, 420)):
        order = one_shard_order(lanes=2, shuffle=shuffle)
        rows = [[s.row for s in order.take(lane_positions(order, 0, e * 500, e * 500 + 500))] for e in (0, 1)]
        assert least < np.abs(np.diff(rows[0])).mean() < most
        assert rows[0] != rows[1]
    with pytest.raises(ConfigError, match=r"data\.shuffle=whole: .* use windows"):
        Order([synthetic([[65535] * 300])], [1.0], 0, 1, 4, "all", 4, "whole")


def test_a_fraction_of_a_single_shard_is_another_part_each_epoch():
    order = one_shard_order(weight=0.3)
    parts = [[s.row for s in order.take(epoch_positions(order, epoch))] for epoch in range(10)]
    assert {len(part) for part in parts} == {300}
    assert set(Counter(row for part in parts for row in part).values()) == {3}


def test_windows_permute_within_themselves():
    plain = one_shard_order(window=1)
    mixed = one_shard_order(window=100)
    before = [s.row for s in plain.take(epoch_positions(plain, 0))]
    after = [s.row for s in mixed.take(epoch_positions(mixed, 0))]
    assert before == list(range(1000))
    for begin in range(0, 1000, 100):
        window = after[begin : begin + 100]
        assert sorted(window) == before[begin : begin + 100]
        fixed = sum(a == b for a, b in zip(window, before[begin : begin + 100], strict=True))
        assert fixed <= 8  # one on average


def test_shards_are_permuted_anew_each_epoch():
    order = Order([synthetic([[1] * 2] * 20)], [1.0], 0, 1, 2, "all", 1)
    epochs = [[s.row // 2 for s in order.take(epoch_positions(order, e))][::2] for e in range(3)]
    assert all(sorted(shards) == list(range(20)) for shards in epochs)
    assert len({tuple(shards) for shards in epochs}) == 3


def test_the_remainder_is_another_one_each_epoch():
    order = Order([synthetic([[1]] * 23)], [1.0], 0, 4, 2, "all", 4)
    left_out = [set(range(23)) - {s.row for s in order.take(epoch_positions(order, e))} for e in range(6)]
    assert {len(rows) for rows in left_out} == {3}
    assert len({frozenset(rows) for rows in left_out}) > 1


def test_one_draws_all_captions_and_others_in_each_epoch():
    order = one_shard_order(records=3000)
    drawn = [{s.row: s.caption for s in order.take(epoch_positions(order, e))} for e in range(2)]
    counts = np.bincount(list(drawn[0].values()), minlength=3)
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(3000 * 2 / 9))
    same = sum(drawn[0][row] == drawn[1][row] for row in range(3000))
    assert abs(same - 1000) < 5 * np.sqrt(3000 * 2 / 9)


def test_the_order_hangs_on_its_seed_and_says_so():
    orders = [one_shard_order(seed=seed) for seed in (0, 0, 1)]
    rows = [[s.row for s in order.take(range(200))] for order in orders]
    assert rows[0] == rows[1] != rows[2]
    assert orders[0].digest == orders[1].digest != orders[2].digest
    others = [
        one_shard_order(window=99),
        one_shard_order(weight=0.5),
        one_shard_order(lanes=2),
        one_shard_order(captions="all"),
        one_shard_order(shuffle="whole"),
    ]
    assert len({order.digest for order in [*orders, *others]}) == 7


@pytest.mark.parametrize(
    ("weight", "sha256", "digest"),
    [
        (
            2.0,
            "85015940c048dc654ec50fb6e1eda40cad1316468184fc674d0c4f2da65f04d7",
            "65004196ad43cefe20632641e0e8b28ed00e4e220128363c1980ab08c437cc82",
        ),
        (
            1.5,
            "64cfd213c209309142a854dc962fa58028cd1a2e2fcbd3992c8abe1b47d1f295",
            "458cffba75311a41bf37e8c50ab98730e5e3e01d691c4896af6cee0de8dd11b0",
        ),
    ],
)
def test_the_order_is_frozen(weight, sha256, digest):
    """A run that resumes under a later version must meet the same samples: if this fails, resumed runs change."""
    corpora = [synthetic([[1, 2, 3, 4, 5] * 4] * 9, "a"), synthetic([[2] * 30] * 2, "b")]
    text = ""
    for captions in ("all", "one"):
        order = Order(corpora, [1.0, weight], 1234, 4, 3, captions, 50)
        text += repr([(s.epoch, s.corpus, s.row, s.caption) for s in order.take(range(2000))])
    assert hashlib.sha256(text.encode()).hexdigest() == sha256
    assert order.digest == digest


class Fives:
    """The `captions` column of an index of any length: five for each record."""

    def __getitem__(self, key):
        if isinstance(key, str):
            return self
        return np.full(key.stop - key.start if isinstance(key, slice) else np.shape(key), 5, dtype=np.uint16)


@pytest.mark.parametrize("captions", ["all", "one"])
@pytest.mark.parametrize(("records", "megabytes"), [(14_000_000, 8), (1_000_000_000, 250)])
def test_a_huge_corpus_opens_anywhere_in_little_memory(records, megabytes, captions):
    shards = records // 1000
    corpus = SimpleNamespace(
        name="huge",
        digest="huge",
        manifest=SimpleNamespace(shards=[SimpleNamespace(captions=5000)] * shards),
        shard_rows=np.arange(shards + 1) * 1000,
        index=Fives(),
    )
    tracemalloc.start()
    order = Order([corpus], [1.0], 3, 8, 4, captions, 4096)
    for epoch in (0, 7, 1000):
        samples = order.take(range(epoch * order.epoch_samples, epoch * order.epoch_samples + 64))
        assert len({(s.row, s.caption) for s in samples}) == 64
        assert all(0 <= s.row < records and 0 <= s.caption < 5 for s in samples)
    assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    tracemalloc.stop()


def test_too_few_samples_for_the_lanes_are_refused():
    with pytest.raises(ConfigError, match=r"data\.lanes=9: .* only 8 samples; take at most 8"):
        Order([synthetic([[1] * 8])], [1.0], 0, 9, 1, "all", 4)
    assert Order([synthetic([[1] * 8])], [1.0], 0, 8, 1, "all", 4).epoch_samples == 8
    with pytest.raises(ConfigError, match=r"data\.corpora\.a=0\.05: gives no samples"):
        Order([synthetic([[1] * 8])], [0.05], 0, 2, 1, "all", 4)


def test_an_index_that_contradicts_its_manifest_is_refused():
    corpus = synthetic([[1, 2, 3]])
    corpus.manifest.shards[0].captions = 7
    with pytest.raises(DataError, match="a: shard 0 has 7 captions by the manifest but 6 by the index"):
        Order([corpus], [1.0], 0, 1, 1, "all", 4).at(0)
