"""The corpora at a place, for the commands that look at what has been written."""

from dataclasses import dataclass
from typing import NamedTuple

from fsspec.core import url_to_fs

from bridgetower_train.config import at_least
from bridgetower_train.data.cache import ShardCache
from bridgetower_train.data.roots import is_remote
from bridgetower_train.errors import ConfigError


@dataclass(frozen=True)
class CorporaConfig:
    """What every command that reads finished corpora needs to know."""

    root: str = "???"
    """A folder of corpora, or the folder of one corpus; also an fsspec URL."""
    cache_dir: str | None = None
    """Where shards of a remote root are kept; needed for one."""
    cache_gb: float = 100.0
    """Size of that cache, 10^9 bytes."""

    def __post_init__(self) -> None:
        at_least("cache_gb", self.cache_gb, 0)
        if is_remote(self.root) and not self.root.startswith("file://") and self.cache_dir is None:
            raise ConfigError(f"root={self.root}: is remote; set cache_dir to a folder that may keep its shards")

    @property
    def cache(self) -> ShardCache | None:
        """For the shards of a remote root."""
        return ShardCache(self.cache_dir, int(self.cache_gb * 1e9)) if self.cache_dir else None


class Place(NamedTuple):
    """Where a corpus lies: `open_corpus(root, name)`."""

    root: str
    name: str

    @property
    def folder(self) -> str:
        """Its folder or URL."""
        return f"{self.root}/{self.name}"


def find_corpora(root: str) -> list[Place]:
    """`root` itself where it holds shards, an index or a manifest; else those of its folders that do, by name.

    ConfigError where there is none.
    """
    fs, path = url_to_fs(root)
    scheme = root[: root.index("://") + 3] if is_remote(root) and not root.startswith("file://") else ""

    def place(folder: str) -> Place:
        parent, _, name = fs._strip_protocol(folder).rstrip("/").rpartition("/")
        return Place(parent if "://" in parent else scheme + parent, name)

    try:
        names = _names(fs.ls(path, detail=False))
        if _is_corpus(names):
            return [place(path)]
        folders = [f"{path.rstrip('/')}/{name}" for name in sorted(names) if fs.isdir(f"{path.rstrip('/')}/{name}")]
        found = [place(folder) for folder in folders if _is_corpus(_names(fs.ls(folder, detail=False)))]
    except FileNotFoundError:
        raise ConfigError(f"root={root}: no such folder") from None
    except OSError as error:
        raise ConfigError(f"root={root}: cannot be listed ({error})") from None
    if not found:
        raise ConfigError(f"root={root}: holds no corpus; give a folder with shards, or the folder of such folders")
    return found


def _names(paths: list[str]) -> set[str]:
    return {path.rstrip("/").rpartition("/")[2] for path in paths}


def _is_corpus(names: set[str]) -> bool:
    return bool(names & {"manifest.json", "index.npy"}) or any(name.endswith(".tar") for name in names)
