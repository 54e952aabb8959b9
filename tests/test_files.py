"""Files that are there whole or not at all."""

import re
from pathlib import Path

import pytest

from bridgetower_train.files import write_whole


def test_what_is_there_stays_until_the_new_is_whole(tmp_path, monkeypatch):
    file = tmp_path / "page.html"
    write_whole(file, "old")
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail(f"{sorted(p.name for p in tmp_path.iterdir())}"))
    with pytest.raises(pytest.fail.Exception, match=re.escape("['page.html', 'page.html.tmp']")):
        write_whole(file, "new")
    assert file.read_text() == "old"


def test_half_a_surrogate_pair_can_be_written(tmp_path):
    write_whole(tmp_path / "page.html", "a\ud800b 猫")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text("utf-8") == "a?b 猫"
