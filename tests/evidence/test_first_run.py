"""`bridgetower doctor --first-run` on the CPU, and what becomes of steps that fail."""

import json
import os
import platform
import time
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from bridgetower_train.cli import main
from bridgetower_train.config import DataConfig, DeviceConfig, OptimConfig, TrainConfig
from bridgetower_train.errors import ConfigError
from bridgetower_train.evidence import card
from bridgetower_train.evidence.children import Children, StepError, ask
from bridgetower_train.evidence.facts import anonymous, make_report
from bridgetower_train.evidence.report import Report, Step, read_report, write_report
from bridgetower_train.evidence.steps import Found, Planned
from bridgetower_train.evidence.steps import take as take_step
from bridgetower_train.pages.evidence import compare_page, report_page
from tests.evidence.first_runs import check, take
from tests.rendering import markup
from tests.tiny import SMALL
from tests.training.runs import ROOT

EAGER = [
    "imports and versions", "capture: compile", "losses: eager", "activation checkpointing", "planned memory",
    "collectives: 2 ranks", "kill and resume: 2 ranks", "speed: eager", "speed: 2 ranks", "loader", "decoding",
    "decoding on the card",
]  # fmt: skip
SKIPPED = {"activation checkpointing", "decoding on the card"}


def here(arguments):
    """Run a command in this process."""
    assert main(arguments[2:]) == 0


def test_the_whole_kit(tmp_path, capsys):
    report = take(tmp_path / "out", "device=cpu", "device.execution=eager", run=here)
    check(report, EAGER, SKIPPED)
    said = capsys.readouterr().out
    assert said.count("\n") == 2 * len(EAGER) + 1
    assert all(f"{number:3}     {name}\n" in said for number, name in enumerate(EAGER, 1))
    steps = {step.name: step for step in report.steps}
    assert "bit for bit the same" in steps["kill and resume: 2 ranks"].detail
    assert steps["losses: eager"].figures["off"] == 0.0
    assert report.device["name"] == "cpu"
    assert report.device["cards"] == "1"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"logs", "report.html", "report.json"}
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["format"] == 1
    assert {"project", "commit", "environment", "versions"} <= content.keys()
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or platform.node() not in path.read_text(), path


@pytest.mark.nightly
def test_the_whole_kit_with_compilation(tmp_path):
    compiled = ["capture: compile", "losses: eager", "losses: compile", "speed: eager", "speed: compile"]
    report = take(tmp_path / "out", "device=cpu", run=here)
    assert [step.name for step in report.steps if step.name in compiled] == compiled
    assert report.passed, report.steps


def test_what_it_needs(capsys):
    for arguments, said in (
        (["--first-run"], "out is required"),
        (["first_run=true"], "out is required"),
        (["compare=a"], "must be two reports"),
        (["--first_run", "out=x"], "no such flag; the flags are --json, --first-run"),
    ):
        assert main(["doctor", *arguments]) == 2
        assert said in capsys.readouterr().err


def hang() -> None:
    """Sleeps longer than any limit of these tests."""
    print("about to hang")
    time.sleep(1000)


def crash() -> None:
    """Ends as a driver's crash does."""
    os.abort()


def refuse() -> None:
    """Fails as a wrong configuration does."""
    raise ConfigError("device.name=hpu: not here")


def rank() -> tuple[str, str]:
    """What a rank is told."""
    return os.environ["RANK"], os.environ["WORLD_SIZE"]


def one_fails() -> None:
    """Rank 0 waits for rank 1, which fails."""
    if os.environ["RANK"] == "1":
        raise ValueError("on rank 1")
    time.sleep(1000)


@pytest.mark.parametrize(
    ("work", "limit", "said"),
    [
        (hang, 5.0, "no answer in 5 s; its last line: about to hang"),
        (crash, 60.0, "its process ended by itself with signal 6"),
        (refuse, 60.0, "device.name=hpu: not here"),
    ],
)
def test_a_step_that_fails_is_one_line_of_the_report(tmp_path, work, limit, said):
    ask(os.getpid, limit=300, log=tmp_path / "log.txt")  # what forks the processes takes seconds to start
    planned = Planned("step", lambda limit, log: Found(True, str(ask(work, limit=limit, log=log))), "do this")
    step = take_step(planned, limit, tmp_path / "log.txt")
    assert (step.verdict, step.remedy) == ("failed", "do this")
    assert step.detail.startswith(said)


def test_ranks_and_the_first_that_fails(tmp_path):
    with Children(rank, log=tmp_path / "log", ranks=2) as ranks:
        assert ranks.results(60) == [("0", "2"), ("1", "2")]
    with (
        Children(one_fails, log=tmp_path / "log", ranks=2) as ranks,
        pytest.raises(StepError, match="ValueError: on rank 1"),
    ):
        ranks.results(60)


