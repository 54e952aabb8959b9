"""Host memory for checkpoints: there before the first copy, and left behind by a process that ends."""

import os
import subprocess
import sys

import torch

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.engines.host import HostCopies
from tests.training.runs import ROOT

ENDING = """
import torch
from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.engines.host import HostCopies
HostCopies(CpuDevice(DeviceConfig(name="cpu"), 0)).preallocate({str(n): torch.Size([1 << 22]) for n in range(200)})
raise SystemExit(3)
"""


def copies() -> HostCopies:
    return HostCopies(CpuDevice(DeviceConfig(name="cpu"), 0))


def test_a_copy_right_after_the_reservation_waits_for_it_and_the_next_goes_to_the_same_place():
    host, shape = copies(), torch.Size([1 << 20])
    tensors = {str(number): torch.full(shape, float(number)) for number in range(32)}
    host.preallocate(dict.fromkeys(tensors, shape))
    copied = host.copy({**tensors, "more": torch.ones(3)}.items())
    assert all(torch.equal(copied[name], tensor) for name, tensor in tensors.items())
    places = {name: tensor.data_ptr() for name, tensor in copied.items()}
    again = host.copy((name, tensor + 1) for name, tensor in tensors.items())
    assert all(again[name].data_ptr() == places[name] for name in tensors)
    assert torch.equal(again["5"], torch.full(shape, 6.0))
    assert torch.equal(copied["more"], torch.ones(3))


def test_a_process_that_ends_takes_no_more():
    process = subprocess.Popen([sys.executable, "-c", ENDING], env={**os.environ, "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert usage.ru_maxrss * 1024 < 200 << 24, "it has not waited for all of it"
