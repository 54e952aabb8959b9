"""What launchers say of this process, in environment variables."""

import os

from bridgetower_train.errors import UserError

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_PORTS = ("MASTER_PORT", "BRIDGETOWER_STORE_PORT")
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # by one of several ranks
_TODO = "start with a launcher (torchrun, launch/), which sets all of them, or unset them"


def check_numbers() -> None:
    """UserError where variables of every launcher are no numbers."""
    for name in _NUMBERS:
        if not os.environ.get(name, "0").isdecimal():
            raise UserError(f"environment: {name}={os.environ[name]}: is no number; {_TODO}")


def check_ranks() -> None:
    """UserError where those of one of several ranks do not suffice, or cannot be, as where they are left of another job."""
    env = os.environ
    if missing := [name for name in _NEEDED if not env.get(name)]:
        raise UserError(f"environment: WORLD_SIZE={env['WORLD_SIZE']} without {' and '.join(missing)}; {_TODO}")
    if int(env["RANK"]) >= int(env["WORLD_SIZE"]):
        raise UserError(f"environment: RANK={env['RANK']} with WORLD_SIZE={env['WORLD_SIZE']}; {_TODO}")
    for name in _PORTS:
        if not env.get(name, "0").isdecimal() or int(env.get(name, "0")) > 65535:
            raise UserError(f"environment: {name}={env[name]}: is no port; {_TODO}")


def several_ranks() -> bool:
    """Whether this process is one of several ranks."""
    return os.environ.get("WORLD_SIZE", "1") not in ("0", "1")


def is_first() -> bool:
    """Whether this process tells what all ranks know: rank 0, or a single process."""
    return not several_ranks() or os.environ.get("RANK", "0") == "0"
