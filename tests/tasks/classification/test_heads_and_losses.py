"""Heads, losses and targets of the tasks, against plain loops."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import random_batch, randomize
from torch import Tensor

from bridgetower_train.config import ClassifierConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.model.bridgetower import TOKEN_TYPES, Pairs
from bridgetower_train.tasks import TASKS, known_heads
from bridgetower_train.tasks.classification import Classification
from tests.tiny import SMALL

HEADS = {"vqav2": "vqa_classifier", "snli_ve": "snli_classifier", "nlvr2": "nlvr2_classifier", "classes": "classifier"}
D = SMALL.width


def task_of(name: str, labels: int = 5, **keys) -> Classification:
    """The task with random weights, in evaluation mode."""
    torch.manual_seed(0)
    task = TASKS[name](TrainConfig(model=SMALL, task=name, classifier=ClassifierConfig(labels, **keys)))
    randomize(task)
    assert isinstance(task, Classification)
    return task.eval()


def batch_of(task: Classification, size: int = 6, **labels: Tensor) -> Batch:
    batch = random_batch(SMALL, size)
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (size * task.images, 3, 32, 32), generator=random).byte()
    return replace(batch, pixel_values=pixels, labels=labels)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_named_and_shaped_as_microsofts(name):
    config = TrainConfig(model=SMALL, task=name, classifier=ClassifierConfig(7))
    task = TASKS[name](config)
    head = {n.partition(".")[2]: p for n, p in task.model.named_parameters() if n.startswith(f"{HEADS[name]}.")}
    wide, hidden = (4 * D, 3 * D) if name == "nlvr2" else (2 * D, 4 * D)
    shapes = {"0.weight": (hidden, wide), "0.bias": (hidden,), "1.weight": (hidden,), "1.bias": (hidden,)}
    assert {n: tuple(p.shape) for n, p in head.items()} == shapes | {"3.weight": (7, hidden), "3.bias": (7,)}
    assert float(head["0.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert not head["0.bias"].any()
    assert HEADS[name] in known_heads()


def naive_vqa(logits: Tensor, targets: Tensor) -> float:
    total = 0.0
    for row, wanted in zip(logits.sigmoid().double().tolist(), targets.tolist(), strict=True):
        for p, target in zip(row, wanted, strict=True):
            total -= target * math.log(p) + (1 - target) * math.log(1 - p)
    mean = total / targets.numel()
    return mean * targets.shape[1]


def test_the_loss_of_vqav2_is_the_mean_times_the_number_of_answers():
    task = task_of("vqav2")
    targets = torch.tensor([[0.3, 0, 0, 1, 0], [0, 0.9, 0, 0, 0], [0, 0, 0.6, 0, 0.3]] * 2)
    batch = batch_of(task, targets=targets)
    logits = task.logits(batch.pixel_values, batch.input_ids, batch.text_mask)
    loss, metrics = task.losses(batch, task.counts(batch))
    assert float(loss) == pytest.approx(naive_vqa(logits, targets), rel=1e-5)
    scores = [float(row[i]) for row, i in zip(targets, logits.argmax(-1).tolist(), strict=True)]
    assert float(metrics["acc"]) == pytest.approx(sum(scores) / 6)


def test_a_question_without_a_target_trains_nothing_and_counts_as_wrong():
    task = task_of("vqav2")
    targets = torch.tensor([[0.3, 0, 0, 1, 0], [0, 0.9, 0, 0, 0], [0, 0, 0, 0, 0.0]] * 2)
    batch = batch_of(task, targets=targets)
    logits = task.logits(batch.pixel_values, batch.input_ids, batch.text_mask)
    there = targets.any(-1)
    loss, metrics = task.losses(batch, task.counts(batch))
    assert float(loss) == pytest.approx(naive_vqa(logits[there], targets[there]), rel=1e-5)
    assert float(metrics["acc"]) == pytest.approx(float(targets.gather(1, logits.argmax(-1, keepdim=True)).sum()) / 6)


@pytest.mark.parametrize("name", ["snli_ve", "nlvr2", "classes"])
def test_one_label_has_a_cross_entropy(name):
    task = task_of(name)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    batch = batch_of(task, label=labels)
    logits = task.logits(batch.pixel_values, batch.input_ids, batch.text_mask)
    loss, metrics = task.losses(batch, task.counts(batch))
    naive = [-math.log(row.double().softmax(-1)[i]) for row, i in zip(logits, labels.tolist(), strict=True)]
    assert float(loss) == pytest.approx(sum(naive) / 6, rel=1e-5)
    assert float(metrics["acc"]) == pytest.approx(float((logits.argmax(-1) == labels).float().mean()))


def test_several_labels_have_a_binary_cross_entropy():
    task = task_of("classes", several=True)
    targets = (torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    batch = batch_of(task, targets=targets)
    logits = task.logits(batch.pixel_values, batch.input_ids, batch.text_mask)
    loss, metrics = task.losses(batch, task.counts(batch))
    assert float(loss) == pytest.approx(naive_vqa(logits, targets), rel=1e-5)
    assert float(metrics["acc"]) == pytest.approx(float(((logits > 0) == targets.bool()).all(-1).float().mean()))


def test_two_images_are_two_passes_and_the_second_has_a_type_of_its_own():
    task = task_of("nlvr2", 2)
    batch = batch_of(task)
    model, row = task.model, torch.tensor([0])
    trunk = model.bridgetower
    for number in range(3):
        ids, mask = batch.input_ids[number : number + 1], batch.text_mask[number : number + 1]
        pooled = []
        for place in range(2):
            image = model.encode_image(batch.pixel_values[2 * number + place][None], torch.tensor([1 + place]))
            pooled.append(model.fuse(image, model.encode_text(ids, mask), Pairs(row, row, 1)).pooled)
        head = model.head("nlvr2_classifier")
        hidden = F.gelu(head[1](head[0](torch.cat(pooled, -1))))
        expected = head[3](hidden)
        found = task.logits(batch.pixel_values, batch.input_ids, batch.text_mask)[number]
        torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        trunk.token_type_embeddings.weight[2] += 1
    changed = task.logits(batch.pixel_values, batch.input_ids, batch.text_mask)
    assert not torch.allclose(changed[0], found)


def test_the_second_type_begins_as_a_copy_of_the_images():
    fresh = TASKS["nlvr2"](TrainConfig(model=SMALL, task="nlvr2"))
    table = fresh.model.bridgetower.token_type_embeddings.weight
    assert len(table) == 3
    assert torch.equal(table[1], table[2])
    two = torch.randn(2, D)
    assert torch.equal(TASKS["nlvr2"].adapt({TOKEN_TYPES: two})[TOKEN_TYPES], torch.cat([two, two[1:]]))
    three = torch.randn(3, D)
    assert torch.equal(TASKS["nlvr2"].adapt({TOKEN_TYPES: three})[TOKEN_TYPES], three)
    assert torch.equal(TASKS["pretraining"].adapt({TOKEN_TYPES: three})[TOKEN_TYPES], three[:2])


def test_texts_of_one_image_are_judged_with_it_encoded_once():
    task = task_of("nlvr2", 2)
    batch = batch_of(task)
    rows = torch.tensor([0, 0, 2, 1, 2, 0])
    pixels = batch.pixel_values.unflatten(0, (6, 2))
    found = task.logits(pixels[:3].flatten(0, 1), batch.input_ids, batch.text_mask, rows)
    expected = task.logits(pixels[rows].flatten(0, 1), batch.input_ids, batch.text_mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["vqav2", "nlvr2"])
def test_a_blind_model_does_not_see_its_images(name):
    for blind in (False, True):
        task = task_of(name, blind=blind)
        batch = batch_of(task)
        logits = task.logits(batch.pixel_values, batch.input_ids, batch.text_mask)
        other = task.logits(255 - batch.pixel_values, batch.input_ids, batch.text_mask)
        assert torch.equal(logits, other) == blind


def test_the_head_of_nlvr2_drops_a_tenth_of_its_input():
    head = task_of("nlvr2").model.head("nlvr2_classifier").train()
    assert head.dropout == 0.1
    x = torch.randn(4, 4 * D)
    assert not torch.equal(head(x), head(x))
    assert task_of("vqav2").model.head("vqa_classifier").dropout == 0
