"""Secrets in URLs are used, but neither shown nor stored."""

import base64
import json
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import yaml
from fsspec.config import conf

from bridgetower_train.cli import main, process
from bridgetower_train.data import cache
from bridgetower_train.data.cache import ShardCache
from bridgetower_train.data.roots import plain_root
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.signals import ASKING
from tests.hostile.attacks import attack
from tests.serving import Folder, of_folder, serving
from tests.tiny import TINY

ROOT = Path(__file__).parents[2]
SECRET = "hidden7Q"
USER = f"alice:{SECRET}@"


HEADER = f"Basic {base64.b64encode(USER[:-1].encode()).decode()}"


class Handler(Folder):
    """Serves a folder to those who have the password."""

    def do_GET(self) -> None:  # noqa: N802  # of http.server
        if self.headers["Authorization"] == HEADER:
            super().do_GET()
        else:
            self.send_error(401)


@pytest.fixture
def server(shapes_root):
    """Its host and port; it serves the shapes corpora."""
    with serving(of_folder(shapes_root, Handler)) as server:
        yield server


def keys(server: str, shapes_root: Path, tmp_path: Path) -> list[str]:
    return [
        *TINY, f"data.root=http://{USER}{server}", f"tokenizer={shapes_root}/shapes", f"data.cache_dir={tmp_path}/cache",
        f"run_dir={tmp_path}/run", "data.validation=null",
    ]  # fmt: skip


def stored(folder: Path) -> dict[str, bytes]:
    """The files below a folder, with what is in them."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@attack(68)
def test_a_run_from_a_root_with_a_password(server, shapes_root, tmp_path, capsys):
    command = [sys.executable, "-m", "bridgetower_train", "train", *keys(server, shapes_root, tmp_path)]
    ended = subprocess.run([*command, "steps=1", "wandb.project=x"], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert main(["report", f"run_dir={tmp_path / 'run'}"]) == 0
    printed = ended.stdout + ended.stderr + "".join(capsys.readouterr())
    files = stored(tmp_path)
    assert "alice" not in printed
    assert [name for name, content in files.items() if SECRET.encode() in content] == []
    assert sum(f"***@{server}".encode() in content for name, content in files.items() if "wandb" in name) > 0
    config = yaml.safe_load(files[f"{tmp_path}/run/config.yaml"])
    assert config["data"]["root"] == f"http://***@{server}"
    assert f"http://***@{server}".encode() in files[f"{tmp_path}/run/report.html"]

    assert main(["train", *keys(server, shapes_root, tmp_path), "steps=2"]) == 0  # the command line has the password
    assert "from step 1" in capsys.readouterr().out
    assert SECRET not in (tmp_path / "run" / "config.yaml").read_text()
    assert main(["eval", "matching", f"run_dir={tmp_path}/run", "corpus=shapes_heldout"]) == 2
    assert f"data.root of the run is remote (http://***@{server})" in capsys.readouterr().err


@pytest.fixture
def as_a_process(monkeypatch):
    """Lets a test call `process`, which leaves signals ignored and streams guarded, as a process that ends may."""
    before = {number: signal.getsignal(number) for number in ASKING}
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@attack(68)
def test_a_preparation_to_a_url_with_a_password(tmp_path, jpeg, capsys, monkeypatch, as_a_process):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for n in range(4):
        (tmp_path / "images" / f"{n}.jpg").write_bytes(jpeg)
        (tmp_path / "images" / f"{n}.txt").write_text("a caption")
    memory = fsspec.filesystem("memory")
    out = f"memory://{USER}host/data"

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bridgetower", *arguments])
        return process()

    try:
        for _ in range(2):
            assert (
                run("prep", "captions", "source=images", f"out={out}", "name=own", "scratch=scratch", "workers=1") == 0
            )
        assert run("prep", "card", f"root={out}", "out=README.md") == 0
        assert run("prep", "stats", f"root={out}", "cache_dir=cache") == 0
        assert run("prep", "lint", f"root={out}", "cache_dir=cache", "workers=1") == 0
        written = {path: memory.cat(path) for path in memory.find(f"{USER}host")}
    finally:
        memory.store.clear()
    printed = "".join(capsys.readouterr())
    assert "memory://***@host/data" in printed
    preparation = json.loads(written[f"/{USER}host/data/own/preparation.json"])
    assert "out=memory://***@host/data" in preparation["command"]
    assert "prep captions source=images" in (tmp_path / "README.md").read_text()
    for content in (printed.encode(), *written.values(), *stored(tmp_path).values()):
        assert SECRET.encode() not in content


@attack(68)
@pytest.mark.parametrize("url", [f"http://{USER}127.0.0.1:9/x", f"http://127.0.0.1:9/x?X-Amz-Signature={SECRET}&v=1"])
@pytest.mark.parametrize(
    "command",
    [
        ["train", *TINY, "data.root={url}", "data.cache_dir={here}/cache", "tokenizer={shapes}/shapes"],
        ["train", *TINY, "data.root={url}", "tokenizer={shapes}/shapes"],
        ["doctor", *TINY, "data.root={url}", "data.cache_dir={here}/cache", "tokenizer={url}", "checks=[data]"],
        ["prep", "lint", "root={url}", "cache_dir={here}/cache"],
        ["prep", "stats", "root={url}", "cache_dir={here}/cache"],
        ["prep", "card", "root={url}"],
        ["prep", "index", "root={url}"],
        ["prep", "shapes", "out={url}", "scratch={here}", "workers=1"],
        ["prep", "shapes", "out={url}"],
        ["prep", "captions", "source={url}", "out={here}", "name=x"],
        ["plan", "data.root={url}", "model=tiny", "tokenizer={url}"],
        ["train", "--multirun", *TINY, "data.root='{url}','{url}'", "tokenizer={url}", "run_dir={here}"],
        ["train", "--cfg", "job", "data.root={url}"],
        ["eval", "run_dir={url}"],
        ["report", "run_dir={url}"],
        ["train", "data.rot={url}"],
        ["train", "{url}"],
    ],
)
def test_errors_name_the_host_alone(command, url, shapes_root, tmp_path, capsys, monkeypatch, as_a_process):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "RETRY_DELAYS", ())
    monkeypatch.setattr("subprocess.run", lambda *a, **k: subprocess.CompletedProcess(a, 0))
    given = [part.format(url=url, here=tmp_path, shapes=shapes_root) for part in command]
    monkeypatch.setattr(sys, "argv", ["bridgetower", *given])
    process()
    printed = "".join(capsys.readouterr())
    assert SECRET not in printed
    assert SECRET not in " ".join(sys.argv)
    assert SECRET not in " ".join([str(path) for path in tmp_path.rglob("*")])


def test_a_header_of_fsspecs_configuration(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "RETRY_DELAYS", ())
    shards = ShardCache(str(tmp_path / "cache"), 1 << 30)
    with pytest.raises(DataError, match="401"):
        open_corpus(f"http://{server}", "shapes", shards)
    monkeypatch.setitem(conf, "http", {"client_kwargs": {"headers": {"Authorization": HEADER}}})
    assert open_corpus(f"http://{server}", "shapes", shards).read(0).captions


def test_a_stored_root_is_not_contacted():
    assert plain_root("http://host/x/") == "http://host/x"
    for root in ("http://***@host/x", "https://host/x?sig=***"):
        with pytest.raises(ConfigError, match=r"give the root again"):
            plain_root(root)
