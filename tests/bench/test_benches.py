"""Each benchmark once, as small as it gets: all figures are measured and agree with each other. Their size is not tested."""

import pytest
from PIL import Image

from bridgetower_train.bench.peers import PEERS
from bridgetower_train.cli import main
from bridgetower_train.versions import installed_version
from data_prep.shapes.synthetic import synthetic_corpus


def test_data(bench, tmp_path):
    corpus = synthetic_corpus(tmp_path / "corpora" / "small", 64, images=8, records=100)
    keys = ("image_size=64", "batch=16", "records=200", "rounds=1", "huge_records=5000")
    missing = [name for name, package in PEERS.items() if installed_version(package) is None]
    figures = bench("data", f"corpus={corpus}", *keys, without=[*missing, *(f"of_{name}" for name in missing)])
    for reader in ("bare", "webdataset_float32", "webdataset_uint8"):
        assert figures[f"of_{reader}"] == pytest.approx(figures["ours"] / figures[reader])
    assert 0 < figures["ours"] < figures["bare"]
    assert figures["worker"] > 0
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
    figures = bench("prep", *keys, without=("stream", "stream_of_bare"))
    assert 0 < figures["one"] < figures["bare"]
    assert 0 < figures["tars"] < figures["bare"]
    for job in ("one", "several", "tars"):
        assert figures[f"{job}_of_bare"] == pytest.approx(figures[job] / figures["bare"])
    size = sum(path.stat().st_size for path in images.iterdir()) / 3
    assert figures["jpeg_kb"] == pytest.approx(size / 1e3)


def test_attention(bench):
    keys = (
        "device.name=cpu",
        "device.precision=fp32",
        "batch=1",
        "heads=1",
        "image_tokens=6",
        "text_tokens=4",
        "repeats=1",
    )
    figures = bench("attention", *keys, without={"efficient", "cudnn"})
    assert figures["forward"].keys() == figures["both"].keys()
    assert {*figures["both"]["image tower"]} == {"device", "flash", "math"}
    assert {*figures["both"]["text tower"]} == {"device", "math"}, "no kernel of the CPU drops"
    assert all(speed > 0 for table in figures.values() for row in table.values() for speed in row.values())


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


@pytest.mark.nightly
def test_watchdog(bench):
    figures = bench("watchdog", "ranks=20", "seconds=1", "timeout=10")
    assert figures["ranks"] == 20
    assert figures["ms_per_report"] == pytest.approx(1000 * figures["cores"] / 20)
    assert figures["cores"] > 0


def test_memory(bench, tiny):
    figures = bench("memory", *tiny, "batch=8")
    parts = [f"planned_{part}_gb" for part in ("weights", "copies", "gradients", "optimizer", "activations")]
    assert figures["planned_gb"] == pytest.approx(sum(figures[part] for part in parts))
    assert figures["planned_of_measured"] == pytest.approx(figures["planned_gb"] / figures["measured_gb"])


def test_embed(bench, tiny):
    figures = bench("embed", *tiny, "images=8", "batch=4", "rounds=1")
    assert figures["of_bare"] == pytest.approx(figures["embed"] / figures["bare"])


def test_search(bench):
    figures = bench("search", "count=500", "width=8", "rounds=2", "threads=1", "dtype=float16")
    assert 0 < figures["ms"] <= figures["most_ms"]
    assert figures["index_mb"] == 500 * 8 * 2 / 1e6
    assert figures["threads"] == 1
