"""The card's generation."""

import enum

from habana_frameworks.torch import _emulation


class synDeviceType(enum.Enum):  # noqa: N801
    """As the driver numbers them."""

    synDeviceGaudi = 1
    synDeviceGaudi2 = 2
    synDeviceGaudi3 = 3


def _get_device_type():
    return synDeviceType(_emulation.GENERATION)


def _is_fp16_supported():
    return _emulation.GENERATION > 1
