"""Where ranks meet. Ports of ours listen on one interface: the loopback if all ranks are on this host, else MASTER_ADDR's."""

import errno
import os
import secrets
import socket
import sys
import time
from datetime import timedelta
from ipaddress import ip_address

from torch.distributed import DistNetworkError, Store, TCPStore  # type: ignore[attr-defined]

from bridgetower_train.errors import UserError

_LOOPBACK = "127.0.0.1"
_BACKLOG = 4096
_LOOK_EVERY = 0.2  # seconds


def stay_on_this_host() -> None:
    """Let the collective libraries of this process listen on the loopback alone."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    for library in ("GLOO", "NCCL", "HCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = loopback


def on_one_host() -> bool:
    """Whether all ranks are on this host, by the launcher's variables."""
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]


def address_of_rank_0() -> str:
    """The name or address by which this process reaches rank 0."""
    return _LOOPBACK if on_one_host() else os.environ["MASTER_ADDR"]


def listen(port: int = 0) -> socket.socket:
    """A server socket of rank 0 at `port`, or a free one, on the interface of `address_of_rank_0`.

    If that is no address of this host by which others could reach it, on every interface, which is printed.
    """
    name = address_of_rank_0()
    family, _, _, _, place = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
    address = str(place[0])
    found = f"{name} is {address}" if name != address else name
    if name == address or not ip_address(address).is_loopback:
        try:
            return socket.create_server((address, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    print(
        f"warning: MASTER_ADDR={found} here, which is no address by which other hosts reach this one: rank 0 listens on "
        "every interface; set MASTER_ADDR to its address on the network of the run",
        file=sys.stderr,
        flush=True,
    )
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)


def meet(rank: int, world_size: int, timeout: timedelta) -> Store:
    """The store through which the ranks find each other; UserError where they do not within `timeout`.

    It is a store of rank 0 at BRIDGETOWER_STORE_PORT or MASTER_PORT, unless torchrun's agent has one there. Torch's own
    `env://` would listen on every interface.
    """
    try:
        return _meet(rank, world_size, timeout)
    except (OSError, RuntimeError) as error:
        address, port, why = os.environ["MASTER_ADDR"], _port(), str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"rank {rank} of {world_size} cannot meet the others at {address}, port {port}: {why}; start all ranks with one "
            "launcher (torchrun, launch/), or unset WORLD_SIZE to train in a single process"
        ) from error


def _port() -> int:
    return int(os.environ.get("BRIDGETOWER_STORE_PORT") or os.environ["MASTER_PORT"])


def _meet(rank: int, world_size: int, timeout: timedelta) -> Store:
    port, own = _port(), "BRIDGETOWER_STORE_PORT" in os.environ
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not own:
        return _connect(port, timeout)
    if rank == 0:
        store = _connect(port, timeout, listen(port).detach())
        for other in range(1, world_size):
            store.set(store.get(f"joins/{other}").decode(), "")
        return store
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            return _join(_connect(port, timeout), rank, deadline)
        except DistNetworkError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_EVERY)


def _join(store: Store, rank: int, deadline: float) -> Store:
    """The store, once rank 0 has seen this process. A rank 0 that is about to end sees nobody, and takes its store with it."""
    token = secrets.token_hex()
    store.set(f"joins/{rank}", token)
    while not store.check([token]):
        if time.monotonic() > deadline:
            raise RuntimeError("not all have started within distributed.timeout")
        time.sleep(_LOOK_EVERY)
    return store


def _connect(port: int, timeout: timedelta, server: int | None = None) -> Store:
    return TCPStore(
        address_of_rank_0(),
        port,
        is_master=server is not None,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=server,
        use_libuv=False,  # torch 2.6's server by libuv takes no socket that listens already
    )
