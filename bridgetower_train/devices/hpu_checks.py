"""Gaudi: driver, software and torch against each other, cards, execution mode, network."""

import glob
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bridgetower_train.config import TrainConfig
from bridgetower_train.devices import habana, hl_smi
from bridgetower_train.devices.gaudi_versions import GaudiStack, generation_of, stack_of
from bridgetower_train.devices.habana import PLUGIN
from bridgetower_train.devices.hpu import HpuDevice
from bridgetower_train.devices.hpu_environment import check_environment, check_huge_pages, check_modules, check_nodes
from bridgetower_train.devices.network_checks import check_interface, check_rendezvous
from bridgetower_train.findings import Finding, fail, ok, warning
from bridgetower_train.versions import installed_version

BRIDGE = """
import sys
from bridgetower_train.devices import habana
try:
    habana.load(lazy=sys.argv[1] == "lazy")
    hpu = habana.module("hpu")
    print("cards", hpu.device_count() if hpu.is_available() else 0)
except Exception as error:
    print("error", type(error).__name__, *str(error).split())
"""
"""Imports the vendor's package as a run of the execution that is the argument, and counts cards."""


def check_hpu(config: TrainConfig, env: Mapping[str, str], run: Callable[..., str | None]) -> list[Finding]:
    """All checks of a Gaudi host."""
    table, csv = run(["hl-smi"]), run(["hl-smi", *hl_smi.QUERY])
    driver, cards = hl_smi.parse_driver(table or ""), hl_smi.parse_cards(csv or "")
    software = installed_version(PLUGIN)
    stack = stack_of(software) if software else None
    execution, _ = HpuDevice.choose_execution(config.device.execution)
    return [
        check_cards(cards, driver),
        *check_nodes(sorted(glob.glob("/dev/accel/accel*"))),
        check_software(software, driver),
        *check_stack(stack, software, cards, execution),
        check_bridge(run, execution),
        *check_modules(cards, env),
        *check_environment(config, env, software),
        check_huge_pages(len(cards), Path("/proc/meminfo").read_text()),
        *check_deepspeed(config.engine.name, stack, installed_version("deepspeed")),
        *check_interface(env, "HCCL_SOCKET_IFNAME"),
        *check_rendezvous(env),
    ]


