"""A plan of synthetic memory, which tests of the plan and of its page share."""

from dataclasses import replace

import numpy as np

from bridgetower_train.config import DataConfig, DeviceConfig, ModelConfig
from bridgetower_train.planning.config import PlanConfig
from bridgetower_train.planning.memory import Kept, Memory
from bridgetower_train.planning.trace import PARTS

LARGE = ModelConfig(294, 14, 1024, 24, 24, 6, vocab_size=50265)


def small_plan(**changes: object) -> PlanConfig:
    """512 cards, 4 pairs each, of corpora of which one is unknown."""
    corpora = {"coco": 1.0, "sbu": 0.5, "mine": 1.0}
    config = PlanConfig(
        run_dir="run",
        steps="2e8 samples",
        tokenizer="none",
        hardware="gaudi2x512",
        global_batch=2048,
        model=LARGE,
        device=DeviceConfig(precision="bf16"),
        data=DataConfig(root="nowhere", corpora=corpora, lanes=512, workers=2),
        pairs=[2, 4, 8],
    )
    return replace(config, **changes)


def synthetic_memories() -> dict[bool, Memory]:
    """A model of 900 M parameters in three moments: forward, half-way backward, the end."""
    P = 900_000_000
    blocks = (24, 24, 6, 6, 0)

    def memory(pair: int) -> Memory:
        kept = [Kept(part, n, pair / 5) for part, n in zip(PARTS, blocks, strict=True)]
        grown = np.array([pair, pair // 2, 0])
        return Memory(
            P,
            P,
            P,
            102_000_000,
            np.array([0, 2 * P, 4 * P]),
            np.array([2 * P, P, 0]),
            np.array([10**8] * 3),
            grown,
            kept,
            24.0,
            4096,
        )

    return {False: memory(10**9), True: memory(10**8)}
