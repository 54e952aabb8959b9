"""The joint step: what is shared equals what is computed apart, whatever the forms, micro-batches and ranks."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import gradients, heads, part, pretraining, random_batch, randomize, relabelled, run_ranks
from torch import Tensor, nn

from bridgetower_train.bench.hugging_face import HuggingFaceHeads
from bridgetower_train.config import ModelConfig, ObjectiveConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.model.attention import sdpa
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.tasks.base import whole
from bridgetower_train.tasks.pretraining import Pretraining
from tests.tiny import SMALL

FORMS = ("hf", "symmetric", "ms")

OBJECTIVES = {
    **{
        f"{form} {negatives}": ObjectiveConfig(itc_form=form, itm_negatives=negatives, itc_dim=16)
        for form in FORMS
        for negatives in ("random", "hard")
    },
    "mlm+itm": ObjectiveConfig(itc=0),
    "mlm+itc": ObjectiveConfig(itm=0, itc_dim=16),
    "mlm+itc ms": ObjectiveConfig(itm=0, itc_dim=16, itc_form="ms"),
    "itm+itc": ObjectiveConfig(mlm=0, itc_dim=16),
    "mlm": ObjectiveConfig(itm=0, itc=0),
    "itm": ObjectiveConfig(mlm=0, itc=0),
    "itc": ObjectiveConfig(mlm=0, itm=0, itc_dim=16),
}  # fmt: skip


def make_task(
    objective: ObjectiveConfig, config: ModelConfig = SMALL, dtype: torch.dtype = torch.float64
) -> Pretraining:
    """The same random weights for every objective, all parameters away from their start."""
    torch.manual_seed(0)
    whole = BridgeTower(config, heads(itc_dim=16))
    randomize(whole)
    weights = whole.state_dict()
    task = pretraining(config, objective)
    task.model.load_state_dict({name: weights[name] for name in task.model.state_dict()})
    return task.to(dtype)


def run(task: Pretraining, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and gradients of one micro-batch that is the whole step."""
    task.zero_grad()
    loss, metrics = task.losses(batch, task.counts(batch))
    loss.backward()
    return {name: value.item() for name, value in metrics.items()}, gradients(task)


def distinct(size: int) -> Batch:
    """A batch without rows of the same image."""
    rows = torch.arange(size)
    return replace(relabelled(random_batch(SMALL, size), itm_negative=rows.roll(1)), image_id=rows)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        difference = (value - expected[name]).abs().max().item()
        assert difference < tolerance, f"{name}: differs by {difference:.1e}"


def test_three_naive_passes_of_hugging_face():
    task, batch = make_task(ObjectiveConfig(itc_dim=16)), distinct(4)
    metrics, ours = run(task, batch)
    task.zero_grad()
    heads = HuggingFaceHeads(task.model, task.config)
    mlm, itc = heads.mlm_loss(batch), heads.itc_loss(batch)
    itm = (
        heads.itm_loss(batch, batch.pixel_values, 1)
        + heads.itm_loss(batch, batch.pixel_values[batch.labels["itm_negative"]], 0)
    ) / 2
    (mlm + itm + itc).backward()
    assert metrics["loss_mlm"] == pytest.approx(mlm.item(), abs=1e-10)
    assert metrics["loss_itm"] == pytest.approx(itm.item(), abs=1e-10)
    assert metrics["loss_itc"] == pytest.approx(itc.item(), abs=1e-10)
    assert_same(ours, gradients(task), 1e-10)


def test_hard_negatives_on_both_sides(monkeypatch: pytest.MonkeyPatch):
    """Three naive passes: each image with its text, each text with a wrong image, each image with a wrong text; equal weights."""
    task, batch = make_task(ObjectiveConfig(itc_dim=16, itm_negatives="hard")), distinct(4)
    drawn = [torch.tensor([2, 0, 3, 1]), torch.tensor([1, 3, 0, 2])]
    sides, similarities = iter(drawn), []

    def given(similarity: Tensor, other: Tensor, hard: Tensor) -> Tensor:
        similarities.append(similarity)
        return next(sides)

    monkeypatch.setattr("bridgetower_train.tasks.pretraining.task.hard_negatives", given)
    metrics, ours = run(task, batch)
    assert torch.equal(similarities[0], similarities[1].T)
    assert not similarities[0].requires_grad
    task.zero_grad()
    heads = HuggingFaceHeads(task.model, task.config)
    images, texts = drawn
    swapped = replace(batch, input_ids=batch.input_ids[texts], text_mask=batch.text_mask[texts])
    itm = (
        heads.itm_loss(batch, batch.pixel_values, 1)
        + heads.itm_loss(batch, batch.pixel_values[images], 0)
        + heads.itm_loss(swapped, batch.pixel_values, 0)
    ) / 3
    (heads.mlm_loss(batch) + itm + heads.itc_loss(batch)).backward()
    assert metrics["loss_itm"] == pytest.approx(itm.item(), abs=1e-10)
    assert_same(ours, gradients(task), 1e-10)


