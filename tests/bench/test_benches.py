"""Each benchmark once, as small as it gets: all figures are measured and agree with each other. Their size is not tested."""

import pytest
from PIL import Image

from bridgetower_train.bench import fetch
from bridgetower_train.bench.fault_server import kinds
from bridgetower_train.cli import main
from data_prep.shapes.synthetic import synthetic_corpus


def test_data(bench, tmp_path):
    corpus = synthetic_corpus(tmp_path / "corpora" / "small", 64, images=8, records=100)
    keys = ("image_size=64", "batch=16", "records=200", "rounds=1", "huge_records=5000")
    figures = bench("data", f"corpus={corpus}", *keys)
    for reader in ("bare", "webdataset_float32", "webdataset_uint8"):
        assert figures[f"of_{reader}"] == pytest.approx(figures["ours"] / figures[reader])
    assert 0 < figures["ours"] < figures["bare"]
    assert figures["worker_mb"] > abs(figures["worker_growth_mb"])
    assert figures["open_s"] > 0
    assert 1 < figures["jpeg_kb"] < 50


def test_prep(bench, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    keys = (f"images={images}", "records=512", "size=32", "workers=2")
    assert main(["bench", "prep", *keys]) == 1
    assert f"images={images}: there is no .jpg in it" in capsys.readouterr().err
    for number in range(3):
        Image.effect_noise((80, 60 + number), 30).convert("RGB").save(images / f"{number}.jpg")
    figures = bench("prep", *keys)
    assert 0 < figures["one"] < figures["bare"]
    for job in ("one", "several"):
        assert figures[f"{job}_of_bare"] == pytest.approx(figures[job] / figures["bare"])
    size = sum(path.stat().st_size for path in images.iterdir()) / 3
    assert figures["jpeg_kb"] == pytest.approx(size / 1e3)


def test_fetch(bench, monkeypatch):
    wrong = kinds()["gzip"]._replace(state="timeout")  # in truth it succeeds
    monkeypatch.setattr(fetch, "kinds", lambda: kinds() | {"gzip": wrong})
    keys = ("urls=40", "hosts=5", "size=64", "workers=1", "deadline=3")
    figures = bench("fetch", *keys, code=1, without={"ours", "img2dataset", "of_img2dataset"})
    assert figures["wrong_states"] == 4  # two in each list
    good, mixed = figures["lists"]["good"], figures["lists"]["mixed"]
    assert figures["mixed_of_good"] == pytest.approx(mixed["s"] / good["s"])
    for row in (good, mixed):
        assert row["images_per_s"] * row["s"] == pytest.approx(20)  # half of the URLs
        assert row["of_bare"] == pytest.approx(20 / row["cpu_s"] / figures["bare"])
        assert min(row.values()) > 0


def test_scale(bench, tmp_path, capsys):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    keys = ("records=100000", "world_size=16", "shuffle_window=512", "walked=50")
    figures = bench("scale", *keys, f"scratch={scratch}")
    assert figures["shards"] == 100
    assert figures["index_mb"] == pytest.approx(3.4)
    assert figures["windows"] == 13  # 6,250 samples in windows of 512
    assert figures["fetched_of_due"] == 1
    assert figures["first_gb"] == pytest.approx(0.045 * figures["first_shards"])
    assert all(value > 0 for name, value in figures.items() if name.endswith(("_s", "_us")))
    assert not list(scratch.iterdir())
    assert main(["bench", "scale", *keys, "scratch=/proc"]) == 2
    assert "scratch=/proc: cannot be written" in capsys.readouterr().err


def test_retrieval(bench):
    keys = ("images=12", "captions=2", "repeats=1", "rerank=3", "batch=8", "device=cpu", "model.image_size=32")
    figures = bench("retrieval", *keys)
    assert figures["of_product"] == pytest.approx(figures["ranking_s"] / figures["product_s"])
    assert min(figures.values()) > 0


def test_save(bench, tiny, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    figures = bench("save", *tiny, f"folder={folder}", "times=3", "repeats=1")
    speeds = {name: row["median"] for name, row in figures["speeds"].items()}
    assert all(row["least"] == row["median"] == row["most"] > 0 for row in figures["speeds"].values())  # one round
    assert figures["checkpoint_gb"] == pytest.approx(3 * figures["copied_gb"])
    assert figures["alone_of_disk"] == pytest.approx(speeds["alone"] / speeds["disk_write"])
    assert figures["beside_of_disk"] == pytest.approx(speeds["beside"] / speeds["disk_write"])
    assert figures["verify_of_disk"] == pytest.approx(speeds["verify"] / speeds["disk_read"])
    write_s = 1e3 * figures["checkpoint_gb"] / speeds["beside"]
    assert figures["stall_of_write"] == pytest.approx(3 * figures["stall_s"] / write_s)
    assert figures["steps_beside"] >= 1
    assert min(figures["step_s"], figures["step_beside_s"]) > 0
    assert not list(folder.iterdir())


def test_ranks(bench, tiny, capsys):
    steps = bench("ranks", *tiny, "batch=2", "steps=1", "repeats=1", "ranks=[2]")["steps"]
    assert list(steps) == ["bare_2", "engine_2", "loop_2"]
    bare, *others = steps.values()
    assert min(bare["s"], bare["cpu_s"]) > 0
    for step in others:
        assert step["over_bare"] == pytest.approx(step["s"] / bare["s"] - 1)
        assert step["cpu_over_bare"] == pytest.approx(step["cpu_s"] / bare["cpu_s"] - 1)
    assert main(["bench", "ranks", "ranks=[]"]) == 2
    assert "ranks=[1,2]" in capsys.readouterr().err


def test_memory(bench, tiny):
    figures = bench("memory", *tiny, "batch=8")
    parts = [f"planned_{part}_gb" for part in ("weights", "copies", "gradients", "optimizer", "activations")]
    assert figures["planned_gb"] == pytest.approx(sum(figures[part] for part in parts))
    assert figures["planned_of_measured"] == pytest.approx(figures["planned_gb"] / figures["measured_gb"])
