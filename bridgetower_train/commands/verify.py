"""`bridgetower verify out=FOLDER`: are the published weights what this project takes them for?"""

from dataclasses import dataclass, field
from pathlib import Path

from bridgetower_train.config import at_least, one_of
from bridgetower_train.display import print_line
from bridgetower_train.evidence.report import OK, PAGE, write_report
from bridgetower_train.evidence.verify import THE_CARDS, table, verify
from bridgetower_train.pages.evidence import report_page


@dataclass(frozen=True)
class VerifyConfig:
    """What to verify, and where it is."""

    out: str = "???"
    """Folder for report.json and report.html."""
    root: str = "."
    """Folder that may have the files: each folder of weights under its name, as BridgeTower/bridgetower-base, Microsoft's
    bridgetower_pt_base.ckpt, and the images of the card's example. What is not there is fetched from the hub, if it can be."""
    names: list[str] = field(default_factory=list)
    """Names of the weights to verify, such as roberta-base; empty: all."""
    corpus: str | None = None
    """Corpus folder of COCO's Karpathy test, as `prep coco` writes it with splits=[test]; null: no retrieval."""
    device: str = "auto"
    """As `device.name` of a run, for the retrieval; all else is computed on the CPU in float64: 16 bytes a parameter."""
    limit: float = 3600.0
    """Seconds that a step may take, fetching included."""

    def __post_init__(self) -> None:
        at_least("limit", self.limit, 1)


def run(config: VerifyConfig) -> int:
    """Verify, and write the report; 1 if a step fails, or none could be taken."""
    known = table()
    for name in config.names:
        one_of("names", name, tuple(one.name for one in known))
    chosen = [one for one in known if not config.names or one.name in config.names]
    out = Path(config.out)
    report = verify(chosen, THE_CARDS, Path(config.root), config.corpus, config.device, out, config.limit)
    write_report(out, report, report_page(report))
    print_line(f"{report.counts}: {(out / PAGE).resolve()}; the folder {out} can be sent as it is")
    return 0 if report.passed and any(step.verdict == OK for step in report.steps) else 1
