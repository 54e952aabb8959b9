"""The Hugging Face hub: the only place from which weights and tokenizers come, or to which weights go, over the network."""

import importlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.foreign import MAX_JSON, read_bytes
from bridgetower_train.tasks import TASKS
from bridgetower_train.weights.hf_files import ENTRY
from bridgetower_train.weights.read import WEIGHT_FILES, parts_of

NAME = r"[\w.-]+(/[\w.-]+)?"
"""What a name on the hub looks like: `owner/name`, or `name` alone for the oldest models."""

SOURCE = rf"{NAME}(@[\w./-]+)?"
"""What stands for a model on the hub: a name, or `name@revision`, a commit, tag or branch; without one its newest commit."""

TOKENIZER = "tokenizer.json"
_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".json")
_WEIGHTS = "config.json and model.safetensors (or pytorch_model.bin)"
_PATIENCE = 5.0  # seconds until the hub answers


def is_name(given: str) -> bool:
    """Whether `given` stands for a model on the hub: not for something local, and not for a file that is missing here."""
    return not Path(given).exists() and bool(re.fullmatch(SOURCE, given)) and Path(given).suffix not in _FILES


def fetch(source: str, named: str) -> Path:
    """The folder, in the hub's own cache, with the weights of `source` and what describes them; it is named by their commit.

    ConfigError beginning with `named`, the key and its value, where there is no such name, no weights, or no way there.
    """
    with _Source(source, named, _WEIGHTS) as model:
        found = model.first(WEIGHT_FILES)
        commit = found.parent.name
        for file in parts_of(found, named) if found.suffix == ".json" else []:
            model.download(file, commit)
        for file in ("config.json", TOKENIZER, "vocab.json"):
            with suppress(*model.missing):
                model.download(file, commit)
        config = found.with_name("config.json")
        ours = config.is_file() and ENTRY.encode() in read_bytes(config, MAX_JSON)
        for file in sorted({task.head_file for task in TASKS.values()} | {task.names_file for task in TASKS.values()}):
            with suppress(*model.missing):
                if file and ours:
                    model.download(file, commit)
    return found.parent


def reach(source: str, named: str) -> str:
    """Where the weights of `source` are, in words, without fetching any; ConfigError as `fetch` raises it."""
    with _Source(source, named, _WEIGHTS) as model:
        found = model.first(WEIGHT_FILES, fetched=False)
        return f"in the hub's cache, {found.parent}" if found.is_absolute() else f"on the hub, {found}"


def tokenizer(given: str, ask: bool = True) -> str:
    """Where the tokenizer `given` is: there, if it is a file or folder here, else in the hub's cache.

    It is fetched into the cache, if `ask`: what a stranger's configuration names is no reason to contact anyone. ConfigError
    where the hub does not give it; where it is not asked, what the cache lacks is `given` itself.
    """
    if not is_name(given):
        return given
    if ask:
        with _Source(given, f"tokenizer={given}", TOKENIZER) as model:
            return str(model.first((TOKENIZER,)))
    with suppress(ImportError, ValueError):  # ValueError: no possible name
        name, _, revision = given.partition("@")
        # The package's `local_files_only` asks a server about the user agent all the same.
        cached = importlib.import_module("huggingface_hub").try_to_load_from_cache(
            name, TOKENIZER, revision=revision or None
        )
        return cached if isinstance(cached, str) else given
    return given


class _Source:
    """A model on the hub, for the block in which its files are fetched; whatever goes wrong there is a ConfigError."""

    def __init__(self, source: str, named: str, files: str) -> None:
        """`files` are named where the hub cannot be reached."""
        self.name, _, revision = source.partition("@")
        self.revision, self.named, self.files = revision or None, named, files
        self.unreachable: BaseException | None = None
        """Why the hub cannot be reached; then its cache has to do."""

    def __enter__(self) -> "_Source":
        try:
            self.hub = importlib.import_module("huggingface_hub")
            self.errors = importlib.import_module("huggingface_hub.errors")
        except ImportError:
            raise ConfigError(
                self._advice("the hub needs huggingface_hub: pip install 'bridgetower-train[hub]'")
            ) from None
        self.missing = (self.errors.EntryNotFoundError, self.errors.LocalEntryNotFoundError)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, ConfigError):
            # the hub's package changes its HTTP library, and so its errors
            raise ConfigError(
                f"{self.named}: no such file or folder here, and the hub does not give it: {_first_line(error)}"
            ) from None

    def first(self, files: tuple[str, ...], fetched: bool = True) -> Path:
        """The first of `files` that there is, in the cache; its mere name where it is on the hub and is not to be `fetched`."""
        self._knock(files[0])
        for file in files:
            try:
                if fetched or self.unreachable is not None:
                    return self.download(file, self.revision)
                self._ask(file)
                return Path(file)
            except self.missing as error:
                reason = error
                if isinstance(error, self.errors.LocalEntryNotFoundError):  # something else answered, perhaps a proxy
                    self.unreachable = self.unreachable or error.__cause__ or error
        if self.unreachable is not None:
            raise ConfigError(self._advice(f"the hub cannot be reached ({_first_line(self.unreachable)})"))
        raise ConfigError(f"{self.named}: the hub gives none of {', '.join(files)} ({_first_line(reason)})")

    def download(self, file: str, revision: str | None) -> Path:
        """A file in the cache, fetched if the hub can be reached."""
        local = self.unreachable is not None
        return Path(self.hub.hf_hub_download(self.name, file, revision=revision, local_files_only=local))

    def _knock(self, file: str) -> None:
        """Ask once whether the hub can be reached: its package would try each file again and again, for minutes."""
        try:
            self._ask(file)
        except self.errors.HfHubHTTPError:
            pass  # it answers, and `download` says what
        except Exception as error:
            self.unreachable = error

    def _ask(self, file: str) -> None:
        """Raise what the hub says about a file that it does not give."""
        self.hub.get_hf_file_metadata(self.hub.hf_hub_url(self.name, file, revision=self.revision), timeout=_PATIENCE)

    def _advice(self, reason: str) -> str:
        key = self.named.partition("=")[0]
        return (
            f"{self.named}: no such file or folder here, and {reason}; put {self.files} from "
            f"https://huggingface.co/{self.name} into the folder {Path(self.name).absolute()}, or give another: {key}=FOLDER"
        )


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


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
