"""The engines. A new one is a file with an Engine and a line in ENGINES."""

from bridgetower_train.engines.base import Engine
from bridgetower_train.engines.native import NativeEngine

ENGINES: dict[str, type[NativeEngine]] = {"native": NativeEngine}

__all__ = ["ENGINES", "Engine", "NativeEngine"]
