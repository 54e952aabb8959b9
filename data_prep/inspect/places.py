"""Finding the corpora below a root, for the commands that read finished ones."""

import re
from dataclasses import dataclass
from html import unescape
from typing import NamedTuple
from urllib.parse import urljoin

from fsspec.core import url_to_fs

from bridgetower_train.data.cache import read_url
from bridgetower_train.data.roots import RootOptions, is_remote
from bridgetower_train.errors import ConfigError

_MAX_PAGE = 16 << 20  # bytes of a page that lists a folder
_LINK = re.compile(r"""href ?= ?["']([^"'<>\s]{1,1000})["']""", re.IGNORECASE)
_NAME = re.compile(r"[^/?#]+/?")


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
    if root.startswith(("http://", "https://")):
        return _on_a_web_server(root.rstrip("/"))
    fs, path = url_to_fs(root)
    scheme = root[: root.index("://") + 3] if is_remote(root) else ""

    def place(folder: str) -> Place:
        parent, _, name = fs._strip_protocol(folder).rstrip("/").rpartition("/")
        return _place(parent if "://" in parent else scheme + parent, name, root)

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
    return _some(found, root)


def _place(parent: str, name: str, root: str) -> Place:
    """`name` in `parent`; ConfigError where the latter is nothing but a protocol."""
    if parent.endswith(("://", ":/")):
        raise ConfigError(
            f"root={root}: is a whole server or bucket; move the corpus into a folder of it, and name that"
        )
    return Place(parent, name)


def _some(found: list[Place], root: str) -> list[Place]:
    if not found:
        raise ConfigError(f"root={root}: has no corpus; give a folder with shards, or the folder of such folders")
    return found


def _on_a_web_server(url: str) -> list[Place]:
    """The same for a web server, whose pages are not for fsspec: it reads them whole, and spaces in them keep it for hours."""
    names = _linked(url)
    if _is_corpus(names):
        return [_place(*url.rsplit("/", 1), url)]
    folders = sorted(name.rstrip("/") for name in names if name.endswith("/"))
    return _some([Place(url, folder) for folder in folders if _is_corpus(_linked(f"{url}/{folder}"))], url)


def _linked(url: str) -> set[str]:
    """Names of the files and, with a slash, of the folders in a folder, as the links of its page name them."""
    page = read_url(f"{url}/", _MAX_PAGE).decode("utf-8", "replace")
    targets = (urljoin(f"{url}/", unescape(target)) for target in _LINK.findall(page))
    names = {target.removeprefix(f"{url}/") for target in targets if target.startswith(f"{url}/")}
    return {name for name in names if _NAME.fullmatch(name)}


def _names(paths: list[str]) -> set[str]:
    return {path.rstrip("/").rpartition("/")[2] for path in paths}


def _is_corpus(names: set[str]) -> bool:
    return bool(names & {"manifest.json", "index.npy"}) or any(name.endswith(".tar") for name in names)
