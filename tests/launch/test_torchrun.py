"""launch/torchrun.sh."""

import os
import signal

import psutil
import pytest

from tests.hostile.attacks import attack
from tests.launch.launching import listening_until
from tests.training.runs import final_weights, metric_lines

TORCHRUN = ["bash", "launch/torchrun.sh"]


def test_a_wrong_key_is_told_once(tmp_path, start):
    output = start(tmp_path, "stps=4", command=TORCHRUN, env={"NPROC": "2"}).finish(2)
    assert output.count("stps: no such key") == 1


@attack(63)
@pytest.mark.slow
def test_two_ranks_on_one_host_listen_on_the_loopback_and_save_when_they_are_told_to_end(tmp_path, start):
    job = start(tmp_path, "steps=4000", "checkpoint.every=100000", command=TORCHRUN, env={"NPROC": "2"})
    assert {address for _, address in listening_until(job, 3)} == {"127.0.0.1"}
    job.process.terminate()
    output = job.wait()
    assert "= 2 ranks x" in output
    assert "stopped by a signal after step" in output


@pytest.mark.slow
@pytest.mark.nightly
def test_two_hosts_and_a_rank_that_is_lost(tmp_path, start, reference, two_hosts):
    """Its host starts it again, the other host joins in, and both go on from the checkpoint."""
    hostfile = tmp_path / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in two_hosts.addresses))
    options = ["steps=80", "checkpoint.every=2"]
    env = {"HOSTFILE": str(hostfile)}
    jobs = [start(tmp_path, *options, command=two_hosts.on(host, *TORCHRUN), env=env) for host in (0, 1)]
    assert jobs[0].wait_for_step(6), jobs[0].wait()
    (lost,) = [p for p in psutil.Process(jobs[1].process.pid).children() if "bridgetower_train" in p.cmdline()]
    assert lost.environ()["RANK"] in "01"
    assert lost.environ()["WORLD_SIZE"] == "2"
    os.kill(lost.pid, signal.SIGKILL)
    output = jobs[0].finish() + jobs[1].finish()
    assert "= 2 ranks x" in output
    assert "resume    from step" in output

    whole = reference("steps=80", ranks=2)
    assert metric_lines(tmp_path) == metric_lines(whole)
    assert final_weights(tmp_path) == final_weights(whole)
