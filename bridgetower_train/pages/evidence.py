"""Reports of first runs and of published weights as pages: one by itself, or two side by side."""

from collections.abc import Sequence

from bridgetower_train.evidence.report import FAILED, VERDICTS, Report, Step
from bridgetower_train.pages.html import Child, Markup, element, figures, note, page, pairs, sections, table
from bridgetower_train.pages.numbers import duration, figure

_ABSENT = "not in this report"


def report_page(report: Report) -> str:
    """The page of a report."""
    rows = [[step.name, step.verdict, f"{step.seconds:.1f}", _detail(step)] for step in report.steps]
    parts: dict[str, Child] = {
        "Steps": table(["step", "verdict", "seconds", "what was found"], rows),
        "Machine": pairs(report.device | ({"variables": "none"} if not report.environment else report.environment)),
        "Versions": pairs({"commit": report.commit or "unknown"} | report.versions),
    }
    facts = {
        **{verdict: str(sum(step.verdict == verdict for step in report.steps)) for verdict in VERDICTS},
        "device": report.device.get("description", "unknown"),
        "cards": report.device.get("cards", "unknown"),
        "took": duration(sum(step.seconds for step in report.steps)),
    }
    header = element(
        "header",
        element("p", f"BridgeTower {report.kind}", class_="kicker"),
        element("h1", "No step failed" if report.passed else "Some steps failed"),
        note(f"{report.date}, version {report.project}. Without secrets, host names and addresses."),
        figures(facts),
    )
    return page(f"{report.kind} · BridgeTower", header, sections(parts))


def _detail(step: Step) -> Child:
    return [step.detail, element("p", step.remedy)] if step.verdict == FAILED and step.remedy else step.detail


def compared_rows(a: Report, b: Report) -> list[list[str]]:
    """(step, verdict of each, seconds of each, figures of each) of all steps of two reports, in the order of the first."""
    both = [{step.name: step for step in report.steps} for report in (a, b)]
    rows = []
    for name in dict.fromkeys([*both[0], *both[1]]):
        first, second = (steps.get(name) for steps in both)
        rows.append([name, *(step.verdict if step else _ABSENT for step in (first, second)), _figures(first, second)])
    return rows


def _figures(a: Step | None, b: Step | None) -> str:
    """Each figure of two steps, and how many times as large it is in the second."""
    ours, theirs = (step.figures if step else {} for step in (a, b))
    parts = []
    for name in dict.fromkeys([*ours, *theirs]):
        here, there = ours.get(name), theirs.get(name)
        times = f" ({there / here:.2f} times)" if here and there else ""
        parts.append(f"{name} {figure(here)} and {figure(there)}{times}")
    return "; ".join(parts)


COLUMNS = ("step", "A", "B", "figures of A and B")


def compare_page(a: Report, b: Report) -> str:
    """The page of two reports."""
    about = [
        {"kind": r.kind, "date": r.date, "version": r.project, "commit": r.commit or "unknown", **r.device}
        for r in (a, b)
    ]
    parts: dict[str, Child] = {
        "Steps": table(COLUMNS, compared_rows(a, b)),
        "Machines": _differences(about),
        "Versions": _differences([a.versions, b.versions]),
        "Variables": _differences([a.environment, b.environment]),
    }
    title = " and ".join(r.device.get("description", "unknown") for r in (a, b))
    header = element("header", element("p", "BridgeTower reports", class_="kicker"), element("h1", title))
    return page("Two reports · BridgeTower", header, sections(parts))


def _differences(both: Sequence[dict[str, str]]) -> Markup:
    """Names with both values; those that are the same last."""
    names = sorted(dict.fromkeys([*both[0], *both[1]]), key=lambda name: both[0].get(name) == both[1].get(name))
    return table(["", "A", "B"], [[name, *(given.get(name, "none") for given in both)] for name in names])
