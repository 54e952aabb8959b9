"""Runs commands in one process under `layer.c`, and says how each ended: `driver.py CONTROL FOLDER < calls.json > ends.json`."""

import contextlib
import io
import json
import sys
import threading
import time
import traceback
from pathlib import Path

from bridgetower_train.cli import main


def switch(control: Path, folder: Path, then: dict, over: threading.Event) -> None:
    """Change how the disk is once a file on it that matches `then["when"]` has `then["bytes"]`."""
    while not over.is_set():
        with contextlib.suppress(FileNotFoundError):
            if any(path.stat().st_size >= then["bytes"] for path in folder.glob(then["when"])):
                control.write_text(then["disk"])
                return
        time.sleep(0.002)


def call(control: Path, folder: Path, arguments: list[str], disk: str, then: dict | None) -> dict:
    """Exit code (None: it raised) and output of a command."""
    over, output = threading.Event(), io.StringIO()
    control.write_text(disk)
    watcher = threading.Thread(target=switch, args=(control, folder, then, over)) if then else None
    if watcher:
        watcher.start()
    code = None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
    over.set()
    if watcher:
        watcher.join()
    control.write_text("")
    return {"code": code, "output": output.getvalue()}


if __name__ == "__main__":
    ends = [call(Path(sys.argv[1]), Path(sys.argv[2]), **given) for given in json.load(sys.stdin)]
    json.dump(ends, sys.stdout)
