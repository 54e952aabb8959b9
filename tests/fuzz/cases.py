"""What a user may do wrong: values, files, variables, terminals and packages; and a command that meets it, in this process."""

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from bridgetower_train.cli import main
from bridgetower_train.data import cache
from bridgetower_train.display import guard_streams
from tests.tiny import TINY

TRAIN = [*TINY, "data.root={data}", "run_dir={run}", "steps=3", "data.workers=0", "tensorboard=true"]

COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "train": (["train", *TRAIN], ("data", "run")),
    "eval": (["eval", "run_dir={run}", "root={data}", "device=cpu"], ("data", "run")),
    "eval exported": (
        ["eval", "run_dir={export}", "root={data}", "corpus=shapes_heldout", "device=cpu"],
        ("data", "export"),
    ),
    "export": (["export", "run_dir={run}", "out={new}/export"], ("data", "run")),
    "report": (["report", "run_dir={run}"], ("data", "run")),
    "predict": (
        ["predict", "run_dir={run}", "image={images}/0.jpg", "texts=[a, b]", "device=cpu"],
        ("data", "run", "images"),
    ),
    "embed": (
        ["embed", "run_dir={run}", "images={images}", "out={new}.parquet", "device=cpu"], ("run", "images"),
    ),
    "search": (
        [
            "search", "index={images}/index.parquet", "run_dir={run}", "text=a", "rerank=2", "out={new}.json",
            "page={new}.html", "device=cpu",
        ],
        ("run", "images"),
    ),
    "view": (["view", *TRAIN, "out={new}/view.html"], ("data",)),
    "doctor": (["doctor", *TRAIN], ("data", "run")),
    "plan": (["plan", *TRAIN, "out={new}/plan.html"], ("data",)),
    "prep lint": (["prep", "lint", "root={data}", "workers=1"], ("data",)),
    "prep stats": (["prep", "stats", "root={data}", "out={new}/stats.html"], ("data",)),
    "prep card": (["prep", "card", "root={data}"], ("data",)),
    "prep index": (["prep", "index", "root={data}/shapes_heldout"], ("data",)),
    "prep shards": (
        ["prep", "shards", "source={data}/shapes_heldout", "out={new}", "name=again", "size=32", "workers=1"],
        ("data",),
    ),
    "prep captions": (
        ["prep", "captions", "source={images}/captions.csv", "out={new}", "name=own", "size=32", "workers=1"],
        ("images",),
    ),
    "prep coco": (
        ["prep", "coco", "images={images}", "annotations={images}/coco.json", "out={new}", "size=32", "workers=1"],
        ("images",),
    ),
    "prep visual_genome": (
        [
            "prep", "visual_genome", "images={images}", "regions={images}/regions.json", "image_data={images}/image_data.json",
            "karpathy=none", "out={new}", "size=32", "workers=1",
        ],
        ("images",),
    ),
    "prep sbu": (
        ["prep", "sbu", "annotations={images}/sbu.json", "out={new}", "size=32", "workers=1", "fetch.contact=https://a.org"],
        ("images",),
    ),
    "prep cc3m": (
        ["prep", "cc3m", "annotations={images}/cc3m.tsv", "out={new}", "size=32", "workers=1", "fetch.contact=https://a.org"],
        ("images",),
    ),
    "prep vqav2": (
        [
            "prep", "vqav2", "images={tasks}/vqav2/train2014",
            "questions={tasks}/vqav2/v2_OpenEnded_mscoco_train2014_questions.json",
            "annotations={tasks}/vqav2/v2_mscoco_train2014_annotations.json", "out={new}", "size=32", "workers=1", "least=1",
        ],
        ("tasks",),
    ),
    "prep vgqa": (
        [
            "prep", "vgqa", "images={images}", "questions={images}/question_answers.json", "answers={images}/answers.json",
            "image_data={images}/image_data.json", "out={new}", "size=32", "workers=1",
        ],
        ("images",),
    ),
    "prep snli_ve": (
        [
            "prep", "snli_ve", "images={tasks}/snli_ve/flickr30k-images", "annotations={tasks}/snli_ve/snli_ve_train.jsonl",
            "out={new}", "size=32", "workers=1",
        ],
        ("tasks",),
    ),
    "prep nlvr2": (
        [
            "prep", "nlvr2", "images={tasks}/nlvr2/images/train", "annotations={tasks}/nlvr2/train.json", "out={new}", "size=32",
            "workers=1",
        ],
        ("tasks",),
    ),
    "prep classes": (
        [
            "prep", "classes", "source={images}/captions.csv", "label=caption", "out={new}", "name=own", "size=32", "workers=1",
        ],
        ("images",),
    ),
    "prep shapes": (
        ["prep", "shapes", "out={new}", "records=8", "heldout=4", "size=32", "workers=1", "tasks=true"],
        (),
    ),
    "rehearse": (["rehearse", *TRAIN, "world_size=2", "scratch={data}"], ("data",)),
}  # fmt: skip
"""Name -> (arguments, the folders of `World` that it needs)."""

DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "cut": lambda data, at: data[:at],
    "empty": lambda data, at: b"",
    "flipped": lambda data, at: data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :] if data else b"\0",
    "zeros": lambda data, at: data[:at] + bytes(len(data) - at),
    "garbage": lambda data, at: data[:at] + b'\xff\xfe"[{]}\x00: -1e999,\n' + data[at:],
    "twice": lambda data, at: data + data,
    "number": lambda data, at: _other_number(data, at),
    "null": lambda data, at: _other_value(data, at, b"null"),
    "list": lambda data, at: _other_value(data, at, b'[{"a": []}]'),
    "text": lambda data, at: _other_value(data, at, b'"\\ud800"'),
}
"""What becomes of a file's bytes, at some place in it."""

KINDS = ("removed", "folder", "loop", "fifo", *DAMAGE)
"""What becomes of a file."""


def _other_number(data: bytes, at: int) -> bytes:
    """A number after that place becomes enormous and negative."""
    return data[:at] + re.sub(rb"\d+", b"-99999999999999999999", data[at:], count=1)


def _other_value(data: bytes, at: int, by: bytes) -> bytes:
    """The first value of JSON or YAML after that place becomes another."""
    return data[:at] + re.sub(rb"(?<=: )[^,\n}\]]+", lambda found: by, data[at:], count=1)


@dataclass(frozen=True)
class Case:
    """A command, and what is wrong."""

    command: str
    keys: tuple[str, ...] = ()
    """Overrides after its own."""
    files: tuple[tuple[str, str, float], ...] = ()
    """(path below the folders, kind of damage, place as a fraction of the file)."""
    env: tuple[tuple[str, str], ...] = ()
    encoding: str = "utf-8"
    """Of the terminal."""
    missing: tuple[str, ...] = ()
    """Packages that cannot be imported."""


@dataclass(frozen=True)
class World:
    """The folders that commands are given: `data`, `run`, `export`, `images` and `tasks` below `folder`."""

    folder: Path

    def files(self, command: str) -> list[str]:
        """Those of a command, by their path below `folder`."""
        found = [path for name in COMMANDS[command][1] for path in (self.folder / name).rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.folder)) for path in found)


@dataclass
class Ended:
    """How a command ended."""

    code: object
    output: str
    raised: str = ""


def attempt(case: Case, world: World) -> Ended:
    """Run a command on copies of what it needs."""
    arguments, needs = COMMANDS[case.command]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        folder = Path(made)
        for name in needs:
            shutil.copytree(world.folder / name, folder / name)
        for file in case.files:
            _damage(folder, *file)
        places = {name: str(folder / name) for name in ("data", "run", "export", "images", "tasks", "new")}
        given = [argument.format(**places) for argument in arguments]
        stream = io.TextIOWrapper(io.BytesIO(), encoding=case.encoding, write_through=True)
        ended = Ended(None, "")
        with _surroundings(case, folder), patch.object(sys, "stdout", stream), patch.object(sys, "stderr", stream):
            guard_streams()
            try:
                ended.code = main([*given, *(key.replace("{new}", places["new"]) for key in case.keys)])
            except SystemExit as error:
                ended.code = error.code
            except BaseException:
                ended.raised = traceback.format_exc()
        ended.output = stream.buffer.getvalue().decode(case.encoding, "replace")  # type: ignore[attr-defined]
    return ended


def faults(case: Case, ended: Ended) -> str:
    """What a user should not have met; empty if there is nothing."""
    if ended.raised or "Traceback (most recent call last)" in ended.output:
        return ended.raised or ended.output
    if ended.code not in (0, None, 1, 2):
        return f"exit code {ended.code}"
    reports = case.command in ("doctor", "prep lint")  # which say what is wrong in their own way
    if ended.code and not reports and not re.search("^error: .+$", ended.output, re.MULTILINE):
        return f"exit code {ended.code} without an error that says why:\n{ended.output}"
    return ""


@contextlib.contextmanager
def _surroundings(case: Case, folder: Path) -> Iterator[None]:
    """Variables, a working and a home folder, no network, no waiting, and packages that are missing."""
    env = {"HOME": str(folder), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", **dict(case.env)}
    before = Path.cwd()
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, env))
        stack.enter_context(_without(case.missing))
        stack.enter_context(patch.object(cache, "RETRY_DELAYS", ()))
        stack.enter_context(patch.object(sys, "argv", ["bridgetower"]))
        with contextlib.suppress(ImportError):
            from huggingface_hub import constants

            stack.enter_context(patch.object(constants, "HF_HUB_OFFLINE", True))
        stack.callback(os.chdir, before)
        os.chdir(folder)
        yield


@contextlib.contextmanager
def _without(packages: tuple[str, ...]) -> Iterator[None]:
    """Packages that cannot be imported, nor what is in them; all else that is imported meanwhile stays."""
    hidden = {name: sys.modules[name] for name in sys.modules if name.startswith(tuple(f"{p}." for p in packages))}
    hidden |= {name: sys.modules[name] for name in packages if name in sys.modules}
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in packages:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def _damage(folder: Path, name: str, kind: str, place: float) -> None:
    path = folder / name
    data = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "removed":
        path.write_bytes(DAMAGE[kind](data, int(place * max(0, len(data) - 1))))
