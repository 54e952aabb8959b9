"""The folder of compiled graphs, and what the vendor's package is told about it."""

import os
from pathlib import Path

import pytest

from bridgetower_train.devices import recipe_cache
from bridgetower_train.devices.recipe_cache import VARIABLE, keep_recipes
from bridgetower_train.errors import ConfigError, FileError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Without the variable, before and after."""
    monkeypatch.setenv(VARIABLE, "")
    del os.environ[VARIABLE]


@pytest.mark.parametrize(
    ("kind", "software", "expected"),
    [
        ("ext4", "1.20.0", "{},false,8192"),
        ("ext4", "1.24.0", "{},false,8192"),
        ("nfs4", "1.24.0", "{},false,8192,true"),
        ("lustre", "1.21.1", "{},false,8192,true"),
        ("nfs4", "1.20.1", "{}/rank-3,false,8192"),
        ("nfs4", None, "{}/rank-3,false,8192"),
    ],
)
def test_ranks_share_it_where_the_release_allows(tmp_path, monkeypatch, kind, software, expected):
    monkeypatch.setattr(recipe_cache, "file_system", lambda path, mounts: kind)
    folder = tmp_path / "run" / "recipes"
    keep_recipes(str(folder), software, 3)
    assert os.environ[VARIABLE] == expected.format(folder)
    assert Path(os.environ[VARIABLE].partition(",")[0]).is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_environment_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "/mine,false,100")
    keep_recipes(str(tmp_path / "recipes"), "1.24.0", 0)
    assert os.environ[VARIABLE] == "/mine,false,100"
    assert not (tmp_path / "recipes").exists()


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match=r"device\.recipe_cache=.*others can write to it; .* or set null"):
        keep_recipes(str(folder), "1.24.0", 0)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(FileError, match="is a link"):
        keep_recipes(str(link), "1.24.0", 0)
    with pytest.raises(ConfigError, match="separates fields by commas"):
        keep_recipes(str(tmp_path / "a,b"), "1.24.0", 0)
    assert VARIABLE not in os.environ
