"""One URL to the bytes that its server sends, or to the state that says why there are none."""

import asyncio
import email.utils
import errno
import itertools
import random
import ssl
import sys
import time
from typing import Any

import aiohttp
from yarl import URL

from bridgetower_train.errors import UserError
from bridgetower_train.versions import versions
from data_prep.fetch import states
from data_prep.fetch.addresses import PublicResolver, check_literal, parse
from data_prep.fetch.budget import Held
from data_prep.fetch.config import FetchConfig
from data_prep.fetch.robots import AGENT, opted_out
from data_prep.fetch.states import NotAnImageError, RefusedAddressError

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

_REDIRECTS = {301, 302, 303, 307, 308}
_BACK_OFF = 0.5  # seconds before the first retry; doubles
_KEEP_ALIVE = 2.0  # seconds: an idle connection costs a file descriptor
_BUFFER = 1 << 14  # bytes per connection beyond those that are counted
_MAX_LINE = 1 << 15  # bytes of a header: policies and lists of links exceed aiohttp's 8,190
_MAX_HEADERS = 100  # of an answer, trailers included; as in Python's http.client


class Client:
    """Fetches URLs within the limits of `config`. An asynchronous context manager."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config

    async def __aenter__(self) -> "Client":
        config = self._config
        self._resolver = PublicResolver(config.nameservers, config.dns_ttl, config.allow_loopback)
        self._session = self._open(keepalive_timeout=_KEEP_ALIVE)
        self._fresh = self._open(force_close=True)
        self._fresh._retry_connection = False  # every connection is new: none is stale
        return self

    def _open(self, **options: Any) -> aiohttp.ClientSession:
        config = self._config
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            use_dns_cache=False,  # the resolver has its own, for failures too
            limit=0,
            limit_per_host=config.per_host,
            **options,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout),
            headers={"User-Agent": user_agent(config.contact), "Accept": "image/*", "Accept-Encoding": "identity"},
            auto_decompress=False,  # otherwise 10 MB would unpack to 10 GB before they are counted
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_BUFFER,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_HEADERS,
        )

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._fresh.close()
        await self._resolver.close()

    async def fetch(self, location: str, held: Held, tries: int = 0) -> tuple[bytes, str]:
        """The body at `location`, its bytes counted in `held`, and its `Content-Encoding` in lower case, "" for none.

        `tries`: how often it was fetched before. NotAnImageError where it does not arrive in time, or the server asks to wait.
        """
        deadline = self._config.deadline
        failures = [NotAnImageError(states.TIMEOUT, f"not whole after {deadline:g} s")]
        try:
            # Not wait_for: before Python 3.12 its task and an error in it form a reference cycle.
            async with timeout(deadline):
                return await self._retried(parse(location), held, failures, tries)
        except asyncio.TimeoutError:
            raise failures.pop() from None

    async def _retried(self, url: URL, held: Held, failures: list[NotAnImageError], tries: int) -> tuple[bytes, str]:
        end = time.monotonic() + self._config.deadline
        for attempt in itertools.count(tries):
            try:
                # A reused connection may deliver the rest of an earlier answer; a retry must not get it.
                return await self._redirected(self._fresh if attempt else self._session, url, held)
            except NotAnImageError as error:
                if error.wait != 0 or attempt == self._config.retries:
                    raise
                pause = _BACK_OFF * 2**attempt * random.uniform(0.5, 1.5)
                if time.monotonic() + pause > end:
                    raise
                # More precise than that a retry ran out of time; a new error, since a traceback would refer to itself.
                failures.append(NotAnImageError(error.state, error.detail))
                held.clear()
                await asyncio.sleep(pause)
        raise AssertionError

    async def _redirected(self, session: aiohttp.ClientSession, url: URL, held: Held) -> tuple[bytes, str]:
        for _ in range(self._config.redirects + 1):
            check_literal(url, self._config.allow_loopback)
            try:
                async with session.get(url, allow_redirects=False) as response:
                    target = response.headers.get("Location")
                    if response.status not in _REDIRECTS or target is None:
                        return await self._body(response, held)
            except NotAnImageError:
                raise
            except Exception as error:  # unusual servers and URLs make the client raise all kinds of errors
                # Without the traceback: its raiser may keep the error, which would form a reference cycle.
                raise explain(error) from error.with_traceback(None)
            url = parse(target, url)
        raise NotAnImageError(states.TOO_MANY_REDIRECTS, str(url)[:200])

    async def _body(self, response: aiohttp.ClientResponse, held: Held) -> tuple[bytes, str]:
        if response.status != 200:
            wait = _retry_after(response.headers.get("Retry-After", "")) if response.status in states.RETRIED else None
            raise NotAnImageError(str(response.status), response.reason or "", wait)
        refusal = opted_out(response.headers.getall("X-Robots-Tag", ()))
        if refusal:
            raise NotAnImageError(states.OPTED_OUT, refusal)
        limit = self._config.max_bytes
        if (response.content_length or 0) > limit:
            raise NotAnImageError(states.TOO_LARGE, f"{response.content_length:,} bytes announced")
        async for chunk in response.content.iter_any():
            if len(held.content) + len(chunk) > limit:
                raise NotAnImageError(states.TOO_LARGE, f"over {limit:,} bytes")
            await held.add(chunk)
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        return bytes(held.content), "" if encoding == "identity" else encoding


def user_agent(contact: str) -> str:
    """Program, purpose and contact."""
    comment = "; ".join(filter(None, ("image-caption dataset preparation", contact)))
    return f"{AGENT}/{versions().get(AGENT, '0')} ({comment})"


def _retry_after(header: str) -> float:
    """Seconds of a `Retry-After` header, 0 where it has none."""
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def explain(error: Exception) -> NotAnImageError:
    """The state for an error of the connection. UserError where this machine is the cause."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    detail = str(cause) or type(cause).__name__
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
        raise UserError(f"{cause.strerror}: lower fetch.in_flight, or raise `ulimit -n`") from None
    if isinstance(cause, RefusedAddressError):
        return NotAnImageError(states.REFUSED_ADDRESS, detail)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NotAnImageError(states.DNS, detail)
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return NotAnImageError(states.TLS, detail)
    if isinstance(error, asyncio.TimeoutError):
        return NotAnImageError(states.TIMEOUT, detail)
    if isinstance(error, aiohttp.ClientPayloadError):
        return NotAnImageError(states.TRUNCATED, detail, wait=0)
    if isinstance(error, aiohttp.ClientResponseError):
        return NotAnImageError(states.BAD_RESPONSE, detail, wait=0)
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return NotAnImageError(states.BAD_URL, detail)
    if isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(cause, ConnectionResetError | BrokenPipeError):
        return NotAnImageError(states.CONNECTION, detail, wait=0)
    if isinstance(error, aiohttp.ClientError | OSError):
        return NotAnImageError(states.CONNECTION, detail)
    return NotAnImageError(states.FAILED, repr(error))
