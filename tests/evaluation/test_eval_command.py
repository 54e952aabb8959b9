"""`bridgetower eval` and `report` on a real run."""

import json

from bridgetower_train.cli import main
from tests.training.runs import TINY

FIGURES = {
    "image-text matching accuracy",
    "masked word accuracy",
    "masked word accuracy, picture blanked",
    "image to text R@1 among 32",
    "text to image R@1 among 32",
}


def test_a_run_is_evaluated_and_reported(shapes_root, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", *TINY, f"data.root={shapes_root}", f"run_dir={run_dir}", "steps=2"]) == 0
    assert main(["eval", f"run_dir={run_dir}"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((run_dir / "eval.json").read_text())
    assert set(found["figures"]) == FIGURES
    assert all(0 <= value <= 1 and name in printed for name, value in found["figures"].items())
    assert len(found["examples"]) == 12
    assert all(sum(r["right"] for r in example["results"]) <= 1 for example in found["examples"])
    assert main(["eval", f"run_dir={run_dir}", "corpus=shapes", "samples=16"]) == 0
    assert main(["report", f"run_dir={run_dir}"]) == 0
    assert (run_dir / "report.html").stat().st_size > 10_000


def test_what_cannot_be_evaluated_says_so(shapes_root, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", *TINY, f"data.root={shapes_root}", f"run_dir={run_dir}", "steps=1"]) == 0
    capsys.readouterr()
    assert main(["eval", f"run_dir={run_dir}", "corpus=shapes_heldou"]) in (1, 2)
    assert "shapes_heldout" in capsys.readouterr().err
    (run_dir / "checkpoints" / "step-00000001" / "manifest.json").unlink()
    assert main(["eval", f"run_dir={run_dir}"]) == 1
    assert "no whole checkpoint" in capsys.readouterr().err
