"""The platforms. A new one is a file with a Device and a line in DEVICES."""

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices.base import Device
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.devices.cuda import CudaDevice
from bridgetower_train.errors import ConfigError, nearest

DEVICES: dict[str, type[Device]] = {"cuda": CudaDevice, "cpu": CpuDevice}
"""In the order in which `device.name=auto` tries them."""


def make_device(config: DeviceConfig, local_rank: int = 0) -> tuple[Device, str]:
    """The configured device and why it was chosen. ConfigError where it is unknown or not there."""
    if config.name == "auto":
        name, why = next((n, found) for n, device in DEVICES.items() if (found := device.available()))
        passed_over = [n for n in DEVICES if n != name and not DEVICES[n].available()]
        return DEVICES[name](config, local_rank), "; ".join([why, *(f"no {n} here" for n in passed_over)])
    if config.name not in DEVICES:
        raise ConfigError(
            f"device.name={config.name}: must be one of auto, {', '.join(DEVICES)}{nearest(config.name, DEVICES)}"
        )
    if DEVICES[config.name].available() is None:
        raise ConfigError(f"device.name={config.name}: none is available here; take device=auto")
    return DEVICES[config.name](config, local_rank), "as configured"


__all__ = ["DEVICES", "Device", "make_device"]
