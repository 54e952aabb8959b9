"""Checks for the collective libraries of all platforms: interfaces, rendezvous."""

import os
from collections.abc import Mapping

from bridgetower_train.findings import Finding, fail, ok, warning

INTERFACES = "/sys/class/net"


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
    return [ok("MASTER_ADDR", f"{address}:{env.get('MASTER_PORT', '29500')}")]


def check_set(env: Mapping[str, str], variables: Mapping[str, str]) -> list[Finding]:
    """A warning for each variable that is set to something other than 0; `variables` has the consequence."""
    return [
        warning(name, f"{env[name]}: {cost}", f"unset {name} unless this is intended")
        for name, cost in variables.items()
        if env.get(name, "0") not in ("", "0")
    ]
