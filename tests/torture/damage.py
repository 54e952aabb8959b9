"""Every file of a checkpoint, damaged in every way: the run goes on from the one before, and ends as if nothing had happened."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bridgetower_train.weights.checkpoint import step_folders
from tests.torture.plans import Plan, arguments, compare, copy, undisturbed
from tests.torture.starts import Start

NOBODY = 65534


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _unreadable(path: Path) -> None:
    path.chmod(0)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "emptied": _emptied,
    "removed": Path.unlink,
    "unreadable": _unreadable,
}


def damage_each_file(plan: Plan, work: Path, root: Path, fault: Callable[[str], None]) -> tuple[int, int]:
    """(files damaged, runs that ended otherwise than an undisturbed one)."""
    plan = replace(plan, kinds=[("native", 1, 0)], steps=3)
    (phase,) = plan.phases
    whole = undisturbed(plan, work / "whole", str(root))
    last = step_folders(whole)[-1]
    names = sorted(str(path.relative_to(last)) for path in last.rglob("*") if path.is_file())
    user = NOBODY if os.geteuid() == 0 else None  # root can read everything
    lost = 0
    for name in names:
        for how, damage in DAMAGE.items():
            folder = copy(whole, work / "damaged")
            damage(folder / "checkpoints" / last.name / name)
            for path in (folder, *folder.rglob("*")) if user else ():
                os.chown(path, user, user)
            start = Start.of(arguments(plan, phase, folder, str(root)), 1, work / "damaged.log", user=user)
            start.rest(120)
            start.wait_for_all(60)
            output = start.log.read_text()
            found = compare(folder, whole) if start.code == 0 else None
            if found is None or found.differ or found.faults or f"skipping {folder}" not in output:
                lost += 1
                fault(f"{name} {how}: exit code {start.code}, {found and found.faults}\n{output}")
    shutil.rmtree(work / "damaged", ignore_errors=True)
    return len(names) * len(DAMAGE), lost
