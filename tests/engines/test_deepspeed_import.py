"""What is replaced in DeepSpeed exists in it."""

import importlib

import pytest

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices import make_device
from bridgetower_train.engines.deepspeed_import import import_deepspeed
from bridgetower_train.errors import UserError


@pytest.mark.parametrize(
    ("module", "owner", "name"),
    [
        ("deepspeed", "DeepSpeedEngine", "_broadcast_model"),
        ("deepspeed.runtime.zero.partition_parameters", "Init", "_zero_init_param"),
        ("deepspeed.runtime.zero.partition_parameters", "Init", "_convert_to_deepspeed_param"),
    ],
)
def test_a_version_without_an_internal_is_refused(module, owner, name, monkeypatch):
    pytest.importorskip("deepspeed")
    device, _ = make_device(DeviceConfig("cpu"), 0, "zero3")
    import_deepspeed(device, "zero3")
    monkeypatch.delattr(getattr(importlib.import_module(module), owner), name)
    with pytest.raises(
        UserError, match=rf"^DeepSpeed \S+ lacks \S*{owner}\.{name}, .*from 0\.16 to .*, or use engine=native$"
    ):
        import_deepspeed(device, "zero3")
