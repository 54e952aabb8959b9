"""A preparation may end at any moment; run the same command to resume, and the result is what an undisturbed run gives."""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import toy_job
from toy_job import ToyTable, files

from bridgetower_train.data.manifest import Manifest
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import ConfigError, DataError, UserError
from bridgetower_train.lock import hold
from data_prep.inspect import lint
from data_prep.job.job import run_job
from data_prep.source.rows import Outcome, Row

SCRIPT = Path(toy_job.__file__)
ROOT = SCRIPT.parents[3]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy corpus as a single run writes it. Do not write to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    toy_job.prepare(root)
    return root / "toy"


def start(out: Path, had: Path, *keys: str) -> "subprocess.Popen[str]":
    command = [sys.executable, SCRIPT, out, had, "0.03", *keys]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def had(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def wait_until(path: Path, count: int) -> None:
    deadline = time.monotonic() + 180
    while len(had(path)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_run_killed_at_any_moment_goes_on_with_nothing_had_twice(tmp_path: Path, undisturbed: Path) -> None:
    log = tmp_path / "had"
    dice = random.Random(7)
    unfinished = 0
    for count in (3, 60, 110, 160):
        process = start(tmp_path, log)
        wait_until(log, count)
        time.sleep(dice.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        unfinished += not (tmp_path / "toy" / "manifest.json").exists()
        tars = [path.name for path in (tmp_path / "toy").glob("*.tar")]
        assert all((tmp_path / "toy" / name).read_bytes() == (undisturbed / name).read_bytes() for name in tars)
    assert unfinished
    out, err = start(tmp_path, log).communicate(timeout=180)
    assert "toy: " in out, err
    assert files(tmp_path / "toy") == files(undisturbed)
    assert len(set(had(log))) == len(had(log)), "an image was had twice"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").rglob("*.*")}
    out, _ = start(tmp_path, log).communicate(timeout=180)
    assert "already contains these" in out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").rglob("*.*")} == before


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.nightly)],
)
def test_a_signal_stops_it_in_good_order(tmp_path: Path, undisturbed: Path, signum: int, code: int) -> None:
    process = start(tmp_path, tmp_path / "had")
    wait_until(tmp_path / "had", 50)
    os.killpg(process.pid, signum)
    out, err = process.communicate(timeout=180)
    assert process.returncode == code
    assert f"stopped by {signal.Signals(signum).name}; run the same command to resume" in out
    assert "Traceback" not in err
    toy_job.prepare(tmp_path)
    assert files(tmp_path / "toy") == files(undisturbed)


def test_another_run_is_refused_while_one_holds_the_folder(tmp_path: Path) -> None:
    with hold(tmp_path / "toy", "out"):
        _, err = start(tmp_path, tmp_path / "had").communicate(timeout=180)
    assert f"out={tmp_path}/toy: in use by process {os.getpid()} on" in err
    assert not had(tmp_path / "had")


def test_every_row_is_in_the_log_with_its_state(undisturbed: Path) -> None:
    logs = [pq.read_table(path).to_pylist() for path in sorted((undisturbed / "log").iterdir())]
    lines = [line for log in logs for line in log]
    assert [line["row"] for line in lines] == list(range(200))
    manifest = Manifest.from_json((undisturbed / "manifest.json").read_bytes(), "")
    states = manifest.extra["states"]
    assert states == {state: sum(line["state"] == state for line in lines) for state in states}
    assert set(states) == {"ok", "404", "duplicate", "duplicate key", "no caption"}
    assert manifest.dropped == {state: count for state, count in states.items() if state != "ok"}
    assert (manifest.extra["rows"], manifest.extra["about"]) == (200, toy_job.ABOUT)
    assert manifest.extra["source"] == {"toy.tsv": "1", "length": "200"}
    assert lines[11]["detail"] == "Not Found: 11"
    assert (lines[0]["sha256"], lines[0]["width"], lines[0]["height"]) == ("0" * 64, 0, 1)


def test_records_keep_the_order_of_the_source(undisturbed: Path) -> None:
    corpus = open_corpus(str(undisturbed.parent), "toy")
    corpus.check_shards()
    numbers = [corpus.read(row).meta["number"] for row in range(corpus.manifest.images)]
    assert numbers == sorted(numbers)
    assert [shard.name for shard in corpus.manifest.shards] == [f"{i:06d}.tar" for i in range(20) if i not in (2, 3)]
    table = ToyTable()
    for row, number in enumerate(numbers):
        assert corpus.read(row).captions == table.row(number).captions
        assert corpus.read(row).key == table.row(number).key
        assert corpus.read(row).meta["source"] == "toy"


