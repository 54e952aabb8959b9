"""Weights from the hub and to it, with a hub on the loopback and the real huggingface_hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bridgetower_train.cli import main
from bridgetower_train.weights.export import same_files
from tests.hostile.attacks import attack
from tests.tiny import TINY
from tests.training.runs import ROOT
from tests.weights.conftest import clip_vision

TOKEN = "hf_" + "x" * 34


class Loopback:
    """The server, and commands whose hub it is."""

    def __init__(self, place: Path) -> None:
        self.folder, self.cache = place / "hub", place / "cache"
        self.folder.mkdir()
        server = [sys.executable, "-u", str(Path(__file__).with_name("hub_server.py")), str(self.folder), TOKEN]
        self.process = subprocess.Popen(server, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def bridgetower(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": self.address, "HF_HOME": str(self.cache), "HF_TOKEN": "",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **env,
        }  # fmt: skip
        command = [sys.executable, "-m", "bridgetower_train", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def loopback(tmp_path):
    server = Loopback(tmp_path)
    yield server
    server.close()


def train(run_dir: Path, root: Path, *overrides: str) -> list[str]:
    return ["train", *TINY, f"data.root={root}", f"run_dir={run_dir}", "steps=1", *overrides]


def test_a_run_starts_from_names_on_the_hub(loopback, shapes_root, tmp_path):
    clip = clip_vision(hidden_size=64, num_attention_heads=1, intermediate_size=256, num_hidden_layers=1, patch_size=16)
    clip.save_pretrained(loopback.folder / "someone" / "clip", max_shard_size="100KB")
    assert (loopback.folder / "someone" / "clip" / "model.safetensors.index.json").is_file()
    started = loopback.bridgetower(*train(tmp_path / "run", shapes_root, "init.vision=someone/clip"))
    assert started.returncode == 0, started.stderr
    assert "init.vision=someone/clip: 19 tensors" in started.stdout
    assert "c" * 40 in started.stdout, "the commit is said"
    # Once fetched, the hub is not needed.
    loopback.close()
    again = loopback.bridgetower(
        *train(tmp_path / "again", shapes_root, "init.vision=someone/clip"), HF_HUB_OFFLINE="1"
    )
    assert again.returncode == 0, again.stderr


def test_a_revision_may_be_named(loopback, shapes_root, tmp_path):
    clip = clip_vision(hidden_size=64, num_attention_heads=1, intermediate_size=256, num_hidden_layers=1, patch_size=16)
    clip.save_pretrained(loopback.folder / "someone" / "clip")
    source = "init.vision=someone/clip@v1.0"
    started = loopback.bridgetower(*train(tmp_path / "run", shapes_root, source))
    assert started.returncode == 0, started.stderr
    assert f"{source}: 19 tensors" in started.stdout
    assert "vision: someone/clip@v1.0" in (tmp_path / "run" / "config.yaml").read_text()
    first, *others = (loopback.folder / "asked").read_text().splitlines()
    assert first == "someone/clip@v1.0"
    assert f"someone/clip@{'c' * 40}" in others
    assert not any(line.endswith("@main") for line in others), "all files are of one commit"
    refused = loopback.bridgetower(*train(tmp_path / "other", shapes_root, "init.vision=someone/clip@v2.0"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: init.vision=someone/clip@v2.0: ")
    assert refused.stderr.count("\n") == 1


class _Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


@attack(44)
def test_a_folder_that_looks_like_a_name_on_the_hub(shapes_root, tmp_path, monkeypatch, capsys):
    planted = tmp_path / "openai" / "clip-vit-base-patch16"
    planted.mkdir(parents=True)
    torch.save({"weight": _Runs()}, planted / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    assert main(train(tmp_path / "run", shapes_root, "init.vision=openai/clip-vit-base-patch16")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{planted}/pytorch_model.bin cannot be read: it refers to the Python object" in line
    assert not (tmp_path / "ran").exists()


def test_what_the_hub_does_not_give(loopback, shapes_root, tmp_path):
    (loopback.folder / "someone" / "empty").mkdir(parents=True)
    for name, part in (("someone/nothing", "does not give it"), ("someone/empty", "gives none of model.safetensors")):
        result = loopback.bridgetower(*train(tmp_path / "run", shapes_root, f"init.vision={name}"))
        assert result.returncode == 2
        assert result.stderr.startswith(f"error: init.vision={name}: ")
        assert part in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_export_is_uploaded(loopback, run, tmp_path):
    export = ["export", f"run_dir={run}", f"out={tmp_path / 'out'}", "push=true", "repo=me/model"]
    refused = loopback.bridgetower(*export)
    assert refused.returncode == 2
    assert "HF_TOKEN" in refused.stderr
    assert not (tmp_path / "out").exists()

    wrong = loopback.bridgetower(*export, HF_TOKEN="hf_wrong")
    assert wrong.returncode == 1
    assert "was not uploaded" in wrong.stderr

    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "out" / "eval.json").symlink_to(tmp_path / "secret.json")
    uploaded = loopback.bridgetower(*export, HF_TOKEN=TOKEN)
    assert uploaded.returncode == 0, uploaded.stderr
    assert f"uploaded to {loopback.address}/me/model" in uploaded.stdout
    there = loopback.folder / "me" / "model"
    asked = json.loads((there / ".asked.json").read_text())
    assert asked.get("private") is True or asked.get("visibility") == "private"
    (there / ".asked.json").unlink()
    (there / ".gitattributes").unlink(missing_ok=True)
    assert same_files(there, tmp_path / "out")
    assert not (there / "eval.json").exists(), "evaluations have images of the corpora"
    assert 'from_pretrained("me/model")' in (there / "README.md").read_text()


def test_a_hub_that_is_not_there(run, tmp_path, monkeypatch, capsys):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["export", f"run_dir={run}", f"out={tmp_path / 'out'}", "push=true", "repo=me/model"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is whole, but was not uploaded to me/model: " in line


def test_a_name_on_the_hub_is_evaluated(loopback, folder, shapes_root, tmp_path):
    shutil.copytree(folder, loopback.folder / "someone" / "model")
    keys = ["eval", "matching", "run_dir=someone/model", "corpus=shapes_heldout", f"root={shapes_root}", "device=cpu"]
    refused = loopback.bridgetower(*keys)
    assert refused.returncode == 2
    assert "name a file for the figures, as out=eval.json" in refused.stderr
    out = tmp_path / "results" / "eval.json"
    done = loopback.bridgetower(*keys, f"out={out}")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(out.read_text())["evaluations"].values()
    assert entry["checkpoint"] == f"someone/model@{'c' * 40}"
    assert 0 <= entry["figures"]["AUC"] <= 1
