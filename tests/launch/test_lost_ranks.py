"""Ranks that are killed or stopped are named with their step, and torchrun starts the run again from its checkpoint."""

import re
import signal
from contextlib import suppress

import psutil
import pytest

from bridgetower_train.weights.checkpoint import step_folders
from tests.launch.launching import torchrun_of
from tests.training.runs import final_weights, last_step, metric_lines

TORCHRUN = ["bash", "launch/torchrun.sh"]


def ranks_of(job):
    """The processes of the ranks, by rank."""
    found = {}
    for process in torchrun_of(job).children():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it ends just now
            if "bridgetower_train" in process.cmdline():
                found[int(process.environ()["RANK"])] = process
    return found


def saved(run_dir):
    """The step of the newest checkpoint."""
    return max((int(folder.name[5:]) for folder in step_folders(run_dir)), default=0)


@pytest.mark.slow
def test_lost_and_stopped_ranks_are_named_and_the_run_goes_on(tmp_path, start, reference):
    options = ["steps=80", "checkpoint.every=3", "distributed.timeout=10"]
    job = start(tmp_path, *options, command=TORCHRUN, env={"NPROC": "2", "MAX_RESTARTS": "2"})
    faults = [(1, signal.SIGKILL), (0, signal.SIGSTOP)]
    named = []
    for rank, fault in faults:
        before = saved(tmp_path)
        assert job.wait_for(lambda before=before: saved(tmp_path) > before, timeout=120), job.wait()
        process = ranks_of(job)[rank]
        first = last_step(tmp_path)
        process.send_signal(fault)
        named.append((rank, process.pid, first))
        assert job.wait_for(lambda process=process: not process.is_running(), timeout=120), job.wait()
    output = job.finish()
    told = re.findall(r"^error: rank (\d) \(host \S+, pid (\d+)\) (.*)", output, re.MULTILINE)
    assert [(int(rank), int(pid)) for rank, pid, _ in told] == [(rank, pid) for rank, pid, _ in named], output
    for (_, _, text), (_, _, first), (_, fault) in zip(told, named, faults, strict=True):
        assert ("was lost" if fault == signal.SIGKILL else "has not answered for 8 s") in text
        assert first <= int(re.search(r"at step (\d+)", text)[1]) <= first + 3, output
    assert "Traceback" not in output
    assert output.count("resume    from step") == len(faults)

    whole = reference("steps=80", ranks=2)
    assert metric_lines(tmp_path) == metric_lines(whole)
    assert final_weights(tmp_path) == final_weights(whole)
