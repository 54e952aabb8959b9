"""`bridgetower bench data`: every figure is measured. How large they are is not for a test."""

import subprocess
import sys

import numpy as np
import simplejpeg

from bridgetower_train.bench.data import BenchDataConfig, bench_data, make_corpus, synthetic_photo


def test_all_figures_are_measured():
    figures = bench_data(BenchDataConfig(image_size=64, batch=16, records=400, rounds=1, huge_records=20_000))
    assert set(figures) == {
        *("bare", "ours", "webdataset", "webdataset_uint8"),
        *("of_bare", "of_webdataset", "of_webdataset_uint8"),
        *("jpeg_kb", "worker_mb_start", "worker_mb_end", "open_s"),
    }
    assert all(figure > 0 for figure in figures.values())
    assert figures["ours"] < figures["bare"]


def test_it_takes_a_corpus_and_prints_a_table(tmp_path):
    corpus = make_corpus(tmp_path, 64, images=8, records=100)
    command = [sys.executable, "-m", "bridgetower_train", "bench", "data", f"corpus={corpus}", "image_size=64"]
    small = ["batch=16", "records=200", "rounds=1", "huge_records=5000"]
    done = subprocess.run([*command, *small], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    for line in (
        "bare libjpeg-turbo",
        "this loader",
        "webdataset, Pillow",
        "memory of a worker",
        "first batch of 5000",
    ):
        assert line in done.stdout


def test_synthetic_images_weigh_and_differ_as_photographs_do():
    jpegs = [synthetic_photo(number, 294) for number in range(6)]
    assert all(30_000 < len(jpeg) < 62_000 for jpeg in jpegs)
    assert len(set(jpegs)) == 6
    shapes = {simplejpeg.decode_jpeg(jpeg).shape for jpeg in jpegs}
    assert shapes == {(294, 392, 3), (392, 294, 3)}
    assert all(np.std(simplejpeg.decode_jpeg(jpeg)) > 30 for jpeg in jpegs)
