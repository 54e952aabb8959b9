"""`bridgetower bench buckets`."""

import numpy as np
import pytest

from bridgetower_train.bench.buckets import bucket_shares
from bridgetower_train.cli import main


def test_shares_are_those_of_drawn_batches():
    lengths, paddings = np.array([5, 7, 9, 9, 12, 20]), np.array([8, 16, 24])
    drawn = np.random.default_rng(0).choice(lengths, (20000, 3)).max(axis=1)
    expected = np.diff([(drawn <= p).mean() for p in paddings], prepend=0)
    assert bucket_shares(lengths, paddings, 3) == pytest.approx(expected, abs=0.01)
    assert bucket_shares(lengths, paddings, 1) == pytest.approx([1 / 3, 1 / 2, 1 / 6])


def test_command(shapes_root, capsys):
    tokenizer = f"{shapes_root}/shapes/tokenizer.json"
    options = [f"corpus={shapes_root}/shapes", f"tokenizer={tokenizer}", "model=tiny", "micro_batches=[1]", "ranks=[1]"]
    assert main(["bench", "buckets", *options, "buckets=[12,28]"]) == 0
    said = capsys.readouterr().out
    assert "captions  480 of" in said
    assert "graphs    3: texts of 12, 28, 40 tokens" in said
    assert main(["bench", "buckets", *options, "buckets=[24,48]"]) == 2
    assert "buckets=[24, 48]: must ascend" in capsys.readouterr().err
