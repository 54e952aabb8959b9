"""A fault-injection server: it serves images with the faults of the web."""

import asyncio
import contextlib
import gzip
import io
import signal
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

from PIL import Image

from data_prep.source.rows import OK

EDGE = 1 << 16
"""Bytes per write of an endless answer."""


class Reply(NamedTuple):
    """A request to answer."""

    writer: asyncio.StreamWriter
    image: bytes
    number: int
    first: bool
    """It is the first request for this path."""

    async def send(self, body: bytes, status: str = "200 OK", **headers: object) -> None:
        """An ordinary answer; `Content_Length=None` leaves that header out."""
        fields: dict[str, object] = {"Content-Type": "image/jpeg", "Content-Length": len(body)}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()


Answer = Callable[[Reply], Awaitable[None]]


class Kind(NamedTuple):
    """What the server does at `/name/number`, and the state in which a fetch must end; one of two where TCP's segments decide."""

    answer: Answer
    state: str = OK
    or_state: str = ""


@cache
def kinds() -> dict[str, Kind]:
    """All kinds by name, those that must succeed first."""
    return _good() | _bad_connections() | _bad_answers() | _bad_images()


def _good() -> dict[str, Kind]:
    async def once_503(reply: Reply) -> None:
        await (reply.send(b"", "503 Busy", Retry_After=0) if reply.first else reply.send(reply.image))

    async def once_reset(reply: Reply) -> None:
        await (_reset(reply) if reply.first else reply.send(reply.image))

    async def retry_after_unknown(reply: Reply) -> None:
        await (reply.send(b"", "503 Busy", Retry_After="\u00b2") if reply.first else reply.send(reply.image))

    async def late(reply: Reply) -> None:
        await asyncio.sleep(0.5)
        await reply.send(reply.image)

    async def chunked(reply: Reply) -> None:
        await reply.send(
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(reply.image), reply.image),
            Content_Length=None,
            Transfer_Encoding="chunked",
        )

    return {
        "ok": Kind(lambda r: r.send(r.image)),
        "late": Kind(late),
        "redirect": Kind(lambda r: r.send(b"", "302 Found", Location=f"/ok/{r.number}")),
        "chunked": Kind(chunked),
        "gzip": Kind(lambda r: r.send(gzip.compress(r.image, 1), Content_Encoding="gzip")),
        "once_503": Kind(once_503),
        **{
            f"encoding_{number}": Kind(lambda r, name=name: r.send(r.image, Content_Encoding=name))  # type: ignore[misc]
            for number, name in enumerate(("none", "UTF-8", "binary", "aws-chunked", "image/jpeg", "gzip", "deflate"))
        },
        "two_encodings": Kind(lambda r: r.send(gzip.compress(r.image, 1), Content_Encoding="aws-chunked, GZIP")),
        "once_reset": Kind(once_reset),
        "retry_after_unknown": Kind(retry_after_unknown),
        "long_header": Kind(lambda r: r.send(r.image, Content_Security_Policy="x" * 30_000)),
        "other_bot": Kind(lambda r: r.send(r.image, X_Robots_Tag="otherbot: noai, noindex")),
        "mislabelled": Kind(lambda r: r.send(r.image, Content_Type="text/html")),
    }


