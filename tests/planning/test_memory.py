"""What is traced on fake tensors against what a real step keeps."""

from dataclasses import replace

import pytest
import torch
from helpers import SMALL, random_batch

from bridgetower_train.config import DataConfig, EngineConfig, ObjectiveConfig, TrainConfig
from bridgetower_train.objectives.joint import JointTask
from bridgetower_train.planning.memory import Memory, measure, plain, saved_bytes

CONFIG = TrainConfig(
    run_dir="run",
    steps="1",
    tokenizer="none",
    model=SMALL,
    data=DataConfig(root="data"),
    objective=ObjectiveConfig(itc_dim=16),
)


def really_saved(pairs: int) -> int:
    """Bytes that a real forward pass gives to autograd, each storage once, weights apart."""
    task = JointTask(SMALL, CONFIG.objective, plain)
    weights = {p.data_ptr() for p in task.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = task(random_batch(SMALL, pairs), torch.ones(3))
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("pairs", [2, 6])
def test_fake_tensors_keep_what_real_ones_do(pairs):
    parameters, traced = saved_bytes(CONFIG, pairs, fused_attention=False)
    assert parameters == sum(p.numel() for p in JointTask(SMALL, CONFIG.objective, plain).parameters())
    # The loader masks one more place per text than the test's batch has.
    assert traced == pytest.approx(really_saved(pairs), rel=0.03)


def test_memory_is_a_line_in_the_pairs():
    memory = measure(CONFIG, fused_attention=True)
    _, traced = saved_bytes(CONFIG, 16, fused_attention=True)
    assert memory.shared + 16 * memory.per_pair == pytest.approx(traced, rel=0.03)
    assert Memory(10, 5.0, 2.0).total(3) == 16 * 10 + 5 + 6
    assert Memory(10, 5.0, 2.0).most_pairs(172) == 3
    assert Memory(10, 5.0, 2.0).most_pairs(100) == 0


def test_fused_attention_and_checkpointing_keep_less():
    keep = {fused: saved_bytes(CONFIG, 4, fused)[1] for fused in (True, False)}
    recomputed = saved_bytes(replace(CONFIG, engine=EngineConfig(activation_checkpointing=True)), 4, True)[1]
    # The input of each block: images once, texts in two views, float32.
    tokens = SMALL.vision_layers * SMALL.image_tokens + 2 * SMALL.text_layers * SMALL.max_text_len
    assert keep[False] > keep[True] > 3 * recomputed
    assert recomputed > 4 * tokens * SMALL.width * 4
