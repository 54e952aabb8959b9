"""Which rank is blamed, and how all of them end."""

import contextlib
import multiprocessing
import re
import signal

import psutil
import pytest
import torch.distributed as dist

from tests.watchdog.members import member

RANKS = 3


@pytest.fixture(scope="module")
def processes():
    """Processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.watchdog.members"])
    return context


@pytest.fixture
def end(processes, tmp_path):
    """Runs ranks, of which `culprit` meets with `fault`; (its pid, exit codes, what each of them says)."""
    started = []

    def end(culprit: int, fault: str, timeout: float, when: str = "after") -> tuple[int, list[int], list[str]]:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank in range(RANKS):
            arguments = (rank, RANKS, store.port, tmp_path, timeout, fault if rank == culprit else "", when)
            started.append(processes.Process(target=member, args=arguments))
            started[-1].start()
        for process in started:
            process.join(60)
            assert not process.is_alive(), [path.read_text() for path in sorted(tmp_path.glob("*.txt"))]
        said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(RANKS)]
        return started[culprit].pid, [process.exitcode for process in started], said

    yield end
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(process.pid).kill()


@pytest.mark.parametrize("culprit", [0, 2])
@pytest.mark.parametrize(
    ("fault", "timeout", "when", "code", "told"),
    [
        ("killed", 60, "after", -signal.SIGKILL, "was lost at step 7, while training"),
        ("stopped", 4, "after", -signal.SIGKILL, r"has not answered for 3.2 s \(distributed.timeout=4\)"),
        (
            "hangs",
            4,
            "before",
            1,
            r"hangs at step 6, while training \(jobs.py:\d+\); the others have waited for 3.2 s",
        ),
        (
            "hangs",
            4,
            "after",
            1,
            r"hangs at step 7, while training \(jobs.py:\d+\); the others have waited for 3.2 s",
        ),
        ("fails", 60, "after", 1, "ended at step 7, while training, with ValueError: invalid literal"),
    ],
)
def test_the_rank_that_is_to_blame_is_named_once(end, culprit, fault, timeout, when, code, told):
    pid, codes, said = end(culprit, fault, timeout, when)
    assert codes == [code if rank == culprit else 1 for rank in range(RANKS)], said
    speaker = 0 if culprit else 1
    assert re.search(rf"^error: rank {culprit} \(host \S+, pid {pid}\) {told}", said[speaker], re.MULTILINE), said
    assert [text.count("error: ") for text in said] == [int(rank == speaker) for rank in range(RANKS)]


def test_a_rank_that_hangs_when_rank_0_has_left_is_named(end):
    pid, codes, said = end(2, "hangs", 4, "end")
    assert codes == [1, 0, 1], said
    assert re.search(rf"^error: rank 2 \(host \S+, pid {pid}\) hangs at step 20, while training \(jobs.py", said[0]), (
        said
    )


def test_who_aborts_because_a_collective_takes_too_long_is_not_to_blame(end):
    pid, codes, said = end(2, "hangs", 4, "aborting")
    assert codes[2] == 1, said
    assert re.search(rf"error: rank 2 \(host \S+, pid {pid}\) hangs at step 7", "".join(said)), said
    assert "was lost" not in "".join(said)


def test_a_child_of_a_killed_rank_does_not_hide_its_end(end):
    """Loader workers have copies of all connections."""
    _, codes, said = end(2, "killed with a child", 60)
    assert codes[:2] == [1, 1]
    assert "was lost at step 7" in said[0]
    psutil.Process(int(said[2])).kill()  # which is still there


def test_ranks_that_finish_say_nothing(end):
    assert end(0, "", 60)[1:] == ([0] * RANKS, [""] * RANKS)
