"""Other users of the host reach neither the sockets nor the shared memory of the processes of a run."""

import asyncio
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import psutil
from torch.utils.data import DataLoader

from data_prep.fetch.decoders import Decoders
from data_prep.source.rows import OK, Outcome
from tests.hostile.attacks import attack


def names_of_sockets(processes: Iterable[psutil.Process]) -> set[str]:
    """The names of Unix sockets that listen; an abstract one begins with @."""
    held = {
        os.readlink(link)
        for process in processes
        for link in Path(f"/proc/{process.pid}/fd").iterdir()
        if link.is_symlink()
    }
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {line[7] for line in lines if len(line) > 7 and f"socket:[{line[6]}]" in held}


def decode(content: bytes, encoding: str, digest: str) -> Outcome:
    return Outcome(OK, content)


@attack(62)
def test_sockets_have_no_name_or_lie_in_a_folder_of_their_user():
    async def work() -> set[str]:
        async with Decoders(decode, 1) as decoders:
            assert (await decoders.decode(b"image", "", "")).state == OK
            process = psutil.Process()
            return names_of_sockets([process, *process.children(recursive=True)])

    names = asyncio.run(work())
    assert names  # the socket of the forkserver
    for name in names:
        folder = Path(name).parent
        assert folder.is_absolute(), name
        assert not folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), name


@attack(62)
def test_shared_memory_is_open_to_its_user_alone():
    loader = DataLoader([list(range(1000))] * 4, batch_size=2, num_workers=1, multiprocessing_context="forkserver")
    batches = list(loader)
    assert len(batches) == 2
    modes = {}
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink() and os.readlink(link).startswith("/dev/shm/"):
            modes[os.readlink(link)] = stat.S_IMODE(os.stat(link).st_mode)
    assert set(modes.values()) == {0o600}, modes
