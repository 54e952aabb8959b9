"""`bridgetower ablate` with a handful of steps."""

import pytest

from bridgetower_train.cli import main
from bridgetower_train.commands import ablate, ablate_tasks
from bridgetower_train.commands.ablate import VARIANTS
from bridgetower_train.weights.saved import read_config
from tests.tiny import TINY


@pytest.mark.slow
def test_every_variant_comes_into_the_tables(shapes_root, tmp_path, monkeypatch, capsys):
    """In one process: each of these commands is shorter than the start of Python."""
    monkeypatch.setattr(ablate, "run_job", lambda *arguments: main([*arguments]))
    tiny = ",".join(override for override in TINY if not override.startswith("device="))
    overrides = (
        f"overrides=['{tiny.replace(',', chr(39) + ',' + chr(39))}','steps=1','validation.every=0','device=cpu']"
    )
    out = tmp_path / "docs" / "results.md"
    wide = tmp_path / "wide"
    assert (
        main(["prep", "shapes", f"out={wide}", "aspect=1.5", "records=96", "heldout=32", "size=32", "workers=1"]) == 0
    )
    keys = [f"data={shapes_root}", f"wide={wide}", f"runs={tmp_path}/runs", f"out={out}", "seeds=[0]", "rerank=4"]
    assert main(["ablate", *keys, overrides]) == 0
    tables = {}
    for part in out.read_text().split("\n## ")[1:]:
        title, *rows = part.splitlines()
        tables[title] = [row.split(" | ")[0].strip("| ") for row in rows if row.startswith(("| all", "| without"))]
    assert tables == {
        "Work": [*VARIANTS],
        "Matching": [name for name in VARIANTS if name != "without ITM"],
        "Masked words": [name for name in VARIANTS if name != "without MLM"],
        "Retrieval by ITC": [name for name in VARIANTS if name != "without ITC"],
        "Retrieval, re-ranked by ITM": [name for name in VARIANTS if name not in ("without ITM", "without ITC")],
    }
    assert read_config(tmp_path / "runs" / "all_three_wide_images_squashed-0").data.square == "squash"
    said, page = capsys.readouterr().out, out.read_text()
    evaluated = (tables[title] for title in ("Matching", "Masked words", "Retrieval by ITC"))
    assert said.count("$ bridgetower eval ") == sum(map(len, evaluated))
    keys[-1] = "rerank=2"  # nothing else is evaluated again
    assert main(["ablate", *keys, overrides]) == 0
    assert capsys.readouterr().out.count("$ bridgetower eval ") == len(tables["Retrieval, re-ranked by ITM"])
    again = out.read_text().replace("best 2 ", "best 4 ")
    assert again.split("## Retrieval, re")[0] == page.split("## Retrieval, re")[0]


@pytest.mark.slow
def test_the_tasks_come_into_their_tables(tmp_path, monkeypatch):
    """In one process: each of these commands is shorter than the start of Python."""
    root, out = tmp_path / "data", tmp_path / "results.md"
    small = ["records=192", "heldout=64", "size=64", "workers=1"]
    assert main(["prep", "shapes", f"out={root}", "tasks=true", "simple=true", *small]) == 0
    # What is prepared already stays, since the same command resumes.
    monkeypatch.setattr(ablate_tasks, "preparations", with_keys(ablate_tasks.preparations, small))
    monkeypatch.setattr(ablate, "run_job", lambda *arguments: main([*arguments]))
    tiny = [key for key in TINY if not key.startswith(("device=", "model.image_size", "model.patch_size"))]
    keys = [*tiny, "steps=2", "model.patch_size=16", "validation.every=1", "validation.samples=8", "device=cpu"]
    overrides = f"overrides=[{','.join(repr(key) for key in keys)}]"
    keys = ["tasks=true", f"data={root}", f"runs={tmp_path}/runs", f"out={out}", "seeds=[0]", overrides]
    assert main(["ablate", *keys]) == 0
    page = out.read_text()
    for task in ablate_tasks.TASKS:
        assert f"## `{task}`" in page
    assert page.count("| pretrained as the demo, blind | 1 | ") == 3
    assert page.count("| from random weights | 1 | ") == 1
    assert "| seeds | accuracy | accuracy, number | accuracy, other | accuracy, yes/no | time in training |" in page
    assert page.count("|  | 1 | 2 |") == 3  # accuracy by step
    assert str(tmp_path) not in page


def with_keys(preparations, more: list[str]):
    """The same preparations, the drawing with more keys."""
    return lambda data: [[*command, *more] if command[1] == "shapes" else command for command in preparations(data)]
