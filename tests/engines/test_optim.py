"""Parameter groups and schedule."""

from dataclasses import replace

import pytest
import torch
from helpers import pretraining, run_config

from bridgetower_train.config import ModelConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.engines.optim import Schedule, parameter_groups
from bridgetower_train.errors import ConfigError
from bridgetower_train.tasks.pretraining import Pretraining

CONFIG = OptimConfig(lr=1.0, lr_fusion=2.0, lr_heads=3.0, weight_decay=0.1)


@pytest.fixture(scope="module")
def groups() -> dict[str, dict]:
    """Parameter name -> its group."""
    size = {"image_size": 32, "width": 64, "vision_layers": 2, "text_layers": 2, "fusion_layers": 2, "vocab_size": 50}
    with torch.device("meta"):
        task = pretraining(ModelConfig(**size), ObjectiveConfig())
    parts = parameter_groups(task.model.named_parameters(), CONFIG)
    named = {name: group for group in parts for name in group["names"]}
    assert named.keys() == {name for name, _ in task.model.named_parameters()}
    assert all(len(group["names"]) == len(group["params"]) for group in parts)
    return named


@pytest.mark.parametrize(
    ("name", "lr", "decay"),
    [
        ("bridgetower.vision_model.visual.transformer.resblocks.0.mlp.c_fc.weight", 1.0, 0.1),
        ("bridgetower.vision_model.visual.transformer.resblocks.0.mlp.c_fc.bias", 1.0, 0.0),
        ("bridgetower.vision_model.visual.transformer.resblocks.0.ln_1.weight", 1.0, 0.0),
        ("bridgetower.vision_model.visual.ln_post.weight", 1.0, 0.0),
        ("bridgetower.vision_model.visual.embeddings.class_embedding", 1.0, 0.0),
        ("bridgetower.vision_model.visual.embeddings.position_embedding.weight", 1.0, 0.0),
        ("bridgetower.text_model.embeddings.position_embeddings.weight", 1.0, 0.0),
        ("bridgetower.text_model.embeddings.word_embeddings.weight", 1.0, 0.1),
        ("bridgetower.token_type_embeddings.weight", 1.0, 0.1),
        ("bridgetower.cross_modal_text_transform.weight", 2.0, 0.1),
        ("bridgetower.cross_modal_image_layers.1.crossattention.self.query.weight", 2.0, 0.1),
        ("bridgetower.cross_modal_image_link_tower.0.LayerNorm.weight", 2.0, 0.0),
        ("mlm_score.decoder.weight", 3.0, 0.1),
        ("itm_score.fc.bias", 3.0, 0.0),
        ("itc_cross_modal_head.fc.weight", 3.0, 0.1),
        ("logit_scale", 1.0, 0.0),
    ],
)
def test_rates_and_decay(groups, name, lr, decay):
    assert (groups[name]["initial_lr"], groups[name]["weight_decay"]) == (lr, decay)


def rates(**optim) -> dict[str, float]:
    """Parameter name -> its peak learning rate."""
    size = {"image_size": 32, "width": 64, "vision_layers": 3, "text_layers": 2, "fusion_layers": 2, "vocab_size": 50}
    config = OptimConfig(lr=1.0, lr_fusion=2.0, lr_heads=3.0, **optim)
    with torch.device("meta"):
        task = Pretraining(replace(run_config(ModelConfig(**size)), optim=config))
    groups = parameter_groups(task.model.named_parameters(), config)
    return {name: group["initial_lr"] for group in groups for name in group["names"]}


def test_the_temperature_has_a_rate_of_its_own():
    before, after = rates(), rates(lr_scale=0.5)
    assert {name for name in before if before[name] != after[name]} == {"logit_scale"}
    assert after["logit_scale"] == 0.5


def test_lower_blocks_train_more_slowly():
    found = rates(layer_decay=0.5)
    image, text = "bridgetower.vision_model.visual.", "bridgetower.text_model."
    assert [found[f"{image}transformer.resblocks.{n}.ln_1.weight"] for n in range(3)] == [0.25, 0.5, 1.0]
    assert [found[f"{text}encoder.layer.{n}.output.dense.bias"] for n in range(2)] == [0.5, 1.0]
    assert found[f"{image}embeddings.patch_embedding.weight"] == found[f"{image}ln_pre.bias"] == 0.125
    assert found[f"{text}embeddings.word_embeddings.weight"] == 0.25
    assert found[f"{image}ln_post.weight"] == 1.0
    assert found["bridgetower.cross_modal_image_layers.0.output.dense.weight"] == 2.0


@pytest.mark.parametrize(
    ("freeze", "kept", "gone"),
    [
        (["image"], ["bridgetower.text_model.", "bridgetower.cross_modal_image_transform"], ["bridgetower.vision_model."]),
        (["text:1"], ["bridgetower.text_model.encoder.layer.1."],
         ["bridgetower.text_model.encoder.layer.0.", "bridgetower.text_model.embeddings."]),
        (["image:2"], ["bridgetower.vision_model.visual.ln_post", "bridgetower.vision_model.visual.transformer.resblocks.2."],
         ["bridgetower.vision_model.visual.ln_pre", "bridgetower.vision_model.visual.transformer.resblocks.1."]),
        (["fusion"], ["itm_score", "bridgetower.text_model."], ["bridgetower.cross_modal_", "bridgetower.token_type"]),
        (["heads", "text"], ["bridgetower.cross_modal_"], ["itm_score", "logit_scale", "bridgetower.text_model."]),
    ],
    ids=lambda value: "+".join(value) if value and "." not in value[0] else "",
)  # fmt: skip
def test_frozen_parts_are_in_no_group(freeze, kept, gone):
    found = rates(freeze=freeze)
    assert all(any(name.startswith(prefix) for name in found) for prefix in kept)
    assert not any(name.startswith(prefix) for name in found for prefix in gone)


def test_something_must_be_trained():
    with pytest.raises(ConfigError, match=r"optim\.freeze=\['image', 'text', 'fusion', 'heads'\]: leaves nothing"):
        rates(freeze=["image", "text", "fusion", "heads"])


def test_schedules():
    linear = Schedule("linear", 10, 110)
    assert [linear.factor(step) for step in (0, 4, 9, 10, 60, 109)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.01])
    cosine = Schedule("cosine", 0, 100)
    assert [cosine.factor(step) for step in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])
    wsd = Schedule("wsd", 2, 100, decay_steps=20)
    assert [wsd.factor(step) for step in (0, 1, 50, 80, 90, 99)] == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.5, 0.05])
    constant = Schedule("constant", 2, 100)
    assert [constant.factor(step) for step in (0, 1, 99)] == [0.5, 1.0, 1.0]
