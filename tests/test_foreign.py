"""Files of others: bounded, regular, inside their folder, of the expected shape, and always one line of error."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bridgetower_train.errors import FileError
from bridgetower_train.foreign import inside, open_regular, parse_json, read_bytes, read_json


@dataclass
class Shard:
    name: str
    bytes: int
    notes: dict[str, float] = field(default_factory=dict)


def test_json_is_read_as_its_shape(tmp_path):
    (tmp_path / "x.json").write_text('[{"name": "a", "bytes": 3, "notes": {"loss": 1}, "later": []}]')
    assert read_json(tmp_path / "x.json", list[Shard]) == [Shard("a", 3, {"loss": 1.0})]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 200_000,
        "{}",
        "null",
        '{"name": "a", "bytes": "3"}',
        '{"name": "a", "bytes": 1e400}',
        '{"name": "a", "bytes": NaN}',
        f'{{"name": "a", "bytes": {"9" * 5000}}}',
        '{"name": "\\ud800", "bytes": 3}',
        '{"name": "a", "bytes": 3, "notes": {"' + "k" * 5000 + '": "x"}}',
        "\xff",
    ],
)
def test_anything_else_is_one_line_that_names_the_file(text):
    with pytest.raises(FileError, match=r"^run/x\.json: .{1,300}$"):
        parse_json(text.encode("latin-1"), Shard, "run/x.json")


def test_a_file_larger_than_its_limit_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(FileError, match="more than 4 bytes"):
        read_bytes(tmp_path / "x", 4)


def test_what_would_block_or_never_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(FileError, match="not a regular file"):
            open_regular(path)


def test_names_stay_inside_and_links_lead_out_only_if_the_user_says_so(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").touch()
    (folder / "sub" / "b.jpg").symlink_to("../a.jpg")
    (tmp_path / "private").mkdir()
    (folder / "out").symlink_to(tmp_path / "private")
    (tmp_path / "link").symlink_to(folder)
    for name in ("a.jpg", "sub/b.jpg", "sub/../a.jpg", "missing"):
        assert inside(tmp_path / "link", name) == tmp_path / "link" / os.path.normpath(name)
    for name in ("../x.jpg", "/etc/passwd", "sub/../../x", "..", "a\0b"):
        with pytest.raises(FileError, match="leads outside the folder"):
            inside(folder, name, follow_links=True)
    with pytest.raises(FileError, match=r"data\.follow_links=true"):
        inside(folder, "out/x.jpg", key="data.follow_links")
    assert inside(folder, "out/x.jpg", follow_links=True) == folder / "out/x.jpg"
