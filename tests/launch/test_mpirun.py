"""launch/mpirun.sh under Debian's Open MPI."""

import os

import psutil
import pytest

from tests.launch.launching import listening_until, need
from tests.training.runs import PATH, final_weights, metric_lines

MPIRUN = ["bash", "launch/mpirun.sh"]


def ranks_of(job):
    """The processes of the ranks, which are mpirun's own children."""
    (mpirun,) = [p for p in psutil.Process(job.process.pid).children() if p.name() == "mpirun"]
    return mpirun.children()


@pytest.mark.slow
def test_ranks_train_save_when_told_to_end_and_go_on(tmp_path, start, reference):
    need("mpirun")
    options = ["steps=80", "checkpoint.every=1000", "data.workers=1"]
    job = start(tmp_path, *options, command=MPIRUN, env={"NPROC": "2"})
    ports = listening_until(job, 3)  # mpirun's own cannot be bound to an interface
    assert {address for name, address in ports if name != "mpirun"} == {"127.0.0.1"}
    places = [(p.environ()["RANK"], p.environ()["LOCAL_RANK"], p.environ()["WORLD_SIZE"]) for p in ranks_of(job)]
    assert sorted(places) == [("0", "0", "2"), ("1", "1", "2")]
    job.process.terminate()
    output = job.finish()
    assert "= 2 ranks x" in output
    assert "stopped by a signal after step" in output

    assert "resume    from step" in start(tmp_path, *options, command=MPIRUN, env={"NPROC": "2"}).finish()
    whole = reference("steps=80", ranks=2)
    assert metric_lines(tmp_path) == metric_lines(whole)
    assert final_weights(tmp_path) == final_weights(whole)


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="each rank wants a core of its own")
def test_ranks_of_a_gaudi_host_are_bound_to_their_own_cores(tmp_path, start):
    """A stand-in for the vendor's hl-smi lists two cards."""
    need("mpirun")
    tool = tmp_path / "bin" / "hl-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n[ $1 = topo ] && printf '0  0-1  0\\n1  0-1  0\\n' || printf '0\\n1\\n'\n")
    tool.chmod(0o755)
    job = start(tmp_path / "run", "steps=4000", command=MPIRUN, env={"PATH": f"{tool.parent}:{PATH}"})
    assert job.wait_for_step(1), job.wait()
    first, second = (set(p.cpu_affinity()) for p in ranks_of(job))
    assert first
    assert second
    assert not first & second


@pytest.mark.slow
@pytest.mark.nightly
def test_two_hosts(tmp_path, start, two_hosts):
    """In place of ssh, which mpirun calls as `ssh HOST COMMAND`, a stand-in enters the other host's namespace."""
    need("mpirun", "unshare")
    enter = tmp_path / "enter"
    enter.write_text(
        f'#!/bin/bash\nshift\nexec ip netns exec {two_hosts.names[1]} unshare --uts bash -c "hostname second && $*"\n'
    )
    enter.chmod(0o755)
    hostfile = tmp_path / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in two_hosts.addresses))
    env = {"HOSTFILE": str(hostfile), "OMPI_MCA_plm_rsh_agent": str(enter)}
    job = start(tmp_path / "run", "steps=4000", command=two_hosts.on(0, *MPIRUN), env=env)
    assert job.wait_for_step(3), job.wait()
    job.process.terminate()
    output = job.finish()
    assert "= 2 ranks x" in output
    assert "stopped by a signal after step" in output
