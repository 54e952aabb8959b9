"""Checkpoints of a run: written atomically in the background; the newest intact one is loaded."""

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridgetower_train.config import CheckpointConfig
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines import Engine
from bridgetower_train.engines.base import Files
from bridgetower_train.engines.tensor_file import write_tensors
from bridgetower_train.errors import CheckpointError, FileError, UserError
from bridgetower_train.files import atomic_write, nearest_folder, sha256_file, sync
from bridgetower_train.lock import Lock
from bridgetower_train.training.metrics import BAD_SAMPLES, METRICS
from bridgetower_train.weights.checkpoint import (
    Best,
    Log,
    fault,
    folder_name,
    newest,
    read_state,
    step_folders,
    step_of,
    verify,
)

_DOOMED = ".old.tmp"
"""Ends the names of folders that are being removed."""


class Checkpoints:
    """The checkpoints of one run. Rank 0 writes them in a background thread."""

    def __init__(
        self, run_dir: Path, config: CheckpointConfig, ranks: Ranks, log: Log, lock: Lock | None = None
    ) -> None:
        """Nothing is written once `lock`, rank 0's on `run_dir`, covers another folder."""
        self.run_dir, self.config, self.ranks, self.log, self.lock = run_dir, config, ranks, log, lock
        self.folder = run_dir / "checkpoints"
        self._stuck: set[Path] = set()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def find(
        self, expected: dict[str, Any], defaults: dict[str, Any], step: int | None = None
    ) -> tuple[Path, dict[str, Any]] | None:
        """The newest intact checkpoint, or that of `step`, and its state; None if the run has not been saved yet.

        Only rank 0 finds and verifies it. The outcome is the same on all ranks.

        Raises CheckpointError if the state differs from `expected`, the values that must not change on resume. A key that an
        older state does not have counts as its value in `defaults`. FileError if there is something else than a state.
        """
        found = self.ranks.on_main(lambda: self._found(step))
        if found is None:
            return None
        folder, state = found
        kept = defaults | state["identity"]
        changed = [f"{k} was {kept.get(k)!r}, is {v!r}" for k, v in expected.items() if kept.get(k) != v]
        if changed:
            raise CheckpointError(
                f"{folder} belongs to another run: {'; '.join(changed)}. Change the keys back, or choose another run_dir"
            )
        return folder, state

    def tidy(self, folder: Path, best: Best | None) -> None:
        """Give those that are newer than the newest intact one, `folder`, another name: they are not kept in its place.

        `latest` and `best` name it and the `best` that it knows, whatever a kill has left there.
        """
        self.ranks.on_main(lambda: self._tidy(folder, best))

    def _tidy(self, folder: Path, best: Best | None) -> None:
        self._set_aside_after(step_of(folder))
        self._name(folder, best)

    def _name(self, newest: Path, best: Best | None) -> None:
        """Let `latest` and `best`, which are for people, name these checkpoints."""
        for name, meant in (("latest", newest.name), ("best", folder_name(best.step) if best else None)):
            path = self.folder / name
            if meant is None:
                if path.is_file():
                    path.unlink()
            elif not path.is_file() or path.read_bytes() != meant.encode():
                atomic_write(path, meant)

    def _found(self, step: int | None) -> tuple[Path, dict[str, Any]] | None:
        folder = newest(self.run_dir, self.log) if step is None else self.folder / folder_name(step)
        if folder is None:
            if step_folders(self.run_dir):
                raise CheckpointError(f"no checkpoint in {self.folder} is intact; move it away to start from scratch")
            return None
        state = read_state(folder)
        if state["step"] != step_of(folder):
            raise CheckpointError(f"{folder}: its state.json is that of step {state['step']}; move this folder away")
        best: Best | None = state["best"]
        if best and not (self.folder / folder_name(best.step)).is_dir():
            self.log(f"the best checkpoint, of step {best.step}, is gone; the next validation begins anew")
            state["best"] = None
        return folder, state

    def _set_aside_after(self, step: int) -> None:
        for folder in step_folders(self.run_dir):
            if step_of(folder) > step:
                try:
                    self.log(f"{folder.name} is set aside as {self._set_aside(folder).name}")
                except OSError as error:
                    self.log(f"warning: {folder} cannot be renamed ({error}); move it away")

    def _set_aside(self, folder: Path) -> Path:
        """The new path of a damaged checkpoint, or of whatever has the name of one. One set aside before is removed."""
        aside = folder.with_name(f"damaged-{folder.name}")
        self._remove(aside)
        folder.rename(aside)
        return aside

    def save(self, engine: Engine, state: dict[str, Any], best: Best | None = None) -> None:
        """Copy the checkpoint of `state["step"]` to host memory, and write it from there in the background.

        The checkpoint of the `best` validation so far is kept; it may be this one.
        There is one copy, so only one write at a time: waits for the previous one. Raises as `finish` does.
        """
        self.finish()
        files = engine.snapshot()
        if self.ranks.is_main:
            self._writing = self._thread.submit(self._write, files, state, best)

    @property
    def failed(self) -> bool:
        """True once a write has failed on this rank: `finish` will raise."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def finish(self) -> None:
        """Wait until the last checkpoint is written. Called on every rank; raises CheckpointError on all if it failed."""
        failure = self._wait()
        failures = [found for found in self.ranks.gather_objects(failure) if found]
        if failures:
            raise CheckpointError(failures[0])

    def last_before(self, step: int) -> int | None:
        """The step of the newest intact checkpoint before `step`; None if there is none. Called on every rank."""
        self.finish()

        def search() -> int | None:
            older = (folder for folder in reversed(step_folders(self.run_dir)) if step_of(folder) < step)
            return next((step_of(folder) for folder in older if verify(folder) is None), None)

        return self.ranks.on_main(search)

    def close(self) -> None:
        """Wait for the last write on this rank only, and log a failure. For runs that end with an error before `finish`."""
        failure = self._wait()
        if failure:
            self.log(failure)
        self._thread.shutdown()

    def _wait(self) -> str | None:
        """Wait for the last write; returns why it failed, or None."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except CheckpointError as error:
            return str(error)
        return None

    def _write(self, files: Files, state: dict[str, Any], best: Best | None) -> None:
        """Write a checkpoint, let `latest` name it and `best` the best, and remove what is no longer kept.

        The best is what the newest whole checkpoint knows as such, so that both change at once.
        It counts once what the run has logged up to it is on the disk.
        """
        final = self.folder / folder_name(state["step"])
        temporary = final.with_suffix(".tmp")
        try:
            if self.lock:
                self.lock.check()
            for left_over in self.folder.glob("*.tmp"):
                self._remove(left_over)
            self.folder.mkdir(exist_ok=True)
            temporary.mkdir()
            write_sealed(temporary, files, state | ({"best": vars(best)} if best else {}))
            for name in (METRICS, BAD_SAMPLES, "."):
                with suppress(FileNotFoundError):  # somebody has moved it away
                    sync(self.run_dir / name)
            if os.path.lexists(final):
                self._set_aside(final)
            temporary.rename(final)
            sync(self.folder)
            self._name(final, best)
        except UserError as error:
            raise CheckpointError(str(error)) from None
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            needed = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
            free, kept = shutil.disk_usage(nearest_folder(self.run_dir)).free, step_folders(self.run_dir)
            raise CheckpointError(
                f"cannot write {final}: {error}. It needs {needed / 1e9:.3f} GB, and {free / 1e9:.3f} GB are free; "
                + (f"{kept[-1].name} is kept. " if kept else "")
                + f"Free space in run_dir={self.run_dir}, or make it writable, and run the same command again"
            ) from error
        try:
            self._remove(final.with_name(f"damaged-{final.name}"))
            self._remove_old(state["step"], best)
        except (OSError, FileError) as error:
            self.log(f"warning: {self.folder}: cannot be searched for old checkpoints: {error}")

    def _remove_old(self, newest: int, best: Best | None) -> None:
        """Remove those before the last `keep_last` whole ones up to step `newest`.

        Kept are milestones, the best, and the last from before a streak of skipped updates that goes on: the one to go back to.
        """
        every = self.config.keep_every
        folders = [folder for folder in step_folders(self.run_dir) if step_of(folder) <= newest]
        whole = [folder for folder in folders if fault(folder) is None]
        if len(whole) <= self.config.keep_last:
            return
        sound = next((step_of(folder) for folder in reversed(whole) if not read_state(folder)["streak"]), None)
        for folder in folders:
            step = step_of(folder)
            kept = (every and step % every == 0) or step == sound or (best and step == best.step)
            if step < step_of(whole[-self.config.keep_last]) and not kept:
                self._remove(folder)

    def _remove(self, path: Path) -> None:
        """Remove a folder with all that is in it, or a file, if it is there. What a link leads to is left alone.

        A folder loses its name first: one that goes in part is no checkpoint. What stays, as what is being read does on NFS,
        is named once, and the next save tries again.
        """
        doomed = path
        try:
            if path.is_dir() and not path.is_symlink():
                if not path.name.endswith(_DOOMED):
                    doomed = path.rename(path.with_name(f"{path.stem}.{secrets.token_hex(4)}{_DOOMED}"))
                shutil.rmtree(doomed)
            elif os.path.lexists(path):
                path.unlink()
        except OSError as error:
            if doomed not in self._stuck:
                self.log(f"warning: {doomed} cannot be removed yet: {error}")
            self._stuck.add(doomed)


def write_sealed(folder: Path, files: Files, state: dict[str, Any]) -> None:
    """Write an engine's files and `state.json` into an empty folder, and their manifest last, all synced to disk."""
    digests = {}
    for name, tensors in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        digests[name] = write_tensors(folder / name, tensors)
    atomic_write(folder / "state.json", json.dumps(state, indent=1))
    digests["state.json"] = sha256_file(folder / "state.json")
    entries = {name: {"bytes": (folder / name).stat().st_size, "sha256": digest} for name, digest in digests.items()}
    atomic_write(folder / "manifest.json", json.dumps({"files": entries}, indent=1))
    for path in (folder, *(p for p in folder.iterdir() if p.is_dir())):
        sync(path)


def fingerprint(config: Any, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """The keys of a configuration, flattened, that start with one of `prefixes`, with their values."""
    flat = dict(_flatten(dataclasses.asdict(config)))
    return {key: value for key, value in flat.items() if key.startswith(prefixes)}


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
