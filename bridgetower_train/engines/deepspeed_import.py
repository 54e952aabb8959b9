"""Imports DeepSpeed when an engine needs it, and silences it."""

import importlib
import logging
import os
import warnings
from collections import defaultdict
from types import ModuleType
from typing import Any

import torch.distributed as dist

from bridgetower_train.devices import Device
from bridgetower_train.distributed import local_rank
from bridgetower_train.errors import ConfigError, UserError

TESTED = "0.19.8"
"""The newest version of DeepSpeed that this is tested with."""


def import_deepspeed(device: Device, engine: str) -> ModuleType:
    """The package, set up for `device`; ConfigError if it cannot be imported, which `engine` needs."""
    os.environ.setdefault("DS_ACCELERATOR", device.name)
    os.environ.setdefault("LOCAL_RANK", str(local_rank()))  # DeepSpeed requires it even for a single process
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        deepspeed = importlib.import_module("deepspeed")
        partitioned = importlib.import_module("deepspeed.runtime.zero.partition_parameters")
    except Exception as error:  # a build for another device can raise anything
        raise ConfigError(
            f"engine={engine}: needs DeepSpeed, which cannot be imported ({type(error).__name__}: {error}); pip install "
            "'bridgetower-train[deepspeed]', or the vendor's fork that `bridgetower doctor` names, or use engine=native"
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Users cannot act on it, and every rank would print it.
    warnings.filterwarnings("ignore", r"`torch\.distributed\..*` is deprecated", FutureWarning)
    # No compiled operators are used. Otherwise each rank on a CPU would build DeepSpeed's collectives for inference.
    vars(deepspeed.ops)["__compatible_ops__"] = defaultdict(bool)  # new versions find it out at the first look
    # All ranks start with the same weights. DeepSpeed would broadcast them again, and fails at scalars.
    _replace(deepspeed.DeepSpeedEngine, "_broadcast_model", _nothing)
    internal(partitioned.Init, "_convert_to_deepspeed_param")
    _replace(partitioned.Init, "_zero_init_param", _partition)
    return deepspeed


def internal(owner: Any, name: str) -> Any:
    """An attribute of DeepSpeed's that is not public; UserError where this version has none of the name."""
    found = getattr(owner, name, None)
    if found is None:
        version = importlib.import_module("deepspeed").__version__
        raise UserError(
            f"DeepSpeed {version} lacks {getattr(owner, '__name__', type(owner).__name__)}.{name}, on which engine=zero* relies; "
            f"install a version from 0.16 to {TESTED}, or use engine=native"
        )
    return found


def _replace(owner: type, name: str, by: Any) -> None:
    """Replace an internal that is there: of another name, it would stay as it is, and weights or checkpoints be wrong."""
    internal(owner, name)
    setattr(owner, name, by)


def _nothing(engine: Any) -> None:
    """Replaces the broadcast of all weights."""


def _partition(init: Any, parameter: Any) -> None:
    """Shards a parameter as DeepSpeed does under ZeRO-3, but without the broadcast, and with zeros as padding."""
    init._convert_to_deepspeed_param(parameter)
    parameter.partition()
    part = parameter.ds_tensor
    part[max(0, parameter.ds_numel - dist.get_rank() * part.numel()) :] = 0
