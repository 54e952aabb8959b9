"""The engines. A new one is a file with an `Engine`, and a line in ENGINES.

May import collectives, config, data, devices, distributed, model, rendezvous and tasks.
"""

from collections.abc import Callable
from functools import partial

from bridgetower_train.engines.base import Engine
from bridgetower_train.engines.deepspeed import ZeroEngine
from bridgetower_train.engines.native import NativeEngine

ENGINES: dict[str, Callable[..., Engine]] = {
    "native": NativeEngine,
    **{f"zero{stage}": partial(ZeroEngine, stage) for stage in range(4)},
}

__all__ = ["ENGINES", "Engine", "NativeEngine", "ZeroEngine"]
