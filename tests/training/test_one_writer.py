"""A run folder has one run at a time, and what a dead launcher leaves behind ends."""

import time

import psutil
import pytest

from tests.training.runs import Job, final_weights, metric_lines


def processes(job: Job) -> list[psutil.Process]:
    """The ranks of a job under torchrun, and their loader workers."""
    ranks = [p for p in psutil.Process(job.process.pid).children() if "bridgetower_train" in p.cmdline()]
    return [*ranks, *(worker for rank in ranks for worker in rank.children())]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path, start, train, ranks):
    options = ["steps=100", "checkpoint.every=1000"]
    first = start(tmp_path / "run", *options, ranks=ranks)
    assert first.wait_for_step(1)
    running = processes(first) or [psutil.Process(first.process.pid)]
    for process in running:
        process.suspend()  # it shall not be through too soon
    output = train(tmp_path / "run", *options, ranks=ranks, code=1)
    for process in running:
        process.resume()
    assert output.count("error: run_dir=") == 1, output
    assert "run: in use by process" in output
    assert "Warning" not in first.finish()
    assert [line["step"] for line in metric_lines(tmp_path / "run")] == list(range(1, 101))


def test_ranks_and_workers_end_with_their_launcher_and_the_same_command_goes_on(tmp_path, start, train, reference):
    options = ["steps=80", "checkpoint.every=5", "data.workers=1"]
    job = start(tmp_path, *options, ranks=2)
    assert job.wait_for_step(12)
    orphans = processes(job)
    assert len(orphans) == 4
    job.process.kill()
    assert "resume    from step" in train(tmp_path, *options, ranks=2)
    whole = reference("steps=80", ranks=2)
    assert metric_lines(tmp_path) == metric_lines(whole)
    assert final_weights(tmp_path) == final_weights(whole)

    deadline = time.monotonic() + 120
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in orphans):
        assert time.monotonic() < deadline, orphans
        time.sleep(0.1)
