"""From a published list to a corpus, by the command, with a web server that is as good and bad as the web."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from bridgetower_train.data.shards import open_corpus
from tests.data_prep.fetch.fault_server import kinds, serve
from tests.hostile.attacks import attack


@pytest.fixture(scope="module")
def hosts(jpeg: bytes) -> Iterator[list[str]]:
    with serve([jpeg], hosts=4) as urls:
        yield urls


def command(corpus: str, out: Path, annotations: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "bridgetower_train", "prep", corpus, f"out={out}", f"annotations={annotations}"),
        *(
            "size=48",
            "workers=1",
            "records_per_shard=5",
            "fetch.allow_loopback=true",
            "fetch.deadline=10",
            "fetch.max_bytes=4000000",
            "fetch.retries=2",
            *more,
        ),
    ]


def files(folder: Path) -> dict[str, bytes]:
    """What two equal runs have in common."""
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return {name: (folder / name).read_bytes() for name in names if name not in ("preparation.json", "lock")}


@attack(32)
def test_cc12m_from_end_to_end(tmp_path: Path, hosts: list[str], jpeg: bytes) -> None:
    names = list(kinds())
    urls = [f"{hosts[n % 4]}/{name}/{n}" for n, name in enumerate(names)]
    lines = [f"{url}\t<PERSON> at {n}" for n, url in enumerate(urls)] + [f"{urls[0]}\tanother caption", "no tab"]
    annotations, cc3m, hashes = (tmp_path / name for name in ("cc12m.tsv", "cc3m.tsv", "hashes.tsv"))
    annotations.write_text("\n".join(lines) + "\n")
    cc3m.write_text(f"a caption\t{urls[1]}\n")
    wrong = {2: "0" * 64}
    hashes.write_text("".join(f"{u}\t{wrong.get(n, sha256(jpeg).hexdigest())}\tmd5\n" for n, u in enumerate(urls)))
    done = subprocess.run(
        command("cc12m", tmp_path, annotations, f"exclude=[{cc3m}]", f"hashes={hashes}"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    good = [n for n, name in enumerate(names) if kinds()[name].state == "ok" and n not in (1, 2)]
    corpus = open_corpus(str(tmp_path), "cc12m", None)
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    assert [record.key for record in records] == [f"{n:09d}" for n in good], "in the order of the source"
    assert records[0].captions == ["person at 0", "another caption"]
    assert min(Image.open(io.BytesIO(records[0].image)).size) == 48
    logged = pq.read_table(tmp_path / "cc12m" / "log").sort_by("row").to_pylist()
    expected = [{kind.state, kind.or_state} for kind in kinds().values()] + [{"duplicate"}, {"not two columns"}]
    expected[1], expected[2], expected[names.index("tiny")] = {"duplicate"}, {"hash mismatch"}, {"hash mismatch"}
    assert [line["state"] for line in logged if line["state"] not in expected[line["row"]]] == []
    states = Counter(line["state"] for line in logged)
    assert corpus.manifest.extra["states"] == dict(sorted(states.items()))
    assert states.total() == corpus.manifest.extra["rows"] == len(lines)
    assert logged[names.index("loud")]["detail"].startswith("\x1b]0;owned\x07<script>")
    assert "owned" not in done.stdout + done.stderr
    assert f"yield {len(good) / len(lines):.1%}" in done.stdout
    assert "62.3% in 2025" in done.stdout


def test_a_run_that_is_killed_goes_on_and_fetches_nothing_twice(tmp_path: Path, hosts: list[str]) -> None:
    annotations = tmp_path / "cc3m.tsv"
    kind = ("late", "ok", "redirect", "404", "html", "gzip")
    annotations.write_text("".join(f"caption {n}\t{hosts[n % 4]}/{kind[n % 6]}/{n}\n" for n in range(120)))
    assert subprocess.run(command("cc3m", tmp_path / "whole", annotations), capture_output=True).returncode == 0
    killed = command("cc3m", tmp_path / "killed", annotations, "fetch.per_host=1")
    for signum, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process = subprocess.Popen(killed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        before = len(list((tmp_path / "killed").rglob("*.parquet")))
        until = time.monotonic() + 180
        while len(list((tmp_path / "killed").rglob("*.parquet"))) < before + 4 and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(process.pid, signum)
        stdout, stderr = process.communicate()
        assert process.returncode == code, stdout + stderr
    done = subprocess.run(killed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "killed" / "cc3m") == files(tmp_path / "whole" / "cc3m")


def test_rows_that_failed_in_passing_are_fetched_again(tmp_path: Path, hosts: list[str]) -> None:
    annotations = tmp_path / "cc3m.tsv"
    kind = ("once_503", "404", "ok")
    annotations.write_text("".join(f"caption {n}\t{hosts[n % 4]}/{kind[n % 3]}/2{n}\n" for n in range(18)))
    keys = ("fetch.retries=0",)
    for more, images, states in (
        ((), 6, {"404": 6, "503": 6, "ok": 6}),
        (("again=[429,503]",), 12, {"404": 6, "ok": 12}),
        (("again=[429,503]",), 12, {"404": 6, "ok": 12}),
    ):
        done = subprocess.run(command("cc3m", tmp_path, annotations, *keys, *more), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        corpus = open_corpus(str(tmp_path), "cc3m")
        assert corpus.manifest.extra["states"] == states
        assert len({corpus.read(row).key for row in range(corpus.manifest.images)}) == images
    assert "no row ended in again=429, 503" in done.stdout


def test_sbu_and_a_server_that_is_not_there(tmp_path: Path, hosts: list[str]) -> None:
    annotations = tmp_path / "sbu-captions-all.json"
    urls = [hosts[0] + "/ok/1", "http://127.0.0.1:1/x.jpg", "file:///etc/passwd"]
    annotations.write_text(json.dumps({"image_urls": urls, "user_ids": [1, 2, 3], "captions": ["a", "b", "c"]}))
    done = subprocess.run(command("sbu", tmp_path, annotations), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    states = json.loads((tmp_path / "sbu" / "manifest.json").read_text())["extra"]["states"]
    assert states == {"connection": 1, "ok": 1, "refused scheme": 1}
    assert "yield 33.3%" in done.stdout
