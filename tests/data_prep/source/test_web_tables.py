"""CC3M, CC12M and SBU as they are published, and as they may be broken."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgetower_train.errors import ConfigError, DataError, FileError
from data_prep.corpora import conceptual, sbu
from data_prep.corpora.sbu import SbuTable
from data_prep.source import tsv
from data_prep.source.repeats import Repeats, hash_urls
from data_prep.source.tsv import TsvTable, scan, url_column
from tests.hostile.attacks import attack

SHA = "ab" * 32


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_rows_are_lines_and_quotes_are_characters(tmp_path: Path) -> None:
    lines = [
        b'"a man who never closed it\thttp://a.example/1.jpg',
        b"it's 5\" wide\thttp://a.example/2.jpg\r",
        b"zero\0byte\thttp://a.example/3.jpg",
        b"line\rand \xc2\x85separator\thttp://a.example/4.jpg",
        "café\thttp://a.example/é.jpg".encode(),
        b"caf\xe9\thttp://a.example/5.jpg",
        b"no tab",
        b"two\ttabs\thttp://a.example/6.jpg",
        b"",
        b"the last, without a line feed\thttp://a.example/7.jpg",
    ]
    table = TsvTable(write(tmp_path / "cc3m.tsv", b"\n".join(lines)), 1)
    rows = table.rows(0, 99)
    assert len(table) == len(rows) == 10
    assert [row.captions for row in rows if not row.state] == [
        ['"a man who never closed it'],
        ["it's 5\" wide"],
        ["zero\0byte"],
        ["line\rand \x85separator"],
        ["café"],
        ["the last, without a line feed"],
    ]
    assert [row.location[17:] for row in rows if not row.state] == [
        "1.jpg",
        "2.jpg",
        "3.jpg",
        "4.jpg",
        "é.jpg",
        "7.jpg",
    ]
    assert [row.state for row in rows[5:9]] == ["not UTF-8", "not two columns", "not two columns", "not two columns"]
    assert [row.key for row in rows] == [f"{n:09d}" for n in range(10)]
    assert rows[0].meta == {"url": "http://a.example/1.jpg"}


@pytest.mark.parametrize("column", [0, 1])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, column: int) -> None:
    columns = [
        ("http://a.example/1.jpg", "a dog"),
        ("http://a.example/2.jpg", "a cat"),
        ("http://a.example/1.jpg", "again"),
    ]
    lines = "\n".join("\t".join(row if column == 0 else row[::-1]) for row in columns)
    path = write(tmp_path / "table.tsv", lines.encode("utf-8-sig"))
    assert url_column("annotations", path) == column
    rows = TsvTable(path, column).rows(0, 3)
    assert [(row.location, row.captions, row.state) for row in rows] == [
        ("http://a.example/1.jpg", ["a dog", "again"], ""),
        ("http://a.example/2.jpg", ["a cat"], ""),
        ("http://a.example/1.jpg", ["again"], "duplicate"),
    ]
    with pytest.raises(DataError, match="is in UTF-16"):
        url_column("annotations", write(tmp_path / "table.tsv", lines.encode("utf-16")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_sbu_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / sbu.URLS).write_text("http://a.example/1.jpg\nhttp://a.example/2.jpg\n", encoding)
    (tmp_path / sbu.CAPTIONS).write_text("un café\nune tasse\n", encoding)
    (tmp_path / "sbu.json").write_bytes(sbu_json().decode().encode(encoding))
    rows = SbuTable(str(tmp_path)).rows(0, 2)
    assert [(row.location, row.captions) for row in rows] == [
        ("http://a.example/1.jpg", ["un café"]),
        ("http://a.example/2.jpg", ["une tasse"]),
    ]
    assert len(SbuTable(str(tmp_path / "sbu.json"))) > 0


ROWS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.text("xyz", max_size=3)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sets(st.sampled_from("abc")), st.booleans(), st.data())
def test_any_range_is_as_in_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    given_rows: list[tuple[str, str]],
    excluded: set[str],
    end: bool,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    content = "\n".join(f"http://{url}/\t{caption}" for url, caption in given_rows) + (
        "\n" if end and given_rows else ""
    )
    other = write(folder / "other.tsv", "".join(f"caption\thttp://{url}/\n" for url in sorted(excluded)).encode())
    exclude = [other] if excluded else []
    table = pickle.loads(pickle.dumps(TsvTable(write(folder / "t.tsv", content.encode()), 0, exclude=exclude)))
    start = data.draw(st.integers(0, len(table)))
    stop = data.draw(st.integers(start, len(table)))
    assert len(table) == len(given_rows)
    seen: dict[str, list[str]] = {}
    for url, caption in given_rows:
        seen.setdefault(url, []).append(caption)
    expected = []
    for number, (url, _) in enumerate(given_rows):
        first = [u for u, _ in given_rows].index(url) == number and url not in excluded
        expected.append((f"http://{url}/", seen[url] if first else None))
    got = [(row.location, None if row.state == "duplicate" else row.captions) for row in table.rows(start, stop)]
    assert got == expected[start:stop]


def test_hashes_of_ten_thousand_urls_are_told_apart() -> None:
    hashes = hash_urls(b"http://example.org/%d" % n for n in range(10_000))
    repeats = Repeats(np.concatenate([hashes, hashes[::-1]]))
    assert not any(repeats.left_out(row) for row in range(10_000))
    assert all(repeats.left_out(row) for row in range(10_000, 20_000))
    assert [repeats.later(row) for row in range(10_000)] == [[19_999 - row] for row in range(10_000)]


def test_published_hashes_are_found_in_any_order(tmp_path: Path) -> None:
    annotations = write(tmp_path / "cc12m.tsv", b"".join(b"http://a/%d\tcaption\n" % n for n in range(5)))
    hashes = write(
        tmp_path / "hashes.tsv",
        b"http://a/3\t%b\tmd5\nhttp://b/1\t%b\tmd5\nhttp://a/1\t%b\tmd5\nhttp://a/2\tnonsense\tmd5\nhttp://a/0\n"
        % (b"3" * 64, b"B" * 64, SHA.upper().encode()),
    )
    table = TsvTable(annotations, 0, hashes=hashes)
    assert [row.digest for row in table.rows(0, 5)] == ["", f"sha256:{SHA}", "", f"sha256:{'3' * 64}", ""]
    with pytest.raises(DataError, match=r"hashes=.*has no URL of the table"):
        TsvTable(annotations, 0, hashes=write(tmp_path / "others.tsv", b"http://c/3\t%b\tmd5\n" % (b"3" * 64)))


def test_the_identity_is_that_of_every_file_and_rule(tmp_path: Path) -> None:
    one = write(tmp_path / "one.tsv", b"http://a/\tcaption\n")
    two = write(tmp_path / "two.tsv", b"http://b/\tcaption\n")
    hashes = write(tmp_path / "hashes.tsv", b"http://a/\t%b\tmd5\n" % SHA.encode())
    identities = [
        TsvTable(one, 0).identity(),
        TsvTable(two, 0).identity(),
        TsvTable(one, 0, exclude=[two]).identity(),
        TsvTable(one, 0, hashes=hashes).identity(),
        TsvTable(one, 0, rules={"person": "x"}).identity(),
    ]
    assert len({json.dumps(identity, sort_keys=True) for identity in identities}) == 5
    assert TsvTable(one, 0).identity() == identities[0]


def test_the_wrong_file_is_one_message(tmp_path: Path) -> None:
    cc3m = write(tmp_path / "cc3m.tsv", b"a caption\thttp://a/\n")
    cc12m = write(tmp_path / "cc12m.tsv", b"http://a/\ta caption\n")
    assert (url_column("annotations", cc3m), url_column("annotations", cc12m)) == (1, 0)
    out = {"out": str(tmp_path / "out")}
    with pytest.raises(DataError, match=r"annotations=.*first column, as the table of `prep cc12m` has"):
        conceptual.run(conceptual.Cc3mConfig(annotations=cc12m, **out))
    with pytest.raises(DataError, match=r"annotations=.*second column, as the table of `prep cc3m` has"):
        conceptual.run(conceptual.Cc12mConfig(annotations=cc3m, **out))
    with pytest.raises(ConfigError, match=r"annotations=nowhere\.tsv: cannot be read"):
        conceptual.run(conceptual.Cc3mConfig(annotations="nowhere.tsv", **out))
    with pytest.raises(ConfigError, match=r"exclude=nowhere\.tsv: cannot be read"):
        conceptual.run(conceptual.Cc3mConfig(annotations=cc3m, exclude=["nowhere.tsv"], **out))
    with pytest.raises(ConfigError, match=r"hashes=nowhere\.tsv: cannot be read"):
        conceptual.run(conceptual.Cc3mConfig(annotations=cc3m, hashes="nowhere.tsv", **out))
    for content in (b"", b"one column\n", b"\0\1\2" * 999, b"http://a/\thttp://b/\n"):
        with pytest.raises(DataError, match="not a caption and a URL separated by one tab"):
            conceptual.run(conceptual.Cc3mConfig(annotations=write(tmp_path / "broken", content), **out))
    assert not (tmp_path / "out").exists()


def sbu_json(**changes: Any) -> bytes:
    content = {
        "image_urls": ["http://f/1", "http://f/2", "http://f/1 "],
        "user_ids": ["u", "v", "w"],
        "captions": list("abc"),
    }
    return json.dumps({**content, **changes}).encode()


def test_sbu_in_both_layouts(tmp_path: Path) -> None:
    table = SbuTable(write(tmp_path / "sbu-captions-all.json", sbu_json()))
    write(tmp_path / sbu.URLS, b"http://f/1\nhttp://f/2\r\nhttp://f/1\n")
    write(tmp_path / sbu.CAPTIONS, b"a\nb\nc\n")
    older = SbuTable(str(tmp_path))
    for each in (table, older):
        first, second, third = each.rows(0, 9)
        assert (first.captions, second.captions, third.state) == (["a", "c"], ["b"], "duplicate")
        assert (first.location, second.location) == ("http://f/1", "http://f/2")
        assert each.rows(1, 2) == [second]
    assert table.rows(0, 1)[0].meta == {"url": "http://f/1", "user_id": "u"}
    write(tmp_path / sbu.CAPTIONS, b"a\nb\n\xff\n")
    assert SbuTable(str(tmp_path)).rows(0, 1)[0].captions == ["a"]
    assert SbuTable(str(tmp_path)).rows(2, 3)[0].state == "not UTF-8"
    assert SbuTable(str(tmp_path)).identity() != older.identity()


def test_a_broken_sbu_is_one_message(tmp_path: Path) -> None:
    broken = [
        b"[]",
        b"{",
        sbu_json(captions=["a"]),
        sbu_json(user_ids=["a"]),
        sbu_json(captions=[1, 2, 3]),
        b'{"captions": []}',
    ]
    for content in broken:
        with pytest.raises(DataError, match="annotations="):
            SbuTable(write(tmp_path / "sbu.json", content))
    with pytest.raises(ConfigError, match=rf"annotations={tmp_path}/{sbu.URLS}: cannot be read"):
        SbuTable(str(tmp_path))
    write(tmp_path / sbu.URLS, b"http://f/1\nhttp://f/2\n")
    write(tmp_path / sbu.CAPTIONS, b"a\n")
    with pytest.raises(DataError, match=r"has 2 lines, but .* has 1"):
        SbuTable(str(tmp_path))


@attack(14)
def test_a_folder_of_sbu_with_links_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sbu").mkdir()
    write(tmp_path / "sbu" / sbu.URLS, b"http://f/1\n")
    write(tmp_path / "credentials", b"secret\n")
    (tmp_path / "sbu" / sbu.CAPTIONS).symlink_to(tmp_path / "credentials")
    with pytest.raises(FileError, match=r"is a link .*set follow_links=true"):
        SbuTable(str(tmp_path / "sbu"))
    assert SbuTable(str(tmp_path / "sbu"), follow_links=True).rows(0, 1)[0].captions == ["secret"]


@attack(16)
def test_a_table_that_is_no_file_or_one_endless_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo.tsv")
    for read in (lambda path: scan("annotations", path, 0), lambda path: url_column("annotations", path)):
        with pytest.raises(FileError, match="not a regular file"):
            read(str(tmp_path / "fifo.tsv"))
    monkeypatch.setattr(tsv, "_BLOCK", 100)
    monkeypatch.setattr(tsv, "_LINE", 1000)
    with pytest.raises(DataError, match=r"annotations=.*endless: has a line of over"):
        scan("annotations", write(tmp_path / "endless", bytes(2000)), 0)