def test_a_changed_source_or_setting_is_refused_and_named(tmp_path: Path) -> None:
    toy_job.prepare(tmp_path)
    before = files(tmp_path / "toy")
    for part in ("manifest.json", None):  # a finished corpus, and one that is not
        if part:
            (tmp_path / "toy" / part).rename(tmp_path / part)
        with pytest.raises(DataError, match=r"source toy.tsv was 1 and is 2; restore those, remove the folder"):
            toy_job.prepare(tmp_path, ToyTable(version="2"))
        with pytest.raises(DataError, match="size was 24 and is 32"):
            toy_job.prepare(tmp_path, size=32)
        with pytest.raises(DataError, match="records_per_shard was 10 and is 20"):
            toy_job.prepare(tmp_path, records_per_shard=20)
    (tmp_path / "manifest.json").rename(tmp_path / "toy" / "manifest.json")
    assert files(tmp_path / "toy") == before


def test_a_folder_of_another_origin_is_left_alone(tmp_path: Path, make_corpus) -> None:
    make_corpus(tmp_path, "toy", 3)
    before = files(tmp_path / "toy")
    with pytest.raises(DataError, match=r"toy: contains 000000.tar, which another command or version wrote"):
        toy_job.prepare(tmp_path)
    assert files(tmp_path / "toy") == before


@pytest.mark.parametrize("lost", ["000004.tar", "log/000004.parquet", "index.npy"])
def test_what_was_lost_is_made_again(tmp_path: Path, undisturbed: Path, lost: str) -> None:
    toy_job.prepare(tmp_path)
    (tmp_path / "toy" / "manifest.json").unlink()
    (tmp_path / "toy" / lost).write_bytes(b"")
    toy_job.prepare(tmp_path)
    assert files(tmp_path / "toy") == files(undisturbed)


def again(
    out: Path, found: tuple[int, ...], states: tuple[str, ...] = ("404",), stop_after: int | None = None
) -> Manifest:
    """Try the rows that are not found again, three a shard; `stop_after` so many outcomes the process ends."""

    class Images(toy_job.ToyImages):
        def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
            for count, outcome in enumerate(super().outcomes(rows)):
                if count == stop_after:
                    raise KeyboardInterrupt
                yield outcome

    job = toy_job.config(out, again=list(states), records_per_shard=3)
    return run_job(job, ToyTable(), Images(job.size, found=found), toy_job.ABOUT)


def test_rows_that_ended_in_some_states_are_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = toy_job.prepare(tmp_path, records_per_shard=3)
    failed = [row for row in range(200) if row % 20 == 11 and not ToyTable().row(row).state]
    assert first.extra["states"]["404"] == len(failed) == 9
    shards = {path: path.read_bytes() for path in (tmp_path / "toy").glob("*.tar")}
    for found, images in (
        (failed[2:4], 2),
        (failed[:3] + failed[5:], 8),
        (failed, 9),
    ):  # some are found in two of the passes
        manifest = again(tmp_path, tuple(found))
        corpus = open_corpus(str(tmp_path), "toy")
        corpus.check_shards()
        records = [corpus.read(row) for row in range(corpus.manifest.images)]
        new = [record.meta["number"] for record in records[first.images :]]
        assert len(records) == first.images + images
        assert set(new) <= set(failed)
        assert len({record.meta["number"] for record in records}) == len(records), "an image twice"
        failed_still = {"404": 9 - images} if images < 9 else {}
        others = {state: count for state, count in first.extra["states"].items() if state != "404"}
        assert manifest.extra["states"] == {**others, **failed_still, "ok": first.images + images}
        assert sum(manifest.extra["states"].values()) == manifest.extra["rows"] == 200
        assert lint.run(lint.LintConfig(root=str(tmp_path / "toy"), workers=1, duplicates="fail")) == 0
    assert all(path.read_bytes() == content for path, content in shards.items())
    before = files(tmp_path / "toy")
    capsys.readouterr()
    again(tmp_path, ())
    assert "toy: no row ended in again=404" in capsys.readouterr().out
    (tmp_path / "toy" / "manifest.json").unlink()
    toy_job.prepare(tmp_path, records_per_shard=3)
    assert files(tmp_path / "toy") == before, "the logs alone give the same corpus"


