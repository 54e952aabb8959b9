"""Activation checkpointing."""

from dataclasses import replace

import torch
from helpers import gradients, pretraining, random_batch
from torch import Tensor

from bridgetower_train.config import ObjectiveConfig
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.model.attention import sdpa
from tests.tiny import SMALL

calls: list[torch.Size] = []


def counted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    calls.append(q.shape)
    return sdpa(q, k, v, mask, dropout_p)


def run(checkpointed: bool) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients and calls of the attention function of one step with dropout."""
    torch.manual_seed(0)
    task = pretraining(replace(SMALL, dropout=0.1), ObjectiveConfig(itc_dim=16), attention=counted)
    if checkpointed:
        checkpoint_blocks(task.model)
    batch = random_batch(SMALL, 4)
    calls.clear()
    loss, _ = task.losses(batch, task.counts(batch))
    loss.backward()
    return loss.item(), gradients(task), len(calls)


def test_same_gradients_with_dropout():
    loss, expected, plain_calls = run(checkpointed=False)
    again, actual, calls_checkpointed = run(checkpointed=True)
    assert again == loss
    assert actual.keys() == expected.keys(), "parameters keep their names"
    for name, gradient in actual.items():
        assert torch.equal(gradient, expected[name]), name
    assert calls_checkpointed == 2 * plain_calls, "every block is computed again"
