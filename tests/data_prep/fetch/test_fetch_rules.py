"""Which addresses may be fetched from, and what X-Robots-Tag says."""

import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from data_prep.fetch.addresses import is_allowed, parse
from data_prep.fetch.robots import opted_out
from tests.hostile.attacks import attack


@pytest.fixture(autouse=True)
def _without_the_table_of_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (IPv4Address, IPv6Address):
        for name in [name for name in dir(kind) if name.startswith("is_")]:
            monkeypatch.delattr(kind, name)


@attack(22)
@attack(23)
@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "0.0.0.0"),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "168.63.129.16"),
        *("192.0.0.9", "192.0.0.192", "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "203.0.113.1"),
        *("3fff::1", "3fff:fff:ffff::1", "2001:2::1", "2001:20::1", "2620:4f:8000::1", "5f00::1", "100::1", "4000::1"),
        *("64:ff9b:1::8.8.8.8", "64:ff9b::192.0.0.192", "::ffff:0:8.8.8.8", "2002:c058:6301::1", "fd20:ce::254"),
        *("fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::", "2001:db8::1"),
        *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1"),
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo, of 10.0.0.1
        "2001:0:a00:1:8000:63bf:f7f7:f7f7",  # Teredo, of 8.8.8.8 by way of 10.0.0.1
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_allowed(address, False)
    assert not is_allowed(address, True)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "192.0.1.1", "2606:4700::1111", "2001:200::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1"],
)
def test_public_addresses(address: str) -> None:
    assert is_allowed(address, False)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"])
def test_loopback_only_where_it_is_allowed(address: str) -> None:
    assert (is_allowed(address, False), is_allowed(address, True)) == (False, True)


SIGNED = "/a%3Ab%27%40%2C%7E/c%2Fd;e='f'?x=%27%2C%3a&y=a+b%20c&url=http%3A%2F%2Fh"
"""Path and query of which `yarl.URL` changes something."""


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        (SIGNED, SIGNED),
        (f"{SIGNED}#part%3A \n", SIGNED),
        ("", "/"),
        ("?x=1", "/?x=1"),
        ("/100%/a b\tc|d", "/100%/a%20bc|d"),
        ("/caf\u00e9 x?q=\u732b", "/caf%C3%A9%20x?q=%E7%8C%AB"),
        ("/a\x00b\x7f", "/a%00b%7F"),
        ("/x/../y", "/x/../y"),
    ],
)
def test_a_url_is_sent_as_it_is(location: str, sent: str) -> None:
    assert parse(f"http://me:s%40c@example.org:81{location}").raw_path_qs == sent
    assert parse(f"HTTPS://EXAMPLE.org{location}").raw_path_qs == sent
    url = parse(f"http://b\u00fccher.example{location}")
    assert (url.raw_host, url.raw_path_qs) == ("xn--bcher-kva.example", sent)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (SIGNED, f"http://a.example{SIGNED}"),
        ("f%3Ag?%27", "http://a.example/c%3Ad/f%3Ag?%27"),
        ("?x=%2C", "http://a.example/c%3Ad/e?x=%2C"),
        (f"//b.example{SIGNED}", f"http://b.example{SIGNED}"),
        (f"https://b.example{SIGNED}", f"https://b.example{SIGNED}"),
        ("caf\udce9", "http://a.example/c%3Ad/caf%E9"),  # a byte that is not UTF-8, as aiohttp gives it
    ],
)
def test_a_redirect_is_followed_as_it_is(location: str, target: str) -> None:
    assert str(parse(location, parse("http://a.example/c%3Ad/e?x=1"))) == target


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


@attack(29)
def test_the_lowest_allowed_aiohttp_limits_the_number_of_headers() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    (aiohttp,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "aiohttp")
    assert "3.13.4" in aiohttp.specifier
    assert "3.13.3" not in aiohttp.specifier
