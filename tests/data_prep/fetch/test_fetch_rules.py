"""Which addresses may be fetched from, and what X-Robots-Tag says."""

import pytest

from data_prep.fetch.addresses import is_allowed
from data_prep.fetch.robots import opted_out


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "0.0.0.0"),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "168.63.129.16"),
        *("fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::", "2001:db8::1"),
        *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1"),
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo, of 10.0.0.1
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_allowed(address, False)
    assert not is_allowed(address, True)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_allowed(address, False)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"])
def test_loopback_only_where_it_is_allowed(address: str) -> None:
    assert (is_allowed(address, False), is_allowed(address, True)) == (False, True)


@pytest.mark.parametrize(
    ("headers", "directive"),
    [
        ([], ""),
        (["all", "max-snippet: 20, max-image-preview: large"], ""),
        (["NoAI"], "noai"),
        (["nofollow, noimageai"], "noimageai"),
        (["nofollow", "none"], "none"),
        (["otherbot: noai, noindex"], ""),
        (["otherbot: nofollow", "noindex"], "noindex"),
        (["otherbot: noai, bridgetower-train: noindex"], "noindex"),
        (["*: noai"], "noai"),
        (["unavailable_after: 25 Jun 2026 15:00:00 PST, noai"], "noai"),
    ],
)
def test_directives_for_everyone_and_for_us(headers: list[str], directive: str) -> None:
    assert opted_out(headers) == directive
