"""Disturb runs in every way that weeks on a cluster do, and compare what they give with undisturbed ones, bit by bit.

    python -m tests.torture --kills 300        # or: make torture KILLS=300

Prints a table and one verdict; exits with 1 where anything differs, a run does not end in time, or there were fewer kills than
asked.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bridgetower_train.display import plural
from data_prep.shapes import corpus as shapes
from tests.tiny import TINY
from tests.torture.blows import BLOWS, Disk, WebStore, pause, web_store
from tests.torture.damage import damage_each_file
from tests.torture.plans import COMMON, Phase, Plan, arguments, compare, plans, undisturbed
from tests.torture.starts import Start, prepare

REAL = 0.04
"""Share of the starts that are plain commands: they are killed while they import, too."""


@dataclass
class Account:
    """What was done so far, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    longest: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    survived: Counter[str] = field(default_factory=Counter)
    by_phase: Counter[tuple[str, str]] = field(default_factory=Counter)
    lines: int = 0
    differ: int = 0
    runs: int = 0
    starts: int = 0
    first_steps: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Kills so far."""
        return sum(self.kills.values())

    def fault(self, text: str) -> None:
        """Note a fault, and print it at once."""
        self.faults.append(text)
        print(f"FAULT: {text}", flush=True)


class Torture:
    """A run of a plan that is ended by force again and again."""

    def __init__(
        self, plan: Plan, work: Path, root: Path, store: WebStore, dice: random.Random, account: Account
    ) -> None:
        self.plan, self.work, self.root, self.store, self.dice, self.account = plan, work, root, store, dice, account
        self.cache = work / "cache"

    def run(self, whole: Path, wanted: Callable[[], bool]) -> None:
        """Train through all phases, with kills as long as they are `wanted`, and compare with the run in `whole`."""
        folder = self.work / "disturbed"
        on_disk = self.dice.random() < 0.3
        disk = Disk(folder) if not on_disk else None
        folder.mkdir(exist_ok=True)
        try:
            for phase in self.plan.phases:
                while not self._start(phase, folder / "run", disk, wanted()):
                    pass
            found = compare(folder / "run", whole)
            self.account.runs += 1
            self.account.lines += found.lines
            self.account.differ += found.differ
            for fault in found.faults:
                self.account.fault(f"{self.plan.name}: {fault}")
            if found.differ or found.faults:
                shutil.copytree(folder, self.work / f"kept-{self.account.runs}")
        finally:
            if disk:
                disk.close()
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self.cache, ignore_errors=True)

    def _start(self, phase: Phase, run_dir: Path, disk: Disk | None, wanted: bool) -> bool:
        """Start it, and end it by force where that is `wanted`; whether it went through the phase."""
        dice, log = self.dice, self.work / "disturbed.log"
        remote = dice.random() < 0.4
        if remote and dice.random() < 0.5:
            shutil.rmtree(self.cache, ignore_errors=True)
        root = self.store.url if remote else str(self.root)
        keys = arguments(self.plan, phase, run_dir, root) + ([f"data.cache_dir={self.cache}"] if remote else [])
        if remote and dice.random() < 0.5:
            self.store.fail(dice.uniform(0.2, 2.5))
            self.account.survived["store away for 0.2 to 2.5 s"] += 1
        before = _lines(run_dir)
        start = Start.of(keys, phase.ranks, log, forked=dice.random() > REAL)
        self.account.starts += 1
        if wanted and self._moment(start, run_dir, before) and self._strike(start, disk, phase):
            return False
        start.rest(600)
        if start.wait_for_all(60) is None:
            self.account.fault(f"{self.plan.name}, {phase}: left processes behind\n{_tail(log)}")
        if start.code:
            self.account.fault(f"{self.plan.name}, {phase}: ended with {start.code} by itself\n{_tail(log)}")
            if len(self.account.faults) > 20:
                raise SystemExit("too many faults")
        return not start.code

    def _moment(self, start: Start, run_dir: Path, before: int) -> bool:
        """Wait for a moment: soon after the start, after some steps, or while it saves. False if it has ended before."""
        dice = self.dice
        kind = dice.choice(("start", "steps", "save", "save"))
        if kind == "start":
            start.rest(dice.uniform(0, 2.0))
        else:
            if not start.wait(lambda: _lines(run_dir) > before, 120):
                return False
            self.account.first_steps.append(time.monotonic() - start.began)
            if dice.random() < 0.1:
                pause(start, dice)
                self.account.survived["one process stopped for 0.05 to 0.6 s"] += 1
            steps = before + dice.randint(1, 9)
            start.wait(lambda: _lines(run_dir) >= steps, 60)
            if kind == "save":
                start.wait(lambda: any((run_dir / "checkpoints").glob("*.tmp")), 20)
            else:
                start.rest(dice.uniform(0, 0.08))
        return not start.ended

    def _strike(self, start: Start, disk: Disk | None, phase: Phase) -> bool:
        """Do the first of all things, in any order, that can be done now; whether that ended the run."""
        account, where = self.account, f"{self.plan.name}, {phase}"
        blow = next(blow for blow in self.dice.sample(BLOWS, len(BLOWS)) if blow.strike(start, self.dice, disk))
        seconds = start.wait_for_all(blow.seconds)
        if disk:
            disk.make_room()
        output = start.log.read_text(errors="replace")
        if seconds is None:
            account.fault(f"{where}, {blow.name}: not ended after {blow.seconds:g} s\n{_tail(start.log)}")
        elif start.code == 0 and not blow.stops:
            return False  # it was through before
        if blow.explains and re.search(r'File ".*/bridgetower_train/', output):
            account.fault(f"{where}, {blow.name}: a traceback\n{_tail(start.log)}")
        account.kills[blow.name] += 1
        account.by_phase[self.plan.name, f"{phase.engine}, {plural(phase.ranks, 'rank')}"] += 1
        account.longest[blow.name] = max(account.longest[blow.name], seconds or blow.seconds)
        return True


def _lines(run_dir: Path) -> int:
    """Lines of metrics so far."""
    try:
        return (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _tail(log: Path) -> str:
    return "".join(f"    {line}\n" for line in log.read_text(errors="replace").splitlines()[-30:])


def table(account: Account, asked: int, seconds: float, damaged: int, lost: int) -> str:
    """What was done, as Markdown."""
    rows = ["| what | times | longest time to end, s |", "|---|---|---|"]
    rows += [f"| {name} | {n} | {account.longest[name]:.1f} |" for name, n in account.kills.most_common()]
    rows += [f"| {name} | {n} | survived |" for name, n in account.survived.most_common()]
    rows += ["", "| task | engine and ranks | kills |", "|---|---|---|"]
    rows += [f"| {task} | {phase} | {n} |" for (task, phase), n in sorted(account.by_phase.items())]
    first_step = median(account.first_steps or [0.0])
    rows += [
        "",
        f"{account.total} kills of {asked} asked for, {account.starts} starts, {account.runs} runs through, in "
        f"{seconds / 60:.0f} minutes; half of the starts logged their first step within {first_step:.1f} s. "
        f"{account.lines} lines of metrics were compared, and {account.differ} differ. "
        f"A file of a checkpoint was damaged {damaged} times, and {lost} runs lost something by it.",
    ]
    return "\n".join(rows)


def torture() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--steps", type=int, default=60, help="of each phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the table")
    options = parser.parse_args()
    dice, account, began = random.Random(options.seed), Account(), time.monotonic()
    with ExitStack() as stack:
        # Not a TemporaryDirectory, which each child would remove at its end.
        work = Path(tempfile.mkdtemp(prefix="torture-"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        work.chmod(0o755)
        root = work / "data"
        shapes.run(shapes.ShapesConfig(out=str(root), records=96, heldout=32, size=32, workers=1))
        first = [*TINY, *COMMON, f"data.root={root}", f"run_dir={work / 'first'}", "steps=1", "data.workers=0"]
        prepare(first)
        store = stack.enter_context(web_store(root, work))
        courses = plans(root, work / "pretraining", options.steps)
        whole = {plan.name: undisturbed(plan, work / plan.name, str(root)) for plan in courses}
        print(f"{len(whole)} undisturbed runs took {time.monotonic() - began:.0f} s", flush=True)
        damaged, lost = damage_each_file(courses[0], work, root, account.fault)

        def wanted() -> bool:
            return account.total < options.kills

        idle = 0
        while wanted() and idle < 3:
            before = account.total
            for plan in courses:
                Torture(plan, work, root, store, dice, account).run(whole[plan.name], wanted)
                print(f"{account.total} kills, {account.differ} of {account.lines} lines differ", flush=True)
                if options.out:  # so far
                    text = table(account, options.kills, time.monotonic() - began, damaged, lost)
                    options.out.write_text(text + "\n")
            idle = 0 if account.total > before else idle + 1
    text = table(account, options.kills, time.monotonic() - began, damaged, lost)
    print(text)
    enough = account.total >= options.kills
    good = enough and not (account.differ or account.faults or lost)
    why = f"{len(account.faults)} faults" if enough else "too few kills"
    print("verdict: " + ("nothing was lost" if good else f"FAILED, {why}"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(torture())
