"""What launchers say of this process, in environment variables."""

import os

from bridgetower_train.errors import UserError

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "BRIDGETOWER_STORE_PORT")
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # by one of several ranks


def check_launcher() -> None:
    """UserError where the variables cannot be a launcher's, as where some are left of another job."""
    env, todo = os.environ, "; start with a launcher (torchrun, launch/), which sets all of them, or unset them"
    for name in _NUMBERS:
        number = env.get(name, "0")
        if not number.isdecimal() or len(number) > 9 or (name.endswith("PORT") and int(number) > 65535):
            raise UserError(
                f"environment: {name}={number}: is no {'port' if name.endswith('PORT') else 'number'}{todo}"
            )
    if several_ranks():
        missing = [name for name in _NEEDED if not env.get(name)]
        if missing:
            raise UserError(f"environment: WORLD_SIZE={env['WORLD_SIZE']} without {' and '.join(missing)}{todo}")
        if int(env["RANK"]) >= int(env["WORLD_SIZE"]):
            raise UserError(f"environment: RANK={env['RANK']} with WORLD_SIZE={env['WORLD_SIZE']}{todo}")


def several_ranks() -> bool:
    """Whether this process is one of several ranks."""
    return os.environ.get("WORLD_SIZE", "1") not in ("0", "1")


def is_first() -> bool:
    """Whether this process tells what all ranks know: rank 0, or a single process."""
    return not several_ranks() or os.environ.get("RANK", "0") == "0"
