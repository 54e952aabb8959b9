"""DeepSpeed, imported where an engine needs it and nowhere else, and made quiet."""

import importlib
import logging
import os
import warnings
from types import ModuleType
from typing import Any

import torch.distributed as dist

from bridgetower_train.devices import Device
from bridgetower_train.distributed import local_rank
from bridgetower_train.errors import ConfigError


def import_deepspeed(device: Device, engine: str) -> ModuleType:
    """The package, set to work on `device`; ConfigError where `engine` is asked for and it is missing or cannot be loaded."""
    os.environ.setdefault("DS_ACCELERATOR", device.name)
    os.environ.setdefault(
        "LOCAL_RANK", str(local_rank())
    )  # DeepSpeed insists, also where one process was started by hand
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        deepspeed = importlib.import_module("deepspeed")
        partitioned = importlib.import_module("deepspeed.runtime.zero.partition_parameters")
    except Exception as error:  # a build for another device raises what it likes
        raise ConfigError(
            f"engine={engine}: needs DeepSpeed, which cannot be imported ({type(error).__name__}: {error}); pip install "
            "'bridgetower-train[deepspeed]', or the vendor's fork that `bridgetower doctor` names, or take engine=native"
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Its business, not the user's, and once in each rank.
    warnings.filterwarnings("ignore", r"`torch\.distributed\..*` is deprecated", FutureWarning)
    # Nothing compiled is used. Otherwise each rank on a CPU would build the collectives that DeepSpeed has for inference.
    vars(deepspeed.ops)["__compatible_ops__"] = {}
    # Every rank starts from the same weights. DeepSpeed would send them around once more, and fails at those of no dimension.
    deepspeed.DeepSpeedEngine._broadcast_model = _nothing
    partitioned.Init._zero_init_param = _partition
    return deepspeed


def _nothing(engine: Any) -> None:
    """In place of the broadcast of all weights."""


def _partition(init: Any, parameter: Any) -> None:
    """What DeepSpeed does with a parameter under ZeRO-3, but for the broadcast, and with zeros to fill up the last parts."""
    init._convert_to_deepspeed_param(parameter)
    parameter.partition()
    part = parameter.ds_tensor
    part[max(0, parameter.ds_numel - dist.get_rank() * part.numel()) :] = 0
