"""launch/mpirun.sh under Debian's Open MPI."""

import os

import psutil
import pytest

from tests.launch.launching import PATH, need
from tests.training.runs import final_weights, metric_lines

MPIRUN = ["bash", "launch/mpirun.sh"]


def ranks_of(job):
    """The processes of the ranks, which are mpirun's own children."""
    (mpirun,) = [p for p in psutil.Process(job.process.pid).children() if p.name() == "mpirun"]
    return mpirun.children()


@pytest.mark.slow
def test_ranks_train_save_when_told_to_end_and_go_on(tmp_path, launch):
    need("mpirun")
    options = ["steps=40", "checkpoint.every=1000", "data.workers=1"]
    job = launch(MPIRUN, tmp_path / "run", *options, env={"NPROC": "2"})
    assert job.wait_for_step(3), job.wait()
    places = [(p.environ()["RANK"], p.environ()["LOCAL_RANK"], p.environ()["WORLD_SIZE"]) for p in ranks_of(job)]
    assert sorted(places) == [("0", "0", "2"), ("1", "1", "2")]
    job.process.terminate()
    output = job.wait()
    assert job.process.returncode == 0, output
    assert "= 2 ranks x" in output
    assert "stopped by a signal after step" in output

    output = launch(MPIRUN, tmp_path / "run", *options, env={"NPROC": "2"}).wait()
    assert "resume    from step" in output
    whole = launch(["bash", "launch/torchrun.sh"], tmp_path / "whole", *options, env={"NPROC": "2"})
    assert "= 2 ranks x" in whole.wait()
    assert metric_lines(tmp_path / "run") == metric_lines(tmp_path / "whole")
    assert final_weights(tmp_path / "run") == final_weights(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="each rank wants a core of its own")
def test_ranks_of_a_gaudi_host_are_bound_to_their_own_cores(tmp_path, launch):
    """A stand-in for the vendor's hl-smi lists two cards."""
    need("mpirun")
    tool = tmp_path / "bin" / "hl-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    job = launch(MPIRUN, tmp_path / "run", "steps=4000", env={"PATH": f"{tool.parent}:{PATH}"})
    assert job.wait_for_step(1), job.wait()
    first, second = (set(p.cpu_affinity()) for p in ranks_of(job))
    assert first
    assert second
    assert not first & second


@pytest.mark.slow
def test_two_hosts(tmp_path, launch, two_hosts):
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
    job = launch(two_hosts.on(0, *MPIRUN), tmp_path / "run", "steps=4000", env=env)
    assert job.wait_for_step(3), job.wait()
    job.process.terminate()
    output = job.wait()
    assert job.process.returncode == 0, output
    assert "= 2 ranks x" in output
    assert "stopped by a signal after step" in output