@pytest.mark.parametrize("stop_after", [0, 1, 4, 7, 8])
def test_a_pass_over_failed_rows_goes_on_after_a_kill(tmp_path: Path, stop_after: int) -> None:
    found = (11, 51, 71, 91, 131, 151, 191)
    for root in ("whole", "stopped"):
        toy_job.prepare(tmp_path / root, records_per_shard=3)
    again(tmp_path / "whole", found)
    with pytest.raises(KeyboardInterrupt):
        again(tmp_path / "stopped", found, stop_after=stop_after)
    assert toy_job.prepare(tmp_path / "stopped", records_per_shard=3).extra["states"]["404"] == 9, "it is as it was"
    again(tmp_path / "stopped", found)
    assert files(tmp_path / "stopped" / "toy") == files(tmp_path / "whole" / "toy")


def test_what_has_an_image_is_not_tried_again(tmp_path: Path) -> None:
    for state in ("ok", "duplicate key"):
        with pytest.raises(ConfigError, match=f"again={state}: an image would be in the corpus twice"):
            toy_job.config(tmp_path, again=["404", state])


def test_a_torn_spool_costs_its_last_image_only(tmp_path: Path, undisturbed: Path) -> None:
    process = start(tmp_path, tmp_path / "had")
    wait_until(tmp_path / "had", 8)
    process.kill()
    process.communicate()
    (spool,) = [path for path in (tmp_path / "toy" / "spool").iterdir() if path.stat().st_size > 3000][:1]
    with spool.open("r+b") as file:
        file.truncate(spool.stat().st_size - 100)
    toy_job.prepare(tmp_path, had=str(tmp_path / "had"))
    assert files(tmp_path / "toy") == files(undisturbed)
    assert len(had(tmp_path / "had")) - len(set(had(tmp_path / "had"))) <= 1


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 30 kB, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_write_that_fails_is_one_message_and_loses_nothing(tmp_path: Path, undisturbed: Path) -> None:
    with pytest.raises(DataError, match=r"File too large.*what was written is intact"):
        toy_job.prepare(tmp_path, records_per_shard=40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    toy_job.prepare(tmp_path, records_per_shard=40)
    toy_job.prepare(tmp_path / "straight", records_per_shard=40)
    assert files(tmp_path / "toy") == files(tmp_path / "straight" / "toy")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], stderr=subprocess.DEVNULL
    ).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_message_and_loses_nothing(mounted: Path, undisturbed: Path) -> None:
    with pytest.raises(
        DataError, match=rf"out={mounted}/toy: No space left on device.*make room.*run the same command"
    ):
        toy_job.prepare(mounted)
    tars = sorted((mounted / "toy").glob("*.tar"))
    assert tars
    assert all(tar.read_bytes() == (undisturbed / tar.name).read_bytes() for tar in tars)
    subprocess.run(["mount", "-o", "remount,size=10m", mounted], check=True)
    toy_job.prepare(mounted)
    assert files(mounted / "toy") == files(undisturbed)


