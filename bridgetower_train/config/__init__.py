"""Every key of a run: its meaning, unit, default and check.

Hydra composes these dataclasses from `configs/` and the command line; after that they are plain and frozen. A check that
needs more than the configuration (the index, the tokenizer, the number of ranks) is made where that is known.

May import nothing.
"""

from bridgetower_train.config.checks import TEMPLATES, Duration, RunLength, at_least, check_templates, one_of
from bridgetower_train.config.data import DataConfig
from bridgetower_train.config.model import (
    HEAD_WIDTH,
    PAD_ID,
    ROBERTA_POSITION_OFFSET,
    ClassifierConfig,
    InitConfig,
    ModelConfig,
    ObjectiveConfig,
)
from bridgetower_train.config.run import Shape, TrainConfig
from bridgetower_train.config.training import (
    CheckpointConfig,
    DeviceConfig,
    DistributedConfig,
    EngineConfig,
    GuardsConfig,
    MetricsConfig,
    OptimConfig,
    ProfileConfig,
    ValidationConfig,
    WandbConfig,
)

__all__ = [
    "HEAD_WIDTH",
    "PAD_ID",
    "ROBERTA_POSITION_OFFSET",
    "TEMPLATES",
    "CheckpointConfig",
    "ClassifierConfig",
    "DataConfig",
    "DeviceConfig",
    "DistributedConfig",
    "Duration",
    "EngineConfig",
    "GuardsConfig",
    "InitConfig",
    "MetricsConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "ProfileConfig",
    "RunLength",
    "Shape",
    "TrainConfig",
    "ValidationConfig",
    "WandbConfig",
    "at_least",
    "check_templates",
    "one_of",
]
