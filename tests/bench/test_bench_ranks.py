"""`bridgetower bench ranks` on a tiny model."""

from bridgetower_train.cli import main

TINY = [
    "device=cpu", "model.image_size=32", "model.patch_size=16", "model.width=64", "model.vision_layers=1",
    "model.text_layers=1", "model.fusion_layers=1", "batch=2", "steps=1", "repeats=1",
]  # fmt: skip


def test_prints_a_line_for_each_number_of_ranks(capfd):
    assert main(["bench", "ranks", *TINY, "ranks=[1,2]"]) == 0
    lines = capfd.readouterr().out.splitlines()[-2:]
    assert [line.split()[0] for line in lines] == ["1", "2"]
    for line in lines:
        figures = [float(word) for word in line.split()[1:] if not word.endswith("%")]
        assert len(figures) == 6
        assert all(figure > 0 for figure in figures)


def test_no_ranks_are_refused(capsys):
    assert main(["bench", "ranks", "ranks=[]"]) == 2
    assert "ranks=[1,2]" in capsys.readouterr().err
