"""launch/torchrun.sh."""

import os
import signal

import psutil
import pytest

from tests.training.runs import final_weights, metric_lines

TORCHRUN = ["bash", "launch/torchrun.sh"]


def test_a_wrong_key_is_told_once(tmp_path, launch):
    job = launch(TORCHRUN, tmp_path, "stps=4", env={"NPROC": "2"})
    output = job.wait()
    assert job.process.returncode == 2, output
    assert output.count("stps: no such key") == 1


@pytest.mark.slow
def test_two_ranks_on_one_host_save_when_they_are_told_to_end(tmp_path, launch):
    job = launch(TORCHRUN, tmp_path, "steps=4000", "checkpoint.every=100000", env={"NPROC": "2"})
    assert job.wait_for_step(3), job.wait()
    job.process.terminate()
    output = job.wait()
    assert "= 2 ranks x" in output
    assert "stopped by a signal after step" in output


@pytest.mark.slow
def test_two_hosts_and_a_rank_that_is_lost(tmp_path, launch, two_hosts):
    """Its host starts it again, the other host joins in, and both go on from the checkpoint."""
    hostfile = tmp_path / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in two_hosts.addresses))
    options = ["steps=40", "checkpoint.every=2"]
    jobs = [
        launch(two_hosts.on(host, *TORCHRUN), tmp_path / "two", *options, env={"HOSTFILE": str(hostfile)})
        for host in (0, 1)
    ]
    assert jobs[0].wait_for_step(6), jobs[0].wait()
    (lost,) = [p for p in psutil.Process(jobs[1].process.pid).children() if "bridgetower_train" in p.cmdline()]
    assert lost.environ()["RANK"] in "01"
    assert lost.environ()["WORLD_SIZE"] == "2"
    os.kill(lost.pid, signal.SIGKILL)
    outputs = [job.wait() for job in jobs]
    assert [job.process.returncode for job in jobs] == [0, 0], outputs
    assert "= 2 ranks x" in outputs[0] + outputs[1]
    assert "resume    from step" in outputs[0] + outputs[1]

    whole = launch(TORCHRUN, tmp_path / "whole", *options, env={"NPROC": "2"})
    assert "= 2 ranks x" in whole.wait()
    assert metric_lines(tmp_path / "two") == metric_lines(tmp_path / "whole")
    assert final_weights(tmp_path / "two") == final_weights(tmp_path / "whole")
