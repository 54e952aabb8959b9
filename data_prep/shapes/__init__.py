"""The drawn corpus: images, captions and a tokenizer from a seed, without a download."""
