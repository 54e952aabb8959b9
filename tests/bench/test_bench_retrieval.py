"""`bridgetower bench retrieval` on a handful of images."""

from bridgetower_train.cli import main


def test_prints_times_and_memory(capsys):
    keys = ["images=12", "captions=2", "repeats=1", "rerank=3", "batch=8", "device=cpu", "model.image_size=32"]
    assert main(["bench", "retrieval", *keys]) == 0
    printed = capsys.readouterr().out
    for part in ("12 x 24", "times the product", "best 3 re-ranked", "GB at most"):
        assert part in printed
