"""Hosts made of network namespaces, and the tools that launchers need."""

import os
import shutil
import subprocess
from contextlib import ExitStack

import pytest


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
