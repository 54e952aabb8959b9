"""Finding the corpora below a root, for the commands that read finished ones."""

from dataclasses import dataclass
from typing import NamedTuple

from fsspec.core import url_to_fs

from bridgetower_train.data.roots import RootOptions, is_remote
from bridgetower_train.errors import ConfigError


@dataclass(frozen=True)
class CorporaConfig(RootOptions):
    """Keys of the commands that read whatever corpora there are."""

    root: str = "???"
    """A folder of corpora, or the folder of one corpus; also an fsspec URL."""


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
        if scheme and parent.rstrip("/") in ("", scheme.rstrip("/")):
            raise ConfigError(
                f"root={root}: is a whole server or bucket; move the corpus into a folder of it, and name that"
            )
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
