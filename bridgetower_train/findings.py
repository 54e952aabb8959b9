"""The lines of the doctor's report, and the report."""

import json
from dataclasses import asdict, dataclass

from bridgetower_train.display import plural, printable

OK, WARNING, FAIL = "ok", "warning", "fail"
FIRST = "data.root"
"""Subject of the warning that nothing was prepared yet."""
LEVELS = (OK, WARNING, FAIL)
"""`fail`: a run would not start, or not do what its configuration says; `warning`: it would run, but slower or less safely."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    level: str
    found: str
    todo: str = ""
    """What to do about it; empty if nothing."""


def ok(subject: str, found: str) -> Finding:
    """`subject` is as it should be."""
    return Finding(subject, OK, found)


def warning(subject: str, found: str, todo: str) -> Finding:
    """A run would start, but slower or less safely."""
    return Finding(subject, WARNING, found, todo)


def fail(subject: str, found: str, todo: str) -> Finding:
    """A run would not start, or not do what its configuration says."""
    return Finding(subject, FAIL, found, todo)


Themes = dict[str, list[Finding]]
"""Theme -> its findings, in the order of the report."""


def counts(themes: Themes) -> dict[str, int]:
    """Level -> number of findings."""
    levels = [finding.level for findings in themes.values() for finding in findings]
    return {level: levels.count(level) for level in LEVELS}


def as_text(themes: Themes) -> str:
    """The report as text: numbered lines, and what to do below each warning and failure."""
    lines, number = [], 0
    for theme, findings in themes.items():
        lines.append(theme)
        for finding in findings:
            number += 1
            lines.append(printable(f"{number:4} {finding.level:8}{finding.subject}: {finding.found}"))
            if finding.todo:
                lines.append(printable(f"{'':13}-> {finding.todo}"))
    total = counts(themes)
    lines += ["", f"{total[OK]} ok, {plural(total[WARNING], 'warning')}, {plural(total[FAIL], 'failure')}"]
    if first := _first(themes):
        lines.append(printable(f"to do first: {first.todo}"))
    return "\n".join(lines)


def _first(themes: Themes) -> Finding | None:
    """The finding to begin with: a failure, or what a first run lacks."""
    found = [finding for findings in themes.values() for finding in findings if finding.todo]
    return next((f for f in found if f.level == FAIL), None) or next((f for f in found if f.subject == FIRST), None)


def as_json(themes: Themes) -> str:
    """The report as JSON: `findings` in the order of the report, and `counts`."""
    rows = ((theme, finding) for theme, found in themes.items() for finding in found)
    findings = [{"number": n, "theme": theme, **asdict(finding)} for n, (theme, finding) in enumerate(rows, 1)]
    return json.dumps({"counts": counts(themes), "findings": findings}, indent=1)
