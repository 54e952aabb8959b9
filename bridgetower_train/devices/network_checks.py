"""Checks for the collective libraries of all platforms: interfaces, addresses, rendezvous."""

import os
import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from bridgetower_train.findings import Finding, fail, ok, warning

INTERFACES = "/sys/class/net"
_FIREWALL = "let a firewall admit the hosts of the run alone: who reaches its ports owns it (docs/security.md, Ports)"


def check_interface(env: Mapping[str, str], variable: str) -> list[Finding]:
    """Whether the interfaces that `variable` names (prefixes, comma-separated; `=` exact, `^` all but) exist here."""
    if variable not in env:
        return []
    given = env[variable]
    names = sorted(os.listdir(INTERFACES)) if os.path.isdir(INTERFACES) else []
    wanted = given.lstrip("^=").split(",")
    exact = given.startswith("=")
    missing = [w for w in wanted if not any(n == w if exact else n.startswith(w) for n in names)]
    if missing and not given.startswith("^"):
        return [fail(variable, f"{given}: no such interface", f"this host has {', '.join(names) or 'none'}")]
    return [ok(variable, given)]


def check_rendezvous(env: Mapping[str, str]) -> list[Finding]:
    """Whether ranks on several hosts can find each other."""
    world, local = int(env.get("WORLD_SIZE", "1")), int(env.get("LOCAL_WORLD_SIZE", env.get("WORLD_SIZE", "1")))
    if world <= local:
        return []
    address = env.get("MASTER_ADDR", "")
    if address in ("", "localhost", "127.0.0.1"):
        found = f"{address or 'not set'} with {world} ranks on several hosts"
        return [fail("MASTER_ADDR", found, "export the first host's address on every host")]
    found = f"{address}:{env.get('MASTER_PORT', '29500')}"
    public = sorted(filter(is_public, _resolved(address)))
    return [
        warning("MASTER_ADDR", f"{found} is public: {', '.join(public)}", _FIREWALL)
        if public
        else ok("MASTER_ADDR", found)
    ]


def check_addresses(run: Callable[..., str | None]) -> list[Finding]:
    """Whether this host has an address that the whole internet can reach, for runs over several hosts listen there."""
    own = (run(("hostname", "-I")) or "").split()
    public = [address for address in own if is_public(address)]
    if public:
        return [
            warning(
                "addresses",
                f"{', '.join(public)}: public; several hosts' ranks, and a bare torchrun, listen there",
                _FIREWALL,
            )
        ]
    return [ok("addresses", f"{', '.join(own)}: not public")] if own else []


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet, not to a private network or this host."""
    return ip_address(address).is_global


def _resolved(name: str) -> set[str]:
    try:
        return {str(place[0]) for *_, place in socket.getaddrinfo(name, None)}
    except OSError:
        return set()


def check_set(env: Mapping[str, str], variables: Mapping[str, str]) -> list[Finding]:
    """A warning for each variable that is set to something other than 0; `variables` has the consequence."""
    return [
        warning(name, f"{env[name]}: {cost}", f"unset {name} unless this is intended")
        for name, cost in variables.items()
        if env.get(name, "0") not in ("", "0")
    ]
