"""Where corpora are: a root is a local folder, as a path or a file:// URL, or any other fsspec URL."""

import os
from dataclasses import dataclass

from bridgetower_train.config import at_least
from bridgetower_train.data.cache import ShardCache, read_url
from bridgetower_train.data.manifest import Manifest
from bridgetower_train.display import HIDDEN
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.foreign import MAX_JSON, read_bytes


def is_remote(path: str) -> bool:
    """Whether a root, or anything below it, has to be fetched: an fsspec URL other than file://."""
    return "://" in path.removeprefix("file://")


def plain_root(root: str) -> str:
    """A root without file:// and without a slash at its end: a local path, or the URL of a remote root.

    ConfigError for a URL that has lost its credentials, as those in a stored configuration have.
    """
    if is_remote(root) and HIDDEN in root:
        raise ConfigError(
            f"{root}: {HIDDEN} stands for credentials, which are not stored with a configuration; give the root again, with "
            "them or with credentials in the environment"
        )
    return root.removeprefix("file://").rstrip("/")


def require_root_of(tokenizer: str, root: str) -> None:
    """`require_root` for a tokenizer that lies below it, and cannot be there either."""
    if tokenizer.startswith(f"{root}/"):
        require_root(root)


def require_root(root: str) -> None:
    """ConfigError for a local folder that there is not."""
    if not is_remote(root) and not os.path.isdir(plain_root(root)):
        raise ConfigError(
            f"data.root={root}: no such folder; give the folder that has one folder per corpus, or draw a first one: "
            f"bridgetower prep shapes out={root}"
        )


def read_small(root: str, name: str, limit: int = MAX_JSON) -> bytes:
    """The contents of a small file below `root`, local or remote. OSError if a local one cannot be read.

    UserError if it has more than `limit` bytes, or is remote and cannot be fetched.
    """
    path = f"{plain_root(root)}/{name}"
    return read_url(path, limit) if is_remote(root) else read_bytes(path, limit)


def shard_cache(
    root: str, cache_dir: str | None, cache_gb: float, cache_shared: bool, retry_hours: float = 0.0
) -> ShardCache | None:
    """The cache for the shards of a remote root, of `cache_gb` 10^9 bytes, which waits up to `retry_hours` for the root to come
    back; None for a local root or without a folder."""
    if not cache_dir or not is_remote(root):
        return None
    return ShardCache(cache_dir, int(cache_gb * 1e9), cache_shared, 3600 * retry_hours)


def read_manifest(root: str, corpus: str) -> Manifest | None:
    """The manifest of a corpus below `root`; None where it cannot be read from here."""
    name = f"{corpus}/manifest.json"
    try:
        return Manifest.from_json(read_small(root, name), f"{plain_root(root)}/{name}")
    except (OSError, ValueError, UserError):  # ValueError: a name with a null byte
        return None


def root_of_run(recorded: str, given: str | None) -> str | None:
    """Where the corpora of a run are: `given` on the command line, or else the `data.root` that it recorded, if that is local.

    None for a remote one: a run's config.yaml may be a stranger's, and nothing is contacted because of it alone.
    """
    return given or (None if is_remote(recorded) else recorded)


@dataclass(frozen=True)
class RootOptions:
    """Keys of the commands that read finished corpora."""

    root: str | None = None
    """Folder or fsspec URL with one folder per corpus."""
    cache_dir: str | None = None
    """Folder that caches shards of a remote root, which needs it."""
    cache_gb: float = 100.0
    """Size of that cache, 10^9 bytes."""
    cache_shared: bool = False
    """Other users of the host share the cache, and are trusted not to change its files; otherwise it is closed to them."""
    follow_links: bool = False
    """Read shards that are links to files outside their corpus folder, as those of DVC, git-annex and the hub's cache are."""

    def __post_init__(self) -> None:
        at_least("cache_gb", self.cache_gb, 0)
        if self.root and is_remote(self.root) and self.cache_dir is None:
            raise ConfigError(f"root={self.root}: is remote; set cache_dir to a folder that may keep its shards")

    @property
    def cache(self) -> ShardCache | None:
        """For the shards of a remote root."""
        return shard_cache(self.root, self.cache_dir, self.cache_gb, self.cache_shared) if self.root else None