def _bad_connections() -> dict[str, Kind]:
    async def drip(reply: Reply) -> None:
        await reply.send(b"", Content_Length=len(reply.image))
        for byte in reply.image:
            reply.writer.write(bytes([byte]))
            await reply.writer.drain()
            await asyncio.sleep(1)

    async def longer(reply: Reply) -> None:
        await reply.send(reply.image, Content_Length=2 * len(reply.image))
        reply.writer.close()

    async def hang_up(reply: Reply) -> None:
        reply.writer.close()

    async def babble(reply: Reply) -> None:
        reply.writer.write(b"SSH-2.0-OpenSSH_9.7\r\n\r\n")
        reply.writer.close()

    def endless(first: bytes, again: bytes) -> Answer:
        async def answer(reply: Reply) -> None:
            reply.writer.write(first)
            while True:
                reply.writer.write(again * (EDGE // len(again)))
                await reply.writer.drain()

        return answer

    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    return {
        "endless_100": Kind(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "timeout"),
        "tiny_chunks": Kind(endless(start + b"\r\n", b"1\r\nx\r\n"), "timeout", "too large"),
        "endless_headers": Kind(endless(start, b"X-Y: z\r\n"), "bad response"),
        "endless_trailers": Kind(endless(start + b"\r\n1\r\nx\r\n0\r\n", b"X-Y: z\r\n"), "bad response", "truncated"),
        "endless_line": Kind(endless(start + b"X-Y: ", b"z"), "bad response"),
        "drip": Kind(drip, "timeout"),
        "silent": Kind(lambda r: asyncio.sleep(3600), "timeout"),
        "reset": Kind(_reset, "connection"),
        "hang_up": Kind(hang_up, "connection"),
        "longer": Kind(longer, "truncated"),
        "babble": Kind(babble, "bad response"),
    }


def _bad_answers() -> dict[str, Kind]:
    def redirect(location: str) -> Answer:
        return lambda r: r.send(b"", "302 Found", Location=location.format(r.number))

    def status(text: str) -> Answer:
        return lambda r: r.send(b"<html>no</html>", text, Content_Type="text/html")

    async def loud(reply: Reply) -> None:
        body = b"\x1b]0;owned\x07<script>"
        reply.writer.write(b"HTTP/1.1 404 %b\xff\r\nContent-Length: %d\r\n\r\n%b" % (body, len(body), body))
        await reply.writer.drain()

    answers = {
        "loud": Kind(loud, "404"),
        "to_refused_port": Kind(redirect("http://127.0.0.1:1/x.jpg"), "connection"),
        "to_private": Kind(redirect("http://10.0.0.1/x.jpg"), "refused address"),
        "to_metadata": Kind(redirect("http://169.254.169.254/latest/meta-data/"), "refused address"),
        "to_mapped": Kind(redirect("http://[::ffff:192.168.0.1]/x.jpg"), "refused address"),
        "to_decimal": Kind(redirect("http://2130706433:1/x.jpg"), "bad url"),
        "to_other_host": Kind(redirect("//10.0.0.1/x.jpg"), "refused address"),
        "to_file": Kind(redirect("file:///etc/passwd"), "refused scheme"),
        "to_gopher": Kind(redirect("gopher://127.0.0.1:6379/_INFO"), "refused scheme"),
        "to_itself": Kind(redirect("/to_itself/{}"), "too many redirects"),
        "to_nowhere": Kind(redirect("http://"), "bad url"),
        "noai": Kind(lambda r: r.send(r.image, X_Robots_Tag="noai"), "opted out"),
        "noai_to_us": Kind(lambda r: r.send(r.image, X_Robots_Tag="bridgetower-train: noindex"), "opted out"),
        "negative_length": Kind(lambda r: r.send(r.image, Content_Length=-5), "bad response"),
        "two_lengths": Kind(lambda r: r.send(r.image, Content_length=5), "bad response"),
        "gzip_twice": Kind(
            lambda r: r.send(gzip.compress(gzip.compress(r.image)), Content_Encoding="gzip,gzip"), "bad encoding"
        ),
        "brotli": Kind(lambda r: r.send(r.image, Content_Encoding="br"), "bad encoding"),
    }
    for text in ("404 Not Found", "403 Forbidden", "410 Gone", "500 Internal Server Error", "429 Too Many Requests"):
        answers[text.partition(" ")[0]] = Kind(status(text), text.partition(" ")[0])
    return answers


def _bad_images() -> dict[str, Kind]:
    bomb, small, zeros = pixel_bomb(), tiny_gif(), bytes(200_000_000)
    zipped, deflated = gzip.compress(zeros, 1), zlib.compress(zeros, 1)

    def keep_back(reply: Reply) -> None:
        """Otherwise the kernel buffers megabytes for a client that reads none of them."""
        reply.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, EDGE)

    async def endless(reply: Reply) -> None:
        keep_back(reply)
        await reply.send(b"", Content_Length=None, Connection="close")
        while True:
            reply.writer.write(bytes(EDGE))
            await reply.writer.drain()

    async def five_gigabytes(reply: Reply) -> None:
        keep_back(reply)
        await reply.send(b"", Content_Length=5_000_000_000)
        for _ in range(5_000_000_000 // EDGE):
            reply.writer.write(bytes(EDGE))
            await reply.writer.drain()

    return {
        "five_gigabytes": Kind(five_gigabytes, "too large"),
        "endless": Kind(endless, "too large"),
        "gzip_bomb": Kind(lambda r: r.send(zipped, Content_Encoding="gzip"), "too large"),
        "deflate_bomb": Kind(lambda r: r.send(deflated, Content_Encoding="deflate"), "too large"),
        "pixel_bomb": Kind(lambda r: r.send(bomb), "more than 100 megapixels"),
        "html": Kind(lambda r: r.send(b"<html>not found</html>"), "not an image"),
        "empty": Kind(lambda r: r.send(b""), "not an image"),
        "tiny": Kind(lambda r: r.send(small), "too small"),
        "cut": Kind(lambda r: r.send(r.image[: len(r.image) // 2]), "image cannot be decoded"),
        "shorter": Kind(
            lambda r: r.send(r.image, Content_Length=len(r.image) // 2), "image cannot be decoded", "bad response"
        ),
    }


async def _reset(reply: Reply) -> None:
    connection = reply.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reply.writer.transport.abort()


def pixel_bomb() -> bytes:
    """A PNG of a few bytes whose header promises 400 megapixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def tiny_gif() -> bytes:
    """A tracking pixel."""
    out = io.BytesIO()
    Image.new("P", (1, 1)).save(out, "GIF")
    return out.getvalue()


@contextlib.contextmanager
def serve(images: list[bytes], hosts: int = 1) -> Iterator[list[str]]:
    """Serve `images` from another process, at `hosts` addresses such as `http://127.0.0.1:40001`, which are the context's value.

    `/KIND/7` is image 7 with the fault of that kind; `/ok/7` has none.
    """
    context = get_context("spawn")
    pipe, end = context.Pipe()
    process = context.Process(target=_run, args=(images, hosts, end), name="server", daemon=True)
    process.start()
    end.close()
    try:
        yield pipe.recv()
    finally:
        process.kill()
        process.join()
        pipe.close()


def _run(images: list[bytes], hosts: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(images, hosts, pipe))


async def _serve(images: list[bytes], hosts: int, pipe: Connection) -> None:
    known, requested = kinds(), set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                kind, number = path.split("/")[1:3]
                reply = Reply(writer, images[int(number) % len(images)], int(number), path not in requested)
                requested.add(path)
                await known[kind].answer(reply)
        writer.close()

    names = [f"127.0.{host // 250}.{host % 250 + 1}" for host in range(hosts)]
    server = await asyncio.start_server(connected, names[0], 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    if hosts > 1:
        await asyncio.start_server(connected, names[1:], port, backlog=4096)
    pipe.send([f"http://{name}:{port}" for name in names])
    await server.serve_forever()
