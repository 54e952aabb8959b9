"""Text of others, made safe to show: on a terminal, in a log, in stored command lines."""

import re
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)  # C0, C1, bidirectional controls, line separators, halves of surrogate pairs
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>\\]+")
_SECRET = re.compile(r"sig|token|secret|passw|key|auth|credential|policy", re.IGNORECASE)


def printable(text: object) -> str:
    """`text` in one line, with control characters and bidirectional marks as escapes such as `\\x1b`."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def without_secrets(text: str) -> str:
    """`text` without the user names and passwords, and without the values of signing parameters, of all URLs in it."""
    return _URL.sub(lambda found: _public(found[0]), text)


def _public(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # an unfinished IPv6 address
        return re.sub(r"://[^/?#]*@", "://***@", url).partition("?")[0]
    _, at, host = parts.netloc.rpartition("@")
    query = parts.query
    if _SECRET.search(query):
        pairs = parse_qsl(query, keep_blank_values=True)
        query = "&".join(f"{quote(key)}={'***' if _SECRET.search(key) else quote(value)}" for key, value in pairs)
    return (
        urlunsplit(parts._replace(netloc=f"***@{host}" if at else host, query=query))
        if at or query != parts.query
        else url
    )
