"""Files that others have put into the folder of a preparation: nothing is written through them, and none is a traceback."""

import json
import os
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bridgetower_train.errors import DataError, FileError, UserError
from data_prep.job.log import SCHEMA
from data_prep.job.spool import Spool
from data_prep.source.rows import Outcome
from tests.data_prep.job import toy_job
from tests.hostile.attacks import attack


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The corpus folder of a preparation that has not begun."""
    (tmp_path / "out" / "toy" / "log").mkdir(parents=True)
    (tmp_path / "out" / "toy" / "spool").mkdir()
    (tmp_path / "victim").write_text("precious")
    return tmp_path / "out" / "toy"


@attack(60)
@pytest.mark.parametrize("name", ["000000.tar", "000000.parquet", "index.npy", "manifest.json"])
def test_temporary_files_are_not_written_through_links(corpus: Path, tmp_path: Path, name: str) -> None:
    (corpus / "spool" / name).symlink_to(tmp_path / "victim")
    toy_job.prepare(corpus.parent)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not [path for path in corpus.rglob("*") if path.is_symlink()]


@attack(60)
@pytest.mark.parametrize("name", ["spool/000000", "spool", "log"])
def test_links_in_place_of_own_files_and_folders_are_refused(corpus: Path, tmp_path: Path, name: str) -> None:
    path = corpus / name
    if path.is_dir():
        path.rmdir()
        (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / ("victim" if "/" in name else "elsewhere"))
    with pytest.raises(FileError, match=rf"/{name}: is a link.*remove it"):
        toy_job.prepare(corpus.parent)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not [*tmp_path.glob("elsewhere/*")]


def test_a_spool_of_other_contents_is_begun_anew_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "000000"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(struct.pack("<QIII", 0, (1 << 32) - 1, 0, 0))
        file.truncate(5 << 30)
    Spool(path).close()
    assert path.stat().st_size == 0
    for note in (b"[" * 100_000, b'["ok", "", {}, 4]', b'["ok", "", 3]', b"9" * 5000, b"\xff"):
        head = struct.pack("<QII", 7, len(note), 0)
        path.write_bytes(head + zlib.crc32(note, zlib.crc32(head)).to_bytes(4, "little") + note)
        with pytest.raises(FileError, match=r"spool/000000: .*restore the file"):
            Spool(path).get(7)
    path.unlink()
    spool = Spool(path)
    spool.add(7, Outcome("ok", "d\xe9tail \ud800", b"jpeg", {"sha256": "0", "width": 3, "url": None}))
    assert spool.get(7) == Outcome("ok", "d\xe9tail ?", b"jpeg", {"sha256": "0", "width": 3, "url": None})


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"shard": "null", "states": "[]"},
        {"shard": "[" * 100_000, "states": "{}"},
        {"shard": '{"name": 3}', "states": "{}"},
        {"shard": "null", "states": '{"ok": "x"}'},
        {"shard": "null", "states": '{"ok": ' + "9" * 5000 + "}"},
    ],
)
def test_a_log_of_other_contents_is_written_anew(corpus: Path, metadata: dict[str, str] | None) -> None:
    pq.write_table(SCHEMA.empty_table().replace_schema_metadata(metadata), corpus / "log" / "000000.parquet")
    os.mkfifo(corpus / "log" / "000001.parquet")
    assert toy_job.prepare(corpus.parent).images == 156


def test_a_log_without_its_columns_is_one_line(corpus: Path) -> None:
    path = corpus / "log" / "000000.parquet"
    noted = {"shard": "null", "states": '{"ok": 10}'}
    pq.write_table(pa.table({"crc": ["x"]}).replace_schema_metadata(noted), path)
    with pytest.raises(DataError, match=r"log/000000\.parquet: cannot be read \([^\n]*\); remove it, and run the same"):
        toy_job.prepare(corpus.parent)
    path.unlink()
    assert toy_job.prepare(corpus.parent).images == 156


@pytest.mark.parametrize(
    "content",
    ["[]", "[" * 100_000, "{}", json.dumps({"settings": [], "source": {}, "started": None}), "9" * 5000, "\0"],
)
def test_a_preparation_json_of_other_contents_is_one_line(corpus: Path, content: str) -> None:
    (corpus / "preparation.json").write_text(content)
    with pytest.raises(DataError, match=r"^out=[^\n]*/toy: preparation\.json: [^\n]{1,300}$"):
        toy_job.prepare(corpus.parent)


@attack(16)
@pytest.mark.parametrize("name", ["preparation.json", "manifest.json", "spool/000000"])
def test_a_fifo_is_refused_at_once(corpus: Path, name: str) -> None:
    os.mkfifo(corpus / name)
    with pytest.raises(UserError, match=r"not a regular file|device|contains manifest|remove it"):
        toy_job.prepare(corpus.parent)
