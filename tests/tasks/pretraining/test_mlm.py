"""Masked language modelling by itself."""

import pytest
import torch

from bridgetower_train.tasks.pretraining.masking import IGNORE
from bridgetower_train.tasks.pretraining.mlm import mlm_loss


def test_sums_over_the_masked_tokens():
    logits = torch.randn(2, 3, 11, dtype=torch.float64)
    labels = torch.tensor([[4, IGNORE, 7], [0, IGNORE, IGNORE]])
    loss, right = mlm_loss(logits, labels)
    chances = logits.softmax(-1)
    expected = -(chances[0, 0, 4].log() + chances[0, 2, 7].log() + chances[1, 0, 0].log())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    best = logits.argmax(-1)
    assert right.item() == int(best[0, 0] == 4) + int(best[0, 2] == 7) + int(best[1, 0] == 0)


def test_no_masked_token_is_no_loss():
    loss, right = mlm_loss(torch.randn(1, 2, 11), torch.full((1, 2), IGNORE))
    assert loss.item() == 0
    assert right.item() == 0


def test_in_float32_whatever_the_logits_are():
    logits = torch.randn(1, 2, 11).bfloat16()
    loss, _ = mlm_loss(logits, torch.tensor([[1, 2]]))
    assert loss.dtype == torch.float32
    assert loss.item() == mlm_loss(logits.float(), torch.tensor([[1, 2]]))[0].item()
