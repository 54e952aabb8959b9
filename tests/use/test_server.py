"""The search page that `bridgetower search serve=` opens: over HTTP, and in a browser."""

import asyncio
import http.client
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import bridgetower_train as bt
from bridgetower_train.cli import main
from bridgetower_train.errors import UserError
from bridgetower_train.pages.search.server import MAX_UPLOAD, application, listen
from bridgetower_train.pages.search.view import view
from bridgetower_train.use.index import open_index
from bridgetower_train.use.search import Search
from bridgetower_train.use.sources import FolderImages
from tests.hostile.attacks import attack
from tests.pages.conftest import chromium, open_page

__all__ = ["chromium", "open_page"]


@contextmanager
def served(search, host="127.0.0.1", rerank=0):
    """The port of the page, in a thread."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    found = []

    async def run():
        runner, address = await listen(application(search, host, 4, rerank, 4), "127.0.0.1", 0)
        found.extend([runner, int(address.rpartition(":")[2])])
        started.set()

    def work():
        loop.run_until_complete(run())
        loop.run_forever()
        loop.run_until_complete(found[0].cleanup())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield found[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)


@pytest.fixture(scope="module")
def search(trained_run, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("index") / "photos.parquet"
    assert main(["embed", f"run_dir={trained_run}", "device=cpu", f"images={photos}", f"out={out}"]) == 0
    return Search(bt.load(trained_run, "cpu"), open_index(out), FolderImages(str(photos)))


@pytest.fixture(scope="module")
def port(search):
    with served(search, rerank=2) as port:
        yield port


def ask(port, path="/", body=None, method=None, **headers):
    """(status, text, headers) of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
    method = method or ("GET" if body is None else "POST")
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def upload(data: bytes, name: str = "a.jpg") -> dict:
    """The body and the header of a form with a file."""
    head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    return {"body": head + data + b"\r\n--x--\r\n", "Content_Type": "multipart/form-data; boundary=x"}


def test_texts_and_images_are_searched_for(port, photos):
    status, page, headers = ask(port)
    assert (status, page.count("<form"), page.count("<img")) == (200, 2, 0)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "'unsafe-inline'" not in headers["Content-Security-Policy"].partition("script-src")[2]
    status, page, _ = ask(port, "/?text=a+red+%3Cring%3E")
    assert status == 200
    assert page.count("<figure") == 4
    assert page.count(" · match ") == 2
    assert "a red &lt;ring&gt;" in page
    assert "not measured; bridgetower eval matching" in page
    status, page, _ = ask(port, **upload((photos / "3.jpg").read_bytes(), "<b>.jpg"))
    assert status == 200
    assert "similarity 1.000" in page
    assert "&lt;b&gt;.jpg" in page
    assert " · match " not in page


@attack(80)
def test_what_is_no_search_is_refused(port, photos, search):
    for path in ("/photos/1.jpg", "/../etc/hostname", "/%2e%2e/etc/hostname", "//etc/hostname", "/static"):
        assert ask(port, path)[0] == 404
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        assert ask(port, Host=name)[0] in (400, 403)
    for name in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert ask(port, Host=name)[0] == 200
    image = upload((photos / "3.jpg").read_bytes())
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        assert ask(port, Origin=origin, **image)[0] == 403
    assert ask(port, Origin=f"http://127.0.0.1:{port}", Host=f"127.0.0.1:{port}", **image)[0] == 200
    assert ask(port, f"/?text={'a' * 2001}")[0] == 400
    assert ask(port, f"/?text={'a' * 20_000}")[0] == 400
    assert ask(port, method="DELETE")[0] == 405
    status, page, _ = ask(port, **upload(b"\xff\xd8\xff\xe0 broken <script>"))
    assert (status, "not an image" in page) == (400, True)
    assert ask(port, **upload(bytes(MAX_UPLOAD + 1)))[0] == 413
    assert ask(port, body=b"x", Content_Type="text/plain")[0] == 415
    assert ask(port, body=b"--x--\r\n", Content_Type="multipart/form-data; boundary=x")[0] == 400
    assert ask(port)[0] == 200
    with served(search, host="search.lan") as other:
        assert ask(other, Host="search.lan")[0] == 200


def test_a_port_that_is_taken_is_named(search, port):
    with pytest.raises(UserError, match=rf"serve={port}: .*choose another port"):
        asyncio.run(listen(application(search, "127.0.0.1", 4, 0, 4), "127.0.0.1", port))


def test_the_page_works_in_a_browser(chromium, port, photos):
    from selenium.webdriver.support.ui import WebDriverWait

    chromium.set_window_size(1200, 900)
    chromium.get(f"http://127.0.0.1:{port}/")
    field = chromium.find_element("css selector", "input[type=search]")
    field.send_keys("a red ring\n")
    WebDriverWait(chromium, 100).until(lambda browser: "a red ring" in browser.title)
    images = chromium.find_elements("css selector", ".hits img")
    assert len(images) == 8
    assert all(image.get_property("naturalWidth") for image in images)
    assert "Search for" in chromium.find_element("css selector", "body").text
    chromium.find_element("css selector", "input[type=file]").send_keys(str(Path(photos / "3.jpg").resolve()))
    chromium.find_elements("css selector", ".search button")[1].click()
    WebDriverWait(chromium, 100).until(lambda browser: "3.jpg" in browser.title)
    assert "similarity 1.000" in chromium.find_element("css selector", ".hits").text
    assert [line for line in chromium.get_log("browser") if "favicon" not in str(line)] == []


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_fits_any_width(search, open_page, tmp_path, width, scheme):
    from bridgetower_train.pages.search.page import search_form, search_page

    query = search.query("a red ring " * 8)
    path = tmp_path / "page.html"
    path.write_text(search_page(view(search, query, search.find(query, 10, 2)), search_form(True, query.text)))
    page = open_page(path, width, scheme)
    assert all(value.rect["width"] > 200 for value in page.find_elements("css selector", "dd"))
    edges = [field.rect["x"] + field.rect["width"] for field in page.find_elements("css selector", ".search *")]
    assert max(edges) < width - 15  # the margin is 16


def test_what_cannot_be_shown_is_said(search, tmp_path):
    lost = Search(search.model, search.index, FolderImages(str(tmp_path)))
    query = lost.query("a ring")
    hits = view(lost, query, lost.find(query, 3)).hits
    assert all(hit.image is None and hit.fault for hit in hits)
    assert np.isfinite([hit.similarity for hit in hits]).all()
    assert torch.is_tensor(search.seen(search.find(query, 1)[0]))
