"""Everything that is wrong with a corpus is named, and nothing else."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import ConfigError
from data_prep.inspect.lint import LintConfig, run
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.index import build_index
from data_prep.shards.writer import write_corpus
from data_prep.source.image import prepare_jpeg
from tests.hostile.attacks import attack
from tests.serving import of_folder, serving

ROOT = Path(__file__).parents[3]


@pytest.fixture
def root(tmp_path, small_corpus):
    """A corpus of 60 images in 3 shards that a test may damage."""
    return shutil.copytree(small_corpus, tmp_path / "data")


@pytest.fixture
def lint(tmp_path, capsys):
    """Exit code, findings as (corpus, shard, key, reason), and what was printed."""

    def linted(root, workers: int = 1, **keys):
        listing = tmp_path / "listing.jsonl"
        code = run(LintConfig(root=str(root), workers=workers, listing=str(listing), **keys))
        lines = [json.loads(line) for line in listing.read_text().splitlines()]
        found = [(f["corpus"], f.get("shard", ""), f.get("key", ""), f["reason"]) for f in lines]
        return code, found, capsys.readouterr().out

    return linted


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def edit_manifest(folder: Path, **values) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_corpus_passes(root, lint, workers):
    code, found, printed = lint(root, workers)
    assert (code, found) == (0, [])
    assert "small: 60 images, 180 captions: nothing wrong" in printed
    assert printed.splitlines()[-1] == "lint: all is well; 60 images in 1 corpus, 0 of them duplicates"
    assert lint(root / "small")[0] == 0


@attack(15)
@attack(16)
def test_links_out_and_what_is_no_file_are_findings(root, lint, tmp_path):
    shard = root / "small" / "000001.tar"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    code, found, _ = lint(root)
    assert code == 1
    assert len(found) == 1
    assert "is a link that leads outside" in found[0][3]
    assert "follow_links=true" in found[0][3]
    assert lint(root, follow_links=True)[:2] == (0, [])
    shard.unlink()
    os.mkfifo(shard)
    assert "not a regular file" in lint(root)[1][0][3]
    (root / "small" / "index.npy").unlink()
    os.mkfifo(root / "small" / "index.npy")
    assert "not a regular file" in lint(root)[1][0][3]


def test_caption_lengths(root, lint):
    corpus = open_corpus(str(root), "small")
    captions = [caption for row in range(60) for caption in corpus.read(row).captions]
    lengths = np.array([len(caption) for caption in captions])
    train_tokenizer(captions, 300).save(str(root / "tokenizer.json"))
    _, _, printed = lint(root, tokenizer=str(root), max_text_len=7)
    assert f"mean {lengths.mean():.1f}, median 21, 95% up to 21, longest 21" in printed
    assert "tokens per caption: mean" in printed
    tokenizer = train_tokenizer(captions, 300)
    cut = sum(len(tokenizer.encode(caption).ids) > 7 for caption in captions)
    assert 0 < cut < 180
    assert f"{cut:,} ({cut / 180:.2%}) are cut at max_text_len=7" in printed


def test_a_damaged_record_is_named(root, lint):
    row = open_corpus(str(root), "small").index[25]
    overwrite(root / "small" / "000001.tar", int(row["jpg_offset"]) + 50, b"damage")
    code, found, printed = lint(root)
    assert code == 1
    assert found == [
        ("small", "000001.tar", "", "shard has another SHA-256 than the manifest says"),
        ("small", "000001.tar", "000025", "changed since it was indexed"),
    ]
    assert "changed since it was indexed: 1 (small/000001.tar/000025)" in printed
    assert printed.splitlines()[-1].startswith("lint: 2 faults; 60 images")


def test_a_image_that_does_not_decode_is_named_though_it_was_indexed(tmp_path, lint, make_tar, jpeg):
    members = {"a.jpg": jpeg, "a.txt": b"whole", "b.jpg": jpeg[: len(jpeg) // 2], "b.txt": b"half"}
    make_tar(tmp_path / "data" / "web" / "0.tar", members)
    build_index(tmp_path / "data" / "web")
    code, found, _ = lint(tmp_path / "data")
    assert code == 1
    ((corpus, shard, key, reason),) = found
    assert (corpus, shard, key) == ("web", "0.tar", "b")
    assert "decoded" in reason


def test_a_shard_that_is_cut_short(root, lint):
    path = root / "small" / "000002.tar"
    rows = open_corpus(str(root), "small").index[40:]
    os.truncate(path, int(rows["jpg_offset"][10]))
    code, found, _ = lint(root)
    assert code == 1
    assert found[0][:3] == ("small", "000002.tar", "")
    assert "another size than the manifest says" in found[0][3]
    keys = ["000050", *(f"row {n}" for n in range(51, 60))]  # the header of the first is still there
    assert [f[2:] for f in found[1:]] == [(key, "shard ends before the record") for key in keys]


def test_a_missing_shard_is_one_finding(root, lint):
    (root / "small" / "000000.tar").unlink()
    code, found, _ = lint(root)
    assert code == 1
    reason = "shard cannot be read: No such file or directory, and with it its 20 records"
    assert found == [("small", "000000.tar", "", reason)]


def test_shards_that_nobody_named(root, lint):
    shutil.copy(root / "small" / "000000.tar", root / "small" / "000003.tar")
    assert lint(root)[:2] == (1, [("small", "000003.tar", "", "shard that the manifest does not name")])


def test_index_and_manifest_that_differ(root, lint):
    folder = root / "small"
    index = np.load(folder / "index.npy")
    index["captions"][0] += 1
    index["captions"][1] -= 1
    index["shard"][5] = 1
    index[7] = index[6]
    np.save(folder / "index.npy", index)
    edit_manifest(folder, image_size=63)
    code, found, _ = lint(root)
    reasons = Counter(reason for *_, reason in found)
    assert code == 1
    assert reasons["index.npy is not the one that the manifest describes"] == 1
    assert reasons["index and manifest differ in the records of their shards"] == 1
    assert reasons["index and manifest differ in the number of captions"] == 1
    assert reasons["shorter edge that is not the manifest's image_size"] > 40
    assert ("small", "000000.tar", "000000", "fewer captions than indexed") in found
    assert ("small", "000000.tar", "000001", "more captions than indexed") in found
    assert ("small", "000000.tar", "000006", "key that occurs twice in its shard") in found


def test_a_corpus_without_manifest_does_not_keep_others_from_being_read(root, lint, make_corpus):
    make_corpus(root, "broken", 5)
    (root / "broken" / "manifest.json").unlink()
    code, found, printed = lint(root)
    assert code == 1
    assert [f[0] for f in found if "manifest.json" in f[3]] == ["broken"]
    assert "small: 60 images, 180 captions: nothing wrong" in printed


def write(folder: Path, images: list[tuple[str, bytes, str]]) -> None:
    write_corpus(folder, 64, ((key, image, ["caption"], {"sha256": sha256}) for key, image, sha256 in images), 4)


def test_duplicates_within_and_between_corpora(tmp_path, lint, shapes_root):
    corpus = open_corpus(str(shapes_root), "shapes")
    a, b, c, d, e = (prepare_jpeg(bytes(corpus.read(row).image), 64) for row in range(5))
    write(tmp_path / "data" / "coco", [("a", a, "1" * 64), ("b", b, "2" * 64), ("a2", a, "3" * 64), ("d", d, "")])
    write(tmp_path / "data" / "vg", [("b", b, "9" * 64), ("c", c, "1" * 64), ("e", e, ""), ("b3", b, "4" * 64)])
    code, found, printed = lint(tmp_path / "data")
    assert code == 0
    assert found == [
        ("coco", "000000.tar", "a2", "duplicate of an image in the same corpus"),
        ("vg", "000000.tar", "b", "duplicate of an image in coco"),
        ("vg", "000000.tar", "c", "duplicate of an image in coco"),
        ("vg", "000000.tar", "b3", "duplicate of an image in coco"),
    ]
    same_as = [json.loads(line)["same_as"] for line in (tmp_path / "listing.jsonl").read_text().splitlines()]
    assert same_as == ["coco/000000.tar/a", "coco/000000.tar/b", "coco/000000.tar/a", "coco/000000.tar/b"]
    assert "duplicates: 1 images of coco (25.0%) occur earlier in it" in printed
    assert "duplicates: 3 images of vg (75.0%) are in coco too" in printed
    assert printed.splitlines()[-1] == "lint: all is well; 8 images in 2 corpora, 4 of them duplicates"
    assert lint(tmp_path / "data", duplicates="fail")[:2] == (1, found)
    assert lint(tmp_path / "data", duplicates="ignore")[:2] == (0, [])


def blocks(number: int, size: tuple[int, int], quality: int = 95) -> bytes:
    colours = np.random.default_rng(number).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=quality)
    return out.getvalue()


def test_images_that_look_like_those_of_an_evaluation(tmp_path, lint):
    pytest.importorskip("imagehash", reason="ImageHash is not installed")
    train = [(str(number), blocks(number, (96, 72)), ["x"], {}) for number in range(8)]
    held_out = [("a", blocks(3, (200, 150), 60), ["x"], {}), ("b", blocks(90, (96, 72)), ["x"], {})]
    write_corpus(tmp_path / "data" / "web", None, train)
    write_corpus(tmp_path / "data" / "test", None, held_out)
    against = [str(tmp_path / "data" / "test")]
    code, found, printed = lint(tmp_path / "data", against=against)
    assert (code, found) == (0, [("web", "000000.tar", "3", "near-duplicate of an image in against")])
    assert "near-duplicates: 1 images of web (12.50%) look like an image in against" in printed
    assert json.loads((tmp_path / "listing.jsonl").read_text())["same_as"] == "test/a"
    assert lint(tmp_path / "data", against=against, duplicates="fail")[0] == 1


def test_long_lists_go_to_a_file(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    edit_manifest(root / "small", image_size=63)
    assert main(["prep", "lint", f"root={root}", "workers=1"]) == 1
    assert "all 60 findings: lint.jsonl" in capsys.readouterr().out
    assert len((tmp_path / "lint.jsonl").read_text().splitlines()) == 60
    (tmp_path / "lint.jsonl").unlink()
    edit_manifest(root / "small", image_size=64)
    assert main(["prep", "lint", f"root={root}", "workers=1"]) == 0
    assert not (tmp_path / "lint.jsonl").exists()


def test_remote_roots(root, tmp_path, lint):
    memory = fsspec.filesystem("memory")
    memory.put(f"{root}/small", "/far/data/small", recursive=True)
    assert lint("memory://far/data", cache_dir=str(tmp_path / "cache"))[:2] == (0, [])
    (cached,) = (tmp_path / "cache").glob("*-000001.tar")
    overwrite(cached, 600, b"damage")
    assert lint("memory://far/data", cache_dir=str(tmp_path / "cache"))[:2] == (0, [])
    assert cached.read_bytes() == (root / "small" / "000001.tar").read_bytes(), "it was fetched again"
    memory.rm("/far", recursive=True)
    overwrite(root / "small" / "000001.tar", 600, b"damage")
    with serving(of_folder(root)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridgetower_train.data.cache.RETRY_DELAYS", (0.01,))
        code, found, _ = lint(f"http://{server}", cache_dir=str(tmp_path / "cache"))
    assert code == 1
    ((corpus, shard, key, reason),) = found
    assert (corpus, shard, key) == ("small", "000001.tar", "")
    assert "SHA-256" in reason


def test_impossible_keys_are_refused(tmp_path, small_corpus):
    with pytest.raises(ConfigError, match=r"root=.*nowhere: no such folder"):
        run(LintConfig(root=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match="has no corpus"):
        run(LintConfig(root=str(tmp_path)))
    with pytest.raises(ConfigError, match="set cache_dir"):
        LintConfig(root="s3://bucket/data")
    with pytest.raises(ConfigError, match="duplicates=drop"):
        LintConfig(root=str(tmp_path), duplicates="drop")
    with pytest.raises(ConfigError, match="tokenizer=nowhere"):
        run(LintConfig(root=str(small_corpus), tokenizer="nowhere"))


def test_a_worker_that_is_killed_is_one_line(root):
    manifest = root / "small" / "manifest.json"
    noted = json.loads(manifest.read_text())
    noted["shards"][1]["bytes"] = 1 << 40  # it takes ten minutes to read it
    manifest.write_text(json.dumps(noted))
    os.truncate(root / "small" / "000001.tar", 1 << 40)
    command = [sys.executable, "-m", "bridgetower_train", "prep", "lint", f"root={root}", "workers=2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 180
    while len(workers) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        workers = [w for child in psutil.Process(process.pid).children() for w in child.children()]
    workers[0].kill()
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert err.startswith("error: a worker process was killed")
    assert err.count("\n") == 1
