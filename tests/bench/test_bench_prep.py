"""`bridgetower bench prep`: every figure is measured. How large they are is not for a test."""

import subprocess
import sys

from PIL import Image

from bridgetower_train.bench.prep import BenchPrepConfig, bench_prep


def test_it_measures_and_prints(tmp_path):
    for number in range(3):
        Image.effect_noise((80, 60 + number), 30).convert("RGB").save(tmp_path / f"{number}.jpg")
    figures = bench_prep(BenchPrepConfig(images=str(tmp_path), records=512, size=32, workers=1))
    assert set(figures) == {"kb", "bare", "prep_1"}
    assert 0 < figures["prep_1"] < figures["bare"]
    command = [
        sys.executable,
        "-m",
        "bridgetower_train",
        "bench",
        "prep",
        f"images={tmp_path}",
        "records=512",
        "size=32",
    ]
    done = subprocess.run([*command, "workers=2"], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    for line in ("bare decode, resize, encode", "prep,  1 at work", "prep,  2 at work", "target 0.8"):
        assert line in done.stdout
    done = subprocess.run([*command, "images=nowhere"], capture_output=True, text=True, timeout=400, check=False)
    assert (done.returncode, done.stderr) == (1, "error: images=nowhere: holds no .jpg\n")
