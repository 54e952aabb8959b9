"""Which URLs may be fetched: http and https to public addresses, whatever the notation in the URL or the answer of the DNS.

A program that fetches URLs of strangers can be made to read what only this machine sees: its own services, those of its
network, the credentials that clouds serve at fixed addresses. So the addresses of a name are checked, connections go only to
those that passed, and every redirect is checked again.
"""

import asyncio
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urljoin

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import AsyncResolver
from yarl import URL

from data_prep.fetch.states import BAD_URL, REFUSED_ADDRESS, REFUSED_SCHEME, NotAnImageError, RefusedAddressError

SCHEMES = ("http", "https")

_SPECIAL = [
    ip_network(network)
    for network in (
        # https://www.iana.org/assignments/iana-ipv4-special-registry, the anycast addresses of protocols included
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
        "224.0.0.0/4",  # multicast
        "168.63.129.16/32",  # Azure's metadata; those of the other clouds lie in the networks above, or outside _UNICAST
        # https://www.iana.org/assignments/iana-ipv6-special-registry, as far as it lies in _UNICAST
        "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
    )
]  # fmt: skip
"""Networks without web servers of the public. A table of our own, since `ipaddress` has another in each version of Python."""
_UNICAST = ip_network("2000::/3")
"""All that IANA has given to the public IPv6 internet."""
_LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
_NAT64 = ip_network("64:ff9b::/96")
_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[\da-f]*)\.?|.*:.*", re.IGNORECASE)
"""Hosts that programs take for an address, whatever `ip_address` says: `127.1`, `0`, `2130706433`, `0x7f.1`."""
_REMOVED = dict.fromkeys(map(ord, "\t\r\n"))  # as browsers do
_ABSOLUTE, _AUTHORITY = re.compile(r"[A-Za-z][A-Za-z\d+.-]*:"), re.compile(r"[^/]*//[^/?#]*")
_ESCAPED = re.compile(rb"[^!-~]")
_DNS_TIMEOUT, _DNS_TRIES = 5.0, 2
_CACHED_NAMES = 100_000

_Answer = tuple[list[ResolveResult], type[OSError] | None, str]  # an error is created for each caller


def is_allowed(address: str, allow_loopback: bool) -> bool:
    """Whether `address` belongs to the public internet, or to this machine where that is allowed; ValueError if it is none."""
    return all(_is_allowed(ip, allow_loopback) for ip in _meant(ip_address(address.partition("%")[0])))


def _is_allowed(ip: IPv4Address | IPv6Address, allow_loopback: bool) -> bool:
    if any(ip in network for network in _LOOPBACK):
        return allow_loopback
    return (ip.version == 4 or ip in _UNICAST) and not any(ip in network for network in _SPECIAL)


def _meant(ip: IPv4Address | IPv6Address) -> Sequence[IPv4Address | IPv6Address]:
    """The IPv4 addresses that an IPv6 address stands for, or else the address itself."""
    if isinstance(ip, IPv4Address):
        return [ip]
    if ip in _NAT64:
        return [IPv4Address(int(ip) & 0xFFFFFFFF)]
    embedded = ip.ipv4_mapped or ip.sixtofour
    return ip.teredo or [embedded or ip]


def parse(location: str, base: URL | None = None) -> URL:
    """The URL of a row, or of a redirect from `base`; NotAnImageError where it is broken or has another scheme.

    Path and query stay as they are, but for blanks and what is not ASCII: the owner of a URL may have signed its very bytes.
    """
    text = location.strip().translate(_REMOVED)
    try:
        if base and not _ABSOLUTE.match(text):
            text = urljoin(str(base), text)
        url = URL(text)
        host, _ = url.host, url.port  # reading a bad port raises
        if url.scheme in SCHEMES and host:
            url = URL(f"{url.scheme}://{url.raw_authority}{_target(text)}", encoded=True)
    except ValueError as error:
        raise NotAnImageError(BAD_URL, str(error)) from None
    if url.scheme not in SCHEMES:
        raise NotAnImageError(REFUSED_SCHEME if url.scheme else BAD_URL, location[:200])
    if not host:
        raise NotAnImageError(BAD_URL, location[:200])
    return url


def _target(url: str) -> str:
    """Path and query of an absolute URL, as they are sent."""
    rest = _AUTHORITY.sub("", url, count=1).partition("#")[0].encode("utf-8", "surrogateescape")
    escaped = _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], rest).decode()
    return escaped if escaped.startswith("/") else f"/{escaped}"


def check_literal(url: URL, allow_loopback: bool) -> None:
    """NotAnImageError where the host is an address that is not allowed, or resembles one: such hosts are never resolved."""
    assert url.host
    try:
        allowed = is_allowed(url.host, allow_loopback)
    except ValueError:
        if _NUMERIC.fullmatch(url.host):
            raise NotAnImageError(BAD_URL, f"{url.host} is neither a name nor an address") from None
        return
    if not allowed:
        raise NotAnImageError(REFUSED_ADDRESS, url.host)


class PublicResolver(AbstractResolver):
    """Resolves names to their allowed addresses; RefusedAddressError where they have only others.

    Answers, failures too, are cached for `ttl` seconds; concurrent requests for a name cause one query.
    """

    def __init__(self, nameservers: list[str], ttl: float, allow_loopback: bool) -> None:
        self._dns = AsyncResolver(nameservers=nameservers or None, timeout=_DNS_TIMEOUT, tries=_DNS_TRIES)
        self._ttl = ttl
        self._allow_loopback = allow_loopback
        self._answers: OrderedDict[tuple[str, int, int], tuple[float, asyncio.Task[_Answer]]] = OrderedDict()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The allowed addresses of `host`. OSError where it has none."""
        key = (host, port, family)
        until, answer = self._answers.get(key, (0.0, None))
        if answer is None or (answer.done() and time.monotonic() >= until):
            answer = asyncio.create_task(self._ask(host, port, family))
            self._answers[key] = (time.monotonic() + self._ttl, answer)
        self._answers.move_to_end(key)
        while len(self._answers) > _CACHED_NAMES:
            self._answers.popitem(last=False)
        await asyncio.wait({answer})  # a caller that is cancelled must not cancel the query of the others
        addresses, error, text = answer.result()
        if error is not None:
            raise error(text)
        return addresses

    async def _ask(self, host: str, port: int, family: socket.AddressFamily) -> _Answer:
        try:
            found = await self._dns.resolve(host, port, family)
        except OSError as error:
            return [], OSError, str(error.strerror or error)
        allowed = [result for result in found if is_allowed(result["host"], self._allow_loopback)]
        return allowed, None if allowed else RefusedAddressError, f"{host} has the address {found[0]['host']}"

    async def close(self) -> None:
        """Cancel all queries."""
        for _, answer in self._answers.values():
            answer.cancel()
        await asyncio.gather(*(answer for _, answer in self._answers.values()), return_exceptions=True)
        await self._dns.close()
