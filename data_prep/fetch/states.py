"""The states in which a URL can end, apart from those of the pictures themselves (`data_prep.picture`).

An HTTP status other than 200 is its own state: "404", "403", "503".
"""

import asyncio
import errno
import ssl

import aiohttp

from bridgetower_train.errors import UserError

BAD_URL = "bad url"
REFUSED_SCHEME = "refused scheme"
REFUSED_ADDRESS = "refused address"
TOO_MANY_REDIRECTS = "too many redirects"
DNS = "dns"
CONNECTION = "connection"
TLS = "tls"
TIMEOUT = "timeout"
BAD_RESPONSE = "bad response"
TRUNCATED = "truncated"
TOO_LARGE = "too large"
OPTED_OUT = "opted out"
BAD_ENCODING = "bad encoding"
HASH_MISMATCH = "hash mismatch"
TOO_SMALL = "too small"
DECODER_DIED = "decoder died"
FAILED = "failed"

UNANSWERED = {DNS, CONNECTION, TIMEOUT}
"""States in which no server may have said anything."""
RETRIED = {429, 500, 502, 503, 504}
"""HTTP statuses that may pass."""


class NoPictureError(Exception):
    """A URL gives no picture: its state and more about it. `wait`: seconds after which to try again, None for never."""

    def __init__(self, state: str, detail: str = "", wait: float | None = None) -> None:
        super().__init__(state, detail)
        self.state = state
        self.detail = detail
        self.wait = wait


class RefusedAddressError(OSError):
    """A host has no address that may be fetched from."""


def explain(error: Exception) -> NoPictureError:
    """The state that an error of the connection stands for. UserError where this machine is to blame."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    detail = str(cause) or type(cause).__name__
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
        raise UserError(f"{cause.strerror}: lower fetch.in_flight, or raise `ulimit -n`") from None
    if isinstance(cause, RefusedAddressError):
        return NoPictureError(REFUSED_ADDRESS, detail)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NoPictureError(DNS, detail)
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return NoPictureError(TLS, detail)
    if isinstance(error, asyncio.TimeoutError):
        return NoPictureError(TIMEOUT, detail)
    if isinstance(error, aiohttp.ClientPayloadError):
        return NoPictureError(TRUNCATED, detail, wait=0)
    if isinstance(error, aiohttp.ClientResponseError):
        return NoPictureError(BAD_RESPONSE, detail, wait=0)
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return NoPictureError(BAD_URL, detail)
    if isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(cause, ConnectionResetError | BrokenPipeError):
        return NoPictureError(CONNECTION, detail, wait=0)
    if isinstance(error, aiohttp.ClientError | OSError):
        return NoPictureError(CONNECTION, detail)
    return NoPictureError(FAILED, repr(error))
