"""Writes README's table of what was seen on which hardware, from the reports here: `python benchmarks/hardware/table.py`.

A new row is the report.json of `bridgetower doctor --first-run`, copied to this folder under a name of its own.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from bridgetower_train.evidence.report import FAILED, OK, Report, read_report
from bridgetower_train.pages.markdown import code, table

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
COLUMNS = ("device", "release", "date", "commit", "steps that passed", "that failed")
_PLACE = re.compile(r"(<!-- hardware -->\n).*?(<!-- end -->)", re.DOTALL)


def rows() -> Iterator[list[object]]:
    """A row for each report, the newest first."""
    reports = [read_report(path, path.name) for path in HERE.glob("*.json")]
    for report in sorted(reports, key=lambda report: report.date, reverse=True):
        named = [[step.name for step in report.steps if step.verdict == verdict] for verdict in (OK, FAILED)]
        device = f"{report.device['cards']} x {report.device['description']}"
        yield [
            device,
            _release(report),
            report.date[:10],
            code((report.commit or "?")[:7]),
            *("; ".join(n) for n in named),
        ]


def _release(report: Report) -> str:
    gaudi = report.versions.get("habana-torch-plugin")
    return f"{f'Gaudi {gaudi}, ' if gaudi else ''}torch {report.versions['torch']}"


def filled(readme: str) -> str:
    """README with the table of these reports."""
    return _PLACE.sub(lambda found: f"{found[1]}{table(COLUMNS, rows(), left=6)}{found[2]}", readme)


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
