"""What a run folder tells of its starts: `config.yaml`, with which the run trains, and `starts.jsonl`, a line for each start."""

import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from bridgetower_train import compose
from bridgetower_train.config import TrainConfig
from bridgetower_train.display import print_line, public, shortened, without_secrets
from bridgetower_train.errors import ConfigError
from bridgetower_train.files import atomic_write, sync
from bridgetower_train.training.checkpoints import fingerprint
from bridgetower_train.training.metrics import JsonLines, keep_lines_until
from bridgetower_train.versions import commit, versions

CONFIG, STARTS = "config.yaml", "starts.jsonl"

Changed = dict[str, list[Any]]
"""Key -> what it was, and what it is."""


def resumed(config: TrainConfig, run_dir: Path) -> tuple[TrainConfig, Changed]:
    """(`config` with the `init` that the run began from, the keys that differ from those it trained with so far).

    ConfigError where `init` names other weights: the run did not begin from them.
    """
    try:
        before = compose.from_yaml(TrainConfig, run_dir / CONFIG)
    except ConfigError as error:
        if config.resume_from is not None:
            raise ConfigError(
                f"resume_from={config.resume_from}: {error}, so whether that was done is not known; leave it out to resume from "
                "the newest checkpoint"
            ) from None
        print_line(f"{'warning':10}{error}; which keys have changed is not known")
        return config, {}
    for key, value in config.init.named.items():
        was = before.init.named.get(key)
        if without_secrets(value) != was:
            go_on = f"give {key}={was}" if was else "leave it out"
            raise ConfigError(
                f"{key}={without_secrets(value)}: the run in {run_dir} began from {was or 'weights without it'}; {go_on} to "
                "resume it, or choose another run_dir to start from these"
            )
    config = dataclasses.replace(config, init=before.init)
    was, now = (public(fingerprint(c, ("",))) for c in (before, config))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    return config, {key: [was.get(key), now.get(key)] for key in keys}


def begin(
    config: TrainConfig, run_dir: Path, step: int, changed: Changed, hosts: list[str], abandoned: str | None = None
) -> None:
    """Print what has changed, and note this start, after `step`, before anything is trained with it.

    `hosts`: of each rank. `abandoned`: the folder, in that of the run, of what came after `step`, if the run goes back to it.
    """
    changed = {key: values for key, values in changed.items() if key != "resume_from"}
    if changed:
        print_line(f"{'changed':10}" + "; ".join(shortened(f"{k} was {a}, is {b}") for k, (a, b) in changed.items()))
    path = run_dir / STARTS
    keep_lines_until(path, sys.maxsize)
    starts = JsonLines(path)
    starts.write(
        {
            "step": step,
            "time": time.time(),
            "changed": changed,
            **({"abandoned": abandoned} if abandoned else {}),
            "command": shlex.join(map(without_secrets, sys.argv)),
            "commit": commit(),
            "versions": versions(),
            "hosts": list(dict.fromkeys(hosts)),
            "ranks": len(hosts),
        }
    )
    starts.close()
    sync(path)
    atomic_write(run_dir / CONFIG, compose.to_yaml(config))
