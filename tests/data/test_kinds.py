"""Captions of several kinds are drawn by their shares, by nothing but the seed and the sample's index."""

from collections import Counter
from dataclasses import replace

import pytest
from helpers import open_pairs
from hypothesis import given
from hypothesis import strategies as st
from toy import toy_text

from bridgetower_train.config import DataConfig, ModelConfig, TrainConfig
from bridgetower_train.data.kinds import draw_caption
from bridgetower_train.errors import ConfigError
from data_prep.shards.index import build_index
from data_prep.shards.writer import write_corpus

TEXT = toy_text()
KINDS = (["alt", "synthetic", "synthetic"], ["alt"], ["", "region"], ["synthetic", "alt", ""])
"""Of the captions of image 0, 1, 2, 3, and so on."""


@pytest.fixture(scope="module")
def root(tmp_path_factory, jpeg):
    """A corpus of ours with captions of several kinds; beside it the same records in tars without kinds."""
    root = tmp_path_factory.mktemp("kinds")
    records = [
        (str(n), jpeg, [f"caption {n} {i}" for i in range(len(kinds))], {"number": n})
        for n, kinds in ((n, KINDS[n % 4]) for n in range(40))
    ]
    write_corpus(root / "plain", 64, records)
    write_corpus(root / "mine", 64, [(*record, KINDS[n % 4]) for n, record in enumerate(records)])
    return root


def configure(root, *names, captions="one", **keys):
    return TrainConfig(
        steps="1",
        global_batch=8,
        model=ModelConfig(image_size=64, patch_size=64, max_text_len=12),
        data=DataConfig(
            root=str(root), corpora=dict.fromkeys(names, 1.0), lanes=2, shuffle_window=8, captions=captions
        ),
        **keys,
    )


def drawn(dataset, samples):
    """(number of the record, kind of its caption) of each sample."""
    said = [dataset.describe(sample) for sample in samples]
    return [(sample["meta"]["number"], sample["kinds"][sample["number"]]) for sample in said]


def test_kinds_come_by_their_shares_among_those_that_an_image_has(root):
    dataset = open_pairs(configure(root, "mine", captions={"synthetic": 3, "alt": 1.0, "region": 0}), TEXT)
    assert len(dataset) == 40
    found = drawn(dataset, range(40 * 40))
    both = Counter(kind for number, kind in found if number % 4 in (0, 3))
    assert both.keys() == {"alt", "synthetic"}
    assert both["synthetic"] / both.total() == pytest.approx(0.75, abs=0.04)  # 800 draws: three standard deviations
    assert {kind for number, kind in found if number % 4 == 1} == {"alt"}
    assert {kind for number, kind in found if number % 4 == 2} == {"", "region"}  # neither has a share: any caption
    several = Counter(s["number"] for s in map(dataset.describe, range(800)) if s["kinds"] == KINDS[0])
    assert several.keys() == {0, 1, 2}
    assert several[1] == pytest.approx(several[2], rel=0.5)


def test_a_batch_has_the_captions_that_are_described(root):
    dataset = open_pairs(configure(root, "mine", captions={"alt": 1, "synthetic": 1}), TEXT)
    batch = dataset.__getitems__(range(8))
    described = [dataset.describe(sample)["caption"] for sample in range(8)]
    assert [TEXT.decode(row) for row in batch.input_ids] == described


def test_a_draw_depends_on_nothing_but_the_seed_and_its_index(root):
    """Not on how the shares are written, nor on lanes and what was drawn before; the images are those of captions=one."""
    one = open_pairs(configure(root, "mine"), TEXT)
    config = configure(root, "mine", captions={"alt": 0.5, "synthetic": 0.5})
    dataset = open_pairs(config, TEXT)
    found = drawn(dataset, range(100))
    assert [number for number, _ in found] == [number for number, _ in drawn(one, range(100))]
    assert dataset.order.digest == one.order.digest
    other = {"region": 0, "synthetic": 2, "alt": 2}
    assert drawn(open_pairs(configure(root, "mine", captions=other), TEXT), range(99, -1, -1)) == found[::-1]
    assert drawn(open_pairs(replace(config, seed=1), TEXT), range(100)) != found


def test_a_kind_that_no_corpus_has_is_refused(root):
    open_pairs(configure(root, "mine", "plain", captions={"alt": 1}), TEXT)
    with pytest.raises(
        ConfigError, match=r"data.captions.synthetc: no caption of mine .*alt, region, synthetic; did you"
    ):
        open_pairs(configure(root, "mine", captions={"alt": 1, "synthetc": 1}), TEXT)
    with pytest.raises(ConfigError, match=r"no caption of plain is of this kind; none of their captions has a kind"):
        open_pairs(configure(root, "plain", captions={"alt": 1}), TEXT)


def test_records_of_a_corpus_that_is_indexed_anew_keep_their_kinds(root, tmp_path):
    for path in (root / "mine").iterdir():
        if path.suffix == ".tar":
            (tmp_path / "mine").mkdir(exist_ok=True)
            (tmp_path / "mine" / path.name).write_bytes(path.read_bytes())
    build_index(tmp_path / "mine")
    assert (tmp_path / "mine" / "manifest.json").read_bytes() == (root / "mine" / "manifest.json").read_bytes()


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1), st.integers(0, 2**31))
def test_whatever_is_drawn_has_a_share(kinds, index):
    shares = {"a": 0.5, "b": 0.0, "c": 1e-9}
    number = draw_caption(kinds, shares, 0, index)
    assert (number is None) == (not {"a", "c"} & set(kinds))
    assert number is None or shares.get(kinds[number], 0) > 0
