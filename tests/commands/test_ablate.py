"""`bridgetower ablate` with a handful of steps."""

import os

import pytest

from bridgetower_train.cli import main
from tests.tiny import TINY
from tests.training.runs import ROOT


@pytest.mark.slow
@pytest.mark.nightly
def test_every_variant_comes_into_the_tables(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    tiny = ",".join(override for override in TINY if not override.startswith("device="))
    overrides = (
        f"overrides=['{tiny.replace(',', chr(39) + ',' + chr(39))}','steps=1','validation.every=0','device=cpu']"
    )
    out = tmp_path / "docs" / "results.md"
    keys = [f"data={shapes_root}", f"runs={tmp_path}/runs", f"out={out}", "seeds=[0]", "rerank=4"]
    assert main(["ablate", *keys, overrides]) == 0
    tables = {}
    for part in out.read_text().split("\n## ")[1:]:
        title, *rows = part.splitlines()
        tables[title] = [row.split(" | ")[0].strip("| ") for row in rows if row.startswith(("| all", "| without"))]
    hard = ["all three, hard ITM negatives", "all three, then as long with hard ITM negatives"]
    assert tables["Work"] == ["all three", "without MLM", "without ITM", "without ITC", *hard]
    assert tables["Matching"] == ["all three", "without MLM", "without ITC", *hard]
    assert tables["Masked words"] == ["all three", "without ITM", "without ITC", *hard]
    assert tables["Retrieval by ITC"] == ["all three", "without MLM", "without ITM", *hard]
    assert tables["Retrieval, re-ranked by ITM"] == ["all three", "without MLM", *hard]
