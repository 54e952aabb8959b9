"""`bridgetower embed`: the file, what it says of itself, and that it survives kills and shares work among ranks."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import bridgetower_train as bt
from bridgetower_train.cli import main
from bridgetower_train.use import embed as embed_module
from bridgetower_train.use.embed import embed
from bridgetower_train.use.index import open_index
from bridgetower_train.use.sources import of_folder
from tests.training.runs import ROOT, export_here

LINES = "a red ring\n\na blue square\na <mask> ring\na red ring\n"


@pytest.fixture(scope="module")
def model(trained_run):
    return bt.load(trained_run, device="cpu")


def embed_here(trained_run, *keys, code=0):
    assert main(["embed", f"run_dir={trained_run}", "device=cpu", *map(str, keys)]) == code


def test_a_folder_becomes_a_table_of_unit_vectors(model, trained_run, photos, tmp_path, capsys):
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    out = tmp_path / "index.parquet"
    try:
        embed_here(trained_run, f"images={tmp_path / 'photos'}", f"out={out}", "batch=3")
        printed = capsys.readouterr().out
        assert f"{out}: 10 images" in printed
        assert "left out: 1: broken.jpg (not an image)" in printed
        rows = pq.read_table(out).to_pylist()
        names = [*(f"{n}.jpg" for n in range(8)), "more/8.jpg", "more/9.jpg"]
        assert [row["key"] for row in rows] == names
        assert [row["row"] for row in rows] == [*range(8), 9, 10]
        wanted = model.embed_images([photos / name for name in names])
        assert torch.allclose(torch.tensor([row["embedding"] for row in rows]), wanted, atol=1e-6)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["index.parquet", "photos"]
        embed_here(trained_run, f"images={tmp_path / 'photos'}", f"out={out}")
        assert f"{out}: 10 images, already there" in capsys.readouterr().out
        embed_here(trained_run, f"images={tmp_path / 'photos' / 'more'}", f"out={out}", code=2)
        assert "is there already, with something else" in capsys.readouterr().err
    finally:
        (photos / "broken.jpg").unlink()


def test_an_image_that_was_replaced_is_not_taken_for_embedded(trained_run, photos, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "index.parquet"
    folder.mkdir()
    shutil.copy(photos / "0.jpg", folder / "a.jpg")
    embed_here(trained_run, f"images={folder}", f"out={out}")
    shutil.copy(photos / "1.jpg", folder / "a.jpg")
    embed_here(trained_run, f"images={folder}", f"out={out}", code=2)
    assert "is there already, with something else" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_array_has_its_keys_beside_it(model, trained_run, tmp_path, dtype):
    (tmp_path / "texts.txt").write_text(LINES)
    out = tmp_path / "index.npy"
    embed_here(trained_run, f"texts={tmp_path}/texts.txt", f"out={out}", f"dtype={dtype}")
    found = np.load(out, allow_pickle=False)
    assert found.dtype == dtype
    wanted = model.embed_texts(["a red ring", "a blue square", "a <mask> ring", "a red ring"])
    assert np.allclose(found, wanted, atol=1e-3 if dtype == "float16" else 1e-6)
    index = open_index(out)
    assert [index.key(n) for n in range(4)] == ["a red ring", "a blue square", "a <mask> ring", "a red ring"]
    assert index.about.kind == "texts"
    assert {p.name for p in tmp_path.iterdir()} == {"index.npy", "index.keys.parquet", "texts.txt"}
    embed_here(trained_run, f"texts={tmp_path}/texts.txt", f"out={tmp_path}/index.parquet", f"dtype={dtype}")
    assert np.array_equal(open_index(tmp_path / "index.parquet").embeddings, found)


def test_a_corpus_and_an_export_give_the_same_index(trained_run, shapes_root, tmp_path):
    export = export_here(trained_run, tmp_path / "export")
    embed_here(trained_run, "corpus=shapes_heldout", f"out={tmp_path}/a.parquet")
    embed_here(export, "corpus=shapes_heldout", f"root={shapes_root}", f"out={tmp_path}/b.parquet")
    a, b = (open_index(tmp_path / f"{name}.parquet") for name in "ab")
    assert np.array_equal(a.embeddings, b.embeddings)
    assert (a.about.weights, a.about.corpus, a.about.kind) == (b.about.weights, "shapes_heldout", "images")
    assert a.about.folder is None  # the corpora do not lie below the index
    b.check(bt.load(trained_run, "cpu"))
    corpus = bt.open_corpus(shapes_root, "shapes_heldout")
    assert [a.key(n) for n in range(len(a))] == [corpus.key(n) for n in range(32)]


def test_what_is_done_is_not_done_again(model, photos, tmp_path, monkeypatch):
    source, out = of_folder(str(photos), False), tmp_path / "index.parquet"
    monkeypatch.setattr(embed_module, "PART", 4)
    embed(model, source, tmp_path / "whole.parquet", batch=4)
    computed = []
    original = type(model.embedder).embed_images

    def stopped(self, pixels):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(type(model.embedder), "embed_images", stopped)
    with pytest.raises(KeyboardInterrupt):
        embed(model, source, out, batch=4)
    assert not out.exists()
    monkeypatch.setattr(
        type(model.embedder), "embed_images", lambda self, p: computed.append(len(p)) or original(self, p)
    )
    found = embed(model, source, out, batch=4)
    assert computed == [4, 4, 2]
    assert found.total == 10
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    # Parts of something else are not taken.
    parts = tmp_path / ".other.parquet.parts"
    parts.mkdir()
    (parts / "00000000.parquet").write_bytes(b"of another index")
    assert embed(model, source, tmp_path / "other.parquet", batch=4).total == 10


@pytest.mark.nightly
def test_any_number_of_ranks_gives_the_same(trained_run, shapes_root, tmp_path):
    code = "import bridgetower_train.use.embed as e; e.PART = 8; from bridgetower_train.cli import entry; entry()"
    (tmp_path / "embed_in_small_parts.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\n")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    keys = ["embed", f"run_dir={trained_run}", "device=cpu", "corpus=shapes_heldout", "batch=8"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, tmp_path / "embed_in_small_parts.py", *keys, f"out={tmp_path}/two.parquet"]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=400)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("32 images") == 1
    embed_here(trained_run, *keys[3:], f"out={tmp_path}/one.parquet")
    one, two = (open_index(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert np.allclose(one.embeddings, two.embeddings, atol=1e-6)
    assert one.keys.to_pylist() == two.keys.to_pylist()


def test_weights_that_differ_have_another_fingerprint(model, trained_run):
    for name, same in (("logit_scale", True), ("bridgetower.cross_modal_text_pooler.dense.bias", False)):
        other = bt.load(trained_run, "cpu", step=2)
        with torch.no_grad():
            other.opened.task.model.get_parameter(name).add_(1e-3)
        assert (other.fingerprint == model.fingerprint) == same


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        (["images=x", "texts=y", "out=a.npy"], "images and texts: give one of images=, corpus= and texts="),
        (["out=a.npy"], "images: give one of images=, corpus= and texts="),
        (["images=nowhere", "out=a.npy"], "images=nowhere: no such folder"),
        (["images=.", "out=a.npy"], "images=.: has no image"),
        (["texts=nowhere", "out=a.npy"], "texts=nowhere: no such file"),
        (["images=.", "out=a.csv"], "out=a.csv: must end in .parquet or .npy"),
        (["images=.", "out=b/a.npy"], "out=b/a.npy: no such folder"),
        (["images=.", "out=a.npy", "dtype=int8"], "dtype=int8: must be"),
        (["corpus=nowhere", "out=a.npy"], "nowhere: no such folder"),
    ],
)
def test_wrong_keys_are_named(trained_run, tmp_path, monkeypatch, capsys, keys, part):
    monkeypatch.chdir(tmp_path)
    embed_here(trained_run, *keys, code=2)
    assert part in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_can_be_used_is_an_error(trained_run, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"text")
    embed_here(trained_run, f"images={tmp_path}/photos", f"out={tmp_path}/a.npy", code=1)
    assert "none of the images can be used: 1: a.jpg (not an image)" in capsys.readouterr().err
    assert not (tmp_path / "a.npy").exists()
    assert json.loads((tmp_path / ".a.npy.parts" / "plan.json").read_text())
