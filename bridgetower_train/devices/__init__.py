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
    """The configured device for an engine, and why it was chosen.

    ConfigError if it is unknown or unavailable, or if `auto` meets one that is there and does not work.
    """
    one_of("device.name", config.name, ("auto", *DEVICES))
    reasons: list[str] = []
    for name in DEVICES if config.name == "auto" else [config.name]:
        device = DEVICES[name]
        device.prepare(engine)
        probe = device.probe(config)
        if probe.usable:
            made, why = device(config, local_rank), probe.why if config.name == "auto" else "as configured"
            return made, "; ".join(filter(None, [why, made.execution_why, *reasons]))
        if probe.present:
            raise ConfigError(
                f"device.name={config.name}: this host has {name}, but {probe.why}; `bridgetower doctor` looks for the cause, "
                "and device=cpu does without it"
            )
        reasons.append(f"no {name}: {probe.why}")
    raise ConfigError(f"device.name={config.name}: not available here ({probe.why}); use device=auto")


__all__ = ["DEVICES", "Device", "make_device"]
