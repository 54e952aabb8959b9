"""`bridgetower report run_dir=...`: write a run's report.html."""

from dataclasses import dataclass
from pathlib import Path

from bridgetower_train.display import print_line
from bridgetower_train.files import atomic_write
from bridgetower_train.foreign import inside
from bridgetower_train.pages.report import report
from bridgetower_train.pages.run_folder import read_run
from bridgetower_train.weights.checkpoint import chosen, step_of


@dataclass(frozen=True)
class ReportConfig:
    """Which run, and where to."""

    run_dir: str = "???"
    """Folder of the run."""
    step: str = "newest"
    """`newest`: the whole run. `best` or a number of steps: the run as it was at that checkpoint, with its evaluations."""
    out: str | None = None
    """Where the page is written; null: report.html in the run folder."""
    follow_links: bool = False
    """Show files of the run that are links to files outside it, as those of DVC are."""


def run(config: ReportConfig) -> None:
    """Write the report; UserError where there is no run or no such step, FileError where a file of it lies elsewhere."""
    folder = Path(config.run_dir)
    out = Path(config.out) if config.out else folder / "report.html"
    run = read_run(folder)
    _check_links(folder, config.follow_links)
    if config.step != "newest":
        run = run.until(step_of(chosen(folder, config.step, print_line)))
    atomic_write(out, report(run))
    print_line(f"report: {out.resolve()}")


def _check_links(folder: Path, follow_links: bool) -> None:
    """The run may be a stranger's, and the page is made to be passed on: it must not show what links of the run lead to."""
    for name in ("config.yaml", "metrics.jsonl", "bad_samples.jsonl", "eval.json", "starts.jsonl"):
        inside(folder, name, follow_links)
    checkpoints = folder / "checkpoints"
    for state in checkpoints.glob("step-*/state.json"):
        inside(checkpoints, str(state.relative_to(checkpoints)), follow_links)
