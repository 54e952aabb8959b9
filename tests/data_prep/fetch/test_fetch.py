"""Fetching from a server that does what the web does: the right state for each row, within limits, and nothing left behind."""

import asyncio
import gc
import itertools
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from name_server import name_server

from bridgetower_train.errors import ConfigError, UserError
from data_prep.fetch.config import FetchConfig
from data_prep.fetch.decoders import Decoders
from data_prep.fetch.images import WebImages, allow_open_files
from data_prep.fetch.states import NotAnImageError
from data_prep.source.image import prepare_jpeg
from data_prep.source.rows import OK, Outcome, Row
from tests.data_prep.fetch.fault_server import kinds, serve
from tests.hostile.attacks import attack
from tests.serving import serving

LOCAL = FetchConfig(allow_loopback=True, deadline=60, retries=2)
SIZE = 48


@pytest.fixture(scope="module")
def hosts(jpeg: bytes) -> Iterator[list[str]]:
    """Eight addresses of a hostile server; every image of it is `jpeg`."""
    with serve([jpeg], hosts=8) as urls:
        yield urls


def rows_of(urls: list[str]) -> Iterator[tuple[int, Row]]:
    for number, url in enumerate(urls):
        yield number, Row(f"{number:06d}", url, ["a caption"])


def fetch(urls: list[str], config: FetchConfig = LOCAL) -> list[Outcome]:
    """What becomes of each URL, in their order."""
    found = dict(WebImages(SIZE, 1, config).outcomes(rows_of(urls)))
    assert sorted(found) == list(range(len(urls)))
    return [found[number] for number in range(len(urls))]


def states(urls: list[str], config: FetchConfig = LOCAL) -> list[str]:
    return [outcome.state for outcome in fetch(urls, config)]


def left_behind() -> Counter[str]:
    """Threads, children and sockets of this process, but for the one thread that pycares keeps for all.

    Those of other tests may end meanwhile: what counts is what has come.
    """
    threads = [t.name for t in threading.enumerate() if "_run_safe_shutdown_loop" not in t.name]
    me = psutil.Process()
    sockets = [f"socket {c.laddr} {c.raddr}" for c in me.net_connections("all") if c.raddr]
    return Counter([*threads, *(f"process {c.pid}" for c in multiprocessing.active_children()), *sockets])


@attack(22)
@attack(24)
@attack(27)
@attack(28)
@attack(30)
@attack(33)
def test_every_row_ends_in_its_one_state(hosts: list[str], jpeg: bytes) -> None:
    known = kinds()
    urls = [f"{hosts[i % 8]}/{name}/{i}" for i, name in enumerate(name for name in known for _ in range(8))]
    slow = [url for url in urls if known[url.split("/")[3]].state == "timeout"]
    before = left_behind()
    outcomes = dict(zip(slow, fetch(slow, replace(LOCAL, deadline=2)), strict=True))
    rest = [url for url in urls if url not in outcomes]
    outcomes |= zip(rest, fetch(rest), strict=True)
    assert not left_behind() - before
    wanted = prepare_jpeg(jpeg, SIZE)
    for url, outcome in outcomes.items():
        kind = known[url.split("/")[3]]
        assert outcome.state in {kind.state, kind.or_state}, (url, outcome)
        assert outcome.jpeg == (wanted if outcome.state == OK else b"")
        if outcome.state == OK:
            assert outcome.meta == {"sha256": sha256(jpeg).hexdigest(), "width": 72, "height": 64}


@attack(22)
@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("file:///etc/passwd", "refused scheme"),
        ("ftp://127.0.0.1/x.jpg", "refused scheme"),
        ("data:image/gif;base64,R0lGOD", "refused scheme"),
        ("pipe:cat /etc/passwd", "refused scheme"),
        ("", "bad url"),
        ("no url at all", "bad url"),
        ("http://", "bad url"),
        ("http://[::1/x.jpg", "bad url"),
        ("http://127.0.0.1:99999999/x.jpg", "bad url"),
        ("http://a..b/x.jpg", "dns"),
        ("http://\ud800.example/x.jpg", "bad url"),
        ("http://nowhere.invalid/x.jpg", "dns"),
        ("http://10.0.0.1/x.jpg", "refused address"),
        ("http://[fe80::1%25lo]/x.jpg", "refused address"),
        *(
            (f"http://{host}:1/x.jpg", "bad url")
            for host in ("0", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1.")
        ),
    ],
)
def test_urls_that_are_none_or_lead_elsewhere(url: str, state: str) -> None:
    with name_server(lambda *_: []) as (server, _):
        assert states([url], replace(LOCAL, nameservers=[server])) == [state]


