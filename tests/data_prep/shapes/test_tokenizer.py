"""The small tokenizer: RoBERTa's layout, whole words, any text."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from bridgetower_train.data.text import CaptionTokenizer
from data_prep.shapes.corpus import ShapesConfig, run
from data_prep.shapes.scene import ALL, Dice, make_scene
from data_prep.shapes.text import WORDS, captions
from data_prep.shapes.tokenizer import train_tokenizer


def shapes_captions(records: int, held: bool = False) -> list[str]:
    texts = []
    for record in range(records):
        dice = Dice(0, "shapes_heldout" if held else "shapes", record)
        texts += captions(make_scene(dice, held), dice)
    return texts


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(shapes_captions(2000), 512)


def test_layout_is_robertas(tokenizer: Tokenizer) -> None:
    size = tokenizer.get_vocab_size()
    assert size <= 512
    assert [tokenizer.id_to_token(token) for token in (0, 1, 2, 3, size - 1)] == [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
    ]
    assert tokenizer.encode("a red star").tokens == ["<s>", "a", "Ġred", "Ġstar", "</s>"]
    assert tokenizer.encode("a <mask> star").tokens == ["<s>", "a", " <mask>", "Ġstar", "</s>"]
    assert tokenizer.encode("a <mask> star").ids[2] == size - 1


def test_every_word_of_the_captions_is_one_token(tokenizer: Tokenizer) -> None:
    words = {word for wordings in WORDS.values() for wording in wordings for word in wording.split()}
    for word in {*ALL.colours, *ALL.shapes, *words}:
        assert tokenizer.encode(f" {word}", add_special_tokens=False).tokens == [f"Ġ{word}"]
    texts = shapes_captions(200, held=True)
    for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert len(encoding.ids) == len(text.split()) + text.count(",") + 2 <= 32


def test_the_same_captions_give_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(iter(shapes_captions(2000)), 512).to_str() == tokenizer.to_str()


@settings(max_examples=200)
@given(st.text())
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if "<" not in text:
        assert tokenizer.decode(ids) == text
        assert 3 not in ids


def test_transformers_and_the_loader_read_it(tmp_path: Path) -> None:
    run(ShapesConfig(out=str(tmp_path), records=300, heldout=1, workers=1))
    path = tmp_path / "shapes" / "tokenizer.json"
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    texts = ["a red star", "a large striped blue ring above a small dotted green moon"]
    padded = theirs(texts, padding=True)["input_ids"]
    assert padded[0] == [0, *theirs.convert_tokens_to_ids(["a", "Ġred", "Ġstar"]), 2] + [1] * (len(padded[1]) - 5)
    assert theirs.decode(padded[1], skip_special_tokens=True) == texts[1]
    assert theirs.mask_token_id == theirs.vocab_size - 1
    ours = CaptionTokenizer.load(str(path))
    ids, mask = ours.encode(texts, len(padded[1]))
    assert ids.tolist() == padded
    assert mask.sum(1).tolist() == [5, len(padded[1])]
    assert ours.vocab_size == len(theirs)