def test_an_output_that_is_read_only_is_one_message(mounted: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    with pytest.raises(DataError, match=r"Read-only file system"):
        toy_job.prepare(mounted)


def test_a_url_as_output(tmp_path: Path, undisturbed: Path) -> None:
    import fsspec

    with pytest.raises(ConfigError, match="out=memory://root: is remote; set scratch"):
        toy_job.prepare("memory://root")
    memory = fsspec.filesystem("memory")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        images = toy_job.ToyImages(24)
        broken = type("Broken", (ToyTable,), {"row": lambda self, n: ToyTable.row(self, n) if n < 95 else 1 // 0})()
        toy_job.run_job(toy_job.config("memory://root", scratch=str(tmp_path)), broken, images, toy_job.ABOUT)
    assert memory.glob("/root/toy/*.tar")
    assert not memory.exists("/root/toy/manifest.json")
    toy_job.prepare("memory://root", scratch=str(tmp_path))
    written = {name.removeprefix("/root/toy/"): memory.cat_file(name) for name in memory.find("/root/toy")}
    written.pop("preparation.json")
    assert written == files(undisturbed)
    assert not list(tmp_path.rglob("spool"))
    toy_job.prepare(f"file://{tmp_path}/local")
    assert files(tmp_path / "local" / "toy") == files(undisturbed)


def test_scratch_on_another_file_system(tmp_path: Path, mounted: Path, undisturbed: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=10m", mounted], check=True)
    toy_job.prepare(tmp_path, scratch=str(mounted))
    assert files(tmp_path / "toy") == files(undisturbed)


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    class Nothing(ToyTable):
        def row(self, number: int) -> toy_job.Row:
            return ToyTable.row(self, number)._replace(state="gone")

    with pytest.raises(DataError, match=r"toy: none of the rows gave an image; gone: 200"):
        toy_job.prepare(tmp_path, Nothing())
    with pytest.raises(UserError, match="the source has no rows"):
        toy_job.prepare(tmp_path / "none", ToyTable(length=0))
    assert not (tmp_path / "toy" / "manifest.json").exists()


def test_when_and_where_it_was_prepared_is_noted_apart(tmp_path: Path) -> None:
    toy_job.prepare(tmp_path)
    noted = json.loads((tmp_path / "toy" / "preparation.json").read_text())
    assert noted["settings"] == {"format": 1, "size": 24, "records_per_shard": 10}
    assert noted["started"] <= noted["finished"]
    assert {"host", "command", "versions", "source"} < set(noted)


def test_states_of_an_earlier_version_are_counted_under_their_names(tmp_path: Path) -> None:
    class Former(toy_job.ToyImages):
        def outcomes(self, rows: Iterator[tuple[int, toy_job.Row]]) -> Iterator[tuple[int, toy_job.Outcome]]:
            for number, outcome in super().outcomes(rows):
                if number > 124:
                    raise ZeroDivisionError  # in the middle of a range: this one has a spool, those before it a log
                yield number, outcome._replace(state="not a picture") if outcome.state == "404" else outcome

    with pytest.raises(ZeroDivisionError):
        toy_job.run_job(toy_job.config(tmp_path), ToyTable(), Former(24), toy_job.ABOUT)
    assert list((tmp_path / "toy" / "log").iterdir())
    assert list((tmp_path / "toy" / "spool").iterdir())
    before = toy_job.prepare(tmp_path / "undisturbed").extra["states"]
    states = toy_job.prepare(tmp_path).extra["states"]
    assert "not a picture" not in states
    assert states["not an image"] > 2
    assert states["not an image"] + states["404"] == before["404"]


def test_captions_are_tidied(tmp_path: Path) -> None:
    class Untidy(ToyTable):
        def row(self, number: int) -> toy_job.Row:
            texts = ["a\0dog\t\r\nruns ", "two  blanks", "\0\x1f", "a dog runs", "caf\xe9\u2028here", "lone \ud800"]
            return ToyTable.row(self, number)._replace(captions=["\0"] if number else texts, state="")

    toy_job.prepare(tmp_path, Untidy(length=2))
    corpus = open_corpus(str(tmp_path), "toy")
    assert corpus.read(0).captions == ["a dog runs", "two  blanks", "caf\xe9 here", "lone ?"]
    assert corpus.manifest.dropped == {"no caption": 1}


def ray_workers(driver: int) -> list[psutil.Process]:
    """Processes that work on a task of the cluster which the driver has started."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[0].startswith("ray::_prepare"):
                found.append(process)
    return found


@pytest.mark.slow
def test_ray_goes_on_when_a_worker_is_killed_in_mid_task(tmp_path: Path, undisturbed: Path) -> None:
    pytest.importorskip("ray")
    log = tmp_path / "had"
    process = start(tmp_path, log, "engine=ray")
    killed = 0
    for count in (5, 60):
        wait_until(log, count)
        workers = ray_workers(process.pid)
        for worker in workers:
            worker.kill()
        killed += len(workers)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert killed
    assert "156 images" in out
    assert files(tmp_path / "toy") == files(undisturbed)
    assert len(set(had(log))) == len(had(log)), "an image was had twice"


@pytest.mark.slow
def test_ray_stops_in_good_order_with_scratch_of_its_own(tmp_path: Path, undisturbed: Path) -> None:
    pytest.importorskip("ray")
    keys = ("engine=ray", f"scratch={tmp_path}/scratch")
    process = start(tmp_path, tmp_path / "had", *keys)
    wait_until(tmp_path / "had", 30)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 143, err
    assert "run the same command to resume" in out
    assert not psutil.wait_procs(family, timeout=120)[1]
    out, err = start(tmp_path, tmp_path / "had", *keys).communicate(timeout=180)
    assert files(tmp_path / "toy") == files(undisturbed), err
