"""Fixtures of runs that something happens to."""

import pytest

from tests.training.runs import ROOT


@pytest.fixture
def customised(tmp_path):
    """The environment in which Python runs a source first."""

    def customised(source: str, **env: str) -> dict[str, str]:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(source)
        return {"PYTHONPATH": f"{folder}:{ROOT}", **env}

    return customised
