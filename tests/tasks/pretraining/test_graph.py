"""A whole step without data: a host sync, or a shape that depends on data, raises under FakeTensorMode."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import pretraining, random_batch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from bridgetower_train.config import DeviceConfig, GuardsConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines import NativeEngine
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.tasks import Contrast
from bridgetower_train.tasks.base import whole
from bridgetower_train.training.guards import UpdateGuard
from bridgetower_train.training.step import backward, update
from tests.tiny import SMALL


def step(objective: ObjectiveConfig, micro_batches: int = 1) -> None:
    """Counts, forward, backward, clipping, update: all that an engine does between two lines of metrics."""
    mode = FakeTensorMode()
    real = random_batch(SMALL, 4)
    with mode:
        batch = Batch.of({name: mode.from_tensor(value) for name, value in real.tensors().items()})
        task = pretraining(SMALL, objective)
        device = CpuDevice(DeviceConfig(), 0)
        engine = NativeEngine(task, device, Ranks(0, 1, None), OptimConfig(clip_norm=1.0))
        guard = UpdateGuard(GuardsConfig(max_grad_norm_ratio=5.0), device.torch_device)
        for _ in range(2):
            backward(engine, [batch] * micro_batches, Contrast(4 * micro_batches, 4, micro_batches, 1), device.seed)
            update(engine, guard)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("negatives", ["random", "hard"])
@pytest.mark.parametrize("form", ["hf", "symmetric", "ms"])
def test_step_needs_no_data(form: str, negatives: str, micro_batches: int):
    step(ObjectiveConfig(itc_form=form, itm_negatives=negatives, itc_dim=16), micro_batches)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda loss, text: loss * loss.item(), DataDependentOutputException),
        (lambda loss, text: loss + text.cls[text.cls > 0].sum(), DynamicOutputShapeException),
    ],
    ids=["host sync", "dynamic shape"],
)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, spoil, error: type[Exception]):
    encode_text = BridgeTower.encode_text

    def spoilt(self, ids, mask):
        text = encode_text(self, ids, mask)
        spoil(text.cls.sum(), text)
        return text

    monkeypatch.setattr(BridgeTower, "encode_text", spoilt)
    with pytest.raises(error):
        step(ObjectiveConfig(itc_dim=16))


def test_step_is_one_graph_for_the_compiler():
    shallow = replace(SMALL, vision_layers=2, text_layers=2)
    task, batch = pretraining(shallow, ObjectiveConfig(itm_negatives="hard", itc_dim=16)), random_batch(shallow, 4)
    totals = task.counts(batch)
    torch.manual_seed(0)
    expected, _, _ = task(batch, totals)
    compiled = torch.compile(task, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.manual_seed(0)
    loss, metrics = whole(compiled(batch, totals), partial(task.across, totals=totals, among=4))
    loss.backward()
    assert (loss - metrics["loss_itc"]).item() == pytest.approx(expected.item(), abs=1e-6)
    assert task.model.head("logit_scale").grad is not None
