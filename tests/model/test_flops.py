"""The formulas for FLOPs against PyTorch's own counter."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from helpers import random_batch, relabelled, run_config
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from bridgetower_train.bench.hugging_face import separate_flops
from bridgetower_train.config import ModelConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.model.flops import forward_flops
from bridgetower_train.tasks import first_pass_flops, step_flops
from bridgetower_train.tasks.pretraining import Pretraining
from tests.tiny import SMALL

PAIRS = 2
OBJECTIVES = {
    "hf": ObjectiveConfig(itc_dim=16),
    "ms": ObjectiveConfig(itc_dim=16, itc_form="ms"),
    "mlm_itm": ObjectiveConfig(itc=0),
    "mlm": ObjectiveConfig(itm=0, itc=0),
    "itc": ObjectiveConfig(mlm=0, itm=0),
}


def plain_attention(q, k, v, mask, dropout_p):
    """In products that the counter knows on every device."""
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def made(config: ModelConfig, objective: ObjectiveConfig) -> Batch:
    """A batch with as many masked places as the loader makes."""
    places = int(-(-objective.mlm_probability * (config.max_text_len - 2) // 1))
    batch, kept = random_batch(config, PAIRS), config.kept_patches
    batch = replace(batch, patches=None if kept is None else torch.arange(kept).repeat(PAIRS, 1))
    labels = {name: batch.labels[name][:, :1].repeat(1, places) for name in ("mlm_positions", "mlm_labels")}
    return relabelled(batch, **labels)


def formula(config: ModelConfig, objective: ObjectiveConfig) -> float:
    """Forward FLOPs per pair."""
    return forward_flops(config, Pretraining.work(run_config(config, objective)))


def counted(config: ModelConfig, objective: ObjectiveConfig, freeze: Sequence[str] = ()) -> tuple[int, int]:
    """(forward, forward and backward) FLOPs of a step, without computing anything."""
    batch = made(config, objective)
    with FakeTensorMode(allow_non_fake_inputs=True):
        run = replace(run_config(config, objective), optim=OptimConfig(freeze=list(freeze)))
        task = Pretraining(run, plain_attention)
        with FlopCounterMode(display=False) as forward:
            loss, _ = task.losses(batch, torch.ones(3))
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


@pytest.mark.parametrize(("name", "patch_dropout"), [*((name, 0.0) for name in OBJECTIVES), ("hf", 0.5)])
def test_small(name: str, patch_dropout: float):
    config = replace(SMALL, patch_dropout=patch_dropout)
    forward, _ = counted(config, OBJECTIVES[name])
    assert forward / PAIRS == pytest.approx(formula(config, OBJECTIVES[name]), rel=0.02)


def test_base():
    config = ModelConfig(vocab_size=50265)
    forward, step = counted(config, ObjectiveConfig())
    assert forward / PAIRS == pytest.approx(formula(config, ObjectiveConfig()), rel=0.005)
    # The first products of the towers have no gradient to hand on.
    assert step / PAIRS == pytest.approx(step_flops(run_config(config, ObjectiveConfig())), rel=0.02)


@pytest.mark.parametrize(
    "freeze",
    [
        ["image"],
        ["text"],
        ["image:6"],
        ["text:4"],
        ["image", "text"],
        ["fusion"],
        ["image", "text", "fusion"],
        ["heads"],
    ],
    ids="+".join,
)
def test_what_is_frozen_costs_no_gradient(freeze: list[str]):
    config = ModelConfig(vocab_size=50265)
    _, step = counted(config, ObjectiveConfig(), freeze)
    run = replace(run_config(config, ObjectiveConfig()), optim=OptimConfig(freeze=freeze))
    assert step / PAIRS == pytest.approx(step_flops(run), rel=0.03)


@pytest.mark.parametrize("name", ["hf", "ms"])
def test_the_pass_that_embeds(name: str):
    """Without what it leaves out: the states for MLM, with form `ms` the fusion encoder."""
    config, objective = ModelConfig(vocab_size=50265), OBJECTIVES[name]
    batch = made(config, objective)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        task = Pretraining(run_config(config, objective), plain_attention)
        with FlopCounterMode(display=False) as counter:
            task.embed(batch)
    planned = first_pass_flops(run_config(config, objective))
    assert counter.get_total_flops() / PAIRS == pytest.approx(planned, rel=0.005)


def test_published_figures():
    large = ModelConfig(294, 14, 1024, 24, 24, 6, vocab_size=50265)
    gflops = {name: value / 1e9 for name, value in separate_flops(large, ObjectiveConfig()).items()}
    assert gflops["itm"] == pytest.approx(428.3, abs=0.1)
    assert gflops["mlm"] == pytest.approx(428.3 + 5.25, abs=0.1)
