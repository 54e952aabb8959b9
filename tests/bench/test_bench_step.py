"""`bridgetower bench step` on a tiny model."""

import pytest
import torch
from helpers import pretraining

from bridgetower_train.bench.hugging_face import HuggingFaceHeads
from bridgetower_train.bench.kit import random_batch
from bridgetower_train.bench.step import BenchStepConfig, losses, run
from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig
from bridgetower_train.devices import make_device
from bridgetower_train.errors import ConfigError

TINY = ModelConfig(
    image_size=32, patch_size=8, width=64, vision_layers=2, text_layers=2, fusion_layers=2, max_text_len=20,
    text_positions=32, vocab_size=99, dropout=0.0,
)  # fmt: skip
CPU = DeviceConfig(name="cpu")


def test_both_ways_give_the_same_loss():
    """What makes the comparison fair."""
    torch.manual_seed(0)
    task = pretraining(TINY, ObjectiveConfig())
    batch = random_batch(task.config, 4)
    passes = losses(task, HuggingFaceHeads(task.model, task.config), batch, make_device(CPU)[0])
    joint = passes.pop("joint")()
    assert joint.item() == pytest.approx(sum(loss().item() for loss in passes.values()), abs=1e-5)


def test_prints_times_and_ratios(capsys: pytest.CaptureFixture[str]):
    run(BenchStepConfig(batch=2, repeats=1, model=TINY, device=CPU))
    printed = capsys.readouterr().out
    assert printed.count("joint is") == 2
    for word in ("joint step", "same losses", "one ITM pair per text", "GFLOP/pair", "TFLOP/s"):
        assert word in printed


def test_other_objectives_have_nothing_to_be_compared_with():
    with pytest.raises(ConfigError, match="compare=false"):
        BenchStepConfig(objective=ObjectiveConfig(itc_form="ms"))
    run(BenchStepConfig(batch=2, repeats=1, compare=False, model=TINY, objective=ObjectiveConfig(itc=0), device=CPU))