def test_losses_that_are_not_the_cpu_s():
    expected = [{"loss": 2.0, "loss_mlm": 1.0, "grad_norm": 3.0, "skipped": 0.0}]
    assert card.furthest(expected, expected) == (0.0, "")
    off, where = card.furthest([{**expected[0], "loss_mlm": 1.1}], expected)
    assert (off, where) == (pytest.approx(0.1), "loss_mlm of step 1")
    assert card.furthest([{**expected[0], "loss": float("nan")}], expected)[0] == float("inf")


def test_recomputation_is_seen_in_the_memory():
    run = TrainConfig(
        run_dir="x", steps="1", model=replace(SMALL, vocab_size=99), data=DataConfig(lanes=2), optim=OptimConfig(clip_norm=1.0),
        device=DeviceConfig(name="cpu"),
    )  # fmt: skip
    kept, recomputed = (card.memory(run, 32, recomputes) for recomputes in (False, True))
    for parts in (kept, recomputed):
        assert 0.9 < parts["planned"] / parts["measured"] < 1.1
    assert recomputed["measured"] < 0.9 * kept["measured"]


def report_of(*steps: Step, **changes) -> Report:
    """A report of this machine."""
    report = make_report("first run", {"name": "cpu", "description": "a processor"}, list(steps), {})
    return replace(report, **changes)


def test_two_reports_side_by_side(tmp_path, capsys):
    for name, rate in (("a", 10.0), ("b", 25.0)):
        report = report_of(
            Step("speed", "ok", 1.0, "fast", figures={"pairs_per_s": rate}), Step(name, "skipped", 0.0, "no")
        )
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, report, report_page(report))
    assert main(["doctor", f"compare={tmp_path}/a,{tmp_path}/b", f"out={tmp_path}/both"]) == 0
    said = capsys.readouterr().out
    assert "| speed | ok | ok | pairs_per_s 10 and 25 (2.50 times) |" in said
    assert "| a | skipped | not in this report | |" in said.replace("  ", " ")
    assert (tmp_path / "both" / "compare.html").read_text().count("<tr>") > 4


def test_what_identifies_a_machine_is_taken_out(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "gaudi-7.example.com")
    monkeypatch.setenv("HOME", "/home/alice")
    text = (
        "rank 0 (host gaudi-7, pid 1) at 10.1.2.3:29500, 127.0.0.1, version 1.24.0.95, /home/alice/x, https://u:p@h/x"
    )
    assert anonymous({"a": [text]}) == {
        "a": ["rank 0 (host <host>, pid 1) at <address>:29500, 127.0.0.1, version 1.24.0.95, ~/x, https://***@h/x"]
    }
    variables = {
        "HCCL_COMM_ID": "10.0.0.1:5",
        "PT_HPU_LAZY_MODE": "1",
        "HF_TOKEN": "x",
        "HABANA_API_KEY": "x",
        "HOME": "y",
    }
    assert make_report("first run", {}, [], variables).environment == {"PT_HPU_LAZY_MODE": "1"}


def test_a_report_of_others_is_only_data(tmp_path, capsys):
    evil = "<script>alert(1)</script> | x \x1b[2J\n# y"
    step = Step(evil, "failed", 1.0, evil, evil, {evil: 1.0})
    report = report_of(
        step, device={evil: evil}, versions={evil: evil}, environment={evil: evil}, commit=evil, date=evil
    )
    (tmp_path / "a").mkdir()
    write_report(tmp_path / "a", report, report_page(report))
    assert read_report(tmp_path / "a", "x") == report
    assert main(["doctor", f"compare={tmp_path}/a,{tmp_path}/a"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert [kind for kind in markup(said) if kind.startswith("html")] == []
    for page in (report_page(report), compare_page(report, report)):
        assert "<script>alert" not in page
    for wrong in ("{}", "[", json.dumps({"format": 2}), "null"):
        (tmp_path / "a" / "report.json").write_text(wrong)
        assert main(["doctor", f"compare={tmp_path}/a,{tmp_path}/a"]) == 2
        assert "report.json" in capsys.readouterr().err
    assert main(["doctor", f"compare={tmp_path}/a,{tmp_path}/none"]) == 2


def test_a_verdict_of_others_must_be_known(tmp_path, capsys):
    report = report_of(Step("x", "splendid", 1.0, ""))
    (tmp_path / "a").mkdir()
    write_report(tmp_path / "a", report, "")
    assert main(["doctor", f"compare={tmp_path}/a,{tmp_path}/a"]) == 2
    assert "splendid" in capsys.readouterr().err


def test_readme_has_the_table_of_the_reports():
    spec = spec_from_file_location("table", ROOT / "benchmarks" / "hardware" / "table.py")
    table = module_from_spec(spec)
    spec.loader.exec_module(table)
    readme = (ROOT / "README.md").read_text()
    assert table.filled(readme) == readme
    assert len(list(table.rows())) >= 1
