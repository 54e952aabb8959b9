"""launch/torchrun.sh."""

import os
import signal

import psutil
import pytest

from bridgetower_train.weights.checkpoint import newest
from tests.hostile.attacks import attack
from tests.launch.launching import listening_until, need, torchrun_of
from tests.training.runs import ROOT, final_weights, metric_lines

TORCHRUN = ["bash", "launch/torchrun.sh"]


def test_a_wrong_key_is_told_once(tmp_path, start):
    output = start(tmp_path, "stps=4", command=TORCHRUN, env={"NPROC": "2"}).finish(2)
    assert output.count("stps=4: no such key") == 1


@attack(63)
@pytest.mark.slow
def test_two_ranks_on_one_host_listen_on_the_loopback_and_save_when_they_are_told_to_end(tmp_path, start):
    job = start(tmp_path, "steps=4000", "checkpoint.every=100000", command=TORCHRUN, env={"NPROC": "2"})
    assert {address for _, address in listening_until(job, 3)} == {"127.0.0.1"}
    family = job.family()
    job.process.terminate()
    output = job.finish(0)
    assert "= 2 ranks x" in output
    assert "stopped by a signal after step" in output
    assert not psutil.wait_procs(family, 10)[1]


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_in_kubernetes_it_ends_instead_of_starting_the_ranks_again(tmp_path, start, signum, code):
    env = {"NPROC": "2", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    job = start(tmp_path, "steps=4000", "checkpoint.every=100000", command=TORCHRUN, env=env)
    assert job.wait_for_step(3)
    family = job.family()
    os.killpg(job.process.pid, signum)
    output = job.finish(code)
    assert output.count("stopped by a signal after step") == 1
    assert "resume " not in output
    assert not psutil.wait_procs(family, 10)[1]


SLOW_DISK = """
import os, time
plain = os.fsync
def fsync(fd):
    if "step-" in os.readlink(f"/proc/self/fd/{fd}") and not os.path.exists(os.environ["SYNCED"]):
        open(os.environ["SYNCED"], "w").close()
        time.sleep(40)
    plain(fd)
os.fsync = fsync
"""
"""A disk that takes 40 seconds for the first file of a checkpoint."""


@pytest.mark.slow
@pytest.mark.nightly
def test_a_save_may_take_longer_than_torchrun_waits(tmp_path, start):
    (tmp_path / "sitecustomize.py").write_text(SLOW_DISK)
    env = {"NPROC": "2", "PYTHONPATH": f"{tmp_path}:{ROOT}", "SYNCED": str(tmp_path / "synced")}
    job = start(tmp_path / "run", "steps=4000", "checkpoint.every=100000", command=TORCHRUN, env=env)
    assert job.wait_for_step(3)
    job.process.terminate()
    assert "stopped by a signal after step" in job.finish(0)
    assert newest(tmp_path / "run", print)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("launcher", ["torchrun", "mpirun", "deepspeed"])
def test_nothing_is_left_of_a_launcher_that_is_killed(tmp_path, start, launcher):
    if launcher == "mpirun":
        need("mpirun")
    else:
        pytest.importorskip({"torchrun": "torch"}.get(launcher, launcher))
    env = {"NPROC": "2", "DS_ACCELERATOR": "cpu"}
    job = start(tmp_path, "steps=100000", command=["bash", f"launch/{launcher}.sh"], env=env)
    assert job.wait_for_step(3)
    family = job.family()
    job.process.kill()
    assert not psutil.wait_procs(family, 20)[1]


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
    (lost,) = [p for p in torchrun_of(jobs[1]).children() if "bridgetower_train" in p.cmdline()]
    assert lost.environ()["RANK"] in "01"
    assert lost.environ()["WORLD_SIZE"] == "2"
    os.kill(lost.pid, signal.SIGKILL)
    output = jobs[0].finish() + jobs[1].finish()
    assert "= 2 ranks x" in output
    assert "resume    from step" in output

    whole = reference("steps=80", ranks=2)
    assert metric_lines(tmp_path) == metric_lines(whole)
    assert final_weights(tmp_path) == final_weights(whole)
