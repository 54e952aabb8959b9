"""The tiny models of the tests, and the keys of a run that trains one."""

from dataclasses import asdict

from bridgetower_train.config import ModelConfig

SMALL = ModelConfig(
    image_size=32, patch_size=8, width=128, vision_layers=4, text_layers=4, fusion_layers=2, max_text_len=12,
    text_positions=20, vocab_size=99, dropout=0.0,
)  # fmt: skip
"""Deep enough to tell layers and heads apart: 17 image tokens, two heads."""

TINY_MODEL = ModelConfig(
    image_size=32, patch_size=16, width=64, vision_layers=1, text_layers=1, fusion_layers=1, max_text_len=24
)
"""The least that is a BridgeTower: one layer of each kind, one head, the tokenizer's vocabulary, dropout."""

TINY = [
    *(f"model.{key}={value}" for key, value in asdict(TINY_MODEL).items() if value is not None),
    "global_batch=8", "data.lanes=4", "data.shuffle_window=64", "log_every=1", "tensorboard=false", "device=cpu",
    "optim.lr=1e-3",
]  # fmt: skip
"""What `bridgetower train` is given to train `TINY_MODEL` on the CPU; for the rest its defaults hold."""
