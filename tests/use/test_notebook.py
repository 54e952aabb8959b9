"""docs/model.ipynb: its cells run, with smaller sizes.

They are executed in this process, in one namespace: nbclient would need a kernel, that is ipykernel and some twenty
packages, and nothing in the notebook is IPython's.
"""

import json
from typing import Any

from tests.tiny import TINY
from tests.training.runs import ROOT

NOTEBOOK = ROOT / "docs" / "model.ipynb"
SMALLER = f"RECORDS, HELD_OUT, KEYS = 48, 32, {[*TINY, 'data.workers=0', 'run_dir=runs/notebook', 'steps=2']}"


def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = json.loads(NOTEBOOK.read_text())
    names: dict[str, Any] = {}
    for number, cell in enumerate(cell for cell in content["cells"] if cell["cell_type"] == "code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        is_sizes = "parameters" in cell["metadata"].get("tags", ())
        exec(compile(SMALLER if is_sizes else "".join(cell["source"]), f"cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert len(names["found"]["results"]) == 5
    assert names["found"]["calibration"].startswith("expected calibration error")
    assert f"{names['right']} of 16" in printed
