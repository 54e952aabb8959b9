"""What can be said of the launchers without a run."""

import socket
import subprocess

import pytest

from tests.launch.launching import need
from tests.training.runs import PATH, ROOT


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


def common(function: str, *arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A function of launch/common.sh, as a launcher calls it, with no variables but `env`."""
    script = 'set -euo pipefail; . launch/common.sh; "$@"; echo "${GLOO_SOCKET_IFNAME-}${LD_PRELOAD-}"'
    command = ["/bin/bash", "-c", script, "-", function, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


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
    told = common("choose_interface", "192.0.2.200", env={"PATH": str(tmp_path)})
    assert told.returncode == 0
    assert told.stdout.strip() == ""
    assert "set GLOO_SOCKET_IFNAME" in told.stderr


VENDOR = {  # set by the vendor's images or named in its documents
    "ENABLE_CONSOLE", "FI_EFA_USE_DEVICE_RDMA", "GC_KERNEL_PATH", "HABANA_LOGS", "HABANA_PLUGINS_LIB_PATH",
    "HABANA_SCAL_BIN_PATH", "HCCL_OVER_OFI", "HCL_CPU_AFFINITY", "LD_LIBRARY_PATH", "LOG_LEVEL_ALL", "OPAL_PREFIX",
    "PT_HPU_LAZY_MODE", "PYTHONPATH", "RDMAV_FORK_SAFE", "RDMA_CORE_LIB", "RDMA_CORE_ROOT",
    "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD", "USE_CPU_AFFINITY",
}  # fmt: skip


def test_what_the_vendor_s_images_set_reaches_other_hosts():
    """But not Open MPI's numbers of a rank, and the preloaded library only where the other host has it."""
    env = dict.fromkeys(VENDOR, "x") | {"PATH": PATH, "OMPI_COMM_WORLD_RANK": "3", "LD_PRELOAD": "", "EDITOR": "vi"}
    assert set(common("variables_to_forward", env=env).stdout.split()) == {*VENDOR, "PATH"}


def test_libraries_are_preloaded_where_they_are(tmp_path):
    (tmp_path / "libtcmalloc.so.4").write_text("")
    env = {"PATH": PATH, "BRIDGETOWER_PRELOAD": f"{tmp_path}/nowhere.so:{tmp_path}/libtcmalloc.so.4"}
    assert common("preload_as_the_launcher", env=env).stdout.strip() == f"{tmp_path}/libtcmalloc.so.4"
