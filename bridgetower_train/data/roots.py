"""Where corpora are: a root is a local folder, as a path or a file:// URL, or any other fsspec URL."""

from bridgetower_train.data.cache import ShardCache


def is_remote(path: str) -> bool:
    """Whether a root, or anything below it, has to be fetched: an fsspec URL other than file://."""
    return "://" in path and not path.startswith("file://")


def plain_root(root: str) -> str:
    """A root without file:// and without a slash at its end: a local path, or the URL of a remote root."""
    return root.removeprefix("file://").rstrip("/")


def shard_cache(root: str, cache_dir: str | None, cache_gb: float) -> ShardCache | None:
    """The cache for the shards of a remote root, of `cache_gb` 10^9 bytes; None for a local root or without a folder."""
    return ShardCache(cache_dir, int(cache_gb * 1e9)) if cache_dir and is_remote(root) else None
