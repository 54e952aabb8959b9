"""Host files and variables that carry commands, keys that must not be seen, and overrides that shells would take apart."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.attacks import attack
from tests.launch.launching import need
from tests.training.runs import PATH, ROOT

LAUNCHERS = ["torchrun.sh", "deepspeed.sh", "mpirun.sh"]
KEYS = {"WANDB_API_KEY": 'it\'s a "secret" $HOME %n', "https_proxy": "http://alice:pass-word@proxy"}
OVERRIDES = ["wandb.entity=a b", "x='$(touch X)' `touch X`", 'x="$HOME"; touch X', "x=#%n%%\\", "x=a  b\\ c"]


@pytest.fixture
def launch(tmp_path):
    """`launch(launcher, *overrides, **variables)`: what it says, started with stand-ins for Python, ssh and pdsh."""
    stand_in(tmp_path, "python", RANK)
    stand_in(tmp_path, "ssh", SSH)
    stand_in(tmp_path, "pdsh", f'exec {sys.executable} {Path(__file__).with_name("pdsh.py")} {tmp_path} "$@"')

    def launch(launcher: str, *overrides: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{tmp_path}/bin:{PATH}",
            "HOME": str(tmp_path / "bin"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = ["bash", ROOT / "launch" / launcher, *overrides]
        return subprocess.run(
            command,
            env=env | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            stdin=subprocess.DEVNULL,
        )

    return launch


RANK = """
case "$*" in
  *"--cfg job"*) ;;
  "-m bridgetower_train train"*) printf '%s\\0' "${@:4}" >FOLDER/arguments.$RANK; env -0 >FOLDER/environment.$RANK ;;
  *) exec PYTHON "$@" ;;
esac
"""
"""In place of Python: keeps what a rank of a run is given."""

SSH = """
printf '%s\\n' "$@" >>FOLDER/seen
exec env -i PATH="$PATH" HOME="$HOME" bash -c "${@: -1}"
"""
"""In place of ssh: keeps its arguments, and runs the command here with none of the launcher's variables."""


def stand_in(folder: Path, name: str, text: str) -> None:
    """A command that the launchers find before the real one."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/bash\n" + text.replace("FOLDER", str(folder)).replace("PYTHON", sys.executable))
    path.chmod(0o755)


def given(folder: Path, kind: str) -> list[list[str]]:
    """The `arguments` or the `environment` that each rank was given."""
    return [path.read_text().split("\0")[:-1] for path in sorted(folder.glob(f"{kind}.*"))]


@attack(73)
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(
    "line",
    [
        "vm slots=UID[$(touch${IFS}X)]",
        "vm slots=8;touch",
        "-oProxyCommand slots=8",
        "$(touch${IFS}X)",
        "vm slots=08",
        "#",
    ],
)
def test_a_host_file_is_not_evaluated(tmp_path, launch, launcher, line):
    (tmp_path / "hosts").write_text(f"127.0.0.1 slots=1\n{line}\n" if line != "#" else line)
    ended = launch(launcher, HOSTFILE="hosts")
    assert ended.returncode == 2
    assert re.fullmatch(r"error: HOSTFILE=hosts(: line 2 is not \"HOST slots=NUMBER\"| lists no host)\n", ended.stderr)
    assert not (tmp_path / "X").exists()


@attack(73)
@pytest.mark.parametrize(
    ("launcher", "name"),
    [(launcher, name) for launcher in LAUNCHERS for name in ("NPROC", "MASTER_PORT")]
    + [("torchrun.sh", "NODE_RANK"), ("mpirun.sh", "CORES")],
)
def test_numbers_are_not_evaluated(tmp_path, launch, launcher, name):
    ended = launch(launcher, **{"NODES": "2", "MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0"} | {name: "UID[$(touch X)]"})
    assert ended.returncode == 2
    assert ended.stderr == f"error: {name}=UID\\[\\$\\(touch\\ X\\)\\]: set it to a number\n"
    assert not (tmp_path / "X").exists()


@attack(70)
@attack(72)
def test_deepspeed_shows_no_keys_and_passes_overrides_on(tmp_path, launch):
    pytest.importorskip("deepspeed")
    (tmp_path / "hosts").write_text("127.0.0.2 slots=1\n127.0.0.3 slots=1\n")
    (tmp_path / ".deepspeed_env").write_text("HF_TOKEN=also-secret\n")
    keys = KEYS | {"MLFLOW_TRACKING_PASSWORD": "pass-word"}
    ended = launch("deepspeed.sh", *OVERRIDES, HOSTFILE="hosts", DS_ACCELERATOR="cpu", **keys)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen = (tmp_path / "seen").read_text()
    assert "WANDB_API_KEY" in seen
    assert not re.search("secret|pass-word", seen + ended.stdout + ended.stderr)
    assert given(tmp_path, "arguments") == [OVERRIDES, OVERRIDES]
    for environment in given(tmp_path, "environment"):
        assert {*(f"{name}={value}" for name, value in KEYS.items()), "HF_TOKEN=also-secret"} <= set(environment)
    folder = re.search(r"cat >(\S+)/variables", seen)
    assert folder
    assert not Path(folder[1]).exists()
    assert not (tmp_path / "X").exists()


@attack(71)
def test_mpirun_shows_no_keys(tmp_path, launch):
    need("mpirun")
    stand_in(tmp_path, "mpirun", f'printf \'%s\\n\' "$@" >>FOLDER/seen; PATH={shlex.quote(PATH)} exec mpirun "$@"')
    stand_in(tmp_path, "ssh", "printf '%s\\n' \"$@\" >>FOLDER/seen; exit 1")
    (tmp_path / "hosts").write_text("127.0.0.1 slots=1\n192.0.2.200 slots=1\n")
    agent = {"OMPI_MCA_plm_rsh_agent": str(tmp_path / "bin" / "ssh")}
    ended = launch("mpirun.sh", HOSTFILE="hosts", **KEYS, **agent)
    seen = (tmp_path / "seen").read_text()
    assert "WANDB_API_KEY" in seen
    assert "orted" in seen  # the command for the other host
    assert not re.search("secret|pass-word", seen + ended.stdout + ended.stderr)


@attack(72)
def test_mpirun_passes_keys_and_overrides_on(tmp_path, launch):
    need("mpirun")
    ended = launch("mpirun.sh", *OVERRIDES, NPROC="1", **KEYS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert given(tmp_path, "arguments") == [OVERRIDES]
    assert {f"{name}={value}" for name, value in KEYS.items()} <= set(given(tmp_path, "environment")[0])
    assert not (tmp_path / "X").exists()
