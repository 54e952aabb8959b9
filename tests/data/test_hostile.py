"""Damaged and hostile shards at indexing: everything that is whole is kept, everything else is named and counted."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.tar import BLOCK, Gap, walk_tar
from bridgetower_train.errors import DataError
from data_prep.inspect import lint, stats
from data_prep.shards.index import build_index
from data_prep.source.local import LINK_OUT
from tests.hostile.attacks import attack


def members(jpeg: bytes, count: int = 6) -> list[tuple[str, bytes]]:
    """Of `count` records with the keys 0, 1, 2..."""
    parts = [
        [(f"{i}.jpg", jpeg), (f"{i}.json", json.dumps({"captions": [f"text {i}"]}).encode())] for i in range(count)
    ]
    return [member for pair in parts for member in pair]


def header_at(tar: Path, name: str) -> int:
    with tarfile.open(tar) as opened:
        return opened.getmember(name).offset


def listed(folder: Path) -> list[tuple[str, str]]:
    """What `dropped.jsonl` says."""
    return [tuple(json.loads(line).values()) for line in (folder / "dropped.jsonl").read_text().splitlines()]


def keys(folder: Path) -> list[str]:
    """Keys of the corpus; each record is read, and its caption belongs to it."""
    corpus = open_corpus(str(folder.parent), folder.name)
    corpus.check_shards()
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    assert all(record.captions == [f"text {record.key}"] for record in records)
    return [record.key for record in records]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "c"


@pytest.fixture
def tar(folder, make_tar, jpeg) -> Path:
    return make_tar(folder / "0.tar", members(jpeg))


def test_a_truncated_tar_keeps_the_records_before(folder, tar):
    start = header_at(tar, "4.jpg")
    cut = start + 700
    tar.write_bytes(tar.read_bytes()[:cut])
    manifest = build_index(folder)
    assert keys(folder) == ["0", "1", "2", "3"]
    assert manifest.dropped == {"tar cut short": 1}
    assert listed(folder)[0] == (f"0.tar bytes {start}-{cut}", "tar cut short")


def test_a_tar_cut_between_members_is_named(folder, tar):
    tar.write_bytes(tar.read_bytes()[: header_at(tar, "4.json")])
    manifest = build_index(folder)
    assert keys(folder) == ["0", "1", "2", "3"]
    assert manifest.dropped == {"tar without an end mark, perhaps cut short": 1, "no json": 1}


@pytest.mark.parametrize(("broken", "lost"), [("2.jpg", "no image"), ("2.json", "no json"), ("0.jpg", "no image")])
@pytest.mark.parametrize("how", ["checksum", "zeros", "noise", "size", "negative size", "no name"])
def test_a_broken_header_costs_its_record_only(folder, tar, broken, lost, how):
    at = header_at(tar, broken)
    data = bytearray(tar.read_bytes())
    if how == "checksum":
        data[at + 3] ^= 1
    elif how == "zeros":
        data[at : at + BLOCK] = bytes(BLOCK)
    elif how == "noise":
        data[at : at + BLOCK] = bytes(i * 7 % 256 for i in range(BLOCK))
    else:
        start, value = {
            "size": (124, b"77777777777"),
            "negative size": (124, b"-0000010000"),
            "no name": (0, bytes(100)),
        }[how]
        data[at + start : at + start + len(value)] = value
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])
    tar.write_bytes(data)
    manifest = build_index(folder)
    key = broken[0]
    assert keys(folder) == [str(i) for i in range(6) if str(i) != key]
    assert manifest.dropped == {"broken tar header": 1, lost: 1}
    assert (f"0.tar {key}", lost) in listed(folder)
    assert listed(folder)[0][0].startswith(f"0.tar bytes {at}-")


def test_a_broken_header_of_a_large_member(folder, make_tar, jpeg):
    path = make_tar(folder / "0.tar", [*members(jpeg, 1), ("x.bin", bytes(5 << 20)), *members(jpeg, 3)[2:]])
    data = bytearray(path.read_bytes())
    data[header_at(path, "x.bin")] ^= 1
    path.write_bytes(data)
    manifest = build_index(folder)
    assert keys(folder) == ["0", "1", "2"]
    assert manifest.dropped == {"broken tar header": 1}


def test_lost_bytes_in_the_middle(folder, tar):
    """A download that was resumed at the wrong place: all headers behind it are off their blocks."""
    data, at = tar.read_bytes(), header_at(tar, "2.jpg") + 600
    tar.write_bytes(data[:at] + data[at + 77 :])
    build_index(folder)
    assert keys(folder) == ["0", "1", "3", "4", "5"]


def test_a_tar_of_which_the_rest_is_zeros(folder, tar):
    """What a download into a preallocated file leaves."""
    tar.write_bytes(tar.read_bytes()[: header_at(tar, "4.jpg")] + bytes(100_000))
    manifest = build_index(folder)
    assert keys(folder) == ["0", "1", "2", "3"]
    assert manifest.dropped == {"tar that ends in zeros, perhaps not fetched whole": 1}


@pytest.mark.parametrize("record", [1 << 18, 1 << 20, 8 << 20])
def test_a_tar_of_large_records_is_whole(folder, tar, record):
    """`tar --blocking-factor=2048` fills its last megabyte with zeros."""
    data = tar.read_bytes()
    tar.write_bytes(data + bytes(-len(data) % record))
    assert build_index(folder).dropped == {}
    assert keys(folder) == list("012345")


@pytest.mark.parametrize("form", ["old", "old, long map", "pax"])
def test_a_sparse_member_costs_its_record_only(folder, tar, form):
    """The tar lacks its holes, so what lies there is not the image."""
    at = header_at(tar, "3.jpg")
    data = tar.read_bytes()
    own, rest = data[at : at + BLOCK], data[at + BLOCK :]
    size = int(own[124:135], 8)
    if form == "pax":
        map_ = b"1\n0\n%d\n" % size
        map_ += bytes(-len(map_) % BLOCK)
        stated = [b"22 GNU.sparse.major=1\n", b"22 GNU.sparse.minor=0\n", b"25 GNU.sparse.name=3.jpg\n"]
        before = extended(*stated) + header("GNUSparseFile.0/3.jpg", tarfile.REGTYPE, size + BLOCK) + map_
    else:
        own = bytearray(header("3.jpg", tarfile.GNUTYPE_SPARSE, size))
        own[482:483] = b"\1" if form == "old, long map" else b"\0"
        own[148:156] = b" " * 8
        own[148:156] = b"%06o\0 " % sum(own)
        before = bytes(own) + (bytes(504) + b"\1" + bytes(7) + bytes(BLOCK) if form == "old, long map" else b"")
    tar.write_bytes(data[:at] + before + rest)
    assert build_index(folder).dropped == {"sparse in the tar": 1}
    assert keys(folder) == list("01245")
    assert listed(folder) == [("0.tar 3", "sparse in the tar")]


def test_what_a_header_states_about_a_folder_is_not_said_of_the_next_file(folder, tar):
    at = header_at(tar, "3.jpg")
    data = tar.read_bytes()
    path = extended(b"18 path=elsewhere\n")
    tar.write_bytes(data[:at] + path + header("elsewhere", tarfile.DIRTYPE, 0) + data[at:])
    assert build_index(folder).dropped == {}
    assert keys(folder) == list("012345")


def test_two_tars_in_one_file(folder, tar, make_tar, jpeg):
    other = make_tar(folder / "other", members(jpeg, 9)[12:])
    tar.write_bytes(tar.read_bytes() + other.read_bytes())
    manifest = build_index(folder)
    assert keys(folder) == list("012345678")
    assert manifest.dropped == {"end mark in the middle of the tar": 1}


def test_files_that_are_no_tars_are_left_out_and_named(folder, tar, capsys):
    (folder / "html.tar").write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 40)
    (folder / "short.tar").write_bytes(b"<html>")
    (folder / "zero.tar").touch()
    (folder / "ends.tar").write_bytes(bytes(10240))
    (folder / "0-folder.tar").mkdir()
    (folder / "gone.tar").symlink_to("nowhere")
    manifest = build_index(folder)
    assert [info.name for info in manifest.shards] == ["0.tar"]
    assert keys(folder) == list("012345")
    assert manifest.dropped["not a tar"] == 2
    assert manifest.dropped["zero-byte shard"] == 1
    assert manifest.dropped["no record in it"] == 1
    assert manifest.dropped["not a regular file"] == 1
    assert manifest.dropped["cannot be read: No such file or directory"] == 1
    shards = {file.partition(" ")[0] for file, _ in listed(folder)}
    assert shards == {"html.tar", "short.tar", "zero.tar", "ends.tar", "0-folder.tar", "gone.tar"}
    said = capsys.readouterr().out
    assert all(shard in said for shard in shards)


def test_nothing_usable_is_an_error(folder):
    folder.mkdir()
    (folder / "html.tar").write_bytes(b"<!DOCTYPE html>")
    (folder / "zero.tar").touch()
    with pytest.raises(DataError, match="no usable record in its 2 tars"):
        build_index(folder)
    assert not (folder / "manifest.json").exists()


@attack(1)
def test_names_that_lead_out_are_read_where_they_lie(folder, make_tar, jpeg, tmp_path):
    names = ["../x", "/abs/x", "dir/../y", "../../../tmp/z"]
    parts = [(f"{name}.{suffix}", data) for name in names for suffix, data in (("jpg", jpeg), ("txt", b"text"))]
    make_tar(folder / "0.tar", parts)
    build_index(folder)
    corpus = open_corpus(str(folder.parent), folder.name)
    assert [corpus.read(row).key for row in range(4)] == names
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(map(str, files)) == ["c/0.tar", "c/index.npy", "c/manifest.json"]


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    payload = b"".join(records)
    return header("pax", kind, len(payload)) + payload + bytes(-len(payload) % BLOCK)


@attack(3)
@attack(4)
@pytest.mark.parametrize(
    ("before", "dropped"),
    [
        (header("x.jpg", tarfile.GNUTYPE_SPARSE, 0), {"sparse in the tar": 1}),
        (header("x.jpg", tarfile.REGTYPE, 8 << 30), {"broken tar header": 1}),
        (extended(b"28 size=4611686018427387904\n") + header("x.jpg", tarfile.REGTYPE, 0), {"broken tar header": 1}),
        (extended(b"60011 path=" + b"y" * 59_999 + b"\n") + header("x.bin", tarfile.REGTYPE, 0), {}),
        (extended(b"5011 size=" + b"9" * 5000 + b"\n"), {"broken tar header": 1}),
        (extended(b"9" * 5000 + b" size=3\n"), {"broken tar header": 1}),
        (extended(b"30 size=" + b"9" * 21 + b"\n"), {"broken tar header": 1}),
        (extended(b"-3 size=3\n"), {"broken tar header": 1}),
        (extended(b"3 size=3\n"), {"broken tar header": 1}),
        (extended(b"no pax"), {"broken tar header": 1}),
        (extended(b"name", b"\0" * 5000, kind=tarfile.GNUTYPE_LONGNAME) + header("x.bin", tarfile.REGTYPE, 0), {}),
    ],
    ids=[
        "sparse",
        "octal 8 GiB",
        "pax 2^62",
        "long path",
        "size",
        "length",
        "21 digits",
        "minus",
        "short",
        "text",
        "long name",
    ],
)
def test_sizes_and_names_beyond_reason_cost_nothing_else(folder, tar, before, dropped):
    at = header_at(tar, "3.jpg")
    data = tar.read_bytes()
    tar.write_bytes(data[:at] + before + data[at:])
    assert build_index(folder).dropped == dropped
    assert keys(folder) == list("012345")


@attack(5)
def test_many_headers_that_lie_are_read_in_linear_time(folder, make_tar, jpeg, monkeypatch):
    tar = make_tar(folder / "0.tar", members(jpeg))
    tar.write_bytes(b"".join(header(f"{i}.jpg", tarfile.REGTYPE, 8 << 30) for i in range(2000)) + tar.read_bytes())
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *place: read.append(place[1]) or pread(*place))
    with open(tar, "rb") as file:
        found = list(walk_tar(file))
    assert len([item for item in found if isinstance(item, Gap)]) == 2000
    assert len(found) == 2012
    assert sum(read) < 20 * tar.stat().st_size


@attack(16)
@pytest.mark.parametrize("follow_links", [False, True])
def test_tars_that_are_no_files_are_refused_at_once(folder, tar, follow_links):
    os.mkfifo(folder / "fifo.tar")
    (folder / "zero.tar").symlink_to("/dev/zero")
    manifest = build_index(folder, follow_links)
    zero = {"not a regular file": 2} if follow_links else {LINK_OUT: 1, "not a regular file": 1}
    assert manifest.dropped == zero
    assert keys(folder) == list("012345")


@attack(15)
def test_links_to_tars_are_followed_only_if_the_user_says_so(folder, tar, tmp_path, capsys):
    tar.rename(tmp_path / "elsewhere.tar")
    tar.symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(DataError, match="no usable record"):
        build_index(folder)
    assert "left out, link out of the folder (see follow_links): 1 (0.tar)" in capsys.readouterr().out
    assert build_index(folder, follow_links=True).images == 6
    tar.unlink()
    (tmp_path / "elsewhere.tar").rename(folder / "other")
    tar.symlink_to("other")
    assert build_index(folder).images == 6


@attack(8)
def test_strange_captions_are_read_and_shown_as_escapes(folder, make_tar, jpeg, tmp_path, capsys):
    captions = ["x" * 500_000, "a\0b", "\u202eright to left\u2066", "\x1b]0;title\x07\x1b[2J<script>alert(1)</script>"]
    records = [
        (f"{i}.{suffix}", data)
        for i, caption in enumerate(captions)
        for suffix, data in (("jpg", jpeg), ("json", json.dumps({"caption": caption}).encode()))
    ]
    make_tar(folder / "0.tar", records)
    build_index(folder)
    corpus = open_corpus(str(folder.parent), folder.name)
    assert [corpus.read(row).captions for row in range(4)] == [[caption] for caption in captions]
    assert lint.run(lint.LintConfig(root=str(folder), workers=1, duplicates="ignore")) == 0
    stats.run(stats.StatsConfig(root=str(folder), out=str(tmp_path / "stats.html")))
    assert not set(capsys.readouterr().out) & set("\x1b\0\u202e\u2066")
    assert "<script>alert" not in (tmp_path / "stats.html").read_text()


def png(size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("1", size).save(out, "PNG")
    return out.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_records_that_cannot_be_used_are_named(folder, make_tar, jpeg):
    caption = b'{"captions": ["text"]}'
    bad = {
        "no json": {"jpg": jpeg},
        "no image": {"json": caption},
        "no caption": {"jpg": jpeg, "json": b'{"captions": ["", " \\n\\t"], "caption": null}'},
        "json cannot be read": {"jpg": jpeg, "json": b'{"captions": ["te'},
        "caption member over 1 MiB": {"jpg": jpeg, "json": b'{"captions": ["' + b"x" * (20 << 20) + b'"]}'},
        "image over 64 MiB": {"jpg": bytes((64 << 20) + 1), "json": caption},
        "not an image": {"jpg": b"<html>404</html>", "json": caption},
        "more than 100 megapixels": {"png": png((10_001, 10_001)), "json": caption},
    }
    more = {
        "json cannot be read": [b"[]", b"\xff\xfe", b"[" * 100_000, b"", b"9" * 10_000],
        "no caption": [
            b"{}",
            b'{"caption": null}',
            b'{"captions": {"a": 1}}',
            b'{"captions": [1, ["a"]]}',
            b'{"caption": " "}',
        ],
    }
    records = members(jpeg, 3)
    for i, parts in enumerate(bad.values()):
        records += [(f"bad{i}.{suffix}", data) for suffix, data in parts.items()]
    for reason, captions in more.items():
        for i, data in enumerate(captions):
            records += [(f"{reason[:2]}{i}.jpg", jpeg), (f"{reason[:2]}{i}.json", data)]
    make_tar(folder / "0.tar", records + members(jpeg, 6)[6:])
    manifest = build_index(folder)
    assert keys(folder) == list("012345")
    assert manifest.dropped == {reason: 1 + len(more.get(reason, [])) for reason in bad}
    named = dict(listed(folder))
    assert {f"0.tar bad{i}": reason for i, reason in enumerate(bad)}.items() <= named.items()


def test_a_jpeg_that_claims_a_huge_size_is_refused_from_its_header(folder, make_tar, jpeg):
    at = jpeg.index(b"\xff\xc0") + 5
    bomb = jpeg[:at] + (60_000).to_bytes(2, "big") * 2 + jpeg[at + 4 :]
    make_tar(folder / "0.tar", [*members(jpeg, 2), ("bomb.jpg", bomb), ("bomb.json", b'{"captions": ["text"]}')])
    assert build_index(folder).dropped == {"more than 100 megapixels": 1}
    assert keys(folder) == ["0", "1"]


def test_a_png_named_jpg_is_kept(folder, make_tar):
    make_tar(folder / "0.tar", {"0.jpg": png((70, 64)), "0.json": b'{"caption": "text 0"}'})
    assert build_index(folder).image_size == 64
    assert keys(folder) == ["0"]


def test_a_repeated_key_counts_once(folder, make_tar, jpeg):
    again = [("2.jpg", jpeg + b"again"), ("2.json", b'{"captions": ["another text"]}')]
    make_tar(folder / "0.tar", members(jpeg, 4) + again)
    manifest = build_index(folder)
    assert keys(folder) == list("0123")
    assert manifest.dropped == {"duplicate member": 2}
    assert listed(folder) == [("0.tar 2.jpg", "duplicate member"), ("0.tar 2.json", "duplicate member")]


def test_a_repeated_key_does_not_lend_its_caption(folder, make_tar, jpeg):
    again = [("2.jpg", jpeg + b"again"), ("2.json", b'{"captions": ["text 2"]}')]
    first = [member for member in members(jpeg, 4) if member[0] != "2.json"]
    make_tar(folder / "0.tar", first + again)
    build_index(folder)
    assert keys(folder) == list("0123")
    assert open_corpus(str(folder.parent), "c").read(2).image == jpeg + b"again"


def test_keys_may_repeat_in_another_shard(folder, make_tar, jpeg):
    for shard in range(2):
        make_tar(folder / f"{shard}.tar", members(jpeg, 2))
    assert build_index(folder).dropped == {}
    assert keys(folder) == ["0", "1", "0", "1"]


@settings(max_examples=150)
@given(
    cut=st.none() | st.floats(0.1, 1),
    zeros=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([1, 7, 512, 3000])), max_size=2),
    flip=st.none() | st.floats(0, 1),
    shift=st.none() | st.tuples(st.floats(0, 1), st.sampled_from([-3000, -512, -7, -1, 1, 7, 512, 3000])),
)
def test_any_damage_leaves_only_true_records(tmp_path_factory, make_tar, jpeg, cut, zeros, flip, shift):
    """No error, no hang, no record that was not there before, and all bytes accounted for."""
    path = make_tar(tmp_path_factory.mktemp("t") / "0.tar", members(jpeg, 4))
    content = bytearray(path.read_bytes())
    size = len(content)
    for at, length in zeros:
        content[int(at * size) : int(at * size) + length] = bytes(
            len(content[int(at * size) : int(at * size) + length])
        )
    if flip is not None:
        content[int(flip * (size - 1))] ^= 0xFF
    if shift is not None:
        at, length = int(shift[0] * size), shift[1]
        content[at : at + max(-length, 0)] = bytes(max(length, 0))
    path.write_bytes(content[: int((cut or 1) * size)])
    with open(path, "rb") as file:
        found = list(walk_tar(file))
    position = 0
    for item in found:
        assert item.offset >= position, "the walk goes forward"
        position = item.offset + item.size
        assert isinstance(item, Gap) or item.name in dict(members(jpeg, 4))
    assert position <= path.stat().st_size
    if not any(isinstance(item, Gap) for item in found):  # nothing was lost, or zeros hide the end
        names = [item.name for item in found]
        assert names == [name for name, _ in members(jpeg, 4)][: len(names)]
