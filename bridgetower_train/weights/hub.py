"""The Hugging Face hub: the only place from which weights come, or to which they go, over the network."""

import importlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.weights.read import WEIGHT_FILES, parts_of

NAME = r"[\w.-]+(/[\w.-]+)?"
"""What a name on the hub looks like: `owner/name`, or `name` alone for the oldest models."""

SOURCE = rf"{NAME}(@[\w./-]+)?"
"""What stands for weights on the hub: a name, or `name@revision`, a commit, tag or branch; without one its newest commit."""


def fetch(source: str, named: str) -> Path:
    """The folder, in the hub's own cache, with the weights of `source` and what describes them; it is named by their commit.

    ConfigError beginning with `named`, the key and its value, where there is no such name, no weights, or no way there.
    """
    hub = _hub(named)
    name, _, revision = source.partition("@")
    errors = importlib.import_module("huggingface_hub.errors")
    missing = (errors.EntryNotFoundError, errors.LocalEntryNotFoundError)
    try:
        for file in WEIGHT_FILES:
            try:
                found = Path(hub.hf_hub_download(name, file, revision=revision or None))
                break
            except missing as error:
                reason = error
        else:
            raise ConfigError(f"{named}: the hub gives none of {', '.join(WEIGHT_FILES)} ({_first_line(reason)})")
        commit = found.parent.name
        for file in parts_of(found, named) if found.suffix == ".json" else []:
            hub.hf_hub_download(name, file, revision=commit)
        for file in ("config.json", "tokenizer.json", "vocab.json"):
            with suppress(*missing):
                hub.hf_hub_download(name, file, revision=commit)
    except ConfigError:
        raise
    except Exception as error:  # the hub's package changes its HTTP library, and so its errors
        raise ConfigError(
            f"{named}: no such file or folder here, and the hub does not give it: {_first_line(error)}"
        ) from None
    return found.parent


def check_push(repo: str | None) -> None:
    """ConfigError where an upload to `repo` cannot begin: no name, or no token."""
    if repo is None or not re.fullmatch(NAME, repo):
        raise ConfigError(f"repo={repo}: push=true needs the name to upload to: repo=owner/name")
    if not _hub("push=true").get_token():
        raise ConfigError("push=true: no token for the hub; set HF_TOKEN, or log in with `hf auth login`")


def push(folder: Path, repo: str, private: bool) -> str:
    """Upload an export as the model `repo`, made where it is missing; returns its address. UserError where that fails.

    Its `eval.json` stays here: it has images of the corpora.
    """
    api = _hub("push=true").HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        classes = ", ".join(json.loads((folder / "config.json").read_text())["architectures"])
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=f"Upload {classes}", ignore_patterns="eval.json"
        )
    except Exception as error:  # as in fetch
        raise UserError(f"{folder} is whole, but was not uploaded to {repo}: {_first_line(error)}") from None
    return str(address)


def _hub(named: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise ConfigError(
            f"{named}: the hub needs huggingface_hub: pip install 'bridgetower-train[hub]'; or give a local folder"
        ) from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