def test_this_machine_is_refused_unless_it_is_allowed(hosts: list[str]) -> None:
    port = hosts[0].rpartition(":")[2]
    urls = [hosts[0] + "/ok/1", f"http://localhost:{port}/ok/2", f"http://[::ffff:127.0.0.1]:{port}/ok/3"]
    assert states(urls) == [OK] * 3
    assert states(urls, FetchConfig()) == ["refused address"] * 3


@attack(25)
def test_a_name_is_judged_by_the_address_it_is_connected_to(hosts: list[str]) -> None:
    port = hosts[0].rpartition(":")[2]

    def addresses(name: str, before: int) -> list[str] | None:
        return {
            "inside.example": ["10.1.2.3"],
            "both.example": ["169.254.169.254", "127.0.0.1"],
            "gone.example": [],
            "mute.example": None,
        }.get(name, ["192.0.2.1"] if before == 0 else ["127.0.0.1"])

    with name_server(addresses) as (server, asked):
        config = replace(LOCAL, nameservers=[server])
        urls = [f"http://{name}.example:{port}/ok/1" for name in ("inside", "both", "gone", "mute")]
        assert states(urls[:3], config) == ["refused address", OK, "dns"]
        (mute,) = states(urls[3:], replace(config, deadline=1))
        assert mute in ("dns", "timeout")  # the resolver gives up after a time that it learns from other answers
        # First a public address, so that it passes, then this machine: who judges and then asks again connects here.
        config = replace(config, allow_loopback=False, dns_ttl=0, connect_timeout=0.3)
        (outcome,) = fetch([f"http://rebound.example:{port}/ok/1"], config)
        assert outcome.state in ("refused address", "connection", "timeout")
        assert asked["rebound.example"] >= 1


def test_a_name_is_asked_for_once(hosts: list[str]) -> None:
    port = hosts[0].rpartition(":")[2]
    with name_server(lambda name, _: [] if name == "gone.example" else ["127.0.0.1"]) as (server, asked):
        names = ["gone.example", "here.example"] * 40
        found = states([f"http://{name}:{port}/ok/1" for name in names], replace(LOCAL, nameservers=[server]))
    assert found == ["dns", OK] * 40
    assert asked == {"gone.example": 1, "here.example": 1}


