"""Gaudi: driver, software and torch against each other, cards, execution mode, network."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bridgetower_train.config import TrainConfig
from bridgetower_train.devices import hl_smi
from bridgetower_train.devices.gaudi_versions import GaudiStack, generation_of, stack_of
from bridgetower_train.devices.habana import PLUGIN
from bridgetower_train.devices.hpu_environment import check_environment, check_huge_pages, check_modules
from bridgetower_train.devices.network_checks import check_interface, check_rendezvous
from bridgetower_train.findings import Finding, fail, ok, warning
from bridgetower_train.versions import installed_version

BRIDGE = """
import habana_frameworks.torch.core
import torch
print("cards", torch.hpu.device_count() if torch.hpu.is_available() else 0)
"""


def check_hpu(config: TrainConfig, env: Mapping[str, str], run: Callable[..., str | None]) -> list[Finding]:
    """All checks of a Gaudi host."""
    table, csv = run(["hl-smi"]), run(["hl-smi", *hl_smi.QUERY])
    driver, cards = hl_smi.parse_driver(table or ""), hl_smi.parse_cards(csv or "")
    software = installed_version(PLUGIN)
    stack = stack_of(software) if software else None
    return [
        check_cards(cards, driver),
        check_software(software, driver),
        *check_stack(stack, software, cards),
        check_bridge(run),
        *check_modules(cards, env),
        *check_environment(config, env),
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


def check_stack(stack: GaudiStack | None, software: str | None, cards: list[hl_smi.Card]) -> list[Finding]:
    """Torch, Python, cards and the Hugging Face packages against the release."""
    if software is None:
        return []
    if stack is None:
        todo = "releases 1.20 to 1.24 are known; see docs/gaudi.md"
        return [warning("release", f"{software} is not in the table of compatible versions", todo)]
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    findings = [check_torch(stack, torch.__version__)]
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


def check_torch(stack: GaudiStack, found: str) -> Finding:
    """Torch must be the release's own build, not a wheel from PyPI."""
    given = Version(found)
    if f"{given.major}.{given.minor}" != stack.torch:
        todo = f"release {stack.software} is for {stack.torch}: install with it as a constraint (Dockerfile.gaudi)"
        return fail("torch", found, todo)
    if given.local is None or given.local.startswith(("cpu", "cu")):
        todo = "lazy mode needs the vendor's fork; with this build use device.execution=eager or compile"
        return warning("torch", f"{found} looks like the upstream build", todo)
    return ok("torch", f"{found}, as release {stack.software} needs")


def check_bridge(run: Callable[..., str | None]) -> Finding:
    """Import the vendor's package and count cards, in a separate process: the import may crash."""
    answer = run([sys.executable, "-c", BRIDGE])
    if answer is None:
        todo = f"find out why: {Path(sys.executable).name} -c 'import habana_frameworks.torch.core'"
        return fail("habana_frameworks.torch", "cannot be imported", todo)
    count = int(next((line.split()[1] for line in answer.splitlines() if line.startswith("cards ")), "0"))
    if count == 0:
        todo = "see the lines of the cards and of HABANA_VISIBLE_MODULES"
        return fail("habana_frameworks.torch", "can be imported, but no card responds", todo)
    return ok("habana_frameworks.torch", f"can be imported, {count} cards")


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
