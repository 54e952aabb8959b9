"""Indexing tars that other tools wrote, and our own."""

import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgetower_train.data.shards import INDEX_DTYPE, open_corpus
from bridgetower_train.errors import ConfigError, UserError
from data_prep.inspect import lint
from data_prep.shards.index import IndexConfig, build_index, run
from tests.hostile.attacks import attack


def encoded(kind: str, size: tuple[int, int] = (80, 64)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(out, kind)
    return out.getvalue()


def read_all(folder: Path) -> dict[str, list[str]]:
    """{key: captions} of every record, by way of the reader."""
    corpus = open_corpus(str(folder.parent), folder.name)
    corpus.check_shards()
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    assert [len(record.captions) for record in records] == corpus.index["captions"].tolist()
    return {record.key: record.captions for record in records}


def test_our_own_shards_give_the_index_that_the_writer_gave(tmp_path, make_corpus, small_corpus):
    folder = make_corpus(tmp_path) / "small"
    for name in ("index.npy", "manifest.json"):
        (folder / name).unlink()
    build_index(folder)
    for name in ("index.npy", "manifest.json"):
        assert (folder / name).read_bytes() == (small_corpus / "small" / name).read_bytes()
    assert not (folder / "dropped.jsonl").exists()


def img2dataset_record(key: str, url: str) -> dict[str, bytes]:
    """The three members of a record as img2dataset 1.47 writes them."""
    status = {
        "caption": f"a caption {key}", "url": url, "key": key, "status": "success", "error_message": None, "width": 80,
        "height": 64, "original_width": 640, "original_height": 512, "exif": "{}", "sha256": key.zfill(64),
    }  # fmt: skip
    return {
        f"{key}.jpg": encoded("JPEG"),
        f"{key}.txt": f"a caption {key}".encode(),
        f"{key}.json": json.dumps(status, indent=4).encode(),
    }


def recaptioned(key: str, **captions) -> dict[str, bytes]:
    """A record of a corpus that somebody has captioned anew."""
    return {f"{key}.jpg": encoded("JPEG"), f"{key}.json": json.dumps({"caption": "old", **captions}).encode()}


def test_captions_of_several_kinds_in_tars_of_others(tmp_path, make_tar, capsys):
    """Each kind under a key of its own, a text or a list; indexed again without keys the corpus keeps those it has."""
    make_tar(
        tmp_path / "web" / "0.tar",
        recaptioned("a", blip="new", regions=["left", "right", "old"])
        | recaptioned("b", blip=None, regions=[5])
        | recaptioned("c", caption=" ", blip="only new"),
    )
    kinds = {"synthetic": "blip", "alt": "caption", "region": "regions"}
    run(IndexConfig(root=str(tmp_path / "web"), kinds=kinds))
    assert "6 captions (2 alt, 2 region, 2 synthetic)" in capsys.readouterr().out
    corpus = open_corpus(str(tmp_path), "web")
    assert corpus.manifest.format == 2
    records = [corpus.read(row) for row in range(3)]
    assert [list(zip(record.captions, record.kinds, strict=True)) for record in records] == [
        [("old", "alt"), ("left", "region"), ("right", "region"), ("new", "synthetic")],
        [("old", "alt")],
        [("only new", "synthetic")],
    ]
    assert pickle.loads(pickle.dumps(corpus)).read(0).captions == records[0].captions
    before = (tmp_path / "web" / "manifest.json").read_bytes()
    run(IndexConfig(root=str(tmp_path / "web")))
    assert (tmp_path / "web" / "manifest.json").read_bytes() == before


def test_other_keys_give_another_order_of_data(tmp_path, make_tar):
    """The same captions could stand under them, as far as index and tars tell."""
    make_tar(tmp_path / "web" / "0.tar", recaptioned("a", blip="new", git="newer"))
    digests = set()
    for key in ("blip", "git"):
        run(IndexConfig(root=str(tmp_path / "web"), kinds={"alt": "caption", "synthetic": key}))
        corpus = open_corpus(str(tmp_path), "web")
        assert corpus.manifest.captions == 2
        digests.add(corpus.digest)
    assert len(digests) == 2


def test_img2dataset_shards(tmp_path, make_tar):
    """Images in the order of completion, gaps where a download failed, tables and counts beside the tars."""
    folder = tmp_path / "cc3m"
    for shard in range(2):
        members = {}
        for number in (2, 0, 3, 5):
            members |= img2dataset_record(f"{shard:05d}{number:04d}", "https://example.org")
        make_tar(folder / f"{shard:05d}.tar", members)
        (folder / f"{shard:05d}.parquet").touch()
        (folder / f"{shard:05d}_stats.json").write_text('{"count": 6, "successes": 4}')
    manifest = build_index(folder)
    assert (manifest.corpus, manifest.caption_member, manifest.image_size) == ("cc3m", "json", 64)
    assert (manifest.images, manifest.captions, len(manifest.shards), manifest.dropped) == (8, 8, 2, {})
    assert manifest.extra == {}
    assert read_all(folder)["000010003"] == ["a caption 000010003"]
    last = open_corpus(str(tmp_path), "cc3m").read(7).meta
    assert (last["key"], last["original_width"], last["sha256"]) == ("000010005", 640, "000010005".zfill(64))


NOTES = {"rows": 90, "states": {"ok": 60, "404": 30}, "source": {"list": "abc"}, "about": {"title": "Small"}}


def with_notes(root: Path) -> Path:
    """The corpus `small` with what a preparation notes in its manifest."""
    path = root / "small" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": NOTES, "dropped": {"404": 30}}))
    return root / "small"


def test_notes_stay_while_the_shards_do(tmp_path, make_corpus):
    folder = with_notes(make_corpus(tmp_path))
    (folder / "index.npy").write_bytes(b"broken")
    manifest = build_index(folder)
    assert (manifest.extra, manifest.dropped) == (NOTES, {"404": 30})
    assert build_index(folder) == manifest


def test_counts_that_no_longer_hold_are_dropped(tmp_path, make_corpus, capsys):
    folder = with_notes(make_corpus(tmp_path))
    (folder / "000001.tar").unlink()
    manifest = build_index(folder)
    assert (manifest.images, manifest.extra, manifest.dropped) == (40, {"about": {"title": "Small"}}, {})
    assert "its rows, source, states are no longer valid" in capsys.readouterr().out


def test_a_folder_that_is_being_written_is_left_alone(tmp_path, make_corpus):
    folder = make_corpus(tmp_path) / "small"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=r"root=.*in use by process"):
            run(IndexConfig(root=str(folder)))
        holder.communicate(b"go\n")
    run(IndexConfig(root=str(folder)))