def check_cards(cards: list[hl_smi.Card], driver: str | None) -> Finding:
    """The cards that the driver lists, and whether another process uses their memory."""
    if not cards:
        todo = "install the driver (habanalabs-dkms); in Docker: --runtime=habana -e HABANA_VISIBLE_DEVICES=all"
        return fail("cards", "hl-smi is missing, fails, or lists none", todo)
    boards = sorted({card.board for card in cards})
    found = f"{len(cards)} x {', '.join(boards)}, {cards[0].memory_mib / 1024:.0f} GiB each, driver {driver}"
    busy = [str(card.module) for card in cards if card.used_mib > card.memory_mib // 10]
    if busy:
        todo = "a card belongs to one process: end the other one (hl-smi lists processes), or synStatus=8 will follow"
        return warning("cards", f"{found}; memory in use on modules {', '.join(busy)}", todo)
    if len(cards) not in (1, 2, 4, 8):
        return warning("cards", found, "a host has 8: look in dmesg for the others")
    return ok("cards", found)


def check_software(software: str | None, driver: str | None) -> Finding:
    """User space against the driver: both must be of the same release."""
    if software is None:
        todo = "use the vendor's image or installer: the package is not on PyPI (Dockerfile.gaudi)"
        return fail("Gaudi software", f"{PLUGIN} is not installed", todo)
    found = f"user space {software}, driver {driver or 'unknown'}"
    if driver is None:
        return warning("Gaudi software", found, "see the line of the cards")
    if Version(software).release[:2] != Version(driver).release[:2]:
        todo = f"use the image of {driver}, or upgrade the driver: otherwise every operation fails with synStatus 26"
        return fail("Gaudi software", found, todo)
    if Version(software).release[:3] != Version(driver).release[:3]:
        return warning("Gaudi software", found, f"better use the image of {driver}")
    return ok("Gaudi software", found)


def check_stack(
    stack: GaudiStack | None, software: str | None, cards: list[hl_smi.Card], execution: str
) -> list[Finding]:
    """Torch, Python, cards and the Hugging Face packages against the release."""
    if software is None:
        return []
    if stack is None:
        todo = "releases 1.20 to 1.24 are known; see docs/gaudi.md"
        return [warning("release", f"{software} is not in the table of compatible versions", todo)]
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    findings = [check_torch(stack, torch.__version__, execution)]
    if stack.pythons and here not in stack.pythons:
        findings.append(warning("Python", here, f"images of {software} have {', '.join(stack.pythons)}"))
    for board in sorted({card.board for card in cards}):
        generation = generation_of(board)
        if generation is None:
            findings.append(warning("generation", f"{board} is unknown", "see the vendor's support matrix"))
        elif generation not in stack.generations:
            todo = "use software 1.21 with its image: the last for the first generation"
            findings.append(fail("generation", f"{software} does not support {board} (Gaudi{generation})", todo))
    for package, wanted in (("optimum-habana", stack.optimum_habana), ("transformers", stack.transformers)):
        found = installed_version(package)
        if found and wanted and installed_version("optimum-habana") and Version(found) not in SpecifierSet(wanted):
            findings.append(warning(package, found, f"validated with {software}: {wanted}; not needed for training"))
    return findings


def check_torch(stack: GaudiStack, found: str, execution: str) -> Finding:
    """Torch must be one of the release's two builds, and the fork for lazy execution."""
    given = Version(found)
    if f"{given.major}.{given.minor}" != stack.torch:
        todo = f"release {stack.software} is for {stack.torch}: install with it as a constraint (Dockerfile.gaudi)"
        return fail("torch", found, todo)
    if habana.is_fork(found):
        return ok("torch", f"{found}, the vendor's fork, as release {stack.software} needs")
    if "cpu" not in (given.local or ""):
        todo = "use the torch of the vendor's image: its package refuses builds other than its fork and the CPU's"
        return fail("torch", f"{found} is neither", todo)
    if execution == "lazy":
        return fail("torch", f"{found} has no lazy mode", "use device.execution=compile or eager, or the vendor's fork")
    return ok("torch", f"{found}, the upstream build: without lazy mode")


def check_bridge(run: Callable[..., str | None], execution: str) -> Finding:
    """Import the vendor's package as a run would, and count cards, in a separate process: the import may crash."""
    answer = run([sys.executable, "-c", BRIDGE, execution]) or ""
    told = next(
        (line for line in answer.splitlines() if line.startswith(("cards ", "error "))), "error it crashes or hangs"
    )
    kind, _, what = told.partition(" ")
    if kind == "error":
        todo = "see the lines of torch and of the Gaudi software"
        return fail(habana.PACKAGE, f"cannot be imported for execution={execution}: {what}", todo)
    if what == "0":
        todo = "see the lines of the cards and of HABANA_VISIBLE_MODULES"
        return fail(habana.PACKAGE, "can be imported, but no card responds", todo)
    return ok(habana.PACKAGE, f"can be imported for execution={execution}, {what} cards")


def check_deepspeed(engine: str, stack: GaudiStack | None, found: str | None) -> list[Finding]:
    """The vendor's fork at the release's tag, if an engine needs it or if it is installed."""
    needed = engine.startswith("zero")
    if stack is None or (found is None and not needed):
        return []
    source = f"pip install git+https://github.com/HabanaAI/DeepSpeed.git@{stack.deepspeed}"
    report = fail if needed else warning
    if found is None:
        return [fail("DeepSpeed", f"engine={engine} needs it", source)]
    if "hpu" not in found:
        return [report("DeepSpeed", f"{found} is not the vendor's fork", source)]
    tag = found.rpartition("synapse.v")[2]
    if not tag or Version(tag).release[:2] not in {Version(v).release[:2] for v in (stack.deepspeed, stack.software)}:
        return [warning("DeepSpeed", f"fork of {tag}, not of {stack.deepspeed}", source)]
    return [ok("DeepSpeed", found)]
