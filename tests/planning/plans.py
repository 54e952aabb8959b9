"""A plan of a small model, which tests of the plan and of its page share."""

from dataclasses import replace

from helpers import SMALL

from bridgetower_train.config import DataConfig, DeviceConfig, ObjectiveConfig
from bridgetower_train.planning.config import PlanConfig


def small_plan(**changes: object) -> PlanConfig:
    """512 cards, 4 pairs each, of the published corpora."""
    corpora = {"coco": 1.0, "sbu": 0.5, "mine": 1.0}
    config = PlanConfig(
        run_dir="run",
        steps="2e6 samples",
        tokenizer="none",
        global_batch=2048,
        model=SMALL,
        objective=ObjectiveConfig(itc_dim=16),
        device=DeviceConfig(precision="bf16"),
        data=DataConfig(root="nowhere", corpora=corpora, lanes=512, workers=2),
        pairs=[2, 4, 8],
        decode_rate=1e6,
    )
    return replace(config, **changes)
