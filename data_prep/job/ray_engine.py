"""Ranges as tasks of a Ray cluster. A task that is lost with its worker runs again, and resumes from its spool."""

import importlib
import os
import secrets
import signal
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from packaging.version import Version

from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.versions import installed_version
from data_prep.job.finish import summary_of
from data_prep.job.progress import Progress
from data_prep.job.shard_range import ShardRange, Work
from data_prep.source.rows import Images, Outcome, Part, PartError

_RETRIES = 5  # of a task whose worker dies
_LOWEST = "2.52"  # version; the first with tokens
_AHEAD = 2  # tasks submitted for each one that the cluster can run


def prepare_ranges(
    parts: Iterator[Part], images: Images, work: Work, workers: int, progress: Progress
) -> list[PartError]:
    """Prepare each part in a task with `workers` CPUs of the cluster at RAY_ADDRESS or a new one.

    Returns why some cannot be read.
    ConfigError where Ray is missing, or older than its tokens, or no node has as many CPUs; DataError where a task's worker
    dies again and again.
    """
    unread: list[PartError] = []
    with _connected() as ray:
        at_once = sum(int(node["Resources"].get("CPU", 0)) // workers for node in ray.nodes() if node["Alive"])
        if not at_once:
            raise ConfigError(
                f"workers={workers}: no node of the cluster has that many CPUs; take fewer workers per task"
            )
        task = ray.remote(num_cpus=workers, max_retries=_RETRIES)(_prepare)
        shared = ray.put((work, images))
        running: list[Any] = []
        for part in parts:
            running.append(task.remote(shared, part))
            if len(running) >= _AHEAD * at_once:
                running = _collect(ray, running, progress, unread)
        while running:
            running = _collect(ray, running, progress, unread)
    return unread


@contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster at RAY_ADDRESS, whose authentication is its owner's, or to a new one.

    A new one listens on 127.0.0.1, obeys who has its token, and has its files in a folder of this user's.
    """
    found = installed_version("ray")
    if found is None:
        raise ConfigError("engine=ray: Ray is not installed: pip install 'bridgetower-train[ray]'")
    if Version(found) < Version(_LOWEST):
        raise ConfigError(
            f"engine=ray: Ray {found} obeys whoever reaches its ports; {_LOWEST} has tokens: "
            "pip install 'bridgetower-train[ray]'"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with TemporaryDirectory(
        prefix="bridgetower-ray-",
        dir=os.environ.get("RAY_TMPDIR", "/tmp"),  # short: the paths of Ray's sockets are limited
        ignore_cleanup_errors=True,
    ) as folder:
        local: dict[str, Any] = {}
        if not os.environ.get("RAY_ADDRESS"):
            # Ray reads these when it is imported. In the environment, unlike in ~/.ray, only this user can read the token.
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux, too, this means 127.0.0.1 alone
            # Ray opens its own folder to everybody, so it lies in one that is closed.
            local = {"address": "local", "include_dashboard": False, "_temp_dir": f"{folder}/ray"}
        before = signal.getsignal(signal.SIGTERM)
        ray = importlib.import_module("ray")
        ray.init(log_to_driver=False, logging_level="warning", **local)
        signal.signal(signal.SIGTERM, before)  # Ray has replaced it
        try:
            yield ray
        finally:
            ray.shutdown()


def _collect(ray: Any, running: list[Any], progress: Progress, unread: list[PartError]) -> list[Any]:
    """Wait for a task to finish. Returns the others."""
    (done, *_), others = ray.wait(running)
    try:
        states = ray.get(done)
        progress.expect(sum(states.values()))
        progress.update(states)
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error.cause, PartError):
            raise error.cause from error
        unread.append(error.cause)
    except ray.exceptions.RayError as error:
        raise DataError(f"a task was lost {_RETRIES + 1} times: {error}; run the same command to resume") from error
    return cast(list[Any], others)


def _prepare(shared: tuple[Work, Images], part: Part) -> dict[str, int]:
    """Write the shard of a range. Returns state -> rows."""
    work, images = shared
    torch.set_num_threads(1)
    shard = ShardRange(work, part)  # waits while another task, believed lost, has its spool
    with closing(shard):
        summary = summary_of(work.output, part.number)
        if summary is not None:
            shard.discard()
            return summary.states
        shard.read()
        rows = iter(list(shard.missing.items()))
        with closing(cast("Generator[tuple[int, Outcome]]", images.outcomes(rows))) as outcomes:
            for row, outcome in outcomes:
                shard.add(row, outcome)
        return shard.finish()
