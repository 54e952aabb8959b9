"""Which URLs may be fetched: http and https to public addresses, whatever the notation in the URL or the answer of the DNS.

A program that fetches URLs of strangers can be made to read what only this machine sees: its own services, those of its
network, the credentials that clouds serve at fixed addresses. So the addresses of a name are checked, connections go only to
those that passed, and every redirect is checked again.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import AsyncResolver
from yarl import URL

from data_prep.fetch.states import BAD_URL, REFUSED_ADDRESS, REFUSED_SCHEME, NotAnImageError, RefusedAddressError

SCHEMES = ("http", "https")

_NAT64 = ip_network("64:ff9b::/96")
_CLOUD = ip_address("168.63.129.16")  # Azure's, the only metadata service among the public addresses
_DNS_TIMEOUT, _DNS_TRIES = 5.0, 2
_CACHED_NAMES = 100_000

_Answer = tuple[list[ResolveResult], type[OSError] | None, str]  # an error is created for each caller


def is_allowed(address: str, allow_loopback: bool) -> bool:
    """Whether `address` (an IP address) belongs to the public internet, or to this machine where that is allowed."""
    ip = _innermost(ip_address(address.partition("%")[0]))
    if ip.is_loopback:
        return allow_loopback
    special = ip.is_multicast or ip.is_reserved or ip.is_link_local or (ip.version == 6 and ip.is_site_local)
    return ip.is_global and not special and ip != _CLOUD


def _innermost(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, if any."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)


def parse(location: str, base: URL | None = None) -> URL:
    """The URL of a row, or of a redirect from `base`; NotAnImageError where it is broken or has another scheme."""
    try:
        given = URL(location.strip())
        url = base.join(given) if base and not given.scheme else given
        host, _ = url.host, url.port  # reading a bad port raises
    except ValueError as error:
        raise NotAnImageError(BAD_URL, str(error)) from None
    if url.scheme not in SCHEMES:
        raise NotAnImageError(REFUSED_SCHEME if url.scheme else BAD_URL, location[:200])
    if not host:
        raise NotAnImageError(BAD_URL, location[:200])
    return url.with_fragment(None)


def check_literal(url: URL, allow_loopback: bool) -> None:
    """NotAnImageError where the host is an address that is not allowed: such hosts are never resolved."""
    assert url.host
    try:
        allowed = is_allowed(url.host, allow_loopback)
    except ValueError:
        return  # a name
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
