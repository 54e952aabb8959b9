"""Weights from the hub and to it, with a hub on the loopback and the real huggingface_hub."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bridgetower_train.cli import main
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.weights.export import same_files
from tests.hostile.attacks import attack
from tests.tiny import TINY
from tests.training.runs import ROOT
from tests.weights.conftest import clip_vision, roberta

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

    def bridgetower(self, *arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": self.address, "HF_HOME": str(self.cache), "HF_TOKEN": "",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **env,
        }  # fmt: skip
        command = [sys.executable, "-m", "bridgetower_train", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, cwd=cwd)

    def close(self) -> None:
        self.process.kill()
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


@pytest.mark.nightly
def test_data_sets_become_corpora(loopback, tmp_path, make_tar, jpeg):
    """Tars and Parquet, listed and fetched by hf://."""
    data_set = loopback.folder / "datasets" / "someone" / "pictures"
    for number in range(2):
        make_tar(data_set / "tars" / f"{number:05d}.tar", {f"{number}.jpg": jpeg, f"{number}.txt": b"a caption"})
    image = pa.array([{"bytes": jpeg, "path": "a.jpg"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    (data_set / "data").mkdir()
    pq.write_table(pa.table({"image": image, "text": ["another"]}), data_set / "data" / "train-00000-of-00001.parquet")
    keys = (f"out={tmp_path / 'out'}", "size=64", "workers=1")
    tars = loopback.bridgetower("prep", "shards", "source=hf://datasets/someone/pictures/tars", "name=tars", *keys)
    assert "tars: 2 images" in tars.stdout, tars.stderr
    table = loopback.bridgetower(
        "prep", "captions", "source=hf://datasets/someone/pictures", "caption=text", "name=table", *keys
    )
    assert "table: 1 images" in table.stdout, table.stderr
    missing = loopback.bridgetower("prep", "shards", "source=hf://datasets/someone/nothing", "name=x", *keys)
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1, missing.stderr


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


RECIPE = [
    "train", "experiment=ms_base_4m", *TINY, "data.workers=0", "data.corpora={shapes: 1.0, coco: 0, vg: 0, sbu: 0, cc3m: 0}",
    "micro_batch=null",
    "device.precision=fp32", "model.vocab_size=null", "model.text_positions=514", "steps=1", "checkpoint.every=1",
]  # fmt: skip


def save_towers(folder: Path, root: Path) -> None:
    """Little towers under the names of those of the recipe."""
    one = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 256, "num_hidden_layers": 1}
    clip_vision(**one, patch_size=16).save_pretrained(folder / "openai" / "clip-vit-base-patch16")
    tokenizer = (root / "shapes" / "tokenizer.json").read_text()
    tokens = CaptionTokenizer.load(str(root / "shapes")).vocab_size
    roberta(tokens, **one, max_position_embeddings=514).save_pretrained(folder / "roberta-base")
    (folder / "roberta-base" / "tokenizer.json").write_text(tokenizer)


@pytest.mark.parametrize("source", ["hub", "folders"])
def test_a_recipe_starts_by_its_printed_names(loopback, shapes_root, tmp_path, source):
    here = tmp_path / "here"
    here.mkdir()
    save_towers(loopback.folder if source == "hub" else here, shapes_root)
    if source == "folders":
        loopback.close()
    run = [*RECIPE, f"data.root={shapes_root}"]
    started = loopback.bridgetower(*run, cwd=here)
    assert started.returncode == 0, started.stderr
    assert "init.vision=openai/clip-vit-base-patch16: 19 tensors" in started.stdout
    assert "init.text=roberta-base: 21 tensors" in started.stdout
    assert "random: fusion encoder, itm_score, mlm_score\n" in started.stdout
    # What a run's configuration names is looked for in the cache, and no more.
    loopback.close()
    evaluate = ["eval", "masked_lm", "run_dir=runs/ms_base_4m", "corpus=shapes_heldout", f"root={shapes_root}"]
    evaluated = loopback.bridgetower(*evaluate, cwd=here)
    assert evaluated.returncode == 0, evaluated.stderr


def test_the_configuration_of_a_run_is_no_reason_to_ask_the_hub(loopback, run, tmp_path):
    """It may be a stranger's: even a tokenizer is fetched only where the command line names it."""
    copy = shutil.copytree(run, tmp_path / "copy")
    config = (copy / "config.yaml").read_text()
    (tokenizer,) = re.findall(r"^tokenizer: (.*)$", config, re.MULTILINE)
    (copy / "config.yaml").write_text(config.replace(f"tokenizer: {tokenizer}", "tokenizer: someone/model"))
    (loopback.folder / "someone" / "model").mkdir(parents=True)
    shutil.copy(tokenizer, loopback.folder / "someone" / "model" / "tokenizer.json")
    refused = loopback.bridgetower("eval", f"run_dir={copy}")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: tokenizer=someone/model: no such file; give a tokenizer.json or the folder that contains it\n"
    )
    assert not (loopback.folder / "asked").exists()
    named = loopback.bridgetower("eval", f"run_dir={copy}", "tokenizer=someone/model")
    assert named.returncode == 0, named.stderr
    assert "someone/model@main" in (loopback.folder / "asked").read_text()


@pytest.mark.parametrize("fault", ["refuses", "is silent", "offline"])
def test_without_a_way_to_the_hub_one_line_says_what_to_put_where(loopback, shapes_root, tmp_path, fault):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if fault == "is silent" else 1
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": str(int(fault == "offline"))}
        keys = {"init.vision": "openai/clip", "tokenizer": "roberta-base"}
        for key, given in keys.items() if fault == "refuses" else [*keys.items()][:1]:
            began = time.monotonic()
            result = loopback.bridgetower(*train(tmp_path / "run", shapes_root, f"{key}={given}"), cwd=tmp_path, **env)
            assert time.monotonic() - began < 30
            assert result.returncode == 2
            (line,) = result.stderr.splitlines()
            assert line.startswith(
                f"error: {key}={given}: no such file or folder here, and the hub cannot be reached ("
            )
            files = (
                "tokenizer.json" if key == "tokenizer" else "config.json and model.safetensors (or pytorch_model.bin)"
            )
            put = f"; put {files} from https://huggingface.co/{given} into the folder {tmp_path / given}, or give another: "
            assert line.endswith(f"{put}{key}=FOLDER")
    assert not (tmp_path / "run").exists()


def test_the_doctor_asks_the_hub_and_fetches_no_weights(loopback, shapes_root, tmp_path):
    save_towers(loopback.folder, shapes_root)
    doctor = ["doctor", *RECIPE[1:], f"data.root={shapes_root}", "checks=[data,start]"]
    there = loopback.bridgetower(*doctor, cwd=tmp_path)
    assert "init.vision: openai/clip-vit-base-patch16: on the hub, model.safetensors" in there.stdout, there.stdout
    assert not list(loopback.cache.rglob("model.safetensors"))
    assert list(loopback.cache.rglob("tokenizer.json"))
    shutil.rmtree(loopback.folder / "openai")
    gone = loopback.bridgetower(*doctor, cwd=tmp_path)
    assert gone.returncode == 1
    assert "fail    init.vision: init.vision=openai/clip-vit-base-patch16: no such file or folder here" in gone.stdout


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
