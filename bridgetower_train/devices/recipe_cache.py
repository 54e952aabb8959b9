"""The vendor's cache of compiled graphs, which it calls recipes: on disk, so that a second start compiles nothing.

From HabanaAI/gaudi-pytorch-bridge: scripts/env_flags.yaml at 5a56187 (three fields) and f186e3d (four), and
pytorch_helpers/habana_helpers/habana_serialization at 5a56187.
"""

import os
from pathlib import Path

from packaging.version import Version

from bridgetower_train.errors import ConfigError
from bridgetower_train.files import is_ours_alone, nearest_folder, own_folder

VARIABLE = "PT_HPU_RECIPE_CACHE_CONFIG"
"""`path,delete on start,MB,on a shared file system`; the last field since release 1.21."""

SHARED = ("nfs", "lustre", "fuse")
"""How the types of file systems begin that several hosts share: locks, by which ranks share a cache, do not work there."""

SHARED_CACHE = Version("1.21")
"""First release whose cache may lie on such a file system."""

_MB = 8192


def keep_recipes(folder: str, software: str | None, rank: int) -> None:
    """Keep compiled graphs in `folder`, unless the environment has VARIABLE; before the vendor's package is imported.

    `software` is the release. Before 1.21, each `rank` has a cache of its own where several hosts share the file system.
    ConfigError where others could write to the folder, for what lies there runs on the card.
    """
    if VARIABLE in os.environ:
        return
    key = f"device.recipe_cache={folder}"
    if "," in folder:
        raise ConfigError(
            f"{key}: the vendor separates fields by commas; name a folder without one, or null for no cache"
        )
    shared = file_system(str(nearest_folder(Path(folder))), Path("/proc/mounts").read_text()).startswith(SHARED)
    fourth = shared and software is not None and Version(software) >= SHARED_CACHE
    path = Path(folder).absolute()
    path.mkdir(0o700, parents=True, exist_ok=True)
    own_folder(path)
    if not is_ours_alone(path):
        raise ConfigError(
            f"{key}: is another user's, or others can write to it; name a new folder, `chmod 700` your own, or set null for no "
            "cache"
        )
    if shared and not fourth:
        path /= f"rank-{rank}"
        own_folder(path)
    os.environ[VARIABLE] = f"{path},false,{_MB}" + ",true" * fourth


def file_system(path: str, mounts: str) -> str:
    """Type of the file system of `path`, from /proc/mounts."""
    points = [line.split()[1:3] for line in mounts.splitlines()]
    above = [(mount, kind) for mount, kind in points if f"{path}/".startswith(mount.rstrip("/") + "/")]
    return max(reversed(above), key=lambda point: len(point[0]), default=("", "unknown"))[1]
