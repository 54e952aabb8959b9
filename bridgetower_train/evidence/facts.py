"""What a report tells of the machine, and what it keeps to itself: secrets, host names, addresses, the user's folders."""

import getpass
import ipaddress
import platform
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bridgetower_train.display import without_secrets
from bridgetower_train.evidence.report import FORMAT, Report, Step
from bridgetower_train.versions import commit, installed_version, versions

_VARIABLES = re.compile(
    r"(PT_|HABANA|HLS_|HCCL_|HCL_|GC_|NCCL_|CUDA_|PYTORCH_|TORCH|OMP_|LOG_LEVEL_|ENABLE_|HPU_EMULATION_RELEASE$|"
    r"HPU_EMULATION_GENERATION$)"
)
_PRIVATE = re.compile(r"SECRET|TOKEN|PASS|KEY|CREDENTIAL|AUTH|COMM_ID|HOST|ADDR|ENDPOINT")
_PEERS = ("habana-torch-plugin", "deepspeed", "transformers", "optimum-habana", "habana-media-loader", "triton")
_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")


def make_report(kind: str, device: dict[str, str], steps: list[Step], environment: Mapping[str, str]) -> Report:
    """The report of `steps` on this machine; what others need not know is taken out of all texts in it."""
    more = {name: given for name in _PEERS if (given := installed_version(name))}
    variables = {
        name: value
        for name, value in sorted(environment.items())
        if _VARIABLES.match(name) and not _PRIVATE.search(name)
    }
    return Report(
        FORMAT,
        kind,
        installed_version("bridgetower-train") or "unknown",
        commit(),
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        anonymous({**device, "system": platform.platform(terse=True)}),
        versions() | more,
        anonymous(variables),
        [Step(**anonymous(vars(step))) for step in steps],
    )


def anonymous(tree: Any) -> Any:
    """The same tree of dicts and lists, each text in it without secrets, and without what says whose machine it was."""
    if isinstance(tree, dict):
        return {key: anonymous(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [anonymous(value) for value in tree]
    return without_machine(tree) if isinstance(tree, str) else tree


def without_machine(text: str) -> str:
    """`text` without secrets, this host's name, addresses, and the names of home folder and user."""
    host = platform.node()
    hidden = {host: "<host>", host.partition(".")[0]: "<host>", str(Path.home()): "~", _user(): "<user>"}
    for given, stands in sorted(hidden.items(), key=lambda pair: -len(pair[0])):
        if len(given) > 2:
            text = re.sub(rf"(?<![\w-]){re.escape(given)}(?![\w-])", stands, text)
    return _ADDRESS.sub(_hide_address, without_secrets(text))


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        return ""
    return "" if name == "root" else name


def _hide_address(found: re.Match[str]) -> str:
    """Of four numbers, unless they are those of a version, or of this host to itself."""
    try:
        address = ipaddress.IPv4Address(found[0])
    except ValueError:
        return found[0]
    return found[0] if address.is_loopback or address.packed[0] < 4 else "<address>"