HOLDER = """
import sys
from pathlib import Path
from bridgetower_train.lock import hold
with hold(Path(sys.argv[1]), "out"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_open_clip_shards(tmp_path, make_tar):
    folder = tmp_path / "web"
    kinds = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "JPG": "JPEG"}
    members = []
    for suffix, kind in kinds.items():
        members += [(f"./part.1/{suffix}_.{suffix}", encoded(kind)), (f"./part.1/{suffix}_.txt", b" text\xff\n")]
    make_tar(folder / "a.tar", members)
    manifest = build_index(folder)
    assert (manifest.caption_member, manifest.images, manifest.dropped) == ("txt", 5, {})
    assert read_all(folder) == {f"./part.1/{suffix}_": ["text\ufffd"] for suffix in kinds}
    assert open_corpus(str(tmp_path), "web").read(0).meta == {}


def test_json_without_captions_leaves_txt(tmp_path, make_tar):
    members = [(f"{i}.{suffix}", data) for i in range(3) for suffix, data in (("jpg", encoded("JPEG")), ("txt", b"t"))]
    members += [(f"{i}.json", b'{"width": 80}') for i in range(3)]
    make_tar(tmp_path / "c" / "0.tar", members)
    assert build_index(tmp_path / "c").caption_member == "txt"
    assert read_all(tmp_path / "c") == {"0": ["t"], "1": ["t"], "2": ["t"]}


@pytest.mark.parametrize(
    "meta",
    [
        {"captions": "a dog"},
        {"caption": ["a dog", " ", 3]},
        {"captions": [], "caption": "a dog"},
        {"captions": [None], "caption": ["a dog"]},
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_as_others_write_them(tmp_path, make_tar, meta, encoding):
    make_tar(tmp_path / "c" / "0.tar", {"a.jpg": encoded("JPEG"), "a.json": json.dumps(meta).encode(encoding)})
    make_tar(tmp_path / "t" / "0.tar", {"a.jpg": encoded("JPEG"), "a.txt": "a dog".encode(encoding)})
    for corpus in ("c", "t"):
        assert build_index(tmp_path / corpus).dropped == {}
        assert read_all(tmp_path / corpus) == {"a": ["a dog"]}


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar(tmp_path, make_tar, tar_format):
    folders = "x" * 50 + "/" + "y" * 80
    long_name = f"{folders}/{'z' * (20 if tar_format == tarfile.USTAR_FORMAT else 120)}"
    names = ["short", long_name] + ([] if tar_format == tarfile.USTAR_FORMAT else ["ünï"])
    members = [(f"{name}.{kind}", data) for name in names for kind, data in (("jpg", encoded("JPEG")), ("txt", b"t"))]
    make_tar(tmp_path / "c" / "0.tar", members, tar_format)
    manifest = build_index(tmp_path / "c")
    assert (manifest.images, manifest.dropped) == (len(names), {})
    assert list(read_all(tmp_path / "c")) == names


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_differ_only_where_a_short_header_cannot_say_so(tmp_path, make_tar, tar_format, capsys):
    """Long ones, those that are not ASCII, and one whose extended header takes many blocks, part of which looks like a header."""
    names = ["x" * 120 + "1", "x" * 120 + "2", "猫", "犬", "mustard" * 100 + "1", "mustard" * 100 + "2", "y" * 5000]
    members = [
        (f"{n}.{kind}", data) for n in names for kind, data in (("jpg", encoded("JPEG")), ("txt", n[-1].encode()))
    ]
    make_tar(tmp_path / "c" / "0.tar", members, tar_format)
    build_index(tmp_path / "c")
    assert read_all(tmp_path / "c") == {name: [name[-1]] for name in names}
    assert lint.run(lint.LintConfig(root=str(tmp_path / "c"), workers=1, duplicates="ignore")) == 0, (
        capsys.readouterr().out
    )


def test_what_is_left_unread_is_named_and_bounded(tmp_path, make_tar, capsys):
    members = {
        "22.05.jpg": encoded("JPEG"),
        "22.05.txt": b"t",
        "a.jpg": encoded("JPEG"),
        "a.txt": b"t",
        "b.caption": b"t",
    }
    members |= {f"._{n}.jpg": b"" for n in range(500)} | {f"{n}.input.jpg": b"" for n in range(3)}
    make_tar(tmp_path / "c" / "0.tar", members)
    unread = build_index(tmp_path / "c").extra["unread_members"]
    assert len(unread) == 21
    assert sum(unread.values()) == 506
    assert unread["input.jpg"] == 3
    assert {"05.jpg", "05.txt", "caption"} <= set(unread)
    said = capsys.readouterr().out
    assert "left unread by suffix, which begins at the first dot of a name" in said
    assert "05.jpg 1" in said


def test_sizes_that_pax_gives(tmp_path, make_tar):
    """Members of 8 GiB and more say their size in a pax header only."""
    path = make_tar(tmp_path / "c" / "0.tar", [("a.bin", bytes(5000)), ("b.jpg", encoded("JPEG")), ("b.txt", b"t")])
    data = bytearray(path.read_bytes())
    pax = tarfile.TarInfo("pax")
    record = b"13 size=5000\n"
    pax.type, pax.size = tarfile.XHDTYPE, len(record)
    data[124:136] = b"00000000000\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(pax.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + data)
    assert build_index(tmp_path / "c").dropped == {}
    assert read_all(tmp_path / "c") == {"b": ["t"]}


@attack(2)
def test_folders_links_and_devices_in_a_tar_are_passed_over(tmp_path):
    path = tmp_path / "c" / "0.tar"
    path.parent.mkdir()
    kinds = [("folder", tarfile.DIRTYPE), ("a.txt", tarfile.SYMTYPE), ("a.jpg", tarfile.LNKTYPE)]
    no_images = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    kinds += [(f"c{number}.jpg", kind) for number, kind in enumerate(no_images)]
    with tarfile.open(path, "w") as tar:
        for name, kind in kinds:
            header = tarfile.TarInfo(name)
            header.type, header.linkname, header.size = kind, "/etc/passwd", 4096  # a size, but no contents
            tar.addfile(header)
        texts = [(f"c{number}.txt", b"t") for number in range(len(no_images))]
        for name, data in (("b.jpg", encoded("JPEG")), ("b.txt", b"t"), *texts):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    assert build_index(tmp_path / "c").dropped == {"no image": len(no_images)}
    assert read_all(tmp_path / "c") == {"b": ["t"]}


def test_members_of_a_record_may_lie_far_apart_and_in_any_order(tmp_path, make_tar):
    members = [(f"{i}.txt", f"text {i}".encode()) for i in range(3)] + [("0.bin", bytes(1 << 20))]
    members += [(f"{i}.jpg", encoded("JPEG")) for i in range(3)]
    make_tar(tmp_path / "c" / "0.tar", members)
    build_index(tmp_path / "c")
    assert read_all(tmp_path / "c") == {str(i): [f"text {i}"] for i in range(3)}
    close = [("0.txt", b"text"), ("0.jpg", encoded("JPEG"))]
    make_tar(tmp_path / "d" / "0.tar", close)
    build_index(tmp_path / "d")
    assert read_all(tmp_path / "d") == {"0": ["text"]}


class Trap:
    """A pickle that leaves a trace when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickles_and_checkpoints_are_never_opened(tmp_path, make_tar):
    trace = tmp_path / "trace"
    trap = pickle.dumps(Trap(trace))
    pickle.loads(trap)
    trace.unlink()
    other = {f"a.{suffix}": trap for suffix in ("pkl", "pyd", "pth", "pickle", "cls", "seg.png")}
    make_tar(tmp_path / "c" / "0.tar", {"a.jpg": encoded("JPEG"), "a.json": b'{"caption": "t"}', **other})
    manifest = build_index(tmp_path / "c")
    assert manifest.extra == {"unread_members": {"cls": 1, "pickle": 1, "pkl": 1, "pth": 1, "pyd": 1, "seg.png": 1}}
    assert read_all(tmp_path / "c") == {"a": ["t"]}
    assert not trace.exists()


