"""A Ray cluster of our own is out of reach of strangers: of other hosts, and of this host's other users."""

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toy_job

from bridgetower_train.errors import ConfigError
from data_prep.job import ray_engine
from tests.hostile.attacks import attack

ROOT = Path(toy_job.__file__).parents[3]

CALLS = {  # what runs code, or tells where code can be run
    "/ray.rpc.NodeInfoGcsService/GetClusterId",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.ObjectManagerService/Push",
}


def answer(port: int, call: str, token: str | None = None) -> str:
    """What a port says to a call by someone with that token."""
    grpc = pytest.importorskip("grpc")
    said = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(call)(b"", timeout=10, metadata=said)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.mark.slow
@attack(66)
@attack(67)
def test_a_cluster_of_our_own_refuses_strangers(tmp_path: Path) -> None:
    """At the lowest allowed version too, where `make test-nightly` runs it."""
    pytest.importorskip("ray")
    log = tmp_path / "had"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, toy_job.__file__, tmp_path, log, "0.5", "engine=ray"],
        env={**environment, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not log.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.1)
        driver = psutil.Process(process.pid)
        family = [driver, *driver.children(recursive=True)]
        # /proc/net/tcp and /proc/net/tcp6
        listening = [each.laddr for one in family for each in one.net_connections("tcp") if each.status == "LISTEN"]
        assert len(listening) > 3
        assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}

        (gcs,) = [one for one in family if one.name() == "gcs_server"]
        token = gcs.environ()["RAY_AUTH_TOKEN"]
        refused = set()
        for address in listening:
            for call in CALLS:
                assert answer(address.port, call, "0" * 64) != "OK"
                if answer(address.port, call) == "UNAUTHENTICATED":
                    refused.add(call)
        assert refused == CALLS
        (port,) = [each.laddr.port for each in gcs.net_connections("tcp") if each.status == "LISTEN"]
        assert answer(port, "/ray.rpc.NodeInfoGcsService/GetClusterId", token) == "OK"

        assert not any(token in word for one in family for word in one.cmdline())
        assert not (tmp_path / ".ray").exists(), "Ray writes a token there that others may read"
        (folder,) = set(re.findall(r"/[\w./-]*/bridgetower-ray-\w+", " ".join(gcs.cmdline())))
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    finally:
        process.terminate()
        process.communicate(timeout=180)
    assert not Path(folder).exists()


@attack(67)
def test_a_ray_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_engine, "installed_version", lambda package: "2.51.2")
    with pytest.raises(ConfigError, match=r"engine=ray: Ray 2\.51\.2 obeys whoever"):
        toy_job.prepare(tmp_path, engine="ray")
    assert f'ray = ["ray>={ray_engine._LOWEST}"]' in (ROOT / "pyproject.toml").read_text()
