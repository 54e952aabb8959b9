"""`bridgetower bench save` on a tiny model."""

import re

from bridgetower_train.cli import main

TINY = [
    "device=cpu", "model=tiny", "model.image_size=32", "model.patch_size=16", "model.width=64", "model.vision_layers=1",
    "model.text_layers=1", "model.fusion_layers=1", "model.text_positions=64",
]  # fmt: skip


def test_prints_speeds_and_stall_and_leaves_nothing(tmp_path, capsys):
    assert main(["bench", "save", *TINY, f"folder={tmp_path}", "times=3", "repeats=1"]) == 0
    printed = capsys.readouterr().out
    written, held = map(float, re.search(r"checkpoint +([\d.]+) GB, of ([\d.]+) GB", printed).groups())
    assert 0 < held < written <= 3.2 * held
    for part in ("disk  ", "write  ", "beside training", "verify  ", "stall  ", "beside a write"):
        assert part in printed
    assert not list(tmp_path.iterdir())
