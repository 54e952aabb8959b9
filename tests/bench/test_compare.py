"""Two results of a benchmark, compared."""

import json

import pytest

from bridgetower_train.cli import main

FIGURES = {"steps": {"joint": {"s": 1.0, "pairs_per_s": 2.0}}, "memory_gb": 10.0, "parameters": 7}


def written(path, figures, bench="step"):
    path.write_text(json.dumps({"bench": bench, "machine": {"cores": 2}, "config": {"batch": 2}, "figures": figures}))
    return path


def compare(capsys, base, new, *more):
    code = main(["bench", "compare", f"base={base}", f"new={new}", *more])
    return code, capsys.readouterr()


def test_what_is_worse_is_named(tmp_path, capsys):
    base = written(tmp_path / "a.json", FIGURES)
    new = {"steps": {"joint": {"s": 1.2, "pairs_per_s": 1.7}}, "memory_gb": 9.0, "parameters": 9}
    code, said = compare(capsys, base, written(tmp_path / "b.json", new))
    assert code == 1
    worse = [line.split()[:2] for line in said.out.splitlines() if line.endswith("  worse")]
    assert worse == [["steps", "joint"], ["steps", "joint"]]
    assert said.out.endswith("2 of 4 figures are worse by more than 5%\n")
    assert compare(capsys, base, tmp_path / "b.json", "tolerance=0.3")[0] == 0
    assert compare(capsys, base, base)[0] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no file that"),
        ('{"bench": "step"}', "is no file that"),
        ('{"bench": "data", "machine": {}, "config": {}, "figures": {}}', "is of bench data"),
        ('{"bench": "step", "machine": {}, "config": {}, "figures": {"other": 1}}', "has no figure of base"),
    ],
)
def test_what_cannot_be_compared(tmp_path, capsys, content, said):
    (tmp_path / "b.json").write_text(content)
    code, printed = compare(capsys, written(tmp_path / "a.json", FIGURES), tmp_path / "b.json")
    assert code == 2
    assert said in printed.err
    assert "Traceback" not in printed.err
