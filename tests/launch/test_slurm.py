"""launch/slurm.sbatch on a Slurm of one node, started for the test from Debian's packages."""

import os
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.launch.launching import listening, need
from tests.tiny import TINY
from tests.training.runs import PATH, ROOT, last_step, metric_lines

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
SchedulerParameters=sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Slurm:
    """A cluster of this one machine, as long as the `with` block lasts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "PATH": PATH, "PYTHONPATH": str(ROOT), "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons = ExitStack()

    def __enter__(self) -> "Slurm":
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        ports = [socket.socket() for _ in range(2)]
        for port in ports:
            port.bind(("127.0.0.1", 0))
        controller, node = (port.getsockname()[1] for port in ports)
        for port in ports:
            port.close()
        text = CONFIG.format(host=socket.gethostname(), folder=self.folder, controller=controller, node=node)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        with ExitStack() as daemons:
            munged = [f"--{option}={self.folder}/munge.{name}" for option, name in files.items()]
            self._start(daemons, "munged", "--foreground", "--force", *munged)
            self._wait_for(lambda: (self.folder / "munge.socket").exists())
            self._start(daemons, "slurmctld", "-D")
            self._start(daemons, "slurmd", "-D")
            self._wait_for(lambda: self._state("sinfo", "-h", "-o", "%T") == "idle")
            self._daemons = daemons.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        with self._daemons:
            self.run("scancel", "--user=root")
            self._wait_for(lambda: not self._state("squeue", "-h"))

    def run(self, *command: str) -> str:
        """What `command` prints."""
        return subprocess.run(
            command, env=self.env, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    def submit(self, *arguments: str) -> str:
        """The number of a job of two ranks."""
        log = f"--output={self.folder}/%j.log"
        return self.run("sbatch", "--parsable", "--ntasks-per-node=2", log, "launch/slurm.sbatch", *arguments)

    def log(self, job: str) -> str:
        """What a job has printed."""
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def wait_for_end(self, job: str) -> str:
        """The state in which a job ended."""
        states: list[str] = []

        def ended() -> bool:
            states.append(self.run("scontrol", "--oneliner", "show", "job", job).split("JobState=")[1].split()[0])
            return states[-1] not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")

        self._wait_for(ended, lambda: self.log(job))
        return states[-1]

    def wait_for_step(self, run_dir: Path, step: int, job: str) -> None:
        """Return once the line of `step` has been written."""
        self._wait_for(lambda: last_step(run_dir) >= step, lambda: self.log(job))

    def _start(self, daemons: ExitStack, *command: str) -> None:
        log = daemons.enter_context((self.folder / f"{command[0]}.log").open("w"))
        process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        daemons.callback(process.wait, timeout=120)
        daemons.callback(process.terminate)

    def _state(self, *command: str) -> str:
        asked = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120)
        return asked.stdout.strip()

    def _wait_for(self, happened, explain=lambda: "", timeout: float = 300) -> None:
        deadline = time.monotonic() + timeout
        while not happened():
            if time.monotonic() > deadline:
                logs = [explain(), *(path.read_text() for path in sorted(self.folder.glob("*.log")))]
                raise AssertionError("nothing happened:\n" + "\n".join(logs))
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_preempted_job_queues_again_and_goes_on_and_a_cancelled_one_does_not(tmp_path, shapes_root):
    need("munged", "slurmctld", "slurmd", root=True)
    with Slurm(tmp_path / "slurm") as slurm:
        run_dir = tmp_path / "run"
        options = [*TINY, f"data.root={shapes_root}", f"run_dir={run_dir}", "steps=60", "checkpoint.every=1000"]
        job = slurm.submit(*options)
        slurm.wait_for_step(run_dir, 3, job)
        own = {"bridgetower_train", f"run_dir={run_dir}"}
        ranks = [p for p in psutil.process_iter(["cmdline"]) if own <= {*(p.info["cmdline"] or ())}]
        assert {address for _, address in listening(ranks)} == {"127.0.0.1"}
        slurm.run("scancel", "--signal=TERM", job)
        assert slurm.wait_for_end(job) == "COMPLETED", slurm.log(job)
        log = slurm.log(job)
        assert "= 2 ranks x" in log
        assert "stopped by a signal after step" in log
        assert f"job {job} is requeued" in log
        assert "resume    from step" in log
        assert [line["step"] for line in metric_lines(run_dir)] == list(range(1, 61))

        endless = tmp_path / "endless"
        job = slurm.submit(*options, f"run_dir={endless}", "steps=100000")
        slurm.wait_for_step(endless, 1, job)
        slurm.run("scancel", job)
        assert slurm.wait_for_end(job) == "CANCELLED", slurm.log(job)
        assert "is requeued" not in slurm.log(job)
