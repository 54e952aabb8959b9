"""Annotation files are read, or refused with one message that names key and file."""

import json
from pathlib import Path

import pytest

from bridgetower_train.errors import ConfigError, DataError
from data_prep.source.annotations import number, read_array


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "content", [[], [1], [12345, "a,b]", {"c": [1, [2]], "d": None}, -1.5e10, True, "caf\xe9 \u2028"], [[]] * 50]
)
def test_an_array_is_read_as_json_reads_it(tmp_path: Path, content: list[object], indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(f" {json.dumps(content, indent=indent)}\n")
    found = list(read_array("key", str(path)))
    assert found == content
    assert list(map(type, found)) == list(map(type, content))


def test_an_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{'7, ' * 100_000} broken")
    elements = read_array("key", str(path))
    assert [next(elements) for _ in range(1000)] == [7] * 1000
    with pytest.raises(DataError, match=r"key=.*a.json: is not a JSON array in UTF-8"):
        list(elements)


BROKEN = ["", "{}", "7", "[", "[1", "[1,", "[1 2]", "[1, x]", '["a', "[1]]", '[{"a": 1]', "[\udcff]"]
DEEP = ["[" * 100_000, '[{"a":' * 50_000]


@pytest.mark.parametrize("text", BROKEN + DEEP)
def test_a_broken_array_is_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=r"^key=.*a.json: is not a JSON array in UTF-8 \(.+\)$"):
        list(read_array("key", str(path)))


def test_a_missing_array_is_an_error_of_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"key=.*nowhere: cannot be read \(No such file"):
        list(read_array("key", str(tmp_path / "nowhere")))


def test_an_array_in_an_object_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"info": {"items": [9]}, "items": [{"a": 1}, 2], "others": [3]}')
    assert list(read_array("key", str(path), "items")) == [{"a": 1}, 2]
    assert list(read_array("key", str(path), "none")) == []
    for text in ("", "[1]", '{"items": [1', '{"items": [' + "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DataError, match=r"key=.*a\.json: is not a JSON object in UTF-8"):
            list(read_array("key", str(path), "items"))


def test_an_id_is_a_number_of_64_bits() -> None:
    assert [number(value) for value in (7, "007", -1, 2**63 - 1)] == [7, 7, -1, 2**63 - 1]
    for value in (True, 2**63, "1" * 19, "-1", "x", 1.0, None, [1]):
        with pytest.raises(TypeError, match="is not an id"):
            number(value)
