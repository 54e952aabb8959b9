"""The platforms. A new one is a file with a Device and a line in DEVICES.

May import config, data and model.
"""

from bridgetower_train.config import DeviceConfig, one_of
from bridgetower_train.devices.base import Device
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.devices.cuda import CudaDevice
from bridgetower_train.devices.hpu import HpuDevice
from bridgetower_train.errors import ConfigError

DEVICES: dict[str, type[Device]] = {"hpu": HpuDevice, "cuda": CudaDevice, "cpu": CpuDevice}
"""In the order in which `device.name=auto` tries them."""


def make_device(config: DeviceConfig, local_rank: int = 0, engine: str = "native") -> tuple[Device, str]:
    """The configured device for an engine, and why it was chosen. ConfigError if it is unknown or unavailable."""
    if config.name == "auto":
        passed_over: list[str] = []
        for name, device in DEVICES.items():
            device.prepare(engine)
            probe = device.probe(config)
            if probe.usable:
                return device(config, local_rank), "; ".join([probe.why, *passed_over])
            passed_over.append(f"no {name}: {probe.why}")
    one_of("device.name", config.name, ("auto", *DEVICES))
    DEVICES[config.name].prepare(engine)
    probe = DEVICES[config.name].probe(config)
    if not probe.usable:
        raise ConfigError(f"device.name={config.name}: not available here ({probe.why}); use device=auto")
    return DEVICES[config.name](config, local_rank), "as configured"


__all__ = ["DEVICES", "Device", "make_device"]
