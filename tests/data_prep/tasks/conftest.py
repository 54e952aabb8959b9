"""Files of tasks about drawn images, written once."""

from pathlib import Path

import pytest

from data_prep.shapes.corpus import TASKS, ShapesConfig, run


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files of tasks that `prep shapes tasks=true` writes."""
    out = tmp_path_factory.mktemp("drawn")
    run(ShapesConfig(out=str(out), records=160, heldout=48, size=32, tasks=True, workers=1))
    return out / TASKS
