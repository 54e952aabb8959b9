"""The card's generation: utils/experimental/__init__.py@5a56187."""

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
