"""Finding the corpora below a root, for the commands that read finished ones."""

from dataclasses import dataclass
from typing import NamedTuple

from fsspec.core import url_to_fs

from bridgetower_train.config import at_least
from bridgetower_train.data.cache import ShardCache
from bridgetower_train.data.roots import is_remote, shard_cache
from bridgetower_train.errors import ConfigError


@dataclass(frozen=True)
class CorporaConfig:
    """Keys of the commands that read finished corpora."""

    root: str = "???"
    """A folder of corpora, or the folder of one corpus; also an fsspec URL."""
    cache_dir: str | None = None
    """Folder that keeps shards of a remote root, which needs it."""
    cache_gb: float = 100.0
    """Size of that cache, 10^9 bytes."""
    follow_links: bool = False
    """Read shards that are links to files outside their corpus folder, as those of DVC, git-annex and the hub's cache are."""

    def __post_init__(self) -> None:
        at_least("cache_gb", self.cache_gb, 0)
        if is_remote(self.root) and self.cache_dir is None:
            raise ConfigError(f"root={self.root}: is remote; set cache_dir to a folder that may keep its shards")

    @property
    def cache(self) -> ShardCache | None:
        """For the shards of a remote root."""
        return shard_cache(self.root, self.cache_dir, self.cache_gb)


class Place(NamedTuple):
    """Where a corpus is: `open_corpus(root, name)`."""

    root: str
    name: str

    @property
    def folder(self) -> str:
        """Its folder or URL."""
        return f"{self.root}/{self.name}"


def find_corpora(root: str) -> list[Place]:
    """`root` itself where it has shards, an index or a manifest; otherwise those of its folders that do, by name.

    ConfigError where there is none.
    """
    fs, path = url_to_fs(root)
    scheme = root[: root.index("://") + 3] if is_remote(root) else ""

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
        raise ConfigError(
            f"root={root}: no such folder; give a folder with shards, or the folder of such folders"
        ) from None
    except OSError as error:
        raise ConfigError(f"root={root}: cannot be listed ({error})") from None
    if not found:
        raise ConfigError(f"root={root}: has no corpus; give a folder with shards, or the folder of such folders")
    return found


def _names(paths: list[str]) -> set[str]:
    return {path.rstrip("/").rpartition("/")[2] for path in paths}


def _is_corpus(names: set[str]) -> bool:
    return bool(names & {"manifest.json", "index.npy"}) or any(name.endswith(".tar") for name in names)
