"""RandAugment: the same for the same position, another for another, and always an image of the right size."""

import numpy as np
import pytest
import torch
from helpers import open_pairs

from bridgetower_train.config import DataConfig, ModelConfig, TrainConfig
from bridgetower_train.data import augment
from bridgetower_train.data.augment import crop_box, rand_augment
from bridgetower_train.data.text import CaptionTokenizer
from data_prep.shapes.tokenizer import train_tokenizer


def photograph(height=60, width=90):
    slope = (
        np.linspace(20, 220, width)[None, :, None] * np.array([1, 0.6, 0.3]) + np.linspace(0, 30, height)[:, None, None]
    )
    return slope.astype(np.uint8)


def test_a_pure_function_of_seed_and_position():
    one = rand_augment(photograph(), 48, 0, 5)
    assert one.shape == (48, 48, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, rand_augment(photograph(), 48, 0, 5))
    assert not np.array_equal(one, rand_augment(photograph(), 48, 0, 6))
    assert not np.array_equal(one, rand_augment(photograph(), 48, 1, 5))


def test_crops_keep_to_scale_and_aspect():
    boxes = np.array([crop_box(90, 60, 0, position) for position in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 90).all()
    assert (boxes[:, 3] <= 60).all()
    area = width * height / (90 * 60)
    assert 0.48 < area.min() < 0.55
    assert 0.8 < area.max() <= 1
    assert (width / height > 0.7).all()
    assert (width / height < 1.4).all()
    assert len(np.unique(boxes, axis=0)) > 450
    assert crop_box(1000, 10, 0, 0) == (495, 0, 505, 10)


@pytest.mark.parametrize("name", [*augment._PLAIN, *augment._SIGNED])
def test_every_operation_does_something(name, monkeypatch):
    signed = {k: v for k, v in augment._SIGNED.items() if k == name}
    monkeypatch.setattr(augment, "_SIGNED", signed)
    monkeypatch.setattr(augment, "_PLAIN", {k: v for k, v in augment._PLAIN.items() if k == name})
    monkeypatch.setattr(augment, "OPERATIONS", 1)
    changed = [rand_augment(photograph(), 48, 0, position) for position in range(6)]
    monkeypatch.setattr(augment, "OPERATIONS", 0)
    plain = [rand_augment(photograph(), 48, 0, position) for position in range(6)]
    differs = [not np.array_equal(a, b) for a, b in zip(changed, plain, strict=True)]
    assert all(differs)
    assert all(p.mean() > 10 for p in plain)


def test_flips_and_operations_are_even(monkeypatch):
    monkeypatch.setattr(augment, "OPERATIONS", 0)
    mirrored = [p[:, :8].mean() > p[:, -8:].mean() for p in (rand_augment(photograph(), 48, 0, i) for i in range(400))]
    assert 0.4 < np.mean(mirrored) < 0.6


def data(root, validation=False, **keys):
    text = CaptionTokenizer(train_tokenizer(["caption of image 0123456789"] * 9, 400))
    config = TrainConfig(
        global_batch=16, model=ModelConfig(image_size=48, patch_size=8, vision_layers=1, text_layers=1, fusion_layers=1),
        data=DataConfig(root=str(root), corpora={"small": 1.0}, validation="small", lanes=2, **keys), steps="1",
    )  # fmt: skip
    return open_pairs(config, text, validation)


def test_the_loader_augments_by_position_and_never_in_validation(small_corpus):
    plain, augmented = data(small_corpus), data(small_corpus, augment="randaugment")
    batch = augmented.__getitems__(range(16))
    assert torch.equal(batch.pixel_values[4:8], augmented.__getitems__(range(4, 8)).pixel_values)
    same = plain.__getitems__(range(16))
    assert torch.equal(batch.input_ids, same.input_ids)
    assert all(not torch.equal(a, b) for a, b in zip(batch.pixel_values, same.pixel_values, strict=True))
    held_out = [data(small_corpus, True, augment=kind).__getitems__(range(8)) for kind in ("none", "randaugment")]
    assert torch.equal(held_out[0].pixel_values, held_out[1].pixel_values)