def test_mixed_sizes_have_no_image_size(tmp_path, make_tar):
    sizes = {"a": (80, 64), "b": (64, 100), "c": (60, 60)}
    members = [(f"{k}.{s}", d) for k, size in sizes.items() for s, d in (("jpg", encoded("JPEG", size)), ("txt", b"t"))]
    make_tar(tmp_path / "one" / "0.tar", members[:4])
    make_tar(tmp_path / "mixed" / "0.tar", members)
    assert build_index(tmp_path / "one").image_size == 64
    assert build_index(tmp_path / "mixed").image_size is None


def test_an_old_index_is_replaced(tmp_path, make_corpus, make_tar):
    folder = make_corpus(tmp_path) / "small"
    make_tar(
        folder / "000001.tar", {"new.jpg": encoded("JPEG"), "new.txt": b"t", "new.json": b'{"captions": ["x", "y"]}'}
    )
    build_index(folder)
    assert read_all(folder)["new"] == ["x", "y"]
    assert len(read_all(folder)) == 41
    assert not list(folder.glob("*.part"))
    assert np.load(folder / "index.npy", mmap_mode="r").dtype == INDEX_DTYPE


def test_a_folder_without_tars_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"has no \.tar; give"):
        build_index(tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere: no such folder"):
        run(IndexConfig(root=str(tmp_path / "nowhere")))


def test_the_command_sums_up(tmp_path, make_corpus, capsys):
    make_corpus(tmp_path)
    run(IndexConfig(root=str(tmp_path / "small")))
    assert "small: 60 images with a shorter edge of 64 px and 180 captions in 3 shards" in capsys.readouterr().out


@pytest.mark.parametrize("extra", [{"states": [1]}, {"states": {"ok": 1}}, {"states": {"ok": 1}, "rows": 0},
                                   {"states": {"ok": "x"}, "rows": 3}, {"states": {}, "rows": "x"}])  # fmt: skip
def test_notes_of_an_old_manifest_that_are_no_counts_are_not_printed(tmp_path, make_corpus, capsys, extra):
    folder = make_corpus(tmp_path) / "small"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"extra": extra}))
    run(IndexConfig(root=str(folder)))
    assert capsys.readouterr().out.count("\n") == 1
