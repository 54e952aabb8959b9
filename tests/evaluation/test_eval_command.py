"""`bridgetower eval` and `report` on a real run."""

import json
import shutil

from bridgetower_train.cli import main
from tests.training.runs import train_here

FIGURES = {
    "image-text matching accuracy",
    "probe word accuracy",
    "probe word accuracy, image blanked",
    "image to text R@1 among 32",
    "text to image R@1 among 32",
}


def evaluations(run_dir):
    return json.loads((run_dir / "eval.json").read_text())["evaluations"]


def test_a_run_is_evaluated_and_reported(shapes_root, tmp_path, capsys):
    run_dir = tmp_path / "run"
    train_here(shapes_root, run_dir, "steps=2")
    trained = capsys.readouterr().out
    assert "TFLOP to go" not in trained
    assert f"saved     {run_dir}/checkpoints/step-00000002\nfigures   loss " in trained
    next_commands = f"next      bridgetower eval run_dir={run_dir}\n          bridgetower report run_dir={run_dir}\n"
    assert trained.endswith(next_commands)
    assert main(["eval", f"run_dir={run_dir}"]) == 0
    printed = capsys.readouterr().out
    found = evaluations(run_dir)["overview on shapes_heldout"]
    assert found["step"] == 2
    assert found["protocol"]["model"] == "trained on this data set: trained on shapes"
    assert found["protocol"]["trained on it"] == "no"
    assert found["figures"].keys() == FIGURES
    assert all(0 <= value <= 1 and name in printed for name, value in found["figures"].items())
    assert len(found["examples"]) == 12
    assert all(sum(r["right"] for r in example["results"]) <= 1 for example in found["examples"])
    assert main(["eval", f"run_dir={run_dir}", "corpus=shapes", "samples=16"]) == 0
    assert main(["report", f"run_dir={run_dir}"]) == 0
    assert (run_dir / "report.html").stat().st_size > 10_000


def test_figures_on_what_a_model_was_trained_on_say_so(shapes_root, tmp_path, capsys):
    """Under whatever name and wherever it lies; the card of an export repeats it."""
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    train_here(shapes_root, run_dir, "steps=1")
    shutil.copytree(shapes_root / "shapes", elsewhere / "another")
    shutil.copytree(shapes_root / "shapes_heldout", elsewhere / "shapes")
    said = {}
    for root, corpus in ((shapes_root, "shapes"), (elsewhere, "another"), (elsewhere, "shapes")):
        assert main(["eval", f"run_dir={run_dir}", f"root={root}", f"corpus={corpus}", "samples=16"]) == 0
        said[root.name, corpus] = evaluations(run_dir)[f"overview on {corpus}"]["protocol"]["trained on it"]
        assert said[root.name, corpus] in capsys.readouterr().out
        out = tmp_path / f"exported-{len(said)}"
        assert main(["export", f"run_dir={run_dir}", f"out={out}"]) == 0
        (run_dir / "eval.json").unlink()
        card = (out / "README.md").read_text()
        assert ("which it was trained on: these figures show what it learned by heart" in card) == (
            corpus != "shapes" or root == shapes_root
        )
        assert "held-out" not in card
    learned = "yes, as shapes: these figures show what it learned by heart"
    assert list(said.values()) == [learned, learned, "no"]


def test_what_cannot_be_evaluated_says_so(shapes_root, tmp_path, capsys):
    run_dir = tmp_path / "run"
    train_here(shapes_root, run_dir, "steps=1")
    capsys.readouterr()
    assert main(["eval", f"run_dir={run_dir}", "corpus=shapes_heldou"]) in (1, 2)
    assert "shapes_heldout" in capsys.readouterr().err
    (run_dir / "checkpoints" / "step-00000001" / "manifest.json").unlink()
    assert main(["eval", f"run_dir={run_dir}"]) == 1
    assert "no complete checkpoint" in capsys.readouterr().err


def test_masked_words_and_matching(run_dir, shapes_root, capsys):
    assert main(["eval", "masked_lm", f"run_dir={run_dir}", "samples=24"]) == 0
    assert main(["eval", "matching", f"run_dir={run_dir}", "samples=24"]) == 0
    printed = capsys.readouterr().out
    found = evaluations(run_dir)
    assert set(found) == {"masked words on shapes_heldout", "matching on shapes_heldout"}
    for entry in found.values():
        assert entry["protocol"]["images"] == 24
        assert all(name in printed for name in [*entry["protocol"], *entry["figures"]])
    words = found["masked words on shapes_heldout"]["figures"]
    assert len({words["perplexity"], words["perplexity, image blanked"], words["perplexity, image swapped"]}) == 3


def test_what_a_run_was_not_trained_for_is_not_asked(shapes_root, tmp_path, capsys):
    run_dir = tmp_path / "run"
    keys = ["objective.mlm=0", "objective.itm=0", "steps=1"]
    train_here(shapes_root, run_dir, *keys)
    for command, head in (("masked_lm", "mlm_score"), ("matching", "itm_score")):
        assert main(["eval", command, f"run_dir={run_dir}"]) == 2
        assert f"was trained without {head}" in capsys.readouterr().err
    assert main(["eval", f"run_dir={run_dir}"]) == 0
    printed = capsys.readouterr().out
    assert "R@1 among 32" in printed
    assert "accuracy" not in printed
