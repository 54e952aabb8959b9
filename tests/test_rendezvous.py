"""Where the sockets of rank 0 listen."""

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psutil
import pytest

from bridgetower_train import rendezvous


@pytest.fixture
def listens(monkeypatch):
    """`listens(master_addr, local_world_size)`: the address on which rank 0 of 8 listens."""

    def listens(master_addr: str, local_world_size: int) -> str:
        for name, value in {"MASTER_ADDR": master_addr, "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": local_world_size}.items():
            monkeypatch.setenv(name, str(value))
        with rendezvous.listen() as server:
            return str(server.getsockname()[0])

    return listens


def own_address() -> str:
    """An address of this machine that others can reach."""
    addresses = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET]
    found = [address for address in addresses if not address.startswith("127.")]
    if not found:
        pytest.skip("this machine has no network")
    return found[0]


def test_on_one_host_it_is_the_loopback(listens):
    assert listens(own_address(), 8) == "127.0.0.1"


def test_over_hosts_it_is_the_interface_of_master_addr(listens, capsys):
    assert listens(own_address(), 4) == own_address()
    assert listens("127.0.0.1", 4) == "127.0.0.1"
    assert not capsys.readouterr().err


@pytest.mark.parametrize("address", ["192.0.2.200", "127.0.1.1", "::1"])
def test_an_address_by_which_others_cannot_reach_it_is_reported(listens, monkeypatch, capsys, address):
    """Debian lets the name of a host be 127.0.1.1 on the host itself; some networks translate addresses."""
    place = (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [place])
    assert listens("gaudi-1", 4) in ("::", "0.0.0.0")
    said = capsys.readouterr().err
    assert f"MASTER_ADDR=gaudi-1 is {address} here" in said
    assert said.count("\n") == 1


def test_a_rank_waits_for_the_store_of_the_next_rank_0(listens, monkeypatch):
    """The store of one that is about to end: restarted ranks of other hosts may find it at the same port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("BRIDGETOWER_STORE_PORT", str(port))
    assert listens("127.0.0.1", 4)
    timeout = timedelta(seconds=30)
    old = rendezvous._connect(port, timeout, rendezvous.listen(port).detach())
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(rendezvous.meet, 1, 2, timeout)
        old.get("joins/1")
        assert not waiting.done()
        del old
        store = rendezvous.meet(0, 2, timeout)
        waiting.result().set("from", "rank 1")
        assert store.get("from") == b"rank 1"
