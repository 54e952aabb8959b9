"""Activation checkpointing."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from helpers import gradients, pretraining, random_batch
from torch import Tensor

from bridgetower_train.config import ObjectiveConfig
from bridgetower_train.devices import Device
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.model.attention import sdpa
from tests.tiny import SMALL

events: list[str] = []


def counted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    events.append("attention")
    return sdpa(q, k, v, mask, dropout_p)


class Lazy:
    """As much of a device as activation checkpointing asks for."""

    execution = "lazy"

    def mark_step(self) -> None:
        """Where a graph ends."""
        events.append("mark")


def run(checkpointed: bool, device: Device | None = None) -> tuple[float, dict[str, Tensor], list[str]]:
    """Loss, gradients and events of one step with dropout."""
    torch.manual_seed(0)
    task = pretraining(replace(SMALL, dropout=0.1), ObjectiveConfig(itc_dim=16), attention=counted)
    if checkpointed:
        checkpoint_blocks(task.model, device)
    batch = random_batch(SMALL, 4)
    events.clear()
    loss, _ = task.losses(batch, task.counts(batch))
    events.append("backward")
    loss.backward()
    return loss.item(), gradients(task), list(events)


@pytest.mark.parametrize("lazy", [False, True])
def test_same_gradients_with_dropout(lazy):
    loss, expected, plain = run(checkpointed=False)
    again, actual, checkpointed = run(checkpointed=True, device=cast(Device, Lazy()) if lazy else None)
    assert again == loss
    assert actual.keys() == expected.keys(), "parameters keep their names"
    for name, gradient in actual.items():
        assert torch.equal(gradient, expected[name]), name
    assert checkpointed.count("attention") == 2 * plain.count("attention"), "every block is computed again"


def test_a_lazy_graph_ends_before_each_block_is_computed_again():
    _, _, plain = run(checkpointed=True)
    _, _, lazy = run(checkpointed=True, device=cast(Device, Lazy()))
    forward = lazy.index("backward")
    assert "mark" not in lazy[:forward], "the forward pass remains one graph"
    assert [event for event in lazy if event != "mark"] == plain
    # Of the fusion, blocks attend twice, and where few rows are read without this function; the last text block is called twice.
    before, *blocks = "".join("|" if event == "mark" else "a" for event in lazy[forward + 1 :]).split("|")
    assert before == ""
    assert len(blocks) == SMALL.vision_layers + SMALL.text_layers + 2 * SMALL.fusion_layers + 1
    assert max(blocks) == "aa"
