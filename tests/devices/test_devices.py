"""Choosing a device, and what each must give."""

import re

import pytest
import torch

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices import DEVICES, make_device
from bridgetower_train.errors import ConfigError


def test_auto_takes_the_best_and_says_why():
    device, why = make_device(DeviceConfig())
    if torch.cuda.is_available():
        assert device.name == "cuda"
        assert re.fullmatch(r"(1 GPU|\d+ GPUs) found.*", why)
    else:
        assert (device.name, why) == (
            "cpu",
            "always available; no hpu: habana_frameworks.torch is not installed; no cuda: torch finds no GPU",
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"device\.name=cuda: not available here"):
        make_device(DeviceConfig(name="cuda"))


def test_an_unknown_device_is_refused():
    with pytest.raises(
        ConfigError, match=r"device\.name=cud: must be one of auto, hpu, cuda, cpu; did you mean 'cuda'"
    ):
        make_device(DeviceConfig(name="cud"))


@pytest.mark.parametrize("name", [name for name, device in DEVICES.items() if device.probe(DeviceConfig()).usable])
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_and_seed(name, precision, dtype):
    device, _ = make_device(DeviceConfig(name=name, precision=precision))
    x = torch.ones(4, 4, device=device.torch_device)
    with device.autocast():
        assert (x @ x).dtype == dtype
    draws = []
    for seed in (7, 7, 8):
        device.seed(seed)
        draws.append(torch.rand(4, device=device.torch_device))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert device.memory_gb() >= 0
    assert device.description
