"""Our step on PyTorch's own lazy backend, the nearest thing to HPU lazy mode that compiles graphs without the hardware."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from helpers import pretraining, random_batch
from torch._lazy import mark_step, metrics, ts_backend

from bridgetower_train.config import ObjectiveConfig
from bridgetower_train.model import heads, precision
from bridgetower_train.tasks.pretraining import itc
from tests.tiny import SMALL

LACKING = {"aten::any.dim", "aten::argmax", "aten::bitwise_not", "aten::index_add", "aten::where.self"}
"""Operators of our step that the backend has no kernel for, and so runs on the CPU (the vendor's has)."""


def attention(q_BHQE, k_BHTE, v_BHTE, mask, dropout_p):
    """Written out: torch's own falls back for what guards it against masks that hide everything."""
    logits = q_BHQE @ k_BHTE.transpose(-2, -1) * q_BHQE.shape[-1] ** -0.5
    return (logits if mask is None else logits + mask).softmax(-1) @ v_BHTE


def chunk(t, parts, dim=0):
    """Views into equal parts: what the backend makes of torch's own lies on the CPU."""
    size = t.shape[dim] // parts
    return [t.narrow(dim, part * size, size) for part in range(parts)]


def split(t, sizes, dim=0):
    """Views into parts of `sizes`, likewise."""
    return [t.narrow(dim, sum(sizes[:part]), size) for part, size in enumerate(sizes)]


def unbind(t, dim=0):
    """Views of all rows, likewise."""
    return [t.select(dim, row) for row in range(t.shape[dim])]


@pytest.fixture(scope="session", autouse=True)
def lazy_device():
    """The backend, which a process can have but once."""
    ts_backend.init()


@pytest.mark.parametrize("negatives", ["random", "hard"])
def test_every_step_is_a_graph_that_is_there(monkeypatch, negatives):
    """With SGD: the backend has no lerp, which AdamW takes, and no autocast, which is off here in any case.

    The weights of the losses are integers: it would make a scalar times 1.0 a double.
    """
    for module in (heads, itc):
        monkeypatch.setattr(module, "no_autocast", lambda x: nullcontext())
    monkeypatch.setattr(precision, "computed_in", lambda x: x.dtype)
    for name, function in (("chunk", chunk), ("split", split), ("unbind", unbind)):
        monkeypatch.setattr(torch.Tensor, name, function)
    config = replace(SMALL, width=64, vision_layers=1, text_layers=1, fusion_layers=1)
    task = pretraining(config, ObjectiveConfig(1, 1, 1, itc_dim=16, itm_negatives=negatives), attention).to("lazy")
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-3, foreach=False)
    mark_step()
    compiled = []
    metrics.reset()
    for step, length in enumerate((12, 12, 8, 12, 8, 12, 8)):
        batch = random_batch(replace(config, max_text_len=length), 4, seed=step).to(torch.device("lazy"))
        loss, _ = task.losses(batch, task.counts(batch))
        loss.backward()
        mark_step()
        optimizer.step()
        optimizer.zero_grad()
        mark_step()
        compiled.append(metrics.counter_value("UncachedCompile") if "UncachedCompile" in metrics.counter_names() else 0)
    # The first step reads weights that were copied there, the second those that an update left; the third has shorter texts.
    assert 0 < compiled[0] < compiled[1] < compiled[2]
    assert compiled[3:] == compiled[2:3] * 4
    assert {name for name in metrics.counter_names() if name.startswith("aten::")} <= LACKING
