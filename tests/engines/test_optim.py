"""Parameter groups and schedule."""

import pytest
import torch
from helpers import pretraining

from bridgetower_train.config import ModelConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.engines.optim import Schedule, parameter_groups

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


def test_schedules():
    linear = Schedule("linear", 10, 110)
    assert [linear.factor(step) for step in (0, 4, 9, 10, 60, 109)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.01])
    cosine = Schedule("cosine", 0, 100)
    assert [cosine.factor(step) for step in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])
    constant = Schedule("constant", 2, 100)
    assert [constant.factor(step) for step in (0, 1, 99)] == [0.5, 1.0, 1.0]
