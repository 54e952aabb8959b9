"""NVIDIA: the driver against torch's CUDA build, devices, NCCL variables."""

import re
from collections.abc import Callable, Mapping

import torch

from bridgetower_train.config import TrainConfig
from bridgetower_train.devices.network_checks import check_interface, check_rendezvous, check_set
from bridgetower_train.findings import Finding, fail, ok, warning

QUERY = ("nvidia-smi", "--query-gpu=index,name,driver_version,memory.total", "--format=csv,noheader")
NCCL = {
    "NCCL_P2P_DISABLE": "GPUs of a host communicate through its memory",
    "NCCL_IB_DISABLE": "InfiniBand is not used",
    "NCCL_SHM_DISABLE": "GPUs of a host communicate through the network",
    "CUDA_LAUNCH_BLOCKING": "every kernel is synchronous",
}
"""Variables that cost speed, and how."""


def check_cuda(config: TrainConfig, env: Mapping[str, str], run: Callable[..., str | None]) -> list[Finding]:
    """Driver, torch, devices, network."""
    cards, table = run(QUERY), run(("nvidia-smi",))
    findings = [
        check_driver(cards, parse_cuda_version(table or ""), torch.version.cuda),
        check_devices(len((cards or "").splitlines()), torch.cuda.device_count(), env),
        *check_set(env, NCCL),
        *check_interface(env, "NCCL_SOCKET_IFNAME"),
        *check_rendezvous(env),
    ]
    if torch.cuda.is_available():
        findings.append(check_precision(config.device.precision))
        findings.append(ok("NCCL", ".".join(map(str, torch.cuda.nccl.version()))))  # type: ignore[no-untyped-call]
    return findings


def parse_cuda_version(table: str) -> str | None:
    """The highest CUDA version that the driver supports, from the header of `nvidia-smi`'s table."""
    match = re.search(r"CUDA Version:\s*([0-9]+\.[0-9]+)", table)
    return match[1] if match else None


def check_driver(cards: str | None, driver_cuda: str | None, torch_cuda: str | None) -> Finding:
    """The driver must support the CUDA that torch was built for; within a major version, a newer torch works too."""
    if not cards:
        found = "nvidia-smi is missing, fails, or lists no GPU"
        return fail("driver", found, "install the driver; in Docker: --gpus all")
    driver = cards.splitlines()[0].split(",")[2].strip()
    found = f"{driver} supports CUDA {driver_cuda}, torch {torch.__version__} is built for {torch_cuda or 'none'}"
    if torch_cuda is None:
        return fail("driver", found, "install the CUDA build of torch")
    if driver_cuda and int(driver_cuda.split(".")[0]) < int(torch_cuda.split(".")[0]):
        return fail("driver", found, f"upgrade the driver, or install a torch for CUDA {driver_cuda}")
    return ok("driver", found)


def check_devices(listed: int, usable: int, env: Mapping[str, str]) -> Finding:
    """GPUs that the driver lists against those that torch can use."""
    visible = env.get("CUDA_VISIBLE_DEVICES")
    restricted = f", CUDA_VISIBLE_DEVICES={visible}" if visible is not None else ""
    found = f"{listed} listed, {usable} usable by torch{restricted}"
    if usable == 0:
        todo = "check the driver, CUDA_VISIBLE_DEVICES, and whether another process uses the GPU"
        return fail("devices", found, todo)
    if usable < listed and visible is None:
        return warning("devices", found, "look in nvidia-smi and dmesg for a GPU that has fallen off the bus")
    return ok("devices", found)


def check_precision(precision: str) -> Finding:
    """bf16 needs Ampere or later."""
    name = torch.cuda.get_device_name(0)
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return fail("precision", f"{name} has no bf16", "device.precision=fp32")
    return ok("precision", f"{precision} on {name}")
