"""Finding corpora below a root, a web server's among them."""

import http.server
import itertools
from collections.abc import Iterator

import pytest

from bridgetower_train.data import cache
from bridgetower_train.errors import DataError
from data_prep.inspect import card
from data_prep.inspect.places import Place, find_corpora
from data_prep.shards.output import Output
from tests.hostile.attacks import attack
from tests.serving import serving


@pytest.fixture
def pages() -> Iterator[dict[str, Iterator[bytes]]]:
    """Path -> the parts of what a web server sends there; `url` is its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in answers:
                return self.send_error(404)
            self.send_response(200)
            self.end_headers()
            try:
                for part in answers[self.path]:
                    self.wfile.write(part)
            except ConnectionError:
                pass

        def log_message(self, *args: object) -> None:
            pass

    answers: dict = {}
    with serving(Handler) as server:
        answers["url"] = f"http://{server}"
        yield answers


def test_the_folders_of_a_web_server(pages):
    links = ("../", "a%20b/", "/data/c/", "c/?C=N;O=D", "?C=N", "notes.txt", "http://elsewhere/data/d/", "e/f/", "g/")
    pages["/data/"] = [b"".join(b'<a href="%b">x</a>' % link.encode() for link in links)]
    pages["/data/a%20b/"] = pages["/data/c/"] = [b"<A HREF='index.npy'>index.npy</A>"]
    pages["/data/g/"] = [b"<a href='photo.jpg'>"]
    url = f"{pages['url']}/data"
    assert find_corpora(url + "/") == [Place(url, "a%20b"), Place(url, "c")]
    assert find_corpora(url + "/c") == [Place(url, "c")]


@attack(34)
def test_a_page_that_never_ends_or_that_a_pattern_cannot_leave(pages, monkeypatch):
    pages["/data/"] = [b"<a" + b" " * 1_000_000 + b"href" + b" " * 1_000_000, b'<a href="c/">']
    pages["/data/c/"] = [b'<a href="0.tar">']
    assert find_corpora(f"{pages['url']}/data") == [Place(f"{pages['url']}/data", "c")]
    pages["/endless/"] = itertools.repeat(bytes(1 << 16))
    with pytest.raises(DataError, match=r"/endless/: has more than 16,777,216 bytes"):
        find_corpora(f"{pages['url']}/endless")


@attack(34)
def test_files_of_a_corpus_that_never_end(pages, monkeypatch):
    monkeypatch.setattr(cache, "RETRY_DELAYS", ())
    url = pages["url"]
    pages["/c/manifest.json"] = itertools.repeat(bytes(1 << 16))
    with pytest.raises(DataError, match=r"/c/manifest.json: "):
        card.describe(Place(url, "c"))
    with pytest.raises(ValueError, match=r"/c/manifest.json: has more than 67,108,864 bytes"):
        Output(url, "c").read("manifest.json")
