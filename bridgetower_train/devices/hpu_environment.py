"""Environment variables of the Gaudi software, device nodes, and huge pages."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.version import Version

from bridgetower_train.config import TrainConfig
from bridgetower_train.devices.hl_smi import Card
from bridgetower_train.devices.hpu import HpuDevice
from bridgetower_train.devices.network_checks import check_set
from bridgetower_train.devices.recipe_cache import SHARED, SHARED_CACHE, file_system
from bridgetower_train.display import plural
from bridgetower_train.files import nearest_folder, writable
from bridgetower_train.findings import Finding, fail, ok, warning

HUGE_PAGES_MIB = 4400
"""Huge pages per card, as the Kubernetes chart of Hugging Face's optimum-habana reserves them."""
OFF = ("", "0", "false", "False")


def check_modules(cards: list[Card], env: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the modules that this process may use exist."""
    modules = {card.module for card in cards}
    visible = env.get("HABANA_VISIBLE_MODULES")
    if visible is not None:
        if not re.fullmatch(r"[0-9]+(,[0-9]+)*", visible):
            todo = "such as 0,1,2,3; unset it for all modules"
            yield fail("HABANA_VISIBLE_MODULES", f"{visible}: must be numbers", todo)
        elif modules and (missing := set(map(int, visible.split(","))) - modules):
            there = ", ".join(map(str, sorted(modules)))
            yield fail("HABANA_VISIBLE_MODULES", f"{visible}: no module {min(missing)}", f"this host has {there}")
        elif not connected(list(map(int, visible.split(",")))):
            todo = "take 0,1 or 2,3 or 4,5 or 6,7 or 0,1,2,3 or 4,5,6,7, or all eight"
            yield warning("HABANA_VISIBLE_MODULES", f"{visible}: the vendor supports no such set of modules", todo)
        else:
            yield ok("HABANA_VISIBLE_MODULES", visible)
    devices = env.get("HABANA_VISIBLE_DEVICES")
    if devices is not None and devices not in ("all", "void") and len(devices.split(",")) != len(cards):
        found = f"{devices} names {len(devices.split(','))} cards, hl-smi lists {len(cards)}"
        yield warning("HABANA_VISIBLE_DEVICES", found, "the container runtime reads it: restart the container")


def connected(modules: list[int]) -> bool:
    """Whether the vendor supports a run on these modules: one of them, or two, four or eight that begin at a multiple of that."""
    count, first = len(modules), min(modules)
    return count in (1, 2, 4, 8) and first % count == 0 and sorted(modules) == list(range(first, first + count))


def check_nodes(nodes: Sequence[str]) -> Iterator[Finding]:
    """Whether this user may open the devices of the cards."""
    closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        todo = 'on the host, a udev rule: SUBSYSTEM=="accel", MODE="0666"; the container runtime copies modes, but not groups'
        yield fail("device nodes", f"user {os.getuid()} may not open {', '.join(closed)}", todo)
    elif nodes:
        yield ok("device nodes", f"user {os.getuid()} may open {len(nodes)}")


def check_environment(config: TrainConfig, env: Mapping[str, str], software: str | None) -> Iterator[Finding]:
    """Execution mode, integers, recipe cache, logs."""
    yield check_execution(config.device.execution, env)
    if env.get("PT_ENABLE_INT64_SUPPORT", "0") not in OFF and env.get("PT_HPU_LAZY_MODE") == "1":
        todo = "unset it: ids and seeds stay below 2^31"
        yield warning("PT_ENABLE_INT64_SUPPORT", "has no effect in lazy mode", todo)
    yield from check_set(
        env, {"PT_HPU_FORCE_TANH_FOR_GELU": "GELU is approximated: losses differ from a CPU's and a GPU's"}
    )
    for name in ("PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST", "PT_HPU_AUTOCAST_FP32_OPS_LIST"):
        if name in env and Path(env[name]).parent != Path(__file__).parent:
            yield fail(name, f"{env[name]} is not the list of this package", f"unset {name}: training sets it")
    if cache := env.get("PT_HPU_RECIPE_CACHE_CONFIG"):
        yield check_recipe_cache(cache, software)
    logs = Path(env.get("HABANA_LOGS") or Path.home() / ".habana_logs")
    if writable(nearest_folder(logs)):
        yield ok("HABANA_LOGS", str(logs))
    else:
        yield fail(
            "HABANA_LOGS",
            f"{logs}: user {os.getuid()} cannot create a file there",
            "set it to a folder that can be written to",
        )
    for name in ("GC_KERNEL_PATH", "HABANA_PLUGINS_LIB_PATH", "HABANA_SCAL_BIN_PATH"):
        if name in env and not Path(env[name]).exists():
            yield fail(name, f"{env[name]} does not exist", "reinstall the Gaudi software, or correct the variable")
    if env.get("HCCL_OVER_OFI", "0") not in OFF:
        todo = "unset it except on AWS DL1: cards have their own NICs"
        yield warning("HCCL_OVER_OFI", "collectives use the host's network", todo)


def check_execution(execution: str, env: Mapping[str, str]) -> Finding:
    """The configured mode against PT_HPU_LAZY_MODE, which training sets if it is not set."""
    chosen, why = HpuDevice.choose_execution(execution)
    wanted = "1" if chosen == "lazy" else "0"
    given = env.get("PT_HPU_LAZY_MODE")
    shown = f"not set: will be {wanted}" if given is None else given
    found = f"device.execution={execution}, PT_HPU_LAZY_MODE={shown}" + (why and f"; {why}")
    if given is not None and given != wanted:
        return fail("execution", found, "unset PT_HPU_LAZY_MODE, or change device.execution")
    return ok("execution", found)


def check_recipe_cache(setting: str, software: str | None) -> Finding:
    """`path,delete on start,MB,on NFS`: a cache of compiled graphs on disk.

    Where the fourth field is true, the second and third have no effect.
    """
    path, delete, _, shared = (*setting.split(","), "", "", "")[:4]
    subject = "PT_HPU_RECIPE_CACHE_CONFIG"
    kind = file_system(str(nearest_folder(Path(path))), Path("/proc/mounts").read_text())
    if kind.startswith(SHARED) and (shared.lower() != "true" or (software and Version(software) < SHARED_CACHE)):
        todo = f"{path},false,8192,true, with software {SHARED_CACHE} or newer; or a folder on a local disk"
        return fail(subject, f"{path} is on {kind}, where locks do not work", todo)
    if delete.lower() == "true" and shared.lower() != "true":
        todo = f"{path},false,...: otherwise ranks that start later delete what others wrote"
        return warning(subject, f"{setting} deletes the cache at each start", todo)
    return ok(subject, f"{setting} on {kind}")


def check_huge_pages(cards: int, meminfo: str) -> Finding:
    """Huge pages against the least per card; the installer of the driver may have reserved more."""
    fields = {name: int(value.split()[0]) for name, value in (line.split(":") for line in meminfo.splitlines())}
    have = fields.get("HugePages_Total", 0) * fields.get("Hugepagesize", 0) // 1024
    need = HUGE_PAGES_MIB * max(1, cards)
    found = f"{have} MiB reserved, at least {need} MiB recommended for {plural(max(1, cards), 'card')}"
    if have < need:
        pages = need * 1024 // max(1, fields.get("Hugepagesize", 2048))
        return warning("huge pages", found, f"raise them on the host: sysctl -w vm.nr_hugepages={pages}")
    return ok("huge pages", found)
