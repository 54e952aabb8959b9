"""What can be said of the launchers without a run."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.launch.launching import need
from tests.training.runs import ROOT


def test_shellcheck():
    need("shellcheck")
    scripts = [
        *sorted((ROOT / "launch").glob("*.sh")),
        *sorted((ROOT / "launch").glob("*.sbatch")),
        ROOT / ".ci" / "run",
    ]
    assert len(scripts) > 3
    checked = subprocess.run(["shellcheck", "-x", *scripts], capture_output=True, text=True, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout


def common(function: str, *arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A function of launch/common.sh, as a launcher calls it; with nothing but `path` to find tools in."""
    script = 'set -euo pipefail; . launch/common.sh; "$@"; echo "${GLOO_SOCKET_IFNAME-}"'
    env = {"env": {"PATH": str(path)}} if path else {}
    command = ["/bin/bash", "-c", script, "-", function, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **env)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_host_finds_its_place_in_the_host_file(tmp_path, place):
    others = ["nowhere.invalid slots=4", "192.0.2.200 slots=4"]
    file = tmp_path / "hosts"
    file.write_text("# hosts\n\n" + "\n".join([*others[:place], f"{socket.gethostname()}  slots=2", *others[place:]]))
    assert common("index_here", file).stdout.split() == [str(place)]
    file.write_text("\n".join(others))
    lost = common("index_here", file)
    assert lost.returncode == 2
    assert "lists none of" in lost.stderr


def test_without_the_tools_to_find_an_interface_the_user_is_told(tmp_path):
    told = common("choose_interface", "192.0.2.200", path=tmp_path)
    assert told.returncode == 0
    assert told.stdout.strip() == ""
    assert "set GLOO_SOCKET_IFNAME" in told.stderr
