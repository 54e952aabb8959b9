"""launch/deepspeed.sh: DeepSpeed's launcher with pdsh and ssh."""

import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.launch.launching import listening_until, need
from tests.training.runs import final_weights, metric_lines, train_command

DEEPSPEED = ["bash", "launch/deepspeed.sh"]
SSHD = "/usr/sbin/sshd"  # outside of a user's PATH, and wants to be called by its whole name
HARD = """a "b" 'c' $HOME `d` \\ %n;&"""
"""A value over which shells would stumble."""


def ranks_of(run_dir: Path) -> dict[str, psutil.Process]:
    """The processes of the ranks, by rank, on whatever host."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "bridgetower_train" in process.cmdline() and f"run_dir={run_dir}" in process.cmdline():
                found.setdefault(process.environ().get("RANK", ""), process)  # before its loader workers
    return found


@pytest.fixture
def ssh(tmp_path, two_hosts):
    """An ssh server on each of the two hosts; the variables by which the launcher reaches them."""
    need("pdsh", "ssh", "ssh-keygen", SSHD, root=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # of the server's privilege separation
    options = [
        "Port=3022", f"HostKey={tmp_path / 'host'}", f"AuthorizedKeysFile={tmp_path / 'user.pub'}", "StrictModes=no",
        "PidFile=none",
    ]  # fmt: skip
    with ExitStack() as servers:
        for host in (0, 1):
            command = [SSHD, "-D", "-e", "-f", "/dev/null", *(f"-o{option}" for option in options)]
            log = servers.enter_context((tmp_path / f"sshd{host}.log").open("w"))
            server = subprocess.Popen(two_hosts.on(host, *command), stderr=log)
            servers.callback(server.wait, timeout=20)
            servers.callback(server.terminate)
        known = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={tmp_path / 'known'} -o ConnectionAttempts=20"
        yield {"SSH_PORT": "3022", "PDSH_SSH_ARGS_APPEND": f"-i {tmp_path / 'user'} {known}"}


@pytest.mark.slow
@pytest.mark.parametrize("command", [DEEPSPEED, train_command()], ids=["two ranks", "one process"])
def test_ranks_on_one_host_listen_on_the_loopback(tmp_path, start, command):
    pytest.importorskip("deepspeed")
    env = {"NPROC": "2", "DS_ACCELERATOR": "cpu"}
    job = start(tmp_path / "run", "engine=zero2", "steps=4000", command=command, env=env)
    assert {address for _, address in listening_until(job, 2)} == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.nightly
def test_two_hosts_save_when_told_to_end_and_one_host_goes_on(tmp_path, start, two_hosts, ssh):
    pytest.importorskip("deepspeed")
    hostfile = tmp_path / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in two_hosts.addresses))
    options = ["steps=320 samples", "checkpoint.every=1000", "wandb.entity='a $HOME;b'"]
    env = {**ssh, "HOSTFILE": str(hostfile), "HCCL_TEST": HARD, "DS_ACCELERATOR": "cpu"}
    job = start(tmp_path / "run", *options, command=two_hosts.on(0, *DEEPSPEED), env=env)
    assert job.wait_for_step(3), job.wait()
    ranks = {rank: process.environ() for rank, process in ranks_of(tmp_path / "run").items() if rank}
    assert [(rank, ranks[rank]["LOCAL_RANK"], ranks[rank]["WORLD_SIZE"]) for rank in sorted(ranks)] == [
        ("0", "0", "2"),
        ("1", "0", "2"),
    ]
    assert [environ["HCCL_TEST"] for environ in ranks.values()] == [HARD, HARD]
    assert {environ["GLOO_SOCKET_IFNAME"] for environ in ranks.values()} == {"wire"}
    job.process.terminate()
    output = job.finish()
    assert "= 2 ranks x" in output
    assert "stopped by a signal after step" in output
    assert not ranks_of(tmp_path / "run")

    here = {"NPROC": "2", "DS_ACCELERATOR": "cpu"}
    assert "resume    from step" in start(tmp_path / "run", *options, command=DEEPSPEED, env=here).finish()
    whole = start(tmp_path / "whole", *options, command=["bash", "launch/torchrun.sh"], env=here)
    assert "= 2 ranks x" in whole.finish()
    assert metric_lines(tmp_path / "run") == metric_lines(tmp_path / "whole")
    assert final_weights(tmp_path / "run") == final_weights(tmp_path / "whole")
