"""Importing commands, some of which lie in `data_prep`: a common name, which Python may find elsewhere first."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from bridgetower_train.errors import UserError

OURS = ("bridgetower_train", "data_prep")


def import_command(module: str) -> ModuleType:
    """Import the module of a command. UserError where it needs `data_prep` and Python would find a foreign one."""
    try:
        if module.startswith("data_prep."):
            check_data_prep()
        return importlib.import_module(module)
    except ImportError:
        check_data_prep()
        raise


def check_data_prep() -> None:
    """UserError naming what Python finds as `data_prep` where that is not the package beside this one."""
    spec = find_spec("data_prep")
    found = Path(spec.origin) if spec is not None and spec.origin else None
    ours = Path(__file__).parents[1] / "data_prep" / "__init__.py"
    if found is not None and found.resolve() != ours.resolve():
        raise UserError(
            f"{found}: is another package named data_prep, which Python finds before that of bridgetower-train; rename it, "
            "or start the command from another folder and without this one in PYTHONPATH"
        )