def test_rows_without_a_negative_have_no_weight():
    """Rows 2 and 3 show one image and rows 0, 1 and 4 have one text: 0, 1, 4 can only be paired with 2 and 3, and back."""
    hard = make_task(ObjectiveConfig(itc_dim=16, itm_negatives="hard"))
    batch = relabelled(random_batch(SMALL, 5), text_id=torch.tensor([1, 1, 2, 3, 1]))
    masked = (batch.labels["mlm_labels"] != -100).sum().item()
    assert hard.counts(batch).tolist() == [5, masked, 15]
    assert hard.counts(relabelled(batch, text_id=torch.ones(5, dtype=torch.int64))).tolist() == [5, masked, 5]
    metrics, _ = run(hard, relabelled(batch, text_id=torch.ones(5, dtype=torch.int64)))
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("form", ["hf", "symmetric"])
def test_three_tasks_of_one_loss_each(form: str):
    batch = random_batch(SMALL, 5)
    weights = {"mlm": 1.0, "itm": 0.5, "itc": 0.25}
    metrics, joint = run(make_task(ObjectiveConfig(**weights, itc_form=form, itc_dim=16)), batch)
    total, summed = 0.0, {name: torch.zeros_like(gradient) for name, gradient in joint.items()}
    for name, weight in weights.items():
        alone, part_of_it = run(
            make_task(ObjectiveConfig(**(dict.fromkeys(weights, 0.0) | {name: 1.0}), itc_form=form, itc_dim=16)), batch
        )
        assert alone[f"loss_{name}"] == pytest.approx(metrics[f"loss_{name}"], abs=1e-10)
        total += weight * alone["loss"]
        for key, gradient in part_of_it.items():
            summed[key] += weight * gradient
    assert metrics["loss"] == pytest.approx(total, abs=1e-10)
    assert_same(joint, summed, 1e-10)


def test_one_fusion_layer_is_first_and_last():
    config = replace(SMALL, fusion_layers=1)
    batch = random_batch(SMALL, 4)
    metrics, _ = run(make_task(ObjectiveConfig(itc_dim=16), config), batch)
    for name in ("mlm", "itm", "itc"):
        zero = {"mlm": 0.0, "itm": 0.0, "itc": 0.0}
        alone, _ = run(make_task(ObjectiveConfig(**(zero | {name: 1.0}), itc_dim=16), config), batch)
        assert alone[f"loss_{name}"] == pytest.approx(metrics[f"loss_{name}"], abs=1e-10)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_parameter_gets_a_gradient(name: str):
    task = make_task(OBJECTIVES[name])
    _, found = run(task, random_batch(SMALL, 5))
    trainable = {key for key, parameter in task.named_parameters() if parameter.requires_grad}
    assert found.keys() == trainable
    for key, gradient in found.items():
        if not key.endswith(".key.bias"):  # adds the same to every logit of a softmax
            assert gradient.abs().max() > 0, key
    frozen = {key for key, parameter in task.named_parameters() if not parameter.requires_grad}
    assert bool(frozen) == (name in ("mlm", "mlm+itc ms")), "only what no loss reads is frozen"


def test_metrics():
    task, batch = make_task(ObjectiveConfig(itc_dim=16)), random_batch(SMALL, 5)
    loss, metrics = task.losses(batch, task.counts(batch))
    assert set(metrics) == {
        "loss", "loss_mlm", "loss_itm", "loss_itc", "acc_mlm", "acc_itm", "recall_itc", "logit_scale",
    }  # fmt: skip
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
    assert metrics["loss"].item() == loss.item()
    assert metrics["logit_scale"].item() == pytest.approx(task.model.head("logit_scale").exp().item())


