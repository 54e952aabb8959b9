"""Hosts made of network namespaces, and the tools that launchers need."""

import ipaddress
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.training.runs import Job, last_step


class Hosts:
    """Two hosts on a network of their own, 10.77.0.1 and 10.77.0.2."""

    addresses = ("10.77.0.1", "10.77.0.2")

    def __init__(self) -> None:
        self.names = [f"bridgetower-{os.getpid()}-{number}" for number in (1, 2)]

    def __enter__(self) -> "Hosts":
        with ExitStack() as made:
            for name in self.names:
                self._ip("netns", "add", name)
                made.callback(self._ip, "netns", "delete", name)
            first, second = self.names
            self._ip("link", "add", "wire", "netns", first, "type", "veth", "peer", "name", "wire", "netns", second)
            for name, address in zip(self.names, self.addresses, strict=True):
                self._ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
                for link in ("lo", "wire"):
                    self._ip("-n", name, "link", "set", link, "up")
            self._made = made.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._made.close()

    def on(self, host: int, *command: str) -> list[str]:
        """`command` as it is run on host 0 or 1."""
        return ["ip", "netns", "exec", self.names[host], *command]

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)


def need(*tools: str, root: bool = False) -> None:
    """Skip the test where a tool or the right to use it is missing."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if root and os.geteuid() != 0:
        pytest.skip("needs root")


def torchrun_of(job: Job) -> psutil.Process:
    """The process of torchrun, whose children are the ranks of its host, behind `launch/torchrun.sh`."""
    (torchrun,) = [p for p in psutil.Process(job.process.pid).children() if "torch.distributed.run" in p.cmdline()]
    return torchrun


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, str]]:
    """(name of the process, address) of each TCP port on which one of them listens."""
    found = set()
    for process in processes:
        folder = f"/proc/{process.pid}"
        with suppress(OSError, psutil.NoSuchProcess):  # it ends just now
            name, sockets = process.name(), set()
            for descriptor in os.listdir(f"{folder}/fd"):
                with suppress(FileNotFoundError):
                    sockets.add(os.readlink(f"{folder}/fd/{descriptor}"))
            for table in ("tcp", "tcp6"):
                with suppress(FileNotFoundError), open(f"{folder}/net/{table}") as lines:
                    next(lines)
                    for _, local, _, state, *_, inode in (line.split()[:10] for line in lines):
                        if state == "0A" and f"socket:[{inode}]" in sockets:
                            found.add((name, _address(local.partition(":")[0])))
    return found


def _address(digits: str) -> str:
    """The kernel writes an address as words of 32 bits in the order of the host."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return str(getattr(address, "ipv4_mapped", None) or address)


def listening_until(job: Job, step: int) -> set[tuple[str, str]]:
    """`listening` of a run's processes, looked at again and again until a step is done."""
    found: set[tuple[str, str]] = set()

    def done() -> bool:
        with suppress(psutil.NoSuchProcess):
            found.update(listening(job.family()))
        return last_step(job.run_dir) >= step

    assert job.wait_for(done), job.wait()
    return found
