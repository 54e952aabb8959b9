"""A small BPE tokenizer with RoBERTa's layout, trained on the captions of a corpus."""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

_FIRST = ["<s>", "<pad>", "</s>", "<unk>"]
_MASK = AddedToken("<mask>", lstrip=True, special=True)


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, then bytes and words, and `<mask>` last.

    It has at most `vocab_size` entries (at least 261), encodes any text, since it has all 256 bytes, and puts it between
    `<s>` and `</s>`. The same captions give the same tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=_FIRST,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary["<mask>"] = len(vocabulary)  # the trainer can only put special tokens first
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([_MASK])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer
