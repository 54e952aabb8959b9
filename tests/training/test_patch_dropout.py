"""Patches that training leaves out: which, what the model then computes, and that nothing but the sample decides it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import gradients, open_pairs, pretraining, random_batch, randomize
from torch import Tensor

from bridgetower_train.config import DataConfig, ModelConfig, RunLength, Shape, TrainConfig
from bridgetower_train.data.augment import kept_patches
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.model.vision import CLIP_MEAN, CLIP_STD
from bridgetower_train.tasks.classification import NLVR2
from tests.tiny import SMALL
from tests.training.runs import final_weights, losses, metric_lines, train_here

HALF = [
    "model.patch_dropout=0.5", "model.patch_dropout_until=3", "model.dropout=0", "optim.schedule=constant", "optim.warmup=0",
]  # fmt: skip
"""Three steps on two of four patches, then on whole images."""


def test_any_patch_is_as_likely_as_another():
    drawn = kept_patches(1, np.arange(2000), 9, 4)
    assert drawn.shape == (2000, 4)
    assert (np.diff(drawn) > 0).all(), "ascending, none twice"
    counts = Counter(drawn.ravel().tolist())
    assert len(counts) == 9
    assert all(count == pytest.approx(2000 * 4 / 9, rel=0.1) for count in counts.values())
    assert not np.array_equal(drawn, kept_patches(2, np.arange(2000), 9, 4))
    assert np.array_equal(drawn[[7, 3]], kept_patches(1, np.array([7, 3]), 9, 4)), "by the image alone"
    assert np.array_equal(kept_patches(1, np.arange(3), 5, 5), np.tile(np.arange(5), (3, 1)))


def naive_tower(model: BridgeTower, pixels: Tensor, patches: Tensor) -> list[Tensor]:
    """The bridged states of an image (3, S, S), from tokens that are made one by one."""
    trunk, size = model.bridgetower, model.config.patch_size
    visual = trunk.vision_model.visual
    embed, across = visual.embeddings, model.config.image_size // size
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    exact = (pixels.double() / 255 - mean) / std
    tokens = [embed.class_embedding + embed.position_embedding.weight[0]]
    for patch in patches.tolist():
        top, left = patch // across * size, patch % across * size
        square = exact[:, top : top + size, left : left + size]
        token = (embed.patch_embedding.weight * square).sum(dim=(1, 2, 3))
        tokens.append(token + embed.position_embedding.weight[1 + patch])
    x, states = visual.ln_pre(torch.stack(tokens)[None]), []
    for block in visual.transformer.resblocks:
        x = block(x)
        states.append(x)
    kind = trunk.token_type_embeddings.weight[1]
    return [trunk.cross_modal_image_transform(visual.ln_post(x)) + kind for x in states[-trunk.layers :]]


def test_the_tower_sees_those_patches_and_no_others():
    model = pretraining(SMALL).double().model
    randomize(model)
    pixels = random_batch(SMALL, 3).pixel_values
    patches = torch.from_numpy(kept_patches(0, np.arange(3), 16, 6))
    seen = model.encode_image(pixels, patches=patches)
    one_by_one = [naive_tower(model, image, own) for image, own in zip(pixels, patches, strict=True)]
    expected = [torch.cat(layer) for layer in zip(*one_by_one, strict=True)]
    assert [x.shape for x in seen.bridged] == [(3, 7, SMALL.width)] * SMALL.fusion_layers
    for x, y in zip(seen.bridged, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)
    found = []
    for states in (seen.bridged, expected):
        model.zero_grad()
        torch.stack([(x * x.detach().sin()).sum() for x in states]).sum().backward()
        found.append(gradients(model))
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-9, atol=1e-8, msg=name)


def test_all_patches_are_the_whole_image():
    task = pretraining(SMALL).double()
    batch = random_batch(SMALL, 4)
    every = replace(batch, patches=torch.arange(16).repeat(4, 1))
    whole, listed = (task.losses(b, task.counts(b))[0].item() for b in (batch, every))
    assert listed == pytest.approx(whole, abs=1e-12)
    some = replace(batch, patches=torch.arange(8).repeat(4, 1))
    assert task.losses(some, task.counts(some))[0].item() != pytest.approx(whole, abs=1e-6)


def test_what_a_run_has():
    model = replace(SMALL, patch_dropout=0.5)
    config = TrainConfig(model=model, global_batch=8, data=DataConfig(lanes=4, text_buckets=[8]))
    assert config.shapes == [Shape(8, 8), Shape(12, 8), Shape(8), Shape(12)]
    assert config.on_whole_images.shapes == [Shape(8), Shape(12)]
    for until, counts in {"100%": [8], "0%": [None], "0": [None], "10": [8, None]}.items():
        assert replace(model, patch_dropout_until=until).patch_counts == counts
    assert NLVR2.blank_batch(replace(config, task="nlvr2"), 3, Shape(12, 8)).patches.shape == (6, 8)
    with pytest.raises(ConfigError, match=r"model\.patch_dropout=1\.0: must be in \[0, 1\)"):
        replace(model, patch_dropout=1.0)
    with pytest.raises(ConfigError, match=r"model\.patch_dropout_until=soon: must be steps"):
        replace(model, patch_dropout_until="soon")


def test_a_sample_has_its_patches_in_any_batch_until_the_tail(shapes_root):
    model = ModelConfig(image_size=32, patch_size=8, max_text_len=24, patch_dropout=0.5, patch_dropout_until="2")
    config = TrainConfig(
        steps="4", global_batch=8, model=model,
        data=DataConfig(root=str(shapes_root), corpora={"shapes": 1.0}, lanes=4, validation="shapes_heldout"),
    )  # fmt: skip
    tokenizer = CaptionTokenizer.load(str(shapes_root / "shapes"))
    data = open_pairs(config, tokenizer)
    assert data.length == RunLength(8, len(data), 4)
    step = data.__getitems__(range(8, 16))
    assert step.patches.shape == (8, 8)
    assert torch.equal(data.__getitems__([14, 15]).patches, step.patches[6:])
    assert data.__getitems__(range(16, 24)).patches is None
    assert open_pairs(config, tokenizer, validation=True).__getitems__(range(8)).patches is None


def test_runs_with_micro_batches_warm_ups_and_a_resume(tmp_path, shapes_root, monkeypatch, capsys):
    train_here(shapes_root, tmp_path / "whole", *HALF, "steps=4")
    assert "2 of 4 patches, drawn for each sample until 3 of the run" in capsys.readouterr().out
    train_here(shapes_root, tmp_path / "split", *HALF, "steps=4", "micro_batch=2")
    assert losses(tmp_path / "split") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    train_here(shapes_root, tmp_path / "plain", *HALF[2:], "steps=4")
    assert losses(tmp_path / "plain")[1, "loss"] != pytest.approx(losses(tmp_path / "whole")[1, "loss"], abs=1e-4)
    monkeypatch.setattr(CpuDevice, "compiles", True)
    capsys.readouterr()
    for steps in (2, 4):
        train_here(shapes_root, tmp_path / "warm", *HALF, "micro_batch=2", f"steps={steps}")
        said = capsys.readouterr().out
        assert "warm-up   1 of 2: texts of 24 tokens," in said
        assert "warm-up   2 of 2: texts of 24 tokens and 2 patches of each image," in said
    lines = metric_lines(tmp_path / "warm")
    assert {line.pop("recompiles") for line in lines} == {0}
    assert lines == metric_lines(tmp_path / "split")
    assert final_weights(tmp_path / "warm") == final_weights(tmp_path / "split")


def test_no_step_may_train_on_whole_images(tmp_path, shapes_root, capsys):
    keys = ["model.patch_dropout=0.5", "model.patch_dropout_until=100%", "steps=2", "tensorboard=false"]
    for said in ("2 of 4 patches, drawn for each sample\n", "nothing left to do"):
        train_here(shapes_root, tmp_path, *keys)
        assert said in capsys.readouterr().out


def test_validation_sees_whole_images(tmp_path, shapes_root):
    still = [
        "optim.lr=0",
        "optim.lr_fusion=0",
        "optim.lr_heads=0",
        "validation.every=2",
        "validation.samples=16",
        "steps=2",
    ]
    found = []
    for number, options in enumerate((HALF, HALF[2:])):
        train_here(shapes_root, tmp_path / str(number), *options, *still)
        lines = metric_lines(tmp_path / str(number))
        found.append(({k: v for k, v in lines[-1].items() if k.startswith("val_")}, lines[0]["loss"]))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize("engine", ["native", pytest.param("zero3", marks=pytest.mark.nightly)])
def test_two_ranks(tmp_path, train, shapes_root, engine):
    if engine == "zero3":
        pytest.importorskip("deepspeed")
    train_here(shapes_root, tmp_path / "one", *HALF, "steps=4")
    train(tmp_path / "two", *HALF, "steps=4", "micro_batch=2", f"engine={engine}", ranks=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
