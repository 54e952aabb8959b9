"""A small tokenizer for tests that do not need RoBERTa's."""

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from bridgetower_train.data.text import CaptionTokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def toy_tokenizer(special=SPECIAL, words=()):
    """Word-level tokenizer of `words` and a few others, `special` first."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [*words, *(f"word{i}" for i in range(200)), "caption", "of", "image", *map(str, range(100))]
    tokenizer.train_from_iterator(words, trainers.WordLevelTrainer(special_tokens=list(special)))
    return tokenizer


def toy_text():
    return CaptionTokenizer(toy_tokenizer())