def test_counts():
    batch = random_batch(SMALL, 5)
    alone = relabelled(batch, itm_negative=batch.labels["itm_negative"].index_fill(0, torch.tensor([1]), 1))
    masked = (batch.labels["mlm_labels"] != -100).sum().item()
    assert make_task(ObjectiveConfig(itc_dim=16)).counts(alone).tolist() == [5, masked, 9]
    hard = make_task(ObjectiveConfig(itc_dim=16, itm_negatives="hard"))
    assert hard.counts(alone).tolist() == [5, masked, 15]
    assert hard.counts(replace(alone, image_id=torch.tensor([1, 1, 1, 1, 1]))).tolist() == [5, masked, 5]


def test_micro_batches_add_up():
    task, batch = make_task(ObjectiveConfig(itc=0)), random_batch(SMALL, 6)
    batch = relabelled(batch, itm_negative=torch.tensor([1, 0, 2, 4, 3, 3]))
    expected, exact = run(task, batch)
    parts = [part(batch, slice(0, 3)), part(batch, slice(3, 6))]
    totals = torch.stack([task.counts(p) for p in parts]).sum(0)
    task.zero_grad()
    summed = dict.fromkeys(expected, 0.0)
    for micro_batch in parts:
        loss, metrics, _ = task(micro_batch, totals)
        metrics |= {"loss": loss.detach()}
        loss.backward()
        summed = {name: summed[name] + value.item() for name, value in metrics.items()}
    assert summed == pytest.approx(expected, abs=1e-10)
    assert_same(gradients(task), exact, 1e-10)


def neighbours(size: int) -> Batch:
    """Negatives within each two rows; rows 2 and 3 show the same image and so have none."""
    rows = torch.arange(size)
    return relabelled(random_batch(SMALL, size), itm_negative=torch.where((rows == 2) | (rows == 3), rows, rows ^ 1))


def averaged(rank: int, world_size: int) -> dict[str, tuple[dict[str, float], dict[str, Tensor]]]:
    """Form -> this rank's metrics and the gradients that DistributedDataParallel leaves."""
    size = 8 // world_size
    batch = part(neighbours(8), slice(rank * size, (rank + 1) * size))
    results = {}
    for form in FORMS:
        task = make_task(ObjectiveConfig(itc_form=form, itc_dim=16))
        totals = task.counts(batch)
        module: nn.Module = task
        if world_size > 1:
            torch.distributed.all_reduce(totals)
            module = nn.parallel.DistributedDataParallel(task)
        loss, metrics = whole(module(batch, totals), partial(task.across, totals=totals, among=8))
        loss.backward()
        results[form] = ({name: value.item() for name, value in metrics.items()}, gradients(task))
    return results


def test_ranks_agree_with_one_process():
    world_size = 2
    alone = averaged(0, 1)
    ranks = run_ranks(averaged, world_size, world_size)
    for form, (metrics, expected) in alone.items():
        mean = {name: sum(result[form][0][name] for result in ranks) / world_size for name in metrics}
        assert mean == pytest.approx(metrics, abs=1e-7)  # counts are divided in float32
        for result in ranks:
            assert_same(result[form][1], expected, 1e-10)


def test_dropout_drops():
    task = pretraining(replace(SMALL, dropout=0.1), ObjectiveConfig(itc_dim=16), attention=note_dropout)
    batch = random_batch(SMALL, 8)
    totals = task.counts(batch)
    zeros: list[float] = []
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(
                lambda _module, _inputs, output: zeros.append((output == 0).float().mean().item())
            )
    noted.clear()
    first, second = task.losses(batch, totals)[0], task.losses(batch, totals)[0]
    assert first.item() != second.item()
    assert sum(zeros) / len(zeros) == pytest.approx(0.1, abs=0.01)
    assert min(zeros) > 0.02
    vision = SMALL.vision_layers
    assert noted[:vision] == [0.0] * vision, "the image tower has no dropout"
    assert set(noted[vision : len(noted) // 2]) == {0.1}
    noted.clear()
    task.eval()
    assert task.losses(batch, totals)[0].item() == task.losses(batch, totals)[0].item()
    assert set(noted) == {0.0}


noted: list[float] = []


def note_dropout(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    noted.append(dropout_p)
    return sdpa(q, k, v, mask, dropout_p)


def test_losses_are_in_float32_under_autocast():
    task, batch = make_task(ObjectiveConfig(itc_dim=16), dtype=torch.float32), random_batch(SMALL, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = task.losses(batch, task.counts(batch))
    assert {value.dtype for value in metrics.values()} == {torch.float32}
    exact, _ = task.losses(batch, task.counts(batch))
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
