"""A DNS server on this machine, for tests."""

import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Addresses = Callable[[str, int], list[str] | None]
"""A name, and how often it was asked for before, to its IPv4 addresses: [] says that there are none, None says nothing."""


@contextmanager
def name_server(addresses: Addresses) -> Iterator[tuple[str, Counter[str]]]:
    """Answer questions for A records, TTL 0; where, and how often each name has been asked for."""
    asked: Counter[str] = Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            while True:
                question, client = server.recvfrom(4096)
                if not question:
                    return
                reply = _reply(question, asked, addresses)
                if reply:
                    server.sendto(reply, client)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}", asked
        finally:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", server.getsockname())
            thread.join()


def _reply(question: bytes, asked: Counter[str], addresses: Addresses) -> bytes:
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    name, kind = ".".join(labels).lower(), int.from_bytes(question[at + 1 : at + 3], "big")
    found: list[str] | None = []
    if kind == 1:
        found = addresses(name, asked[name])
        asked[name] += 1
    elif addresses(name, 0) == []:
        found = []
    if found is None:
        return b""
    missing = addresses(name, 0) == []
    flags = b"\x81\x83" if missing else b"\x81\x80"
    head = question[:2] + flags + b"\0\1" + len(found).to_bytes(2, "big") + b"\0\0\0\0"
    records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + ipaddress.ip_address(a).packed for a in found)
    return head + question[12 : at + 5] + records
