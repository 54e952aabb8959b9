"""Where corpora are: a root is a local folder, as a path or a file:// URL, or any other fsspec URL."""

from bridgetower_train.data.cache import ShardCache, read_url
from bridgetower_train.foreign import MAX_JSON, read_bytes


def is_remote(path: str) -> bool:
    """Whether a root, or anything below it, has to be fetched: an fsspec URL other than file://."""
    return "://" in path and not path.startswith("file://")


def plain_root(root: str) -> str:
    """A root without file:// and without a slash at its end: a local path, or the URL of a remote root."""
    return root.removeprefix("file://").rstrip("/")


def read_small(path: str, limit: int = MAX_JSON) -> bytes:
    """The contents of a small file below a root, local or remote. OSError if a local one cannot be read.

    UserError if it has more than `limit` bytes, or is remote and cannot be fetched.
    """
    return read_url(path, limit) if is_remote(path) else read_bytes(path, limit)


def shard_cache(root: str, cache_dir: str | None, cache_gb: float, cache_shared: bool) -> ShardCache | None:
    """The cache for the shards of a remote root, of `cache_gb` 10^9 bytes; None for a local root or without a folder."""
    return ShardCache(cache_dir, int(cache_gb * 1e9), cache_shared) if cache_dir and is_remote(root) else None
