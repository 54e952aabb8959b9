"""Captions to ids: RoBERTa's, cut and padded."""

import json
import multiprocessing
import os
import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from toy import SPECIAL, toy_text, toy_tokenizer

from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import ConfigError, DataError, FileError
from data_prep.shapes.tokenizer import train_tokenizer
from tests.hostile.attacks import attack


@pytest.fixture(scope="module")
def roberta(shared):
    return CaptionTokenizer.load(str(shared / "tokenizer" / "roberta-base"))


def test_roberta_ids(roberta):
    ids, mask = roberta.encode(["Hello world", "Hello world! cécé herlolip"], 12)
    assert ids[0].tolist() == [0, 31414, 232, 2] + 8 * [1]
    assert ids[1].tolist() == [0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2, 1]
    assert mask.sum(1).tolist() == [4, 11]
    assert mask.equal(ids != 1)
    assert roberta.vocab_size == 50265
    assert len(roberta.ordinary) == 50260
    assert roberta.decode(ids[1]) == "Hello world! cécé herlolip"
    assert roberta.encode(["The capital of France is <mask>."], 9)[0].tolist() == [
        [0, 133, 812, 9, 1470, 16, 50264, 4, 2]
    ]


SPACED = [
    "",
    "  ",
    " a",
    "a ",
    "a  b",
    "a\tb \t c",
    "a\u2003b",
    "a\x1cb",
    "it's 3 o'clock",
    "x<mask> <mask> y",
    "é" * 40 + " ü",
]
PIECES = st.sampled_from(
    [" ", " ", "  ", "\t", "\n", "\xa0", "\x1c", "the", "dogs'", "'s", "3rd", "<mask>", "</s>", "Zoë", "猫", "!?"]
)


def plain(text, caption):
    return text.tokenizer.encode(caption, add_special_tokens=False).ids


def assert_as_plain(text, captions):
    ids, mask = text.encode(captions, 300)
    assert [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)] == [
        [text.start, *plain(text, caption), text.end] for caption in captions
    ]


@pytest.mark.parametrize("caption", SPACED)
def test_words_have_the_ids_that_they_have_in_their_text(roberta, caption):
    assert_as_plain(roberta, [caption])


@given(st.lists(st.one_of(st.lists(PIECES).map("".join), st.text(max_size=30)), min_size=1, max_size=4))
def test_any_text_has_the_ids_of_its_tokenizer(roberta, captions):
    assert_as_plain(roberta, captions)


@pytest.mark.parametrize(
    "change", ["a token that takes the space after it", "a token of two words", "normalizer", "rule"]
)
def test_tokenizers_that_look_beyond_a_word(change):
    tokenizer = train_tokenizer(["a red dog", "a blue cat"] * 9, 300)
    if change.startswith("a token"):
        tokenizer.add_tokens([AddedToken("red", rstrip=True) if "after" in change else AddedToken("red dog")])
    elif change == "normalizer":
        tokenizer.normalizer = normalizers.Replace("d d", "x")
    else:
        tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate([*SPECIAL, "aĠred", "a"])}, "<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert_as_plain(CaptionTokenizer(tokenizer), ["a red dog", "red red dog cat", "a red"])


def test_ever_new_words_take_no_more_memory():
    text, peaks = toy_text(), []
    tracemalloc.start()
    try:
        for first in range(0, 140_000, 1000):
            text.encode([f"new{number}" for number in range(first, first + 1000)], 4)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert peaks[-1] < 1.1 * peaks[69]
    assert_as_plain(text, ["new1 word1", "new139999"])


def test_long_texts_keep_their_end_token(roberta):
    text = "a very long caption that goes on " * 20
    whole = roberta.encode([text], 200)[0][0]
    ids, mask = roberta.encode([text, "short"], 10)
    assert ids.shape == (2, 10)
    assert ids[0].tolist() == [*whole[:9].tolist(), 2]
    assert mask.sum(1).tolist() == [10, 3]


def test_a_megabyte_of_caption_is_cut_as_any_other(roberta):
    ids, _ = roberta.encode(["many words in a row " * 50_000], 50)
    assert ids[0].tolist() == roberta.encode(["many words in a row " * 50], 50)[0][0].tolist()