@attack(26)
def test_neither_credentials_nor_cookies_travel_on_and_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization"), self.headers.get("Cookie")))
            self.send_response(302 if self.path == "/start" else 404)
            self.send_header("Location", f"http://127.0.0.2:{server.server_port}/end")
            self.send_header("Set-Cookie", "session=1; Path=/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    asked: list[tuple[str, str | None, str | None]] = []
    with ThreadingHTTPServer(("", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert states([f"http://me:secret@127.0.0.1:{server.server_port}/start"] * 2) == ["404"] * 2
        server.shutdown()
    basic = "Basic bWU6c2VjcmV0"
    assert Counter(asked) == {("/start", basic, None): 2, ("/end", None, None): 2}


def test_the_bytes_of_a_url_arrive(jpeg: bytes) -> None:
    """Servers that sign paths and queries compare them byte by byte."""
    signed = "/a%3Ab%27%40%2C/c?x=%27%2C%3a&y=a+b"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            redirected = self.path == "/start%2C"
            self.send_response(302 if redirected else 200 if self.path == signed else 403)
            self.send_header("Location", signed)
            self.send_header("Content-Length", str(len(jpeg)))
            self.end_headers()
            self.wfile.write(jpeg)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as host:
        assert states([f"http://{host}{signed}", f"http://{host}/start%2C"]) == [OK] * 2


def test_a_image_must_be_the_published_one(hosts: list[str], jpeg: bytes) -> None:
    digests = [f"sha256:{sha256(jpeg).hexdigest()}", f"sha256:{64 * '0'}", ""]
    rows = ((n, Row(str(n), f"{hosts[0]}/ok/{n}", [], digest=digest)) for n, digest in enumerate(digests))
    assert {n: o.state for n, o in WebImages(SIZE, 1, LOCAL).outcomes(rows)} == {0: OK, 1: "hash mismatch", 2: OK}


def test_limits_are_keys(hosts: list[str], jpeg: bytes) -> None:
    one = [hosts[0] + "/ok/1"]
    assert states(one, replace(LOCAL, max_bytes=len(jpeg))) == [OK]
    assert states(one, replace(LOCAL, max_bytes=len(jpeg) - 1)) == ["too large"]
    assert states(one, replace(LOCAL, min_edge=65)) == ["too small"]
    assert states([hosts[0] + "/redirect/1"], replace(LOCAL, redirects=0)) == ["too many redirects"]
    assert states([hosts[0] + "/once_503/1001"], replace(LOCAL, retries=0)) == ["503"]


def test_a_slow_host_holds_up_no_other(hosts: list[str]) -> None:
    slow = [f"{hosts[0]}/silent/{n}" for n in range(12)]
    fast = [f"{hosts[1 + n % 7]}/ok/{n}" for n in range(200)]
    config = replace(LOCAL, in_flight=4, per_host=2, deadline=300)
    with closing(WebImages(SIZE, 1, config).outcomes(rows_of(slow + fast))) as outcomes:  # type: ignore[type-var]
        assert sorted(number for number, _ in itertools.islice(outcomes, 200)) == list(range(12, 212))


def test_no_more_connections_to_a_host_than_allowed(hosts: list[str]) -> None:
    config = replace(LOCAL, per_host=3, retries=0)  # a retry has a new connection, beside those that wait for more work
    most, me, server = 0, psutil.Process(), urlsplit(hosts[0])
    for _ in WebImages(SIZE, 1, config).outcomes(rows_of([f"{hosts[0]}/late/{n}" for n in range(12)])):
        open_now = [c for c in me.net_connections("tcp4") if c.raddr == (server.hostname, server.port)]
        most = max(most, sum(c.status == "ESTABLISHED" for c in open_now))
    assert 0 < most <= 3


@contextmanager
def most_memory() -> Iterator[list[int]]:
    """Bytes by which this process has grown since the block began, seen again and again while it runs."""
    me, done = psutil.Process(), threading.Event()
    before, seen = me.memory_info().rss, [0]

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(me.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


@attack(27)
def test_memory_is_bounded_however_much_is_sent(hosts: list[str]) -> None:
    config = replace(LOCAL, in_flight=64, max_bytes=16 << 20, memory_mb=24, deadline=300)
    urls = [f"{hosts[n % 8]}/{kind}/{n}" for n in range(32) for kind in ("endless", "five_gigabytes")]
    fetch(urls[:2], config)
    with most_memory() as most:
        assert states([url.replace("five_gigabytes", "endless") for url in urls], config) == ["too large"] * 64
    assert max(most) < 400e6, "64 images of 16 MiB would be a gigabyte"


@attack(28)
@pytest.mark.parametrize("kind", ["endless_headers", "endless_trailers", "endless_line"])
def test_memory_is_bounded_however_long_the_headers_are(hosts: list[str], kind: str) -> None:
    config = replace(LOCAL, retries=0)
    fetch([f"{hosts[0]}/{kind}/0"], config)
    with most_memory() as most:
        assert set(states([f"{host}/{kind}/1" for host in hosts], config)) <= {"bad response", "truncated"}
    assert max(most) < 100e6


@pytest.mark.parametrize("kind", ["404", "to_file", "reset", "longer", "drip"])
def test_an_error_is_freed_without_a_search_for_garbage(hosts: list[str], kind: str) -> None:
    gc.collect()
    gc.disable()
    try:
        assert states([f"{host}/{kind}/1" for host in hosts], replace(LOCAL, deadline=2)) == [kinds()[kind].state] * 8
        assert not [found for found in gc.get_objects() if type(found) is NotAnImageError]
    finally:
        gc.enable()


def test_searches_for_garbage_are_rare_only_meanwhile(hosts: list[str]) -> None:
    usual = gc.get_threshold()
    outcomes = WebImages(SIZE, 1, LOCAL).outcomes(rows_of([hosts[0] + "/404/1", hosts[0] + "/404/2"]))
    next(outcomes)
    assert gc.get_threshold()[0] > usual[0]
    outcomes.close()  # type: ignore[attr-defined]
    assert gc.get_threshold() == usual


def busy_host(jpeg: bytes, asked: list[float], busy: int, wait: int) -> Callable[..., Any]:
    """Answers its first `busy` requests with 429 and `Retry-After: wait`; `asked` gets the time of each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            self.send_response(429 if len(asked) <= busy else 200)
            self.send_header("Retry-After", str(wait))
            self.send_header("Content-Length", str(len(jpeg)))
            self.end_headers()
            self.wfile.write(jpeg)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def test_a_host_that_asks_to_wait_is_left_alone_and_then_gives_its_images(hosts: list[str], jpeg: bytes) -> None:
    asked: list[float] = []
    with serving(busy_host(jpeg, asked, busy=3, wait=5)) as host:
        rows = [f"http://{host}/{n}.jpg" for n in range(12)]
        config = replace(LOCAL, per_host=3, retries=1, deadline=4, in_flight=6)
        others = [f"{hosts[1 + n % 7]}/404/{n}" for n in range(20)]
        ended = [number for number, _ in WebImages(SIZE, 1, config).outcomes(rows_of(rows + others))]
        assert sorted(ended[:20]) == list(range(12, 32)), "other hosts do not wait"
        assert len(asked) == 15
        assert asked[3] - max(asked[:3]) > 4.9
        del asked[:]
        assert states(rows[:1], replace(config, retries=0)) == ["429"]
        assert len(asked) == 1


def test_a_host_that_asks_to_wait_for_long_costs_its_url(jpeg: bytes) -> None:
    asked: list[float] = []
    with serving(busy_host(jpeg, asked, busy=1, wait=86_400)) as host:
        config = replace(LOCAL, per_host=1, retry_after=1.0)
        assert states([f"http://{host}/{n}.jpg" for n in range(3)], config) == ["429", OK, OK]
    assert len(asked) == 3
    assert asked[1] - asked[0] > 0.95


def test_who_takes_slowly_slows_the_fetching(hosts: list[str]) -> None:
    taken = 0

    def rows() -> Iterator[tuple[int, Row]]:
        nonlocal taken
        for item in rows_of([f"{hosts[n % 8]}/ok/{n}" for n in range(500)]):
            taken += 1
            yield item

    with closing(WebImages(SIZE, 1, replace(LOCAL, in_flight=8, ahead=20)).outcomes(rows())) as outcomes:
        for _ in itertools.islice(outcomes, 10):
            pass
        time.sleep(0.3)
        assert taken <= 30


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_ends_everything_at_once(hosts: list[str], taken: int) -> None:
    before = left_behind()
    urls = [f"{hosts[n % 8]}/{'drip' if n % 2 else 'ok'}/{n}" for n in range(100)]
    outcomes = WebImages(SIZE, 2, replace(LOCAL, deadline=600)).outcomes(rows_of(urls))
    for _ in range(taken):
        next(outcomes)
    start = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 120, "it waited for the images"
    assert not left_behind() - before


def test_an_error_in_the_rows_ends_everything_too(hosts: list[str]) -> None:
    def rows() -> Iterator[tuple[int, Row]]:
        yield from rows_of([hosts[0] + "/ok/1"])
        raise KeyError("a broken table")

    before = left_behind()
    with pytest.raises(KeyError, match="a broken table"):
        list(WebImages(SIZE, 1, LOCAL).outcomes(rows()))
    assert not left_behind() - before


def test_a_killed_decoder_costs_nothing(hosts: list[str]) -> None:
    urls = [f"{hosts[n % 8]}/ok/{n}" for n in range(60)]
    found, others = [], set(multiprocessing.active_children())
    for number, outcome in WebImages(SIZE, 2, LOCAL).outcomes(rows_of(urls)):
        if number % 20 == 0:
            while not (decoders := set(multiprocessing.active_children()) - others):
                time.sleep(0.01)  # both died, and are being replaced
            os.kill(decoders.pop().pid, signal.SIGKILL)
        found.append(outcome.state)
    assert found == [OK] * 60


def deadly(content: bytes, encoding: str, digest: str) -> Outcome:
    if content == b"deadly":
        os._exit(7)
    return Outcome(OK, content.decode())


@pytest.mark.parametrize("turns", range(8))
def test_no_decoder_is_left_whenever_one_leaves(turns: int) -> None:
    before = left_behind()

    async def run() -> None:
        async with Decoders(deadly, 1):
            while not left_behind() - before:  # the process begins
                await asyncio.sleep(0.001)
            for _ in range(turns):
                await asyncio.sleep(0)

    asyncio.run(run())
    assert not left_behind() - before


def test_a_image_that_kills_two_decoders_is_the_only_one_to_suffer() -> None:
    async def run() -> list[Outcome]:
        async with Decoders(deadly, 2) as decoders:
            contents = [b"deadly" if n in (3, 4, 17) else b"%d" % n for n in range(30)]
            return await asyncio.gather(*(decoders.decode(content, "", "") for content in contents))

    for number, outcome in enumerate(asyncio.run(run())):
        dead = number in (3, 4, 17)
        assert outcome == (Outcome("decoder died", "exit code 7") if dead else Outcome(OK, str(number)))


def endless(content: bytes, encoding: str, digest: str) -> Outcome:
    while content == b"endless":
        pass
    time.sleep(1 if content == b"stalled" else 0)  # does not compute: another process has the core
    return Outcome(OK, content.decode())


@attack(31)
def test_a_image_that_takes_too_long_ends_its_decoder_and_is_the_only_one_to_suffer() -> None:
    async def run() -> list[Outcome]:
        async with Decoders(endless, 2, seconds=0.3) as decoders:
            contents = [{3: b"endless", 4: b"stalled", 9: b"endless"}.get(n, b"%d" % n) for n in range(12)]
            return await asyncio.gather(*(decoders.decode(content, "", "") for content in contents))

    outcomes = asyncio.run(run())
    assert [outcome.state for outcome in outcomes] == ["decoder timed out" if n in (3, 9) else OK for n in range(12)]
    assert outcomes[3].detail == "over 0.3 s of a core"


def test_silence_of_all_hosts_is_the_fault_of_this_machine(hosts: list[str]) -> None:
    dead = [f"http://127.9.{n // 250}.{n % 250 + 1}:1/x.jpg" for n in range(1100)]
    recorded: list[Any] = []
    # One at a time, and the one that is alive has nothing to decode: so the dead ones come after it.
    outcomes = WebImages(SIZE, 1, replace(LOCAL, in_flight=1)).outcomes(rows_of([hosts[0] + "/404/1", *dead]))
    with pytest.raises(UserError, match="1,000 hosts in a row gave no answer"):
        recorded.extend(outcomes)
    assert [outcome.state for _, outcome in recorded] == ["404"]
    assert states(dead[:200]) == ["connection"] * 200


def test_the_limit_of_open_files_is_raised_or_named() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
        allow_open_files(1000)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1756
        if hard != resource.RLIM_INFINITY:
            with pytest.raises(ConfigError, match=r"fetch\.in_flight=.*raise `ulimit -n`, or set fetch\.in_flight="):
                allow_open_files(hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_travels_to_other_processes(hosts: list[str]) -> None:
    images: Any = pickle.loads(pickle.dumps(WebImages(SIZE, 1, LOCAL)))
    ((_, outcome),) = images.outcomes(rows_of([hosts[0] + "/ok/1"]))
    assert (outcome.state, outcome.detail) == (OK, "")


@pytest.mark.parametrize(("name", "value"), [("in_flight", 0), ("deadline", 0), ("ahead", 5), ("retries", -1)])
def test_a_wrong_key_is_named(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"fetch.{name}={value}"):
        FetchConfig(**{name: value})