def test_buckets_hold_the_longest_text():
    text = toy_text()
    for words, length in ((3, 8), (6, 8), (7, 16), (14, 16), (15, 20), (40, 20)):
        ids, mask = text.encode(["word1", " ".join(["word2"] * words)], 20, buckets=[8, 16])
        assert ids.shape == mask.shape == (2, length)
        assert mask.sum(1).tolist() == [3, min(words, 18) + 2]
        assert ids.gather(1, mask.sum(1, keepdim=True) - 1).flatten().tolist() == [2, 2]


def test_decode_leaves_the_mask():
    text = toy_text()
    ids, _ = text.encode(["word1 word2 word3"], 8)
    ids[0, 2] = text.mask
    assert text.decode(ids[0]) == "word1 <mask> word3"


@pytest.mark.parametrize("missing", ["<s>", "<pad>", "</s>", "<mask>"])
def test_missing_special_tokens_are_named(tmp_path, missing):
    path = tmp_path / "tokenizer.json"
    toy_tokenizer([token for token in SPECIAL if token != missing]).save(str(path))
    with pytest.raises(DataError, match=f"{path}: has no {missing}"):
        CaptionTokenizer.load(str(path))


def test_pad_must_be_one(tmp_path):
    toy_tokenizer(["<pad>", "<s>", "</s>", "<unk>", "<mask>"]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="<pad> has id 0; take a tokenizer with id 1"):
        CaptionTokenizer.load(str(tmp_path))


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer=.*: no such file"):
        CaptionTokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(DataError, match=r"tokenizer\.json: is not a tokenizer"):
        CaptionTokenizer.load(str(tmp_path))


@attack(53)
def test_an_impossible_id_is_refused_before_a_table_is_made(tmp_path):
    content = json.loads(toy_tokenizer().to_str())
    content["model"]["vocab"]["huge"] = 3_000_000_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"tokenizer\.json: has the id 3,000,000,000; take a tokenizer with ids below"):
        CaptionTokenizer.load(str(tmp_path))


@attack(53)
@pytest.mark.parametrize("way", ["encode", "lengths", "ids"])
def test_a_pattern_that_the_library_gives_up_names_the_file(tmp_path, way):
    tokenizer = toy_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a|aa)+$"), "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = CaptionTokenizer.load(str(tmp_path))
    caption = "a" * 60 + "b"
    with pytest.raises(DataError, match=r"tokenizer\.json: is not a tokenizer that works") as caught:
        getattr(text, way)(*{"encode": ([caption], 99), "lengths": ([caption],), "ids": (caption,)}[way])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"model": ' + b"9" * 5000])
def test_a_broken_tokenizer_is_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json: is not a tokenizer") as caught:
        CaptionTokenizer.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_is_a_file_of_a_sensible_size(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(FileError, match="is not a regular file"):
        CaptionTokenizer.load(str(tmp_path))
    monkeypatch.setattr("bridgetower_train.data.text.LONGEST_FILE", 100)
    toy_tokenizer().save(str(tmp_path / "other.json"))
    with pytest.raises(FileError, match="has more than 100 bytes"):
        CaptionTokenizer.load(str(tmp_path / "other.json"))


def test_truncation_and_padding_of_the_file_are_ignored(tmp_path):
    tokenizer = toy_tokenizer()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=30)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids, mask = CaptionTokenizer.load(str(tmp_path)).encode(["word1 word2 word3"], 8)
    assert mask.sum() == 5
    assert ids[0, 4:].tolist() == [2, 1, 1, 1]


def test_it_may_be_pickled_and_forked_without_a_warning(tmp_path, capfd):
    toy_tokenizer().save(str(tmp_path / "tokenizer.json"))
    text = CaptionTokenizer.load(str(tmp_path))
    expected = text.encode(["word1 word2"] * 8, 6)[0].tolist()
    assert pickle.loads(pickle.dumps(text)).encode(["word1 word2"] * 8, 6)[0].tolist() == expected
    with multiprocessing.get_context("fork").Pool(1) as pool:
        ids, _ = pool.apply(text.encode, (["word1 word2"] * 8, 6))
    assert ids.tolist() == expected
    assert "TOKENIZERS_PARALLELISM" not in capfd.readouterr().err
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
